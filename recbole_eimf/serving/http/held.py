"""The folder that the workers of a service share (:mod:`recbole_eimf.serving.http.board`), and for how long it has one.

It goes when the service ends, unless that is killed: then whole models stay behind, as links that keep from being freed
what was replaced. So a service holds a lock of the operating system's in there, as does each of its workers, which may
live on for a while: locks end with their process, however that ends. The next service of a model of that name removes
the folders whose locks nobody holds. (A process' number tells nothing: another may have it by then.)
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recbole_eimf.core.errors import DiskError
from recbole_eimf.core.locks import alone, if_nobody_has

#: the folder of the locks, and the service's own lock, which is there first
_LOCKS, _SERVICE = "held", "service.lock"


@contextlib.contextmanager
def shared_folder(source: Path) -> Iterator[Path]:
    """A folder for the workers of a service of the model ``source``: beside it, where hard links cost nothing, or where
    temporary files go; removed at the end, with what services that were killed have left."""
    place = source.parent if os.access(source.parent, os.W_OK) else Path(tempfile.gettempdir())
    _remove_abandoned(place, source.name)
    with contextlib.ExitStack() as held:
        folder = _own_folder(held, place, source.name)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def worker_of(folder: Path) -> Iterator[None]:
    """Inside, the folder has this worker too."""
    with alone(folder / _LOCKS / f"{os.getpid()}.lock"):
        yield


def worker_lives(folder: Path, process: int) -> bool:
    """Whether the worker of that number lives: another process may have its number by now, and none has its lock.

    Where locks cannot tell, the number does.
    """
    if process == os.getpid():
        return True
    locks = folder / _LOCKS
    with if_nobody_has(locks / f"{process}.lock") as nobody:
        if nobody:
            return False
    if (locks / _SERVICE).is_file() and not (locks / f"{process}.lock").exists():
        return False  # a worker takes its lock before it does anything, and a service has one
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _own_folder(held: contextlib.ExitStack, place: Path, name: str) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(dir=place, prefix=f".{name}.", suffix=".served"))
        lock = folder / _LOCKS / _SERVICE
        try:
            lock.parent.mkdir()
            held.enter_context(alone(lock))
        except (DiskError, OSError):
            if folder.is_dir():
                # without its lock nobody would dare to remove it, and a service that is started again and again on a
                # full disk leaves one each time
                shutil.rmtree(folder, ignore_errors=True)
                raise
        if folder.is_dir():  # another service may have come between the file and its lock, and removed the folder
            return folder


def _remove_abandoned(place: Path, name: str) -> None:
    for folder in place.glob(f".{glob.escape(name)}.{'?' * 8}.served"):
        if folder.is_symlink() or not (folder / _LOCKS / _SERVICE).is_file():
            continue  # of an earlier version, of which nobody can tell; or about to be made
        with contextlib.ExitStack() as held:
            locks = (folder / _LOCKS).glob("*.lock")
            if all(held.enter_context(if_nobody_has(lock)) for lock in locks):
                shutil.rmtree(folder, ignore_errors=True)
