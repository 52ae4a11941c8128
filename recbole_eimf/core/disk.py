"""A disk that refuses: one line that names the path and the remedy, before long work where that can be known."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from recbole_eimf.core.errors import ConfigError, DiskError

#: what a disk answers to a program that may do nothing about it -> the remedy
_REFUSALS = {
    errno.ENOSPC: "Make room on the disk, or name a folder on another one",
    errno.EDQUOT: "Make room within your quota, or name a folder on another disk",
    errno.EFBIG: "The disk takes no file so large: name a folder on another one",
    errno.EROFS: "Name a folder on a disk that is not read-only",
    errno.EACCES: "Name a folder that you may write to, or have its rights changed",
    errno.EPERM: "Name a folder that you may write to, or have its rights changed",
    errno.ENOTDIR: "A file stands where a folder is needed: move it, or name another folder",
    errno.EEXIST: "A file stands where a folder is needed: move it, or name another folder",
    errno.EISDIR: "A folder stands where a file is needed: move it, or name another folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EIO: "The disk or its connection is failing: name a folder on another one",
}
#: of them, those that go when room is made
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: of a data set, in bytes: file systems take 255, and kinds of files, times and marks of half-written ones are added
LONGEST_NAME = 150
_PROBE = b"\0" * 65536  # a file system with a few bytes left takes an empty file


def refusal(error: OSError, path: str | os.PathLike | None = None) -> DiskError | None:
    """The error to show in place of one of the system's; None for one that is no refusal of a disk.

    Args:
        path: what could not be written; None: what the error names.
    """
    remedy = _REFUSALS.get(error.errno)
    where = path or error.filename
    if remedy is None or where is None:
        return None
    return DiskError(f"{where}: cannot be written ({error.strerror or errno.errorcode[error.errno]}). {remedy}.")


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's part of it, has no room left."""
    return error.errno in _FULL


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Inside, a disk's refusal to write ``path`` is a :class:`~recbole_eimf.core.errors.DiskError` that names it.

    Refusals of files elsewhere (what is read meanwhile) pass through.
    """
    try:
        yield
    except OSError as error:
        found = refusal(error, path) if _concerns(error, Path(path).absolute()) else None
        if found is None:
            raise
        raise found from error


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about a file, one beside it, or a folder above it."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename)).absolute()
    return named.parent == path.parent or named in path.parents


def check_not_read(written: Iterable[str | os.PathLike], read: Mapping[str, str | None], key: str) -> None:
    """Refuse to write over what is read: replies that were paid for may stand nowhere else.

    Args:
        written: files that are about to be written; read: by key, a file or a folder, or None.
        key: how the user names where is written, for the message.

    Raises:
        ConfigError: naming both keys and the file.
    """
    for name, source in read.items():
        for path in map(Path, written):
            place = path.parent if source and Path(source).is_dir() else path
            if source and place.exists() and Path(source).exists() and place.samefile(source):
                raise ConfigError(
                    f"{key}: {path} would be written over {name}={source}, which is read. Name another folder."
                )


def check_writable(folder: str | os.PathLike, key: str, make: bool = True) -> None:
    """Make a folder and write a file into it for a moment: better now than after hours. Refused, it leaves no folder.

    Args:
        key: how the user names the folder, for the message.
        make: False writes into the nearest folder above that is there, and leaves nothing behind.

    Raises:
        DiskError: naming key, folder and remedy.
    """
    place = Path(folder).absolute()
    made = [path for path in (place, *place.parents) if make and not os.path.lexists(path)]
    try:
        if make:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place = next(path for path in (place, *place.parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(_PROBE)
            probe.flush()
            os.fsync(probe.fileno())
    except FileNotFoundError as error:  # of a place where nothing can be made, such as /proc
        raise DiskError(f"{key}={folder}: cannot be made there. Name a folder that you may write to.") from error
    except OSError as error:
        for path in made:  # a full disk takes a folder, and no file
            with contextlib.suppress(OSError):
                path.rmdir()
        found = refusal(error, f"{key}={folder}")
        if found is None:
            raise
        raise found from error
