"""Rows of one table are asked the same: the same users, and the same candidates (``mask_history``, ``eval_args``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.evaluator.candidates import mode_of
from recbole_eimf.study.runs import Run
from recbole_eimf.study.table.summary import Experiment

_SAME_CANDIDATES = "rows of one table rank the same candidates. Write auto, True, False or both, for all of them."


def reports_both_masks(shared: Mapping[str, Any]) -> bool:
    """Whether a table reports its models with the history masked and not masked."""
    return shared.get("mask_history") == "both"


def keys_to_train_with(shared: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to train with: of both values of ``mask_history`` the one that papers of the protocol have."""
    if not reports_both_masks(shared):
        return dict(shared)
    return {**shared, "mask_history": shared.get("protocol", "leave_one_out") != "user_split"}


def masks_of(experiment: Experiment, planned: Sequence[Run]) -> tuple[bool, ...]:
    """The values of ``mask_history`` to report, the one to train with first: those of the runs, recipes included.

    Raises:
        ConfigError: rows have different ones, or one of their own that only the data would decide.
    """
    _check_protocols(planned)
    _check_drawn(planned)
    if reports_both_masks(experiment.shared):
        first = keys_to_train_with(experiment.shared)["mask_history"]
        return first, not first
    values = {run.row.name: run.settings["mask_history"] for run in planned}
    first_row = next(iter(values))
    for name, value in values.items():
        if value == "auto":
            raise ConfigError(f"row {name!r}: mask_history=auto: {_SAME_CANDIDATES}")
        if value != values[first_row]:
            raise ConfigError(
                f"mask_history is {value} in row {name!r} and {values[first_row]} in row {first_row!r}, by its recipe "
                f"or keys of its own: {_SAME_CANDIDATES}"
            )
    return (bool(values[first_row]),)


def _check_protocols(planned: Sequence[Run]) -> None:
    """Raise ConfigError where a recipe, or a row's own keys, would ask other users than the other rows."""
    if odd := _odd_one({run.row.name: run.settings["protocol"] for run in planned}):
        name, value, first_row, first = odd
        raise ConfigError(
            f"protocol is {value} in row {name!r} and {first} in row {first_row!r}, by its recipe or keys of its own: "
            f"rows of one table answer for the same users. Write --protocol={value} or --protocol={first}, for all of "
            f"them."
        )


def _check_drawn(planned: Sequence[Run]) -> None:
    """Raise ConfigError where one row ranks all items and another a few that are drawn, or other ones."""
    if odd := _odd_one({run.row.name: mode_of(run.settings) for run in planned}):
        name, value, first_row, first = odd
        raise ConfigError(
            f"eval_args: mode is {value} in row {name!r} and {first} in row {first_row!r}: rows of one table rank the "
            f"same candidates. Give eval_args for all of them, or leave it out."
        )


def _odd_one(values: Mapping[str, str]) -> tuple[str, str, str, str] | None:
    """(row, its value, the first row, its value) of the first row with another value than the first one's."""
    first_row, first = next(iter(values.items()))
    return next(((name, value, first_row, first) for name, value in values.items() if value != first), None)
