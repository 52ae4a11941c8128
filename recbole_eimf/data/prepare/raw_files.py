"""Raw text files, read as a stream: each line with its number, each fault with its place.

Nothing here holds more than a line (or one csv record) of a file in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_eimf.core.bars import bar
from recbole_eimf.core.errors import DataError, suggestion
from recbole_eimf.core.files import MARK_BYTES, check_is_csv, check_is_text, is_header_again

if TYPE_CHECKING:
    import pandas as pd

# How many places of one kind of fault are told; the others are only counted.
PLACES_SHOWN = 3
# The csv module's own limit (128 KiB) is below some shops' product descriptions.
CSV_FIELD_LIMIT = 1 << 24
# How often the progress bar looks at the file position: often enough to look smooth, rarely enough to cost nothing.
_LINES_PER_UPDATE = 8192


@dataclass
class Report:
    """What was read, kept and dropped, and where the faults were.

    ``counts`` maps a readable name to a number, in the order things happened; ``places`` holds the first
    three places (file, line, what) of each kind of fault; ``remarks`` are sentences about what was kept. ``reading``
    says whose broken lines are counted.
    """

    on_broken_line: str = "error"
    reading: str = "interactions"
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_broken_line not in ("error", "skip"):
            raise DataError(f"on_broken_line: {self.on_broken_line!r} is not known; it is 'error' or 'skip'.")

    def add(self, kind: str, number: int = 1) -> None:
        """Count ``number`` more of ``kind``; 0 makes the line appear in the table all the same."""
        self.counts[kind] = self.counts.get(kind, 0) + number

    def note(self, kind: str, place: str) -> None:
        """Count one fault and remember its place if it is among the first."""
        self.add(kind)
        places = self.places.setdefault(kind, [])
        if len(places) < PLACES_SHOWN:
            places.append(place)

    def broken(self, path: Path, line: int, what: str) -> None:
        """Refuse a broken line, or count it where the user asked for that. Raises DataError."""
        place = f"{path}, line {line}: {what}"
        if self.on_broken_line == "error":
            raise DataError(f"{place}. Mend the line, or leave such lines out with --on-broken-line skip.")
        self.note(self.broken_kind, place)

    @property
    def broken_kind(self) -> str:
        """The name under which broken lines are counted now."""
        return f"{self.reading}: broken lines left out"

    def to_frame(self) -> pd.DataFrame:
        """A row per line of the table: what was counted, how often, and the first places of a fault."""
        import pandas as pd

        rows = [(kind, number, self.places.get(kind, [])) for kind, number in self.counts.items()]
        return pd.DataFrame(rows, columns=["what", "count", "places"])

    def table(self) -> str:
        """Return the counts as aligned text, each fault's places below it."""
        width = max(map(len, self.counts), default=0)
        lines = []
        for kind, number in self.counts.items():
            lines.append(f"  {kind:<{width}}  {number:>13,}")
            places = self.places.get(kind, [])
            lines += [f"      {place}" for place in places]
            if number > len(places) > 0:
                lines.append(f"      ... and {number - len(places):,} more")
        lines += [f"  {remark}" for remark in self.remarks]
        return "\n".join(lines)


def check_encoding(encoding: str) -> str:
    """Return the codec to read with. Raises DataError for a name that Python does not know."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise DataError(
            f"--encoding: {encoding!r} is not an encoding that Python knows (utf-8, latin-1, ...)."
        ) from error
    # Excel writes a byte order mark, which would become part of the first column's name
    return "utf-8-sig" if name == "utf-8" else name


def check_file(path: str | os.PathLike) -> Path:
    """Return ``path`` if it is a file with something in it. Raises DataError."""
    path = Path(path)
    if not path.exists():
        parent = path.parent
        near = suggestion(path.name, (p.name for p in parent.iterdir())) if parent.is_dir() else ""
        raise DataError(f"{path}: no such file.{near}")
    if not path.is_file():
        raise DataError(f"{path}: not a file.")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: may not be read. Change its permissions (chmod u+r).")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty. Was the download complete?")
    return path


def is_gzip(path: Path) -> bool:
    """Tell a gzip file by its first two bytes. Raises DataError if only the name says so, and for what is no text."""
    with open(path, "rb") as stream:
        start = stream.read(MARK_BYTES)
    check_is_text(path, start)
    zipped = start.startswith(b"\x1f\x8b")
    if path.suffix == ".gz" and not zipped:
        raise DataError(f"{path}: named .gz but not gzip data. Download it again, or drop .gz if it is plain text.")
    return zipped


def text_lines(path: Path, encoding: str, newline: str = "\n") -> Iterator[str]:
    """Yield a plain or gzipped file's lines, with a progress bar over the bytes as stored.

    Raises DataError, naming file and line, for bytes that are not ``encoding`` and for broken gzip data, and for a
    file without a line.
    """
    path = check_file(path)
    codec = check_encoding(encoding)
    number = 0
    size = path.stat().st_size
    zipped = is_gzip(path)
    try:
        with (
            open(path, "rb") as raw,
            bar(total=size, desc=path.name, unit="B", unit_scale=True, leave=False) as shown,
        ):
            binary = gzip.GzipFile(fileobj=raw) if zipped else raw
            for number, line in enumerate(io.TextIOWrapper(binary, encoding=codec, newline=newline), 1):
                if number % _LINES_PER_UPDATE == 0:
                    shown.update(raw.tell() - shown.n)
                yield line
            shown.update(size - shown.n)
    except UnicodeDecodeError as error:
        line, byte = _undecodable(path, encoding, zipped)
        where = f", line {line}" if line else ""
        byte = byte or f"byte 0x{error.object[error.start]:02x}"
        likely = "utf-16: its first two bytes are that mark" if _is_utf16(path, zipped) else "latin-1, cp1252, ..."
        raise DataError(
            f"{path}{where}: {byte} is not {encoding}. Name the file's encoding with --encoding ({likely})."
        ) from error
    except UnicodeError as error:  # UTF-16 without the mark that says which of the two it is
        raise DataError(
            f"{path}: not {encoding} ({error}). Is it the right --encoding, for all the files that are read?"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}, after line {number}: the gzip data is cut off or damaged ({error}). Download the file again."
        ) from error
    if number == 0:
        raise DataError(f"{path}: the file is empty. Was the download complete?")


def _is_utf16(path: Path, zipped: bool) -> bool:
    with gzip.open(path) if zipped else open(path, "rb") as stream:
        return stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _undecodable(path: Path, encoding: str, zipped: bool) -> tuple[int, str]:
    """Find the first line that does not decode: the decoder itself works on blocks and can not tell."""
    with gzip.open(path) if zipped else open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return number, f"byte 0x{line[error.start]:02x} (column {error.start + 1})"
    return 0, ""


def csv_header(path: Path, encoding: str, delimiter: str) -> list[str]:
    """Return the column names. Raises DataError for an empty file, no names or a name twice."""
    lines = text_lines(path, encoding, newline="")
    try:
        first = next(lines)
        check_is_csv(path, first)
        header = next(csv.reader(chain([first], lines), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise DataError(f"{path}, line 1: not a csv header ({error}). The first line must name the columns.") from error
    finally:
        lines.close()
    if not any(name.strip() for name in header):
        raise DataError(f"{path}, line 1: no column names. The first line must name the columns.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}, line 1: column {twice[0]!r} appears twice. Rename one of them.")
    return header


class _Lines:
    """The lines of a file for a csv reader, which may be given back: ``number`` have been read, ``record`` holds those
    of the present record."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._back = lines, deque[str]()
        self.number, self.record = 0, list[str]()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.number += 1
        self.record.append(line)
        return line

    def give_back_all_but_one(self) -> None:
        """The first line of the record is read, no other."""
        self._back.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1


def csv_rows(path: Path, encoding: str, delimiter: str, header: Sequence[str], report: Report) -> Iterator[tuple]:
    """Yield (line number, list of fields) of each record below the header, as many fields as the header has.

    A quoted field may run over several lines. Where such a record is broken only its first line is: a stray quote
    would take with it whatever comes before the next one, or before the end of the file.
    """
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    lines = _Lines(text_lines(path, encoding, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    width = len(header)
    try:
        next(reader)
        while True:
            lines.record.clear()
            line, fault = lines.number + 1, None  # the place is where the record starts
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row, fault = [], f"not csv ({error})"
            if row and len(row) != width:
                fault = f"{len(row)} fields where the header has {width}: {shorten(delimiter.join(row))}"
            elif row and is_header_again(row, header):
                fault = f"the header once more: {shorten(delimiter.join(row))}"
            if fault is None:
                if row:
                    yield line, row
                continue
            if len(lines.record) > 1:
                fault += f"; a quote that opens in this line runs on to line {lines.number:,}"
            report.broken(path, line, fault)
            lines.give_back_all_but_one()
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
    finally:
        csv.field_size_limit(limit)


def plain_fields(
    path: Path, encoding: str, separator: str, width: int, report: Report
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of lines that know no quoting."""
    for number, line in enumerate(text_lines(path, encoding), 1):
        line = line.rstrip("\r\n")
        row = line.split(separator)
        if len(row) == width:
            yield number, row
        elif line:
            report.broken(path, number, f"{len(row)} fields where {width} belong: {shorten(line)}")


def find_columns(path: Path, header: Sequence[str], wanted: Sequence[tuple[str, str]], delimiter: str) -> list[int]:
    """Return the positions of columns, each wanted as (name, the option that changes it or "").

    Raises:
        DataError: naming all that are missing, each with its option and what may be meant.
    """
    missing = [(name, option) for name, option in wanted if name not in header]
    if not missing:
        return [header.index(name) for name, _ in wanted]
    names, there = (", ".join(map(repr, each)) for each in (dict.fromkeys(name for name, _ in missing), header))
    said = f"no column{'s' * (len(missing) > 1)} {names}; there are {there}."
    if len(header) == 1:
        said += f" The line has one field only: is the delimiter not {delimiter!r} (--delimiter)?"
    for name, option in missing:
        hint = suggestion(name, header)
        if not hint and (same := [each for each in header if each.lower() == name.lower()]):
            hint = f" Did you mean {same[0]!r}?"
        said += f" {name!r}:" if len(missing) > 1 and (hint or option) else ""
        said += hint + (f" Name the column with {option}." if option else "")
    if not any(option for _, option in missing):
        said += " Is it the right file?"
    raise DataError(f"{path}, line 1: {said}")


def shorten(value: object, length: int = 60) -> str:
    """Return ``repr(value)``, cut to fit a message.

    >>> shorten("a" * 100, 8)
    "'aaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "..."
