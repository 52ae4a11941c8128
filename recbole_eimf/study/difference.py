"""Do runs that were made apart differ? The paired test of a table, between any of them, over all targets or a slice.

A table tests its own rows against each other over all targets. This asks runs of other folders too, and those targets
that a claim is about: rare ones, tied ones, short histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from recbole_eimf.core.errors import ConfigError, DataError, suggestion
from recbole_eimf.core.folders import RESULTS_FILE, kind_of, name_of
from recbole_eimf.core.run_folder import RANKS_FILE
from recbole_eimf.evaluator.candidates import mode_of
from recbole_eimf.evaluator.ranks import METRICS, Asked, Ranks, asked_of, check_same_users, read_ranks
from recbole_eimf.evaluator.significance import flips_for, holm, paired_test
from recbole_eimf.serving.export import read_result
from recbole_eimf.study.joined import read_results
from recbole_eimf.study.runs import OTHER_MASK, folder_name
from recbole_eimf.study.table.content import p_value
from recbole_eimf.study.table.summary import pretty

#: asks about every slice that holds some of the targets, after all together
ALL = "all"
_RUNS = "runs"


@dataclass(frozen=True)
class Side:
    """Runs that are averaged: ``name`` as it was typed, ``ranks`` by seed, and what all of them were asked."""

    name: str
    ranks: Mapping[int, Ranks]
    asked: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """The first side against another in one metric: ``mean`` and ``other_mean`` in percent over users and seeds,
    ``points`` their difference and ``interval`` its 95 % interval, ``relative`` % of the other's mean (None where that
    is 0), ``by_seed`` the same of each seed that both have. ``slice``: None are all targets. ``p_value`` is two-sided,
    ``adjusted`` after Holm's correction over all that were asked together.
    """

    side: str
    other: str
    metric: str
    slice: str | None
    users: int
    mean: float
    other_mean: float
    points: float
    relative: float | None
    interval: tuple[float, float]
    p_value: float
    adjusted: float
    by_seed: Mapping[int, float | None]


@dataclass(frozen=True)
class Differences:
    """``found``, and what all sides were asked: ``dataset``, ``protocol``, ``ties``, ``mask_history``, what targets
    were ranked among (``mode``), and the number of test users and targets; ``seeds``: those of each side."""

    dataset: str
    asked: Mapping[str, Any]
    tested: Asked
    seeds: Mapping[str, list[int]]
    found: Sequence[Difference]

    def as_json(self) -> dict[str, Any]:
        """What ``--out`` writes."""
        tests = [{**asdict(one), "by_seed": {str(seed): value for seed, value in one.by_seed.items()}}
                 for one in self.found]  # fmt: skip
        return {
            "dataset": self.dataset, **self.asked, "tested": asdict(self.tested), "unit": "percent",
            "seeds": dict(self.seeds), "correction": f"Holm over {len(tests)} tests", "tests": tests,
        }  # fmt: skip


def differ(
    sides: Sequence[str | Path],
    metrics: Sequence[str] = (),
    slices: Sequence[str] = (),
    mask_history: bool | None = None,
) -> Differences:
    """Test the first of several sides against each of the others, over the users that all were tested on.

    Args:
        sides: each the ``output_dir`` of a run, a folder of runs of several seeds, or a table's row, ``TABLE:ROW``.
        metrics: as :meth:`recbole_eimf.evaluator.ranks.Ranks.per_user` takes them; none: NDCG@10 and Recall@10, or at
            the deepest place that all have.
        slices: names of slices; ``all``: each that holds some of the targets, after all together; none: all together.
        mask_history: which ranking, of runs that a table scored both ways; None: that which training validated by.

    Raises:
        ConfigError: too few sides, one that is given twice, a metric or slice that there is not.
        DataError: a side that is not there, or that was asked another question than the first.
    """
    names = [str(side) for side in sides]
    if not 2 <= len(names) <= len(ascii_uppercase):
        raise ConfigError(
            f"{len(names)} side{'s' * (len(names) != 1)} given; from 2 to {len(ascii_uppercase)} are needed: what is "
            f"tested, and against what."
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{twice}: is given twice.")
    read = [_read_side(name, mask_history) for name in names]
    first, others = read[0], read[1:]
    for other in others:
        _check_same_question(first, other)
    depth = min(ranks.depth for side in read for ranks in side.ranks.values())
    wanted = list(metrics) or [f"{kind}@{min(depth, 10)}" for kind in ("ndcg", "recall")]
    _check_metrics(wanted, depth)
    ranges = _ranges(slices, read)
    questions = [(other, metric, name) for other in others for metric in wanted for name in ranges]
    flips = flips_for(len(questions))
    found = [_difference(first, *question, flips) for question in questions]
    adjusted = holm(np.array([one.p_value for one in found]))
    found = [replace(one, adjusted=float(value)) for one, value in zip(found, adjusted)]
    place = _folders(first.name)[0]
    asked = dict(first.asked)
    dataset = asked.pop("dataset")
    return Differences(dataset, asked, asked_of(place), {side.name: list(side.ranks) for side in read}, found)


def _difference(first: Side, other: Side, metric: str, slice: str | None, flips: int) -> Difference:
    mine, theirs = (
        {seed: ranks.per_user(metric, slice) for seed, ranks in side.ranks.items()} for side in (first, other)
    )
    user = next(iter(first.ranks.values())).user
    test = paired_test(np.stack([*mine.values()]), np.stack([*theirs.values()]), user=user, flips=flips)
    means = [{seed: 100 * float(np.nanmean(values)) for seed, values in side.items()} for side in (mine, theirs)]
    mean, other_mean = (sum(of.values()) / len(of) for of in means)
    return Difference(
        side=first.name,
        other=other.name,
        metric=metric,
        slice=slice,
        users=test.users,
        mean=mean,
        other_mean=other_mean,
        points=100 * test.difference,
        relative=_relative(mean, other_mean),
        interval=(100 * test.confidence_interval[0], 100 * test.confidence_interval[1]),
        p_value=test.p_value,
        adjusted=test.p_value,
        by_seed={seed: _relative(means[0][seed], means[1][seed]) for seed in means[0] if seed in means[1]},
    )


def _relative(mean: float, other: float) -> float | None:
    return 100 * (mean - other) / other if other else None


# ---------------------------------------------------------------------- what is asked
def _check_metrics(metrics: Sequence[str], depth: int) -> None:
    for metric in metrics:
        name, _, k = metric.partition("@")
        if name not in METRICS or not k.isdecimal() or not 1 <= int(k) <= depth:
            raise ConfigError(
                f"--metrics={metric}: of each target a run keeps its place, so allowed are "
                f"{', '.join(pretty(f'{kind}@k') for kind in METRICS)} with k from 1 to {depth}, the largest topk that "
                f"all runs have."
            )


def _ranges(slices: Sequence[str], sides: Sequence[Side]) -> list[str | None]:
    """The slices to ask about; None: all targets together.

    Raises:
        ConfigError: one that a side does not have, or nobody's targets are in.
        DataError: one that holds other targets on another side.
    """
    first = next(iter(sides[0].ranks.values()))
    sizes = {name: _targets_in(first, name) for name in (*first.slices, *first.mark_names)}
    known = [name for name, size in sizes.items() if size.any()]
    if not slices:
        return [None]
    asked = _telling(first, known) if ALL in slices else list(dict.fromkeys(slices))
    for name in asked:
        if name not in known:
            empty = " There is, but no target is in it." if name in sizes else ""
            raise ConfigError(
                f"--slices={name}: no such slice.{empty or suggestion(name, known)} There are {', '.join(known)}; "
                f"{ALL} asks about each."
            )
        for side in sides:
            for seed, ranks in side.ranks.items():
                if name not in (*ranks.slices, *ranks.mark_names) or (_targets_in(ranks, name) != sizes[name]).any():
                    raise DataError(
                        f"--slices={name}: holds other targets in {side.name} (seed {seed}) than in {sides[0].name}: "
                        f"their training or their slice_bounds differ. Ask about another slice, or leave --slices out."
                    )
    return [None, *asked] if ALL in slices else [*asked]


def _telling(ranks: Ranks, names: Sequence[str]) -> list[str]:
    """The slices that say something more: not those of all targets, nor those of the same ones as one before."""
    held = [np.ones(len(ranks.target_row), dtype=bool)]
    told = []
    for name in names:
        inside = ranks.in_slice(name)
        if not any((inside == other).all() for other in held):
            held.append(inside)
            told.append(name)
    return told


def _targets_in(ranks: Ranks, slice: str) -> np.ndarray:
    """[R]: how many targets of each row are in a slice."""
    return np.bincount(ranks.target_row[ranks.in_slice(slice)], minlength=len(ranks.user))


def _check_same_question(first: Side, other: Side) -> None:
    """Raise DataError where two sides were not asked the same: other candidates, another order, other users."""
    for what, value in first.asked.items():
        if other.asked[what] != value:
            both = " --mask_history=True or False takes one of both, of tables made with --mask_history=both." * (
                what == "mask_history"
            )
            raise DataError(
                f"{first.name} and {other.name}: {what} is {value} in one and {other.asked[what]} in the other, so "
                f"their figures answer different questions.{both}"
            )
    one = next(iter(first.ranks.values()))
    for side in (first, other):
        for ranks in side.ranks.values():
            check_same_users(one, ranks, (first.name, side.name))


# ---------------------------------------------------------------------- who is asked
def _read_side(name: str, mask: bool | None) -> Side:
    ranks, asked = {}, {}
    for folder in _folders(name):
        result = read_result(folder)
        own = bool(result["mask_history"])
        place = folder if mask in (None, own) else folder / OTHER_MASK
        if not (place / RANKS_FILE).is_file() and place != folder:
            raise ConfigError(
                f"--mask_history={mask}: {folder} was scored with mask_history={own} alone. Leave it out, or make the "
                f"table with --mask_history=both."
            )
        settings = result["config"]
        of_run = {
            "dataset": result["dataset"],
            "protocol": result["protocol"],
            "ties": settings.get("ties"),
            "mask_history": own if mask is None else mask,
            "mode": mode_of(settings),
        }
        if asked and of_run != asked:
            raise DataError(f"{name}: its runs were not asked the same ({asked}; {of_run}). Name those that were.")
        if result["seed"] in ranks:
            raise DataError(f"{name}: two of its runs have the seed {result['seed']}. Name one run, or a row's folder.")
        ranks[result["seed"]], asked = read_ranks(place), of_run
    return Side(name, ranks, asked)


def _folders(name: str) -> list[Path]:
    """The folders of the runs that a side means.

    Raises:
        ConfigError: a table without a row, or with one that it does not have.
        DataError: nothing there, or no finished run.
    """
    path = Path(name)
    if (path / RANKS_FILE).is_file() or kind_of(path) == "run":
        return [path]
    if kind_of(path) == "table":
        rows = [row["name"] for row in read_results(path / RESULTS_FILE).get("rows", ())]
        raise ConfigError(f"{name}: is {name_of(path)}; name a row of it, {name}:ROW. It has {', '.join(rows)}.")
    if path.is_dir():
        inside = sorted(child for child in path.iterdir() if (child / RANKS_FILE).is_file())
        if inside:
            return inside
        raise DataError(f"{name}: no finished run in it. Give a run's output_dir, or a table's row: TABLE:ROW.")
    for at in (at for at, letter in enumerate(name) if letter == ":"):
        table = Path(name[:at])
        if kind_of(table) == "table":
            return _of_row(table, name[at + 1 :])
    raise DataError(f"{name}: no such folder. Give a run's output_dir, or a table's row: TABLE:ROW.")


def _of_row(table: Path, row: str) -> list[Path]:
    content = read_results(table / RESULTS_FILE)
    rows = {one["name"]: one for one in content.get("rows", ())}
    if row not in rows:
        raise ConfigError(f"{table}:{row}: the table has no such row.{suggestion(row, rows)} It has {', '.join(rows)}.")
    seeds = [run["seed"] for run in rows[row]["runs"]]
    if not seeds:
        raise DataError(f"{table}:{row}: no run of it is finished yet. Give the table's command again.")
    folders = [table / _RUNS / folder_name(row) / str(seed) for seed in seeds]
    if missing := next((folder for folder in folders if not folder.is_dir()), None):
        raise DataError(
            f"{table}:{row}: {missing} is not there, and only runs hold where each target was ranked. Copy the table's "
            f"folder whole."
        )
    return folders


# ---------------------------------------------------------------------- told
def text_table(found: Differences) -> str:
    """What a terminal shows: the sides, whom they were asked about, and a line for each test."""
    letters = dict(zip(found.seeds, ascii_uppercase))
    sides = [f"{letters[name]}  {name}, {_seeds(seeds)}" for name, seeds in found.seeds.items()]
    masked = "history masked" if found.asked["mask_history"] else "history not masked"
    about = f"{found.dataset}, {found.asked['protocol']}, ties={found.asked['ties']}, {masked}"
    asked = f"{found.tested.users:,} users, {found.tested.targets:,} targets"
    head = ("", "A", "other", "difference", "95 % interval", "p", "corrected", "users", "by seed, %")
    lines = [head]
    for one in found.found:
        where = f", {one.slice}" if one.slice else ""
        lines.append(
            (
                f"over {letters[one.other]}: {pretty(one.metric)}{where}",
                f"{one.mean:.2f}",
                f"{one.other_mean:.2f}",
                "" if one.relative is None else f"{one.relative:+.1f} %",
                f"{one.interval[0]:+.2f} to {one.interval[1]:+.2f}",
                p_value(one.p_value),
                p_value(one.adjusted),
                f"{one.users:,}",
                " ".join("-" if value is None else f"{value:+.1f}" for value in one.by_seed.values()),
            )
        )
    wide = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rows = ["  ".join([line[0].ljust(wide[0]), *map(str.rjust, line[1:], wide[1:])]) for line in lines]
    told = (
        f"means in percent, intervals in points; p of paired tests over users, seeds averaged; corrected: Holm "
        f"over {len(found.found)} test{'s' * (len(found.found) > 1)}. What another seed would bring they do not say."
    )
    return "\n".join([*sides, f"{about}: {asked}", "", *(row.rstrip() for row in rows), "", told])


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
