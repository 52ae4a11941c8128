"""The best k of a catalogue without the [B, N] matrix of scores: a chunk of items at a time, and a running best k.

Once every user has k items, hardly any further one is as good as the worst of them: a chunk costs its products, one
comparison per score, and work on the few scores that pass it. The ranking is that of
:func:`recbole_eimf.evaluator.ranking.ranked_items`, ties included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_eimf.evaluator.ranking import places_of

#: scores alive at a time where ``eval_chunk_items`` does not say: they stay in a processor's cache
_CELLS = {"cpu": 1 << 18, "cuda": 1 << 26}
#: scores of a batch above which ``eval_chunk_items`` = None means chunks
_DENSE_CELLS = {"cpu": 1 << 26, "cuda": 1 << 28}
_GROUP = 64


def chunk_items(wanted: int | None, users: int, items: int, device: torch.device) -> int:
    """Items of a chunk, 0 for the whole matrix at once. ``wanted``: the key ``eval_chunk_items``."""
    if wanted is not None:
        return wanted
    if users * items <= _DENSE_CELLS.get(device.type, 1 << 24):
        return 0
    return max(_CELLS.get(device.type, 1 << 22) // users // _GROUP, 4) * _GROUP


def ranked_in_chunks(
    scores: Callable[[int, int], Tensor],
    items: int,
    users: Tensor,
    k: int,
    chunk: int,
    history: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The k best items of every user, best first, as :func:`~recbole_eimf.evaluator.ranking.ranked_items` gives them.

    Args:
        scores: (begin, end) -> [B, end - begin]; the result is written to.
        items: N; users: RecBole ids, int64 [B].
        chunk: items of a chunk.
        history: (row, item) of items that are no candidates, or None; dtype: of the scores.

    Returns:
        int64 [B, k] item ids; a row of fewer candidates ends in zeros.
    """
    best = _Best(users, items, k, dtype)
    barred = None if history is None else _by_chunk(history, items, chunk, users.device)
    for number, begin in enumerate(range(0, items, chunk)):
        part = scores(begin, min(begin + chunk, items))
        if begin == 0:
            part[:, 0] = -torch.inf
        if barred is not None:
            row, item = barred[number]
            part[row, item - begin] = -torch.inf
        best.offer(part, begin)
    return best.items()


def _by_chunk(history: tuple[Tensor, Tensor], items: int, chunk: int, device) -> list[tuple[Tensor, Tensor]]:
    row, item = (part.to(device) for part in history)
    item, order = item.sort()
    row = row[order]
    ends = torch.arange(chunk, items + chunk, chunk, device=device)
    cuts = torch.searchsorted(item, ends).tolist()
    return [(row[a:b], item[a:b]) for a, b in zip([0, *cuts], cuts)]


class _Best:
    """The best k of what each of B users was offered so far.

    Offers wait until there are enough of them to be worth sorting. ``least`` [B] is a score which k offers of a user
    reach: whatever is below it is not looked at again.
    """

    def __init__(self, users: Tensor, items: int, k: int, dtype: torch.dtype) -> None:
        self.users, self.size, self.k = users, items, k
        # the lowest finite number: minus infinity and NaN are no candidates, and do not reach it
        self.least = torch.full((len(users),), torch.finfo(dtype).min, dtype=dtype, device=users.device)
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # (row, item, score)
        self.count = 0
        none = torch.empty(0, dtype=torch.long, device=users.device)
        self.held = (none, none, self.least[:0])  # as the waiting ones, sorted
        self.rank = none  # places of the held ones, from 0

    def offer(self, scores: Tensor, begin: int) -> None:
        """Scores [B, C] of the items from ``begin`` on."""
        enough = len(scores) * self.k
        row, column = self._reaching(scores)
        if len(row) > enough and scores.shape[1] >= self.k:
            self._raise(scores)
            row, column = self._reaching(scores)
        if len(row):
            self.waiting.append((row, column + begin, scores[row, column]))
            self.count += len(row)
        if self.count > enough:
            self._settle()

    def _reaching(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(row, column) of the scores that reach ``least``. Most groups of columns have none: their maximum says so."""
        width = scores.shape[1]
        group = _GROUP if width % _GROUP == 0 else width
        groups = scores.reshape(-1, group)
        least = self.least.repeat_interleave(width // group)
        near = (~(groups.amax(1) < least)).nonzero().squeeze(1)  # a maximum of NaN says nothing
        which, column = (groups[near] >= least[near, None]).nonzero(as_tuple=True)
        cell = near[which] * group + column
        return cell // width, cell % width

    def _raise(self, scores: Tensor) -> None:
        """The k-th best of a chunk alone is a score that k offers reach."""
        known = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        self.least = torch.maximum(self.least, known.topk(self.k).values[:, -1])

    def _settle(self) -> None:
        """Sort all offers by (row, score, place) and keep k of each row."""
        row, item, score = (torch.cat(parts) for parts in zip(self.held, *self.waiting))
        self.waiting, self.count = [], 0
        order = places_of(item, self.users[row], self.size).argsort()
        order = order[score[order].argsort(descending=True, stable=True)]
        order = order[row[order].argsort(stable=True)]
        row = row[order]
        first = torch.searchsorted(row, torch.arange(len(self.users), device=row.device))
        rank = torch.arange(len(row), device=row.device) - first[row]
        order, row = order[rank < self.k], row[rank < self.k]
        self.held = (row, item[order], score[order])
        self.rank = rank[rank < self.k]
        full = self.rank == self.k - 1
        self.least[row[full]] = self.held[2][full]

    def items(self) -> Tensor:
        """int64 [B, k]."""
        self._settle()
        found = self.users.new_zeros(len(self.users), self.k)
        found[self.held[0], self.rank] = self.held[1]
        return found
