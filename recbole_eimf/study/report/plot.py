"""Figures of a comparison as SVG texts: bars, slices, training curves, and a study's line. A panel is a figure, so that
the page may put as many side by side as there is room for; their keys are the page's."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recbole_eimf.study.runs import REFIT
from recbole_eimf.study.table.content import slice_names
from recbole_eimf.study.table.summary import Figure as Cell
from recbole_eimf.study.table.summary import Line, Summary, View, pretty

# Okabe and Ito's colours, which the colour-blind can tell apart
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#444444")
_GREYS = ("#3e4c59", "#62707e", "#8492a2", "#a8b3be", "#cbd2d9")  # the strongest floor is the darkest
_PANEL = (4.9, 3.1)
_DASHES = {"-": "solid", "--": "dashed", ":": "dotted"}
_STYLE = {
    "font.size": 9.5, "font.family": "DejaVu Sans", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#7b8794", "axes.labelcolor": "#323f4b", "xtick.color": "#52606d", "ytick.color": "#323f4b",
    "axes.grid": True, "grid.color": "#e4e7eb", "axes.axisbelow": True, "svg.hashsalt": "recbole_eimf",
    "hatch.linewidth": 0.6,
}  # fmt: skip


class Look(NamedTuple):
    """How a row is drawn everywhere: ``hatch`` of its bars and ``dash`` of its lines tell a placebo."""

    colour: str
    hatch: str = ""
    dash: str = "-"


class Swatch(NamedTuple):
    """An entry of a figure's key: a name, and the CSS of the swatch before it."""

    name: str
    style: str


class Panels(NamedTuple):
    """Figures that share a key: title or metric -> SVG."""

    panels: dict[str, str]
    key: list[Swatch]


def looks(lines: Sequence[Line]) -> dict[str, Look]:
    """A look per row: greys for floors, the darkest for the strongest; over several backbones a hue per backbone, pale
    for the backbone alone and hatched for the placebo; else a hue per row."""
    floors = sorted((line for line in lines if line.floor), key=_strength, reverse=True)
    step = (len(_GREYS) - 1) / max(len(floors) - 1, 1)
    found = {
        line.row.name: Look(_GREYS[min(round(step * index), len(_GREYS) - 1)]) for index, line in enumerate(floors)
    }
    others = [line for line in lines if line.row.name not in found]
    backbones = {str(line.row.keys["backbone"]) for line in others if "backbone" in line.row.keys}
    hues: dict[str, str] = {}
    for line in others:
        family = str(line.row.keys.get("backbone", line.row.name)) if len(backbones) > 1 else line.row.name
        hue = hues.setdefault(family, _COLOURS[len(hues) % len(_COLOURS)])
        placebo = line.placebo
        pale = len(backbones) > 1 and line.row.model == "IBIM"
        found[line.row.name] = Look(_paler(hue) if pale else hue, "////" if placebo else "", "--" if placebo else "-")
    return found


def _strength(line: Line) -> float:
    """How good a row is in what checkpoints are chosen by; the worst of all where it has not run."""
    found = line.mean_of(f"test.{str(line.runs[0].settings['valid_metric']).lower()}") if line.runs else None
    return -1.0 if found is None else found


def swatches(summary: Summary, rows: Sequence[str]) -> list[Swatch]:
    """The key of bars."""
    look = looks(summary.lines)
    return [Swatch(summary.shown(row), _filled(look[row])) for row in rows]


def _filled(look: Look) -> str:
    if look.hatch:
        return f"background: repeating-linear-gradient(135deg, {look.colour} 0 3px, #fff 3px 4px)"
    return f"background: {look.colour}"


def _paler(colour: str, by: float = 0.55) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + by * (255 - c)):02x}" for c in (red, green, blue))


def bars(summary: Summary, view: View, metrics: Sequence[str]) -> dict[str, str] | None:
    """Metric -> bars with the deviation over seeds; None while there is nothing to draw."""
    lines = [line for line in summary.lines if line.row.name in view.figures]
    if not lines:
        return None
    return {metric: _bars(summary, view, lines, metric) for metric in metrics}


def _bars(summary: Summary, view: View, lines: Sequence[Line], metric: str) -> str:
    found = [view.figures[line.row.name].get(metric) for line in lines]
    places = range(len(lines))
    look = looks(summary.lines)
    with _panel((_PANEL[0], 0.75 + 0.27 * len(lines))) as (figure, axis):
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
        axis.set_yticks(places, [line.shown for line in lines])
        axis.grid(axis="y", visible=False)
        axis.invert_yaxis()
        _titled(axis, f"{pretty(metric)}, %")
        return _svg(figure)


@contextlib.contextmanager
def _panel(size: tuple[float, float] = _PANEL) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots()


def _titled(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, color="#323f4b")


def _spread(found: Cell | None) -> float:
    """The length of an error bar; NaN draws none, where there is a single run."""
    return float("nan") if found is None or found.deviation is None else found.deviation


def slices(summary: Summary, metric: str) -> str | None:
    """Grouped bars of a metric by kind of target; None where no row has it."""
    names = slice_names(summary)
    rows = [line for line in summary.lines if line.row.name in summary.slices]
    if not any(metric in slice for row in summary.slices.values() for slice in row.values()):
        return None
    look = looks(summary.lines)
    width = 0.82 / len(rows)
    # the terciles and the fixed ranges slice the same targets twice: a gap between them
    middle = [index + 0.5 * (name not in ("unseen", "cold", "median", "warm")) for index, (name, _) in enumerate(names)]
    with _panel((10.8, 3.1)) as (figure, axis):
        for index, line in enumerate(rows):
            values = [summary.slices[line.row.name].get(name, {}).get(metric, 0.0) for name, _ in names]
            places = [place + (index - (len(rows) - 1) / 2) * width for place in middle]
            style = {"color": look[line.row.name].colour, "hatch": look[line.row.name].hatch, "edgecolor": "white"}
            axis.bar(places, values, width * 0.96, **style)
        # a name of two words takes two lines, or neighbours run into each other
        axis.set_xticks(middle, [f"{name.replace('_', chr(10))}\n{targets:,}" for name, targets in names])
        axis.set_xlabel("kind of target, and how many there are", fontsize=8.5, color="#52606d")
        axis.grid(axis="x", visible=False)
        axis.set_ylabel(f"{pretty(metric)}, %")
        return _svg(figure)


def curves(summary: Summary) -> Panels | None:
    """Training loss and the validation metric by epoch: a line per row and phase (mean over seeds), a thin one a seed.

    The phases of a model are trainings of their own, each from its first epoch on. Epochs that were not validated
    (``eval_step``) have a loss alone. A second training (``refit``) is not drawn.
    """
    look = looks(summary.lines)
    trained = {
        name: (histories, style)
        for line in summary.lines if not line.row.counting
        for name, histories, style in _phases(line, look[line.row.name])
    }  # fmt: skip
    if not trained:
        return None
    metric = str(summary.lines[0].runs[0].settings["valid_metric"]).lower()
    sides = {
        "training loss (sum of its parts)": lambda epoch: sum(epoch.get("losses") or [float("nan")]),
        f"validation {pretty(metric)}, %": lambda epoch: 100 * epoch.get("valid", {}).get(metric, float("nan")),
    }
    panels = {}
    for title, value in sides.items():
        lines = [(_values(histories, value), style) for histories, style in trained.values()]
        if not any(every for every, _ in lines):  # nothing was validated
            continue
        with _panel() as (figure, axis):
            for every, style in lines:
                _curve(axis, every, style)
            _titled(axis, title)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            panels[title] = _svg(figure)
    return Panels(panels, [Swatch(name, _drawn(style)) for name, (_, style) in trained.items()])


def _drawn(look: Look) -> str:
    return f"border-top-color: {look.colour}; border-top-style: {_DASHES[look.dash]}"


def _phases(line: Line, look: Look) -> list[tuple[str, list[list[dict]], Look]]:
    """(name, epochs of every seed, look) of each phase of a row, as they were trained, the last one in the row's own
    look; a model without phases has one, called as the row."""
    found: dict[str, list[list[dict]]] = {}
    for run in line.runs:
        for name, history in run.histories().items():
            epochs = [epoch for epoch in history if epoch["epoch"] >= 0]
            if epochs and name.partition("/")[0] != REFIT:
                found.setdefault(name, []).append(epochs)
    others = [dash for dash in _DASHES if dash != look.dash]
    drawn = [
        (
            f"{line.shown}, {name}" if name else line.shown,
            histories,
            Look(_paler(look.colour, 0.2 * index), look.hatch, others[(index - 1) % len(others)]) if index else look,
        )
        for index, (name, histories) in enumerate(reversed(found.items()))
    ]
    return drawn[::-1]


def _values(histories: Sequence[Sequence[Mapping]], value: Callable[[Mapping], float]) -> list[dict[int, float]]:
    """Of each seed that has any the values there are, by their epochs, which count from 1."""
    every = [{epoch["epoch"] + 1: found for epoch in one if not math.isnan(found := value(epoch))} for one in histories]
    return [one for one in every if one]


def _curve(axis: Axes, every: Sequence[Mapping[int, float]], look: Look) -> None:
    for one in every if len(every) > 1 else ():
        axis.plot(list(one), list(one.values()), look.dash, color=look.colour, linewidth=0.7, alpha=0.35)
    # the mean goes as far as every seed does: beyond, it would jump when one drops out
    shared = sorted(set.intersection(*map(set, every))) if every else []
    mean = [sum(one[epoch] for one in every) / len(every) for epoch in shared]
    marker = "o" if len(shared) < 3 else ""
    axis.plot(shared, mean, look.dash, color=look.colour, linewidth=1.8, marker=marker, markersize=4)


def line_over_axis(summary: Summary, view: View, metrics: Sequence[str]) -> Panels | None:
    """A study's line: metrics over ``x``, rows without a place on the axis as dashed lines."""
    placed = [line for line in summary.lines if line.row.x is not None and line.row.name in view.figures]
    if not placed:
        return None
    beside = [
        line for line in summary.lines
        if line.row.x is None and not line.row.floor and line.row.name in view.figures
    ]  # fmt: skip
    found = [Swatch("this study", _drawn(Look(_COLOURS[0])))] if beside else []
    found += [Swatch(line.shown, _drawn(Look(colour, dash="--"))) for colour, line in zip(_COLOURS[1:], beside)]
    return Panels({metric: _over_axis(summary, view, placed, beside, metric) for metric in metrics}, found)


def _over_axis(summary: Summary, view: View, placed: Sequence[Line], beside: Sequence[Line], metric: str) -> str:
    kept = [line for line in placed if metric in view.figures[line.row.name]]
    found = [view.figures[line.row.name][metric] for line in kept]
    with _panel() as (figure, axis):
        spread = [_spread(f) for f in found]
        axis.errorbar(range(len(kept)), [f.mean for f in found], spread, color=_COLOURS[0], marker="o", capsize=3)
        for colour, line in zip(_COLOURS[1:], beside):
            if metric in view.figures[line.row.name]:
                axis.axhline(view.figures[line.row.name][metric].mean, color=colour, linestyle="--", linewidth=1.3)
        # places, not values: none has no value, and the paper's axis is even too
        axis.set_xticks(range(len(kept)), [str(line.row.x) for line in kept])
        axis.set_xlabel(summary.experiment.axis or "")
        _titled(axis, f"{pretty(metric)}, %")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
