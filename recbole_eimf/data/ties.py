"""Events of one user at one time: what order they are in, and which targets that order decides.

Times of Amazon's reviews are whole days and its files are sorted by item, so that a stable sort by time leaves the
items of a day in the order of their ids; ids of one vendor are neighbours, and a first-order model reads the next id
off the last one. ``ties`` says what becomes of such an order:

``source``
    as the source has it (``ORDER_FIELD``, or the place in the file): the papers' regime.
``shuffle``
    the events of one time in an order that is drawn by ``ties_seed`` from user and item alone: neither the source's
    order nor the other users have a part in it (a repeat is drawn by how often the user had the item before, too).
``together``
    as ``shuffle``, and the targets are whole times: what is bought together after a history is one set of targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_eimf.core.arrays import distinct
from recbole_eimf.core.dates import LEAST_UNIX
from recbole_eimf.data.protocol import Spans

#: of the pairs of equal time: where more ascend by item id, the order is the ids' (of an order by chance half do)
SUSPICIOUS = 0.6
_ONE, _TWO = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # of the splitmix64 generator
_STEP = np.uint64(0x9E3779B97F4A7C15)  # its increment


def has_times(user: np.ndarray, time: np.ndarray | None, order: np.ndarray | None) -> bool:
    """Whether times say more than an order: they say nothing where all are equal, where they are the position, or where
    a column of its own for the order is the same and its values may be a count.

    Args:
        user: sorted, [n]; time: [n] as sorted, None where there is no such column; order: likewise, None too where it
            is the column of the times: who sorts by time has times.
    """
    if time is None or not len(time) or (time == time[0]).all():
        return False
    if order is not None and (time == order).all() and _may_count(user, time):
        return False
    position = np.arange(len(user)) - np.searchsorted(user, user)
    return not ((time == position).all() or (time == position + 1).all())


def _may_count(user: np.ndarray, time: np.ndarray) -> bool:
    """Whether values may be a count of a user's events, or of all, of which filters left some: whole numbers, none
    twice for a user, and too small for Unix times."""
    tied = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    return not tied.any() and time.max() < LEAST_UNIX and bool((time == np.floor(time)).all())


def moments(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Number the (user, time) pairs of sorted rows: int32 [n], equal for rows that are tied.

    >>> moments(np.array([1, 1, 1, 2]), np.array([5.0, 5.0, 6.0, 6.0])).tolist()
    [0, 0, 1, 2]
    """
    new = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    return np.concatenate([[0], np.cumsum(new)]).astype(np.int32)[: len(user)]


def shuffled(
    moment: np.ndarray, user: np.ndarray, item: np.ndarray, seed: int, sequence: np.ndarray | None = None
) -> np.ndarray:
    """Positions [n] that put the rows of each moment in an order drawn from ``seed``, user and item alone.

    A user's repeats of an item are drawn each for itself, by how often the user had the item before in the source's
    order: with one number for all of them they would come to stand side by side, and the next item would be the last.

    Args:
        moment: of :func:`moments`, ascending; user, item: *tokens*, so that filters and other users change nothing;
        sequence: int [n], which sequence an event is of, where a user has several; None: one for each user.
    """
    of_user, of_item = pd.util.hash_array(user), _mixed(pd.util.hash_array(item) + np.uint64(seed))
    drawn = _mixed(of_user ^ of_item)
    had = occurrence(of_user if sequence is None else sequence, of_item)
    again = had > 0  # the first keep the number that they have where nothing repeats
    drawn[again] = _mixed(drawn[again] + had[again].astype(np.uint64) * _STEP)
    return np.lexsort((drawn, moment))


def occurrence(sequence: np.ndarray, item: np.ndarray) -> np.ndarray:
    """How many rows before each have its sequence and item, int64 [n].

    >>> occurrence(np.array([1, 1, 2, 1]), np.array([5, 5, 5, 5])).tolist()
    [0, 1, 0, 2]
    """
    order = np.lexsort((item, sequence))  # stable: equal rows stay as they come
    sequence, item = sequence[order], item[order]
    new = np.append(True, (sequence[1:] != sequence[:-1]) | (item[1:] != item[:-1]))[: len(order)]
    place = np.arange(len(order))
    found = np.empty(len(order), dtype=np.int64)
    found[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return found


def _mixed(number: np.ndarray) -> np.ndarray:
    """Splitmix64's finaliser: uint64 -> uint64, one to one, every bit of the one deciding every bit of the other."""
    number = (number ^ (number >> np.uint64(30))) * _ONE
    number = (number ^ (number >> np.uint64(27))) * _TWO
    return number ^ (number >> np.uint64(31))


def tied_targets(moment: np.ndarray | None, spans: Spans, row: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Which targets have the time of the history's last item, bool [T]: what precedes them is a matter of ``ties``.

    Args:
        moment: of :func:`moments`; None where the data has no times: every target may then be tied.
        spans: of the evaluated part; row, position: [T] row of each target and its place in the flat arrays.
    """
    if moment is None:
        return np.ones(len(row), dtype=bool)
    return moment[position] == moment[spans.middle[row] - 1]


@dataclass(frozen=True)
class TieCounts:
    """Adjacent pairs of users' events: all, those of equal time, and how many of these (and of the others) ascend by
    item id; users whose last two events are tied; events whose item the user had before."""

    pairs: int
    tied: int
    tied_ascending: int
    other_ascending: int
    users: int
    last_tied: int
    events: int
    repeats: int

    @property
    def suspicious(self) -> bool:
        """Whether the ties' order looks like the order of ids."""
        return self.tied > 0 and self.tied_ascending > SUSPICIOUS * self.tied


def count_ties(user: np.ndarray, item: np.ndarray, time: np.ndarray | None, id_rank: np.ndarray) -> TieCounts:
    """Count ties and repeats of rows that are sorted by user and order.

    Args:
        user, item: codes [n]; time: [n], None where there is none: every pair may be tied then.
        id_rank: int [items], where each code's token stands among the sorted tokens.
    """
    same = user[1:] == user[:-1]
    tied = same if time is None else same & (time[1:] == time[:-1])
    up = id_rank[item[1:]] > id_rank[item[:-1]]
    last = np.flatnonzero(np.append(user[1:] != user[:-1], True)) if len(user) else np.empty(0, int)
    had = len(distinct(user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item))
    return TieCounts(
        pairs=int(same.sum()),
        tied=int(tied.sum()),
        tied_ascending=int((tied & up).sum()),
        other_ascending=int((same & ~tied & up).sum()),
        users=len(last),
        last_tied=int(tied[last[last > 0] - 1].sum()),
        events=len(user),
        repeats=len(user) - had,
    )
