"""Rows of a table against each other: differences of means, and paired significance over users."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import fingerprint
from recbole_eimf.core.run_folder import RANKS_FILE
from recbole_eimf.evaluator.ranks import Ranks, check_same_users, read_ranks
from recbole_eimf.evaluator.significance import LEVEL, PairedTest, flips_for, holm, paired_test
from recbole_eimf.study.rows import FRAMED


@dataclass(frozen=True)
class Comparison:
    """A row against another in one metric, or a framework over several backbones against all of these.

    ``points`` (percent) and ``relative`` (% of the other's mean) difference of the means over seeds, and the test over
    users of the values averaged over seeds, Holm-corrected over the table.
    """

    row: str
    other: str
    metric: str
    points: float
    relative: float | None
    test: PairedTest | None
    adjusted: float | None = None

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted < LEVEL


def compare_rows(
    against: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    means: Mapping[str, Mapping[str, float]],
    folders: Mapping[str, list[Path]],
    whole: bool,
) -> list[Comparison]:
    """Every row against those that it names, and a framework against all its backbones, in every shown metric.

    Args:
        against: row -> the rows that it is compared with.
        means: row -> metric in percent, over seeds; what is not there is not compared.
        folders: row -> where its runs kept their ranks.
        whole: all runs are there: p-values are fine enough for the correction then.
    """
    single = [
        _Question(row, other, [(row, other)], metric)
        for row, others in against.items()
        for other in others
        for metric in metrics
        if metric in means.get(row, ()) and metric in means.get(other, ())
    ]
    questions = [*single, *_pooled(single)]
    flips = flips_for(len(questions) if whole else 1, LEVEL)  # finer p-values once, when all runs are there
    return _corrected([_difference(question, means, folders, flips) for question in questions])


class _Question(NamedTuple):
    """What a comparison is about: ``pairs`` of rows that are taken together."""

    row: str
    other: str
    pairs: list[tuple[str, str]]
    metric: str


def _pooled(single: Sequence[_Question]) -> list[_Question]:
    """A framework over all its backbones together, where it stands over several: one test instead of many weak ones.

    Metrics are averaged over backbones, of a user too. ``against`` are the backbones, or the same control over each.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for one in single:
        framed = FRAMED.fullmatch(one.row)
        other = FRAMED.fullmatch(one.other)
        if framed and one.other == framed["inner"]:
            against = "their backbones"
        elif framed and other and other["inner"] == framed["inner"]:
            against = f"{other['frame']} over them"
        else:
            continue
        groups.setdefault((framed["frame"], against, one.metric), []).append((one.row, one.other))
    return [
        _Question(f"{frame} over {len(pairs)} backbones", against, pairs, metric)
        for (frame, against, metric), pairs in groups.items()
        if len(pairs) > 1
    ]


def _difference(
    question: _Question, means: Mapping[str, Mapping[str, float]], folders: Mapping[str, list[Path]], flips: int
) -> Comparison:
    """The mean over pairs of rows, and its test."""
    name, against, pairs, metric = question
    mine, theirs = (statistics.mean(means[row][metric] for row in side) for side in zip(*pairs))
    relative = 100 * (mine - theirs) / theirs if theirs else None
    test = _tested(*([folders[row] for row in side] for side in zip(*pairs)), metric, flips)
    return Comparison(name, against, metric, mine - theirs, relative, test)


_RANKS: dict[Path, tuple[int, Ranks]] = {}
_TESTS: dict[str, PairedTest] = {}


def _ranks(folder: Path) -> Ranks:
    stamp = (folder / RANKS_FILE).stat().st_mtime_ns
    if _RANKS.get(folder, (None,))[0] != stamp:
        _RANKS[folder] = stamp, read_ranks(folder)
    return _RANKS[folder][1]


def _tested(first: Sequence[list[Path]], second: Sequence[list[Path]], metric: str, flips: int) -> PairedTest | None:
    """The paired test of rows, each the folders of its seeds, made once for the same runs.

    None where a run kept no ranks or was asked other users.
    """
    try:
        mine, theirs = ([[_ranks(folder) for folder in row] for row in side] for side in (first, second))
        for row, paths in zip((*mine, *theirs), (*first, *second)):
            for ranks, path in zip(row, paths):
                check_same_users(mine[0][0], ranks, (str(first[0][0]), str(path)))
        stamps = [[_RANKS[folder][0] for folder in row] for row in (*first, *second)]
        key = fingerprint(metric, flips, [[str(f) for f in row] for row in (*first, ["against"], *second)], stamps)
        if key not in _TESTS:
            sides = (np.stack([_per_user(row, metric) for row in side]) for side in (mine, theirs))
            _TESTS[key] = paired_test(*sides, user=mine[0][0].user, flips=flips)
        return _TESTS[key]
    except (DataError, ConfigError, FileNotFoundError):
        return None


def _per_user(row: Sequence[Ranks], metric: str) -> np.ndarray:
    """[R]: the mean over the seeds of a table's row; its rows count the same, however many of their runs are done."""
    return np.stack([ranks.per_user(metric) for ranks in row]).mean(axis=0)


def _corrected(found: list[Comparison]) -> list[Comparison]:
    tested = [index for index, comparison in enumerate(found) if comparison.test is not None]
    adjusted = holm(np.array([found[index].test.p_value for index in tested])) if tested else ()
    for index, value in zip(tested, adjusted):
        found[index] = replace(found[index], adjusted=float(value))
    return found
