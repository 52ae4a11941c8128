"""Losses, each written once and checked against a loop in tests/model/test_loss.py.

Shapes: P targets of a batch, N items (row 0 is padding and never a candidate), d dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_eimf.model.layer import full_precision, shortest, unit_rows
from recbole_eimf.model.losses.partition import mean_hard_partition, mean_log_partition
from recbole_eimf.model.selection import mean_of


def full_softmax_loss(
    states: Tensor,
    vectors: Tensor,
    labelled: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    counts: Tensor | None = None,
) -> Tensor:
    """Cross entropy over the catalogue (EIMF eq. 13-14), averaged over rows.

    Args:
        states: [P, d]; vectors: [N, d]; bias: [N] or None; dtype: of the products of the partition sum.
        labelled: [P], the target's score from :func:`target_score`, or the mean score under a soft label.
        counts: bool [P], the rows averaged over; None is all.
    """
    return mean_log_partition(states, vectors, bias, dtype, skip=1, counts=counts) - mean_of(labelled, counts)


def full_interest_aware_loss(
    states: Tensor,
    vectors: Tensor,
    positive: Tensor,
    labelled: Tensor,
    target: Tensor,
    beta: float,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """:func:`interest_aware_loss` with every item but the target as a negative.

    Args:
        positive, target: [P], the target's score and id; the others as in :func:`full_softmax_loss`.
    """
    if not beta:
        return full_softmax_loss(states, vectors, labelled, bias, dtype)
    return mean_hard_partition(states, vectors, positive, target, beta, bias, dtype, skip=1) - labelled.mean()


def target_score(states: Tensor, vectors: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    """Score of each row's own target: [P, d], [N, d], [P], [N] or None -> [P]."""
    score = (states * vectors[target]).sum(-1)
    return score if bias is None else score + bias[target]


def interest_aware_loss(
    positive: Tensor, negative: Tensor, beta: float, labelled: Tensor | None = None, counts: Tensor | None = None
) -> Tensor:
    """REMI's loss with interest-aware hard negatives (Xie et al. 2023, section 3.2), averaged over rows.

    ``-log(e^p / (e^p + sum_j w_j e^(n_j)))`` with ``w_j`` proportional to ``e^(beta n_j)`` and of mean one over the
    row's negatives. In logarithms the second term is ``logsumexp((1 + beta) n) - logsumexp(beta n) + log(count)``.
    ``beta = 0`` is the plain sampled softmax.

    Args:
        positive: [P]; negative: [P, M], ``-inf`` where a negative is absent; labelled: [P], the mean score under a
            soft label, which takes the place of ``p`` outside the partition sum; None is the target's score itself;
            counts: bool [P], the rows averaged over; None is all.
    """
    if not beta:  # beta * -inf would be nan
        mass = torch.logsumexp(negative, -1)
    else:
        there = negative > -torch.inf
        alone = ~there.any(-1)
        count = there.sum(-1).clamp(min=1).to(positive.dtype)
        kept = negative.masked_fill(alone[:, None], 0.0)  # of a row without negatives both sums would be -inf
        mass = torch.logsumexp((1 + beta) * kept, -1) - torch.logsumexp(beta * kept, -1) + count.log()
        mass = mass.masked_fill(alone, -torch.inf)
    return mean_of(torch.logaddexp(positive, mass) - (positive if labelled is None else labelled), counts)


def info_nce(
    first: Tensor,
    second: Tensor,
    temperature: float,
    same: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    counts: Tensor | None = None,
) -> Tensor:
    """Contrastive loss between paired rows (EIMF eq. 10).

    Args:
        first, second: [R, d], row k of one is the positive of row k of the other.
        same: [R, R] bool, True where rows k and j hold the same thing; such rows are not negatives of each other.
            The diagonal is ignored. dtype: of the products where ``same`` is None.
        counts: bool [R], the rows there are, as rows and as negatives; None is all.
    """
    first, second = unit_rows(first) / temperature, unit_rows(second)
    if same is None:
        bias = None
        if counts is not None:  # a sum over nothing has no logarithm, and counts for nothing
            bias = torch.zeros_like(first[:, 0]).masked_fill(~counts & counts.any(), -torch.inf)
        mass = mean_log_partition(first, second, bias, dtype, counts=counts)
        return mass - mean_of((first * second).sum(-1), counts)
    if counts is not None:
        same = same | ~counts
    off_diagonal = ~torch.eye(len(first), dtype=torch.bool, device=first.device)
    with full_precision(first, second) as (first, second):
        logits = (first @ second.T).masked_fill(same & off_diagonal, -torch.inf)
    own = torch.arange(len(first), device=first.device)
    return mean_of(F.cross_entropy(logits, own, reduction="none"), counts)


def cosine_distance(first: Tensor, second: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean of ``1 - cos`` over paired rows [R, d] (EIMF eq. 11); over those that ``counts`` [R], None is all."""
    least = max(1e-8, shortest(first.dtype), shortest(second.dtype))
    return mean_of(1 - F.cosine_similarity(first, second, dim=-1, eps=least), counts)


def routing_penalty(attention: Tensor, mask: Tensor) -> Tensor:
    """REMI's routing regularisation (Xie et al. 2023, eq. 10), as a mean over the batch.

    The squared norm of the diagonal of the centred attention's covariance: large when an interest's attention sits on
    one item. Means are over real items only; padding takes no part. REMI's code divides the covariance by d,
    so its square by d^2, and sums over the batch: its weight lambda equals ``lambda * B / d^2`` here.

    Args:
        attention: [B, K, L], each row sums to one over real positions; mask: [B, L] bool, True at real items.
    """
    real = mask[:, None, :].to(attention.dtype)
    mean = (attention * real).sum(-1, keepdim=True) / real.sum(-1, keepdim=True).clamp(min=1)
    centred = (attention - mean) * real
    variance = centred.square().sum(-1)  # diagonal of the K x K covariance, [B, K]
    return variance.square().sum(-1).mean()
