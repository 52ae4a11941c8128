"""Discrete codes of text vectors by product quantisation: what VQ-Rec's items are made of (Hou et al., WWW 2023).

A text vector is rotated, cut into pieces, and every piece replaced by the number of its nearest centroid. The rotation
is that of optimised product quantisation in its parametric form (Ge et al. 2013): principal components, dealt out so
that the pieces hold alike much. scikit-learn's k-means, which RecBole brings along, is all this takes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.core.errors import ConfigError

#: rows that each centroid is fitted on, at most: more change centroids little (faiss warns of more than 256)
_ROWS_OF_A_CENTROID = 256


def dealt_out(variance: np.ndarray, pieces: int) -> list[list[int]]:
    """Principal components to pieces of like size, each to the one whose product of variances is least so far.

    >>> dealt_out(np.array([8.0, 4.0, 2.0, 1.0]), 2)
    [[0, 3], [1, 2]]
    """
    capacity = -(-len(variance) // pieces)
    filled: list[list[int]] = [[] for _ in range(pieces)]
    product = np.zeros(pieces)  # in logarithms, of variances at least those of the weakest component
    logs = np.log(np.maximum(variance, variance.max() * 1e-9 + 1e-30))
    logs -= logs.min()
    for component in np.argsort(-variance, kind="stable"):
        open_pieces = [p for p in range(pieces) if len(filled[p]) < capacity]
        # an empty piece first: every piece must have something
        best = min(open_pieces, key=lambda p: (bool(filled[p]), product[p], p))
        filled[best].append(int(component))
        product[best] += logs[component]
    return filled


def product_codes(
    text: Tensor, has_text: Tensor, pieces: int, centroids: int, seed: int = 0, fitted: Tensor | None = None
) -> Tensor:
    """The codes of every item.

    Args:
        text: [N, d_t]; has_text: bool [N], the items that get codes.
        pieces: D of the paper; centroids: M of each piece; as many as there are different vectors, at most.
        seed: of k-means.
        fitted: bool [N], the items with text that pieces and centroids are fitted on; None: all with text.

    Returns:
        int64 [N, pieces], below ``centroids``; rows of items without text are 0 and mean nothing.

    Raises:
        ConfigError: more pieces than the text has dimensions.
    """
    from sklearn.cluster import KMeans

    if pieces > text.shape[1]:
        raise ConfigError(f"code_pieces={pieces}: the text vectors have {text.shape[1]} dimensions to cut.")
    known = text[has_text if fitted is None else fitted].double().numpy()
    codes = torch.zeros(len(text), pieces, dtype=torch.long)
    if not len(known):
        return codes
    centred = known - known.mean(0)
    # numpy's, which published codes were made with, and without item_table's signs: k-means sees distances alone
    variance, directions = np.linalg.eigh(centred.T @ centred / len(known))
    rotated = centred @ directions
    every = (text[has_text].double().numpy() - known.mean(0)) @ directions
    chosen = np.random.default_rng(seed).permutation(len(known))[: _ROWS_OF_A_CENTROID * centroids]
    for piece, components in enumerate(dealt_out(variance, pieces)):
        part = np.ascontiguousarray(rotated[:, components])
        number = min(centroids, len(np.unique(part[chosen], axis=0)))
        found = KMeans(number, n_init=1, max_iter=25, random_state=seed).fit(part[chosen])
        mine = np.ascontiguousarray(every[:, components])
        codes[has_text, piece] = torch.from_numpy(found.predict(mine).astype(np.int64))
    return codes
