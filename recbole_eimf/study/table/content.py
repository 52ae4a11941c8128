"""What every form of a table says, as text and grids of cells: Markdown, LaTeX and the page only write it down."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recbole_eimf.core.version import made_with
from recbole_eimf.data.history_mask import FEW_REPEATS
from recbole_eimf.evaluator.ranks import Asked
from recbole_eimf.study.table.summary import LEVEL, Comparison, Figure, Line, Summary, View, pretty

EMPTY = "–"
NO_HARD_NEGATIVES = ", no hard negatives"
_BUSY = 1.2  # processes that want a core, for each there is: more than timing noise


class Column(NamedTuple):
    """A column of a grid; ``k`` is that of its metric, None where it has none."""

    title: str
    k: int | None = None


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


# ---------------------------------------------------------------------- text
def facts(summary: Summary, view: View) -> str:
    """What a reader must know to read a table: data, protocol, history, whom it is about, unit, seeds."""
    seeds = ", ".join(map(str, summary.experiment.seeds))
    chosen = "" if view.chosen else "; the same checkpoints, chosen by the validation metric of the other table"
    asked = next(iter(view.tested.values()), None)
    size = f"{_asked(asked)}, " if asked else ""
    return (
        f"{summary.experiment.dataset}, {summary.protocol}, history {'masked' if view.mask_history else 'not masked'} "
        f"(mask_history={view.mask_history}), {size}test, %, mean ± sample deviation over seeds {seeds} (counting "
        f"models have one run), all items ranked{_order(summary)}{_repeats(summary, view)}{chosen}"
    )


def _asked(asked: Asked) -> str:
    """``2,237 test users with 4,833 targets``, and how often they were asked where that is more than once each."""
    often = f" asked {asked.rows:,} times" if asked.rows else ""
    return f"{asked.users:,} test users{often} with {asked.targets:,} targets"


def _repeats(summary: Summary, view: View) -> str:
    """A warning where own histories are ranked and hardly anybody has an item twice."""
    first = next(iter(summary.slices.values()), {})
    if view.mask_history or "repeat" not in first or not first["tied"]["targets"] + first["untied"]["targets"]:
        return ""
    share = first["repeat"]["targets"] / (first["tied"]["targets"] + first["untied"]["targets"])
    if share >= FEW_REPEATS:
        return ""
    said = f"{100 * share:.1f} % of the targets are repeats: mask_history=False ranks users' own histories for nothing"
    return f"; {said}"


_TIES = {"source": "as in the source", "shuffle": "shuffled", "together": "shuffled, targets together"}


def _order(summary: Summary) -> str:
    """What the order of events of one time is."""
    if summary.ties not in _TIES:
        return ", order of ties by row"
    said = f", events of one time {_TIES[summary.ties]} (ties={summary.ties})"
    first = next(iter(summary.slices.values()), {})
    if first.get("tied", {}).get("targets") and not first["untied"]["targets"]:
        return f"{said}; the data has no times that tell a target from a tie"
    return said


def which(summary: Summary, view: View) -> str:
    """What tells a view from the other in headings; nothing where there is one."""
    return "" if len(summary.views) == 1 else f", history {'masked' if view.mask_history else 'not masked'}"


def legend(summary: Summary, signs: tuple[str, str]) -> str:
    """What the marks mean."""
    found = "Bold: best of a column, underlined: second."
    if any(view.comparisons for view in summary.views):
        tests = sum(c.test is not None for view in summary.views for c in view.comparisons) // len(summary.views)
        first, second = signs
        often = any(asked.rows for view in summary.views for asked in view.tested.values())
        together = ", a user's rows together" if often else ""
        found += (
            f" {first}, {second}: differs from the first ({first}), the base, or the second ({second}) row it is "
            f"measured against, p < {LEVEL} (sign-flip test over users{together}, values averaged over seeds, "
            f"Holm-corrected over the {tests} tests of a table)."
        )
    return found


def notes(summary: Summary, signs: tuple[str, str], metrics: Sequence[str]) -> list[str]:
    """Marks explained, and everything that limits what a table of ``metrics`` says; ``**`` around what matters most."""
    lines = summary.lines
    found = [legend(summary, signs), *summary.experiment.remarks]
    if summary.finished < summary.planned:
        found.append(f"**Incomplete:** {summary.finished} of {summary.planned} runs finished.")
    for line in lines:
        found += [f"**{line.row.name}, seed {seed}, failed:** {why}" for seed, why in line.errors]
    found += _about_users(summary) + _about_forms(lines) + _about_interests(lines)
    if average := average_precision(summary, metrics):
        found.append(average)
    found += _about_refits(lines)
    if any(line.results and not line.row.counting for line in lines):
        found.append(
            "Best epochs count from 1, of a model that is trained in phases those of the last one: 0 is the model "
            "before it. s/epoch is training alone, validation not counted."
        )
    return [*found, *_about_machines(summary), *_about_versions(summary)]


def average_precision(summary: Summary, metrics: Sequence[str]) -> str | None:
    """How MAP is defined, where a table shows it and users have several targets: the field knows two definitions."""
    sizes = [asked for view in summary.views for asked in view.tested.values()]
    told = any(asked.targets > (asked.rows or asked.users) for asked in sizes)
    several = told if sizes else summary.protocol != "leave_one_out"
    if not several or not any(metric.startswith("map@") for metric in metrics):
        return None
    return (
        "MAP@k is RecBole's: a user's sum of precisions is divided by the smaller of k and the number of targets. "
        "trec_eval and pytrec_eval (map_cut_k) divide by the number of targets, which gives less where there are more "
        "than k."
    )


def _about_users(summary: Summary) -> list[str]:
    if any(len({asked.identity for asked in view.tested.values()}) > 1 for view in summary.views):
        sizes = dict.fromkeys(
            f"{row} {asked.users:,} users, {asked.targets:,} targets"
            for row, asked in summary.views[0].tested.items()
        )  # fmt: skip
        return [
            f"**Not all rows were tested on the same users and targets**, and are not compared: {'; '.join(sizes)}."
        ]
    return []


def _settings(line: Line) -> Mapping[str, Any]:
    return line.runs[0].settings if line.runs else {}


def shown_name(line: Line) -> str:
    """A row's name, with what it lacks of what the name promises."""
    bare = _settings(line).get("backbone") == "REMI" and not _settings(line).get("remi_beta")
    return line.row.name + (NO_HARD_NEGATIVES if bare else "")


def _about_forms(lines: Sequence[Line]) -> list[str]:
    """Which form of a paper's model each row is."""
    found = []
    recipes: dict[str, list[str]] = {}
    for line in lines:
        if line.row.model in ("EIMF", "IBIM") and (recipe := _settings(line).get("recipe")):
            recipes.setdefault(recipe, []).append(line.row.name)
    said = {"paper": "the paper's form (recipe=paper)", "strong": "our form, not the paper's (recipe=strong)"}
    for recipe, rows in recipes.items():
        found.append(f"{said.get(recipe, f'recipe={recipe}')}: {'; '.join(rows)}.")
    if any(shown_name(line) != line.row.name for line in lines):
        found.append(
            "REMI without its hard negatives (remi_beta=0) is ComiRec-SA with REMI's routing regularisation under a "
            "full softmax, which has every item as a negative; --recipe=paper has them."
        )
    return [text[0].upper() + text[1:] for text in found]


def _about_interests(lines: Sequence[Line]) -> list[str]:
    found = []
    ours = [line.runs[0].settings for line in lines if line.row.model == "EIMF"]
    placebos = {settings["backbone"] for settings in ours if settings["interest_source"] == "shuffled"}
    for backbone in dict.fromkeys(s["backbone"] for s in ours if s["backbone"] not in placebos):
        found.append(
            f"EIMF over {backbone} stands without its placebo (placebo[{backbone}]): this says nothing about the LLM."
        )
    if any((r.get("side_load") or {}).get("llm_used") is False for line in lines for r in line.results):
        found.append("Interests are keywords of the clusters' titles: **no LLM was used**.")
    return found


def _about_refits(lines: Sequence[Line]) -> list[str]:
    """Which rows were trained again before the test."""
    rows = {line.row.name: any(result.get("refit") for result in line.results) for line in lines if line.results}
    again = [name for name, refit in rows.items() if refit]
    if not again:
        return []
    who = "Rows were" if len(again) == len(rows) else f"**{', '.join(again)}** (not the others):"
    return [f"{who} trained again on all before the test, for the number of epochs that validation chose (refit=True)."]


def _about_machines(summary: Summary) -> list[str]:
    """Seconds per epoch compare only where runs had the machine for themselves."""
    told = [notes for line in summary.lines if not line.row.counting for notes in line.notes]
    at_once = max((notes.get("runs_at_once") or 1 for notes in told), default=1)
    busy = [
        machine["load"] / machine["cores"] for notes in told
        if (machine := notes.get("machine") or {}).get("load") is not None and machine.get("cores")
    ]  # fmt: skip
    reasons = []
    if at_once > 1:
        reasons.append(f"up to {at_once} runs shared a machine")
    if any("runs_at_once" in notes and notes["runs_at_once"] is None for notes in told):
        reasons.append("runs were made on a cluster")
    if busy and max(busy) > _BUSY:
        reasons.append(f"the machine was busy (up to {max(busy):.1f} processes wanted each of its cores)")
    return [f"**s/epoch is not to be compared:** {'; '.join(reasons)}."] if reasons else []


def versions(summary: Summary) -> list[dict[str, str]]:
    """The different sets of versions that the runs were made with, the newest recbole_eimf of a run alone if it says
    no more; this program's where nothing has run."""
    found = []
    for line in summary.lines:
        for told, result in zip(line.notes, line.results):
            with_ = told.get("made_with") or ({"recbole_eimf": result["version"]} if result.get("version") else {})
            if with_ and with_ not in found:
                found.append(with_)
    return found or [made_with()]


def versions_text(one: Mapping[str, str]) -> str:
    """``recbole_eimf 0.1.0, commit 0123456789ab, Python 3.12.3, ...``"""
    return ", ".join(f"{name} {value}" for name, value in one.items())


def _about_versions(summary: Summary) -> list[str]:
    found = versions(summary)
    if len(found) < 2:
        return []
    return [f"**Runs were made with different versions:** {'; '.join(map(versions_text, found))}."]


# ---------------------------------------------------------------------- the table itself
def metric_columns(metrics: Sequence[str]) -> list[Column]:
    """A column per metric."""
    return [Column(pretty(metric), place(metric)) for metric in metrics]


def place(metric: str) -> int | None:
    """The k of ``ndcg@10``."""
    k = metric.partition("@")[2]
    return int(k) if k else None


def main(summary: Summary, view: View, metrics: Sequence[str]) -> Grid:
    """Rows with their metrics, improvement, epochs, seconds, parameters and the experiment's further columns."""
    fixed = [f"{pretty(summary.main)} over base, %", "epochs", "s/epoch", "parameters", *summary.experiment.columns]
    columns = [Column("model"), *metric_columns(metrics), *map(Column, fixed)]
    floors = sum(line.row.floor for line in summary.lines)
    rows = []
    for index, line in enumerate(summary.lines):
        kind = ("last-floor" if index == floors - 1 else "floor") if line.row.floor else ""
        reason = why_empty(line)
        if reason:
            rows.append(GridRow(shown_name(line), (), "failed" if line.errors else "waiting", reason))
        else:
            rows.append(GridRow(shown_name(line), tuple(_cells(summary, view, line, metrics)), kind))
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
        GridRow(f"{row} − {other}", tuple(_difference(view.found(row, other, metric)) for metric in summary.metrics))
        for row, other in pairs(view)
    ]
    return Grid([Column("points (relative)"), *metric_columns(summary.metrics)], rows)


def tests(view: View) -> Grid:
    """The same with a row per pair and metric, for forms whose cells hold one line."""
    columns = ["row − other", "metric", "points", "relative, %", "95 % CI", "p", "corrected p"]
    rows = []
    for c in view.comparisons:
        relative = f"{c.relative:+.1f}" if c.relative is not None else EMPTY
        tested = [EMPTY] * 3 if c.test is None or c.adjusted is None else [
            _interval(c), p_value(c.test.p_value), p_value(c.adjusted),
        ]  # fmt: skip
        cells = [pretty(c.metric), f"{c.points:+.2f}", relative, *tested]
        rows.append(GridRow(f"{c.row} − {c.other}", tuple(map(Entry, cells))))
    return Grid(list(map(Column, columns)), rows)


def _interval(c: Comparison) -> str:
    low, high = (100 * end for end in c.test.confidence_interval)
    return f"{low:+.2f} to {high:+.2f}"


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

    >>> p_value(0.01234), p_value(0.00004), p_value(1.0)
    ('0.012', '<0.001', '1')
    """
    return "<0.001" if value < 0.001 else f"{value:.2g}"


# ---------------------------------------------------------------------- runs, slices, coverage
def runs(summary: Summary, view: View, metrics: Sequence[str]) -> Grid:
    """Every finished run: its test metrics, and which epoch was tested and why."""
    valid = str(summary.lines[0].runs[0].settings["valid_metric"]).lower()
    fixed = [f"validation {pretty(valid)}", "best epoch", "epochs", "s/epoch"]
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
            rows.append(GridRow(line.row.name, tuple(map(Entry, cells)), "floor" if line.row.floor else ""))
    return Grid(columns, rows)


def slice_names(summary: Summary) -> list[tuple[str, int]]:
    """The slices that hold targets, with their number. The fixed range ``0`` is ``unseen`` and not named again."""
    first = next(iter(summary.slices.values()), {})
    return [(name, int(values["targets"])) for name, values in first.items() if values["targets"] and name != "0"]


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
        GridRow(row, tuple(Entry(f"{v[n][metric]:.2f}" if metric in v.get(n, {}) else EMPTY) for n, _ in names))
        for row, v in summary.slices.items()
    ]
    return Grid([Column("model"), *(Column(f"{name} ({targets:,} targets)") for name, targets in names)], rows)


#: title of a column -> what ``side_load`` counts, and of how many
_COVERAGE = {
    "items with text": ("items_with_text", "items"),
    "exemplars": ("exemplars", None),
    "of them without interests": ("exemplars_without_interests", None),
    "replies unused": ("exemplars_not_in_training", None),
    "replies failed": ("failed_replies", None),
    "replies to other histories": ("replies_of_another_history", None),
    "users moved to the nearest exemplar": ("users_moved_to_nearest_exemplar", None),
    "users with interests": ("training_users_with_interests", "training_users"),
}


def coverage(summary: Summary) -> Grid:
    """What text and interests reached, of every row that reads them; columns that no row fills are left out."""
    reports = {
        line.row.name: found for line in summary.lines
        if (found := [r["side_load"] for r in line.results if r.get("side_load")])
    }  # fmt: skip
    cells = {
        name: [str(found[0].get("source", "none")), *(_covered(found, *keys) for keys in _COVERAGE.values())]
        for name, found in reports.items()
    }
    titles = ["source of interests", *_COVERAGE]
    kept = [i for i in range(len(titles)) if any(row[i] != EMPTY for row in cells.values())]
    rows = [GridRow(name, tuple(Entry(row[i]) for i in kept)) for name, row in cells.items()]
    return Grid([Column("model"), *(Column(titles[i]) for i in kept)], rows)


def _covered(found: Sequence[Mapping[str, Any]], key: str, whole: str | None) -> str:
    """The mean over seeds of a count, and of how many."""
    counts = [_total(report[key]) for report in found if key in report]
    if not counts:
        return EMPTY
    text = f"{statistics.mean(counts):,.6g}"
    return f"{text} of {found[0][whole]:,}" if whole and whole in found[0] else text


def _total(value: Any) -> float:
    return sum(value.values()) if isinstance(value, Mapping) else value
