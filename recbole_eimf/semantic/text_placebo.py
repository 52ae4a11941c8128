"""Placebos for item text: is it the meaning that helps, or any vectors of this form?

Clusters, prompts and replies stay those of the real text: only what a model reads of items changes.
"""

from __future__ import annotations

import numpy as np

from recbole_eimf.core.errors import ConfigError

SOURCES = ("real", "shuffled", "noise")


def text_vectors(vectors: np.ndarray, source: str, seed: int, era: np.ndarray | None = None) -> np.ndarray:
    """Item vectors of a ``text_source``, float32 [n, d].

    ``shuffled`` permutes them over the items: the same vectors and spectrum, no meaning. ``noise`` draws them from the
    Gaussian of their mean and covariance. Under ``global_time`` both know as little of the future as the real text:
    items exchange texts within their era alone, and mean and covariance are those of what training knows.

    Args:
        vectors: of the items that have text, [n, d]; seed: the run's.
        era: int [n], 0 for items that training knows, more for those that came later; None: there is one era.

    Raises:
        ConfigError: no such source.
    """
    rng = np.random.default_rng(seed)
    if source == "real":
        return vectors
    era = np.zeros(len(vectors), dtype=np.int64) if era is None else era
    if source == "shuffled":
        found = np.empty_like(vectors)
        for one in np.unique(era):
            there = np.flatnonzero(era == one)
            found[there] = vectors[there[rng.permutation(len(there))]]
        return found
    if source != "noise":
        raise ConfigError(f"text_source={source!r}: allowed are {', '.join(SOURCES)}.")
    wide = vectors[era == 0].astype(np.float64)
    mean = wide.mean(0)
    variance, axes = np.linalg.eigh((wide - mean).T @ (wide - mean) / len(wide))
    drawn = rng.standard_normal(vectors.shape) * np.sqrt(np.maximum(variance, 0))
    return (mean + drawn @ axes.T).astype(np.float32)
