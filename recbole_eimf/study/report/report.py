"""The HTML page of a comparison: one file, tables and figures inside, nothing fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from recbole_eimf.core.files import atomic_path
from recbole_eimf.core.version import __version__
from recbole_eimf.evaluator.significance import LEVEL
from recbole_eimf.study.report.template import render
from recbole_eimf.study.table import content, notes
from recbole_eimf.study.table.summary import Summary, View, pretty

_SIGNS = ("*", "†")


class PageFigure(NamedTuple):
    """A figure of the page; ``k`` is that of its metric, None where it shows under every choice."""

    title: str
    svg: str
    k: int | None = None


def write(summary: Summary, folder: Path) -> None:
    """Write ``index.html``, atomically."""
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(page(summary), encoding="utf-8")


def page(summary: Summary) -> str:
    """The whole page. Every metric that is shown is there at every computed k, one k at a time where scripts run."""
    from recbole_eimf.study.report import plot  # late: without matplotlib the command line still answers

    metrics = page_metrics(summary)
    unique = Unique()
    drawn = plot.curves(summary)
    return render(
        "page.html",
        signs=_SIGNS,
        title=summary.experiment.title,
        about=_about(summary),
        ks=_places(metrics),
        first_k=content.k_of(summary.main) if summary.main in metrics else "",
        views=[_view(summary, view, metrics, unique) for view in summary.views],
        notes=notes.notes(summary, _SIGNS, metrics),
        axis=summary.experiment.axis,
        level=LEVEL,
        untested=metrics != summary.metrics,
        tested_metrics=list(map(pretty, summary.metrics)),
        slices=_slices(summary, metrics, unique),
        slices_said=content.slices_said(summary),
        slices_key=plot.swatches(summary, [line.row.name for line in summary.lines if line.row.name in summary.slices]),
        curves=[PageFigure(title, unique(svg)) for title, svg in drawn.panels.items()] if drawn else [],
        curves_key=drawn.key if drawn else [],
        coverage=content.coverage(summary),
        searches=content.searches(summary),
        command=summary.experiment.command,
        versions=notes.versions_texts(notes.versions_of_runs(summary)),
        settings=_settings(summary),
        version=__version__,
    )


def page_metrics(summary: Summary) -> list[str]:
    """The kinds of the shown metrics at every k that was computed, by k; those shown where nothing has run."""
    kinds = list(dict.fromkeys(metric.partition("@")[0] for metric in summary.metrics))
    computed = {m for view in summary.views for figures in view.figures.values() for m in figures}
    every = [f"{kind}@{k}" for k in _places(computed) for kind in kinds]
    return [metric for metric in every if metric in computed] or summary.metrics


def _places(metrics: Iterable[str]) -> list[int]:
    return sorted({k for metric in metrics if (k := content.k_of(metric)) is not None})


def _about(summary: Summary) -> list[tuple[str, str]]:
    experiment = summary.experiment
    asked = next((asked for view in summary.views for asked in view.tested.values()), None)
    found = [("data set", experiment.dataset), ("protocol", summary.protocol)]
    if asked:
        often = [("times asked", f"{asked.rows:,}")] if asked.rows else []
        found += [("test users", f"{asked.users:,}"), *often, ("test targets", f"{asked.targets:,}")]
    found += [("seeds", ", ".join(map(str, experiment.seeds))), ("runs", f"{summary.finished} of {summary.planned}")]
    made = notes.versions_of_runs(summary)
    commits = [one["commit"] for one in made if "commit" in one]
    found.append(("recbole_eimf", ", ".join(dict.fromkeys(one["recbole_eimf"] for one in made))))
    return [*found, ("commit", ", ".join(dict.fromkeys(commits)))] if commits else found


def _view(summary: Summary, view: View, metrics: list[str], unique: Unique) -> dict[str, Any]:
    from recbole_eimf.study.report import plot

    line = plot.line_over_axis(summary, view, metrics) if summary.experiment.axis else None
    return {
        "facts": notes.facts(summary, view),
        "which": notes.which(summary, view),
        "main": content.main(summary, view, metrics),
        "over_axis": _of_metrics(line.panels if line else {}, unique),
        "over_axis_key": line.key if line else [],
        "bars": _of_metrics(plot.bars(summary, view, metrics) or {}, unique),
        "differences": _at_every_choice(content.differences(summary, view), metrics),
        "runs": content.runs(summary, view, metrics),
    }


def _at_every_choice(table: content.Grid, metrics: list[str]) -> content.Grid:
    """A table of fewer metrics than the page has: where some k has none of them, its columns show at every choice."""
    if {column.k for column in table.columns[1:]} == set(_places(metrics)):
        return table
    return content.Grid([column._replace(k=None) for column in table.columns], table.rows)


def _of_metrics(panels: Mapping[str, str], unique: Unique) -> list[PageFigure]:
    return [PageFigure(f"{pretty(metric)}, %", unique(svg), content.k_of(metric)) for metric, svg in panels.items()]


def _slices(summary: Summary, metrics: list[str], unique: Unique) -> list[dict[str, Any]]:
    """The main kind of metric in every slice, at each k."""
    from recbole_eimf.study.report import plot

    kind = content.slice_metric(summary).partition("@")[0]
    found = []
    for k in _places(metrics):
        metric = f"{kind}@{k}"
        svg = plot.slices(summary, metric)
        if svg is not None:
            drawn = PageFigure(f"{pretty(metric)} by kind of target", unique(svg))
            one = {"title": pretty(metric), "k": k, "drawn": drawn, "table": content.slices(summary, metric)}
            found.append(one)
    return found


class Unique:
    """Puts SVG texts into one page: their ids, which matplotlib counts anew in each, must not meet."""

    def __init__(self) -> None:
        self.numbers = count(1)

    def __call__(self, svg: str) -> str:
        prefix = f"f{next(self.numbers)}-"
        svg = re.sub(r'\bid="', f'id="{prefix}', svg)
        return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)


def _settings(summary: Summary) -> list[tuple[str, str]]:
    """(title, text) of every row's settings: what differs between rows first."""
    every = [line.runs[0].settings for line in summary.lines]
    differ = {key for settings in every for key in settings if any(o.get(key) != settings[key] for o in every)}
    found = []
    for line, settings in zip(summary.lines, every):
        own = {key: settings[key] for key in sorted(settings) if key in differ}
        found.append((f"{line.row.name}: settings that are not the same in all rows", _listed(own)))
    shared = {key: value for key, value in sorted(every[0].items()) if key not in differ}
    return [*found, ("settings of all rows", _listed(shared))]


def _listed(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items())
