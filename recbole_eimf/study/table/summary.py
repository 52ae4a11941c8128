"""What runs add up to: mean and deviation over seeds, improvements, and paired significance over users."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_eimf.config.placebo import read_shuffled
from recbole_eimf.core.errors import ConfigError, DataError, suggestion
from recbole_eimf.core.files import fingerprint
from recbole_eimf.core.run_folder import METRICS_FILE, RANKS_FILE
from recbole_eimf.evaluator.direction import less_is_better
from recbole_eimf.evaluator.ranks import Asked, Ranks, asked_of, check_same_users, read_ranks
from recbole_eimf.evaluator.significance import LEVEL, PairedTest, flips_for, holm, paired_test
from recbole_eimf.study.rows import FRAMED, Row
from recbole_eimf.study.runs import OTHER_MASK, Run, read_of_run

NO_HARD_NEGATIVES = ", no hard negatives"
_NAMES = {
    "hit": "HR", "recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "map": "MAP", "precision": "Precision",
    "ndcg_hits": "NDCG(hits)",
}  # fmt: skip


@dataclass(frozen=True)
class Searched:
    """What a search found for a row on validation (a fraction): the best of ``trials``, and what it began with."""

    trials: int
    metric: str
    score: float | None
    start: float | None
    trial: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """What a table is about.

    ``shared`` are the keys of all rows; ``columns`` are further columns, a title and a path into ``result.json``
    (``side_load.clusters``); ``axis`` labels a study's x-axis; ``remarks`` stand below the table; ``searched`` is what
    ``tune_first`` found, by row.
    """

    title: str
    dataset: str
    rows: Sequence[Row]
    seeds: Sequence[int]
    shared: Mapping[str, Any]
    command: str
    metrics: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    axis: str | None = None
    remarks: tuple[str, ...] = ()
    searched: Mapping[str, Searched] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A metric of a row in percent: ``mean`` and sample deviation over seeds (None of a single one)."""

    mean: float
    deviation: float | None


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


@dataclass
class Line:
    """A row with what its runs found: ``results`` of finished ones, ``errors`` (seed, why) of failed ones."""

    row: Row
    runs: list[Run]

    @property
    def shown(self) -> str:
        """The row's name, with what it lacks of what the name promises."""
        of_files = " (placebo)" if self.placebo and not self.row.placebo else ""
        return self.row.name + (NO_HARD_NEGATIVES if self.bare else "") + of_files

    @property
    def bare(self) -> bool:
        """Whether it is REMI without its hard negatives."""
        settings = self.runs[0].settings if self.runs else {}
        return settings.get("backbone") == "REMI" and not settings.get("remi_beta")

    @property
    def placebo(self) -> bool:
        """Whether its keys make it one, or the files that its runs read."""
        return self.row.placebo or any(read_shuffled(result.get("side_load")) for result in self.results)

    @property
    def floor(self) -> bool:
        """Whether it is shown as a floor: those of every table, and other models that count (TextKNN), as they come."""
        return self.row.floor or (self.row.counting and not self.row.keys)

    @cached_property
    def done(self) -> list[tuple[Run, dict[str, Any]]]:
        return [(run, run.result()) for run in self.runs if run.finished]

    @property
    def results(self) -> list[dict[str, Any]]:
        return [result for _, result in self.done]

    @cached_property
    def notes(self) -> list[dict[str, Any]]:
        """``run.json`` of every finished run."""
        return [run.notes() for run, _ in self.done]

    @cached_property
    def errors(self) -> list[tuple[int, str]]:
        return [(run.seed, error) for run in self.runs if (error := run.error())]

    def mean_of(self, path: str) -> float | None:
        """The mean over seeds of a number of ``result.json``, by its path, or None."""
        values = [_at(result, path) for result in self.results]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        return statistics.mean(numbers) if numbers else None


@dataclass
class View:
    """One way to evaluate: ``figures`` by row and metric (all of them), ``comparisons`` in the shown metrics.

    ``chosen`` says whether checkpoints were chosen by a validation metric of this kind. ``seeds``: row -> seed ->
    metric in percent. ``tested``: whom each row was tested on, where its runs kept their ranks.
    """

    mask_history: bool
    chosen: bool
    figures: dict[str, dict[str, Figure]]
    comparisons: list[Comparison]
    seeds: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    tested: dict[str, Asked] = field(default_factory=dict)

    def marks(self, metric: str) -> dict[str, str]:
        """The rows with the ``best`` and the ``second`` mean of a metric; equal means share a place."""
        means = {row: round(f[metric].mean, 6) for row, f in self.figures.items() if metric in f}
        places = sorted(set(means.values()), reverse=not less_is_better(metric))[:2]
        return {row: ("best", "second")[places.index(mean)] for row, mean in means.items() if mean in places}

    def found(self, row: str, other: str, metric: str) -> Comparison | None:
        return next((c for c in self.comparisons if (c.row, c.other, c.metric) == (row, other, metric)), None)


@dataclass
class Summary:
    """Everything that tables and figures print.

    ``metrics`` are those shown, ``main`` is the one that checkpoints were chosen by (the first shown, if that one is
    not shown); ``ties``: the key, "" where rows differ in it; ``slices``: row -> slice -> metric in percent of the
    first view, and the number of ``targets``.
    """

    experiment: Experiment
    lines: list[Line]
    protocol: str
    metrics: list[str]
    main: str
    views: list[View]
    slices: dict[str, dict[str, dict[str, float]]]
    planned: int
    finished: int
    ties: str = ""

    def shown(self, row: str) -> str:
        """What a table calls a row; other words (several backbones together) as they are."""
        return next((line.shown for line in self.lines if line.row.name == row), row)


def pretty(metric: str) -> str:
    """How a table writes a metric.

    >>> pretty("hit@50"), pretty("ndcg@10")
    ('HR@50', 'NDCG@10')
    """
    kind, _, k = metric.partition("@")
    return f"{_NAMES.get(kind, kind)}@{k}" if k else kind


def summarise(experiment: Experiment, runs: Sequence[Run], masks: Sequence[bool]) -> Summary:
    """Add up what is there; unfinished and failed runs leave gaps.

    Args:
        masks: the values of ``mask_history`` to report, the one that checkpoints were chosen with first.

    Raises:
        ConfigError: ``experiment.metrics`` names one that the runs do not compute.
    """
    lines = [Line(row, [run for run in runs if run.row.name == row.name]) for row in experiment.rows]
    settings = runs[0].settings
    known = [
        name for k in settings["topk"] for name in (f"{m}@{k}".lower() for m in settings["metrics"] if not _is_value(m))
    ]
    known += [metric.lower() for metric in settings["metrics"] if _is_value(metric)]
    protocol = str(settings["protocol"])
    metrics = _shown(experiment.metrics, known, protocol, all(_one_target(run.settings) for run in runs))
    main = str(settings["valid_metric"]).lower()
    if main not in metrics and (alike := main.replace("recall@", "hit@")) in metrics and not experiment.metrics:
        main = alike  # recall is left out where it is the hit rate
    finished = sum(len(line.done) for line in lines)
    ended = all(run.finished or run.error() for run in runs)
    return Summary(
        experiment,
        lines,
        protocol,
        metrics,
        main if main in metrics else (metrics or [main])[0],
        [_view(lines, metrics, mask, mask == masks[0], ended) for mask in masks],
        {line.row.name: _sliced(line.results) for line in lines if line.results},
        planned=len(runs),
        finished=finished,
        ties=_same({str(run.settings.get("ties", "source")) for run in runs}),
    )


def _is_value(metric: str) -> bool:
    """Whether a metric (AUC, LogLoss, ...) is of scores, not of the first k places."""
    from recbole.evaluator.register import metric_types
    from recbole.utils import EvaluatorType

    return metric_types.get(metric.lower()) == EvaluatorType.VALUE


def _same(values: set[str]) -> str:
    return values.pop() if len(values) == 1 else ""


def _one_target(settings: Mapping[str, Any]) -> bool:
    """Whether ``global_time`` asks for one target at a time, so that recall is the hit rate."""
    several = settings.get("time_target") == "all" or settings.get("ties") == "together"
    return settings.get("protocol") == "global_time" and not several


def _shown(wanted: Sequence[str], known: Sequence[str], protocol: str, one_target: bool) -> list[str]:
    for metric in wanted:
        if metric not in known:
            raise ConfigError(
                f"metrics: {metric} is not computed.{suggestion(metric, known)} The runs compute {', '.join(known)}; "
                f"the keys metrics (in brackets: [Recall,NDCG]) and topk say which."
            )
    if wanted:
        return list(wanted)
    places = sorted({int(k) for metric in known if (k := metric.partition("@")[2])})
    if not places:  # values (AUC, ...) have no k
        return list(known)
    if one_target:  # what is one figure is not tested twice
        first = "hit" if any(metric.startswith("hit@") for metric in known) else "recall"
        chosen = [f"{kind}@{k}" for k in dict.fromkeys((places[0], places[-1])) for kind in (first, "ndcg")]
    elif protocol == "leave_one_out":  # with one target per user recall is the hit rate
        chosen = [f"{kind}@{k}" for k in dict.fromkeys((places[0], places[-1])) for kind in ("hit", "ndcg")]
    else:
        chosen = [f"{kind}@{k}" for k in places[-2:] for kind in ("recall", "hit", "ndcg")]
    return [metric for metric in chosen if metric in known] or list(known)


def _view(lines: Sequence[Line], metrics: Sequence[str], mask: bool, chosen: bool, whole: bool) -> View:
    folders: dict[str, list[Path]] = {}
    figures: dict[str, dict[str, Figure]] = {}
    seeds: dict[str, dict[int, dict[str, float]]] = {}
    for line in lines:
        tests: dict[int, dict[str, float]] = {}
        for run, result in line.done:
            folder = run.folder if bool(result["mask_history"]) == mask else run.folder / OTHER_MASK
            test = result["test"] if folder == run.folder else read_of_run(folder / METRICS_FILE)
            if test:
                tests[run.seed] = {metric: 100 * value for metric, value in test.items()}
                folders.setdefault(line.row.name, []).append(folder)
        if tests:
            seeds[line.row.name], every = tests, list(tests.values())
            figures[line.row.name] = {m: _figure([t[m] for t in every]) for m in every[0] if all(m in t for t in every)}
    single = [
        _Question(line.row.name, other, [(line.row.name, other)], metric)
        for line in lines
        for other in line.row.against
        for metric in metrics
        if metric in figures.get(line.row.name, ()) and metric in figures.get(other, ())
    ]
    asked = {row: about for row, of_row in folders.items() if (about := asked_of(of_row[0]))}
    questions = [*single, *_pooled(single)]
    flips = flips_for(len(questions) if whole else 1, LEVEL)  # finer p-values once, when all runs are there
    found = [_difference(question, figures, folders, flips) for question in questions]
    return View(mask, chosen, figures, _corrected(found), seeds, asked)


def _figure(values: Sequence[float]) -> Figure:
    return Figure(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


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


def _difference(question: _Question, figures, folders, flips: int) -> Comparison:
    """The mean over pairs of rows, and its test."""
    name, against, pairs, metric = question
    mine, theirs = (statistics.mean(figures[row][metric].mean for row in side) for side in zip(*pairs))
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


def _sliced(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Slice -> targets, and the mean over seeds of each metric; the range ``0`` is ``unseen``, and not there twice."""
    means: dict[str, dict[str, float]] = {}
    found = results[0].get("slices") or {}
    for name in found:
        if name == "0" and "unseen" in found:
            continue
        every = [result["slices"][name] for result in results if name in (result.get("slices") or {})]
        means[name] = {"targets": every[0]["targets"]}
        for metric in every[0]:
            if "@" in metric:
                means[name][metric] = 100 * statistics.mean(slice[metric] for slice in every)
    return means


def _at(result: Any, path: str) -> Any:
    for name in path.split("."):
        result = result.get(name) if isinstance(result, Mapping) else None
    return result
