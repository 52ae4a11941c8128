"""``protocol=global_time``: one time for all users up to which training sees, and another after which is the test.

Under leave-one-out a quarter of Beauty's training interactions are later than the target they help to predict. Here
nothing later than T_val trains. A target is an event after a border with a history before it; users who came after the
border are asked with the history they have by then. ``time_target`` says which of a user's events in a window are asked
for:

``successive``  each of them, from all that came before: a target then joins the history
``first``       the first one
``last``        the last one
``all``         all at once, from what came before the window (a user new in it: from the first event)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from recbole_eimf.config.keys import our_keys
from recbole_eimf.core.dates import LATEST_DAY, UNIX_UNITS, moment_of, seconds_of_days
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data.protocol import Spans, Split

#: values of ``time_target`` -> which later items a user is asked for
TARGETS = {
    "successive": "every later item, from all before it",
    "first": "the first later item",
    "last": "the last later item, from all before it",
    "all": "all later items at once",
}
DAY = 86_400.0


def ticks_per_second(time: np.ndarray) -> float:
    """1 for Unix seconds, 1000 for milliseconds, and so on, told from the size of the times."""
    middle = np.median(time) if len(time) else 0
    return float(next((second for least, _, second in UNIX_UNITS if middle >= least), 1))


def borders(time: np.ndarray, quantiles: Sequence[float], dates: Sequence[str] = ()) -> tuple[float, float]:
    """(T_val, T_test) in the times' unit.

    Args:
        time: float64 [n], of all interactions; quantiles: of them (numpy's linear ones); dates: in their place two ISO
            dates (UTC) or numbers; a date is its first moment, also one such as 20140307 where all times are later.

    Raises:
        ConfigError: not two of them, in ascending order.
    """
    said = _said(quantiles, dates)
    if dates:
        found = [_moment(text, time) for text in dates]
    else:
        found = [float(np.quantile(time, q)) for q in quantiles] if len(quantiles) == 2 else []
    if len(found) != 2 or not found[0] < found[1]:
        raise ConfigError(
            f"{said}: two are needed, the earlier one first: where training ends, and where validation ends."
        )
    return found[0], found[1]


def _said(quantiles: Sequence[float], dates: Sequence[str]) -> str:
    return f"time_dates={list(dates)}" if dates else f"time_quantiles={list(quantiles)}"


def check_parts(
    split: Split,
    time: np.ndarray,
    until: tuple[float, float],
    quantiles: Sequence[float],
    dates: Sequence[str] = (),
    validates: bool = True,
) -> None:
    """Check that something trains, validates and tests.

    Args:
        split: by :func:`global_time`; time, quantiles, dates: as for :func:`borders`; until: what that gave.
        validates: whether anything is validated; a run that never is may have borders without a target between.

    Raises:
        ConfigError: a part is empty; names the key, the borders and the data's first and last time.
    """
    ticks = ticks_per_second(time)
    shown = [_shown(t, ticks) for t in (*until, time.min(), time.max())]
    needed = {"to train on": split.train, "to test on": split.test}
    needed |= {"to validate on": split.valid} if validates else {}
    for what, spans in needed.items():
        if not len(spans):
            raise ConfigError(
                f"{_said(quantiles, dates)}: nothing is left {what}. Training ends {shown[0]}, validation {shown[1]}, "
                f"and the data go from {shown[2]} to {shown[3]} (UTC); a target needs an event of its user before it. "
                f"Choose other borders."
            )


def _shown(time: float, ticks: float) -> str:
    """A time as a date, or as the number it is where it is none."""
    try:
        return datetime.fromtimestamp(time / ticks, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{time:g}"


def shown_borders(until: tuple[float, float], time: np.ndarray) -> list[str]:
    """Where training ends and after which the test begins, as UTC dates (with the time of day where it is not
    midnight).

    Args:
        until: by :func:`borders`; time: float64 [n], of all interactions.

    >>> shown_borders((1394150400.0, 1399980600.0), np.array([1394150400.0]))
    ['2014-03-07', '2014-05-13 11:30:00']
    """
    return [_shown(border, ticks_per_second(time)).removesuffix(" 00:00:00") for border in until]


def days_between(borders: Sequence[str]) -> int | None:
    """Days from the first of two borders to the second, of :func:`shown_borders`; None where they are no dates.

    >>> days_between(("2014-03-07", "2014-03-10")), days_between(("17", "20"))
    (3, None)
    """
    try:
        first, second = (datetime.fromisoformat(border) for border in borders)
    except ValueError:
        return None
    return round((second - first).total_seconds() / DAY)


def told(settings: Mapping[str, Any], refit: bool, borders: Sequence[str] | None = None) -> str:
    """What a reader must know of a split by time: who is asked for, between which times, and with how old a model.

    Args:
        settings: of a run; refit: whether its model was trained again before the test; borders: of
            :func:`shown_borders`, None of runs that did not tell them, of which the keys are said.

    >>> told({"time_target": "first"}, True, ["2014-03-07", "2014-05-13"])
    'time_target=first (the first later item), training up to 2014-03-07, test after 2014-05-13, trained again on all \
before the test (refit=True)'
    >>> told({"time_quantiles": [0.8, 0.9]}, False)
    'time_target=successive (every later item, from all before it), training up to 80 %, test after 90 % of all \
interactions by time, not trained again before the test (refit=False)'
    >>> told({"time_dates": "2014-03-07,2014-05-13"}, False).split(", ")[-3:-1]
    ['training up to 2014-03-07', 'test after 2014-05-13']
    """
    target = settings.get("time_target") or "successive"
    dates = borders or our_keys()["time_dates"].check(settings.get("time_dates") or ())  # two are one word as typed
    if len(dates) == 2:
        first, second = dates
    else:
        shares = settings.get("time_quantiles") or (0.8, 0.9)
        first, second = f"{100 * shares[0]:g} %", f"{100 * shares[1]:g} % of all interactions by time"
    again = "trained again on all before the test" if refit else "not trained again before the test"
    which = f"time_target={target} ({TARGETS[target]})"
    return f"{which}, training up to {first}, test after {second}, {again} (refit={refit})"


def _moment(text: str, time: np.ndarray) -> float:
    try:
        number = float(text)
    except ValueError:
        number = None
    if number is not None:
        # no event is as early as 20140307 seconds (August 1970): it is the day, as `prepare` reads such columns
        late = len(time) and time.min() > LATEST_DAY and number.is_integer()
        day = seconds_of_days(np.array([int(number)])) if late else None
        return number if day is None else float(day[0]) * ticks_per_second(time)
    try:
        return moment_of(text).timestamp() * ticks_per_second(time)
    except ValueError as error:
        raise ConfigError(f"time_dates: {text!r} is neither a date (2014-03-07) nor a number.") from error


def global_time(
    offsets: np.ndarray,
    time: np.ndarray,
    until: tuple[float, float],
    target: str = "successive",
    moment: np.ndarray | None = None,
) -> Split:
    """Training up to ``until[0]``, validation up to ``until[1]``, test after it; and all that is before the test.

    Args:
        offsets: int64 [U + 1], as in :func:`recbole_eimf.data.protocol.leave_one_out`.
        time: float64 [n], ascending within a user.
        until: (T_val, T_test); target: of :data:`TARGETS`.
        moment: int [n], equal where events of a user are asked for together (``ties=together``).

    Raises:
        DataError: times descend within a user: the order is another one than that of the times.
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    wrong = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] < time[:-1]))
    if len(wrong):
        raise DataError(
            f"protocol=global_time: ORDER_FIELD puts {len(wrong)} events before earlier ones. Write the data with "
            f"`python -m recbole_eimf prepare`, which sorts by time, or leave the order column out (load_col)."
        )
    start, end = offsets[:-1], offsets[1:]
    known, seen = (np.bincount(user[time <= t], minlength=len(start)) for t in until)
    windows = ((start + known, start + seen), (start + seen, end))
    asked = (_asked(start, begin, until, target, user, moment) for begin, until in windows)
    return Split(_first(start, known), *asked, _first(start, seen))


def _first(start: np.ndarray, count: np.ndarray) -> Spans:
    """The first ``count[u]`` events of every user who has any, to train on."""
    there = np.flatnonzero(count > 0)
    end = (start + count)[there]
    return Spans(there, start[there], end, end)


def _asked(
    start: np.ndarray, begin: np.ndarray, end: np.ndarray, target: str, user: np.ndarray, moment: np.ndarray | None
) -> Spans:
    """The rows of a window ``begin[u]:end[u]`` of every user's events."""
    row = np.arange(len(start))
    if target == "all":
        own = np.maximum(begin, start + 1)  # new in this window: the first event is what is known
        if moment is not None and len(moment):
            own = np.maximum(begin, np.searchsorted(moment, moment[np.minimum(start, len(moment) - 1)], side="right"))
        kept = own < end
        return Spans(row[kept], start[kept], own[kept], end[kept])
    group = np.arange(len(user)) if moment is None else moment
    first = np.searchsorted(group, group)  # where each event's group begins and ends
    last = np.searchsorted(group, group, side="right")
    position = np.arange(len(user))
    inside = (position >= begin[user]) & (position < end[user]) & (position == first) & (first > start[user])
    position = position[inside]
    if target != "successive":
        ordered = position if target == "first" else position[::-1]
        _, chosen = np.unique(user[ordered], return_index=True)
        position = ordered[chosen]
    return Spans(user[position], start[user[position]], position, last[position])


def recency_weights(time: np.ndarray, half_life: float) -> np.ndarray:
    """float64 [n]: 1 for the latest event, half for one that is ``half_life`` days older; never nothing, as what was
    counted long ago stays above what never was (a float32's least normal number, 126 half-lives)."""
    if not len(time):
        return np.ones(0)
    weight = 0.5 ** ((time.max() - time) / (half_life * DAY * ticks_per_second(time)))
    return np.maximum(weight, np.finfo(np.float32).tiny)
