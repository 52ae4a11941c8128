"""A softmax over a large catalogue, from items drawn for the whole batch or for each target.

The sum over the catalogue in a softmax's denominator is estimated from M drawn items. Item i is expected M q_i times
among them, so each draw counts exp(score) / (M q_i): log(M q_i) is taken off its score (the log-Q correction), and the
estimate of the sum is right on average whatever the q are. How much it varies is what M and q decide.

Without the correction the target competes with the M drawn items as they are (eSASRec as its authors released it, which
also draws anew for each target): another, milder loss. Uniform draws count C / M times less than in the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

_TABLES = 32  # with so many times as many items as are drawn, looking rows up is cheaper


class Drawn(NamedTuple):
    """items: int64 [M], or [P, M] where each target has its own, with repetitions; log_rate: the same shape or [M], log
    of how often an item is expected among the M, 0 where that is not corrected; others: how many items they stand for.
    """

    items: Tensor
    log_rate: Tensor
    others: int


class NegativeSampler(nn.Module):
    """Draws items with replacement: uniformly, or (``popularity``) in proportion to 1 + their training frequency.

    The one lets items that training never saw be drawn: without it nothing would hold their scores down.

    Args:
        candidates: int64 [C], the items that compete.
        counts: training frequency of every item, int [N]; None draws uniformly.
        for_each: draw for each target, not for the whole batch.
        corrected: with the log-Q correction.
    """

    def __init__(
        self, candidates: Tensor, counts: np.ndarray | None = None, for_each: bool = False, corrected: bool = True
    ) -> None:
        super().__init__()
        self.for_each, self.corrected = for_each, corrected
        keep = {"persistent": False}
        self.register_buffer("candidates", candidates, **keep)
        self.register_buffer("cumulated", None, **keep)  # [C], ends in 1
        if counts is None:
            return
        weight = 1 + torch.from_numpy(counts)[candidates].double()
        share = weight / weight.sum()
        self.register_buffer("cumulated", share.cumsum(0), **keep)
        self.register_buffer("log_share", share.log().float(), **keep)

    def draw(self, count: int, rows: int) -> Drawn:
        """``count`` items: the same for all ``rows`` of a batch, or (``for_each``) others for each."""
        device, number = self.candidates.device, len(self.candidates)
        shape = (rows, count) if self.for_each else (count,)
        if self.cumulated is None:
            place = torch.randint(number, shape, device=device)
            rate = torch.full((count,), math.log(count / number), device=device)
        else:
            at = torch.rand(shape, dtype=torch.float64, device=device)
            place = torch.searchsorted(self.cumulated, at, right=True).clamp(max=number - 1)
            rate = self.log_share[place] + math.log(count)
        if not self.corrected:
            return Drawn(self.candidates[place], torch.zeros(count, device=device), count)
        return Drawn(self.candidates[place], rate, number - 1)


def drawn_scores(states: Tensor, items: Tensor, vectors_of: Callable[..., Tensor], n_items: int) -> Tensor:
    """[P, M]: scores of the drawn items.

    Args:
        states: [P, d]; items: [M], or [P, M] where each row has its own.
        vectors_of: ``vectors_of(items)`` gives their vectors, ``vectors_of()`` those of all ``n_items``.
    """
    if items.ndim == 1:
        return states @ vectors_of(items).T
    if n_items <= _TABLES * items.shape[1]:  # all scores are cheaper than so many rows of the table
        return (states @ vectors_of().T).gather(1, items)
    return torch.einsum("pd,pmd->pm", states, vectors_of(items))


def known_items(dataset) -> Tensor:
    """int64 [C]: the ids of the items that a training part has, ascending."""
    return torch.from_numpy(dataset.item_counts()).nonzero().squeeze(1)


def sampled_softmax_loss(
    positive: Tensor, labelled: Tensor, target: Tensor, drawn: Drawn, scores: Tensor, beta: float = 0.0
) -> Tensor:
    """:func:`~recbole_eimf.model.losses.loss.full_interest_aware_loss` with sums over negatives estimated from a draw.

    A drawn item that is a row's own target does not count in that row.

    Args:
        positive, labelled: [P], the targets' scores and mean scores under soft labels; target: [P].
        scores: [P, M], of the drawn items; beta: hardness of REMI's weights, 0 for the plain softmax.
    """
    absent = drawn.items == target[:, None]
    alone = absent.all(-1)  # nothing but the target was drawn: the row has no negatives
    scores = scores.masked_fill(absent & ~alone[:, None], -torch.inf)
    if beta:
        # weights of mean one over all negatives: their sum, too, is estimated
        hard = torch.logsumexp((1 + beta) * scores - drawn.log_rate, -1)
        mass = hard - torch.logsumexp(beta * scores - drawn.log_rate, -1) + math.log(drawn.others)
    else:
        mass = torch.logsumexp(scores - drawn.log_rate, -1)
    return (torch.logaddexp(positive, mass.masked_fill(alone, -torch.inf)) - labelled).mean()
