"""Whether items that a user already had are candidates: ``mask_history``, and what ``auto`` makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

#: share of training events with an item the user had before; below it ``auto`` masks, and an unmasked run is warned of
FEW_REPEATS = 0.01


def repeat_share(part) -> float:
    """The share of a training part's events whose item the user had before, of those that have a before."""
    _, sequences = part.sequences()
    repeats = sum(len(items) - len(np.unique(items)) for items in sequences)
    later = sum(max(len(items) - 1, 0) for items in sequences)
    return repeats / max(later, 1)


def masks_history(config) -> bool:
    """Whether a configuration masks; ``auto`` once :func:`decide` has looked at the data, and masks before that."""
    chosen = config["mask_history"]
    return getattr(config, "masks_history", True) if chosen == "auto" else bool(chosen)


def decide(config, train) -> str | None:
    """Settle ``mask_history=auto`` by the repeats of the training part, and say what is worth saying.

    Where nobody buys twice, ranking a user's own history above new items halves NDCG@10 (Beauty); where many do,
    masking makes every repeat a miss.

    Returns:
        A sentence for the log: what ``auto`` did, or that ``mask_history=False`` does not fit the data.
    """
    chosen, share = config["mask_history"], repeat_share(train)
    said = f"{100 * share:.2f} % of the training events are with an item the user had before"
    if chosen == "auto":
        config.masks_history = share < FEW_REPEATS
        done = "is masked" if config.masks_history else "stays among the candidates"
        return f"mask_history=auto: the history {done} ({said})"
    if not chosen and share < FEW_REPEATS:
        return (
            f"mask_history=False: {said}, yet such items are ranked beside the new ones, whose places they take. "
            f"Give --mask_history=True to rank new items alone."
        )
    return None


def target_repeats(slices: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The share of a test's targets that their users had before, by its slices; None where these do not tell.

    >>> target_repeats({"tied": {"targets": 3}, "untied": {"targets": 1}, "repeat": {"targets": 1}})
    0.25
    """
    if not {"tied", "untied", "repeat"} <= slices.keys():
        return None
    tied, untied, repeats = (slices[name]["targets"] for name in ("tied", "untied", "repeat"))
    return repeats / (tied + untied) if tied + untied else None


def repeats_text(share: float, masked: bool) -> str:
    """What a share of repeats among the targets means for figures.

    >>> repeats_text(0.0261, True), repeats_text(0.0261, False)
    ('2.6 % of the targets are repeats, which a masked history misses', '2.6 % of the targets are repeats')
    """
    missed = ", which a masked history misses" if masked and share else ""
    return f"{100 * share:.1f} % of the targets are repeats{missed}"
