"""The placebo: who has which interests is drawn at random.

Every exemplar is as likely as another, however many users its cluster has: fewer users share one than in the clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def drawn(assignment: Mapping[str, int], answered: Sequence[int], seed: int) -> dict[str, int]:
    """For each user of ``assignment`` one of ``answered`` (indices of exemplars with interests), drawn uniformly."""
    rng = np.random.default_rng(seed)
    return {user: answered[i] for user, i in zip(assignment, rng.integers(len(answered), size=len(assignment)))}
