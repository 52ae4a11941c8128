"""Attention layers of EIMF and ComiRec-SA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def target_attention(query: Tensor, interests: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Target-aware attention (EIMF eq. 6 and 8): softmax over the interests of query · interest.

    Args:
        query: [R, d]; interests: [R, K, d] (keys and values); mask: [R, K] bool, True where an interest exists (at
            least one per row); scale: multiplies the products.

    Returns:
        [R, d]
    """
    logits = torch.einsum("rd,rkd->rk", query, interests) * scale
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return torch.einsum("rk,rkd->rd", torch.softmax(logits, -1), interests)


def hard_readout(query: Tensor, interests: Tensor) -> Tensor:
    """The interest closest to the target, as ComiRec and REMI train: [R, d], [R, K, d] -> [R, d]."""
    best = torch.einsum("rd,rkd->rk", query, interests).argmax(-1)
    return interests[torch.arange(len(best), device=best.device), best]


class MaskedSelfAttention(nn.Module):
    """Self-attention over a set of interests (EIMF eq. 7): one head, residual, no position.

    Rows of the mask must have at least one True.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.query = nn.Linear(dimension, dimension, bias=False)
        self.key = nn.Linear(dimension, dimension, bias=False)
        self.value = nn.Linear(dimension, dimension, bias=False)

    def forward(self, interests: Tensor, mask: Tensor) -> Tensor:
        """[R, M, d], [R, M] bool -> [R, M, d]; rows where the mask is False are meaningless."""
        scale = 1 / math.sqrt(interests.shape[-1])
        logits = self.query(interests) @ self.key(interests).transpose(1, 2) * scale
        weight = torch.softmax(logits.masked_fill(~mask[:, None, :], -torch.inf), -1)
        return interests + weight @ self.value(interests)


class SelfAttentiveRouting(nn.Module):
    """ComiRec-SA's interest extraction (Cen et al. 2020, eq. 8-9): A = softmax(W2 tanh(W1 (H + P)^T)), interests A H.

    The softmax is over positions, padding masked. **Decision:** positions are counted from the latest item backwards,
    so that a position means the same recency in sequences of every length.
    """

    def __init__(self, dimension: int, interest_num: int, max_length: int) -> None:
        super().__init__()
        self.position = nn.Embedding(max_length, dimension)
        self.hidden = nn.Linear(dimension, 4 * dimension, bias=False)
        self.heads = nn.Linear(4 * dimension, interest_num, bias=False)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, items: Tensor, mask: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, L, d], [B, L] bool -> interests [B, K, d], attention [B, K, L] (zero at padding).

        Every row needs a real item. ``keys`` [B, L, d] are attended to instead of ``items`` (dropped-out copies).
        """
        recency = (mask.sum(-1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0)
        keyed = (items if keys is None else keys) + self.position(recency)
        logits = self.heads(torch.tanh(self.hidden(keyed))).transpose(1, 2)  # [B, K, L]
        attention = torch.softmax(logits.masked_fill(~mask[:, None, :], -torch.inf), -1)
        return attention @ items, attention
