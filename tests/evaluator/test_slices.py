"""Slices by training frequency."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_eimf.evaluator.slices import frequency_slices, inside


def test_terciles_hold_a_third_of_the_interactions_each():
    rng = np.random.default_rng(0)
    counts = (rng.pareto(1.2, 3000) * 3).astype(np.int64)
    slices = frequency_slices(counts)
    assert list(slices) == ["unseen", "cold", "median", "warm"]
    which = [inside(counts, limits) for limits in slices.values()]
    assert (np.sum(which, axis=0) == 1).all(), "every item is in one slice"
    assert (counts[which[0]] == 0).all()
    mass = np.array([counts[rows].sum() for rows in which[1:]])
    largest_step = max((counts == c).sum() * c for c in np.unique(counts))
    assert np.abs(mass - counts.sum() / 3).max() <= largest_step
    assert counts[which[1]].max() < counts[which[2]].min()
    assert counts[which[2]].max() < counts[which[3]].min()


@pytest.mark.parametrize("counts", [[0, 7, 7, 7], [0, 1], [0, 1, 100], [0, 0], [0, 5, 5, 6]])
def test_terciles_of_few_frequencies_still_divide_the_items(counts):
    counts = np.array(counts)
    which = [inside(counts, limits) for limits in frequency_slices(counts).values()]
    assert (np.sum(which, axis=0) == 1).all()


def test_equal_frequencies_stay_together():
    """All items alike: all in the middle, none called cold or warm."""
    slices = frequency_slices(np.full(9, 4))
    assert [inside(np.array([4]), slices[name]).item() for name in ("cold", "median", "warm")] == [False, True, False]
    assert frequency_slices(np.array([0, 1]))["median"] == (1, 1)


@pytest.mark.parametrize(
    ("bounds", "names"),
    [([1, 5, 20], ["0", "1-5", "6-20", ">20"]), ([1], ["0", ">0"]), ([3, 4], ["0-2", "3-4", ">4"]),
     ([1, 2, 3], ["0", "1-2", "3", ">3"])],
)  # fmt: skip
def test_fixed_ranges_cover_every_frequency_once(bounds, names):
    ranges = {k: v for k, v in frequency_slices(np.arange(50), bounds).items() if k[-1].isdecimal()}
    assert list(ranges) == names
    frequency = np.arange(50)
    for name, limits in ranges.items():
        low, _, high = name.lstrip(">").partition("-")
        expected = [c > int(low) if name[0] == ">" else int(low) <= c <= int(high or low) for c in frequency]
        assert inside(frequency, limits).tolist() == expected
    assert (np.sum([inside(frequency, limits) for limits in ranges.values()], axis=0) == 1).all()
