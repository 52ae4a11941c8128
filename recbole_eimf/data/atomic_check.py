"""What is wrong with an atomic file, in words a user can act on: RecBole's own complaints are tracebacks."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_eimf.core.errors import DataError, suggestion
from recbole_eimf.data.prepare.interaction_log import MISSING

_KINDS = tuple(kind.value for kind in FeatureType)


def check_header(path: str | Path, header: Sequence[str]) -> None:
    """Check the first line of an atomic file.

    Args:
        header: its columns as they stand there, such as ``user_id:token``.

    Raises:
        DataError: the line is empty, or a column says no type or an unknown one.
    """
    if list(header) == [""]:
        raise DataError(f"{path}: the file is empty, or its first line is. Was it copied whole?")
    for column in header:
        name, sign, kind = column.partition(":")
        if kind not in _KINDS:
            what = f"has the type {kind!r}" if sign else "says no type"
            raise DataError(
                f"{path}, line 1: column {name!r} {what}. RecBole's atomic files name each column with one of "
                f"{', '.join(_KINDS)}, for example user_id:token, separated by tabs. "
                f"`python -m recbole_eimf prepare csv` writes such a file."
            )


def check_named(path: str | Path, header: Sequence[str], read: Iterable[str], wanted: dict[str, str]) -> None:
    """Check that the columns of users and items are there and are read.

    Args:
        header: as in :func:`check_header`; read: names of the columns that are read.
        wanted: key -> the column it names.

    Raises:
        DataError: naming key, column, file and the columns there are.
    """
    names = [column.partition(":")[0] for column in header]
    for key, name in wanted.items():
        if name not in names:
            raise DataError(
                f"{path}, line 1: no column {name!r}.{suggestion(name, names)} There are: {', '.join(names)}. Rename "
                f"it, or say which it is: --{key}=COLUMN \"--load_col={{'inter': [COLUMN, ...]}}\"."
            )
        if name not in read:
            raise DataError(f"{path}: column {name!r} ({key}) is not read: add it to load_col (inter).")


def check_rows(path: str | Path, frame: pd.DataFrame, order: str | None) -> None:
    """Check that there are interactions, and that each says when it was.

    Args:
        order: the column that sequences are sorted by; None or a column that was not read: not looked at.

    Raises:
        DataError: naming the file, and the first row that has no place in the order.
    """
    if not len(frame):
        raise DataError(f"{path}: no interaction in it, only a header. Was it copied whole?")
    if order in frame and frame[order].dtype == np.float64:
        missing = np.flatnonzero(np.isnan(frame[order].to_numpy()))
        if len(missing):
            raise DataError(
                f"{path}: column {order!r} is empty or no number in {len(missing)} of {len(frame)} rows, first in row "
                f"{missing[0] + 1} after the header: such rows have no place in a sequence. Mend or remove them."
            )


def not_read(
    path: str | Path, error: ValueError, separator: str, encoding: str | None, numbers: Container[str]
) -> DataError:
    """The error to show for RecBole's about a file's content: with the line of the first number that is none.

    Args:
        separator, encoding: of the file; numbers: names of the columns of numbers that are read.
    """
    found = _first_that_is_none(path, separator, encoding, numbers)
    if found is None:
        return DataError(f"{path}: cannot be read: {error}. Mend the column, or leave it out with load_col.")
    line, column, value = found
    return DataError(
        f"{path}, line {line}: column {column!r} holds {value[:80]!r}, no number. Mend or remove the line"
        + ("; dates become numbers with `python -m recbole_eimf prepare csv`." if re.search(r"\d[-/:]\d", value) else
           ", or leave the column out with load_col if it is no time or order.")
    )  # fmt: skip


def _first_that_is_none(
    path: str | Path, separator: str, encoding: str | None, numbers: Container[str]
) -> tuple[int, str, str] | None:
    """(line, column, value) of the first value in a column of numbers that is none; None where there is no such value,
    or the file is not cut up as plainly as here."""
    with open(path, encoding=encoding or "utf-8", newline="") as stream:
        if len(separator) != 1:
            return None
        rows = csv.reader(stream, delimiter=separator)
        try:
            names = [column.partition(":")[0] for column in next(rows, [])]
            for row in rows:
                for name, value in zip(names, row):
                    if name in numbers and value not in MISSING and not _is_number(value):
                        return rows.line_num, name, value
        except csv.Error:
            return None
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
