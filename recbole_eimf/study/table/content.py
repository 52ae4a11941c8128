"""What every form of a table says, as grids of cells: Markdown, LaTeX and the page only write it down."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

from recbole_eimf.study.table.comparisons import Comparison
from recbole_eimf.study.table.notes import seconds_title
from recbole_eimf.study.table.summary import Figure, Line, Searched, Summary, View, pretty

EMPTY = "–"


class Column(NamedTuple):
    """A column of a grid; ``k`` is that of its metric, None where it has none; ``words``: it holds a line of text."""

    title: str
    k: int | None = None
    words: bool = False


class Entry(NamedTuple):
    """A cell: its text, further ``details``, its place in the column (``best``, ``second`` or nothing), ``signs`` for
    differences from the first (0) and second (1) other row, and whether a difference is significant (None: no test)."""

    text: str
    details: tuple[str, ...] = ()
    mark: str = ""
    signs: tuple[int, ...] = ()
    sure: bool | None = None


class GridRow(NamedTuple):
    """``entries`` are a cell per column after the first; ``reason`` stands in their place where a row has none.

    ``kind``: ``floor``, ``last-floor``, ``failed``, ``waiting`` or nothing.
    """

    name: str
    entries: tuple[Entry, ...] = ()
    kind: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Grid:
    """A table: the first column holds the rows' names."""

    columns: list[Column]
    rows: list[GridRow] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rows)


# ---------------------------------------------------------------------- the table itself
def metric_columns(metrics: Sequence[str]) -> list[Column]:
    """A column per metric."""
    return [Column(pretty(metric), k_of(metric)) for metric in metrics]


def k_of(metric: str) -> int | None:
    """The k of ``ndcg@10``."""
    k = metric.partition("@")[2]
    return int(k) if k else None


def main(summary: Summary, view: View, metrics: Sequence[str]) -> Grid:
    """Rows with their metrics, improvement, epochs, seconds, parameters and the experiment's further columns."""
    fixed = [f"{pretty(summary.main)} over base, %", "epochs", seconds_title(summary), "parameters"]
    columns = [Column("model"), *metric_columns(metrics), *map(Column, [*fixed, *summary.experiment.columns])]
    floors = len(list(takewhile(lambda line: line.floor, summary.lines)))
    rows = []
    for index, line in enumerate(summary.lines):
        kind = ("last-floor" if index == floors - 1 else "floor") if line.floor else ""
        reason = why_empty(line)
        if reason:
            rows.append(GridRow(line.shown, (), "failed" if line.errors else "waiting", reason))
        else:
            rows.append(GridRow(line.shown, tuple(_cells(summary, view, line, metrics)), kind))
    return Grid(columns, rows)


def _cells(summary: Summary, view: View, line: Line, metrics: Sequence[str]) -> list[Entry]:
    figures = view.figures.get(line.row.name, {})
    row = []
    for metric in metrics:
        if metric in figures:
            mark = view.marks(metric).get(line.row.name, "")
            row.append(Entry(number(figures[metric]), mark=mark, signs=_signs(view, line, metric)))
        else:
            row.append(Entry(EMPTY))
    compared = next((c for o in line.row.against if (c := view.found(line.row.name, o, summary.main))), None)
    better = f"{compared.relative:+.1f}" if compared and compared.relative is not None else ""
    efforts = [("epochs", ".0f"), ("seconds_per_epoch", ".2f"), ("parameters", ",.0f")]
    efforts += [(path, ",.6g") for path in summary.experiment.columns.values()]
    return [*row, Entry(better), *(Entry(effort(line, path, form)) for path, form in efforts)]


def number(figure: Figure) -> str:
    """``27.43 ± 0.82``, or ``27.43`` of a single run."""
    return f"{figure.mean:.2f}" + (f" ± {figure.deviation:.2f}" if figure.deviation is not None else "")


def effort(line: Line, path: str, form: str) -> str:
    """A number of the runs, averaged, or a dash where nothing was trained or found."""
    value = line.mean_of(path)
    trained = path not in ("epochs", "seconds_per_epoch", "parameters") or not line.row.counting
    return format(value, form) if value is not None and trained else EMPTY


def _signs(view: View, line: Line, metric: str) -> tuple[int, ...]:
    tested = [view.found(line.row.name, other, metric) for other in line.row.against[:2]]
    return tuple(index for index, c in enumerate(tested) if c is not None and c.significant)


def why_empty(line: Line) -> str | None:
    """What stands instead of figures in a row that has none."""
    if line.results:
        return None
    return f"failed: {line.errors[0][1]}" if line.errors else "not run yet"


# ---------------------------------------------------------------------- differences
def pairs(view: View) -> list[tuple[str, str]]:
    """The (row, other) pairs that are compared."""
    return list(dict.fromkeys((c.row, c.other) for c in view.comparisons))


def differences(summary: Summary, view: View) -> Grid:
    """Every compared pair in the shown metrics: points, per cent, 95 % interval, raw and corrected p."""
    rows = [
        GridRow(
            _pair(summary, row, other), tuple(_difference(view.found(row, other, metric)) for metric in summary.metrics)
        )
        for row, other in pairs(view)
    ]
    return Grid([Column("points (relative)"), *metric_columns(summary.metrics)], rows)


def _pair(summary: Summary, row: str, other: str) -> str:
    return f"{summary.shown(row)} − {summary.shown(other)}"


def tests(summary: Summary, view: View) -> Grid:
    """The same with a row per pair and metric, for forms whose cells hold one line."""
    columns = ["row − other", "metric", "points", "relative, %", "95 % CI", "p", "corrected p"]
    rows = []
    for c in view.comparisons:
        relative = f"{c.relative:+.1f}" if c.relative is not None else EMPTY
        tested = [EMPTY] * 3 if c.test is None or c.adjusted is None else [
            _interval(c), p_value(c.test.p_value), p_value(c.adjusted),
        ]  # fmt: skip
        cells = [pretty(c.metric), f"{c.points:+.2f}", relative, *tested]
        rows.append(GridRow(_pair(summary, c.row, c.other), tuple(map(Entry, cells))))
    return Grid(list(map(Column, columns)), rows)


def _interval(c: Comparison) -> str:
    low, high = (100 * end for end in c.test.confidence_interval)
    return f"{low:+.2f} to {high:+.2f}" if math.isfinite(high - low) else EMPTY  # of one user there is none


def _difference(c: Comparison | None) -> Entry:
    if c is None:
        return Entry(EMPTY)
    text = f"{c.points:+.2f}" + (f" ({c.relative:+.1f} %)" if c.relative is not None else "")
    if c.test is None or c.adjusted is None:
        return Entry(text, ("not tested",))
    details = (f"95 % CI {_interval(c)}", f"p {p_value(c.test.p_value)}, corrected {p_value(c.adjusted)}")
    return Entry(text, details, sure=c.significant)


def p_value(value: float) -> str:
    """Two significant digits.

    >>> p_value(0.01234), p_value(0.00099), p_value(0.001), p_value(1.0)
    ('0.012', '<0.001', '0.001', '1')
    """
    return "<0.001" if value < 0.001 else f"{value:.2g}"


# ---------------------------------------------------------------------- runs, slices, coverage
def runs(summary: Summary, view: View, metrics: Sequence[str]) -> Grid:
    """Every finished run: its test metrics, and which epoch was tested and why."""
    valid = str(summary.lines[0].runs[0].settings["valid_metric"]).lower()
    fixed = [f"validation {pretty(valid)}", "best epoch", "epochs", seconds_title(summary)]
    columns = [Column("model"), Column("seed"), *metric_columns(metrics), *map(Column, fixed)]
    rows = []
    for line in summary.lines:
        of_row = view.seeds.get(line.row.name, {})
        for _, result in line.done:
            test = of_row.get(result["seed"], {})
            figures = [f"{test[metric]:.2f}" if metric in test else EMPTY for metric in metrics]
            trained = [EMPTY] * 3 if line.row.counting else [
                f"{result['best_epoch'] + 1}" if "best_epoch" in result else EMPTY,
                f"{result['epochs']}",
                f"{result['seconds_per_epoch']:.2f}",
            ]  # fmt: skip
            score = f"{100 * result['valid'][valid]:.2f}" if valid in result["valid"] else EMPTY
            cells = [str(result["seed"]), *figures, score, *trained]
            rows.append(GridRow(line.shown, tuple(map(Entry, cells)), "floor" if line.floor else ""))
    return Grid(columns, rows)


def slice_names(summary: Summary) -> list[tuple[str, int]]:
    """The slices that hold some of the targets, with their number; one that holds all of them says nothing more."""
    first = next(iter(summary.slices.values()), {})
    every = sum(first[name]["targets"] for name in ("tied", "untied")) if "untied" in first else None
    return [(n, int(values["targets"])) for n, values in first.items() if values["targets"] not in (0, every)]


_THIRDS = "rare to frequent in training, a third of its interactions each"
#: slices that are no ranges of training interactions -> which targets they hold
_SLICES_SAID = {
    "unseen": "no training interaction", "cold": _THIRDS, "median": _THIRDS, "warm": _THIRDS,
    "tied": "the time of the item before it", "untied": "another time than the item before it",
    "new_user": "of users whom training does not know", "repeat": "the user had the item before",
    "seen": "all but the unseen",
}  # fmt: skip


def slices_said(summary: Summary) -> list[tuple[str, str]]:
    """(names, which targets they hold) of the slices that a table shows."""
    found: dict[str, list[str]] = {}
    for name, _ in slice_names(summary):
        of_history = name.startswith("history_")
        said = "the user had so many events before" if of_history else "so many training interactions"
        found.setdefault(_SLICES_SAID.get(name, said), []).append(name)
    return [(", ".join(names), said) for said, names in found.items()]


def slice_metric(summary: Summary) -> str:
    """What slices show: the main metric where they have it."""
    has = {m for row in summary.slices.values() for slice in row.values() for m in slice}
    return next((m for m in (summary.main, *summary.metrics) if m in has), summary.main)


def slices(summary: Summary, metric: str) -> Grid:
    """A metric by kind of target."""
    names = slice_names(summary)
    if not names:
        return Grid([])
    rows = [
        GridRow(
            summary.shown(row),
            tuple(Entry(f"{v[n][metric]:.2f}" if metric in v.get(n, {}) else EMPTY) for n, _ in names),
        )
        for row, v in summary.slices.items()
    ]
    return Grid([Column("model"), *(Column(f"{name} ({targets:,} targets)") for name, targets in names)], rows)


#: title of a column -> what ``side_load`` counts, one or several together, and of how many
_COVERAGE: dict[str, tuple[str | tuple[str, ...], str | None]] = {
    "items with text": ("items_with_text", "items"),
    "exemplars": ("exemplars", None),
    "of them without interests": ("exemplars_without_interests", None),
    "replies unused": (("exemplars_not_in_training", "replies_that_know_held_out_items"), None),
    "of them naming held-out items": ("replies_that_know_held_out_items", None),
    "replies failed": ("failed_replies", None),
    "replies to other histories": ("replies_of_another_history", None),
    "replies unchecked": ("replies_unchecked", None),
    "users moved to the nearest exemplar": ("users_moved_to_nearest_exemplar", None),
    "users of an unchecked assignment": ("users_of_unchecked_assignment", None),
    "users with interests": ("training_users_with_interests", "training_users"),
    "items an LLM knows": ("knowledge.items_known", "knowledge.items_with_text"),
}


def coverage(summary: Summary) -> Grid:
    """What text and interests reached, of every row that reads them; columns that no row fills are left out."""
    reports = {
        line.shown: found for line in summary.lines
        if (found := [_flat(r["side_load"]) for r in line.results if r.get("side_load")])
    }  # fmt: skip
    cells = {
        name: [*(str(found[0].get(key, EMPTY)) for key in ("text_source", "source")),
               *(_covered(found, *keys) for keys in _COVERAGE.values())]
        for name, found in reports.items()
    }  # fmt: skip
    titles = ["text", "interests", *_COVERAGE]
    kept = [i for i in range(len(titles)) if any(row[i] != EMPTY for row in cells.values())]
    rows = [GridRow(name, tuple(Entry(row[i]) for i in kept)) for name, row in cells.items()]
    return Grid([Column("model"), *(Column(titles[i]) for i in kept)], rows)


def searches(summary: Summary) -> Grid:
    """What a search found for each row on validation, where there was one."""
    found = summary.experiment.searched
    if not found:
        return Grid([])
    metric = pretty(next(iter(found.values())).metric)
    rows = []
    for line in summary.lines:
        if (told := found.get(line.row.name)) is None:
            continue
        scores = (EMPTY if score is None else f"{100 * score:.2f}" for score in (told.start, told.score))
        cells = [str(told.trials), *scores, str(told.trial), _settings(told)]
        rows.append(GridRow(line.shown, tuple(map(Entry, cells))))
    titles = ["trials", f"validation {metric} as it stood, %", "best, %", "of trial"]
    return Grid([Column("model"), *map(Column, titles), Column("settings", words=True)], rows)


def _settings(told: Searched) -> str:
    if told.trial == 0:  # the first is the configuration as it stands
        return "as they stood"
    return ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in told.settings.items())


def coverage_counts(line: Line) -> dict[str, float]:
    """What :func:`coverage` shows of a row, by the names in ``side_load``: means over seeds."""
    reports = [_flat(r["side_load"]) for r in line.results if r.get("side_load")]
    every = [key for keys, whole in _COVERAGE.values() for key in (*([keys] if isinstance(keys, str) else keys), whole)]
    found = {key: [_total(report[key]) for report in reports if key in report] for key in every if key}
    return {key: statistics.mean(values) for key, values in found.items() if values}


def _flat(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report, with what it says of an LLM's knowledge of items as ``knowledge.<name>``."""
    return {**report, **{f"knowledge.{name}": value for name, value in (report.get("knowledge") or {}).items()}}


def _covered(found: Sequence[Mapping[str, Any]], key: str | tuple[str, ...], whole: str | None) -> str:
    """The mean over seeds of a count, and of how many."""
    keys = (key,) if isinstance(key, str) else key
    known = [[_total(report[one]) for one in keys if one in report] for report in found]
    counts = [sum(one) for one in known if one]
    if not counts:
        return EMPTY
    text = f"{statistics.mean(counts):,.6g}"
    return f"{text} of {found[0][whole]:,}" if whole and whole in found[0] else text


def _total(value: Any) -> float:
    return sum(value.values()) if isinstance(value, Mapping) else value
