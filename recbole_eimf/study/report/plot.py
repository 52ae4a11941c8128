"""Figures of a comparison as SVG text: bars, slices, training curves, and a study's bars or line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recbole_eimf.study.runs import read_json
from recbole_eimf.study.table.summary import Figure as Cell
from recbole_eimf.study.table.summary import Line, Summary, View, pretty
from recbole_eimf.study.table.table import slice_metric, slice_names

# Okabe and Ito's colours, which the colour-blind can tell apart
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#444444")
_GREYS = ("#616e7c", "#9aa5b1", "#cbd2d9")
_WIDTH = 10.8
_STYLE = {
    "font.size": 9.5, "font.family": "DejaVu Sans", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#7b8794", "axes.labelcolor": "#323f4b", "xtick.color": "#52606d", "ytick.color": "#323f4b",
    "axes.grid": True, "grid.color": "#e4e7eb", "axes.axisbelow": True, "svg.hashsalt": "recbole_eimf",
    "legend.frameon": False, "legend.fontsize": 8.5, "hatch.linewidth": 0.6,
}  # fmt: skip


class Look(NamedTuple):
    """How a row is drawn everywhere: ``hatch`` of its bars and ``dash`` of its lines tell a placebo."""

    colour: str
    hatch: str = ""
    dash: str = "-"


def looks(lines: Sequence[Line]) -> dict[str, Look]:
    """A look per row: greys for floors; over several backbones a hue per backbone, pale for the backbone alone and
    hatched for the placebo; else a hue per row."""
    floors = [line.row.name for line in lines if line.row.floor]
    found = {name: Look(_GREYS[index % len(_GREYS)]) for index, name in enumerate(floors)}
    others = [line for line in lines if not line.row.floor]
    backbones = {str(line.row.keys["backbone"]) for line in others if "backbone" in line.row.keys}
    hues: dict[str, str] = {}
    for line in others:
        family = str(line.row.keys.get("backbone", line.row.name)) if len(backbones) > 1 else line.row.name
        hue = hues.setdefault(family, _COLOURS[len(hues) % len(_COLOURS)])
        placebo = line.row.keys.get("interest_source") == "shuffled"
        pale = len(backbones) > 1 and line.row.model == "IBIM"
        found[line.row.name] = Look(_paler(hue) if pale else hue, "////" if placebo else "", "--" if placebo else "-")
    return found


def _paler(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + 0.55 * (255 - c)):02x}" for c in (red, green, blue))


def bars(summary: Summary, view: View) -> str | None:
    """A panel of bars per shown metric, with the deviation over seeds; None while there is nothing to draw."""
    lines = [line for line in summary.lines if line.row.name in view.figures]
    if not lines:
        return None
    rows, columns = _panels(summary)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, rows * (0.75 + 0.26 * len(lines))), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in axes.flat[len(summary.metrics) :]:
            axis.set_visible(False)
        for axis, metric in zip(axes.flat, summary.metrics):
            _bar_panel(axis, summary, view, lines, metric)
        axes.flat[0].invert_yaxis()  # shared: once for all
        return _svg(figure)


def _panels(summary: Summary) -> tuple[int, int]:
    """(rows, columns) for a panel per shown metric."""
    columns = len(summary.metrics) if len(summary.metrics) <= 4 else 3
    return -(-len(summary.metrics) // columns), columns


def _bar_panel(axis: Axes, summary: Summary, view: View, lines: Sequence[Line], metric: str) -> None:
    found = [view.figures[line.row.name].get(metric) for line in lines]
    places = range(len(lines))
    look = looks(summary.lines)
    axis.barh(
        places,
        [f.mean if f else 0.0 for f in found],
        xerr=[_spread(f) for f in found],
        color=[look[line.row.name].colour for line in lines],
        hatch=[look[line.row.name].hatch for line in lines],
        edgecolor="white",
        error_kw={"ecolor": "#1f2933", "elinewidth": 1.1, "capsize": 2.5},
        height=0.7,
    )
    axis.set_yticks(places, [line.row.name for line in lines])
    axis.grid(axis="y", visible=False)
    axis.set_title(f"{pretty(metric)}, %", loc="left", fontsize=10, color="#323f4b")


def _spread(found: Cell | None) -> float:
    """The length of an error bar; NaN draws none, where there is a single run."""
    return float("nan") if found is None or found.deviation is None else found.deviation


def slices(summary: Summary) -> str | None:
    """Grouped bars: the slice metric by training frequency of the target."""
    names, metric = slice_names(summary), slice_metric(summary)
    rows = [line for line in summary.lines if line.row.name in summary.slices]
    if not names or not rows:
        return None
    look = looks(summary.lines)
    width = 0.82 / len(rows)
    # the terciles and the fixed ranges slice the same targets twice: a gap between them
    middle = [index + 0.5 * (name not in ("unseen", "cold", "median", "warm")) for index, (name, _) in enumerate(names)]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
        axis = figure.subplots()
        for index, line in enumerate(rows):
            values = [summary.slices[line.row.name].get(name, {}).get(metric, 0.0) for name, _ in names]
            places = [place + (index - (len(rows) - 1) / 2) * width for place in middle]
            style = {"color": look[line.row.name].colour, "hatch": look[line.row.name].hatch, "edgecolor": "white"}
            axis.bar(places, values, width * 0.96, label=line.row.name, **style)
        axis.set_xticks(middle, [f"{name}\n{targets:,} targets" for name, targets in names])
        axis.grid(axis="x", visible=False)
        axis.set_ylabel(f"{pretty(metric)}, %")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def curves(summary: Summary) -> str | None:
    """Training loss and the validation metric by epoch: a line per row (mean over seeds), a thin one per seed."""
    trained = {line.row.name: _histories(line) for line in summary.lines if not line.row.counting}
    trained = {name: histories for name, histories in trained.items() if histories}
    if not trained:
        return None
    metric = summary.lines[0].runs[0].settings["valid_metric"].lower()
    look = looks(summary.lines)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, histories in trained.items():
            losses = [[sum(epoch["losses"]) for epoch in history] for history in histories]
            valid = [[100 * epoch["valid"].get(metric, float("nan")) for epoch in history] for history in histories]
            for axis, every, label in ((left, losses, None), (right, valid, name)):
                _curve(axis, every, look[name], label)
        left.set_ylabel("training loss (sum of its parts)")
        right.set_ylabel(f"validation {pretty(metric)}, %")
        for axis in (left, right):
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
        right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def _histories(line: Line) -> list[list[dict]]:
    read = [read_json(run.folder / "history.json") for run in line.runs]
    return [[epoch for epoch in history if "valid" in epoch and epoch["epoch"] >= 0] for history in read if history]


def _curve(axis: Axes, every: Sequence[Sequence[float]], look: Look, label: str | None) -> None:
    for one in every if len(every) > 1 else ():
        axis.plot(range(1, len(one) + 1), one, look.dash, color=look.colour, linewidth=0.7, alpha=0.35)
    # the mean goes as far as every seed does: beyond, it would jump when one drops out
    shortest = min(map(len, every))
    mean = [sum(one[epoch] for one in every) / len(every) for epoch in range(shortest)]
    marker = "o" if shortest < 3 else ""
    axis.plot(range(1, shortest + 1), mean, look.dash, color=look.colour, linewidth=1.8, label=label, marker=marker)


def line_over_axis(summary: Summary, view: View) -> str | None:
    """A study's line: the shown metrics over ``x``, rows without a place on the axis as dashed lines."""
    placed = [line for line in summary.lines if line.row.x is not None and line.row.name in view.figures]
    if not placed:
        return None
    beside = [
        line for line in summary.lines
        if line.row.x is None and not line.row.floor and line.row.name in view.figures
    ]  # fmt: skip
    rows, columns = _panels(summary)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.9 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(summary.metrics) :]:
            axis.set_visible(False)
        for axis, metric in zip(axes.flat, summary.metrics):
            _line_panel(axis, summary, view, placed, beside, metric)
        if beside:
            axes.flat[columns - 1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def _line_panel(axis: Axes, summary: Summary, view: View, placed, beside, metric: str) -> None:
    kept = [line for line in placed if metric in view.figures[line.row.name]]
    found = [view.figures[line.row.name][metric] for line in kept]
    axis.errorbar(
        range(len(kept)),
        [f.mean for f in found],
        yerr=[_spread(f) for f in found],
        color=_COLOURS[0],
        marker="o",
        capsize=3,
        label="this study" if beside else None,
    )
    for colour, line in zip(_COLOURS[1:], beside):
        if metric in view.figures[line.row.name]:
            mean = view.figures[line.row.name][metric].mean
            axis.axhline(mean, color=colour, linestyle="--", linewidth=1.3, label=line.row.name)
    # places, not values: none has no value, and the paper's axis is even too
    axis.set_xticks(range(len(kept)), [str(line.row.x) for line in kept])
    axis.set_xlabel(summary.experiment.axis or "")
    axis.set_title(f"{pretty(metric)}, %", loc="left", fontsize=10, color="#323f4b")


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
