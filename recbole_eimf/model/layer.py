"""Attention and routing layers of EIMF and the multi-interest backbones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: rows that are encoded at a time while scoring
_ROWS_TOGETHER = 128


def shortest(dtype: torch.dtype) -> float:
    """The length below which a vector counts as one of no direction: torch's 1e-12, or the least that divides without
    infinities where that is more. In float16 1e-12 is zero, and a row of zeros would be 0 / 0.

    >>> shortest(torch.float32), shortest(torch.float16)
    (1e-12, 6.103515625e-05)
    """
    return max(1e-12, torch.finfo(dtype).tiny)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors):
        length, floor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True), shortest(vectors.dtype)
        inverse = length.clamp(min=floor).reciprocal_()
        unit = vectors * inverse
        if vectors.dtype == torch.float16:  # its largest number is soon passed by what comes back times 1 / floor
            inverse = inverse.masked_fill_(length < floor, 0)
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        unit, inverse = ctx.saved_tensors
        along = (gradient * unit).sum(-1, keepdim=True) * inverse
        return (gradient * inverse).addcmul_(unit, along, value=-1)


def unit_rows(vectors: Tensor) -> Tensor:
    """Vectors [..., d] at length one, as ``F.normalize``; with its gradient it takes 0.4 of the time on a CPU.

    Zero stays zero. Vectors shorter than :func:`shortest` are left shorter than one, and their gradient is off; in
    float16 it is zero.
    """
    return _UnitRows.apply(vectors)


@contextlib.contextmanager
def full_precision(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in float32 at least, and within the block no mixed precision (``enable_amp``)."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield tuple(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)


def scored_items(vectors: Tensor, score: str) -> Tensor:
    """Item vectors [..., d] as they are scored with: at length one where ``score`` is ``cosine``."""
    return unit_rows(vectors) if score == "cosine" else vectors


def scored_states(states: Tensor, score: str, scale: float) -> Tensor:
    """States [..., d] whose products with :func:`scored_items` are scores: ``scale`` times the cosine, or the product.

    The key ``score`` says which, ``score_scale`` is ``scale``.
    """
    return scale * unit_rows(states) if score == "cosine" else states


def first_rows(table: Tensor, count: int) -> Tensor:
    """``table[:count]``, [R, d] -> [count, d]; all of it is not sliced: the gradient would be a copy of a catalogue."""
    return table if len(table) == count else table[:count]


def encoded_by_length(encode: Callable[[Tensor, Tensor], Tensor], item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """``encode(item_seq, item_seq_len)`` [B, ...] of right-padded rows, a group of rows of like length at a time."""
    if len(item_seq) <= _ROWS_TOGETHER:
        return encode(item_seq, item_seq_len)
    order = item_seq_len.argsort(stable=True)
    pieces = [(rows, item_seq_len[rows]) for rows in order.split(_ROWS_TOGETHER)]
    longest = torch.stack([length[-1] for _, length in pieces]).tolist()  # a GPU is waited for once
    parts = [encode(item_seq[rows, :width], length) for (rows, length), width in zip(pieces, longest, strict=True)]
    return torch.cat(parts)[order.argsort()]


def signed_power(values: Tensor, power: float) -> Tensor:
    """|x|^p with the sign of x: what pow(x, p) is where x >= 0 and for odd p, and a likeness keeps its order for all.

    Its gradient at 0 is finite for p < 1 too.
    """
    if power == 1:
        return values
    return values.sign() * values.abs().clamp(min=1e-12).pow(power)


def target_attention(
    query: Tensor, interests: Tensor, mask: Tensor | None = None, scale: float = 1.0, power: float = 1.0
) -> Tensor:
    """Target-aware attention (EIMF eq. 6 and 8): softmax over the interests of query · interest.

    MIND's label-aware attention (Li et al. 2019, eq. 8), softmax(pow(interest · query, p)), is ``power=p``.
    **Decision:** signs are kept, see :func:`signed_power`: an even power would take the least like for the likest.

    Args:
        query: [R, d]; interests: [R, K, d] (keys and values); mask: [R, K] bool, True where an interest exists (at
            least one per row); scale: multiplies the products; power: they are raised to first.

    Returns:
        [R, d]
    """
    logits = signed_power(torch.einsum("rd,rkd->rk", query, interests), power) * scale
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return torch.einsum("rk,rkd->rd", torch.softmax(logits, -1), interests)


def hard_readout(query: Tensor, interests: Tensor) -> Tensor:
    """The interest closest to the target, as ComiRec and REMI train: [R, d], [R, K, d] -> [R, d]."""
    best = torch.einsum("rd,rkd->rk", query, interests).argmax(-1)
    return interests[torch.arange(len(best), device=best.device), best]


class MaskedSelfAttention(nn.Module):
    """Self-attention over a set of interests (EIMF eq. 7): one head, residual, no position.

    Rows of the mask must have at least one True.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.query = nn.Linear(dimension, dimension, bias=False)
        self.key = nn.Linear(dimension, dimension, bias=False)
        self.value = nn.Linear(dimension, dimension, bias=False)

    def forward(self, interests: Tensor, mask: Tensor) -> Tensor:
        """[R, M, d], [R, M] bool -> [R, M, d]; rows where the mask is False are meaningless."""
        scale = 1 / math.sqrt(interests.shape[-1])
        logits = self.query(interests) @ self.key(interests).transpose(1, 2) * scale
        weight = torch.softmax(logits.masked_fill(~mask[:, None, :], -torch.inf), -1)
        return interests + weight @ self.value(interests)


def recency(mask: Tensor) -> Tensor:
    """[B, L] bool, right-padded -> [B, L]: how many items of the row come after each one; 0 at padding."""
    return (mask.sum(-1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0)


class SelfAttentiveRouting(nn.Module):
    """ComiRec-SA's interest extraction (Cen et al. 2020, eq. 8-9): A = softmax(W2 tanh(W1 (H + P)^T)), interests A H.

    The softmax is over positions, padding masked. **Decision:** positions are counted from the latest item backwards,
    so that a position means the same recency in sequences of every length.
    """

    def __init__(self, dimension: int, interest_num: int, max_length: int) -> None:
        super().__init__()
        self.position = nn.Embedding(max_length, dimension)
        self.hidden = nn.Linear(dimension, 4 * dimension, bias=False)
        self.heads = nn.Linear(4 * dimension, interest_num, bias=False)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, d], [B, L] bool -> interests [B, K, d], attention [B, K, L] (zero at padding).

        Every row needs a real item.
        """
        placed = items + self.position(recency(mask))
        logits = self.heads(torch.tanh(self.hidden(placed))).transpose(1, 2)  # [B, K, L]
        attention = torch.softmax(logits.masked_fill(~mask[:, None, :], -torch.inf), -1)
        return attention @ items, attention


def squash(vectors: Tensor) -> Tensor:
    """Capsule squash (MIND eq. 6): |z|^2 / (1 + |z|^2) · z / |z|, along the last axis; zero stays zero."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors * norm / (1 + norm.square())


def dynamic_routing(
    votes: Tensor,
    logits: Tensor,
    mask: Tensor,
    live: Tensor | None = None,
    iterations: int = 3,
    softmax: str = "interests",
) -> tuple[Tensor, Tensor]:
    """Capsule routing of items to interests (MIND algorithm 1, ComiRec-DR algorithm 1).

    With ``softmax="interests"``, as both algorithms are printed, an item divides itself among the interests (over K).
    With ``"positions"``, as the released PyTorch code of ComiRec and REMI has it, an interest divides itself among the
    items (over L). **Decision:** padding takes no part in either; that code masks after its softmax, so that real items
    lose what padding took, and a score depends on how far a row is padded. Gradients flow through the last iteration
    only: the earlier ones find the weights.

    Args:
        votes: [B, K, L, d], what item l says to interest k; logits: [B, K, L] initial routing logits.
        mask: [B, L] bool, True at real items; live: [B, K] bool, interests that take part (at least one), None is all.

    Returns:
        interests [B, K, d] (zero where not live), weights [B, K, L] of the last iteration.
    """
    taking_part = mask[:, None, :] if live is None else mask[:, None, :] & live[..., None]

    def weights(logits: Tensor) -> Tensor:
        if softmax == "positions":
            shares = torch.softmax(logits.masked_fill(~mask[:, None, :], -torch.inf), 2)
        else:
            shares = torch.softmax(logits if live is None else logits.masked_fill(~live[..., None], -torch.inf), 1)
        return shares * taking_part

    fixed = votes.detach()
    for _ in range(iterations - 1):
        interests = squash(torch.einsum("bkl,bkld->bkd", weights(logits), fixed))
        logits = logits + torch.einsum("bkd,bkld->bkl", interests, fixed)
    weight = weights(logits)
    return squash(torch.einsum("bkl,bkld->bkd", weight, votes)), weight


class BehaviourToInterestRouting(nn.Module):
    """MIND's interest extraction (Li et al. 2019, section 4.2): one bilinear map shared by items and interests.

    With a shared map nothing but the initial logits tells interests apart: Gaussian numbers, one per interest and
    recency. They are drawn once and saved with the model; drawn at every forward, as the reference does, the same user
    would get other recommendations at every call. **Decision:** the paper leaves their deviation open; it is small, so
    that an item's content decides where it goes and the draw only breaks the tie.
    """

    initial_std = 0.1

    def __init__(self, dimension: int, interest_num: int, max_length: int, softmax: str = "interests") -> None:
        super().__init__()
        self.softmax = softmax
        self.map = nn.Linear(dimension, dimension, bias=False)
        self.register_buffer("initial", torch.randn(interest_num, max_length) * self.initial_std)

    def live(self, mask: Tensor) -> Tensor:
        """[B, L] -> [B, K] bool: the first K' = max(1, min(K, floor(log2 n))) interests of a user with n items."""
        needed = 2 ** torch.arange(1, len(self.initial) + 1, device=mask.device)
        needed[0] = 1
        return mask.sum(1, keepdim=True) >= needed

    def forward(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, d], [B, L] bool -> interests [B, K, d] (zero where not live), weights [B, K, L]."""
        votes = self.map(items)[:, None].expand(-1, len(self.initial), -1, -1)
        logits = self.initial[:, recency(mask)].transpose(0, 1)
        return dynamic_routing(votes, logits, mask, self.live(mask), softmax=self.softmax)


class PositionalRouting(nn.Module):
    """ComiRec-DR's interest extraction (Cen et al. 2020, section 3.2.1): a map for every position and interest.

    Routing logits start at zero: the maps tell interests apart. **Decision:** positions are counted from the latest
    item backwards, as in :class:`SelfAttentiveRouting`.
    """

    def __init__(self, dimension: int, interest_num: int, max_length: int, softmax: str = "interests") -> None:
        super().__init__()
        self.softmax = softmax
        self.maps = nn.Parameter(torch.randn(max_length, interest_num, dimension, dimension) * dimension**-0.5)

    def forward(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, d], [B, L] bool -> interests [B, K, d], weights [B, K, L]."""
        back = recency(mask)
        # turn the rows round instead of gathering a d x d map for each of their items
        latest_first = items.gather(1, back[..., None].expand_as(items))
        votes = torch.einsum("bld,lked->bkle", latest_first, self.maps[: items.shape[1]])
        interests, weight = dynamic_routing(votes, votes.new_zeros(votes.shape[:3]), mask, softmax=self.softmax)
        return interests, weight.gather(2, back[:, None].expand_as(weight)) * mask[:, None]
