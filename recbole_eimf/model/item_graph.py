"""Graphs over items that say what a rare item's vector is made of, and whom a label is shared with.

``vector_graph``: with n_i the training interactions of item i, k ``vector_graph_weight`` and s_i = k / (k + n_i),

``v_i = (1 - s_i) e_i + s_i sum_j A_ij e_j``,   A_ij proportional to W_ij n_j / (k + n_j) over i's nearest items

so an item that training never saw is what its neighbours are, and one seen often is itself. W is ``next``: what an LLM
says is bought after i, and what i is bought after (each item's arrows divided by the heaviest); or ``similar``:
cosines of texts, the same without an LLM. The mixture is trained through and folded into the item vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbole_eimf.model.score_prior import rows_to_one
from recbole_eimf.semantic.knowledge import next_graph

#: neighbours that an item's vector is mixed with
_NEIGHBOURS = 5


def heaviest(graph: sparse.csr_matrix, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row's heaviest entries, falling: (columns int64, values), [N, count] each; zero where there are fewer."""
    graph = graph.sorted_indices()  # among equals those of the lowest id
    columns = np.zeros((graph.shape[0], count), dtype=np.int64)
    values = np.zeros((graph.shape[0], count), dtype=np.float32)
    for row, (begin, end) in enumerate(zip(graph.indptr, graph.indptr[1:])):
        order = np.argsort(-graph.data[begin:end], kind="stable")[:count]
        columns[row, : len(order)], values[row, : len(order)] = (
            x[begin:end][order] for x in (graph.indices, graph.data)
        )
    return columns, values


def similar_graph(
    text: np.ndarray, has_text: np.ndarray, count: int, fitted: np.ndarray | None = None
) -> sparse.csr_matrix:
    """The items of nearest text: float32 [N, N], row i the cosines of the ``count`` nearest of text [N, d].

    fitted: bool [N], the items with text that may be near and that the mean is of; None: all with text.
    """
    items = has_text.nonzero()[0]
    near = items if fitted is None else fitted.nonzero()[0]
    own = np.full(len(text), -1)
    own[items] = np.arange(len(items))
    asked = [[] if place < 0 else [place] for place in own.tolist()]
    return next_graph(asked, text[items], near, text[near], len(text), count + 1)  # one is the item itself


def mixture(graph: sparse.csr_matrix, counts: np.ndarray, weight: float, count: int = _NEIGHBOURS) -> Tensor:
    """What vectors are made of, sparse [N, N]: a row holds the shares of an item's own id and of its neighbours'.

    Args:
        graph: W, [N, N]; counts: n, int [N], row 0 is padding; weight: k; count: neighbours of an item.
    """
    column, value = heaviest(graph, count)
    known = counts / (counts + weight)
    value = value * known[column]
    total = value.sum(1)
    share = np.where(total > 0, weight / (weight + counts), 0.0)  # who has no neighbours stays alone
    share[0] = 0.0
    value = value * (share / np.maximum(total, 1e-12))[:, None]
    row = np.arange(len(counts))
    index = np.stack([np.concatenate([row, row.repeat(count)]), np.concatenate([row, column.ravel()])])
    shares = np.concatenate([1 - share, value.ravel()]).astype(np.float32)
    parts = (torch.from_numpy(part) for part in (index[:, shares != 0], shares[shares != 0]))
    return torch.sparse_coo_tensor(*parts, graph.shape, check_invariants=False).coalesce()


def vector_mixture(kind: str, weight: float, side, counts: np.ndarray) -> Tensor | None:
    """The mixture that ``vector_graph`` asks for, of side-loaded text and arrows; None for ``none``."""
    if kind == "none":
        return None
    fitted = side.fitted.numpy()
    if kind == "similar":
        text, has_text = side.item_text.numpy(), side.item_has_text.numpy()
        return mixture(similar_graph(text, has_text, _NEIGHBOURS, fitted), counts, weight)
    follows = rows_to_one(side.next_known)
    graph = (follows + follows.T).tocsr()
    if side.seen is not None:  # arrows from items that came later make them nobody's neighbours
        graph = (graph @ sparse.diags(fitted.astype(np.float32))).tocsr()
    return mixture(graph, counts, weight)
