"""Several processes behind one socket. One that dies, by whatever, is replaced; the others answer meanwhile.

They are forked from a process that has imported everything and computed nothing: a new one is there in a moment, and
the libraries lie in memory once. (Where forking is not safe, off Linux, they start from nothing.)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from recbole_eimf.core.errors import DataError, UserError
from recbole_eimf.serving.http.settings import DRAIN_SECONDS

#: how processes are made
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")

#: a worker that lives shorter is not replaced at once: after a second, and each time in a row after twice as long
_SECONDS_OF_LIFE, _LONGEST_PAUSE = 5.0, 60.0


def run_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns, or raises, in a process of its own.

    Raises:
        DataError: the process died.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_tell, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        raise DataError(f"loading the model ended with exit code {process.exitcode}: too little memory?") from None
    process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _tell(sender, function, arguments) -> None:
    try:
        outcome = function(*arguments)
    except Exception as error:
        outcome = error
    sender.send(outcome)


def supervise(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Keep ``count`` processes of ``work(*arguments)`` alive until SIGTERM, Ctrl-C, or the end of the terminal, which
    they get to end by."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    on_hangup(lambda *_: stop.set())

    workers = [_Worker(work, arguments) for _ in range(count)]
    while not stop.is_set():
        running = [worker.process.sentinel for worker in workers if worker.due is None]
        wait(running, timeout=0.5) if running else stop.wait(0.5)
        for worker in workers:
            if not stop.is_set():
                worker.look_after()
    processes = [worker.process for worker in workers]
    for process in processes:
        process.terminate()
    until = time.monotonic() + DRAIN_SECONDS + 10
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def on_hangup(handler: Callable[..., Any]) -> None:
    """Have SIGHUP, which comes when a terminal is closed, end in an orderly way what it would just kill; under
    ``nohup`` it stays ignored. (Windows has none.)"""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


class _Worker:
    """A process, and those that take its place."""

    def __init__(self, work: Callable[..., None], arguments: tuple) -> None:
        self.work, self.arguments = work, arguments
        self.pause = 0.0
        self._start()

    def _start(self) -> None:
        self.process = CONTEXT.Process(target=_worker, args=(self.work, self.arguments))
        self.process.start()
        self.since = time.monotonic()
        self.due: float | None = None  # when another process takes the place of one that has ended

    def look_after(self) -> None:
        """Replace it if it has ended: at once, unless it was short-lived. One that cannot load, because the model was
        overwritten or memory is short, must not keep the machine from whatever would help."""
        now = time.monotonic()
        if self.due is None:
            if self.process.is_alive():
                return
            self.process.join()
            lived = now - self.since >= _SECONDS_OF_LIFE
            self.pause = 0.0 if lived else min(max(1.0, 2 * self.pause), _LONGEST_PAUSE)
            self.due = now + self.pause
            when = f" in {self.pause:.0f} s" if self.pause else ""
            print(f"worker {self.process.pid} ended with exit code {self.process.exitcode}; another takes its "
                  f"place{when}", file=sys.stderr, flush=True)  # fmt: skip
        if now >= self.due:
            self._start()


def _worker(work, arguments) -> None:
    # of a terminal, which all processes get: the first one passes it on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    on_hangup(signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        work(*arguments)
    except (UserError, OSError, MemoryError) as error:  # of what it was given, or of the machine
        print(f"worker {os.getpid()}: {error or type(error).__name__}", file=sys.stderr, flush=True)
        sys.exit(1)


def _end_with_the_parent() -> None:
    multiprocessing.parent_process().join()
    with contextlib.suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGTERM)
