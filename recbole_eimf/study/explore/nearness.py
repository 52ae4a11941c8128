"""Interests beside the titles of the catalogue: which are nearest, and which interests are near to none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: titles that are shown of each interest
NEAREST = 5
#: titles that the measure is taken from
_SAMPLED = 2000
_AT_A_TIME = 1024


@dataclass(frozen=True)
class Near:
    """nearest: int64 [n, k], rows of items, nearest first; cosine: float32 [n, k]."""

    nearest: np.ndarray
    cosine: np.ndarray


def nearest_titles(interests: np.ndarray, items: np.ndarray, k: int = NEAREST) -> Near:
    """The k items whose titles are nearest to each interest: unit vectors [n, d] and [N, d]."""
    k = min(k, len(items))
    nearest = np.zeros((len(interests), k), dtype=np.int64)
    cosine = np.zeros((len(interests), k), dtype=np.float32)
    for begin in range(0, len(interests), _AT_A_TIME):
        part = slice(begin, begin + _AT_A_TIME)
        near = interests[part] @ items.T
        best = np.argpartition(-near, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(near, best, 1), axis=1, kind="stable")
        nearest[part] = np.take_along_axis(best, order, 1)
        cosine[part] = np.take_along_axis(near, nearest[part], 1)
    return Near(nearest, cosine)


def far_below(cosines: np.ndarray) -> float:
    """The cosine below which an interest is far from every title: Tukey's fence, a box and a half below the quartiles.

    Sentences are farther from titles than titles are from each other, and encoders differ in how near anything is to
    anything: so the measure is what most of the run's own interests reach.

    Args:
        cosines: of every interest with its nearest title, [n].
    """
    if not len(cosines):
        return -1.0
    low, high = np.quantile(cosines, (0.25, 0.75))
    return float(low - 1.5 * (high - low))


def between_titles(titles: Sequence[str], items: np.ndarray, seed: int = 0) -> float | None:
    """The median over titles of the cosine with the nearest other title, from a sample; the same words count once.

    Args:
        titles: [N]; items: their unit vectors, float32 [N, d].
    """
    first = np.array(sorted({title: n for n, title in reversed(list(enumerate(titles)))}.values()), dtype=np.int64)
    if len(first) < 2:
        return None
    chosen = np.random.default_rng(seed).permutation(len(first))[:_SAMPLED]
    distinct = items[first]
    best = []
    for begin in range(0, len(chosen), _AT_A_TIME):
        part = chosen[begin : begin + _AT_A_TIME]
        near = distinct[part] @ distinct.T
        near[np.arange(len(part)), part] = -np.inf
        best.append(near.max(1))
    return float(np.median(np.concatenate(best)))
