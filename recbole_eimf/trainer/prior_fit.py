"""Weights of a score prior by maximum likelihood: a conditional logit over the validation targets.

A target's chance among the items that its user has neither had nor is about to have is the softmax of

``c model(i) + a_b(i) similar(i) + b_b(i) next(i)``

with c, a and b free and b(i) the bucket of item i's training frequency, or one bucket for all. Only the ratio to c
matters for a ranking, so a / c and b / c are the prior's weights on the scale of the model's scores.
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
    """Weights, at least zero: [F - 1], or with ``bucket`` (int64 [N]) [F - 1, buckets]."""
    none = torch.zeros_like(seen.item), torch.zeros_like(seen.target)
    scale, weights = _minimise(seen, torch.ones(()), torch.zeros(len(seen.of_items) - 1, 1), none)
    if bucket is None:
        return (weights[:, 0] / scale).clamp(min=0)
    bucket = bucket.cpu()
    start = weights.repeat(1, len(FREQUENCIES) + 1)
    scale, weights = _minimise(seen, scale, start, (bucket[seen.item], bucket[seen.target]), _SHRINKAGE)
    return (weights / scale).clamp(min=0)


def _minimise(
    seen: Evidence, scale: Tensor, start: Tensor, buckets: tuple[Tensor, Tensor], shrinkage: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(c, weights) of the least penalised negative log likelihood, from a start."""
    free = [scale.clone().requires_grad_(), start.clone().requires_grad_()]
    optimiser = torch.optim.LBFGS(free, max_iter=30, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = negative_log_likelihood(seen, *free, *buckets)
        loss = loss + shrinkage / len(seen.target) * (free[1] - start).square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return free[0].detach().clamp(min=1e-3), free[1].detach()
