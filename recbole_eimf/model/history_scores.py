"""Scores by what a history's items are like, or are followed by, with weights that decay with recency."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor


def history_scores(sequence: Tensor, length: Tensor, graph: sparse.csr_matrix, decay: float) -> Tensor:
    """[B, L] right-padded items, [B], [N, N] -> float32 [B, N]: rows of the graph, summed over the history."""
    items, steps = sequence.cpu().numpy(), length.cpu().numpy()
    row, column = items.nonzero()
    weight = decay ** (steps[row] - 1 - column)
    history = sparse.coo_matrix((weight, (row, items[row, column])), shape=(len(items), graph.shape[0]))
    return torch.from_numpy((history.tocsr() @ graph).toarray().astype(np.float32)).to(sequence.device)


def ties_broken(scores: Tensor, popularity: Tensor, decays: bool) -> Tensor:
    """What was counted, with popularity where nothing tells items apart: float32 [B, N].

    Where pairs count whole a share of a ten-thousandth is added. Where they lose weight with age
    (``recency_half_life``) no fixed share is below all of them: popularity then orders only what was never counted,
    below the least of its row.

    Args:
        scores: counts or cosines [B, N], 0 where none is; popularity: [N]; decays: whether counts lose weight with age.
    """
    small = popularity / (popularity.max() + 1)  # below 1
    if not decays:
        return scores + small * 1e-4
    least = scores.masked_fill(scores <= 0, torch.inf).amin(1, keepdim=True)
    return torch.where(scores > 0, scores, small * torch.where(least.isinf(), 1.0, least))


def text_scores(sequence: Tensor, length: Tensor, text: Tensor, decay: float) -> Tensor:
    """[B, L] right-padded items, [B], unit rows [N, d] -> [B, N]."""
    steps = length[:, None] - 1 - torch.arange(sequence.shape[1], device=sequence.device)
    weight = torch.where(sequence > 0, decay ** steps.clamp(min=0), 0.0)
    return (weight[..., None] * text[sequence]).sum(1) @ text.T


def unit_text(side) -> Tensor:
    """Centred text vectors of unit length, zero where there is none, [N, d], of side-loaded text."""
    return F.normalize((side.item_text - text_mean(side)) * side.item_has_text[:, None], dim=-1)


def text_mean(side) -> Tensor:
    """The mean text vector of the items that statistics may know, [d], of side-loaded text."""
    return side.item_text[side.fitted].mean(0)
