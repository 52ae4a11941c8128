"""Sets by sorting, against Python's."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_eimf.core.arrays import contained, distinct


@pytest.mark.parametrize(("size", "span"), [(0, 5), (1, 5), (300, 7), (300, 10**12)])
def test_sets_are_those_of_python(size, span):
    rng = np.random.default_rng(size)
    values, among = rng.integers(-span, span, size), rng.integers(-span, span, max(size // 2, 1))
    among = np.append(among, values[:2])
    before = values.copy(), among.copy()
    assert distinct(values).tolist() == sorted({*values.tolist()})
    held = {*among.tolist()}
    assert contained(values, among).tolist() == [value in held for value in values.tolist()]
    assert not contained(values, among[:0]).any()
    assert (values == before[0]).all()
    assert (among == before[1]).all()
