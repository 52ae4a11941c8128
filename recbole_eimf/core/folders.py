"""What lies in a folder that a command is to write into: a run, a table and a model overwrite each other's files."""

from __future__ import annotations

from pathlib import Path

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.run_folder import CONFIG_FILE, MODEL_FILE, RESULT_FILE, STATE_FILE

#: of a table and of a search; of a search; of an exported model; of a data set
RESULTS_FILE, SEARCH_FILE, ITEMS_FILE, PREPARE_FILE = "results.json", "search.json", "items.parquet", "prepare.json"
#: of an export of replies: what it is; what `interests` writes; what `knowledge` writes
META_FILE, REPLIES_FILE, KNOWLEDGE_FILE = "meta.json", "interests.jsonl", "items.jsonl"
_NAMES = {
    "run": "the output_dir of a run",
    "table": "the folder of a table",
    "search": "the folder of a search",
    "model": "a model folder of `export`",
    "data": "the folder of a data set",
    "replies": "an export of replies",
    "": "nothing of ours",
}


def kind_of(folder: Path) -> str | None:
    """What a folder holds, one of ``_NAMES``; None where that is nothing, or nothing of ours."""

    def has(name: str) -> bool:
        return (folder / name).is_file()

    if not folder.is_dir():
        return None
    if has(CONFIG_FILE) and has(ITEMS_FILE):
        return "model"
    if any(folder.glob("*.inter")) or has(PREPARE_FILE):
        return "data"
    if has(RESULT_FILE) or (has(CONFIG_FILE) and (has(MODEL_FILE) or has(STATE_FILE))):
        return "run"
    if has(SEARCH_FILE):
        return "search"
    if has(RESULTS_FILE):
        return "table"
    return "replies" if has(META_FILE) and (has(KNOWLEDGE_FILE) or has(REPLIES_FILE)) else None


def name_of(folder: Path) -> str:
    """What a folder of some kind is, for people."""
    return _NAMES[kind_of(folder) or ""]


def check_kind(folder: Path, wanted: str, key: str = "--out") -> None:
    """Refuse a folder that holds something of another kind, whose files would be replaced or mixed with others.

    Args:
        wanted: ``run``, ``table`` or ``search``, what is to be written; key: how the user named the folder.

    Raises:
        ConfigError: it does.
    """
    if kind_of(folder) not in (None, wanted):
        raise ConfigError(
            f"{key}={folder}: is {name_of(folder)}, and a {wanted} would be written among its files. Name another "
            f"folder."
        )
