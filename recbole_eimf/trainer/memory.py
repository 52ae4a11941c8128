"""Keeping freed memory: a softmax over the catalogue makes tensors of a hundred megabytes at every step."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
