"""What a data set's order and repeats allow to be said about models: printed by ``prepare``, kept in its record."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from recbole_eimf.core.dates import UNIX_UNITS, are_days
from recbole_eimf.data import ties
from recbole_eimf.data.history_mask import FEW_REPEATS
from recbole_eimf.data.prepare.interaction_log import Kept, first_of_each

_NUMBER = re.compile(r"[0-9]{1,18}").fullmatch


def remarks(kept: Kept, timed: bool) -> list[str]:
    """Sentences about times, sequence lengths, repeats and ties, with warnings of times that are not of one unit, of
    rows that stand twice, and of ties in the order of the ids.

    Args:
        kept: the interactions; timed: whether they have times.
    """
    _, lengths = np.unique(kept.user, return_counts=True)
    shortest, median, mean, longest = lengths.min(), np.median(lengths), lengths.mean(), lengths.max()
    timed = timed and ties.has_times(kept.user, kept.time, kept.order)
    found, ascend = _ties(kept, kept.time if timed else None)
    said = [
        f"sequence lengths: {shortest} to {longest}, median {median:g}, mean {mean:.1f}",
        f"repeats: {found.repeats:,} of {found.events:,} interactions ({_share(found.repeats, found.events)}) are with "
        f"an item that the user had before{_advice(found)}",
    ]
    ascending = f"item ids {ascend} in {_share(found.tied_ascending, found.tied)} of them"
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
    if timed:
        said = [*_times(kept.time), *said, *_copies(kept)]
    if found.suspicious:
        said.append(
            "WARNING: the order inside one time looks like that of the item ids, and sequential models can read it: "
            + ("compare with --ties=shuffle" if timed else "get the data with its times, or do not trust the order")
        )
    return said


def _ties(kept: Kept, time: np.ndarray | None) -> tuple[ties.TieCounts, str]:
    """Ties, counted by the order of the ids in which more of them ascend, and that order in words: whoever sorted the
    file took ids that are numbers for numbers, or for text."""
    orders: dict[str, Callable[[str], Any]] = {"ascend": str}
    if all(map(_NUMBER, kept.item_tokens)):
        orders["ascend as numbers"] = int
    counts = {}
    for said, key in orders.items():
        places = np.empty(len(kept.item_tokens), dtype=np.int64)
        places[sorted(range(len(places)), key=lambda item: key(kept.item_tokens[item]))] = np.arange(len(places))
        counts[said] = ties.count_ties(kept.user, kept.item, time, places)
    most = max(counts, key=lambda said: counts[said].tied_ascending)
    return counts[most], most


def _unit(time: float) -> tuple[str, int] | None:
    """(name, units a second) of a Unix time; None where it is too small for one."""
    return next(((unit, second) for least, unit, second in UNIX_UNITS if time >= least), None)


def _times(time: np.ndarray) -> list[str]:
    """From when to when, as dates if they are Unix times, and whether some are in another unit than the latest."""
    first, last = time.min().item(), time.max().item()
    days = are_days(time)  # where all times are, they have become Unix seconds before
    if (unit := _unit(last)) is None or last >= 1e20:
        said = [f"times: {first:g} to {last:g}"]  # some order of the source's own
        if 2 * days.sum() > len(time):
            said.append(
                f"WARNING: {days.sum():,} of {len(time):,} times have the form 20231118. Others are no such days (the "
                f"first is {time[~days][0]}), so that all are taken for numbers: mend these, and all are read as days"
            )
        return said
    name, second = unit
    if strangers := int(((time < last / 1000) | days).sum()):
        return [
            f"WARNING: {strangers:,} of {len(time):,} times are no Unix {name} as the latest ({last:.0f}) is; the "
            f"smallest is {first:.0f}. Sorted by such times histories are wrong: bring the column into one unit"
        ]
    begin, end = (np.datetime64(int(each // second), "s").astype("datetime64[D]") for each in (first, last))
    return [f"times: {begin} to {end}, read as Unix {name}"]


def _copies(kept: Kept) -> list[str]:
    same = (kept.user[1:] == kept.user[:-1]) & (kept.time[1:] == kept.time[:-1])
    tied = np.r_[False, same] | np.r_[same, False]
    copies = int((~first_of_each(kept.user[tied], kept.item[tied], kept.time[tied])).sum())
    if not copies:
        return []
    return [
        f"copies: {copies:,} interactions have the user, item and time of another one. If the file holds rows twice, "
        f"such targets are easy to guess: leave the copies out with --duplicates distinct"
    ]


def _advice(found: ties.TieCounts) -> str:
    """What ``mask_history=auto`` will do where hardly anybody has an item twice."""
    few = found.pairs and found.repeats / found.pairs < FEW_REPEATS
    return "; rank new items alone: --mask_history=True" if few else ""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"
