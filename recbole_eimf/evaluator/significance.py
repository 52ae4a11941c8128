"""Is one model better than another? Paired over the same test users, corrected for many questions at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from recbole_eimf.core.errors import DataError

_FLIPS = 10_000
_FLIPS_AT_ONCE = 250
_FINER = 20  # flips resolve this part of what the smallest p-value of many tests must reach
#: below which a corrected p-value is called sure
LEVEL = 0.05


@dataclass(frozen=True)
class PairedTest:
    """``difference``: mean of first minus second; ``p_value``: two-sided, not corrected; ``confidence_interval``: 95 %,
    of the difference; ``users``: how many independent ones it rests on."""

    difference: float
    p_value: float
    confidence_interval: tuple[float, float]
    users: int


def flips_for(tests: int, level: float = LEVEL) -> int:
    """How many flips tell a p-value below ``level`` after :func:`holm` over so many tests.

    10,000 where a p-value of two in 10,001 is enough. With more tests, at least ``20 tests / level``: a power of two
    times 10,000, so that one test more seldom asks for other flips.

    >>> flips_for(250), flips_for(251), flips_for(800)
    (10000, 160000, 320000)
    """
    flips = _FLIPS
    if 2 * tests > level * (1 + _FLIPS):
        while flips < _FINER * tests / level:
            flips *= 2
    return flips


def paired_test(
    first: np.ndarray, second: np.ndarray, seed: int = 0, user: np.ndarray | None = None, flips: int = _FLIPS
) -> PairedTest:
    """Compare two models on the same users with a sign-flip permutation test of the mean difference.

    Were the models equally good, a user's difference would as likely have the other sign. The p-value is the share of
    10,000 random assignments of signs (or of all, where there are no more) whose mean is as far from zero as the
    observed one, the observed one included; so it is never below 1e-4, with which no test of more than 500 is
    significant after :func:`holm`. Where none of the 10,000 is as far from zero and ``flips`` are more, all of these
    are made; but where Hoeffding's bound on the share of all assignments is below what they can tell, that bound is the
    p-value. No distribution is assumed, which suits per-user metrics: many are zero. The interval is Student's, from
    the deviation over users. Both say how far the result carries to other *users*; training seeds are averaged, their
    deviation is a table's own column.

    Under ``time_target=successive`` a user has a row for every target, and what one model does better for a user it
    does in many of them. Rows of one user therefore change sign together, and the interval's deviation is that of the
    users' sums (the cluster-robust one, with G / (G - 1) for G users); the difference stays the mean over rows, which
    is what tables print.

    Args:
        first, second: a metric per row (:meth:`recbole_eimf.evaluator.ranks.Ranks.per_user`), float [R], or [seeds, R]
            for several runs, which need not be as many on both sides. Seeds are averaged; rows with NaN (no target in
            the slice) are dropped.
        seed: of the random signs.
        user: whose row each is, [R]; None: each is another user's.
        flips: of :func:`flips_for` where there are many tests.

    Raises:
        DataError: different users (numbers of them), or nobody with a value on both sides.
    """
    a, b = (np.atleast_2d(np.asarray(values, dtype=np.float64)).mean(axis=0) for values in (first, second))
    if a.shape != b.shape or (user is not None and len(user) != len(a)):
        sizes = f"{len(a)} users on one side, {len(b)} on the other"
        told = f", {len(user)} users named" if user is not None and len(user) != len(a) else ""
        raise DataError(f"paired test: {sizes}{told}. Compare runs on one split.")
    there = ~np.isnan(a - b)
    difference = (a - b)[there]
    if len(difference) == 0:
        raise DataError("paired test: no user has a value on both sides. Take a larger slice, or none.")
    mean = float(difference.mean())
    own = np.arange(len(difference)) if user is None else np.unique(user[there], return_inverse=True)[1]
    users = int(own.max()) + 1
    apart = np.bincount(own, weights=difference - mean)  # [users]: how far each user's rows sum from what all have
    spread = float((apart**2).sum() * users / (users - 1)) ** 0.5 / len(difference) if users > 1 else np.inf
    margin = float(stats.t.ppf(0.975, users - 1)) * spread if users > 1 else np.inf
    summed = np.bincount(own, weights=difference)
    return PairedTest(mean, _sign_flip(summed[summed != 0], seed, flips), (mean - margin, mean + margin), users)


def _sign_flip(difference: np.ndarray, seed: int, flips: int) -> float:
    """p-value of the sum of ``difference``, which holds no zeros: their sign changes nothing."""
    number = len(difference)
    observed = abs(difference.sum())
    reached = observed - 1e-9 * np.abs(difference).sum()  # sums that are equal but for rounding count as reached
    if 2**number <= _FLIPS:
        bits = np.arange(2**number)[:, None] >> np.arange(number) & 1
        return float((np.abs((1 - 2 * bits) @ difference) >= reached).mean())
    # Hoeffding (1963), theorem 2: of all assignments no larger share reaches the sum
    bound = max(2 * np.exp(-(reached**2) / (2 * np.square(difference).sum())), np.finfo(float).tiny)
    rng = np.random.default_rng(seed)
    count = 0
    for made in range(0, flips, _FLIPS_AT_ONCE):
        if made == _FLIPS and (count or bound < 1 / (1 + flips)):
            return (1 + count) / (1 + _FLIPS) if count else float(bound)
        signs = rng.integers(2, size=(_FLIPS_AT_ONCE, number), dtype=np.int8) * np.int8(2) - np.int8(1)
        count += int((np.abs(signs @ difference) >= reached).sum())
    return (1 + count) / (1 + flips)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's correction: all adjusted p-values below 0.05 may be believed together.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)).clip(max=1.0)
    return adjusted
