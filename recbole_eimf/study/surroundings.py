"""What a command finds around it: a folder that it shall have to itself, variables that it gives back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from recbole_eimf.errors import ConfigError


@contextlib.contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Have a folder of results to oneself: two commands would make the same runs in the same places.

    The lock is the operating system's, on ``<folder>/lock``: it ends with the process that holds it, however that ends.

    Raises:
        ConfigError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise ConfigError(
                f"--out={folder}: another command works in this folder (process {lock.read().strip() or 'unknown'}). "
                f"Wait for it, stop it, or use another --out."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextlib.contextmanager
def environment_kept(*names: str) -> Iterator[None]:
    """Give environment variables back as they were."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
