"""Items that training never saw, placed among those it did by their text.

A new item gets, in each table of item vectors, the weighted mean of the rows of the trained items whose texts are
nearest to its own, the weights being a softmax of the texts' cosines t . t_j:

    row(t) = length * direction of sum_j w_j row_j,   w_j ~ exp(t . t_j / TEMPERATURE),   length = sum_j w_j |row_j|

A mean of vectors is shorter than they are, and a product would rank new items behind all others for that alone, hence
the length. benchmarks/new_items.py measures what this is worth, and what it was chosen by: a regression from titles to
rows, with or without the neighbours' residuals, finds fewer of the items that were hidden, even for towers whose rows
are a linear map of text, where it is nearly exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

#: trained items that a new one's place is the mean of, and how fast their weight falls with the cosine of texts
NEIGHBOURS = 20
TEMPERATURE = 0.05
#: new items that are compared with the catalogue at a time
_TOGETHER = 1024


class Neighbours(NamedTuple):
    """Of each new item the nearest trained ones: rows int64 [n, J] of the catalogue, and weights [n, J] that add up to
    one."""

    rows: Tensor
    weight: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Values of the catalogue, [N] or [N, d], to their weighted means, [n] or [n, d]."""
        near = values[self.rows]
        return torch.einsum("nj,nj...->n...", self.weight.to(near.dtype), near)

    def place(self, table: Tensor) -> Tensor:
        """Rows [n, d] for a table [N, d]."""
        made = self.mean(table)
        return torch.nn.functional.normalize(made, dim=1, eps=1e-12) * self.mean(table.norm(dim=1))[:, None]

    def place_in_graph(self, graph: sparse.csr_matrix) -> sparse.csr_matrix:
        """[N, N] to [N + n, N + n]: rows and columns as :meth:`place` makes them. None is above all others of its
        column (row), so that what rows are divided by stays what it was."""
        ones = np.repeat(np.arange(len(self.rows)), self.rows.shape[1])
        at = (ones, self.rows.flatten().cpu().numpy())
        weight = self.weight.double().flatten().cpu().numpy()
        weights = sparse.coo_matrix((weight, at), shape=(len(self.rows), graph.shape[0])).tocsr()
        longer = sparse.vstack([graph, _placed(weights, graph)]).tocsr()
        return sparse.hstack([longer, _placed(weights, longer.T.tocsr()).T]).tocsr()

    def place_unknown(self, graph: sparse.csr_matrix, items: Tensor) -> sparse.csr_matrix:
        """[N, N] with rows and columns, as :meth:`place_in_graph` makes them, of those of ``items`` [n], whose
        neighbours these are, that have neither."""
        size = graph.shape[0]
        known = (np.diff(graph.indptr) > 0) | (np.bincount(graph.indices, minlength=size) > 0)
        new = torch.from_numpy(~known[items.cpu().numpy()])
        at = new.to(self.rows.device)
        grown = Neighbours(self.rows[at], self.weight[at]).place_in_graph(graph).tocoo()
        number = np.append(np.arange(size), items.cpu()[new].numpy())
        return sparse.coo_matrix((grown.data, (number[grown.row], number[grown.col])), shape=graph.shape).tocsr()


def _placed(weights: sparse.csr_matrix, graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """[n, N], [N, M] -> [n, M]: weighted means of rows, as long as the rows are."""
    made = (weights @ graph).tocsr()
    length = np.sqrt(made.multiply(made).sum(1)).A1
    wanted = weights @ np.sqrt(graph.multiply(graph).sum(1)).A1
    made = (sparse.diags(wanted / np.maximum(length, 1e-12)) @ made).tocsr()
    most = graph.max(axis=0).toarray().ravel()
    made.data = np.minimum(made.data, most[made.indices])
    return made


def neighbours(texts: Tensor, catalogue: Tensor, trained: Tensor) -> Neighbours:
    """The nearest trained items of each new one, at most NEIGHBOURS.

    Args:
        texts: [n, d_t], unit vectors; catalogue: float16 [N, d_t], unit vectors; trained: bool [N].
    """
    known = trained.nonzero().squeeze(1)
    # rounded as the catalogue's are, so that an item's own text is nearest to itself
    near = catalogue[known].float().T
    found = [(part.half().float() @ near).topk(min(NEIGHBOURS, len(known))) for part in texts.split(_TOGETHER)]
    rows, cosine = torch.cat([one.indices for one in found]), torch.cat([one.values for one in found])
    return Neighbours(known[rows], torch.softmax(cosine / TEMPERATURE, 1))
