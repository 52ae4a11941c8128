"""One user's best items among many, for K interests at once: found roughly, re-scored exactly, and proved.

An index answers with candidates and a *ceiling*: no item it left out scores more than that. The candidates of all
interests, united by row, are scored exactly (greatest product over the interests, plus bias); if the k-th of these is
above the ceiling, no other item can be among the k best, and the answer is that of brute force. If not, the index is
asked for twice as many, in the end for all. So equal scores across the last place are settled by the rule of
:mod:`recbole_eimf.evaluator.ranking` too: while an item left out may tie, the answer is not proved.

The ceiling of :class:`FlatIndex` is certain. A graph (:class:`HNSWIndex`) may miss items without knowing, so its
ceiling is a guess and its answers are not marked as proved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.evaluator.ranking import places_of, ranked_items
from recbole_eimf.serving.eight_bits import EightBits
from recbole_eimf.serving.many import CoarseTable

KINDS = ("auto", "flat", "hnsw", "none")
#: items from which an index pays for one user's request: below, all products take a quarter of a millisecond
FEWEST_ITEMS = 20_000
_SLACK = 16
#: scores whose greatest stands for them when the best of all are looked for
_BLOCK = 64
#: a sum written in the 8 bits of bfloat16 is off by 2^-8 of itself at most; and a little, lost while it was summed
_WRITTEN = 1.25 * 2.0**-8


class Candidates(NamedTuple):
    """Candidates int64 [C] (rows of the catalogue), and what no other item's score exceeds."""

    rows: Tensor
    ceiling: float


class Best(NamedTuple):
    """rows int64 [<= k], best first, their scores float32, and whether they are proved to be brute force's."""

    rows: Tensor
    scores: Tensor
    proved: bool


class Query(Protocol):
    """One user's question: ``top(depth, reaching)`` are at least the ``depth`` best, and, where the index can tell, all
    that may score ``reaching``."""

    def top(self, depth: int, reaching: float) -> Candidates: ...


class Index(Protocol):
    """``query(interests [K, d])``; ``certain``: whether the ceilings of what it finds are."""

    certain: bool

    def query(self, interests: Tensor) -> Query: ...


def score_rows(interests: Tensor, vectors: Tensor, bias: Tensor | None) -> Tensor:
    """Exact scores, [K, d] and [C, d] -> [C]: the greatest product over the interests, plus bias [C]."""
    scores = (interests @ vectors.T).amax(0)
    return scores if bias is None else scores + bias


def search_with_proof(
    index: Index,
    interests: Tensor,
    k: int,
    vectors: Tensor,
    bias: Tensor | None = None,
    barred: Tensor | None = None,
    user: int = 0,
) -> Best:
    """The k best items of one user.

    Args:
        index: over ``vectors`` (and ``bias``).
        interests: [K, d]; k: at least 1; vectors: [N, d], row 0 is padding; bias: [N] or None.
        barred: rows that are no candidates, int64; user: whose order settles equal scores.
    """
    # in double precision, for sums in single precision tell equal vectors apart by where they stand
    asked = interests.double()

    def exact(rows: Tensor) -> Tensor:
        return score_rows(asked, vectors[rows].double(), None if bias is None else bias[rows]).float()

    off = float(rounding(interests.norm(dim=1).max(), index.longest, interests.shape[1]))
    found = proved(lambda: index.query(interests), exact, len(vectors), k, off, barred, user)
    if found is None:
        return every_item(interests, k, vectors, bias, barred, user)
    return found._replace(proved=index.certain)


def proved(
    query: Callable[[], Query],
    exact: Callable[[Tensor], Tensor],
    items: int,
    k: int,
    off: float,
    barred: Tensor | None,
    user: int,
) -> Best | None:
    """The k best items of one user, if no other can be among them; None where nearly all items would be looked at.

    Args:
        query: makes the question; exact: scores of rows [C] -> float32 [C]; items: N; off: by how much sums in another
            order differ; the others as in :func:`search_with_proof`.
    """
    barred = torch.empty(0, dtype=torch.long) if barred is None else barred.unique()
    depth, reaching = k + len(barred) + _SLACK, torch.inf
    asked = query() if depth < items // 2 else None
    while depth < items // 2:
        found = asked.top(depth, reaching)
        rows = found.rows[~torch.isin(found.rows, barred)] if len(barred) else found.rows
        scores = exact(rows)
        if len(rows) >= k:
            reaching = float(scores.topk(k).values[-1]) - off
            if reaching > found.ceiling:
                return Best(*_ordered(rows, scores, k, user, items), True)
        depth *= 2
    return None


def every_item(
    interests: Tensor, k: int, vectors: Tensor, bias: Tensor | None, barred: Tensor | None, user: int
) -> Best:
    """Brute force; arguments as in :func:`search_with_proof`."""
    scores = score_rows(interests, vectors, bias)
    scores[0] = -torch.inf
    if barred is not None:
        scores[barred] = -torch.inf
    rows = ranked_items(scores[None], torch.tensor([user]), k)[0]
    rows = rows[rows > 0]
    return Best(rows, scores[rows], True)


def _ordered(rows: Tensor, scores: Tensor, k: int, user: int, items: int) -> tuple[Tensor, Tensor]:
    order = places_of(rows, torch.tensor(user), items).argsort()
    order = order[scores[order].argsort(descending=True, stable=True)][:k]
    return rows[order], scores[order]


def rounding(length: Tensor, longest: float, width: int) -> Tensor:
    """By how much two ways of summing a product of ``width`` numbers may differ.

    Args:
        length: of the interests; longest: greatest length of a vector.
    """
    return length * longest * width * torch.finfo(torch.float32).eps


class FlatIndex:
    """All products, in a coarse type where the processor is quicker at that, with a bound on what that costs.

    Args:
        vectors: float32 [N, d], row 0 is padding; bias: [N] or None; for_many: whether many users at once ask it too.
    """

    certain = True

    def __init__(self, vectors: Tensor, bias: Tensor | None = None, for_many: bool = True) -> None:
        self.bias = bias
        self.longest = _longest(vectors)
        coarse = vectors.to(torch.bfloat16)
        self.coarse = _quicker(coarse, vectors)
        self.vectors = coarse if self.coarse else vectors
        #: for any number of users at once, where there is a coarse table without a bias
        self.many: CoarseTable | None = None
        if self.coarse and bias is None and for_many:
            self.many = CoarseTable(coarse, vectors, self.error)
            self.vectors = self.many.coarse[: len(vectors)]  # the same memory
        #: how far a coarse vector is from its own
        self.off = _longest(vectors - coarse) if self.coarse else 0.0
        #: for one user, where the processor is quickest at whole numbers
        self.eight_bits = EightBits(vectors, self.longest) if _whole_numbers(self.vectors) else None

    def query(self, interests: Tensor, added: Tensor | None = None) -> FlatQuery:
        """See :class:`Index`; ``added``: float32 [N], what items get beside their products and bias."""
        if self.eight_bits is not None:
            scores, error = self.eight_bits.scores(interests)
        else:
            asked = interests.to(self.vectors.dtype)
            scores = reduce(torch.maximum, (self.vectors @ asked.T).unbind(1)).float()
            error = float(self.error(interests))
        if self.bias is not None:
            scores = scores + self.bias
            error += float(scores.abs().max()) * torch.finfo(torch.float32).eps
        if added is not None:
            scores = scores + added
            error += float(scores.abs().max()) * torch.finfo(torch.float32).eps
        scores[0] = -torch.inf
        return FlatQuery(scores, error)

    def error(self, interests: Tensor) -> Tensor:
        """How far a user's coarse scores may be from the exact ones: [..., K, d] -> [...]."""
        if not self.coarse:
            return torch.zeros(interests.shape[:-2])
        long = interests.norm(dim=-1).amax(-1)
        off = (interests - interests.to(torch.bfloat16).float()).norm(dim=-1).amax(-1)
        return off * self.longest + (long + off) * self.off + long * self.longest * _WRITTEN


class FlatQuery:
    """Scores [N] that are off by ``error`` at most."""

    def __init__(self, scores: Tensor, error: float) -> None:
        self.items, self.error = len(scores), error
        short = -len(scores) % _BLOCK
        padded = torch.nn.functional.pad(scores, (0, short), value=-torch.inf) if short else scores
        self.blocks = padded.view(-1, _BLOCK)
        self.greatest = self.blocks.amax(1)

    def top(self, depth: int, reaching: float) -> Candidates:
        """See :class:`Query`."""
        if reaching < torch.inf:
            least = reaching - self.error
            depth = max(depth, int((self.blocks[self.greatest >= least] >= least).sum()))
        wide = min(depth + 1, self.items)  # the last one is the best of those left out
        # the best of all stand in the blocks whose greatest are the best
        places = self.greatest.topk(min(wide, len(self.greatest)), sorted=False).indices
        values, found = self.blocks[places].flatten().topk(wide)
        rows = places[found // _BLOCK] * _BLOCK + found % _BLOCK
        return Candidates(rows[:-1], float(values[-1]) + self.error)


def _longest(vectors: Tensor) -> float:
    return float(vectors.norm(dim=1).max()) if len(vectors) else 0.0


def _quicker(coarse: Tensor, exact: Tensor) -> bool:
    """Whether this processor multiplies the coarse type faster; the answers are the same either way."""
    rows = min(len(exact), 1 << 14)
    if rows < FEWEST_ITEMS // 2:
        return False
    first, second = coarse[:rows], exact[:rows]
    return _seconds(lambda: first @ first[:4].T) < _seconds(lambda: second @ second[:4].T)


def _whole_numbers(table: Tensor) -> bool:
    """Whether this processor multiplies eight bits faster than ``table``; the answers are the same either way."""
    rows = min(len(table), 1 << 14)
    if rows < FEWEST_ITEMS // 2 or not hasattr(torch, "_int_mm"):
        return False
    asked, part = table[:4], table[:rows]
    small = torch.ones(rows, table.shape[1], dtype=torch.int8)
    try:
        whole = _seconds(lambda: torch._int_mm(small[:4], small.T).amax(0))
    except RuntimeError:  # a processor, or a width, that torch has no such product for
        return False
    return whole < _seconds(lambda: reduce(torch.maximum, (part @ asked.T).unbind(1)))


def _seconds(product: Callable[[], object]) -> float:
    took = []
    for _ in range(12):
        begin = time.perf_counter()
        product()
        took.append(time.perf_counter() - begin)
    return min(took)


class HNSWIndex:
    """faiss' graph (Malkov and Yashunin 2018) over inner products; a bias is one more dimension.

    Args:
        index: faiss' index over rows 1 to N - 1; biased: its vectors have the bias as last dimension; longest: the
            greatest length of a vector.
    """

    certain = False

    def __init__(self, index, biased: bool, longest: float) -> None:
        self.index, self.biased, self.longest = index, biased, longest

    @classmethod
    def over(cls, vectors: Tensor, bias: Tensor | None = None, links: int = 32, effort: int = 200) -> HNSWIndex:
        """Build the graph: ``links`` per item, ``effort`` candidates while linking."""
        import faiss

        rows = vectors if bias is None else torch.cat([vectors, bias[:, None]], 1)
        index = faiss.IndexHNSWFlat(rows.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = effort
        index.add(np.ascontiguousarray(rows[1:].float().numpy()))
        return cls(index, bias is not None, _longest(vectors))

    def query(self, interests: Tensor) -> HNSWQuery:
        """See :class:`Index`."""
        if self.biased:
            interests = torch.nn.functional.pad(interests, (0, 1), value=1.0)
        return HNSWQuery(self.index, interests.contiguous().numpy())

    def extended(self, vectors: Tensor, bias: Tensor | None, first: int) -> HNSWIndex:
        """With the rows from ``first`` on added; the old graph stays as it is."""
        import faiss

        rows = vectors if bias is None else torch.cat([vectors, bias[:, None]], 1)
        index = faiss.clone_index(self.index)
        index.add(np.ascontiguousarray(rows[first:].float().numpy()))
        return HNSWIndex(index, self.biased, _longest(vectors))

    def write(self, file: Path) -> None:
        """Write ``index.faiss``."""
        import faiss

        faiss.write_index(self.index, str(file))

    @classmethod
    def read(cls, file: Path, vectors: Tensor, biased: bool) -> HNSWIndex:
        """Read ``index.faiss``. Raises DataError if it cannot be read or is of another catalogue."""
        import faiss

        try:
            index = faiss.read_index(str(file))
        except RuntimeError as error:
            raise DataError(f"{file}: not a readable faiss index. Export the model again.") from error
        if index.ntotal != len(vectors) - 1 or index.d != vectors.shape[1] + biased:
            raise DataError(
                f"{file}: an index of {index.ntotal} items of {index.d} numbers over {len(vectors) - 1} of "
                f"{vectors.shape[1] + biased}. Export the model again."
            )
        return cls(index, biased, _longest(vectors))


class HNSWQuery:
    """Interests [K, d] as faiss takes them."""

    def __init__(self, index, interests: np.ndarray) -> None:
        self.index, self.interests = index, interests

    def top(self, depth: int, reaching: float) -> Candidates:
        """See :class:`Query`: the ``depth`` best of each interest that the graph finds, united."""
        import faiss

        wanted = faiss.SearchParametersHNSW(efSearch=max(2 * depth, 128))
        scores, rows = self.index.search(self.interests, depth, params=wanted)
        filled = rows >= 0
        ceiling = max((float(s[f][-1]) for s, f in zip(scores, filled) if f.any()), default=-float("inf"))
        return Candidates(torch.from_numpy(np.unique(rows[filled]) + 1), ceiling)


def check_index_kind(kind: str) -> str:
    """Return ``kind`` if there is such an index. Raises ConfigError."""
    if kind not in KINDS:
        raise ConfigError(f"index={kind}: allowed are {', '.join(KINDS)}.")
    return kind
