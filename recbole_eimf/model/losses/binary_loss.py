"""Binary losses with drawn negatives: BCE as SASRec and PAD publish it, and gBCE (Petrov and Macdonald 2023)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        pairs = np.unique(owner.astype(np.int64) * n_items + np.concatenate(histories))
        self.register_buffer("competing", competing, persistent=False)
        self.register_buffer("pairs", torch.from_numpy(pairs), persistent=False)

    def had(self, user: Tensor, items: Tensor) -> Tensor:
        """Whether each user [P] had the items [P, k] of its row: bool [P, k]."""
        pair = user[:, None] * self.n_items + items
        place = torch.searchsorted(self.pairs, pair).clamp(max=len(self.pairs) - 1)
        return self.pairs[place] == pair

    def forward(self, user: Tensor, count: int) -> Tensor:
        """[P] users -> [P, count] items. A user who had nearly everything may get an item of the history."""
        items = self._draw((len(user), count))
        for _ in range(_TRIES):
            bad = self.had(user, items)
            if not bad.any():
                break
            items[bad] = self._draw((int(bad.sum()),))
        return items

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return self.competing[torch.randint(len(self.competing), shape, device=self.competing.device)]


def gbce_power(negatives: int, n_items: int, calibration: float) -> float:
    """gBCE's beta = alpha (t (1 - 1 / alpha) + 1 / alpha), alpha being the sampling rate (Petrov and Macdonald).

    >>> gbce_power(10, 101, 0.0), round(gbce_power(10, 101, 1.0), 9)
    (1.0, 0.101010101)
    """
    rate = min(negatives / (n_items - 2), 1.0)  # the padding row and the target are no candidates
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def binary_loss(positive: Tensor, negative: Tensor, power: float = 1.0) -> Tensor:
    """Mean over rows of -(power * log s(p) + sum of log(1 - s(n_j))) / (1 + k); power is one for plain BCE.

    An offset that no ranking feels is added to every score: the one at which a model that knows nothing has the
    smallest loss. It is zero for BCE with one negative; without it, many negatives first have to push all scores down.

    Args:
        positive: [P]; negative: [P, k].
    """
    count = negative.shape[1]
    offset = math.log(power / count)
    found = power * F.softplus(-(positive + offset)) + F.softplus(negative + offset).sum(1)
    return (found / (1 + count)).mean()
