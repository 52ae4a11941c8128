"""So many requests at once, and no more: what is above capacity is told so at once instead of waiting without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class OverCapacityError(Exception):
    """Too many requests are under way; seconds: after which a client may ask again."""

    def __init__(self, what: str = "requests", seconds: int = 1) -> None:
        super().__init__(f"more {what} than this service answers at once; ask again in {seconds} s")
        self.seconds = seconds


class Capacity:
    """Runs functions in one thread, in their order, ``limit`` of them under way or waiting.

    One thread, for an answer is arithmetic that does not get faster by being shared; a further worker is a process.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")

    @property
    def full(self) -> bool:
        return self.taken >= self.limit

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` returns. Raises OverCapacityError at once where no place is free."""
        if self.full:
            raise OverCapacityError
        loop = asyncio.get_running_loop()
        self.taken += 1
        running = self._thread.submit(function, *arguments)
        # when the work ends, not when whoever waits for it goes: the thread is busy until then
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free))
        return await asyncio.wrap_future(running)

    def _free(self) -> None:
        self.taken -= 1

    def close(self) -> None:
        """End after what is under way."""
        self._thread.shutdown(wait=True)
