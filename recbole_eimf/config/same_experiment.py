"""Which settings decide a run's figures: what a resumed run, ``tune`` and ``compare`` regard as the same experiment.

Settings that cannot change a figure (threads, logging, device, folders, prices) do not count, nor do those that the
model does not read. Files that decide figures count by what is in them, not by where they lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from recbole.utils.argument_list import training_arguments

from recbole_eimf.config import keys
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.models import BACKBONES
from recbole_eimf.config.old_names import today_of_written
from recbole_eimf.config.reading import EVERY_RUN, keys_beyond, parts_read, recbole_defaults
from recbole_eimf.config.same import CONTENT, INDIFFERENT, PATHS
from recbole_eimf.config.stock_needs import graph_files, needs_graph
from recbole_eimf.core.files import file_digest
from recbole_eimf.core.folders import KNOWLEDGE_FILE

__all__ = ["CONTENT", "INDIFFERENT", "PATHS", "content_digests", "deciding_settings", "differing_settings", "digest",
           "in_words", "plain_settings", "unread"]  # fmt: skip


def plain_settings(config) -> dict[str, Any]:
    """Every setting of a configuration that decides figures, as JSON values; without the files' paths."""
    return _as_json({k: v for k, v in config.final_config_dict.items() if k not in INDIFFERENT})


def content_digests(config) -> dict[str, str | None]:
    """A digest of every file that decides figures, by its key; ``data.inter`` and ``data.item`` are the data set's, and
    ``data.kg``, ``data.ent`` and the like where the model is given a knowledge graph.

    ``None`` is a file that is not there.
    """
    found = {key: digest(Path(config[key])) for key in CONTENT if config[key]}
    for kind in ("inter", "item", *(graph_files(config) if needs_graph(config.model_class) else ())):
        found[f"data.{kind}"] = digest(Path(config["data_path"]) / f"{config['dataset']}.{kind}")
    return found


def deciding_settings(config) -> dict[str, Any]:
    """All that decides a run's figures, the seed too: settings as JSON values, files by a digest of their content."""
    return {**plain_settings(config), **content_digests(config)}


def unread(config) -> frozenset[str]:
    """The keys of ours that the model of a configuration does not read, today's and those of earlier versions; of a
    model that only counts, those of a network too.

    An upgrade that changes them, or other replies for the rows beside it, leave its figures what they are. A model of
    somebody's own may read any; one of RecBole's reads those that its source names.
    """
    model_class = config.model_class
    parts = parts_read(model_class)
    if parts is None:
        return frozenset()
    read = {*parts, *EVERY_RUN}
    asked = contract_of(model_class)
    need, follows = asked.needs_side_information(config), asked.needs_next_items(config)
    if need is not None:
        read.add("TextSettings")
    if need == "interests" or follows or config["item_text_source"] != "title":  # the last two ask an LLM about items
        read.add("SemanticSettings")
    beyond = keys_beyond(model_class, frozenset(read))
    return beyond | _of_networks() if asked.counting else beyond


@cache
def _of_networks() -> frozenset[str]:
    """RecBole's keys of a network's size and training, but for those that a loader or validation looks at too."""
    sizes = {key for backbone in BACKBONES for key in recbole_defaults(backbone)}
    return frozenset({*training_arguments, *sizes} - {"eval_step", "transform"})


def differing_settings(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in ``old``, value in ``new``) where two outcomes of :func:`deciding_settings` differ.

    A key that only one side knows counts if it is not its default: versions add keys.

    Args:
        free: keys that may differ.

    >>> differing_settings({"epochs": 5, "gamma": 0.1}, {"epochs": 6, "gamma": 0.1, "new_key": None})
    {'epochs': (5, 6)}
    """
    default = keys.defaults()
    old, new = today_of_written(old), today_of_written(new)
    counted = sorted({*old, *new} - INDIFFERENT.difference(CONTENT) - set(free))
    pairs = {key: (old.get(key, default.get(key)), new.get(key, default.get(key))) for key in counted}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def in_words(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """What a message says of :func:`differing_settings`.

    >>> in_words({"epochs": (5, 6), "data.inter": ("ab", "cd")})
    'epochs was 5, is 6; data.inter was a file of other content'
    """
    return "; ".join(
        f"{key} was a file of other content"
        if key.startswith("data.") or (key in CONTENT and None not in pair)
        else f"{key} was {pair[0]!r}, is {pair[1]!r}"
        for key, pair in differing.items()
    )


_DIGESTS: dict[tuple[str, int, int], str] = {}


def digest(path: Path) -> str | None:
    """Sixteen hex digits of a file's SHA-256, of a folder's files together, or None where there is neither."""
    if path.is_dir():  # an export of replies
        if (path / KNOWLEDGE_FILE).is_file():  # of an LLM's words on items: its card and licence change no figure
            return digest(path / KNOWLEDGE_FILE)
        parts = [f"{file.name} {digest(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    if not path.is_file():
        return None
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns)
    if key not in _DIGESTS:
        _DIGESTS[key] = file_digest(path)[:16]
    return _DIGESTS[key]


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values, sort_keys=True, default=str))
