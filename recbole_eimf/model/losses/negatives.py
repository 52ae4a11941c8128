"""A softmax over a large catalogue, from items drawn for the whole batch.

The sum over the catalogue in a softmax's denominator is estimated from M drawn items. Item i is expected M q_i times
among them, so each draw counts exp(score) / (M q_i): log(M q_i) is taken off its score (the log-Q correction), and the
estimate of the sum is right on average whatever the q are. How much it varies is what M and q decide.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Drawn(NamedTuple):
    """items: int64 [M], with repetitions; log_rate: [M], log of how often an item is expected among the M."""

    items: Tensor
    log_rate: Tensor


class NegativeSampler(nn.Module):
    """Draws items with replacement: uniformly, or (``popularity``) in proportion to 1 + their training frequency.

    The one lets items that training never saw be drawn: without it nothing would hold their scores down.

    Args:
        candidates: int64 [C], the items that compete.
        counts: training frequency of every item, int [N]; None draws uniformly.
    """

    def __init__(self, candidates: Tensor, counts: np.ndarray | None = None) -> None:
        super().__init__()
        keep = {"persistent": False}
        self.register_buffer("candidates", candidates, **keep)
        self.register_buffer("cumulated", None, **keep)  # [C], ends in 1
        if counts is None:
            return
        weight = 1 + torch.from_numpy(counts)[candidates].double()
        share = weight / weight.sum()
        self.register_buffer("cumulated", share.cumsum(0), **keep)
        self.register_buffer("log_share", share.log().float(), **keep)

    def draw(self, count: int) -> Drawn:
        """``count`` items, the same for all rows of a batch."""
        device, number = self.candidates.device, len(self.candidates)
        if self.cumulated is None:
            place = torch.randint(number, (count,), device=device)
            return Drawn(self.candidates[place], torch.full((count,), math.log(count / number), device=device))
        at = torch.rand(count, dtype=torch.float64, device=device)
        place = torch.searchsorted(self.cumulated, at, right=True).clamp(max=number - 1)
        return Drawn(self.candidates[place], self.log_share[place] + math.log(count))


def known_items(dataset) -> Tensor:
    """int64 [C]: the ids of the items that a training part has, ascending."""
    return torch.from_numpy(dataset.item_counts()).nonzero().squeeze(1)


def sampled_softmax_loss(
    states: Tensor,
    positive: Tensor,
    labelled: Tensor,
    target: Tensor,
    drawn: Drawn,
    vectors: Tensor,
    others: int,
    beta: float = 0.0,
    bias: Tensor | None = None,
) -> Tensor:
    """:func:`~recbole_eimf.model.losses.loss.full_interest_aware_loss` with sums over negatives estimated from a draw.

    A drawn item that is a row's own target does not count in that row.

    Args:
        states: [P, d]; positive, labelled: [P], the targets' scores and mean scores under soft labels; target: [P].
        vectors: [M, d], of the drawn items; bias: [M] or None.
        others: how many items compete with a target; beta: hardness of REMI's weights, 0 for the plain softmax.
    """
    scores = states @ vectors.T
    if bias is not None:
        scores = scores + bias
    absent = drawn.items == target[:, None]
    alone = absent.all(-1)  # nothing but the target was drawn: the row has no negatives
    scores = scores.masked_fill(absent & ~alone[:, None], -torch.inf)
    if beta:
        # weights of mean one over all negatives: their sum, too, is estimated
        hard = torch.logsumexp((1 + beta) * scores - drawn.log_rate, -1)
        mass = hard - torch.logsumexp(beta * scores - drawn.log_rate, -1) + math.log(others)
    else:
        mass = torch.logsumexp(scores - drawn.log_rate, -1)
    return (torch.logaddexp(positive, mass.masked_fill(alone, -torch.inf)) - labelled).mean()
