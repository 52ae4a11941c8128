"""Slices of the test targets by how often training saw them, and by how much their users had before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: A slice: the smallest and the largest training frequency of its targets; ``None`` is no upper end.
Range = tuple[int, int | None]


def frequency_slices(counts: np.ndarray, bounds: Sequence[int] = ()) -> dict[str, Range]:
    """Name the slices of a training part.

    ``unseen`` is frequency 0. ``cold``, ``median`` and ``warm`` hold a third of the training *interactions* each: items
    are sorted by frequency, and the items of one frequency, which belong together, go where the middle of their
    interactions lies. ``bounds`` adds fixed ranges: ``[1, 5, 20]`` gives ``0``, ``1-5``, ``6-20`` and ``>20``.

    Args:
        counts: training interactions of every item, int [N].
        bounds: increasing; the first is where the first range begins, the others are the ends of ranges.

    Returns:
        Slice name -> range of frequencies. The terciles do not overlap; one may be empty.

    >>> frequency_slices(np.array([0, 0, 1, 1, 1, 1, 2, 2, 4]), [1, 5, 20])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'unseen': (0, 0), 'cold': (1, 1), 'median': (2, 2), 'warm': (3, None),
     '0': (0, 0), '1-5': (1, 5), '6-20': (6, 20), '>20': (21, None)}
    """
    frequency, items = np.unique(counts[counts > 0], return_counts=True)
    mass = frequency * items
    tercile = 3 * (np.cumsum(mass) - mass / 2) // max(mass.sum(), 1)
    first, second = (int(frequency[tercile <= t].max(initial=0)) for t in (0, 1))
    slices: dict[str, Range] = {"unseen": (0, 0), "cold": (1, first), "median": (first + 1, second)}
    slices["warm"] = (second + 1, None)
    return slices | fixed_ranges(bounds)


def fixed_ranges(bounds: Sequence[int]) -> dict[str, Range]:
    """Ranges by their names.

    >>> fixed_ranges([1, 5, 20])
    {'0': (0, 0), '1-5': (1, 5), '6-20': (6, 20), '>20': (21, None)}
    """
    if not bounds:
        return {}
    ends = [bounds[0] - 1, *bounds[1:]]
    begins = [0, bounds[0], *(end + 1 for end in bounds[1:-1])]
    named = {str(a) if a == b else f"{a}-{b}": (a, b) for a, b in zip(begins, ends)}
    return {**named, f">{ends[-1]}": (ends[-1] + 1, None)}


def inside(counts: np.ndarray, limits: Range) -> np.ndarray:
    """Which of ``counts`` lie in a range, bool of their shape."""
    low, high = limits
    return (counts >= low) & (counts <= (np.iinfo(np.int64).max if high is None else high))
