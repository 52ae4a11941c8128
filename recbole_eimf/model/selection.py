"""Selections whose size depends on values: to ask a GPU how large one is means to wait for all it was asked before.

What is least work on a processor, to pick what counts and compute on that alone, drains a GPU's queue at every pick.
The choice between picking and computing under a mask is made here, by device; results are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distinct_values(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """The distinct ones of values [n], ascending: (values [m], which of them count, bool [m]; None: all do).

    On a GPU repetitions stay, m = n, and the first of each value counts.
    """
    return _distinct_in_place(values) if values.is_cuda else (values.unique(), None)


def _distinct_in_place(values: Tensor) -> tuple[Tensor, Tensor]:
    values = values.sort().values
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return values, first


def shared_rows(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """What is computed once for many: (rows of a table to compute [m], where each of ``index`` [...] finds its own).

    On a processor those that ``index`` names, each once; on a GPU all ``rows`` of the table, or one for every entry of
    ``index``, whichever is fewer.
    """
    return _rows_unasked(index, rows) if index.is_cuda else index.unique(return_inverse=True)


def _rows_unasked(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    if rows <= index.numel():
        return torch.arange(rows, device=index.device), index
    return index.flatten(), torch.arange(index.numel(), device=index.device).view(index.shape)


def mean_of(values: Tensor, counts: Tensor | None) -> Tensor:
    """The mean of values [n] where ``counts`` [n] is True (None: everywhere); zero where it never is."""
    if counts is None:
        return values.mean()
    return values.masked_fill(~counts, 0).sum() / counts.sum().clamp(min=1)
