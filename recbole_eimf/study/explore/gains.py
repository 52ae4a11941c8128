"""Which clusters of users gain and lose between two runs, and whether that is more than luck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_eimf.evaluator.significance import LEVEL, flips_for, holm, paired_test

#: ways to deal users out to groups of the clusters' sizes
_PERMUTATIONS = 2000


@dataclass(frozen=True)
class Gains:
    """Differences of a metric between two runs by cluster, first minus second.

    users, rows: int64 [C], test users of each cluster and how often they were asked; mean: float64 [C], over rows, NaN
    where a cluster has none; p, adjusted: [C], of the sign-flip test, raw and Holm-corrected over the clusters; spread:
    standard deviation of the clusters' means, weighed by their rows; spread_by_chance: the same where users, with all
    their rows, are dealt out to groups of as many, mean of random deals; p_spread: the share of deals that spread as
    much; deviation: that of one user, so that the mean of n users deviates by ``deviation / sqrt(n)``.
    """

    users: np.ndarray
    rows: np.ndarray
    mean: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray
    difference: float
    spread: float
    spread_by_chance: float
    p_spread: float
    deviation: float

    @property
    def share(self) -> np.ndarray:
        """What each cluster adds to the difference over all rows, [C]."""
        return np.nan_to_num(self.mean) * self.rows / max(self.rows.sum(), 1)


def cluster_means(values: np.ndarray, cluster: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows [C], mean [C]) of a metric per row, [R]; rows of cluster -1, or without a value, are left out."""
    kept = (cluster >= 0) & ~np.isnan(values)
    rows = np.bincount(cluster[kept], minlength=clusters)
    total = np.bincount(cluster[kept], values[kept], minlength=clusters)
    return rows, np.where(rows > 0, total / np.maximum(rows, 1), np.nan)


def gains(
    first: np.ndarray,
    second: np.ndarray,
    cluster: np.ndarray,
    clusters: int,
    seed: int = 0,
    user: np.ndarray | None = None,
) -> Gains:
    """Compare two runs cluster by cluster.

    Both tests take users for independent, not their rows, of which a user has several under
    ``time_target=successive``: rows of one user change sign together, and go to the same group.

    Args:
        first, second: a metric per row, float [R]; cluster: int64 [R], -1 for rows of none, one for all rows of a user;
        clusters: how many; seed: of the random deals; user: whose row each is, [R], None: each is another user's.
    """
    kept = (cluster >= 0) & ~np.isnan(first - second)
    whose = (np.arange(len(first)) if user is None else np.asarray(user))[kept]
    first, second, cluster = first[kept], second[kept], cluster[kept]
    difference = first - second
    rows, mean = cluster_means(difference, cluster, clusters)
    _, begin, row_user = np.unique(whose, return_index=True, return_inverse=True)
    group, times = cluster[begin], np.bincount(row_user, minlength=len(begin))  # of each user, [U]
    summed = np.bincount(row_user, difference, minlength=len(begin))
    asked = rows > 0
    p, flips = np.ones(clusters), flips_for(int(asked.sum()), LEVEL)
    order = np.argsort(cluster, kind="stable")
    for c, own in enumerate(np.split(order, np.cumsum(rows)[:-1])):
        if difference[own].any():
            p[c] = paired_test(first[own], second[own], user=whose[own], flips=flips).p_value
    adjusted = np.ones(clusters)
    if asked.any():
        adjusted[asked] = holm(p[asked])
    over_all = float(difference.mean()) if len(difference) else 0.0
    spread = _spread(summed, times, group, clusters)
    rng = np.random.default_rng(seed)
    deals = (rng.permutation(len(group)) for _ in range(_PERMUTATIONS))
    dealt = np.array([_spread(summed[deal], times[deal], group, clusters) for deal in deals])
    reached = int((dealt >= spread * (1 - 1e-9)).sum())
    p_spread = (1 + reached) / (1 + _PERMUTATIONS)
    apart = summed - over_all * times
    deviation = float(np.sqrt(len(apart) * (apart**2).sum())) / max(len(difference), 1)
    users = np.bincount(group, minlength=clusters)
    return Gains(users, rows, mean, p, adjusted, over_all, spread, float(dealt.mean()), p_spread, deviation)


def _spread(summed: np.ndarray, times: np.ndarray, group: np.ndarray, groups: int) -> float:
    """The deviation of the groups' means over rows: of each user the sum and number of its rows, and its group, [U]."""
    if not len(summed):
        return 0.0
    total, count = (np.bincount(group, values, minlength=groups) for values in (summed, times))
    between = (total**2 / np.maximum(count, 1)).sum() / times.sum() - (summed.sum() / times.sum()) ** 2
    return float(np.sqrt(max(between, 0.0)))
