"""The placebo: who has which interests is drawn at random.

``uniform``: every exemplar is as likely as another, however many users its cluster has, so that fewer users share one
than in the clusters. ``permute``: the users of the clusters are permuted, so that as many share each exemplar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# random users that are looked at before all are: there is nearly always one to change places with among them
_TRIES = 32


def drawn(assignment: Mapping[str, int], answered: Sequence[int], seed: int) -> dict[str, int]:
    """For each user of ``assignment`` one of ``answered`` (indices of exemplars with interests), drawn uniformly."""
    rng = np.random.default_rng(seed)
    return {user: answered[i] for user, i in zip(assignment, rng.integers(len(answered), size=len(assignment)))}


def permuted(assignment: Mapping[str, int], seed: int) -> dict[str, int]:
    """The exemplars of ``assignment`` dealt out anew: each to as many users as before, to none that had it.

    Where one exemplar has more than half of the users some must keep it: as few as can be.
    """
    rng = np.random.default_rng(seed)
    own = np.fromiter(assignment.values(), dtype=np.int64, count=len(assignment))
    found = rng.permutation(own)

    def fitting(user: int, others: np.ndarray) -> np.ndarray:
        """Those with whom a user can change places so that neither of the two has its own."""
        return others[(own[others] != own[user]) & (found[others] != own[user])]

    for user in np.flatnonzero(found == own):
        if found[user] != own[user]:  # somebody has changed places with this one
            continue
        others = fitting(user, rng.integers(len(own), size=_TRIES))
        if not len(others):
            others = rng.permutation(fitting(user, np.arange(len(own))))
        if len(others):
            found[[user, others[0]]] = found[[others[0], user]]
    return dict(zip(assignment, found.tolist()))
