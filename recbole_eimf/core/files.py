"""Artefacts on disk: content-addressed, written atomically, never a pickle.

A file appears under its final name only when it is whole (temporary file, fsync, rename), so a kill at any moment
leaves either the old artefact or the new one. Tensors are safetensors, records are JSON lines.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import load_file, save

from recbole_eimf.core.disk import writing
from recbole_eimf.core.errors import ConfigError, DataError


class TwiceError(ValueError):
    """A JSON object has a key twice; Python's own reader takes the last value without a word."""


def fingerprint(*parts: Any) -> str:
    """Return a hex digest (16 characters) of JSON-able values; equal values give equal digests on every machine.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def encodable(text: str) -> str:
    """Replace halves of surrogate pairs (a reply cut inside an emoji): no file could be written with them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, as 64 hex digits; a block at a time, since interactions may be many gigabytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it over ``path``.

    Raises:
        DiskError: the disk refuses (full, read-only, ...); ``path`` is what it was.
    """
    with writing(path), _replacing(Path(path)) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:  # Windows syncs no file that is open for reading alone
            os.fsync(stream.fileno())
        # mkstemp makes files private to the user; an artefact is shared like any other output
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The same with None in place of numbers that JSON has no words for, NaN and the infinities.

    >>> finite({"a": [1.5, float("inf")], "b": "x"})
    {'a': [1.5, None], 'b': 'x'}
    """
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike, remedy: str = "Remove it to have it made again.") -> Any:
    """What a JSON file holds, or None where there is no such file.

    Raises:
        DataError: it is damaged; with ``remedy``.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({_why_not_json(error)}). {remedy}") from error


def json_of(text: str | bytes) -> Any:
    """What somebody wrote as JSON. Raises ValueError: not JSON; TwiceError: a key stands twice in an object.

    >>> json_of('{"a": {"b": 1, "b": 2}}')
    Traceback (most recent call last):
    recbole_eimf.core.files.TwiceError: key 'b' is given twice
    """
    return json.loads(text, object_pairs_hook=_with_each_key_once)


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = _marked(pairs)
    if isinstance(found, _Doubled):
        raise TwiceError(f"key {found.twice[:100]!r} is given twice")
    return found


class _Doubled(dict):
    """An object with the key ``twice`` twice."""

    twice: str


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        found = _Doubled(found)
        found.twice = next(name for name, _ in pairs if name in seen or seen.add(name))
    return found


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write named arrays and string metadata as one safetensors file, atomically."""
    blob = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata=dict(metadata))
    with atomic_path(path) as temporary:
        temporary.write_bytes(blob)


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a safetensors file. Raises DataError naming the file if it is broken."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type for a truncated header
        raise DataError(
            f"{path}: not a readable safetensors file ({error}). Delete it to have it made again."
        ) from error


def read_jsonl(path: str | os.PathLike, half_last_line: bool = True) -> Iterator[tuple[int, dict]]:
    """Yield (line number, record) of a JSON-lines file, gzip where the name ends in ``.gz``.

    A broken *last* line is what a kill leaves while appending: it is skipped, whatever it held is made again, unless
    ``half_last_line`` is False. Any other broken line raises DataError naming file and line, as does a file that
    cannot be read, and a key that a record has twice (what stands within it, an LLM may have written).
    """
    lines = unpacked(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode(), object_pairs_hook=_marked)
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of 5,000 digits; 1,000 brackets
            if half_last_line and index == last:
                return
            cut = " (is the file cut off?)" if index == last else ""
            raise DataError(
                f"{path}, line {index + 1}: {_why_not_json(error)}{cut}. Mend or remove the line."
            ) from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {index + 1}: expected a JSON object, got {type(record).__name__}.")
        if isinstance(record, _Doubled):
            raise DataError(f"{path}, line {index + 1}: key {record.twice!r} is given twice. Keep one.")
        yield index + 1, record


def read_csv(path: str | os.PathLike, header: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return (line number, values) of every line below the header of a CSV file, gzip where the name ends in ``.gz``.

    Args:
        path: the file; UTF-8, with or without a byte order mark.
        header: the names that its first line must hold, in this order.

    Raises:
        DataError: naming the file, and the line where there is one: not readable, damaged gzip, not UTF-8, another
            header, the header once more, broken CSV, a line with another number of values, a value with a control
            character, no line at all.
    """
    try:
        text = unpacked(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: not UTF-8 text (line {line}, byte {error.start}). Save it as UTF-8.") from error
    check_is_csv(path, text[:1])
    wanted, records = list(header), []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, [])
        if names != wanted:
            raise DataError(f"{path}, line 1: expected {','.join(wanted)!r}, got {','.join(names)[:200]!r}.")
        for row in reader:
            if row and is_header_again(row, wanted):
                raise DataError(f"{path}, line {reader.line_num}: the header once more. Remove the line.")
            if row and len(row) != len(wanted):
                raise DataError(f"{path}, line {reader.line_num}: expected {len(wanted)} values, got {len(row)}.")
            for name, value in zip(wanted, row):
                if any(character < " " or character == "\x7f" for character in value):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {name} {value[:80]!r} holds a control character. "
                        f"Mend or remove the line."
                    )
            if row:
                records.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}). Mend the line.") from error
    if not records:
        raise DataError(f"{path}: names no {wanted[0]}. Expected lines of {','.join(wanted)!r}.")
    return records


def is_header_again(row: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a row of a CSV file is its header once more, as where files were put together by ``cat``: read as any
    other it would be a user or an item of that name.

    >>> [is_header_again(row, ["user", "item"]) for row in (["user", "item"], ["\ufeffuser", "item"], ["user", "i1"])]
    [True, True, False]
    """
    if len(row) > 1 and row[-1] != header[-1]:  # nearly every row of millions
        return False
    first, *others = row
    return [first.removeprefix("\ufeff"), *others] == [*header]  # what Excel saves begins with a mark


def first_line(path: str | os.PathLike, encoding: str | None) -> str:
    """The first line of a text file, without its end; ``encoding``: None is UTF-8.

    Raises:
        DataError: bytes that the encoding does not know, or a mark in front of them; ConfigError: there is no such
            encoding.
    """
    try:
        with open(path, encoding=encoding or "utf-8") as stream:
            line = stream.readline().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise undecodable(path, encoding) from error
    except LookupError as error:
        raise ConfigError(f"encoding={encoding}: Python knows no such encoding. Leave it out for utf-8.") from error
    if line.startswith("\ufeff"):
        raise DataError(
            f"{path}, line 1: begins with a byte order mark, which would be read as part of the first column's name. "
            f"Give --encoding=utf-8-sig, or save the file without it."
        )
    return line


def undecodable(path: str | os.PathLike, encoding: str | None) -> DataError:
    """The error to raise for a file that is not in its encoding: it says where, and what to do."""
    encoding, place, offset = encoding or "utf-8", "", 0
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                place = f", line {number}: byte {offset + error.start} of the file"
                break
            offset += len(line)
    return DataError(
        f"{path}{place or ': its text'} is not {encoding}. Convert the file to UTF-8 (iconv -f latin1 -t utf-8), say "
        f"what it is (--encoding=latin-1), or write it anew: `python -m recbole_eimf prepare csv --encoding=latin-1`."
    )


#: what is no text in any encoding, by its first bytes: what it is, and how it becomes text
_NOT_TEXT = {
    b"PAR1": ("a parquet file", "Write it as text: pd.read_parquet(path).to_csv(path, index=False) in pandas"),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "Unpack it, or save the sheet as csv"),
    b"BZh": ("packed with bzip2", "Unpack it, or pack it with gzip"),
    b"\xfd7zXZ": ("packed with xz", "Unpack it, or pack it with gzip"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "Unpack it, or pack it with gzip"),
}
#: how much of a file's beginning :func:`check_is_text` looks at
MARK_BYTES = max(map(len, _NOT_TEXT))


def check_is_text(path: str | os.PathLike, start: bytes) -> None:
    """Raise DataError where ``start``, the first bytes of a file, are of a kind that no encoding reads."""
    for mark, (what, remedy) in _NOT_TEXT.items():
        if start.startswith(mark):
            raise DataError(f"{path}: {what}, not text. {remedy}.")


def check_is_csv(path: str | os.PathLike, line: str) -> None:
    """Raise DataError where ``line``, the first of a file that should be CSV, begins as JSON does."""
    if line.startswith(("{", "[")):
        raise DataError(
            f"{path}, line 1: JSON, not CSV. Write it as CSV: pd.read_json(path, lines=True).to_csv(path, index=False) "
            f"in pandas (lines=False where the file is one list)."
        )


def unpacked(path: str | os.PathLike) -> bytes:
    """Return a text file's bytes, decompressed where its name ends in ``.gz``. Raises DataError naming the file."""
    content = _content(path)
    check_is_text(path, content[:MARK_BYTES])
    if Path(path).suffix != ".gz":
        if content.startswith(b"\x1f\x8b"):
            raise DataError(f"{path}: packed with gzip. Name it {Path(path).name}.gz, or unpack it.")
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: not readable as gzip ({error}). Make it again.") from error


def _content(path: str | os.PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def _why_not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text ({error.reason} at byte {error.start} of the line)"
    return "not JSON (brackets nested too deep)" if isinstance(error, RecursionError) else f"not JSON ({error})"


def append_jsonl(path: str | os.PathLike, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records and fsync: when this returns, the records survive a kill.

    Half a line that an earlier kill left at the end is cut off first.

    Raises:
        DiskError: the disk refuses (full, read-only, ...); lines that were there before stay.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as stream:
            _mend_last_line(stream)
            for record in records:
                stream.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())


def _mend_last_line(stream: BinaryIO) -> None:
    """End the file's last line: with a newline if it is whole JSON, by cutting it off if it is not."""
    end = stream.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 65536)
        start -= step
        stream.seek(start)
        tail = stream.read(step) + tail
    half = tail.rsplit(b"\n", 1)[-1]
    stream.seek(0, os.SEEK_END)
    if not half:
        return
    try:
        json.loads(half)
        stream.write(b"\n")
    except (ValueError, RecursionError):
        stream.truncate(end - len(half))


def free_name(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, ... that nothing has."""
    if not path.exists():
        return path
    return next(other for n in itertools.count(2) if not (other := path.with_name(f"{path.name}-{n}")).exists())
