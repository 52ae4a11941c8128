"""The runs that a run is compared with: those given, else the backbone and the placebo that were made beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.run_folder import COMPARED, RANKS_FILE
from recbole_eimf.evaluator.ranks import Ranks, check_same_users, read_ranks
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.serving.export import read_result

#: what is looked at where nobody names another: what ``compare_with=[backbone,placebo]`` leaves in ``output_dir``
_COMPARED = (f"{COMPARED}backbone", f"{COMPARED}placebo")


def others(folder: Path, ranks: Ranks, given: Sequence[str]) -> list[tuple[dict[str, Any], Ranks]]:
    """(what it is, its ranks) of every run to compare with.

    Args:
        folder: of the run; ranks: its own; given: folders that the user names.

    Raises:
        ConfigError: a folder is the run itself, or given twice.
        DataError: no finished run, or one on other users or targets.
    """
    wanted = [Path(other) for other in given]
    wanted = wanted or [folder / name for name in _COMPARED if (folder / name / RANKS_FILE).is_file()]
    places = [other.resolve() for other in wanted]
    for other, place in zip(wanted, places):
        if place == folder.resolve():
            raise ConfigError(f"--against={other}: is the run itself. Name another one, for example its backbone's.")
        if places.count(place) > 1:
            raise ConfigError(f"--against={other}: is given twice.")
    return [_read(folder, ranks, other) for other in wanted]


def _read(folder: Path, ranks: Ranks, other: Path) -> tuple[dict[str, Any], Ranks]:
    result, theirs = read_result(other), read_ranks(other)
    check_same_users(ranks, theirs, (str(folder), str(other)))
    about = {"name": name_in_tables(result), "folder": str(other), "seed": result["seed"], "test": result["test"]}
    return about, theirs


def name_in_tables(result: Mapping[str, Any]) -> str:
    """A run as tables call it."""
    return RunResult.from_json(dict(result)).name
