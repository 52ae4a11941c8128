"""Training and evaluation rows, made when a batch asks for them.

RecBole stores one padded row per (user, prefix): a user with n items costs n rows of L numbers. Here a data set is one
flat item array and offsets; a *view* says which pieces of it form a row, and a batch is gathered on demand. Memory is
one number per interaction whatever L is.

===============  ===========================================  =========================================
view             one row is                                   used by
===============  ===========================================  =========================================
``prefix``       a target and the items before it (RecBole)   RecBole's models as they are
``sequence``     a user's window, a target at every position  causal and masked backbones
``random_cut``   a user, cut at a random item at every visit  multi-interest backbones (REMI, ComiRec)
``interactions`` one interaction                              counting models
===============  ===========================================  =========================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_eimf.data.protocol import Spans

if TYPE_CHECKING:  # serving reads backbones, and they this
    from recbole.data.interaction import Interaction

#: Interaction field: the item that follows each position of ``item_id_list``, zero where padded. [b, l]
TARGET_LIST = "target_item_list"
#: Interaction field: all that a user had before the targets, zero where padded, of which ``item_id_list`` has the
#: latest; there where ``diversity_lambda`` needs it. [b, l]
HAD_LIST = "had_item_list"


def host_side(batch: Interaction) -> Interaction:
    """The batch in the processor's memory, if it is there: what is picked from it does not keep a GPU waiting."""
    return getattr(batch, "origin", batch)


def gather_rows(flat: torch.Tensor, start: np.ndarray, end: np.ndarray, width: int | None = None) -> torch.Tensor:
    """Gather ``flat[start[r]:end[r]]`` into right-padded rows.

    Args:
        flat: [n] values, sorted by user.
        start, end: int64 [b].
        width: columns of the result; ``None`` is the longest row.

    Returns:
        [b, width], zero where a row has ended.
    """
    first = torch.from_numpy(np.ascontiguousarray(start))
    length = torch.from_numpy(np.ascontiguousarray(end - start))
    width = int(length.max()) if width is None else width
    column = torch.arange(width)
    inside = column[None, :] < length[:, None]
    index = (first[:, None] + column[None, :]).clamp_(max=len(flat) - 1)
    return flat[index] * inside


class View(ABC):
    """Rows over flat arrays. ``size`` numbers of a row decide which rows share a batch."""

    def __init__(self, flat: torch.Tensor, max_length: int) -> None:
        self.flat = flat
        self.max_length = max_length

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def size(self) -> np.ndarray:
        """int64 [rows]: the length of a row's history, in items."""

    @abstractmethod
    def rows(self, index: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row's position in the spans, history start, history end) for a batch; the target is at history end."""


class SequenceView(View):
    """One row per window of a user's training sequence, a target after every item of it that no older window has had.

    A sequence longer than ``max_length + 1`` gives several windows, each ``stride`` items further than the one before;
    what they share is context, so the targets are those of the ``prefix`` view, each once. Windows that share nothing
    (``stride = max_length``) would show the first targets of each a short history, which scoring never does. Windows
    end at the sequence's end; the oldest one has the odd length.

    Args:
        stride: 1 to ``max_length``.
    """

    def __init__(self, flat: torch.Tensor, spans: Spans, max_length: int, stride: int) -> None:
        super().__init__(flat, max_length)
        targets = np.maximum(spans.middle - spans.start - 1, 0)
        windows = (targets > 0) + -(-np.maximum(targets - max_length, 0) // stride)
        self.span = np.repeat(np.arange(len(spans)), windows)
        nth = np.arange(len(self.span)) - np.repeat(np.cumsum(windows) - windows, windows)
        oldest = nth == windows[self.span] - 1
        self.last = spans.middle[self.span] - 1 - nth * stride  # position of the window's last target
        self.first = np.maximum(self.last - max_length, spans.start[self.span])
        self.targets = np.where(oldest, self.last - self.first, stride)  # how many of a window's last items are targets

    def __len__(self) -> int:
        return len(self.span)

    @property
    def size(self) -> np.ndarray:
        return self.last - self.first

    def rows(self, index: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.span[index], self.first[index], self.last[index]


class PrefixView(View):
    """One row per target, as RecBole's augmentation makes them: the at most ``max_length`` items before it."""

    def __init__(self, flat: torch.Tensor, spans: Spans, max_length: int) -> None:
        super().__init__(flat, max_length)
        self.start = spans.start
        self.before = np.concatenate([[0], np.cumsum(np.maximum(spans.middle - spans.start - 1, 0))])  # rows, by span

    def __len__(self) -> int:
        return int(self.before[-1])

    @property
    def size(self) -> np.ndarray:
        _, first, target = self.rows(np.arange(len(self)), np.random.default_rng(0))
        return target - first

    def rows(self, index: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        span = np.searchsorted(self.before, index, side="right") - 1
        target = self.start[span] + 1 + index - self.before[span]
        return span, np.maximum(target - self.max_length, self.start[span]), target


class RandomCutView(View):
    """A user's sequence, cut before a random item at every visit (REMI and ComiRec draw k >= 4).

    Users with ``min_history`` items or fewer are cut before their last item, so that nobody is left out. ``visits``
    is how often an epoch visits each user. ``size`` is of the whole history, for the cut is drawn later: rows that
    share a batch are of like length before they are cut.
    """

    def __init__(self, flat: torch.Tensor, spans: Spans, max_length: int, min_history: int, visits: int) -> None:
        super().__init__(flat, max_length)
        self.spans = spans
        usable = np.flatnonzero(spans.middle - spans.start >= 2)
        self.span = np.repeat(usable, visits)
        self.min_history = min_history

    def __len__(self) -> int:
        return len(self.span)

    @property
    def size(self) -> np.ndarray:
        return np.minimum(self.spans.middle[self.span] - self.spans.start[self.span] - 1, self.max_length)

    def rows(self, index: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        span = self.span[index]
        start, end = self.spans.start[span], self.spans.middle[span]
        earliest = np.minimum(start + self.min_history, end - 1)
        cut = earliest + (rng.random(len(span)) * (end - earliest)).astype(np.int64)
        return span, np.maximum(cut - self.max_length, start), cut


class InteractionView(View):
    """Every training interaction once, without history: what a counting model reads."""

    def __init__(self, flat: torch.Tensor, spans: Spans, max_length: int) -> None:
        super().__init__(flat, max_length)
        length = spans.middle - spans.start
        self.span = np.repeat(np.arange(len(spans)), length)
        nth = np.arange(len(self.span)) - np.repeat(np.cumsum(length) - length, length)
        self.position = spans.start[self.span] + nth

    def __len__(self) -> int:
        return len(self.span)

    @property
    def size(self) -> np.ndarray:
        return np.ones(len(self.span), dtype=np.int64)

    def rows(self, index: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = self.position[index]
        return self.span[index], position, position


class EvaluationView(View):
    """One row per held-out user: the latest ``max_length`` items of the history; targets come from the spans."""

    def __init__(self, flat: torch.Tensor, spans: Spans, max_length: int) -> None:
        super().__init__(flat, max_length)
        self.spans = spans

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def size(self) -> np.ndarray:
        return np.minimum(self.spans.middle - self.spans.start, self.max_length)

    def rows(self, index: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        middle = self.spans.middle[index]
        return index, np.maximum(middle - self.max_length, self.spans.start[index]), middle


TRAINING_VIEWS = ("prefix", "sequence", "random_cut", "interactions")


def training_view(
    name: str,
    flat: torch.Tensor,
    spans: Spans,
    max_length: int,
    min_history: int = 4,
    visits: int = 1,
    stride: int | None = None,
) -> View:
    """Make the view called ``name`` (of ``TRAINING_VIEWS``); ``stride`` is of ``sequence``, None half the length."""
    if name == "sequence":
        return SequenceView(flat, spans, max_length, stride or max(max_length // 2, 1))
    if name == "random_cut":
        return RandomCutView(flat, spans, max_length, min_history, visits)
    return {"prefix": PrefixView, "interactions": InteractionView}[name](flat, spans, max_length)
