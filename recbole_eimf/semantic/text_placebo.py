"""Placebos for item text: is it the meaning that helps, or any vectors of this form?

Clusters, prompts and replies stay those of the real text: only what a model reads of items changes.
"""

from __future__ import annotations

import numpy as np

from recbole_eimf.core.errors import ConfigError

SOURCES = ("real", "shuffled", "noise")


def text_vectors(vectors: np.ndarray, source: str, seed: int) -> np.ndarray:
    """Item vectors of a ``text_source``, float32 [n, d].

    ``shuffled`` permutes them over the items: the same vectors and spectrum, no meaning. ``noise`` draws them from the
    Gaussian of their mean and covariance.

    Args:
        vectors: of the items that have text, [n, d]; seed: the run's.

    Raises:
        ConfigError: no such source.
    """
    rng = np.random.default_rng(seed)
    if source == "real":
        return vectors
    if source == "shuffled":
        return vectors[rng.permutation(len(vectors))]
    if source != "noise":
        raise ConfigError(f"text_source={source!r}: allowed are {', '.join(SOURCES)}.")
    wide = vectors.astype(np.float64)
    mean = wide.mean(0)
    variance, axes = np.linalg.eigh((wide - mean).T @ (wide - mean) / len(wide))
    drawn = rng.standard_normal(wide.shape) * np.sqrt(np.maximum(variance, 0))
    return (mean + drawn @ axes.T).astype(np.float32)
