"""LiGR layers (Borisyuk et al. 2025, "From Features to Transformers"): what eSASRec is made of.

eSASRec (Tikhonovich et al., RecSys 2025) is SASRec's training with these layers and a softmax over items drawn for each
target: ``--model=LiGR --recipe=esasrec``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_eimf.model.backbones.backbone import CausalBackbone, TableFactory


class LiGRLayer(nn.Module):
    """x + sigmoid(x W_1) * attention(norm(x)), then x + sigmoid(x W_2) * swiglu(norm(x)): gates decide what is added.

    Args:
        width: d; heads; inner: of the feed-forward part; dropout: of what is added; attention_dropout; eps: of the
            norms.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, attention_dropout: float, eps: float):
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=eps) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.query_key_value, self.dense = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.swish, self.linear, self.out = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """[B, L, d] -> [B, L, d]; a position sees itself and what stands before it."""
        seen = self.dropout(self._attended(self.norms[0](states)))
        states = states + torch.sigmoid(self.gates[0](states)) * seen
        normed = self.norms[1](states)
        made = self.dropout(self.out(F.silu(self.swish(normed)) * self.linear(normed)))
        return states + torch.sigmoid(self.gates[1](states)) * made

    def _attended(self, states: Tensor) -> Tensor:
        parts = self.query_key_value(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        # real items stand before the padding of a row, so a causal row needs no mask
        found = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], dropout_p=dropout, is_causal=True)
        return self.dense(found.transpose(1, 2).flatten(2))


class LiGRBackbone(CausalBackbone):
    """Items and positions through ``n_layers`` of :class:`LiGRLayer`, and a norm; K = 1.

    Keys: ``hidden_size``, ``inner_size``, ``n_layers``, ``n_heads``, ``hidden_dropout_prob``, ``attn_dropout_prob``,
    ``layer_norm_eps``.
    """

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config)
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.item_embedding = make_table(width, 0)
        self.position = nn.Embedding(self.max_length, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        sizes = (width, config["n_heads"], config["inner_size"])
        rates = (config["hidden_dropout_prob"], config["attn_dropout_prob"])
        self.layers = nn.ModuleList(LiGRLayer(*sizes, *rates, eps) for _ in range(config["n_layers"]))
        self.norm = nn.LayerNorm(width, eps=eps)

    def positions(self, item_seq: Tensor) -> Tensor:
        place = torch.arange(item_seq.shape[1], device=item_seq.device)
        states = self.dropout(self.item_embedding(item_seq) + self.position(place))
        for layer in self.layers:
            states = layer(states)
        return self.norm(states)
