"""Tables of a comparison as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_eimf.core.files import atomic_path, finite, write_json
from recbole_eimf.core.folders import RESULTS_FILE
from recbole_eimf.core.version import __version__
from recbole_eimf.evaluator.ranks import Asked
from recbole_eimf.study.report.template import render
from recbole_eimf.study.table import content, notes
from recbole_eimf.study.table.summary import Line, Summary, View, pretty

_MARKDOWN_SIGNS = (r"\*", "†")
_LATEX_SIGNS = ("$^*$", r"$^\dagger$")


def write(summary: Summary, folder: Path) -> None:
    """Write ``table.md``, ``table.csv``, ``comparisons.csv``, ``slices.csv``, ``table.tex`` and ``results.json``, each
    atomically."""
    forms = {"table.md": markdown, "table.csv": as_csv, "comparisons.csv": comparisons_csv, "slices.csv": slices_csv,
             "table.tex": latex}  # fmt: skip
    for name, make in forms.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(make(summary), encoding="utf-8")
    write_json(folder / RESULTS_FILE, finite(machine(summary)))


def markdown(summary: Summary) -> str:
    """The page to read in a terminal or a repository."""
    metric = content.slice_metric(summary)
    slices = content.slices(summary, metric)
    return render(
        "table.md",
        signs=_MARKDOWN_SIGNS,
        title=summary.experiment.title,
        views=_views(summary),
        notes=notes.notes(summary, _MARKDOWN_SIGNS, summary.metrics),
        slices=[(pretty(metric), slices)] if slices else [],
        slices_said=content.slices_said(summary),
        coverage=content.coverage(summary),
        searches=content.searches(summary),
        versions="; ".join(notes.versions_texts(notes.versions_of_runs(summary))),
        command=summary.experiment.command,
    )


def latex(summary: Summary) -> str:
    """For every view a booktabs table, of differences and of runs; then slices and coverage. Notes are comments."""
    metric = content.slice_metric(summary)
    return render(
        "table.tex",
        signs=_LATEX_SIGNS,
        title=summary.experiment.title,
        views=_views(summary),
        legend=notes.legend(summary, _LATEX_SIGNS),
        average=notes.average_precision(summary, summary.metrics),
        notes=notes.notes(summary, ("*", "†"), summary.metrics)[1:],
        slices=content.slices(summary, metric),
        slices_said=content.slices_said(summary),
        slices_title=f"{pretty(metric)} by kind of target{notes.which(summary, summary.views[0])}, %.",
        coverage=content.coverage(summary),
        searches=content.searches(summary),
        versions="; ".join(notes.versions_texts(notes.versions_of_runs(summary))),
        command=summary.experiment.command,
    )


def _views(summary: Summary) -> list[dict[str, Any]]:
    return [
        {
            "facts": notes.facts(summary, view),
            "which": notes.which(summary, view),
            "main": content.main(summary, view, summary.metrics),
            "tests": content.tests(summary, view),
            "runs": content.runs(summary, view, summary.metrics),
        }
        for view in summary.views
    ]


# ---------------------------------------------------------------------- CSV
def as_csv(summary: Summary) -> str:
    """Every metric of every row and view, with mean, deviation and the seeds' values in columns of their own.

    Several values of a cell, in the seeds' order, stand between blanks; ``best_epoch`` counts from 0, as in the log.
    What text and interests reached has the names it has in ``side_load`` of ``result.json``, as means over seeds.
    """
    known = list(dict.fromkeys(m for view in summary.views for f in view.figures.values() for m in f))
    valid = str(summary.lines[0].runs[0].settings["valid_metric"]).lower()
    fixed = [
        "model",
        "dataset",
        "protocol",
        "ties",
        "mask_history",
        "unit",
        "test_users",
        "test_targets",
        "runs",
        "seeds",
    ]
    extra = [f"valid_{valid}", "best_epoch", "epochs", "seconds_per_epoch", "parameters", *summary.experiment.columns]
    reached = {line.row.name: content.coverage_counts(line) for line in summary.lines}
    counts = list(dict.fromkeys(name for of_row in reached.values() for name in of_row))
    extra += [*counts, "commit", "error"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*fixed, *(f"{m}{end}" for m in known for end in ("", "_std", "_seeds")), *extra])
    for view in summary.views:
        for line in summary.lines:
            figures, asked = view.figures.get(line.row.name, {}), view.tested.get(line.row.name)
            row = [line.row.name, summary.experiment.dataset, summary.protocol]
            row += [line.runs[0].settings.get("ties", "source"), view.mask_history, "percent"]
            row += [asked.users, asked.targets] if asked else ["", ""]
            row += [len(line.results), _together(r["seed"] for r in line.results)]
            for metric in known:
                figure = figures.get(metric)
                row += ["", ""] if figure is None else [_exact(figure.mean), _exact(figure.deviation)]
                row += [_together(_exact(v.get(metric)) for v in view.seeds.get(line.row.name, {}).values())]
            row += [_together(_exact(100 * r["valid"][valid]) for r in line.results if valid in r["valid"])]
            row += [_together(r.get("best_epoch", "") for r in line.results if not line.row.counting)]
            paths = ["epochs", "seconds_per_epoch", "parameters", *summary.experiment.columns.values()]
            row += [_exact(line.mean_of(path)) for path in paths]
            row += [_exact(reached[line.row.name].get(name)) for name in counts]
            made = (told.get("made_with", {}).get("commit") for told in line.notes)
            row += [_together(dict.fromkeys(filter(None, made)))]
            writer.writerow([*row, "; ".join(f"seed {seed}: {why}" for seed, why in line.errors)])
    return out.getvalue()


def comparisons_csv(summary: Summary) -> str:
    """Every difference between two rows: percentage points, %, the 95 % interval, p as it is and Holm-corrected."""
    names = ["mask_history", "model", "other", "metric", "points", "relative", "low", "high", "p", "corrected_p"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for view in summary.views:
        for c in view.comparisons:
            tested = (None,) * 4 if c.test is None else (
                *(100 * end for end in c.test.confidence_interval), c.test.p_value, c.adjusted,
            )  # fmt: skip
            row = [view.mask_history, c.row, c.other, c.metric]
            writer.writerow(row + [_exact(value) for value in (c.points, c.relative, *tested)])
    return out.getvalue()


def slices_csv(summary: Summary) -> str:
    """Every metric of every row in every slice, in percent, of the view that checkpoints were chosen by."""
    every = [values for of_row in summary.slices.values() for values in of_row.values()]
    metrics = list(dict.fromkeys(name for values in every for name in values if name != "targets"))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["mask_history", "model", "slice", "targets", *metrics])
    for row, of_row in summary.slices.items():
        for name, values in of_row.items():
            cells = [summary.views[0].mask_history, row, name, int(values["targets"])]
            writer.writerow([*cells, *(_exact(values.get(metric)) for metric in metrics)])
    return out.getvalue()


def _together(values: Iterable[Any]) -> str:
    return " ".join(map(str, values))


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


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
        "notes": notes.notes(summary, ("*", "†"), summary.metrics)[1:],
        "made_with": notes.versions_of_runs(summary),
        "views": [_machine_view(view) for view in summary.views],
        "slices": {"unit": "percent", "mask_history": summary.views[0].mask_history, "rows": summary.slices},
        "rows": [_machine_row(summary, line) for line in summary.lines],
    }


def _machine_view(view: View) -> dict[str, Any]:
    rows = {
        row: {
            metric: {
                "mean": f.mean,
                "std": f.deviation,
                "seeds": {s: v.get(metric) for s, v in view.seeds[row].items()},
            }
            for metric, f in figures.items()
        }
        for row, figures in view.figures.items()
    }
    return {
        "unit": "percent",
        "mask_history": view.mask_history,
        "checkpoints_chosen_so": view.chosen,
        "tested": {row: _whom(asked) for row, asked in view.tested.items()},
        "rows": rows,
        "comparisons": [dataclasses.asdict(comparison) for comparison in view.comparisons],
    }


def _whom(asked: Asked) -> dict[str, Any]:
    told = dataclasses.asdict(asked)
    return told if asked.rows else {name: value for name, value in told.items() if name != "rows"}


def _machine_row(summary: Summary, line: Line) -> dict[str, Any]:
    kept = ("seed", "valid", "test", "epochs", "best_epoch", "train_seconds", "seconds_per_epoch", "parameters",
            "side_load", "version", "refit", "borders", "chosen")  # fmt: skip
    conditions = ("made_with", "runs_at_once", "machine", "seconds")
    return {
        "name": line.row.name,
        "shown": line.shown,
        "model": line.row.model,
        "counting": line.row.counting,
        "keys": dict(line.row.keys),
        "against": list(line.row.against),
        "train_seconds": statistics.mean([r["train_seconds"] for r in line.results]) if line.results else None,
        "settings": dict(line.runs[0].settings),
        "search": dataclasses.asdict(found) if (found := summary.experiment.searched.get(line.row.name)) else None,
        "runs": [
            {name: result.get(name) for name in kept} | {name: told.get(name) for name in conditions}
            for result, told in zip(line.results, line.notes)
        ],
        "errors": [{"seed": seed, "error": why} for seed, why in line.errors],
    }
