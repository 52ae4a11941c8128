"""Keeping freed memory: a softmax over the catalogue makes tensors of a hundred megabytes at every step."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
#: what is kept may grow to this many times what one epoch needs, and so many bytes
_MORE, _BYTES = 1.25, 256 << 20


@cache
def keep_freed_memory() -> bool:
    """Tell glibc not to hand large freed blocks back to the system, once per process.

    Without it every step's logits are fresh pages that the kernel has to zero: about a third of a CPU epoch
    (benchmarks/README.md). Returns whether it took effect; elsewhere than on Linux with glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back() -> None:
    """Hand freed memory back to the system, where :func:`keep_freed_memory` keeps it: a tenth of a second."""
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def resident() -> int:
    """Bytes of this process in memory; 0 where nobody says."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


class Kept:
    """Bounds what is kept: tensors of ever other sizes fit badly into what others left, so that a training of hundreds
    of epochs would take gigabytes more at its end than at its start."""

    def __init__(self) -> None:
        self._needed: int | None = None

    def after_epoch(self) -> None:
        """Give back what is kept once it is far more than the first epoch since the last time needed."""
        now = resident()
        if self._needed is None:
            self._needed = now
        elif now > _MORE * self._needed + _BYTES:
            give_back()
            self._needed = None
