"""Which clusters of users gain and lose between two runs, and whether that is more than luck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_eimf.evaluator.significance import holm, paired_test

#: ways to deal users out to groups of the clusters' sizes
_PERMUTATIONS = 2000
#: what a cluster's difference may be called sure by
LEVEL = 0.05


@dataclass(frozen=True)
class Gains:
    """Differences of a metric between two runs by cluster, first minus second.

    users: int64 [C], test users of each cluster; mean: float64 [C], NaN where a cluster has none; p, adjusted: [C], of
    the sign-flip test, raw and Holm-corrected over the clusters; spread: standard deviation of the clusters' means,
    weighed by their users; spread_by_chance: the same where users are dealt out to groups of the same sizes, mean of
    random deals; p_spread: the share of deals that spread as much.
    """

    users: np.ndarray
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
        """What each cluster adds to the difference over all users, [C]."""
        return np.nan_to_num(self.mean) * self.users / max(self.users.sum(), 1)


def cluster_means(values: np.ndarray, cluster: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """(users [C], mean [C]) of a metric per user, [R]; users of cluster -1, or without a value, are left out."""
    kept = (cluster >= 0) & ~np.isnan(values)
    users = np.bincount(cluster[kept], minlength=clusters)
    total = np.bincount(cluster[kept], values[kept], minlength=clusters)
    return users, np.where(users > 0, total / np.maximum(users, 1), np.nan)


def gains(first: np.ndarray, second: np.ndarray, cluster: np.ndarray, clusters: int, seed: int = 0) -> Gains:
    """Compare two runs cluster by cluster.

    Args:
        first, second: a metric per test user, float [R]; cluster: int64 [R], -1 for users of none; clusters: how many;
        seed: of the random deals.
    """
    kept = (cluster >= 0) & ~np.isnan(first - second)
    first, second, cluster = first[kept], second[kept], cluster[kept]
    difference = first - second
    users, mean = cluster_means(difference, cluster, clusters)
    p = np.ones(clusters)
    order = np.argsort(cluster, kind="stable")
    for c, rows in enumerate(np.split(order, np.cumsum(users)[:-1])):
        if difference[rows].any():
            p[c] = paired_test(first[rows], second[rows]).p_value
    asked = users > 0
    adjusted = np.ones(clusters)
    if asked.any():
        adjusted[asked] = holm(p[asked])
    over_all = float(difference.mean()) if len(difference) else 0.0
    spread = _spread(difference, cluster, users)
    rng = np.random.default_rng(seed)
    dealt = np.array([_spread(rng.permutation(difference), cluster, users) for _ in range(_PERMUTATIONS)])
    reached = int((dealt >= spread * (1 - 1e-9)).sum())
    p_spread = (1 + reached) / (1 + _PERMUTATIONS)
    deviation = float(difference.std()) if len(difference) else 0.0
    return Gains(users, mean, p, adjusted, over_all, spread, float(dealt.mean()), p_spread, deviation)


def _spread(difference: np.ndarray, cluster: np.ndarray, users: np.ndarray) -> float:
    if not len(difference):
        return 0.0
    total = np.bincount(cluster, difference, minlength=len(users))
    between = (total**2 / np.maximum(users, 1)).sum() / len(difference) - difference.mean() ** 2
    return float(np.sqrt(max(between, 0.0)))
