"""Which interactions train a model and which ones test it.

Three protocols (``--protocol``), all on sequences that are sorted by (user, order):

``leave_one_out``
    RecBole's and PAD's: the last item of every user is the test target, the one before it the validation target. Users
    too short for both keep as much as RecBole gives them: with three items there is no validation target, with two or
    one nothing is held out.
``user_split``
    ComiRec's, REMI's and EIMF's (section 4.1.1): 80 % of the *users* train with their whole sequences; of the other
    users the first 80 % of the sequence is the input and the last 20 % are the targets. Which users are where is drawn
    with a seed, or read from a file (:mod:`recbole_eimf.data.split_file`).
``global_time``
    what a service could have known (Time to Split, arXiv 2507.16289): training up to a time T_val, validation after it
    up to T_test, test after that (:mod:`recbole_eimf.data.time_split`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_eimf.config.rules import check_split_ratios
from recbole_eimf.core.errors import ConfigError

PROTOCOLS = ("leave_one_out", "user_split", "global_time")
PARTS = ("train", "valid", "test")
_HISTORY = 0.8  # share of a held-out user's sequence that is input; the rest are targets


@dataclass(frozen=True)
class Spans:
    """Pieces of users' sequences, as positions in the flat item array; row r belongs to ``user[r]``.

    ``start[r]:middle[r]`` is the history. For evaluation ``middle[r]:end[r]`` are the targets; for training
    ``middle == end``.
    """

    user: np.ndarray  # int64 [R]
    start: np.ndarray  # int64 [R]
    middle: np.ndarray  # int64 [R]
    end: np.ndarray  # int64 [R]

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Split:
    """The three parts of a data set; ``before_test``: what is known when the test begins, of ``global_time`` alone."""

    train: Spans
    valid: Spans
    test: Spans
    before_test: Spans | None = None


def leave_one_out(offsets: np.ndarray, moment: np.ndarray | None = None) -> Split:
    """Hold out the last two items of every user; with ``moment`` all items of the last two times.

    Args:
        offsets: int64 [U + 1]; user u owns ``offsets[u]:offsets[u + 1]`` of the flat arrays. Row 0 (padding) is empty.
        moment: int [n], ascending, equal where items of a user belong together (``ties=together``).
    """
    if moment is not None:
        return _leave_last_moments(offsets, moment)
    start, end = offsets[:-1], offsets[1:]
    length = end - start
    user = np.arange(len(length), dtype=np.int64)
    held_out = np.clip(length - 2, 0, 2)  # as RecBole: never leaves a user without a training target
    train_end = end - held_out
    some = length > 0
    train = Spans(user[some], start[some], train_end[some], train_end[some])
    both, tested = held_out == 2, held_out >= 1
    valid = Spans(user[both], start[both], end[both] - 2, end[both] - 1)
    test = Spans(user[tested], start[tested], end[tested] - 1, end[tested])
    return Split(train, valid, test)


def _leave_last_moments(offsets: np.ndarray, moment: np.ndarray) -> Split:
    """As :func:`leave_one_out`, a user's training keeping two items or more."""
    start, end = offsets[:-1], offsets[1:]
    user = np.arange(len(start), dtype=np.int64)

    def last_begins(before: np.ndarray) -> np.ndarray:
        return np.where(before > start, np.searchsorted(moment, moment[np.maximum(before - 1, 0)]), start)

    test_begins = last_begins(end)
    valid_begins = last_begins(test_begins)
    tested = test_begins - start >= 2
    both = tested & (valid_begins - start >= 2)
    train_end = np.where(both, valid_begins, np.where(tested, test_begins, end))
    some = end > start
    train = Spans(user[some], start[some], train_end[some], train_end[some])
    valid = Spans(user[both], start[both], valid_begins[both], test_begins[both])
    test = Spans(user[tested], start[tested], test_begins[tested], end[tested])
    return Split(train, valid, test)


def cut_between_moments(split: Split, moment: np.ndarray) -> Split:
    """Move the cuts of a user split to where a time begins: back, or on where that leaves no history.

    Users all of whose items are of one time have no history before their targets and are not asked.

    Args:
        moment: int [n], ascending, equal where items of a user belong together.
    """

    def moved(spans: Spans) -> Spans:
        back = np.searchsorted(moment, moment[spans.middle])
        on = np.searchsorted(moment, moment[spans.middle], side="right")
        middle = np.where(back > spans.start, back, on)
        asked = middle < spans.end
        return Spans(spans.user[asked], spans.start[asked], middle[asked], spans.end[asked])

    return Split(split.train, moved(split.valid), moved(split.test))


def user_split(offsets: np.ndarray, seed: int, ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Split:
    """Split by user: training users keep everything, the others are asked for the last part of their sequence.

    Args:
        offsets: int64 [U + 1], as in :func:`leave_one_out`.
        seed: decides which users go where; it is not the training seed, so that seeds share one split.
        ratios: shares of users for training, validation, test; they sum to 1.

    Raises:
        ConfigError: the ratios do not sum to 1, or a part would be empty.
    """
    check_split_ratios(ratios)
    users = np.flatnonzero(np.diff(offsets) >= 2)  # one item gives neither a training target nor an input with a target
    shuffled = np.random.default_rng(seed).permutation(users)
    n_train, n_valid = int(len(users) * ratios[0]), int(len(users) * ratios[1])
    parts = np.split(shuffled, [n_train, n_train + n_valid])
    for name, part in zip(PARTS, parts):
        if len(part) == 0:
            raise ConfigError(
                f"protocol=user_split leaves no user for {name}: {len(users)} users have two or more items, "
                f"split_ratios={list(ratios)}. Use more data, other ratios, or protocol=leave_one_out."
            )
    return split_of_users(offsets, *parts)


def split_of_users(offsets: np.ndarray, train: np.ndarray, valid: np.ndarray, test: np.ndarray) -> Split:
    """The user split with these users, in ascending order.

    Args:
        offsets: int64 [U + 1], as in :func:`leave_one_out`.
        train, valid, test: disjoint user ids, those of ``valid`` and ``test`` with two or more interactions.
    """
    train = np.sort(train)
    spans = [Spans(train, offsets[train], offsets[train + 1], offsets[train + 1])]
    for part in (np.sort(valid), np.sort(test)):
        start, end = offsets[part], offsets[part + 1]
        spans.append(Spans(part, start, start + np.maximum(((end - start) * _HISTORY).astype(np.int64), 1), end))
    return Split(*spans)


def share_of_users(spans: Spans, share: float, seed: int, drawn_from: Spans | None = None) -> Spans:
    """The rows of a share of the users, at least one; those of a smaller share are among those of a larger.

    Args:
        spans: of a part to train on; share: above 0, at most 1; seed: draws the users.
        drawn_from: an earlier part: of its users those drawn from it stay, and of the others the same share is drawn.
    """
    if share >= 1:
        return spans
    users = np.unique((spans if drawn_from is None else drawn_from).user)
    kept = np.random.default_rng(seed).permutation(users)[: max(round(share * len(users)), 1)]
    if drawn_from is not None:
        later = np.setdiff1d(spans.user, users)
        kept = np.append(kept, np.random.default_rng([seed, 1]).permutation(later)[: round(share * len(later))])
    chosen = np.isin(spans.user, kept)
    return Spans(*(getattr(spans, field)[chosen] for field in ("user", "start", "middle", "end")))
