"""Before a run goes on: does ``output_dir`` hold the same run? Before one begins: would an earlier one be lost?"""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_eimf.config.same_experiment import deciding_settings, differing_settings, in_words, unread
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.run_folder import (
    COMPARED,
    CONFIG_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    PRIOR_FILE,
    PTH_FILE,
    RANKS_FILE,
    RESULT_FILE,
    STATE_FILE,
)
from recbole_eimf.trainer import checkpoint
from recbole_eimf.trainer.state import read_values

#: what a run leaves in its folder
_RESULTS = (STATE_FILE, HISTORY_FILE, RESULT_FILE, RANKS_FILE, MODEL_FILE, PTH_FILE, PRIOR_FILE)
#: keys that may differ: they change what is done with a trained model, not what was trained
_FREE = {"skip_test"}


def check_replaced(config, folder: Path) -> None:
    """Refuse to begin where another run's work would be lost, unless ``overwrite`` says so.

    A finished run of the same settings is made again without a word: its figures would be the same.

    Raises:
        ConfigError: the folder holds a run with other settings, or one that was stopped.
    """
    if config["overwrite"] or not _is_ours(folder):
        return
    states = _states(folder)
    finished = (folder / RESULT_FILE).is_file()  # written last, after the runs beside it too
    if not (states or finished or (folder / MODEL_FILE).is_file()):
        return
    again = "--overwrite=True begins again: what it holds is lost"
    old, new = _settings_held(folder), deciding_settings(config)
    differing = differing_settings(old, new, {*_FREE, *unread(config)})
    if differing:
        last = _keys_of_the_last_phase(config)
        more = states and all(key in last and _is_more(key, old, new) for key in differing)
        raise ConfigError(
            f"output_dir={folder}: holds a run with other settings: {in_words(differing)}. Use another output_dir; "
            f"{'--resume=True goes on with it; ' if more else ''}{again}."
        )
    if states and not finished:
        raise ConfigError(
            f"output_dir={folder}: holds a run with these settings that was stopped. --resume=True goes on with it; "
            f"{again}."
        )


def start_afresh(folder: Path) -> None:
    """Take away what an earlier run left: a kill would leave its state or its model under the new run's settings.

    Only a folder that a run of ours has written is touched.
    """
    described = _is_ours(folder)
    if not (folder / STATE_FILE).is_file() and not described:
        return
    for path in [*(folder / name for name in _RESULTS), *folder.glob(f"*/{STATE_FILE}")]:
        path.unlink(missing_ok=True)
    if described:
        (folder / CONFIG_FILE).unlink()


def _settings_held(folder: Path) -> dict[str, Any]:
    held = checkpoint.read_description(folder)
    return {**held["settings"], **held["files"]}


def _states(folder: Path) -> list[Path]:
    """The states of a run's phases; those of the runs beside it are theirs."""
    found = [folder / STATE_FILE, *folder.glob(f"*/{STATE_FILE}")]
    return [path for path in found if path.is_file() and not path.parent.name.startswith(COMPARED)]


def _is_ours(folder: Path) -> bool:
    try:
        checkpoint.read_description(folder)
    except (DataError, OSError):
        return False
    return True


def check_resumed(config, folder: Path, force: bool) -> dict[str, tuple[Any, Any]]:
    """Compare a configuration with the one that the run in a folder was begun with.

    More epochs are the same run, gone on with. A folder that no run of ours has written is nothing to compare with.

    Args:
        config: of the run that is to go on; force: let settings differ, of a run that is not finished.

    Returns:
        The settings that differ, for :func:`note_changes`.

    Raises:
        ConfigError: settings that decide figures differ, naming them.
        DataError: the folder's files are broken.
    """
    states = _states(folder)
    if not states and not _is_ours(folder):
        if config["show_progress"] is not False:  # a table's runs are gone on with, begun or not
            getLogger().warning(f"resume={config['resume']}: {folder} holds nothing to go on from; the run begins")
        return {}
    if not (folder / CONFIG_FILE).is_file():
        if force:
            return {}
        raise ConfigError(
            f"{states[0]}: there is no {CONFIG_FILE} beside it, so nobody knows its settings (an older "
            f"version wrote it). If you know them, --resume=force goes on; else use another output_dir."
        )
    old, new = _settings_held(folder), deciding_settings(config)
    differing = differing_settings(old, new, {*_FREE, *unread(config)})
    more = {key for key in _keys_of_the_last_phase(config) if _is_more(key, old, new)}
    unlike = {key: pair for key, pair in differing.items() if key not in more}
    if not unlike:
        return differing
    if not force:
        raise ConfigError(
            f"output_dir={folder}: holds a run with other settings: {in_words(unlike)}. Give the settings it was begun "
            f"with (or more epochs), use another output_dir, or go on all the same with --resume=force."
        )
    if not states:  # stopped before its first epoch ended: there is nothing to go on from
        start_afresh(folder)
        return {}
    if _finished(folder) and not more:
        raise ConfigError(
            f"output_dir={folder}: the run in it is finished, and its figures are not those of other settings "
            f"({in_words(unlike)}). Use another output_dir."
        )
    getLogger().warning(f"resume=force: {folder} was begun with other settings: {in_words(unlike)}")
    return differing


def note_changes(folder: Path, config, differing: Mapping[str, tuple[Any, Any]]) -> None:
    """Let ``config.json`` say what a run goes on with, and what it was begun with (``changed``)."""
    path = folder / CONFIG_FILE
    if not differing or not path.is_file():
        return
    held = checkpoint.read_description(folder)
    new = checkpoint.settings_of(config)
    changed = [*held.get("changed", []), *(f"{key} was {a!r}, is {b!r}" for key, (a, b) in differing.items())]
    checkpoint.write_description(folder, {**held, **new, "metrics": None, "changed": changed})


def _finished(folder: Path) -> bool:
    path = folder / STATE_FILE
    try:
        return path.is_file() and bool(read_values(path)["finished"])
    except Exception:  # damaged: reading it whole says so
        return False


def _keys_of_the_last_phase(config) -> set[str]:
    """The keys that only say for how many epochs the last phase of a run goes on."""
    if getattr(config.model_class, "last_phase", None) != "finetune":
        return {"epochs"}
    earlier = config["pretrain_epochs"] and config["align_epochs"]
    return {"finetune_epochs"} | ({"epochs"} if earlier and not config["finetune_epochs"] else set())


def _is_more(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    before, now = (values.get(key) or values["epochs"] for values in (old, new))
    # RecBole evaluates after the last epoch if eval_step is larger: a longer run would have done so elsewhere
    return now > before >= new["eval_step"]
