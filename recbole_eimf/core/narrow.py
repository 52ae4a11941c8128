"""What a narrow number format costs on this processor: one without the instructions takes longer, not shorter."""

from __future__ import annotations

import time
from functools import cache

import torch

#: targets, width and items of the products that are timed: a block of a training step
_ROWS, _WIDTH, _ITEMS, _TIMES = 64, 64, 1024, 5


@cache
def times_as_long(dtype: torch.dtype) -> float:
    """How many times as long as in float32 the products of a softmax over items take in ``dtype`` on this processor.

    Measured once a process, in a tenth of a second at most: the processor time of one thread, which a busy machine
    does not change.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _seconds(dtype) / _seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def _seconds(dtype: torch.dtype) -> float:
    """The shortest time that scores of all items, and the states' gradient from them, took."""
    states, items = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_ITEMS, _WIDTH, dtype=dtype)
    scores, gradient = torch.mm(states, items.T), torch.ones_like(states)
    torch.mm(scores, items, out=gradient)  # the first calls set things up
    took = []
    for _ in range(_TIMES):
        begin = time.thread_time()
        torch.mm(states, items.T, out=scores)
        torch.mm(scores, items, out=gradient)
        took.append(time.thread_time() - begin)
    return min(took)
