"""Weights of a score prior by maximum likelihood: a conditional logit over the validation targets.

A target's chance among the items that its user has neither had nor is about to have is the softmax of

``c model(i) + a_b(i) similar(i) + b_b(i) next(i)``

with c, a and b free and b(i) the bucket of item i's training frequency, or one bucket for all. Only the ratio to c
matters for a ranking, so a / c and b / c are the prior's weights on the scale of the model's scores. Targets that
``mask_history`` takes out of every ranking are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_eimf.model.score_prior import FREQUENCIES, ScorePrior

#: users and items that are looked at, at most; further ones are left out by chance. A logit among alternatives drawn
#: uniformly has the weights of the whole in expectation (McFadden 1978)
_MOST_ROWS, _MOST_ITEMS = 8192, 4096
#: a logit of no chance; minus infinity has no gradient where a user has no candidate left
_NEVER = -1e9
#: a bucket's weights are drawn to those of all items as by a normal prior of this precision, in targets
_SHRINKAGE = 10.0
#: a slope of the loss, a mean over targets, that is none but for rounding
_FLAT = 1e-6


class Evidence(NamedTuple):
    """What scores say of validation targets.

    of_items: [F, R, C], the model's scores of C candidates for R users, then each part of the prior; absent: bool
    [R, C], no candidates of that user; of_target: [F, P]; row: int64 [P], whose target; item, target: int64 [C], [P].
    """

    of_items: Tensor
    absent: Tensor
    of_target: Tensor
    row: Tensor
    item: Tensor
    target: Tensor


@torch.no_grad()
def evidence(trainer, prior: ScorePrior, valid_data) -> Evidence:
    """The scores of a trained model and of the parts of its prior, whose weights are zero, on validation users."""
    model, draw = trainer.model, torch.Generator().manual_seed(0)
    model.eval()
    diversity = getattr(model, "diversity", None)
    if diversity is not None:  # picks by category come after the prior: their places are no scores of the model
        model.diversity = None
    count = min(prior.n_items - 1, _MOST_ITEMS)
    item = 1 + torch.randperm(prior.n_items - 1, generator=draw)[:count].sort().values
    place = torch.full((prior.n_items,), -1)
    place[item] = torch.arange(count)
    total = valid_data.sample_size
    looked_at = torch.ones(total, dtype=torch.bool)
    if total > _MOST_ROWS:  # by chance: the first ones would be of few users, where each has many rows
        looked_at[torch.randperm(total, generator=draw)[_MOST_ROWS:]] = False
    each: list[tuple[Tensor, Tensor, Tensor]] = []
    rows, targets, begin, seen = [], [], 0, 0
    for batch, history, row, target in valid_data:
        mine = looked_at[seen : seen + len(batch)]
        seen += len(batch)
        if not mine.any():
            continue
        batch, history, (row, target) = batch[mine.nonzero()[:, 0]], _kept(history, mine), _kept((row, target), mine)
        batch = batch.to(trainer.device)
        sequence, length = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
        scores = [model.full_sort_predict(batch), *(prior.part(part, sequence, length) for part in prior.parts)]
        scores = torch.stack([each.float().cpu() for each in scores])  # [F, B, N]
        row, target = row.cpu(), target.cpu()
        absent = torch.zeros(scores.shape[1], count, dtype=torch.bool)
        for taken in [(row, target), *([history] if history is not None else [])]:
            there, which = taken[0].cpu(), place[taken[1].cpu()]
            absent[there[which >= 0], which[which >= 0]] = True
        if history is not None:  # what the mask takes is never recommended, however the parts are weighed
            taken = history[0].cpu() * prior.n_items + history[1].cpu()
            possible = torch.isin(row * prior.n_items + target, taken, invert=True)
            row, target = row[possible], target[possible]
        each.append((scores[:, :, item], absent, scores[:, row, target]))
        rows.append(row + begin)
        targets.append(target)
        begin += scores.shape[1]
    if diversity is not None:
        model.diversity = diversity
    of_items, absent, of_target = (torch.cat(parts, dim) for parts, dim in zip(zip(*each), (1, 0, 1)))
    return Evidence(of_items, absent, of_target, torch.cat(rows), item, torch.cat(targets))


def _kept(pairs: Sequence[Tensor] | None, mine: Tensor) -> tuple[Tensor, Tensor] | None:
    """(row, item) pairs of a batch's rows that are looked at (``mine``, bool [B]), rows counted among these."""
    if pairs is None:
        return None
    row, item = pairs[0].cpu(), pairs[1].cpu()
    there = mine[row]
    return (mine.cumsum(0) - 1)[row[there]], item[there]


def negative_log_likelihood(
    seen: Evidence, scale: Tensor, weights: Tensor, of_item: Tensor, of_target: Tensor
) -> Tensor:
    """A mean over targets.

    Args:
        scale: c, []; weights: [F - 1, buckets]; of_item, of_target: int64 [C], [P], the bucket of each.
    """
    scores, own = scale * seen.of_items[0], scale * seen.of_target[0]
    for part, weight in enumerate(weights, start=1):
        scores = scores + weight[of_item] * seen.of_items[part]
        own = own + weight[of_target] * seen.of_target[part]
    others = scores.masked_fill(seen.absent, _NEVER).logsumexp(1)
    return (torch.logaddexp(others[seen.row], own) - own).mean()


def fit(seen: Evidence, bucket: Tensor | None) -> Tensor:
    """The likeliest weights that are at least zero: [F - 1], or with ``bucket`` (int64 [N]) [F - 1, buckets].
    Without a target they are zero."""
    if not len(seen.target):
        shape = () if bucket is None else (len(FREQUENCIES) + 1,)
        return torch.zeros(len(seen.of_items) - 1, *shape)
    none = torch.zeros_like(seen.item), torch.zeros_like(seen.target)
    scale, weights = _least_of_positive(seen, torch.ones(()), torch.zeros(len(seen.of_items) - 1, 1), none)
    if bucket is None:
        return weights[:, 0] / scale
    bucket = bucket.cpu()
    start = weights.repeat(1, len(FREQUENCIES) + 1)
    scale, weights = _least_of_positive(seen, scale, start, (bucket[seen.item], bucket[seen.target]), _SHRINKAGE)
    return weights / scale


def _least_of_positive(
    seen: Evidence, scale: Tensor, start: Tensor, buckets: tuple[Tensor, Tensor], shrinkage: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(c, weights) of the least penalised negative log likelihood among weights that are at least zero.

    Parts are alike: one that comes out negative takes something from the others, which are too heavy once it is cut off
    at zero. So it is left out and the others are fitted again (Lawson and Hanson's active set, on a convex loss). With
    no weight below zero this is :func:`_minimise`.
    """
    found = _minimise(seen, scale, start, buckets, shrinkage)
    if not (found[1] < 0).any():
        return found
    kept = found[1] > 0
    now = scale.clone(), torch.where(kept, start, 0.0)  # feasible: every step from here goes down
    left_alone = torch.zeros_like(kept)  # was let in again and came out negative again: it is as good as zero
    while True:
        found = _minimise(seen, scale, start, buckets, shrinkage, kept)
        while (below := kept & (found[1] < 0)).any():
            # as far towards it as no weight passes zero; those that are there stay there
            share = torch.where(below, now[1] / (now[1] - found[1]), 1.0)
            stopped, least = share <= share.min(), share.min()
            weights = (now[1] + least * (found[1] - now[1])).clamp(min=0).masked_fill(stopped, 0.0)
            now = now[0] + least * (found[0] - now[0]), weights
            kept = kept & ~stopped
            found = _minimise(seen, scale, start, buckets, shrinkage, kept)
        now = found
        wish = -_slope(seen, *now, start, buckets, shrinkage)  # above zero: the loss falls as the weight grows
        wish = wish.masked_fill(kept | left_alone, 0.0)
        if wish.max() <= _FLAT:
            return now
        let_in = wish == wish.max()
        left_alone |= let_in  # once each, so that this ends whatever the rounding
        kept = kept | let_in


def _loss(
    seen: Evidence, scale: Tensor, weights: Tensor, start: Tensor, buckets: tuple[Tensor, Tensor], shrinkage: float
) -> Tensor:
    """The negative log likelihood of a target, and what holds weights to ``start``."""
    penalty = shrinkage / len(seen.target) * (weights - start).square().sum()
    return negative_log_likelihood(seen, scale, weights, *buckets) + penalty


def _slope(
    seen: Evidence, scale: Tensor, weights: Tensor, start: Tensor, buckets: tuple[Tensor, Tensor], shrinkage: float
) -> Tensor:
    """The gradient of :func:`_loss` by the weights."""
    with torch.enable_grad():
        weights = weights.clone().requires_grad_()
        return torch.autograd.grad(_loss(seen, scale, weights, start, buckets, shrinkage), weights)[0]


def _minimise(
    seen: Evidence,
    scale: Tensor,
    start: Tensor,
    buckets: tuple[Tensor, Tensor],
    shrinkage: float = 0.0,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(c, weights) of the least penalised negative log likelihood, from a start; the weights that are not ``kept``
    (bool, as ``start``; None: all are) are zero."""
    begin = start if kept is None else start.masked_fill(~kept, 0.0)
    free = [scale.clone().requires_grad_(), begin.clone().requires_grad_()]
    optimiser = torch.optim.LBFGS(free, max_iter=30, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        weights = free[1] if kept is None else free[1].masked_fill(~kept, 0.0)
        loss = _loss(seen, free[0], weights, start, buckets, shrinkage)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return free[0].detach().clamp(min=1e-3), free[1].detach()
