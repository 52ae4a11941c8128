"""Dates as people and programs write them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

import numpy as np

#: Unix seconds of 1973: what is smaller may count something else
LEAST_UNIX = 1e8
#: Unix times of 1973 to 5138 by their size: (from, unit, units a second)
UNIX_UNITS = (
    (1e17, "nanoseconds", 10**9),
    (1e14, "microseconds", 10**6),
    (1e11, "milliseconds", 1000),
    (LEAST_UNIX, "seconds", 1),
)
_EXTENDED = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<clock>\d{2}:\d{2}(:\d{2})?)([.,](?P<fraction>\d+))?\s?"
    r"(?P<zone>[Zz]|(?i:UTC|GMT)|[+-]\d{2}(:?\d{2})?)?"
)
#: the last day that is one without hyphens too
LATEST_DAY = 21001231


def moment_of(text: str) -> datetime:
    """An ISO 8601 date, in UTC where it names no zone; Python 3.10's own reader knows fewer forms than later ones.

    >>> moment_of("2023-11-18T22:15:48.5Z").isoformat(), moment_of("2014-03-07").isoformat()
    ('2023-11-18T22:15:48.500000+00:00', '2014-03-07T00:00:00+00:00')
    >>> moment_of("2023-11-18 22:15:48 UTC").isoformat()  # as databases export it
    '2023-11-18T22:15:48+00:00'

    Raises:
        ValueError: it is none.
    """
    text = text.strip()
    if found := _EXTENDED.fullmatch(text):
        zone = (found["zone"] or "").upper().replace(":", "")
        zone = "+0000" if zone in ("Z", "UTC", "GMT") else zone
        sign, hours, minutes = zone[:1], zone[1:3], zone[3:] or "00"
        fraction = f".{found['fraction'][:6]:0<6}" if found["fraction"] else ""
        text = f"{found['day']}T{found['clock']}{fraction}" + (f"{sign}{hours}:{minutes}" if zone else "")
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def are_days(numbers: np.ndarray) -> np.ndarray:
    """Which of some numbers [n] are days of 1900 to 2100 without hyphens (ISO 8601's basic form), bool [n].

    >>> are_days(np.array([20240229, 20230229, 1694995200]))
    array([ True, False, False])
    """
    found = (numbers >= 19000101) & (numbers <= LATEST_DAY) & (numbers % 1 == 0)
    whole = numbers[found].astype(np.int64)
    month, (months, days) = whole // 100 % 100, _dates(whole)
    # the 30th of February is a day of March
    found[found] = (month >= 1) & (month <= 12) & (days.astype("datetime64[M]") == months)
    return found


def seconds_of_days(numbers: np.ndarray) -> np.ndarray | None:
    """Unix seconds of whole numbers [n] that are all days (:func:`are_days`); None where one is not.

    >>> seconds_of_days(np.array([19700102, 20240229])), seconds_of_days(np.array([20240229, 20230229]))
    (array([     86400, 1709164800]), None)
    """
    if numbers.dtype.kind != "i" or not len(numbers) or not are_days(numbers).all():
        return None
    return _dates(numbers)[1].astype("datetime64[s]").astype(np.int64)


def _dates(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(month, day) of numbers such as 20231118, as dates of numpy's."""
    months = (numbers // 10000 * 12 + numbers // 100 % 100 - 1 - 1970 * 12).astype("datetime64[M]")
    return months, months.astype("datetime64[D]") + (numbers % 100 - 1)
