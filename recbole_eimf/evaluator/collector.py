"""Top places of every user, with a defined order among equal scores, handed to RecBole's metrics."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from recbole.evaluator import Collector
from torch import Tensor

from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError

#: Users start their order of the catalogue at places that this factor spreads evenly (Knuth's multiplicative hash).
_SPREAD = 2654435761
_CELLS_AT_ONCE = 1 << 23  # users times items of the tie breaking's tables


def tie_places(items: int) -> np.ndarray:
    """A fixed permutation of the catalogue, int64 [N]: of equal scores the smaller place is ranked first.

    User u goes through it from ``u * 2654435761 mod N`` on, round the end. An order by id would favour the items that
    stand first in the file, one order for everybody would make a constant model's result a matter of luck; this way
    such a model finds k / N of the targets, as it should.

    >>> sorted(tie_places(5).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.random.default_rng(0).permutation(items)


@lru_cache(maxsize=4)
def _places(items: int, device: torch.device) -> Tensor:
    return torch.from_numpy(tie_places(items)).to(device)


def places_of(items: Tensor, users: Tensor, size: int) -> Tensor:
    """Where items [...] stand in the order of users [...], in a catalogue of ``size``: int64 [...]."""
    return (_places(size, items.device)[items] + users * _SPREAD) % size


def ranked_items(scores: Tensor, users: Tensor, k: int) -> Tensor:
    """The k best items of every user, best first; ties as :func:`tie_places` says.

    A score of minus infinity (padding, masked history) or NaN is no candidate: where a user has fewer than k
    candidates the row ends in zeros.

    Args:
        scores: [B, N], column 0 is padding.
        users: RecBole ids, int64 [B].

    Returns:
        int64 [B, k] item ids.
    """
    wide = min(k + 1, scores.shape[1])  # one more than asked for: it tells a tie across the last place
    values, items = scores.topk(wide)
    if values[:, 0].isnan().any():  # NaN is the largest number to topk
        scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        values, items = scores.topk(wide)
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1).nonzero().squeeze(1)
    if len(tied):
        every = torch.arange(scores.shape[1], device=scores.device)
        for rows in tied.split(max(_CELLS_AT_ONCE // scores.shape[1], 1)):
            order = places_of(every, users[rows, None], scores.shape[1])
            items[rows] = _with_ties(scores[rows], values[rows], items[rows], order)
    chosen = items.masked_fill(scores.gather(1, items) == -torch.inf, 0)[:, :k]
    return torch.nn.functional.pad(chosen, (0, k - chosen.shape[1]))


def _with_ties(scores: Tensor, values: Tensor, items: Tensor, order: Tensor) -> Tensor:
    """Settle ties of ``items`` [b, w] with ``values`` [b, w], as topk gave them, by ``order`` [b, N]."""
    last = values[:, -1:]
    # which of the items that share the last place's score are in: topk takes any of them
    at_last = order.masked_fill(scores != last, scores.shape[1]).topk(items.shape[1], largest=False).indices
    above = (values > last).sum(1, keepdim=True)
    column = torch.arange(items.shape[1], device=items.device).expand_as(items)
    items = torch.where(column < above, items, at_last.gather(1, (column - above).clamp(min=0)))
    items = items.gather(1, order.gather(1, items).argsort(1))
    return items.gather(1, scores.gather(1, items).argsort(dim=1, descending=True, stable=True))


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
    wanted = (row * size + target).unique()
    every = torch.arange(len(items), device=items.device)[:, None]
    hits = torch.isin(every * size + items, wanted) & (items > 0)
    count = torch.bincount(wanted // size, minlength=len(items))
    return torch.cat((hits, count[:, None]), dim=1).int()


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
            self._collect_ranked(ranked_items(scores_tensor, users, max(self.topk)), positive_u, positive_i)

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
