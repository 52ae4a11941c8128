"""Adaptors: trained maps from text vectors to the dimension of items (the key ``text_adaptor``).

``linear`` is one map. ``mlp`` is two with a GELU between them. ``moe`` is that of UniSRec (Hou et al., KDD 2022): a
mixture of parametric whitenings under a noisy gate. No text stays the zero vector under each of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WhiteningMixture(nn.Module):
    """UniSRec's adaptor: sum over g of gate_g(x) (x - b_g) W_g, the gate a softmax of x W + noise while training.

    The noise is normal, of a deviation that is learned from x: softplus(x W_noise). **Decisions.** The paper
    prints the deviation in place of the draw; Shazeer et al. (2017), whom it follows, draw. Dropout before the
    whitening is of the published code.

    Args:
        text_dimension: d_t; dimension: d; experts: G; dropout: of the text vectors.
    """

    def __init__(self, text_dimension: int, dimension: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(experts, text_dimension))
        self.weight = nn.Parameter(torch.randn(experts, text_dimension, dimension) * 0.02)
        self.gate = nn.Parameter(torch.zeros(text_dimension, experts))
        self.noise = nn.Parameter(torch.zeros(text_dimension, experts))
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Tensor) -> Tensor:
        """[n, d_t] -> [n, d]."""
        gate = self.gates(text)
        # (x - b_g) W_g = x W_g - b_g W_g: one product for all experts, and no [n, G, d_t]
        moved = torch.einsum("nt,gtd->ngd", self.dropout(text), self.weight)
        shift = torch.einsum("gt,gtd->gd", self.bias, self.weight)
        made = torch.einsum("ng,ngd->nd", gate, moved - shift)
        return made * (text != 0).any(-1, keepdim=True)

    def gates(self, text: Tensor) -> Tensor:
        """[n, d_t] -> [n, G], adding up to one."""
        logits = text @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(text @ self.noise)
        return torch.softmax(logits, -1)


def text_adaptor(kind: str, text_dimension: int, dimension: int, experts: int = 8, dropout: float = 0.2) -> nn.Module:
    """The adaptor ``kind``: [..., d_t] -> [..., d]; ``moe`` takes [n, d_t]."""
    if kind == "linear":
        return nn.Linear(text_dimension, dimension, bias=False)
    if kind == "mlp":
        first = nn.Linear(text_dimension, dimension, bias=False)
        return nn.Sequential(first, nn.GELU(), nn.Linear(dimension, dimension, bias=False))
    return WhiteningMixture(text_dimension, dimension, experts, dropout)
