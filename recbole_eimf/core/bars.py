"""Progress of long work: a bar that moves on a terminal or in a notebook, a line a minute in a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

EVERY = 60.0  #: seconds between two lines in a file
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def moves(file: TextIO | None) -> bool:
    """Whether a line written to ``file`` can be written over: on a terminal and in a notebook, not where someone keeps
    the output in a file. What a host program put in the place of a stream may not say."""
    try:
        return file is not None and (bool(file.isatty()) or _in_notebook())
    except (AttributeError, ValueError):  # no method, or closed
        return False


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def without_colour(text: str) -> str:
    """A text without a terminal's codes for colours.

    >>> without_colour(chr(27) + "[1;35mTrain" + chr(27) + "[0m 3")
    'Train 3'
    """
    return _COLOUR.sub("", text)


def bar(iterable: Iterable | None = None, **options: Any) -> plain_tqdm:
    """A bar of tqdm, with its ``options``; :class:`Lines` where the output is kept in a file."""
    return (tqdm if moves(options.get("file", sys.stderr)) else Lines)(iterable, **options)


class Lines(plain_tqdm):
    """A bar in a file: a line for every minute, the first after the first one; work that is done sooner says nothing.

    Args:
        options: tqdm's; those of its look, but ``bar_format``, are not used.
    """

    def __init__(self, iterable: Iterable | None = None, **options: Any) -> None:
        form = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt}, {elapsed}, {remaining} left{postfix}"
        own = {"delay": EVERY, "leave": False, "ncols": None, "dynamic_ncols": False}
        super().__init__(iterable, **{"bar_format": form, **options, **own})

    @staticmethod
    def status_printer(file: TextIO):
        """What writes a state: a line of its own, where a terminal's goes over the last one."""

        def write(state: str) -> None:
            if state:
                file.write(without_colour(state).strip() + "\n")
                file.flush()

        return write

    def __iter__(self) -> Iterator:
        try:
            for one in self.iterable:
                yield one
                self.update()
        finally:
            self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Count, and say a line if the last one is a minute old."""
        if self.disable:
            return None
        self.n += n
        if self._time() - self.last_print_t < EVERY:
            return False
        self.say()
        return True

    def say(self) -> None:
        """A line now."""
        self.last_print_t = self._time()
        self.display(pos=0)

    def refresh(self, nolock: bool = False, lock_args: tuple | None = None) -> None:
        """Nothing: what is said beside the count waits for the next line."""

    def clear(self, nolock: bool = False) -> None:
        """Nothing: lines stay."""

    def moveto(self, n: int) -> None:
        """Nothing: lines follow each other."""

    def close(self) -> None:
        """End; what was said stays."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)
