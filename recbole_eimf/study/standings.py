"""Who stands where over several tables: mean ranks, Friedman's test, Nemenyi's critical difference (Demšar 2006).

A *table* is a data set under a protocol, as ``results.json`` of a comparison holds it. Rows are ranked within every
table and seed, and ranks averaged. The tests count tables, never seeds: seeds of one data set are not further evidence
about the next one, they only steady its ranks.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_eimf.config.models import MODELS
from recbole_eimf.config.placebo import is_placebo, read_shuffled
from recbole_eimf.core.errors import DataError
from recbole_eimf.evaluator.direction import less_is_better
from recbole_eimf.study.rows import FRAMED


@dataclass(frozen=True)
class Gain:
    """A row against its backbone in one table: relative difference in %, and Holm's p over that table's tests."""

    relative: float | None
    p_value: float | None


@dataclass(frozen=True)
class Standing:
    """A row over all tables.

    ``rank``: the mean over tables of the mean over seeds, 1 is best; ``ranks``: a mean rank for each table;
    ``figures``: (mean, deviation over seeds or None) of the metric in percent for each table; ``gains``: over its
    backbone, for each table, None where it has none; ``parameters``, ``seconds`` of a training, ``epoch`` seconds:
    means over tables; ``calls``: replies of an LLM it was trained with, 0 for none, summed over tables; ``floor``: it
    is not trained; ``placebo``: it stands for another row with what that one's claim is about taken away;
    ``shown``: what the tables call it.
    """

    name: str
    rank: float
    ranks: tuple[float, ...]
    figures: tuple[tuple[float, float | None], ...]
    gains: tuple[Gain | None, ...]
    parameters: float
    seconds: float
    epoch: float
    calls: int
    floor: bool
    placebo: bool = False
    shown: str = ""


@dataclass(frozen=True)
class Standings:
    """Rows by mean rank, best first.

    ``tables``: what they stand over, such as ``amazon-office, leave_one_out``; ``seeds``: how many each table has of
    all trained rows, which are those that ranks are of; ``left_out``: rows that not every table has, or that share no
    seed with the others, with why; ``p_value``: of Friedman's test that all rows are alike, None where one table cannot
    tell; ``difference``: ranks closer than this are not told apart (Nemenyi, 0.05).
    """

    metric: str
    rows: list[Standing]
    tables: list[str]
    seeds: list[int]
    p_value: float | None
    difference: float
    left_out: dict[str, str] = field(default_factory=dict)

    def alike(self) -> list[tuple[int, int]]:
        """(first, last) of every longest run of rows, by rank, that are not told apart."""
        found: list[tuple[int, int]] = []
        ranks = [row.rank for row in self.rows]
        for first in range(len(ranks)):
            last = max(i for i in range(first, len(ranks)) if ranks[i] - ranks[first] < self.difference)
            if last > first and (not found or last > found[-1][1]):
                found.append((first, last))
        return found


def critical_difference(rows: int, tables: int, level: float = 0.05) -> float:
    """Nemenyi's: q sqrt(k (k + 1) / (6 N)), q the studentised range's quantile over sqrt 2 (Demšar 2006, 3.2.2).

    >>> round(critical_difference(4, 14), 3)  # Demšar's example: 2.569 sqrt(4 5 / (6 14))
    1.254
    """
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(1 - level, rows, math.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(rows * (rows + 1) / (6 * tables)))


def friedman(ranks: np.ndarray) -> float | None:
    """The p-value that all rows are alike, by Iman and Davenport's F (Demšar 2006, 3.2.2), corrected for ties.

    Means over seeds are ranked anew within each table: the test takes a table's ranks to be 1 to k, and means vary
    less. Under the hypothesis every order of a table's ranks is as likely, so no outcome is rarer than that all tables
    agree: k!^(1 - N) where no ranks are tied. F falls below that with few tables, to 0 where they do agree.

    Args:
        ranks: [N, k], of k rows in N tables, 1 for the best.

    Returns:
        None for one table or one row, which cannot tell.
    """
    from scipy.stats import f

    tables, rows = ranks.shape
    if tables < 2 or rows < 2:
        return None
    # equal means may differ in their last digit
    within = np.array([rank_within([-round(float(rank), 9) for rank in table]) for table in ranks])
    apart = within - (rows + 1) / 2
    if not apart.any():  # all are tied in every table
        return 1.0
    chi = (rows - 1) * np.square(apart.sum(0)).sum() / np.square(apart).sum()
    left = tables * (rows - 1) - chi
    by_f = float(f.sf((tables - 1) * chi / left, rows - 1, (rows - 1) * (tables - 1))) if left > 1e-9 else 0.0
    orders = [math.lgamma(rows + 1) - sum(math.lgamma(n + 1) for n in Counter(table).values())
              for table in within.tolist()]  # fmt: skip
    return max(by_f, math.exp(max(orders) - sum(orders)))  # orders: logarithms of how many a table's ranks have


def rank_within(values: Sequence[float]) -> list[float]:
    """Ranks, 1 for the largest; equal values share the mean of theirs.

    >>> rank_within([0.3, 0.5, 0.5, 0.1])
    [3.0, 1.5, 1.5, 4.0]
    """
    return [
        1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def by_backbone(found: Standings, tables: Sequence[Mapping[str, Any]]) -> dict[str, Standings]:
    """Standings among the rows over one backbone, itself and the rows without training; one entry, ``""``, of all rows
    where they stand over fewer than two backbones. A backbone with one row that is ranked has no entry."""
    inner = {row.name: framed["inner"] for row in found.rows if (framed := FRAMED.fullmatch(row.name))}
    backbones = list(dict.fromkeys(inner[row["name"]] for row in tables[0]["rows"] if row["name"] in inner))
    if len(backbones) < 2:
        return {"": found}
    ranked = {row.name for row in found.rows}
    floors = {row.name for row in found.rows if row.floor}
    over = {name: ranked & {name, *floors, *(row for row in inner if inner[row] == name)} for name in backbones}
    return {name: standings(tables, found.metric, rows) for name, rows in over.items() if len(rows) > 1}


def standings(tables: Sequence[Mapping[str, Any]], metric: str, among: Collection[str] | None = None) -> Standings:
    """Rank the rows that all tables have, within each table by the seeds that all its trained rows have.

    Where there is no such seed, that of most rows counts and the rows that lack it are left out.

    Args:
        tables: contents of ``results.json``, one a data set and protocol; metric: such as ``ndcg@10``; among: names of
            rows, the others are as if they were not there; None is all.

    Raises:
        DataError: fewer than two rows have a figure in every table.
    """
    values = [_by_row(table, metric) for table in tables]
    named = list(dict.fromkeys(row["name"] for table in tables for row in table["rows"]))
    named = [name for name in named if among is None or name in among]
    left_out = {}
    for name in named:
        if lacking := [table for table, found in zip(tables, values) if name not in found]:
            there = {title_of(table): found[name] for table, found in zip(tables, values) if name in found}
            left_out[name] = _lacks(name, lacking, there)
    counting = {row["name"] for table in tables for row in table["rows"] if counts(row)}
    for table, found in zip(tables, values):
        trained = [name for name in named if name not in left_out and name not in counting]
        for name in _without_common_seed(found, trained):
            left_out[name] = f"shares no seed with the other rows in {title_of(table)}: has {', '.join(found[name])}"
    kept = [name for name in named if name not in left_out]
    if len(kept) < 2:
        raise DataError(f"the arena has fewer than two rows with {metric} in every table: nothing to rank yet.")
    ranks, seeds = [], []
    sign = -1 if less_is_better(metric) else 1
    for found in values:
        common = _common_seeds(found, [name for name in kept if name not in counting]) or [next(iter(found[kept[0]]))]
        seeds.append(len(common))
        per_seed = [rank_within([sign * _at_seed(found[name], seed) for name in kept]) for seed in common]
        ranks.append(np.mean(per_seed, axis=0))
    table_ranks = np.stack(ranks)  # [N, k]
    mean = table_ranks.mean(0)
    rows = [
        _standing(name, float(mean[k]), tuple(map(float, table_ranks[:, k])), tables, values, metric)
        for k, name in enumerate(kept)
    ]
    rows.sort(key=lambda row: (row.rank, row.name))
    difference = critical_difference(len(kept), len(tables))
    return Standings(metric, rows, list(map(title_of, tables)), seeds, friedman(table_ranks), difference, left_out)


def title_of(table: Mapping[str, Any]) -> str:
    """What a table is called: its data set and protocol."""
    return f"{table['dataset']}, {table['protocol']}"


def rows_with(table: Mapping[str, Any], metric: str) -> int:
    """How many rows of a table have a figure: fewer than two are no table to rank by."""
    return len(_by_row(table, metric))


def _by_row(table: Mapping[str, Any], metric: str) -> dict[str, dict[str, float]]:
    """Row -> seed -> figure, of rows that have one; of the view that checkpoints were chosen by."""
    found = {name: of_row.get(metric, {}).get("seeds", {}) for name, of_row in table["views"][0]["rows"].items()}
    return {name: seeds for name, seeds in found.items() if seeds and None not in seeds.values()}


def _common_seeds(found: Mapping[str, Mapping[str, float]], trained: Sequence[str]) -> list[str]:
    """The seeds that all trained rows have."""
    return sorted(set.intersection(*(set(found[name]) for name in trained)), key=int) if trained else []


def _without_common_seed(found: Mapping[str, Mapping[str, float]], trained: Sequence[str]) -> list[str]:
    """Those that lack the seed that most trained rows have (of several the smallest): none where all share one."""
    if not trained:
        return []
    had = Counter(seed for name in trained for seed in found[name])
    most = min(had, key=lambda seed: (-had[seed], int(seed)))
    return [name for name in trained if most not in found[name]]


def _at_seed(seeds: Mapping[str, float], seed: str) -> float:
    """A row's figure for a seed; a counting row has one for all."""
    return seeds[seed] if seed in seeds else statistics.mean(seeds.values())


def _lacks(name: str, tables: Sequence[Mapping[str, Any]], there: Mapping[str, Mapping[str, float]]) -> str:
    """Why a row is not ranked, and its figures ``there``, in the other tables.

    A floor that forgets, say, stands only in tables of one time for all.
    """
    never = [title_of(table) for table in tables if name not in {row["name"] for row in table["rows"]}]
    waiting = [title_of(table) for table in tables if title_of(table) not in never]
    parts = [("no such row in", never), ("no figure yet in", waiting)]
    reasons = [f"{what} {'; '.join(titles)}" for what, titles in parts if titles]
    figures = [f"{statistics.mean(seeds.values()):.2f} in {title}" for title, seeds in there.items()]
    return ", ".join([*reasons, *figures])


def _standing(name, rank, ranks, tables, values, metric) -> Standing:
    entries = [next(row for row in table["rows"] if row["name"] == name) for table in tables]
    runs = [run for entry in entries for run in entry["runs"]]
    figures = []
    for found in values:
        each = list(found[name].values())
        figures.append((statistics.mean(each), statistics.stdev(each) if len(each) > 1 else None))
    return Standing(
        name,
        rank,
        ranks,
        tuple(figures),
        tuple(_gain(table, name, metric) for table in tables),
        statistics.mean(run["parameters"] for run in runs),
        statistics.mean(run["train_seconds"] for run in runs),
        statistics.mean(run["seconds_per_epoch"] for run in runs),
        sum(_calls(entry) for entry in entries),
        counts(entries[0]),
        is_placebo(entries[0].get("keys", {})) or any(read_shuffled(run["side_load"]) for run in runs),
        entries[0].get("shown", name),
    )


def counts(entry: Mapping[str, Any]) -> bool:
    """Whether a row only counts, so that one run stands for every seed."""
    card = MODELS.get(entry["model"])
    return entry.get("counting", card is not None and card.family.endswith("floor"))  # older tables do not say it


def _calls(entry: Mapping[str, Any]) -> int:
    """Replies of an LLM behind a row in one table, once for all seeds: one for each exemplar, and each known item."""
    told = [run["side_load"] or {} for run in entry["runs"]]
    users = max((int(side.get("exemplars", 0)) for side in told if side.get("llm_used")), default=0)
    return users + max((int(side.get("knowledge", {}).get("items_known", 0)) for side in told), default=0)


def _gain(table: Mapping[str, Any], name: str, metric: str) -> Gain | None:
    framed = FRAMED.fullmatch(name)
    if not framed:
        return None
    base = _trained_alike(table, name) or framed["inner"]
    for one in table["views"][0]["comparisons"]:
        if (one["row"], one["other"], one["metric"]) == (name, base, metric):
            return Gain(one["relative"], one["adjusted"])
    rows = table["views"][0]["rows"]  # in a metric that was not tested
    mine, theirs = (rows.get(row, {}).get(metric, {}).get("mean") for row in (name, base))
    return Gain(100 * (mine - theirs) / theirs, None) if mine is not None and theirs else None


def _trained_alike(table: Mapping[str, Any], name: str) -> str | None:
    """The backbone's own row in the recipe of a row that is measured against it (``backbone paper``), if there is one:
    against a backbone of another form a difference would be that of the forms too."""
    entries = {entry["name"]: entry for entry in table["rows"]}
    keys = entries[name].get("keys") or {}
    if "recipe" not in keys:
        return None
    alike = {"backbone": keys.get("backbone"), "recipe": keys["recipe"]}
    for other in entries[name].get("against", ()):
        entry = entries.get(other, {})
        if entry.get("model") == "IBIM" and entry.get("keys") == alike:
            return other
    return None
