"""What a data set's order and repeats allow to be said about models: printed by ``prepare``, kept in its record."""

from __future__ import annotations

import numpy as np

from recbole_eimf.data import ties
from recbole_eimf.data.history_mask import FEW_REPEATS
from recbole_eimf.data.prepare.interaction_log import Kept


def remarks(kept: Kept, timed: bool) -> list[str]:
    """Sentences about sequence lengths, repeats and ties, and a warning where the ties' order is that of the ids.

    Args:
        kept: the interactions; timed: whether they have times.
    """
    _, lengths = np.unique(kept.user, return_counts=True)
    shortest, median, mean, longest = lengths.min(), np.median(lengths), lengths.mean(), lengths.max()
    places = np.empty(len(kept.item_tokens), dtype=np.int64)
    places[sorted(range(len(places)), key=kept.item_tokens.__getitem__)] = np.arange(len(places))
    timed = timed and ties.has_times(kept.user, kept.time, kept.order)
    found = ties.count_ties(kept.user, kept.item, kept.time if timed else None, places)
    said = [
        f"sequence lengths: {shortest} to {longest}, median {median:g}, mean {mean:.1f}",
        f"repeats: {found.repeats:,} of {found.events:,} interactions ({_share(found.repeats, found.events)}) are with "
        f"an item that the user had before{_advice(found)}",
    ]
    ascending = f"item ids ascend in {_share(found.tied_ascending, found.tied)} of them"
    if not timed:
        said.append(
            f"ties: there are no times, only an order: all {found.pairs:,} neighbouring pairs may be tied ({ascending})"
        )
    else:
        others = _share(found.other_ascending, found.pairs - found.tied)
        said.append(
            f"ties: {found.tied:,} of {found.pairs:,} neighbouring pairs ({_share(found.tied, found.pairs)}) have one "
            f"time, the last two of {_share(found.last_tied, found.users)} of the users; {ascending}, in {others} of "
            f"the other pairs"
        )
    if found.suspicious:
        said.append(
            "WARNING: the order inside one time looks like that of the item ids, and sequential models can read it: "
            + ("compare with --ties=shuffle" if timed else "get the data with its times, or do not trust the order")
        )
    return said


def _advice(found: ties.TieCounts) -> str:
    """What ``mask_history=auto`` will do where hardly anybody has an item twice."""
    few = found.pairs and found.repeats / found.pairs < FEW_REPEATS
    return "; rank new items alone: --mask_history=True" if few else ""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"
