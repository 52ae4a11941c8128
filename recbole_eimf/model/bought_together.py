"""What training's users bought together: counts that floors and score priors are made of."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recbole_eimf.config.contract import CHOSEN
from recbole_eimf.core.errors import DataError
from recbole_eimf.data.time_split import recency_weights


def interaction_weights(config, dataset, chosen: float | None = None) -> np.ndarray:
    """What each training interaction counts, float64 [n]: 1, or less the longer ago (``recency_half_life``).

    Args:
        chosen: days in place of ``recency_half_life=chosen``; None: all count alike.

    Raises:
        DataError: the data has no times to tell how long ago.
    """
    said = config["recency_half_life"]
    if said is not None and dataset.times is None:
        raise DataError(f"recency_half_life={said}: {dataset.dataset_name} has no times. Leave it out.")
    half_life = chosen if said == CHOSEN else said
    if half_life is None:
        return np.ones(len(dataset.flat))
    return recency_weights(dataset.times, half_life)


def bought_together(dataset, weight: np.ndarray, shrink: float, neighbours: int) -> sparse.csr_matrix:
    """Item-to-item cosines over users, float64 [N, N]: ``co-occurrences / (sqrt(count . count) + shrink)``.

    Args:
        dataset: whose training part counts; weight: of each of its interactions, [n]; neighbours: entries of a row that
            are kept, the largest.
    """
    flat, spans, n_items = dataset.flat.numpy(), dataset.spans, dataset.item_num
    user = np.repeat(np.arange(len(spans)), spans.middle - spans.start)
    # a repeat buys the same relation once, as the latest one weighs; of a pair each item brings its root
    order = np.lexsort((weight, flat, user))
    latest = np.append((np.diff(user[order]) != 0) | (np.diff(flat[order]) != 0), True)[: len(order)]
    kept = order[latest]
    bought = sparse.coo_matrix((np.sqrt(weight[kept]), (user[kept], flat[kept])), shape=(len(spans), n_items)).tocsr()
    together = (bought.T @ bought).tocsr()
    count = together.diagonal()
    together.setdiag(0)
    together.eliminate_zeros()
    row = np.repeat(np.arange(n_items), np.diff(together.indptr))
    length = np.sqrt(count)  # of each: a product of small counts would be nothing
    together.data /= length[row] * length[together.indices] + shrink
    return _largest_per_row(together, neighbours)


def _largest_per_row(matrix: sparse.csr_matrix, keep: int) -> sparse.csr_matrix:
    """Keep the ``keep`` largest entries of every row."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, row))
    rank = np.arange(len(order)) - matrix.indptr[row[order]]
    chosen = order[rank < keep]
    return sparse.coo_matrix((matrix.data[chosen], (row[chosen], matrix.indices[chosen])), shape=matrix.shape).tocsr()
