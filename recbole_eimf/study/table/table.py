"""Tables of a comparison as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_eimf.core.files import atomic_path, write_json
from recbole_eimf.core.version import __version__
from recbole_eimf.study.table.summary import LEVEL, Comparison, Figure, Line, Summary, View, pretty

_EMPTY = "–"


class Form(NamedTuple):
    """How a form marks the best and the second of a column, and differences from the first and second other row."""

    best: str
    second: str
    signs: tuple[str, str]


MARKDOWN = Form("**{}**", "<u>{}</u>", (r"\*", "†"))
LATEX = Form(r"\textbf{{{}}}", r"\underline{{{}}}", ("$^*$", r"$^\dagger$"))
_LATEX_SYMBOLS = {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$"}
_LATEX_ESCAPES = {c: f"\\{c}" for c in "&%_#${}"} | {
    "\\": "/", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def write(summary: Summary, folder: Path) -> None:
    """Write ``table.md``, ``table.csv``, ``table.tex`` and ``results.json``, each atomically."""
    for name, render in (("table.md", markdown), ("table.csv", as_csv), ("table.tex", latex)):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(render(summary), encoding="utf-8")
    write_json(folder / "results.json", machine(summary))


# ---------------------------------------------------------------------- what every form says
def facts(summary: Summary, view: View) -> str:
    """What a reader must know to read a table: data, protocol, history, unit, seeds."""
    seeds = ", ".join(map(str, summary.experiment.seeds))
    chosen = "" if view.chosen else "; the same checkpoints, chosen by the validation metric of the other table"
    return (
        f"{summary.experiment.dataset}, {summary.protocol}, history {'masked' if view.mask_history else 'not masked'} "
        f"(mask_history={view.mask_history}), test, %, mean ± sample deviation over seeds {seeds} (counting models "
        f"have one run), all items ranked{_order(summary)}{chosen}"
    )


_TIES = {"source": "as in the source", "shuffle": "shuffled", "together": "shuffled, targets together"}


def _order(summary: Summary) -> str:
    """What the order of events of one time is."""
    if summary.ties not in _TIES:
        return ", order of ties by row"
    said = f", events of one time {_TIES[summary.ties]} (ties={summary.ties})"
    first = next(iter(summary.slices.values()), {})
    if first.get("tied", {}).get("targets") and not first["untied"]["targets"]:
        return f"{said}; every target may be tied with the item before it: the data has no times"
    return said


def notes(summary: Summary, form: Form = MARKDOWN) -> list[str]:
    """Marks explained, and everything that limits what a table says."""
    lines = summary.lines
    first, second = form.signs
    found = ["Bold: best of a column, underlined: second."]
    if any(view.comparisons for view in summary.views):
        tests = sum(c.test is not None for view in summary.views for c in view.comparisons) // len(summary.views)
        found[0] += (
            f" {first}, {second}: differs from the first ({first}), the base, or the second ({second}) row it is "
            f"measured against, p < {LEVEL} (sign-flip test over users, values averaged over seeds, Holm-corrected "
            f"over the {tests} tests of a table)."
        )
    found += summary.experiment.remarks
    if summary.finished < summary.planned:
        found.append(f"**Incomplete:** {summary.finished} of {summary.planned} runs finished.")
    for line in lines:
        found += [f"**{line.row.name}, seed {seed}, failed:** {why}" for seed, why in line.errors]
    ours = [line.runs[0].settings for line in lines if line.row.model == "EIMF"]
    placebos = {settings["backbone"] for settings in ours if settings["interest_source"] == "shuffled"}
    for backbone in dict.fromkeys(s["backbone"] for s in ours if s["backbone"] not in placebos):
        found.append(
            f"EIMF over {backbone} stands without its placebo (placebo[{backbone}]): this says nothing about the LLM."
        )
    if any((r.get("side_load") or {}).get("llm_used") is False for line in lines for r in line.results):
        found.append("Interests are keywords of the clusters' titles: **no LLM was used**.")
    return found


def cells(summary: Summary, view: View, line: Line, form: Form) -> list[str]:
    """A row's cells after its name: metrics, improvement, epochs, seconds, parameters, further columns."""
    figures = view.figures.get(line.row.name, {})
    row = []
    for metric in summary.metrics:
        if metric not in figures:
            row.append(_EMPTY)
            continue
        mark = view.marks(metric).get(line.row.name)
        text = getattr(form, mark).format(number(figures[metric])) if mark else number(figures[metric])
        row.append(text + _signs(view, line, metric, form))
    compared = next((c for o in line.row.against if (c := view.found(line.row.name, o, summary.main))), None)
    row.append(f"{compared.relative:+.1f}" if compared and compared.relative is not None else "")
    row += [effort(line, "epochs", ".0f"), effort(line, "seconds_per_epoch", ".2f"), effort(line, "parameters", ",.0f")]
    return row + [effort(line, path, ",.6g") for path in summary.experiment.columns.values()]


def head(summary: Summary) -> list[str]:
    """The titles of :func:`cells`' columns, the row's name first."""
    fixed = ["model", *map(pretty, summary.metrics), f"{pretty(summary.main)} over base, %", "epochs", "s/epoch",
             "parameters"]  # fmt: skip
    return [*fixed, *summary.experiment.columns]


def number(figure: Figure) -> str:
    """``27.43 ± 0.82``, or ``27.43`` of a single run."""
    return f"{figure.mean:.2f}" + (f" ± {figure.deviation:.2f}" if figure.deviation is not None else "")


def effort(line: Line, path: str, form: str) -> str:
    """A number of the runs, averaged, or a dash where nothing was trained or found."""
    value = line.mean_of(path)
    trained = path not in ("epochs", "seconds_per_epoch", "parameters") or not line.row.counting
    return format(value, form) if value is not None and trained else _EMPTY


def _signs(view: View, line: Line, metric: str, form: Form) -> str:
    tested = [view.found(line.row.name, other, metric) for other in line.row.against]
    return "".join(sign for sign, c in zip(form.signs, tested) if c is not None and c.significant)


def why_empty(line: Line) -> str | None:
    """What stands instead of figures in a row that has none."""
    if line.results:
        return None
    return f"failed: {line.errors[0][1]}" if line.errors else "not run yet"


def comparison_cell(c: Comparison | None) -> str:
    """``+0.58 (+2.2 %), p 0.012`` in points; the p-value is the corrected one."""
    if c is None:
        return _EMPTY
    relative = f" ({c.relative:+.1f} %)" if c.relative is not None else ""
    return f"{c.points:+.2f}{relative}" + (f", p {p_value(c.adjusted)}" if c.adjusted is not None else "")


def p_value(value: float) -> str:
    """Two significant digits.

    >>> p_value(0.01234), p_value(0.00004), p_value(1.0)
    ('0.012', '<0.001', '1')
    """
    return "<0.001" if value < 0.001 else f"{value:.2g}"


def pairs(view: View) -> list[tuple[str, str]]:
    """The (row, other) pairs that are compared."""
    return list(dict.fromkeys((c.row, c.other) for c in view.comparisons))


def slice_names(summary: Summary) -> list[tuple[str, int]]:
    """The slices that hold targets, with their number."""
    first = next(iter(summary.slices.values()), {})
    return [(name, int(values["targets"])) for name, values in first.items() if values["targets"]]


def slice_metric(summary: Summary) -> str:
    """What slices show: the main metric where they have it."""
    has = {m for row in summary.slices.values() for slice in row.values() for m in slice}
    return next((m for m in (summary.main, *summary.metrics) if m in has), summary.main)


# ---------------------------------------------------------------------- Markdown
def markdown(summary: Summary) -> str:
    """The page to read in a terminal or a repository."""
    parts = [f"# {summary.experiment.title}"]
    for view in summary.views:
        parts += [facts(summary, view) + ".", _markdown_main(summary, view)]
    parts.append("\n".join(f"- {note}" for note in notes(summary)))
    for view in summary.views:
        if view.comparisons:
            parts += [f"## Differences{_which(summary, view)}", _markdown_comparisons(summary, view)]
    if slice_names(summary):
        metric = slice_metric(summary)
        parts += [f"## {pretty(metric)} by training frequency of the target{_which(summary, summary.views[0])}"]
        parts.append(_markdown_slices(summary, metric))
    parts.append(f"Made by recbole_eimf {__version__}:\n\n```\n{summary.experiment.command}\n```")
    return "\n\n".join(parts) + "\n"


def _which(summary: Summary, view: View) -> str:
    return "" if len(summary.views) == 1 else f", history {'masked' if view.mask_history else 'not masked'}"


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in (titles, *rows)]
    rule = "|---|" + "---:|" * (len(titles) - 1)
    return (
        "\n".join(f"| {' | '.join(row)} |" for row in escaped[:1])
        + f"\n{rule}\n"
        + "\n".join(f"| {' | '.join(row)} |" for row in escaped[1:])
    )


def _markdown_main(summary: Summary, view: View) -> str:
    titles = head(summary)
    rows = []
    for line in summary.lines:
        reason = why_empty(line)
        filled = [reason, *[""] * (len(titles) - 2)] if reason else cells(summary, view, line, MARKDOWN)
        rows.append([line.row.name, *filled])
    return _grid(titles, rows)


def _markdown_comparisons(summary: Summary, view: View) -> str:
    rows = [
        [f"{row} − {other}", *(comparison_cell(view.found(row, other, metric)) for metric in summary.metrics)]
        for row, other in pairs(view)
    ]
    return _grid(["", *map(pretty, summary.metrics)], rows)


def _markdown_slices(summary: Summary, metric: str) -> str:
    names = slice_names(summary)
    rows = [
        [row, *(f"{values[name][metric]:.2f}" if metric in values.get(name, {}) else _EMPTY for name, _ in names)]
        for row, values in summary.slices.items()
    ]
    return _grid(["model", *(f"{name} ({targets:,} targets)" for name, targets in names)], rows)


# ---------------------------------------------------------------------- CSV
def as_csv(summary: Summary) -> str:
    """Every metric of every row and view, with mean and deviation in columns of their own."""
    known = list(dict.fromkeys(m for view in summary.views for f in view.figures.values() for m in f))
    fixed = ["model", "dataset", "protocol", "mask_history", "unit", "runs", "seeds"]
    extra = ["epochs", "seconds_per_epoch", "parameters", *summary.experiment.columns, "error"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*fixed, *(f"{m}{end}" for m in known for end in ("", "_std")), *extra])
    for view in summary.views:
        for line in summary.lines:
            figures = view.figures.get(line.row.name, {})
            row = [line.row.name, summary.experiment.dataset, summary.protocol, view.mask_history, "percent"]
            row += [len(line.results), " ".join(str(r["seed"]) for r in line.results)]
            for metric in known:
                figure = figures.get(metric)
                row += ["", ""] if figure is None else [_exact(figure.mean), _exact(figure.deviation)]
            paths = ["epochs", "seconds_per_epoch", "parameters", *summary.experiment.columns.values()]
            row += [_exact(line.mean_of(path)) for path in paths]
            writer.writerow([*row, "; ".join(f"seed {seed}: {why}" for seed, why in line.errors)])
    return out.getvalue()


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


# ---------------------------------------------------------------------- LaTeX
def latex(summary: Summary) -> str:
    """A booktabs table per view."""
    return "\n".join(_latex_view(summary, view) for view in summary.views)


def _latex_view(summary: Summary, view: View) -> str:
    titles = head(summary)
    legend = _with_symbols(notes(summary, LATEX)[0])
    lines = [
        f"% {summary.experiment.command}".replace("\n", " "),
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        rf"\caption{{{_escaped(f'{summary.experiment.title}. {facts(summary, view)}.')} {legend}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
        r"\toprule",
        " & ".join(map(_escaped, titles)) + r" \\",
        r"\midrule",
    ]
    floors = sum(line.row.floor for line in summary.lines)
    for index, line in enumerate(summary.lines):
        if index == floors and floors > 0:
            lines.append(r"\midrule")
        reason = why_empty(line)
        if reason:
            lines.append(
                f"{_escaped(line.row.name)} & \\multicolumn{{{len(titles) - 1}}}{{l}}{{{_escaped(reason)}}} \\\\"
            )
            continue
        filled = map(_with_symbols, cells(summary, view, line, LATEX))
        lines.append(" & ".join([_escaped(line.row.name), *filled]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _escaped(text: str) -> str:
    return _with_symbols("".join(_LATEX_ESCAPES.get(c, c) for c in text))


def _with_symbols(text: str) -> str:
    return "".join(_LATEX_SYMBOLS.get(c, c) for c in text)


# ---------------------------------------------------------------------- JSON
def machine(summary: Summary) -> dict[str, Any]:
    """Everything, settings included; percent where ``unit`` says so, fractions in each run's own ``test``."""
    return {
        "title": summary.experiment.title,
        "command": summary.experiment.command,
        "version": __version__,
        "dataset": summary.experiment.dataset,
        "protocol": summary.protocol,
        "seeds": list(summary.experiment.seeds),
        "shown_metrics": summary.metrics,
        "main_metric": summary.main,
        "planned": summary.planned,
        "finished": summary.finished,
        "views": [_machine_view(view) for view in summary.views],
        "slices": {"unit": "percent", "mask_history": summary.views[0].mask_history, "rows": summary.slices},
        "rows": [_machine_row(summary, line) for line in summary.lines],
    }


def _machine_view(view: View) -> dict[str, Any]:
    rows = {
        row: {metric: {"mean": figure.mean, "std": figure.deviation} for metric, figure in figures.items()}
        for row, figures in view.figures.items()
    }
    return {
        "unit": "percent",
        "mask_history": view.mask_history,
        "checkpoints_chosen_so": view.chosen,
        "rows": rows,
        "comparisons": [dataclasses.asdict(comparison) for comparison in view.comparisons],
    }


def _machine_row(summary: Summary, line: Line) -> dict[str, Any]:
    kept = ("seed", "valid", "test", "epochs", "best_epoch", "train_seconds", "seconds_per_epoch", "parameters",
            "side_load", "version")  # fmt: skip
    return {
        "name": line.row.name,
        "model": line.row.model,
        "keys": dict(line.row.keys),
        "against": list(line.row.against),
        "train_seconds": statistics.mean([r["train_seconds"] for r in line.results]) if line.results else None,
        "settings": dict(line.runs[0].settings),
        "runs": [{name: result.get(name) for name in kept} for result in line.results],
        "errors": [{"seed": seed, "error": why} for seed, why in line.errors],
    }
