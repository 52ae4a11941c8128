"""A folder that another process works in."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from recbole_eimf.core.locks import folder_locked


@contextlib.contextmanager
def held_by_another(folder: Path) -> Iterator[BaseProcess]:
    """Inside, a process holds ``folder``'s lock; it is killed at the end, and has let nothing go by itself."""
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(folder,))
    process.start()
    try:
        while not (folder / "held").exists():
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.join()


def _hold(folder: Path) -> None:
    with folder_locked(folder):
        (folder / "held").touch()
        time.sleep(60)
