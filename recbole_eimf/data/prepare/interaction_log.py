"""Interactions in memory as integer-coded columns (20 to 28 bytes each), and the filters on them."""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import asdict, dataclass

import numpy as np

from recbole_eimf.core.dates import moment_of, seconds_of_days
from recbole_eimf.core.errors import DataError
from recbole_eimf.data.prepare.raw_files import Report, shorten

# What pandas, and so RecBole, takes for a missing value when it reads an atomic file.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
    + ["NULL", "NaN", "None", "n/a", "nan", "null"]
)
#: RecBole's name for no item and no user, the token of id 0
PADDING = "[PAD]"
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_INT64 = 1 << 63
#: what may be kept of one user's interactions with one item
DUPLICATES = ("keep", "distinct", "first", "last")


def token_fault(token: object) -> str:
    """Return why an id can not stand in an atomic file, or ``""``. Spaces inside an id are harmless.

    >>> token_fault("user 1"), token_fault("")
    ('', 'is empty')
    >>> token_fault("NA")
    "'NA' is read as a missing value by RecBole"
    """
    if not isinstance(token, str):
        return "is missing" if token is None else f"{shorten(token)} is not text"
    if not token.strip():
        return "is empty"
    if token in MISSING:
        return f"{token!r} is read as a missing value by RecBole"
    if token == PADDING:
        return f"{token!r} is RecBole's name for no item"
    if token[0] == '"':
        return f"{shorten(token)} starts with a double quote, which RecBole's reader takes for quoting"
    return control_fault(token)


def control_fault(token: str) -> str:
    """Why an id can stand in no line of a file, or ``""``.

    >>> control_fault("a\\nb")
    "'a\\\\nb' holds a tab, a line break or another control character"
    """
    if _CONTROL.search(token):
        return f"{shorten(token)} holds a tab, a line break or another control character"
    return ""


def parse_number(value: object) -> int | float:
    """Return a finite number; integers stay exact. Raises ValueError.

    >>> parse_number("1318896000"), parse_number("1.5"), parse_number(4.0)
    (1318896000, 1.5, 4)
    """
    if isinstance(value, str):
        if "_" in value:  # Python would read 1_000
            raise ValueError(value)
        try:
            value = int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(value)
        if not value.is_integer():
            return value
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -_INT64 <= value < _INT64:
        raise ValueError(value)
    return value


def parse_time(value: object) -> int | float:
    """Return a time: a number as it is, in the source's unit, an ISO 8601 date as Unix seconds. Raises ValueError.

    >>> parse_time("978300019"), parse_time("1970-01-02 00:00:01")
    (978300019, 86401)
    """
    try:
        return parse_number(value)
    except ValueError:
        if not isinstance(value, str):
            raise
    return parse_number(moment_of(value).timestamp())


class Numbers:
    """A growing column of numbers: int64 as long as all are whole (nanoseconds stay exact), float64 from then on."""

    def __init__(self) -> None:
        self.values = array("q")

    def append(self, value: int | float) -> None:
        try:
            self.values.append(value)
        except TypeError:
            self.values = array("d", self.values)
            self.values.append(value)

    def pad(self, length: int) -> None:
        """Make the column ``length`` long, with zeros."""
        if len(self.values) < length:
            self.values.frombytes(bytes(8 * (length - len(self.values))))

    def numpy(self) -> np.ndarray:
        return np.frombuffer(self.values, dtype=np.int64 if self.values.typecode == "q" else np.float64)


class InteractionLog:
    """The rows read so far, in file order: codes of user and item, time, rating and the source's own order."""

    def __init__(self, timed: bool = True) -> None:
        self.timed = timed
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {}
        self.user, self.item = array("i"), array("i")
        self.time, self.order, self.rating = Numbers(), Numbers(), array("f")

    def add(self, user: object, item: object, time: object, rating: object, order: object) -> str:
        """Take one row; return what is wrong with it instead, or ``""``. None or "" is an unknown rating."""
        user_code = self.users.get(user) if isinstance(user, str) else None
        item_code = self.items.get(item) if isinstance(item, str) else None
        if user_code is None and (fault := token_fault(user)):
            return f"the user id {fault}"
        if item_code is None and (fault := token_fault(item)):
            return f"the item id {fault}"
        try:
            time = parse_time(time) if self.timed else 0
        except ValueError:
            return (
                f"the time {shorten(time)} is neither a number nor an ISO 8601 date (2023-11-18, 2023-11-18 22:15:48)"
            )
        try:
            stars = math.nan if rating is None or rating == "" else parse_number(rating)
        except ValueError:
            return f"the rating {shorten(rating)} is not a number"
        try:
            order = None if order is None else parse_number(order)
        except ValueError:
            return f"the order {shorten(order)} is not a number"
        if user_code is None:
            user_code = self.users[user] = len(self.users)
        if item_code is None:
            item_code = self.items[item] = len(self.items)
        if order is not None or self.order.values:
            # most sources have no order of their own, and then there is no such column in memory either
            self.order.pad(len(self.user))
            self.order.append(order or 0)
        self.user.append(user_code)
        self.item.append(item_code)
        self.time.append(time)
        self.rating.append(stars)
        return ""

    def read_days(self) -> bool:
        """Whether all times were days written as numbers (20231118), and now are Unix seconds: one such number alone
        could count something else, so that this is known when all rows are there."""
        seconds = seconds_of_days(self.time.numpy()) if self.timed else None
        if seconds is None:
            return False
        self.time.values = array("q", seconds.tobytes())
        return True


@dataclass(frozen=True)
class Filters:
    """Which interactions stay. Applied in this order: rating, duplicates, core, history.

    k_core: smallest number of interactions of every user and every item, repeated until stable; 0 is off.
    min_user, min_item: the same for one side only, in place of ``k_core``.
    duplicates: of one user's interactions with one item "keep" all, those of "distinct" times (a row that stands twice
        in the file once), the "first" or the "last" (by time).
    min_rating: interactions rated lower, or not rated, are left out.
    max_history: only the latest so many of each user stay. The core is not computed again after it.
    """

    k_core: int = 0
    min_user: int | None = None
    min_item: int | None = None
    duplicates: str = "keep"
    min_rating: float | None = None
    max_history: int | None = None

    def __post_init__(self) -> None:
        if self.duplicates not in DUPLICATES:
            raise DataError(f"--duplicates: {self.duplicates!r} is not known; allowed are {', '.join(DUPLICATES)}.")
        for name in ("k_core", "min_user", "min_item"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise DataError(f"--{name.replace('_', '-')}: {value} is below 0; 0 switches it off.")
        if self.max_history is not None and self.max_history < 1:
            raise DataError(f"--max-history: {self.max_history} is below 1; leave it out to keep everything.")

    @property
    def core(self) -> tuple[int, int]:
        """The smallest number of interactions of (a user, an item)."""
        return (
            self.k_core if self.min_user is None else self.min_user,
            self.k_core if self.min_item is None else self.min_item,
        )


@dataclass(frozen=True)
class Kept:
    """What is left, one row per interaction, sorted by user and then by order.

    user, item: codes, [n] int32, indices into ``user_tokens`` and ``item_tokens``. time: [n] in the source's unit.
    rating: [n] float32 or None. order: [n] int32, each user's 1..n.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    rating: np.ndarray | None
    order: np.ndarray
    user_tokens: list[str]
    item_tokens: list[str]


def k_core(user: np.ndarray, item: np.ndarray, min_user: int, min_item: int) -> tuple[np.ndarray, int]:
    """Return (mask [n] of the interactions that stay, rounds that dropped something)."""
    keep = np.ones(len(user), dtype=bool)
    rounds = 0
    while True:
        per_user, per_item = np.bincount(user[keep]), np.bincount(item[keep])
        enough_user = np.zeros(user.max(initial=-1) + 1, dtype=bool)
        enough_item = np.zeros(item.max(initial=-1) + 1, dtype=bool)
        enough_user[: len(per_user)] = per_user >= min_user
        enough_item[: len(per_item)] = per_item >= min_item
        smaller = keep & enough_user[user] & enough_item[item]
        if smaller.sum() == keep.sum():
            return keep, rounds
        keep = smaller
        rounds += 1


def apply_filters(log: InteractionLog, filters: Filters, report: Report) -> Kept:
    """Sort the log by (user, time, order, place in the file) and filter it, counting each step.

    Raises DataError if nothing is left, naming the step that took the last one.
    """
    user, item = np.frombuffer(log.user, dtype=np.int32), np.frombuffer(log.item, dtype=np.int32)
    time, order, rating = log.time.numpy(), log.order.numpy(), np.frombuffer(log.rating, dtype=np.float32)
    rated = ~np.isnan(rating)
    has_rating = bool(rated.any())
    if has_rating and not rated.all():
        report.add("interactions without a rating", int((~rated).sum()))
    # lexsort is stable, so what ties in everything keeps its order in the file
    rows = np.lexsort((order, time, user) if len(order) else (time, user))

    def narrow(mask: np.ndarray, kind: str, remedy: str) -> None:
        nonlocal rows
        report.add(kind, int((~mask).sum()))
        if not mask.any():
            raise DataError(f"No interaction is left: {len(rows):,} before this step ({kind}), 0 after. {remedy}")
        rows = rows[mask]

    if filters.min_rating is not None:
        if not has_rating:
            raise DataError(
                "--min-rating: no interaction has a rating. Name the column with --rating-column, or drop it."
            )
        narrow(
            rating[rows] >= filters.min_rating, f"dropped: rated below {filters.min_rating:g}", "Lower --min-rating."
        )
    if filters.duplicates == "distinct":
        if not log.timed:
            raise DataError("--duplicates distinct: without times nothing tells a copy from a repeat. Leave it out.")
        narrow(first_of_each(user[rows], item[rows], time[rows]), "dropped: copies (same user, item and time)", "")
    elif filters.duplicates != "keep":
        narrow(
            _one_per_pair(user[rows], item[rows], len(log.items), filters.duplicates),
            f"dropped: duplicates ({filters.duplicates} kept)",
            "",
        )
    min_user, min_item = filters.core
    if max(min_user, min_item) > 1:
        mask, rounds = k_core(user[rows], item[rows], min_user, min_item)
        before = [len(np.unique(codes[rows])) for codes in (user, item)]
        narrow(
            mask,
            f"dropped: users below {min_user}, items below {min_item}",
            "Lower --k-core (or --min-user, --min-item), or give the whole data.",
        )
        report.add("  rounds of that", rounds)
        report.add("  users dropped by it", before[0] - len(np.unique(user[rows])))
        report.add("  items dropped by it", before[1] - len(np.unique(item[rows])))
    if filters.max_history is not None:
        from_end = _position(user[rows][::-1])[::-1]
        narrow(from_end <= filters.max_history, f"dropped: older than the latest {filters.max_history}", "")
    position = _position(user[rows])
    return Kept(
        user=user[rows],
        item=item[rows],
        time=time[rows] if log.timed else position,
        rating=rating[rows] if has_rating else None,
        order=position,
        user_tokens=list(log.users),
        item_tokens=list(log.items),
    )


def _position(user: np.ndarray) -> np.ndarray:
    """Return each row's position 1..n within its run of equal users."""
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]).astype(np.int32)
    position = np.arange(1, len(user) + 1, dtype=np.int32)
    position -= np.repeat(starts, np.diff(starts, append=np.int32(len(user))))
    return position


def first_of_each(user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return the mask [n] of the first row of every user, item and time."""
    order = np.lexsort((item, time, user))  # stable: of equal rows the first stays in front
    mask = np.ones(len(user), dtype=bool)
    same = [column[order][1:] == column[order][:-1] for column in (user, item, time)]
    mask[order[1:][np.logical_and.reduce(same)]] = False
    return mask


def _one_per_pair(user: np.ndarray, item: np.ndarray, n_items: int, which: str) -> np.ndarray:
    """Return the mask of the first (or last) row of every user-item pair; rows are in order of time."""
    pair = user.astype(np.int64) * n_items + item
    if which == "last":
        pair = pair[::-1]
    mask = np.zeros(len(pair), dtype=bool)
    mask[np.unique(pair, return_index=True)[1]] = True
    return mask[::-1] if which == "last" else mask


def filter_options(filters: Filters) -> dict[str, object]:
    """Return the filters as they are written into prepare.json."""
    return asdict(filters)
