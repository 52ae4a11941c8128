"""What runs add up to: mean and deviation over seeds; what of it is an improvement, ``comparisons`` says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole_eimf.config.placebo import read_shuffled
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.core.run_folder import METRICS_FILE
from recbole_eimf.evaluator.direction import less_is_better
from recbole_eimf.evaluator.ranks import Asked, asked_of
from recbole_eimf.study.rows import Row
from recbole_eimf.study.runs import OTHER_MASK, Run, read_of_run
from recbole_eimf.study.table.comparisons import Comparison, compare_rows

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
    metrics = _shown(experiment.metrics, known, all(_one_target(run.settings) for run in runs))
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
    """Whether each row of a split has one target, so that recall is the hit rate."""
    protocol = settings.get("protocol")
    whole_window = protocol == "global_time" and settings.get("time_target") == "all"
    return protocol != "user_split" and settings.get("ties") != "together" and not whole_window


def _shown(wanted: Sequence[str], known: Sequence[str], one_target: bool) -> list[str]:
    for metric in wanted:
        if metric not in known:
            raise ConfigError(
                f"metrics: {metric} is not computed.{suggestion(metric, known)} The runs compute {', '.join(known)}; "
                f"a file of --config_files says which others, by lines such as metrics: [Recall, NDCG, MAP] and "
                f"topk: [10, 50]."
            )
    if wanted:
        return list(wanted)
    places = sorted({int(k) for metric in known if (k := metric.partition("@")[2])})
    if not places:  # values (AUC, ...) have no k
        return list(known)
    if one_target:  # what is one figure is not tested twice
        first = "hit" if any(metric.startswith("hit@") for metric in known) else "recall"
        chosen = [f"{kind}@{k}" for k in dict.fromkeys((places[0], places[-1])) for kind in (first, "ndcg")]
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
    asked = {row: about for row, of_row in folders.items() if (about := asked_of(of_row[0]))}
    against = {line.row.name: line.row.against for line in lines}
    means = {row: {metric: figure.mean for metric, figure in of_row.items()} for row, of_row in figures.items()}
    return View(mask, chosen, figures, compare_rows(against, metrics, means, folders, whole), seeds, asked)


def _figure(values: Sequence[float]) -> Figure:
    return Figure(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


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
