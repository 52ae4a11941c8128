"""The arena's figures as SVG texts: the critical-difference diagram, and cost against quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from recbole_eimf.study.report.plot import _COLOURS, _GREYS, _panel, _svg
from recbole_eimf.study.standings import Standing, Standings

_ROW = 0.24  # inches between two names


def critical_difference_diagram(found: Standings) -> str:
    """Demšar's diagram: rows at their mean rank, best at the left; a bar joins those that are not told apart."""
    count = len(found.rows)
    half = math.ceil(count / 2)
    groups = found.alike()
    depth = 0.35 + 0.14 * len(groups)
    height = depth + _ROW * (half + 1)
    with _panel((10.8, height + 0.5)) as (figure, axis):
        axis.set_axis_off()
        low, high = 1.0, float(count)
        side = 0.42 * (high - low)
        axis.set_xlim(low - side, high + side)
        axis.set_ylim(height, -0.5)
        axis.plot([low, high], [0, 0], color="#323f4b", linewidth=1.2)
        for tick in range(1, count + 1, 1 if count <= 30 else 5):
            axis.plot([tick, tick], [0, -0.07], color="#323f4b", linewidth=1)
            axis.text(tick, -0.12, str(tick), ha="center", va="bottom", fontsize=8, color="#52606d")
        for place, (first, last) in enumerate(groups):
            level = 0.16 + 0.14 * place
            ends = [found.rows[first].rank - 0.05, found.rows[last].rank + 0.05]
            axis.plot(ends, [level, level], color="#1f2933", linewidth=3, solid_capstyle="butt")
        for place, row in enumerate(found.rows):
            left = place < half
            level = depth + _ROW * (place if left else count - 1 - place)
            edge = low - 0.04 * side if left else high + 0.04 * side
            colour = _colour(row)
            axis.plot([row.rank, row.rank, edge], [0, level, level], color=colour, linewidth=0.9)
            said = f"{row.shown}  {row.rank:.2f}" if left else f"{row.rank:.2f}  {row.shown}"
            axis.text(edge, level, said, ha="right" if left else "left", va="center", fontsize=8.5, color=colour)
        return _svg(figure)


def cost(found: Standings) -> str:
    """Seconds of a training (logarithmic) against the mean rank, best at the top."""
    trained = [row for row in found.rows if not row.floor]
    with _panel((10.8, 4.6)) as (figure, axis):
        for row in trained:
            size = 30 + 60 * row.parameters / max(other.parameters for other in trained)
            axis.scatter(max(row.seconds, 0.1), row.rank, s=size, color=_colour(row), alpha=0.85, linewidth=0)
        floors: dict[float, list[str]] = {}
        for row in found.rows:
            if row.floor:
                floors.setdefault(row.rank, []).append(row.shown)
        for rank in floors:
            axis.axhline(rank, color=_GREYS[1], linewidth=0.8, linestyle=":")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:,g}")
        axis.xaxis.set_minor_formatter("")
        axis.margins(x=0.18)
        axis.invert_yaxis()
        axis.set_xlabel("seconds of a training, mean over tables and seeds")
        axis.set_ylabel("mean rank")
        FigureCanvasAgg(figure).draw()  # the limits and the layout are settled now
        points = [(row.shown, max(row.seconds, 0.1), row.rank) for row in trained]
        taken = [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in
                 axis.transData.transform([(x, y) for _, x, y in points])] if points else []  # fmt: skip
        for rank, names in floors.items():
            where = {"xy": (1, rank), "xycoords": ("axes fraction", "data")}
            _write(axis, ", ".join(names), where, _LINE_PLACES, taken, fontsize=7.5, color="#52606d")
        for name, x, y in sorted(points, key=lambda point: (point[2], point[1])):
            _write(axis, name, {"xy": (x, y)}, _PLACES, taken, fontsize=8)
        return _svg(figure)


#: where a point's name may stand, in points from it, and which of its ends is there
_PLACES = [(6, 3, "left"), (-6, 3, "right"), (6, -10, "left"), (-6, -10, "right"), (6, 15, "left"), (-6, 15, "right")]
#: where a line's name may stand, from the line's right end
_LINE_PLACES = [(-left, up, "right") for left in (3, 90, 180, 270) for up in (2, -9)]


def _write(axis: Axes, name: str, where: dict[str, Any], places: Sequence[tuple[int, int, str]], taken: list[Bbox],
           **look: Any) -> None:  # fmt: skip
    """Write a name in the first of its places that is within the axes and clear of the boxes ``taken``, to which its
    own is added; where there is none, in the place that is least in the way."""
    whole = axis.get_window_extent()
    tried = []
    for right, up, end in places:
        said = axis.annotate(name, **where, xytext=(right, up), textcoords="offset points", ha=end, **look)
        box = said.get_window_extent()
        outside = max(whole.x0 - box.x0, box.x1 - whole.x1, 0) > 0
        tried.append((outside + sum(box.overlaps(other) for other in taken), len(tried), said, box))
        if not tried[-1][0]:
            break
    *_, best, box = min(tried, key=lambda one: one[:2])
    taken.append(box)
    for *_, said, _ in tried:
        if said is not best:
            said.remove()


def _colour(row: Standing) -> str:
    """Floors grey, placebos pale, rows that an LLM helped orange, others blue."""
    if row.floor:
        return _GREYS[1]
    if row.placebo:
        return _COLOURS[3]
    return _COLOURS[1] if row.calls else _COLOURS[0]
