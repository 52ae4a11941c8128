"""Reading large ``.inter`` files: what RecBole reads, at a fraction of its time and memory.

RecBole lets pandas' Python engine split the lines and keeps the id of every row as text. Here Arrow reads, and ids
become numbers at once: a column of tokens is a pandas ``Categorical``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from recbole_eimf.data.prepare.interaction_log import MISSING

_BYTES_AT_ONCE = 1 << 24


def read_plain(path: str | Path, is_token: Mapping[str, bool], separator: str, encoding: str | None):
    """Read columns of tokens and numbers.

    Args:
        path: the file; is_token: the wanted columns as its first line has them, in its order: True is a token, False a
            number.

    Returns:
        A frame with these columns, ``Categorical`` or float64, equal to what RecBole reads but for the last bit of some
        fractions, which are rounded right here; None where the two might not agree (quotes, separators of several
        characters) or the file is broken: RecBole's own reading says how.
    """
    if len(separator) != 1 or _is_intricate(Path(path)):
        return None
    token, number = pa.dictionary(pa.int32(), pa.string()), pa.float64()
    convert = csv.ConvertOptions(
        include_columns=list(is_token),
        column_types={name: token if asked else number for name, asked in is_token.items()},
        null_values=sorted(MISSING),
        strings_can_be_null=True,
    )
    try:
        table = csv.read_csv(
            path,
            csv.ReadOptions(encoding=encoding or "utf8", block_size=_BYTES_AT_ONCE),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            convert,
            pa.system_memory_pool(),  # Arrow's own allocators keep hundreds of megabytes for later
        )
    except (pa.ArrowException, ValueError, LookupError):
        return None
    columns = {}
    for name in is_token:  # one at a time: what Arrow holds of it goes at once
        columns[name] = _as_pandas(table[name])
        table = table.drop([name])
    return_freed_memory()
    return pd.DataFrame(columns, copy=False)


def return_freed_memory() -> None:
    """Give what this process has freed back to the system: loading is made of large arrays that live for a moment."""
    pa.system_memory_pool().release_unused()


def _as_pandas(column: pa.ChunkedArray) -> pd.Categorical | np.ndarray:
    if not pa.types.is_dictionary(column.type):
        return np.concatenate([np.empty(0), *(chunk.to_numpy(zero_copy_only=False) for chunk in column.chunks)])
    column = column.unify_dictionaries(pa.system_memory_pool())
    codes = [(c.indices.fill_null(-1) if c.null_count else c.indices).to_numpy() for c in column.chunks]
    tokens = column.chunk(0).dictionary.to_numpy(zero_copy_only=False) if codes else np.empty(0, dtype=object)
    return pd.Categorical.from_codes(np.concatenate([np.empty(0, np.int32), *codes]), tokens)


def _is_intricate(path: Path) -> bool:
    """Whether there are quotes, or carriage returns that do not end a line."""
    last = b""
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(_BYTES_AT_ONCE), b""):
            text = last + piece
            if b'"' in piece or text.count(b"\r") - text.endswith(b"\r") != text.count(b"\r\n"):
                return True
            last = b"\r" if piece.endswith(b"\r") else b""
    return bool(last)


def first_seen(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number codes by their first appearance: (numbers [n], codes in that order). -1 is none and stays -1.

    >>> [part.tolist() for part in first_seen(np.array([7, 3, -1, 7]))]
    [[0, 1, -1, 0], [7, 3]]
    """
    if len(codes) and codes.min() < 0:
        numbers, order = pd.factorize(codes[codes >= 0])
        found = np.full(len(codes), -1, dtype=numbers.dtype)
        found[codes >= 0] = numbers
        return found, order
    return pd.factorize(codes)
