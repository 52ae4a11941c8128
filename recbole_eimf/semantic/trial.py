"""Is an endpoint of any use? Its first replies say so, before the others are paid for."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

NO_ANSWER = "no answer"  # a call that brought no reply, so that none was paid for


class Trial:
    """Holds back calls until one reply has held interests; for use within one event loop.

    At most ``limit`` calls are made while all replies are of no use (0: no trial). ``failures`` counts these by kind.
    """

    def __init__(self, limit: int):
        self.limit, self.passed = limit, limit == 0
        self.failures: Counter[str] = Counter()
        self._out, self._closed, self._changed = 0, False, asyncio.Event()

    @property
    def failed(self) -> bool:
        return not self.passed and self.failures.total() >= self.limit

    async def turn(self) -> None:
        """Wait until a call may be made, or nobody cares any more."""
        while not (self.passed or self._closed) and self._out + self.failures.total() >= self.limit:
            self._changed.clear()
            await self._changed.wait()
        self._out += 1

    def over(self, failure: str | None) -> None:
        """Count a call as over; ``failure`` is the kind of its reply, None if that held interests."""
        self._out -= 1
        if failure is None:
            self.passed = True
        elif failure != NO_ANSWER:
            self.failures[failure] += 1
        self._changed.set()

    def close(self) -> None:
        """Let everybody go: the run is being stopped."""
        self._closed = True
        self._changed.set()


def name_failures(failures: Counter[str]) -> str:
    """Name the kinds of failed replies with their numbers.

    >>> name_failures(Counter(refusal=2, malformed=1))
    '2 refusal, 1 malformed'
    """
    return ", ".join(f"{number} {kind}" for kind, number in failures.most_common())


def ask_terminal(question: str) -> bool | None:
    """Ask a question with yes or no; None if nobody is there to answer. The end of input (Ctrl-D) is no."""
    if not sys.stdin or not sys.stdin.isatty():
        return None
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
