"""Binary losses with drawn negatives: BCE, with one negative as SASRec and PAD publish it, and gBCE (Petrov and
Macdonald 2023).

**Decisions.** With several negatives, and in gBCE, scores have an offset (:func:`binary_loss`) that the published
losses lack. ``bce_reduction=sum`` adds the negatives of a target up, where PAD's released code has their mean: with
one they are the same.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_eimf.core.arrays import distinct

_TRIES = 50  # for a user who had 9 of 10 items, 0.5 % of the draws are left after so many


class HistoryNegatives(nn.Module):
    """Uniform draws of items that a user has not had in training.

    Args:
        users: the training users, int [R]; histories: the items of each, R arrays; n_items: N, 0 is padding.
        competing: the items that may be drawn, int64 [C].
    """

    def __init__(self, users: np.ndarray, histories: list[np.ndarray], n_items: int, competing: Tensor) -> None:
        super().__init__()
        self.n_items = n_items
        owner = np.repeat(users, [len(history) for history in histories])
        pairs = distinct(owner.astype(np.int64) * n_items + np.concatenate(histories))
        self.register_buffer("competing", competing, persistent=False)
        self.register_buffer("pairs", torch.from_numpy(pairs), persistent=False)
        for name, values in self._gaps(pairs).items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def _gaps(self, pairs: np.ndarray) -> dict[str, np.ndarray]:
        """What :meth:`_drawn_outside` looks up: by user, where its part of the gaps begins and how long that is; and
        for each competing item of its history how many competing items before it the user has not had."""
        place = np.full(self.n_items, -1)
        place[self.competing.numpy()] = np.arange(len(self.competing))
        user, place = pairs // self.n_items, place[pairs % self.n_items]
        user, place = user[place >= 0], place[place >= 0]
        order = np.lexsort((place, user))
        user, place = user[order], place[order]
        count = np.bincount(user, minlength=int(pairs.max(initial=0)) // self.n_items + 2)
        begin = np.cumsum(count) - count
        before = place - (np.arange(len(user)) - begin[user])
        return {"gaps": user * (len(self.competing) + 1) + before, "gap_begin": begin, "gap_count": count}

    def had(self, user: Tensor, items: Tensor) -> Tensor:
        """Whether each user [P] had the items [P, k] of its row: bool [P, k]."""
        pair = user[:, None] * self.n_items + items
        place = torch.searchsorted(self.pairs, pair).clamp(max=len(self.pairs) - 1)
        return self.pairs[place] == pair

    def forward(self, user: Tensor, count: int) -> Tensor:
        """[P] users -> [P, count] items. A user who had nearly everything may get an item of the history."""
        if user.is_cuda:
            return self._drawn_outside(user, count)
        items = self._draw((len(user), count))
        for _ in range(_TRIES):
            bad = self.had(user, items)
            if not bad.any():
                break
            items[bad] = self._draw((int(bad.sum()),))
        return items

    def _drawn_outside(self, user: Tensor, count: int) -> Tensor:
        """The same by the numbers of what is left to each user, without the question whether all draws were good."""
        known = user.clamp(max=len(self.gap_count) - 1)  # the last one stands for all who have no history
        had, begin, size = self.gap_count[known], self.gap_begin[known], len(self.competing)
        left = torch.where(had < size, size - had, size)[:, None]  # nothing is left: anything
        number = (torch.rand(len(user), count, dtype=torch.float64, device=user.device) * left).long()
        before = torch.searchsorted(self.gaps, known[:, None] * (size + 1) + number, right=True) - begin[:, None]
        place = number + torch.where(had[:, None] < size, before, 0)
        return self.competing[place]

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return self.competing[torch.randint(len(self.competing), shape, device=self.competing.device)]


def gbce_power(negatives: int, n_items: int, calibration: float) -> float:
    """gBCE's beta = alpha (t (1 - 1 / alpha) + 1 / alpha), alpha being the sampling rate (Petrov and Macdonald).

    >>> gbce_power(10, 101, 0.0), round(gbce_power(10, 101, 1.0), 9)
    (1.0, 0.101010101)
    >>> gbce_power(1, 2, 0.5)  # of one item, nothing is left to draw from
    1.0
    """
    rate = min(negatives / max(n_items - 2, 1), 1.0)  # the padding row and the target are no candidates
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def binary_loss(positive: Tensor, negative: Tensor, power: float = 1.0, reduction: str = "mean") -> Tensor:
    """Mean over rows of -(power * log s(p) + sum of log(1 - s(n_j))) / (1 + k); power is one for plain BCE.

    An offset that no ranking feels is added to every score: the one at which a model that knows nothing has the
    smallest loss. It is zero for BCE with one negative; without it, many negatives first have to push all scores down.

    Args:
        positive: [P]; negative: [P, k].
        reduction: ``mean`` as above; ``sum`` does not divide by 1 + k (PAD's released loss adds the BCE of positives to
            that of negatives).
    """
    count = negative.shape[1]
    offset = math.log(power / count)
    found = power * F.softplus(-(positive + offset)) + F.softplus(negative + offset).sum(1)
    return found.mean() if reduction == "sum" else (found / (1 + count)).mean()
