"""Locks between processes: the operating system's, so they end with the process that holds them, however that ends."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_eimf.core.disk import check_writable, refusal
from recbole_eimf.core.errors import ConfigError, DiskError

#: what the system answers where a file system has no locks, as a network's may
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


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
    with contextlib.ExitStack() as held:
        if not _taken(held, folder / "lock", wait=False):
            raise ConfigError(
                f"{key}={folder}: another command works in this folder (process {_holder(folder / 'lock')}). "
                f"Wait for it, stop it, or use another {key}."
            )
        _clear_halves(folder, "")
        yield


@contextlib.contextmanager
def folder_until_done(folder: Path, key: str = "--out") -> Iterator[None]:
    """:func:`folder_locked` for a folder that goes once the work in it is done: before another command may begin there.

    An error leaves it as it is.
    """
    with folder_locked(folder, key):
        yield
        shutil.rmtree(folder, ignore_errors=True)  # but for the lock, where a file that is open cannot go
    with contextlib.suppress(OSError):  # the folder is gone, or another command's
        if os.name == "nt":  # elsewhere a name could be taken from a lock that is held
            (folder / "lock").unlink()
        folder.rmdir()


@contextlib.contextmanager
def made_once(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that makes a file: one that comes later waits, and then finds it.

    While it is being made ``<path>.lock`` lies beside it. Where a file system has no locks nobody waits.

    Args:
        say: told, once, whom this process waits for.

    Raises:
        DiskError: the lock cannot be had, for another reason than that.
    """
    if path.is_file():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".lock")
    with contextlib.ExitStack() as held:
        held.enter_context(alone(beside, lambda holder: say(f"process {holder} is making {path}; waiting for it")))
        _clear_halves(path.parent, f".{path.name}")
        try:
            yield
        finally:
            if path.is_file() and os.name != "nt":  # Windows removes no open file
                beside.unlink(missing_ok=True)  # whoever opened the lock before it went finds the file as well


@contextlib.contextmanager
def alone(file: Path, say: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
    """Hold ``file`` as a lock; whoever comes later waits, unless its file system has no locks.

    Args:
        say: told, once, which process this one waits for.

    Raises:
        DiskError: the lock cannot be had, for another reason than that.
    """
    with contextlib.ExitStack() as held:
        if not _taken(held, file, wait=False):
            say(_holder(file))
            _taken(held, file, wait=True)
        yield


@contextlib.contextmanager
def if_nobody_has(file: Path) -> Iterator[bool]:
    """Whether no process holds ``file`` as a lock; if so it is held inside, so that nobody gets it meanwhile. False too
    where that cannot be told: the file is not there, is another user's, or its file system has no locks."""
    lock = FileLock(file)
    try:
        if file.is_file():
            lock.acquire(blocking=False)
    except (Timeout, NotImplementedError, OSError):
        pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _taken(held: contextlib.ExitStack, file: Path, wait: bool) -> bool:
    """Lock a file for as long as ``held`` is open, and note beside it who has it; False where another process does."""
    lock, note = FileLock(file), _note(file)
    try:
        lock.acquire(blocking=wait)
        held.callback(lock.release)
        note.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except Timeout:
        return False
    except NotImplementedError:
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        raise refusal(error, file) or _not_locked(file, error) from error
    held.callback(note.unlink, missing_ok=True)  # before the lock goes: the next holder's note is not ours
    return True


def _not_locked(file: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{file}: cannot be locked ({error.strerror or error}), so other processes could not be kept from what it "
        f"guards. Try again, or name a folder on another disk."
    )


def _clear_halves(folder: Path, start: str) -> None:
    """Remove what a kill left of files and folders that were being written; the holder of a lock knows that nobody is
    at it."""
    for half in folder.glob(f"{glob.escape(start)}.*.tmp"):
        if re.search(r".\.[a-z0-9_]{8}\.tmp$", half.name):  # as atomic_path and new_folder call them
            if half.is_dir() and not half.is_symlink():
                shutil.rmtree(half, ignore_errors=True)
            else:
                half.unlink(missing_ok=True)


def _note(file: Path) -> Path:
    """Where the holder of a lock says who it is; what a killed one left is overwritten by the next."""
    return file.with_name(f"{file.name}.pid")


def _holder(file: Path) -> str:
    try:
        return _note(file).read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"
