"""The k best items of many users at once, through a coarse table, proved for each user.

One product of all interests with the table in bfloat16 is several times quicker than in float32 where a processor has
instructions for it, and what follows reads its result once: the table is cut into chunks, the greatest value of every
chunk is found, and only the chunks that may hold one of the best are looked into. Bits of bfloat16 are compared as
integers, which processors do far faster and which is the same order from zero on; a value below zero counts as one
below zero.

The candidates are scored in double precision; who is proved is decided as in :mod:`recbole_eimf.serving.index`. A user
whose scores lie closer together than sums in single precision may be wrong is not answered here, so that lists are
those of evaluation whatever the batch; nor is one whose best are not proved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: items that share a chunk; candidates beyond k
_PIECES, _SLACK = 16, 16
#: of the coarse scores that are held at a time, which should stay in the processor's cache
_BYTES = 32 * 2**20
#: of a sum in single precision, for each of its terms (Higham 2002, section 3.1)
_ROUNDED = 1.01 * torch.finfo(torch.float32).eps / 2
_LOWEST = torch.iinfo(torch.int16).min


class Found(NamedTuple):
    """rows int64 [B, k], best first, scores float32 [B, k]; sure: bool [B], false where neither says anything."""

    rows: Tensor
    scores: Tensor
    sure: Tensor


class CoarseTable:
    """The coarse vectors of a flat index, cut into chunks: item n stands in chunk n mod C.

    Args:
        coarse: bfloat16 [N, d], copied; exact: float32 [N, d]; error: how far products with the coarse ones may be from
            exact ones, of interests [B, K, d] -> [B].
    """

    def __init__(self, coarse: Tensor, exact: Tensor, error: Callable[[Tensor], Tensor]) -> None:
        self.exact, self.error = exact, error
        self.chunks = -(-len(exact) // _PIECES)
        self.coarse = torch.nn.functional.pad(coarse, (0, 0, 0, self.chunks * _PIECES - len(exact)))

    def answers(self, k: int) -> bool:
        """Whether there are enough chunks for k items."""
        return k > 0 and 2 * (k + _SLACK) < self.chunks

    def best(self, interests: Tensor, k: int, history: tuple[Tensor, Tensor] | None = None) -> Found:
        """The k best items of each user.

        Args:
            interests: [B, K, d]; k: see :meth:`answers`; history: (user, item) int64 [E] each, what is no candidate.
        """
        together = max(_BYTES // (2 * len(self.coarse) * interests.shape[1]), 1)
        if len(interests) <= together:
            return self._block(interests, k, history)
        parts = []
        for begin in range(0, len(interests), together):
            own = None
            if history is not None:
                user, item = history
                there = (user >= begin) & (user < begin + together)
                own = user[there] - begin, item[there]
            parts.append(self._block(interests[begin : begin + together], k, own))
        return Found(*map(torch.cat, zip(*parts)))

    def _block(self, interests: Tensor, k: int, history: tuple[Tensor, Tensor] | None) -> Found:
        rows, ceiling = self._candidates(interests, k + _SLACK, history)
        scores, off = self._exact(interests, rows)
        scores[(rows == 0) | (rows >= len(self.exact))] = -torch.inf
        if history is not None:
            scores[_stand_in(rows, history)] = -torch.inf
        scores, order = scores.sort(dim=1, descending=True)
        off = off.gather(1, order)
        proved = scores[:, k - 1] - off[:, k - 1] > ceiling + self.error(interests)
        gaps = scores[:, :k] - scores[:, 1 : k + 1]
        apart = (gaps > off[:, :k] + off[:, 1 : k + 1]).all(1)
        return Found(rows.gather(1, order[:, :k]), scores[:, :k].float(), proved & apart)

    def _exact(self, interests: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scores in double precision, and how far sums in single precision may be from them, [B, C] each."""
        vectors = self.exact[rows.clamp(max=len(self.exact) - 1)].double()
        asked = interests.transpose(1, 2).double()
        of_sums = torch.bmm(vectors.abs(), asked.abs()).amax(2)
        return torch.bmm(vectors, asked).amax(2), of_sums * interests.shape[2] * _ROUNDED

    def _candidates(self, interests: Tensor, depth: int, history) -> tuple[Tensor, Tensor]:
        """(rows [B, depth], what the coarse score of no other item exceeds [B])."""
        users, of_user, chunks = len(interests), interests.shape[1], self.chunks
        coarse = interests.to(torch.bfloat16).flatten(0, 1) @ self.coarse.T
        bits = coarse.view(torch.int16).view(users, of_user, -1)
        bits[:, :, 0] = bits[:, :, len(self.exact) :] = _LOWEST
        if history is not None:
            bits[history[0], :, history[1]] = _LOWEST
        bits = bits.view(users, of_user * _PIECES, chunks)
        best, places = bits.amax(1).topk(depth + 1)
        places = places[:, :depth]
        inside = bits.gather(2, places[:, None].expand(-1, of_user * _PIECES, -1))
        inside = inside.view(users, of_user, _PIECES * depth).amax(1)
        values, found = inside.topk(depth + 1)
        rows = found[:, :depth] // depth * chunks + places.gather(1, found[:, :depth] % depth)
        left = torch.maximum(values[:, depth], best[:, depth]).clamp(min=0)  # below zero integers stand the wrong way
        return rows, left.view(torch.bfloat16).float()


def _stand_in(rows: Tensor, history: tuple[Tensor, Tensor]) -> Tensor:
    """Whether each of rows [B, depth] stands in its user's history, bool."""
    user, item = history
    size = max(int(rows.max()), int(item.max()) if len(item) else 0) + 1
    there = user * size + item
    mine = torch.arange(len(rows))[:, None] * size + rows
    return torch.isin(mine, there)
