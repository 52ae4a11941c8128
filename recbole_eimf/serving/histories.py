"""Files of histories, read a piece at a time: CSV or parquet, a row per user; or those of a model folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
from pandas.util import hash_array

from recbole_eimf.core.errors import DataError, suggestion
from recbole_eimf.core.files import is_header_again
from recbole_eimf.core.folders import ITEMS_FILE
from recbole_eimf.data.prepare.interaction_log import PADDING

USER_COLUMNS = ("user", "user_id")
HISTORY_COLUMNS = ("history", "item_id_list")
#: of every look at a CSV file, so that all see the same rows
_PARSED = csv.ParseOptions(newlines_in_values=True)


@dataclass(frozen=True)
class Histories:
    """A file of histories.

    Columns: ``user`` (or ``user_id``), and ``history`` (or ``item_id_list``), oldest item first: a list of tokens
    (parquet), or text with ``separator`` between tokens. Further columns are passed over. ``own``: it is the
    ``users.parquet`` of a model folder, in which items are rows of the ``items.parquet`` beside it. ``block_size``: the
    bytes of CSV that are read at a time, at least two of the longest row. ``last_column``: of CSV.

    Raises:
        DataError: no such file, another kind of file, or missing columns; names file and column.
    """

    path: Path
    user: str
    history: str
    separator: str = ","
    own: bool = False
    block_size: int = 1 << 22
    last_column: str | None = None

    @classmethod
    def open(cls, path: str | Path, separator: str = ",") -> Histories:
        """Look at the file's header."""
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file of histories.")
        if path.suffix not in (".csv", ".parquet"):
            packed = " Unpack it first." if path.suffix in (".gz", ".zip", ".bz2", ".xz", ".zst") else ""
            raise DataError(f"{path}: histories are read from .csv or .parquet files.{packed}")
        block_size = cls.block_size
        with _readable(path):
            if path.suffix == ".parquet":
                schema = parquet.read_schema(path)
            else:
                block_size = _block_size(path, block_size)
                with csv.open_csv(path, csv.ReadOptions(block_size=block_size), parse_options=_PARSED) as stream:
                    schema = stream.schema
        names = schema.names
        user, history = (_column(path, names, wanted) for wanted in (USER_COLUMNS, HISTORY_COLUMNS))
        last = names[-1] if path.suffix == ".csv" and names.count(names[-1]) == 1 else None
        found = cls(path, user, history, separator, block_size=block_size, last_column=last)
        kind = schema.field(history).type
        # a column without rows may be of no kind: what is wrong with the file is that it has none
        if path.suffix == ".parquet" and len(found):
            if not (_is_text(kind) or (_is_list(kind) and _is_token(kind.value_type))):
                raise DataError(
                    f"{path}: column {history!r} is {kind}; a list of item tokens (text or whole numbers), or text, is "
                    f"needed."
                )
            kind = schema.field(user).type
            if not _is_token(kind):
                raise DataError(f"{path}: column {user!r} is {kind}; text or whole numbers are needed.")
        return found._if_own()

    def _if_own(self) -> Histories:
        if self.path.suffix != ".parquet" or not len(self):
            return self
        user, history = next(self._batches(1, self.user, self.history))
        numbers = _is_list(history.type) and pa.types.is_integer(history.type.value_type)
        if not numbers or str(user[0]) != PADDING:
            return self
        if not self.path.with_name(ITEMS_FILE).is_file():
            raise DataError(
                f"{self.path}: belongs to a model folder: its histories hold row numbers of items, not ids, and no "
                f"{ITEMS_FILE} is beside it to tell which. Name it where it was: MODEL/{self.path.name}."
            )
        return replace(self, own=True)

    @cached_property
    def _tokens_of_rows(self) -> list[str]:
        with _readable(self.path.with_name(ITEMS_FILE)):
            table = parquet.read_table(self.path.with_name(ITEMS_FILE), columns=["item"])
        return table["item"].to_pylist()

    def __len__(self) -> int:
        """How many rows there are. Of CSV, whatever reads the rows counts them: lines may be blank, end in ``\\r`` or
        stand inside a quoted text, so no count of lines is one of rows.

        Raises:
            DataError: CSV that cannot be read to its end.
        """
        if self.path.suffix == ".parquet":
            return parquet.read_metadata(self.path).num_rows - self.own  # its first row is padding
        with _readable(self.path):
            return sum(map(len, self._csv(self.user)))

    def repeated(self) -> str | None:
        """What to say of users who stand in more than one row; None where nobody does. Holds 8 bytes a row.

        Raises:
            DataError: a file that cannot be read to its end, a row without a user, or the header once more.
        """
        found, named = [], False
        for users in self._tokens():
            found.append(hash_array(np.array(users, dtype=object)))
            named = named or any(user.endswith(self.user) for user in users)
        if named:  # a user may be called so
            self._check_no_header()
        hashed = np.concatenate(found or [np.zeros(0, np.uint64)])
        order = np.argsort(hashed, kind="stable")
        again = np.flatnonzero(hashed[order][1:] == hashed[order][:-1])
        if not len(again):
            return None
        second = int(order[again + 1].min())
        first = int(np.flatnonzero(hashed == hashed[second])[0])
        users = len(np.unique(hashed[order[again]]))
        stand = "1 user stands" if users == 1 else f"{users:,} users stand"
        return (
            f"{self.path}: {stand} in more than one row ({self._token(second)!r} in rows {first + 1} and "
            f"{second + 1}), and each row is answered by itself. A file of histories has one row for a user, with all "
            f"of their items."
        )

    def _tokens(self) -> Iterator[list[str]]:
        row = 0
        for batch in self._batches(1 << 16, self.user):
            yield self._users(batch[0], row)
            row += len(batch)

    def _check_no_header(self) -> None:
        row = 0
        for batch in self._batches(1 << 16, self.user, self.history):
            for place, told in enumerate(zip(batch[0].to_pylist(), batch[1].to_pylist())):
                if is_header_again(tuple(map(str, told)), (self.user, self.history)):
                    raise DataError(
                        f"{self.path}, row {row + place + 1}: the header once more ({self.user}, {self.history}), "
                        f"which would be answered as a user of that name. Remove the row."
                    )
            row += len(batch)

    def _token(self, row: int) -> str:
        for users in self._tokens():
            if row < len(users):
                return users[row]
            row -= len(users)
        raise IndexError(row)

    def pieces(self, size: int, first: int = 0, last: int | None = None) -> Iterator[tuple[list[str], list[list[str]]]]:
        """Yield (users, histories) of ``size`` rows each, pieces ``first`` to ``last`` (not included).

        Raises:
            DataError: a row without a user, or a history that is no text; names file and row.
        """
        number, users, histories = 0, [], []
        for batch in self._batches(size, self.user, self.history):
            start = 0
            while start < len(batch):
                if last is not None and number >= last:
                    return
                taken = min(size - len(users), len(batch) - start)
                if number >= first:
                    rows = batch.slice(start, taken)
                    users += self._users(rows[0], number * size + len(users))
                    histories += self._histories(rows[1])
                else:
                    users += [""] * taken
                start += taken
                if len(users) == size:
                    if number >= first:
                        yield users, histories
                    number, users, histories = number + 1, [], []
        if users and number >= first and (last is None or number < last):
            yield users, histories

    def _batches(self, size: int, *columns: str) -> Iterator[pa.RecordBatch]:
        with _readable(self.path):
            if self.path.suffix == ".parquet":
                padding = int(self.own)
                with parquet.ParquetFile(self.path) as file:
                    for batch in file.iter_batches(batch_size=size, columns=list(columns)):
                        yield batch.select(list(columns)).slice(padding)
                        padding = 0
                return
            yield from self._csv(*columns)

    def _csv(self, *columns: str) -> Iterator[pa.RecordBatch]:
        last = self.last_column
        kinds = dict.fromkeys(columns, pa.string())
        if last is not None:
            kinds.setdefault(last, pa.binary())  # a further column may be in any encoding
        wanted = csv.ConvertOptions(column_types=kinds, include_columns=list(kinds), strings_can_be_null=False)
        options = csv.ReadOptions(block_size=self.block_size)
        ending = None
        with csv.open_csv(self.path, options, convert_options=wanted, parse_options=_PARSED) as stream:
            for batch in stream:
                if last is not None and len(batch):
                    ending = batch.column(last)[-1].as_py()
                yield batch.select(list(columns))
        if ending is not None:
            self._check_closed(ending.encode() if isinstance(ending, str) else ending)

    def _check_closed(self, ending: bytes) -> None:
        """Raise DataError where the file ends inside a quoted text, ``ending``: for Arrow its end closes the quote, so
        that of a file that was cut off the last user would have half a history, or all lines below in one.
        """
        left = b'"' + ending.replace(b'"', b'""')
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            file.seek(max(size - len(left) - 1, 0))
            if file.read() not in (b"," + left, b"\n" + left, b"\r" + left):
                return
            file.seek(0)
            above, breaks = size - len(left), 0
            while above > 0 and (piece := file.read(min(above, 1 << 22))):
                above, breaks = above - len(piece), breaks + piece.count(b"\n")
        raise DataError(
            f"{self.path}, line {breaks + 1}: a quoted text begins there and does not end: the file is cut off, or a "
            f"quote is missing. Mend that line, or write the file again."
        )

    def _users(self, column: pa.Array, row: int) -> list[str]:
        found = column.to_pylist()
        for place, user in enumerate(found):
            if user is None or user == "":
                raise DataError(
                    f"{self.path}, row {row + place + 1}: no {self.user}. Every row below the header needs one."
                )
        return [str(user) for user in found]

    def _histories(self, column: pa.Array) -> list[list[str]]:
        if self.own:
            tokens = self._tokens_of_rows
            return [[tokens[item] for item in row] for row in column.to_pylist()]
        if _is_list(column.type):
            return [[str(item) for item in row or () if item is not None] for row in column.to_pylist()]
        return [split_history(text, self.separator) for text in column.to_pylist()]


def split_history(text: str | None, separator: str = ",") -> list[str]:
    """The tokens of a history written as text.

    >>> split_history("B001, B002,,")
    ['B001', 'B002']
    """
    return [token for part in (text or "").split(separator) if (token := part.strip())]


def _block_size(path: Path, least: int) -> int:
    """Bytes that Arrow shall read at a time: it refuses a row that two blocks do not hold, such as that of a shop's
    account for guests, who has all that was ever sold without one."""
    longest = since = 0
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 22), b""):
            bytes_ = np.frombuffer(piece, dtype=np.uint8)
            ends = np.flatnonzero((bytes_ == ord("\n")) | (bytes_ == ord("\r")))
            if len(ends):
                longest = max(longest, since + int(ends[0]), int(np.diff(ends).max(initial=0)))
                since = len(piece) - int(ends[-1])
            else:
                since += len(piece)
    return min(max(least, 2 * max(longest, since)), np.iinfo(np.int32).max)


def _column(path: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{path}: column {name!r} is there twice. Keep one.")
        if name in names:
            return name
    raise DataError(
        f"{path}: no column {wanted[0]!r}.{suggestion(wanted[0], names)} It has {', '.join(names)}; a file of "
        f"histories has {' and '.join((USER_COLUMNS[0], HISTORY_COLUMNS[0]))}."
    )


def _is_token(kind: pa.DataType) -> bool:
    """Whether values are ids as they are written; floats (of a column that had gaps) and bytes are not."""
    if pa.types.is_dictionary(kind):
        return _is_token(kind.value_type)
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


class _readable:
    """Inside, what Arrow says of a broken file becomes a DataError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, pa.ArrowException | OSError | UnicodeDecodeError):
            quoted = "CSV parse error: Expected" in str(error) or "CSV parse error: Row" in str(error)
            remedy = (
                'Columns stand between commas, so a history of several items needs quotes around it ("B1,B2"), or '
                "another character between the items, which --separator names."
                if quoted
                else "Mend the file."
            )
            raise DataError(f"{self.path}: cannot be read ({error}). {remedy}") from error
