"""The partition sum of a softmax over the catalogue, and its gradient, without the [P, N] matrix of scores.

A softmax over N items for P targets is bound by memory, not by arithmetic: written plainly, the scores, their
exponentials and the gradient of both are matrices of P * N numbers that pass through memory several times. Here scores
are made a block of rows at a time, small enough to stay in a processor's cache, and are turned into the gradient while
they are there; what is kept for the backward pass are two matrices of the size of the inputs. That needs every row to
weigh the same, as in a mean: see :func:`mean_log_partition`. benchmarks/README.md has the figures.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: scores alive at a time: 2 MB of bfloat16 on a processor; a GPU wants products large enough to keep it busy
_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 27}
#: for catalogues too large for that: a product of fewer rows costs more than the cache saves
_FEWEST_ROWS = 64


def mean_log_partition(
    states: Tensor,
    candidates: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    skip: int = 0,
    counts: Tensor | None = None,
) -> Tensor:
    """Mean over rows of ``log sum_c exp(state · v_c + bias_c)``.

    Args:
        states: [P, d], P at least 1; candidates: [C, d], the v; bias: [C] or None, ``-inf`` leaves a candidate out.
        dtype: what products and exponentials are taken in; sums over items are float32 or better.
        skip: so many first rows are no candidates (a slice would copy the gradient of a whole catalogue).
        counts: bool [P], the rows that the mean is over (zero where there are none); None is all.

    Returns:
        A scalar of the states' type, float32 at least.
    """
    return _applied(states, candidates, bias, None, None, 0.0, dtype, skip, counts)


def mean_hard_partition(
    states: Tensor,
    candidates: Tensor,
    positive: Tensor,
    target: Tensor,
    beta: float,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    skip: int = 0,
) -> Tensor:
    """The same under REMI's weights: mean over rows of ``log(e^p + sum_j w_j e^(n_j))``.

    Every candidate but the target is a negative, ``w_j`` is proportional to ``e^(beta n_j)`` and of mean one (Xie
    et al. 2023, section 3.2).

    Args:
        positive: [P], the targets' scores p; target: [P], its row of ``candidates``; beta: hardness, above 0; the
            others as in :func:`mean_log_partition`.
    """
    return _applied(states, candidates, bias, positive, target, beta, dtype, skip, None)


def _applied(states: Tensor, *arguments) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):  # dtype alone says what products are taken in
        return _MeanLogPartition.apply(states, *arguments)


class _MeanLogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, vectors, bias, positive, target, beta, dtype, skip, counts):
        rows = max(_FEWEST_ROWS, _BLOCK.get(states.device.type, 1 << 24) // (len(vectors) - skip))
        narrow_states, narrow_vectors = states.to(dtype), vectors[skip:].to(dtype)
        narrow_bias = None if bias is None else bias[skip:].to(dtype)
        exact = torch.promote_types(states.dtype, torch.float32)
        # a gradient is [P, d], [N, d], [N] or [P]
        of_states = torch.empty_like(states, dtype=exact)
        of_vectors = torch.zeros_like(vectors, dtype=exact)
        of_bias = torch.zeros_like(bias, dtype=exact) if ctx.needs_input_grad[2] else None
        of_positive = None if positive is None else torch.empty_like(positive, dtype=exact)
        total = torch.zeros((), dtype=exact, device=states.device)
        buffer = narrow_states.new_empty(min(rows, len(states)), len(narrow_vectors))
        for begin in range(0, len(states), rows):
            block = slice(begin, begin + rows)
            part = narrow_states[block]
            scores = torch.mm(part, narrow_vectors.T, out=buffer[: len(part)])
            if bias is not None:
                scores += narrow_bias
            if positive is None:
                value, scale = _softmax_(scores, exact)
            else:
                scores.scatter_(1, target[block, None] - skip, -torch.inf)
                value, scale = _hard_softmax_(scores, positive[block].to(exact), beta)
                of_positive[block] = 1 - scale[:, 0]
            if counts is not None:
                value, scale = value.masked_fill(~counts[block], 0), scale.masked_fill(~counts[block, None], 0)
            total += value.sum()
            # now the gradient of row k is scale_k * scores_k
            of_states[block] = scale * (scores @ narrow_vectors)
            of_vectors[skip:] += scores.T @ (scale * part).to(dtype)
            if of_bias is not None:
                of_bias[skip:] += (scale.to(dtype).T @ scores)[0]
        ctx.types = [None if x is None else x.dtype for x in (states, vectors, bias, positive)]
        ctx.count = len(states) if counts is None else counts.sum().clamp(min=1)
        ctx.save_for_backward(of_states, of_vectors, of_bias, of_positive)
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        weight = gradient / ctx.count
        found = (
            None if saved is None else (saved * weight).to(kind)
            for saved, kind in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return *found, None, None, None, None, None


def _softmax_(scores: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """Turn scores [R, N] into exponentials, in place: (log partition [R], what a row is to be multiplied by [R, 1])."""
    top = scores.amax(1, keepdim=True)
    mass = scores.sub_(top).exp_().sum(1, keepdim=True, dtype=exact)
    return (mass.log() + top)[:, 0], 1 / mass


def _hard_softmax_(scores: Tensor, positive: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """As :func:`_softmax_`, for ``log(e^p + mass)``; ``-inf`` scores are absent.

    With A and B the sums of e^((1 + beta) n) and e^(beta n): log mass = log A - log B + log(count), whose derivative
    by a score is (1 + beta) e^((1 + beta) n) / A - beta e^(beta n) / B, and the whole's is sigmoid(log mass - p) that.
    """
    count = (scores > -torch.inf).sum(1, keepdim=True).to(positive.dtype)
    top = scores.amax(1, keepdim=True)
    alone = count == 0  # without a negative the mass is zero, and nothing has a gradient
    top = top.masked_fill(alone, 0)
    scores.sub_(top)
    flat = (beta * scores).exp_()
    hard = scores.exp_().mul_(flat)
    a = hard.sum(1, keepdim=True, dtype=positive.dtype)
    b = flat.sum(1, keepdim=True, dtype=positive.dtype)
    a, b = a.masked_fill(alone, 1), b.masked_fill(alone, 1)
    mass = (a.log() - b.log() + top + count.log())[:, 0]
    # the row's scale is taken out: what is left times sigmoid(log mass - p) is the gradient
    torch.sub(hard.mul_(((1 + beta) / a).to(hard.dtype)), flat.mul_((beta / b).to(flat.dtype)), out=scores)
    return torch.logaddexp(positive, mass), torch.sigmoid(mass - positive)[:, None]
