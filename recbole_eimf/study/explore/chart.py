"""Users on a map: those who bought things with like titles lie side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAPS = ("tsne", "pca")
#: places a side of the map has
SIDE = 4095
_AXES = 50


@dataclass(frozen=True)
class Chart:
    """user: int64 [P], rows of the vectors; place: int64 [P, 2], from 0 to SIDE; method: of MAPS."""

    user: np.ndarray
    place: np.ndarray
    method: str


def charted(vectors: np.ndarray, always: Sequence[int], points: int, method: str, seed: int = 0) -> Chart:
    """Place users on a plane.

    Args:
        vectors: [U, d], unit vectors of the text of what users bought; always: rows that are on the map in any case;
            points: how many users at most, others are left out at random; method: of MAPS.
    """
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(len(vectors)), always)
    kept = rng.permutation(others)[: max(points - len(always), 0)]
    user = np.sort(np.concatenate([np.asarray(always, dtype=np.int64), kept]))
    flat = _projected(vectors[user].astype(np.float64), method, seed)
    low, high = flat.min(0), flat.max(0)
    wide = float((high - low).max()) or 1.0
    centred = (flat - (low + high) / 2) / wide + 0.5
    return Chart(user, np.rint(centred * SIDE).astype(np.int64).clip(0, SIDE), method)


def _projected(vectors: np.ndarray, method: str, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    axes = min(_AXES, *vectors.shape)
    if axes < 2:
        return np.hstack([vectors[:, :1], np.zeros((len(vectors), 1))])
    reduced = PCA(axes if method == "tsne" else 2, random_state=seed).fit_transform(vectors)
    if method == "pca" or len(vectors) < 5:
        return reduced[:, :2]
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
