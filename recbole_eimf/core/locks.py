"""Locks between processes: the operating system's, so they end with the process that holds them, however that ends."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows has none: nothing is locked there
    fcntl = None


@contextlib.contextmanager
def folder_locked(folder: Path, key: str = "--out") -> Iterator[None]:
    """Have a folder of results to oneself, by ``<folder>/lock``: two commands would make the same runs in it.

    Args:
        key: how the user named the folder, for the message.

    Raises:
        ConfigError: another process holds it.
        DiskError: the folder cannot be written.
    """
    check_writable(folder, key)
    with open(folder / "lock", "a+", encoding="utf-8") as lock:
        if not _taken(lock, wait=False):
            raise ConfigError(
                f"{key}={folder}: another command works in this folder (process {_holder(lock)}). "
                f"Wait for it, stop it, or use another {key}."
            )
        _clear_halves(folder, "")
        yield


@contextlib.contextmanager
def made_once(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that makes a file: one that comes later waits, and then finds it.

    While it is being made ``<path>.lock`` lies beside it. Where a file system has no locks nobody waits.

    Args:
        say: told, once, whom this process waits for.
    """
    if path.is_file():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".lock")
    with open(beside, "a+", encoding="utf-8") as lock:
        if not _taken(lock, wait=False):
            say(f"process {_holder(lock)} is making {path}; waiting for it")
            _taken(lock, wait=True)
        _clear_halves(path.parent, f".{path.name}")
        try:
            yield
        finally:
            if path.is_file():  # whoever opened the lock before it went finds the file as well
                beside.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold ``file`` as a lock; whoever comes later waits."""
    with open(file, "a+", encoding="utf-8") as lock:
        _taken(lock, wait=True)
        yield


def _taken(lock: IO[str], wait: bool) -> bool:
    """Lock an open file and write this process into it; False where another one holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a network's file system may have no locks
        return True
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return True


def _clear_halves(folder: Path, start: str) -> None:
    """Remove what a kill left of files that were being written; the holder of a lock knows that nobody is at it."""
    for half in folder.glob(f"{glob.escape(start)}.*.tmp") if fcntl is not None else ():
        if re.search(r".\.[a-z0-9_]{8}\.tmp$", half.name):  # as atomic_path calls them
            half.unlink(missing_ok=True)


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read().strip() or "unknown"
