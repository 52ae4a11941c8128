"""Soft labels: part of a training label goes to items that the target's text, or the user's LLM interests, resemble.

The recommendation loss stays a softmax over the catalogue; its label is no longer the target alone but

``(1 - a - b) target + a softmax(cos(z_u, t_i) / tau) + b softmax(cos(t_target, t_i) / tau)``

with t the items' text vectors, cos(z_u, .) the largest cosine to one of the interests of the user's exemplar, and
a = ``interest_labels``, b = ``text_labels``: label smoothing that knows what the user likes. Nothing of it is needed
to score. Not in the paper: **Decision**, chosen on validation (benchmarks/README.md); ``recipe=paper`` switches it off.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_eimf.config.keys import EIMFSettings
from recbole_eimf.model.selection import shared_rows

_ROWS_AT_ONCE = 1024  # rows of the [rows, N] similarities that are alive at a time


class NextLabels(nn.Module):
    """A label's share for what is bought next: ``(1 - a) target + a G[item before it]``, a = ``next_labels``.

    G's rows are :func:`~recbole_eimf.semantic.knowledge.next_graph`'s ``count`` heaviest entries, adding up to one; an
    item of which nothing is known, or none, leaves the label the target alone.

    Args:
        items, weight: [N, count], of each row of G; share: a.
    """

    def __init__(self, items: Tensor, weight: Tensor, share: float) -> None:
        super().__init__()
        self.share = share
        total = weight.sum(1, keepdim=True)
        self.register_buffer("known", total[:, 0] > 0, persistent=False)
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("weight", weight / total.clamp(min=1e-12), persistent=False)

    def forward(self, positive: Tensor, readout: Tensor, table: Tensor, before: Tensor) -> Tensor:
        """Mean score under each target's label: [P], [P, d], [N, d], the item before each target [P] -> [P]."""
        mean = SoftLabels._mean_score(readout, table, self.items, self.weight, before)
        return positive + torch.where(self.known[before], self.share * (mean - positive), 0.0)


class SoftLabels(nn.Module):
    """Items and weights of the soft part of a label; nothing in it is trained or saved.

    Args:
        item_text: [N, d_t]; item_has_text: [N] bool; interests: [C, M, d_t]; interest_mask: [C, M] bool.
        settings: ``interest_labels``, ``text_labels``, ``label_items``, ``label_temperature``.
    """

    def __init__(
        self, item_text: Tensor, item_has_text: Tensor, interests: Tensor, interest_mask: Tensor, settings: EIMFSettings
    ) -> None:
        super().__init__()
        self.interest_share, self.text_share = settings.interest_labels, settings.text_labels
        self.register_buffer("has_text", item_has_text, persistent=False)
        # without the mean all titles of a catalogue look alike
        unit = F.normalize(item_text, dim=-1)
        mean = unit[item_has_text].mean(0)
        items = F.normalize(unit - mean, dim=-1)
        if self.interest_share:
            wanted = F.normalize(F.normalize(interests, dim=-1) - mean, dim=-1)
            self._keep("interest", *self._nearest(wanted, interest_mask, items, settings.label_items, settings))
        if self.text_share:
            alone = torch.ones(len(items), 1, dtype=torch.bool)
            near = self._nearest(items[:, None], alone, items, settings.text_label_items, settings, skip_own=True)
            self._keep("text", *near)

    def _keep(self, name: str, items: Tensor, weight: Tensor) -> None:
        self.register_buffer(f"{name}_items", items, persistent=False)
        self.register_buffer(f"{name}_weight", weight, persistent=False)

    def _nearest(
        self, queries: Tensor, mask: Tensor, items: Tensor, count: int, settings: EIMFSettings, skip_own: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The items closest to any of a row's queries: [R, M, d_t], [R, M] -> item ids and weights, [R, count]."""
        count = min(count, int(self.has_text.sum()) - skip_own)
        found = []
        for begin in range(0, len(queries), _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            best = items.new_full((len(queries[rows]), len(items)), -torch.inf)
            for m in range(queries.shape[1]):  # one interest at a time: [R, M, N] would be M times the memory
                similar = (queries[rows, m] @ items.T).masked_fill(~mask[rows, m, None], -torch.inf)
                best = torch.maximum(best, similar)
            best[:, ~self.has_text] = -torch.inf
            if skip_own:
                own = torch.arange(begin, begin + len(best))
                best[own - begin, own] = -torch.inf
            found.append(best.topk(count))
        value = torch.cat([near.values for near in found])
        weight = torch.softmax(value / settings.label_temperature, -1)
        return torch.cat([near.indices for near in found]), weight.nan_to_num(0.0)  # a row without queries has no label

    def forward(self, positive: Tensor, readout: Tensor, table: Tensor, target: Tensor, exemplar: Tensor) -> Tensor:
        """Mean score under each target's label.

        Args:
            positive: [P], the targets' scores; readout: [P, d]; table: [N, d], items whose product with a readout is a
                score; target: [P]; exemplar: [P], -1 where a user has no interests.

        Returns:
            [P]
        """
        score = positive
        if self.interest_share:
            mean = self._mean_score(readout, table, self.interest_items, self.interest_weight, exemplar.clamp(min=0))
            score = score + torch.where(exemplar >= 0, self.interest_share * (mean - positive), 0.0)
        if self.text_share:
            mean = self._mean_score(readout, table, self.text_items, self.text_weight, target)
            score = score + torch.where(self.has_text[target], self.text_share * (mean - positive), 0.0)
        return score

    @staticmethod
    def _mean_score(readout: Tensor, table: Tensor, items: Tensor, weight: Tensor, row: Tensor) -> Tensor:
        # a mean of scores is the score of the mean vector, and few rows are distinct: nothing of size [P, N] is made
        distinct, inverse = shared_rows(row, len(items))
        weights = weight[distinct].to(table.dtype)  # which autocast may have made narrow
        mean = F.embedding_bag(items[distinct], table, per_sample_weights=weights, mode="sum")
        return (readout * mean[inverse]).sum(-1)
