"""Top places of every user, with a defined order among equal scores, handed to RecBole's metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from recbole.evaluator import Collector
from torch import Tensor

from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.evaluator.ranking import ranked_items


class RankedItems(NamedTuple):
    """What a batch of evaluation hands to the collector where scores were ranked chunk by chunk: items int64 [B, k]."""

    items: Tensor


def hits_and_counts(items: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """Which ranked items are targets, and how many distinct targets each row has.

    Args:
        items: [B, k] ranked items, 0 is none; row, target: [T], the targets.

    Returns:
        int32 [B, k + 1], RecBole's ``rec.topk``.
    """
    size = int(torch.cat([items.flatten(), target]).max()) + 1 if len(target) else 1
    wanted = (row * size + target).unique()  # ascending
    every = torch.arange(len(items), device=items.device)[:, None]
    ranked = every * size + items
    if len(wanted):  # torch.isin sorts all that is ranked
        found = wanted[torch.searchsorted(wanted, ranked).clamp(max=len(wanted) - 1)] == ranked
    else:
        found = torch.zeros_like(items, dtype=torch.bool)
    hits = found & (items > 0)
    count = torch.bincount(wanted // size, minlength=len(items))
    return torch.cat((hits, count[:, None]), dim=1).int()


def check_scores(items: Tensor, scores: Callable[[], Tensor]) -> None:
    """Refuse a model that has no number for any item of anybody: its metrics would be those of missed targets.

    Args:
        items: [B, k] ranked items, 0 is none; scores: makes [B, n], asked where nobody has an item.

    Raises:
        UserError: the scores of a whole batch are not numbers.
    """
    if not len(items) or (items[:, 0] != 0).any() or not scores().isnan().any(1).all():
        return
    raise UserError(
        f"the scores of all {len(items)} users of a batch of evaluation are not numbers (NaN), and nothing can be "
        f"ranked for them. If the loss had grown, lower learning_rate; else look in the model's scores for a division "
        f"by zero or for rows of which all is masked."
    )


class RankingCollector(Collector):
    """RecBole's collector, which ranks by :func:`ranked_items` and always keeps the ranked items.

    ``rec.topk`` [R, k + 1] (hits, number of targets) and ``rec.items`` [R, k] have RecBole's form. RecBole leaves the
    order of equal scores to ``torch.topk``, and counts a masked target as found where fewer than k items are not
    masked; here both are defined, and no item (0) stands at a place that nobody takes.

    ``chunk_items`` is the key ``eval_chunk_items``, 0 where a metric needs all scores.

    Raises:
        ConfigError: the key is negative.
    """

    def __init__(self, config) -> None:
        super().__init__(config)
        self.ranks = self.register.need("rec.topk") or self.register.need("rec.items")
        self.user_field = config["USER_ID_FIELD"]
        self.chunk_items = config["eval_chunk_items"]
        if self.chunk_items is not None and self.chunk_items < 0:
            raise ConfigError(f"eval_chunk_items={self.chunk_items}: items scored at a time, 0 for all, or None.")
        if not self.ranks or any(self.register.need(key) for key in ("rec.meanrank", "rec.score", "data.label")):
            self.chunk_items = 0  # a metric asks for more than the first places (GAUC does)
        for key in ("rec.topk", "rec.items"):
            setattr(self.register, key, False)  # RecBole's own ranking has nothing left to do

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i) -> None:
        if isinstance(scores_tensor, RankedItems):
            self._collect_ranked(scores_tensor.items, positive_u, positive_i)
            return
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if self.ranks:
            users = interaction[self.user_field].to(scores_tensor.device)
            items = ranked_items(scores_tensor, users, max(self.topk))
            check_scores(items, lambda: scores_tensor)
            self._collect_ranked(items, positive_u, positive_i)

    def _collect_ranked(self, items: Tensor, positive_u: Tensor, positive_i: Tensor) -> None:
        """Take in a batch's ranked items [B, k], and its targets as (row, item); a target named twice is one."""
        counted = hits_and_counts(items, positive_u.to(items.device), positive_i.to(items.device))
        self.data_struct.update_tensor("rec.items", items)
        self.data_struct.update_tensor("rec.topk", counted)

    def get_data_struct(self):
        """RecBole's takes every value for a tensor, so metrics that need counts (ItemCoverage, ...) fail with it.

        Of several processes each gets the rows of all, in the users' order.
        """
        held = self.data_struct._data_dict
        plain = {key: held.pop(key) for key in list(held) if not isinstance(held[key], Tensor)}
        held.update({key: distributed.gathered(held[key]) for key in sorted(held)})
        struct = super().get_data_struct()
        held.update(plain)
        struct._data_dict.update(plain)
        return struct
