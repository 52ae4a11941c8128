"""The k best items of a user, with a defined order among equal scores: one rule, for evaluation and for serving."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

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
