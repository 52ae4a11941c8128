"""A search in one picture: every trial as a line over its settings, and how much each setting mattered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_eimf.core.files import atomic_path
from recbole_eimf.study.search.outcome import SearchOutcome
from recbole_eimf.study.search.space import Dimension
from recbole_eimf.study.search.trial import Trial

_ENOUGH = 8  # trials before an importance means anything
_COLOURS = "viridis"


def plot_search(found: SearchOutcome, path: Path) -> None:
    """Write the picture of a search as a PNG: parallel coordinates, and importances from eight trials on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trials = [trial for trial in found.trials if trial.status != "failed" and trial.score is not None]
    wide = max(7.0, 1.5 * (len(found.space) + 1))
    ranked = len(trials) >= _ENOUGH
    figure = Figure(figsize=(wide + (4.0 if ranked else 0.0), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if ranked else 1, squeeze=False, width_ratios=[wide, 4.0] if ranked else None)[0]
    _draw_lines(figure, axes[0], found, trials)
    if ranked:
        _draw_importance(axes[1], found, trials)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def importance(found: SearchOutcome, trials: list[Trial]) -> dict[str, tuple[float, float]]:
    """How much a random forest's prediction of the score loses when a setting is shuffled: mean and deviation.

    Shares of the variance of the scores (the drop of R2). Few trials tell little: read it as a hint where to look.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    inputs = np.array([[_place(d, t.settings.get(key)) for key, d in found.space.items()] for t in trials])
    scores = np.array([trial.score for trial in trials])
    forest = RandomForestRegressor(200, random_state=0).fit(inputs, scores)
    drops = permutation_importance(forest, inputs, scores, n_repeats=20, random_state=0)
    return dict(zip(found.space, zip(drops.importances_mean.tolist(), drops.importances_std.tolist())))


def _place(dimension: Dimension, value: Any) -> float:
    """Where a value stands on its axis, 0 to 1 within the space's bounds; the first trial may lie outside."""
    if value is None and None not in dimension.values:
        return -0.08
    if dimension.kind == "choice":
        last = max(len(dimension.values) - 1, 1)
        return dimension.values.index(value) / last if value in dimension.values else -0.08
    low, high = _bounds(dimension)
    if dimension.kind == "log":
        value, low, high = (float(np.log(max(v, 1e-12))) for v in (value, low, high))
    return float(np.clip((value - low) / (high - low), -0.08, 1.08))


def _draw_lines(figure: Any, axis: Any, found: SearchOutcome, trials: list[Trial]) -> None:
    import matplotlib
    from matplotlib.colors import Normalize

    scores = np.array([trial.score for trial in trials])
    low, high = scores.min(), max(scores.max(), scores.min() + 1e-9)
    scale = Normalize(low, high)
    colours = matplotlib.colormaps[_COLOURS]
    columns = range(len(found.space) + 1)
    best = found.require_best()
    for trial in sorted(trials, key=lambda t: t.score, reverse=not found.job.bigger):
        heights = [_place(d, trial.settings.get(key)) for key, d in found.space.items()]
        heights.append((trial.score - low) / (high - low))
        style = "-" if trial.status == "finished" else "--"
        thick = 3.0 if trial.number == best.number else 1.2
        axis.plot(columns, heights, style, color=colours(scale(trial.score)), linewidth=thick)
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    for column, dimension in enumerate(found.space.values()):
        axis.axvline(column, color="0.6", linewidth=0.8, zorder=0)
        for height, text in _ticks(dimension):
            axis.text(column + 0.04, height, text, fontsize=7, va="center", zorder=3, bbox=paper)
    axis.set_xticks(list(columns), [*found.space, f"valid {found.job.metric}"], rotation=20, ha="right", fontsize=8)
    axis.set_yticks([])
    axis.set_xlim(-0.1, len(found.space) + 0.1)
    axis.set_ylim(-0.12, 1.12)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    axis.set_title(
        f"{found.job.model} on {found.job.dataset}: {len(trials)} trials (dashed: stopped early)", fontsize=9
    )
    figure.colorbar(matplotlib.cm.ScalarMappable(scale, colours), ax=axis, pad=0.01)


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    if dimension.kind == "choice":
        return [(_place(dimension, value), str(value)) for value in dimension.values]
    low, high = _bounds(dimension)
    return [(0.0, f"{low:g}"), (1.0, f"{high:g}")]


def _bounds(dimension: Dimension) -> tuple[float, float]:
    return dimension.values if dimension.drawn else (0.0, dimension.values[0])


def _draw_importance(axis: Any, found: SearchOutcome, trials: list[Trial]) -> None:
    drops = sorted(importance(found, trials).items(), key=lambda entry: entry[1][0])
    axis.barh([key for key, _ in drops], [m for _, (m, _) in drops], xerr=[s for _, (_, s) in drops], color="0.55")
    axis.tick_params(labelsize=8)
    axis.set_title(f"importance (permutation, {len(trials)} trials)", fontsize=9)
    axis.set_xlabel("share of the scores' variance explained", fontsize=8)
