"""RecBole's multi-head attention through torch's fused kernels: the same weights, names and random draws.

RecBole writes the scores of all pairs of positions, softmax and dropout out, and adds a mask of [B, 1, L, L] to them.
``scaled_dot_product_attention`` does the same in one call: on GPUs, and on processors without dropout, no matrix of
pairs is kept at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from recbole.model.layers import MultiHeadAttention


class FusedAttention(nn.Module):
    """Takes the place of RecBole's ``MultiHeadAttention``, whose parts (and names in a checkpoint) it keeps.

    Args:
        attention: what it takes the place of; causal: a position sees itself and what stands before it. Real items
            stand before the padding of a row, so a causal row needs no mask: what padding sees is never read.
    """

    def __init__(self, attention: MultiHeadAttention, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = attention.num_attention_heads, causal
        self.attention_dropout = attention.attn_dropout.p
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.dense, self.LayerNorm, self.out_dropout = attention.dense, attention.LayerNorm, attention.out_dropout

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """[B, L, d] -> [B, L, d]. ``mask``: bool, broadcast to [B, heads, L, L], True where a position may look; a row
        must have such a position. None: everywhere, or everywhere before it."""
        query, key, value = (
            part(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # [B, heads, L, d / heads]
        dropout = self.attention_dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=self.causal)
        return self.LayerNorm(self.out_dropout(self.dense(context.transpose(1, 2).flatten(2))) + states)


def fuse_attention(network: nn.Module, causal: bool) -> None:
    """Let a sequential network of RecBole's use :class:`FusedAttention` in every layer, in place."""
    for layer in network.trm_encoder.layer:
        layer.multi_head_attention = FusedAttention(layer.multi_head_attention, causal)
    network.get_attention_mask = _no_mask if causal else _real_items


def _no_mask(item_seq: Tensor, bidirectional: bool = False) -> None:
    return None


def _real_items(item_seq: Tensor, bidirectional: bool = True) -> Tensor:
    return (item_seq != 0)[:, None, None]
