"""What an LLM knows of items, as data: a folder that others can load.

``items.jsonl`` (``item_id``, ``profile``, ``next``, ``source``, ``title_sha256``, ``prompt_sha256``), ``meta.json``
(data set, model, prompt, licence, digests) and a card, ``README.md``. ``knowledge_file=FOLDER`` loads it. A prompt
holds a title and an id: it knows nothing of any user, so that the replies serve every split, and are about whatever has
these titles.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from importlib import metadata
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_eimf.config.maker import is_marked
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import atomic_path, file_digest, read_jsonl, write_json
from recbole_eimf.core.folders import KNOWLEDGE_FILE, META_FILE
from recbole_eimf.semantic.export import (
    CARD,
    FORMAT,
    KIND,
    KNOWLEDGE,
    NO_LICENCE,
    check_export_folder,
    check_format,
    export_kind,
)
from recbole_eimf.semantic.llm.reply import Reply

TITLE = "title_sha256"


def write_items(folder: Path, found: Any, item_text: Mapping[str, str]) -> None:
    """Write ``items.jsonl`` as the file source reads it; a placebo's lines answer no prompt of their item."""
    folder.mkdir(parents=True, exist_ok=True)
    records = (
        {"item_id": item, "profile": known.profile, "next": list(known.next), "source": found.source}
        | {TITLE: _digest(item_text[item])}
        | ({"prompt_sha256": found.digests[item]} if found.digests.get(item) and not is_marked(found.source) else {})
        for item, known in found.items.items()
    )
    with atomic_path(folder / KNOWLEDGE_FILE) as temporary:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        temporary.write_text(lines, encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def titles_digest(item_text: Mapping[str, str]) -> str:
    """A digest (16 hex characters) of a catalogue's items and their texts, in any order."""
    digest = hashlib.sha256()
    for item, text in sorted(item_text.items()):
        digest.update(json.dumps([item, text]).encode())
    return digest.hexdigest()[:16]


def write_export(folder: Path, found: Any, stage: Any, licence: str | None) -> None:
    """Write a whole export; ``meta.json`` comes last, so that half an export is none.

    Args:
        folder: where to; new, empty, or an earlier export. licence: a note on what others may do with the replies.
        found, stage: :class:`~recbole_eimf.semantic.knowledge.Knowledge` and the ``KnowledgeStage`` that it is of.
    """
    check_export_folder(folder, KNOWLEDGE)
    write_items(folder, found, stage.item_text)
    asked = stage.source in ("openai", "batch")
    of = stage.read_meta or {}  # what is exported anew was made by whoever made it
    told = found.report["replies_unchecked"] < found.report["items_known"]
    todays = asked or (told and not found.report["replies_to_another_prompt"])
    prompt = of.get("prompt") or (stage.template if todays else None)
    meta = {
        "format": FORMAT,
        "kind": KNOWLEDGE,
        "dataset": stage.name,
        "titles": titles_digest(stage.item_text),
        "source": found.source,
        # a batch's answers may be of any model, which a file of them need not name
        "model": of.get("model") or (stage.llm_settings().model if stage.source == "openai" else None),
        "prompt": prompt,
        "prompt_sha256": prompt and hashlib.sha256(prompt.encode()).hexdigest(),
        "items": len(found.items),
        "items_with_text": found.report["items_with_text"],
        "next_phrases": found.report["next_phrases"],
        "unchecked": sum(not found.digests.get(item) for item in found.items),
        "files": {KNOWLEDGE_FILE: file_digest(folder / KNOWLEDGE_FILE)},
        "licence": licence or of.get("licence") or NO_LICENCE,
        "recbole_eimf": metadata.version("recbole_eimf"),
    }
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(_card(meta, folder), encoding="utf-8")
    write_json(folder / META_FILE, meta)


def open_knowledge(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of replies of an export, and what the export says of itself.

    Raises:
        DataError: the folder is none, or one of interests, or its file is not the one that was exported.
    """
    said = f"knowledge_file={folder}"
    if export_kind(folder) == KIND:
        raise DataError(f"{said}: an export of {KIND}, not of {KNOWLEDGE}. Give it as --interest_file={folder}.")
    path = folder / KNOWLEDGE_FILE
    try:
        meta = json.loads((folder / META_FILE).read_bytes())
        digest = meta["files"].get(KNOWLEDGE_FILE)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{said}: a folder without a readable {META_FILE} ({type(error).__name__}): not an export of `python -m "
            f"recbole_eimf knowledge --export`. Name the JSONL file of replies itself, {path}."
        ) from error
    check_format(meta, said)
    if not path.is_file():
        raise DataError(f"{said}: {KNOWLEDGE_FILE} is missing, and {META_FILE} says that it was exported. Copy it too.")
    if digest != file_digest(path):
        raise DataError(
            f"{path}: not the file that was exported: its digest differs from {META_FILE}'s. Get the folder anew, or "
            f"export it again; to use the file as it is, name it: knowledge_file={path}."
        )
    return path, meta


def of_these_titles(
    replies: Mapping[str, Reply], meta: Mapping[str, Any], item_text: Mapping[str, str], folder: Path
) -> dict[str, Reply]:
    """Those replies of an export that are about a title at hand: ids alone may be of another catalogue.

    Raises:
        DataError: all of them are about other titles.
    """
    if meta.get("titles") == titles_digest(item_text):
        return dict(replies)
    of = {
        record["item_id"]: record.get(TITLE) for _, record in read_jsonl(folder / KNOWLEDGE_FILE, half_last_line=False)
    }
    there = {item: reply for item, reply in replies.items() if item in item_text}
    kept = {item: reply for item, reply in there.items() if of.get(item) == _digest(item_text[item])}
    if not kept:
        raise DataError(
            f"knowledge_file={folder}: made from other titles, of {meta.get('dataset')}: of {len(there)} ids that are "
            f"in both none has the same title. Take the same data set and text_fields; to use the file without this "
            f"check, name it: knowledge_file={folder / KNOWLEDGE_FILE}."
        )
    if len(kept) < len(there):
        getLogger().warning(
            f"knowledge_file={folder}: {len(there) - len(kept)} of {len(there)} replies about items of this catalogue "
            f"are about another title. They are not used."
        )
    return kept


def _card(meta: Mapping[str, Any], folder: Path) -> str:
    said = f"by {meta['model']}" if meta["model"] else "by a model that is not recorded"
    if is_marked(meta["source"]):
        said += ", given to other items of like popularity: **a placebo**"
    prompt = f"\nThe prompt:\n\n```text\n{meta['prompt']}\n```\n" if meta["prompt"] else ""
    command = f"python -m recbole_eimf run --model=NextKNN {shlex.quote('--dataset=' + str(meta['dataset']))} \\\n    "
    command += f"--knowledge_source=file {shlex.quote(f'--knowledge_file={folder.resolve().name}')}"
    columns = f"`item_id`, `profile` (kind, use, buyer), `next` (what is bought next), `{TITLE}`, `prompt_sha256`"
    return f"""# What an LLM says of the items of {meta["dataset"]}

{meta["items"]} of {meta["items_with_text"]} items, {meta["next_phrases"]} phrases of what is bought next.

- made {said} (source `{meta["source"]}`), with recbole_eimf {meta["recbole_eimf"]}
- a prompt holds an item's title and id, and nothing of any user
- titles: fingerprint `{meta["titles"]}`; where it differs on loading, replies to another title are left out
- licence: {meta["licence"]}

| file | what |
|---|---|
| `{KNOWLEDGE_FILE}` | {columns} |
| `{META_FILE}` | all of the above for programs |

Beside this folder:

```bash
{command}
```
{prompt}"""
