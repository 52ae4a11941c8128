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

from recbole_eimf.core.errors import DataError
from recbole_eimf.serving.http.settings import DRAIN_SECONDS

#: how processes are made
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")

#: a worker that lives shorter is not replaced at once
_SECONDS_OF_LIFE = 5.0


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
    """Keep ``count`` processes of ``work(*arguments)`` alive until SIGTERM or Ctrl-C, which they get to end by."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def started():
        process = CONTEXT.Process(target=_worker, args=(work, arguments))
        process.start()
        return process, time.monotonic()

    workers = [started() for _ in range(count)]
    while not stop.is_set():
        wait([process.sentinel for process, _ in workers], timeout=0.5)
        for place, (process, since) in enumerate(workers):
            if process.is_alive() or stop.is_set():
                continue
            process.join()
            print(f"worker {process.pid} ended with exit code {process.exitcode}; another takes its place",
                  file=sys.stderr, flush=True)  # fmt: skip
            if time.monotonic() - since < _SECONDS_OF_LIFE:
                stop.wait(1)
            workers[place] = started()
    for process, _ in workers:
        process.terminate()
    until = time.monotonic() + DRAIN_SECONDS + 10
    for process, _ in workers:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _worker(work, arguments) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which all processes get: the first one passes it on
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    work(*arguments)


def _end_with_the_parent() -> None:
    multiprocessing.parent_process().join()
    with contextlib.suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGTERM)
