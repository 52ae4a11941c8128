"""LLM-ESR's dual view (Liu et al., NeurIPS 2024, section 3.2) of the causal networks of RecBole.

An item is two vectors side by side, [collaborative, semantic], which one table of 2 d holds, so that scoring, serving
and an index know nothing of it. Each view's sequence is mixed with the other's by cross attention, then both go through
one network, and a user is [u_co, u_se]: u · v adds up what the views say.

**Decisions.** Cross attention is causal, for every position is asked for its next item (the published code masks
padding alone, so that training sees what follows). Positions and dropout are the network's own, after the cross
attention. One head, no residual, as the formula is printed (published code: two heads, and a linear map behind them).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_eimf.model.backbones.backbone import CausalBackbone, TableFactory
from recbole_eimf.model.backbones.recbole_backbone import RecBoleCausal, RecBoleGRU4Rec, RecBoleSASRec


class CrossView(nn.Module):
    """softmax(Q K^T / sqrt d) V, queries of one view, keys and values of the other, causal."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dimension, dimension, bias=False) for _ in range(3))

    def forward(self, asking: Tensor, other: Tensor) -> Tensor:
        """[B, L, d] of each view -> [B, L, d]: what the ``other`` view says, weighed by the asking one."""
        return F.scaled_dot_product_attention(self.query(asking), self.key(other), self.value(other), is_causal=True)


class _Given(nn.Module):
    """Stands where a network has its items, and gives it the vectors of a view."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.vectors: Tensor | None = None

    def forward(self, item_seq: Tensor) -> Tensor:
        return self.vectors


class DualView(CausalBackbone):
    """Two views through one network; ``single`` is the backbone whose network it is."""

    single: type[RecBoleCausal]

    def __init__(self, config, dataset, make_table: TableFactory, network: type[nn.Module] | None = None) -> None:
        super().__init__(config)
        one_view = self.single(config, dataset, lambda dimension, extra_rows: _Given(dimension), network)
        self.net, dimension = one_view.net, one_view.item_embedding.dimension
        self.item_embedding = make_table(2 * dimension, 0)
        self.of_ids, self.of_text = CrossView(dimension), CrossView(dimension)

    def positions(self, item_seq: Tensor) -> Tensor:
        ids, text = self.item_embedding(item_seq).chunk(2, -1)
        self.net.item_embedding.vectors = torch.cat([self.of_ids(text, ids), self.of_text(ids, text)])
        length = (item_seq != 0).sum(1)
        states = self.net.forward(torch.cat([item_seq, item_seq]), torch.cat([length, length]))
        self.net.item_embedding.vectors = None
        return torch.cat(states.chunk(2), -1)


class DualSASRec(DualView):
    """LLM-ESR's views through RecBole's SASRec."""

    single = RecBoleSASRec
    has_transformer = True


class DualGRU4Rec(DualView):
    """LLM-ESR's views through RecBole's GRU4Rec."""

    single = RecBoleGRU4Rec
