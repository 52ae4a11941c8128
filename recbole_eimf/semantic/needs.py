"""What a run will read beside its interactions, looked at by keys and files alone, before any data are loaded.

A file that is not there and a key that is not set are found here, and nowhere else; what is wrong *inside* a file of
replies is said where it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recbole_eimf.config import keys
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.config.maker import is_own
from recbole_eimf.config.parts import part_of
from recbole_eimf.core.errors import ConfigError, DataError, UserError
from recbole_eimf.core.parts import require
from recbole_eimf.data.item_text import check_item_text
from recbole_eimf.semantic import export, knowledge_export
from recbole_eimf.semantic.encoders.build import check_encoder
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings
from recbole_eimf.semantic.journal import journal_of, read_journal
from recbole_eimf.semantic.llm.access import ASKERS, check_address, read_key
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.sources import batch, own

#: file -> the only source of interests that reads it
_READERS = {"interest_file": "file", "assignment_file": "file", "batch_file": "batch"}
#: key -> what it holds where a model reads an LLM's knowledge of items by it
_ASK_KNOWLEDGE = {"item_text_source": "profile", "interest_match": "profile", "vector_graph": "next",
                  "score_prior": "next|previous|both|all", "experts": "next"}  # fmt: skip


def needed(config) -> tuple[str | None, bool]:
    """What is attached to the training part: ``"interests"``, ``"text"`` or None; whether what is bought next is too.

    A saved model is scored without either; only ``place_unseen`` reads items' text for it.
    """
    if config["inference_only"]:
        return "text" if config["place_unseen"] else None, False
    asked = contract_of(config.model_class)
    return asked.needs_side_information(config), asked.needs_next_items(config)


def check_needs(config) -> None:
    """Check that what a configuration's run will read is there.

    Raises:
        UserError: a file that is not there or is not named, a column of item text or a text encoder that is not there,
            an API key that is not set; names key, value and remedy.
    """
    need, follows = needed(config)
    if not need:
        return
    wanted = keys.read(SemanticSettings, config)
    check_no_file_in_the_way("semantic_cache", wanted.semantic_cache)
    check_text(config)
    if need == "interests":
        check_interest_source(wanted, config["dataset"])
    check_knowledge_file(wanted)
    if reads_knowledge(wanted, follows):
        check_knowledge_source(wanted, config["dataset"], partial(asking_for_knowledge, config))
    check_text_encoder(wanted)


def check_text_encoder(settings: SemanticSettings) -> None:
    """Raise UserError where ``text_encoder`` names none that can be had here. A model of the hub may be asked for."""
    check_encoder(part_of(EncoderSettings, settings))


def check_text(config) -> None:
    """Raise DataError where a data set lacks item text, or a column of it that ``text_fields`` names."""
    folder, name = Path(config["data_path"]), config["dataset"]
    if (folder / f"{name}.inter").is_file():  # else it is yet to be downloaded
        fields = keys.read(SemanticSettings, config).text_fields
        check_item_text(
            folder / f"{name}.item", config["ITEM_ID_FIELD"], fields, config["field_separator"], config["encoding"]
        )


def check_path(key: str, value: str | None) -> None:
    """Raise DataError where a key names a file that is not there."""
    if value and Path(value).is_dir():
        raise DataError(f"{key}={value}: a folder, where a file is needed. Name the file in it.")
    if value and not Path(value).is_file():
        raise DataError(f"{key}={value}: no such file. Mend the path.")


def check_no_file_in_the_way(key: str, value: str) -> None:
    """Raise DataError where what a key names as a folder is, or lies under, a file."""
    for path in (Path(value), *Path(value).parents):
        if path.exists():
            if not path.is_dir():
                under = "" if path == Path(value) else f"{path} is "
                raise DataError(f"{key}={value}: {under}a file, where a folder is needed. Name another folder.")
            return


def check_endpoint(settings: SemanticSettings, journal: Path, source: str = "interest_source") -> None:
    """Check that an endpoint can be asked, unless its journal answers something: it may answer all there is to ask.

    Which prompts are left is known once the data are loaded; :func:`recbole_eimf.semantic.sources.endpoint.ask` wants
    a key then if there are any.

    Raises:
        UserError: no client installed, no API key, a damaged journal.
    """
    wanted = part_of(OpenAISettings, settings)
    check_address(wanted.base_url)
    try:
        require("openai")
        read_key(wanted, ASKERS[source])
    except UserError:
        if not any(entry.ok for entry in read_journal(journal, wanted.model).values()):
            raise


# ---------------------------------------------------------------------- interests of users
def source_of_replies(settings: SemanticSettings) -> str:
    """Where replies about users come from; of the placebo, what it shuffles."""
    if settings.interest_source != "shuffled":
        return settings.interest_source
    return settings.shuffled_source or ("file" if settings.interest_file else "keywords")


def said_source(settings: SemanticSettings) -> str:
    """The key and value that say where replies about users come from."""
    key = "shuffled_source" if settings.interest_source == "shuffled" else "interest_source"
    return f"{key}={source_of_replies(settings)}"


def check_unread_files(settings: SemanticSettings) -> None:
    """Raise ConfigError for a file of replies that the source does not read: it would be ignored without a word."""
    source, said = source_of_replies(settings), said_source(settings)
    for key, reader in _READERS.items():
        of_items = key == "batch_file" and source_of_knowledge(settings) == "batch"
        if getattr(settings, key) and source != reader and not of_items:
            raise ConfigError(
                f"{key}={getattr(settings, key)}: {said} does not read it. Add --{said.partition('=')[0]}={reader}, or "
                f"leave the file out."
            )


def check_interest_source(settings: SemanticSettings, dataset: str) -> None:
    """Check that the source of interests can begin: its files are there, its API key is set where it may be needed.

    Args:
        dataset: the data set's name, for the journal's.

    Raises:
        UserError: naming key, value and remedy.
    """
    source, said = source_of_replies(settings), said_source(settings)
    if source == "file" and not settings.interest_file:
        raise ConfigError(
            f"{said}: interest_file is not set. Give --interest_file=FILE, a JSONL file of user_id, response."
        )
    if source == "batch" and not settings.batch_file:
        raise ConfigError(
            f"{said}: batch_file is not set; give the answers' JSONL file. "
            f"`python -m recbole_eimf interests --interest_source=batch` writes the requests."
        )
    check_unread_files(settings)
    if settings.interest_file and Path(settings.interest_file).is_dir():
        export.read_meta(Path(settings.interest_file))
    else:
        check_path("interest_file", settings.interest_file)
    for key in ("assignment_file", "prompt_file"):
        check_path(key, getattr(settings, key))
    if settings.batch_file:
        batch.answer_files(Path(settings.batch_file))
    if is_own(source):
        own.own_source(source, said.partition("=")[0])
    if source == "openai":
        check_endpoint(settings, journal_of(settings.semantic_cache, "replies", dataset))


# ---------------------------------------------------------------------- knowledge of items
def source_of_knowledge(settings: SemanticSettings) -> str:
    """Where replies about items come from; of the placebo, what it shuffles."""
    wanted = settings.knowledge_source
    return settings.shuffled_knowledge if wanted == "shuffled" else wanted


def reads_knowledge(settings: SemanticSettings, follows: bool) -> bool:
    """Whether an LLM's knowledge of items is read; ``follows``: what is bought next is."""
    return follows or settings.item_text_source != "title" or settings.interest_match != "item_text"


def asking_for_knowledge(config) -> str:
    """The keys that make a model read an LLM's knowledge of items, or the model that always does."""
    found = [f"{key}={config[key]}" for key, known in _ASK_KNOWLEDGE.items() if re.search(known, str(config[key]))]
    found += [f"next_labels={config['next_labels']}"] if config["next_labels"] else []
    return ", ".join(found) or f"model={config['model']}"


def check_knowledge_file(settings: SemanticSettings) -> None:
    """Raise ConfigError for a ``knowledge_file`` beside another source that is asked for: it would be ignored without a
    word. Where none is asked for, the rows of a table may share the file."""
    source = source_of_knowledge(settings)
    if settings.knowledge_file and source not in ("none", "file"):
        key = "shuffled_knowledge" if settings.knowledge_source == "shuffled" else "knowledge_source"
        raise ConfigError(
            f"knowledge_file={settings.knowledge_file}: {key}={source} does not read it. Add --{key}=file, or leave "
            f"the file out."
        )


def check_knowledge_source(
    settings: SemanticSettings, dataset: str, asking: Callable[[], str] = lambda: "this"
) -> None:
    """Check that the source of knowledge of items can begin: its files are there, its API key is set where it may be
    needed.

    Args:
        dataset: the data set's name, for the journal's.
        asking: says what reads it, for the message.

    Raises:
        UserError: naming key, value and remedy.
    """
    source = source_of_knowledge(settings)
    if source == "none":
        raise ConfigError(
            f"knowledge_source=none: {asking()} reads an LLM's knowledge of items. Give --knowledge_source=file "
            f"--knowledge_file=FILE, or make one with `python -m recbole_eimf knowledge`."
        )
    check_knowledge_file(settings)
    needs = {"file": "knowledge_file", "batch": "batch_file"}.get(source)
    if needs and not getattr(settings, needs):
        raise ConfigError(
            f"knowledge_source={settings.knowledge_source}: {needs} is not set. Give --{needs}=FILE, the file of "
            f"replies."
        )
    check_path("knowledge_prompt_file", settings.knowledge_prompt_file)
    if source == "file" and Path(settings.knowledge_file).is_dir():
        knowledge_export.open_knowledge(Path(settings.knowledge_file))
    elif source == "file":
        check_path("knowledge_file", settings.knowledge_file)
    if source == "batch":
        batch.answer_files(Path(settings.batch_file))
    if source == "openai":
        check_endpoint(settings, journal_of(settings.semantic_cache, "knowledge", dataset), "knowledge_source")
