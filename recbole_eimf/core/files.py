"""Artefacts on disk: content-addressed, written atomically, never a pickle.

A file appears under its final name only when it is whole (temporary file, fsync, rename), so a kill at any moment
leaves either the old artefact or the new one. Tensors are safetensors, records are JSON lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import load_file, save

from recbole_eimf.core.errors import DataError


def fingerprint(*parts: Any) -> str:
    """Return a hex digest (16 characters) of JSON-able values; equal values give equal digests on every machine.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it over ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files private to the user; an artefact is shared like any other output
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


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


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """Yield (line number, record) of a JSON-lines file.

    A broken *last* line is what a kill leaves while appending: it is skipped, whatever it held is made again.
    Any other broken line raises DataError naming file and line.
    """
    path = Path(path)
    with open(path, encoding="utf-8") as stream:
        lines = stream.read().split("\n")
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if index == last:
                return
            raise DataError(f"{path}, line {index + 1}: not JSON ({error.msg}). Mend or remove the line.") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {index + 1}: expected a JSON object, got {type(record).__name__}.")
        yield index + 1, record


def append_jsonl(path: str | os.PathLike, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records and fsync: when this returns, the records survive a kill.

    Half a line that an earlier kill left at the end is cut off first.
    """
    path = Path(path)
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
    except ValueError:
        stream.truncate(end - len(half))
