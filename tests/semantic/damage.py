"""Seeded damage to the files a user side-loads: an assignment (CSV, plain or gzip) and replies (JSON lines).

``python -m tests.semantic.damage [N]`` damages N files and counts how reading them ends.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from recbole_eimf.core.errors import UserError
from recbole_eimf.semantic.sources.batch import fetch_file
from recbole_eimf.semantic.sources.side_loaded import read_assignment

USERS = 40


def assignment() -> bytes:
    lines = [f"A{n:05d}ü,A{n % 7:05d}ü" for n in range(USERS)]
    return "\n".join(["user_id,exemplar_user_id", *lines, ""]).encode()


def replies() -> bytes:
    texts = json.dumps({"1": "Nail art", "2": "Café"}, ensure_ascii=False)
    records = [{"user_id": f"A{n:05d}ü", "response": texts, "prompt_sha256": "ab" * 32} for n in range(USERS)]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


# --- damage to bytes --------------------------------------------------------------------------------------------------


def flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def with_nuls(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + b"\0" * rng.choice([1, 3, 512]) + content[at:]


def other_encoding(rng: random.Random, content: bytes) -> bytes:
    return content.decode().encode(rng.choice(["latin-1", "utf-16", "utf-8-sig", "utf-32"]))


def spliced(rng: random.Random, content: bytes) -> bytes:
    at, length = rng.randrange(len(content)), rng.randrange(200)
    junk = bytes(rng.choices(b'"\\,;\r\n\t{}[]0aA\xff\x80', k=rng.randrange(12)))
    return content[:at] + junk + content[at + length :]


# --- damage to lines --------------------------------------------------------------------------------------------------


def _lines(change):
    def damage(rng: random.Random, content: bytes) -> bytes:
        lines = content.split(b"\n")
        at = rng.randrange(len(lines) - 1)
        lines[at : at + 1] = change(rng, lines, at)
        return b"\n".join(lines)

    damage.__name__ = change.__name__
    return damage


@_lines
def columns_swapped(rng, lines, at):
    return [b",".join(reversed(lines[at].split(b",")))]


@_lines
def column_added_or_lost(rng, lines, at):
    parts = lines[at].split(b",")
    return [b",".join(parts + [b"x"] if rng.random() < 0.5 else parts[:1])]


@_lines
def huge_field(rng, lines, at):
    return [lines[at].replace(b"A", b"A" * rng.choice([9_999, 200_000]), 1)]


@_lines
def user_twice(rng, lines, at):
    return [lines[at], lines[at].replace(b"Nail", b"Hair")[:-1] + rng.choice([b"x", b"", lines[at][-1:]])]


@_lines
def open_quote(rng, lines, at):
    return [lines[at].replace(b"A", rng.choice([b'"A', b"'A", b'""A']), 1)]


@_lines
def line_lost_or_blank(rng, lines, at):
    return rng.choice([[], [b""], [b" "], [b"\r"], [b","]])


@_lines
def wrong_type(rng, lines, at):
    value = rng.choice(
        [b"null", b"1", b"-1e999", b"NaN", b"true", b"[]", b"{}", b'["x"]', b'"\\ud800"', b"1" * 5000, b"[" * 5000]
        + [b"[" * 900 + b"]" * 900, b'"' + b"x" * 300_000 + b'"', b'""', b'"\\u0000"']
    )
    key = rng.choice([b'"user_id": ', b'"response": ', b'"prompt_sha256": '])
    before, found, after = lines[at].partition(key)
    return [before + found + value + after[after.find(b",") if b"," in after else len(after) :]]


@_lines
def not_an_object(rng, lines, at):
    return [rng.choice([b"null", b"3", b"[]", b'"text"', b"{", b"}", b"[" * 9000, b"1" * 9000, b"<html>", b"{}"])]


BYTES = (flipped, truncated, with_nuls, other_encoding, spliced)
CSV = (*BYTES, columns_swapped, column_added_or_lost, huge_field, user_twice, open_quote, line_lost_or_blank)
JSONL = (*BYTES, huge_field, user_twice, line_lost_or_blank, wrong_type, not_an_object)


def damaged_assignments(count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name of the file, kind of damage, its bytes): every third is gzip, damaged before or after packing."""
    rng = random.Random(seed)
    for n in range(count):
        kind = CSV[n % len(CSV)]
        if n % 3:
            yield "assignment.csv", kind.__name__, kind(rng, assignment())
        elif kind in (flipped, truncated, with_nuls, spliced):
            yield "assignment.csv.gz", f"gzip {kind.__name__}", kind(rng, gzip.compress(assignment(), mtime=0))
        elif rng.random() < 0.1:
            yield "assignment.csv.gz", "not gzip", kind(rng, assignment())
        else:
            yield "assignment.csv.gz", kind.__name__, gzip.compress(kind(rng, assignment()), mtime=0)


def damaged_replies(count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name of the file, kind of damage, its bytes)."""
    rng = random.Random(seed)
    for n in range(count):
        kind = JSONL[n % len(JSONL)]
        yield "interests.jsonl", kind.__name__, kind(rng, replies())


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    for files, read in ((damaged_assignments, read_assignment), (damaged_replies, lambda p: fetch_file(None, p))):
        ends, tracebacks = Counter(), Counter()
        with tempfile.TemporaryDirectory() as folder:
            for name, kind, content in files(count, 1):
                path = Path(folder) / name
                path.write_bytes(content)
                try:
                    read(path)
                    ends["read"] += 1
                except UserError as error:
                    ends["error with line" if ", line " in str(error) else "error"] += 1
                except Exception as error:
                    ends["traceback"] += 1
                    tracebacks[f"{kind}: {type(error).__name__}"] += 1
        print(files.__name__, dict(ends), *(f"\n    {n} {what}" for what, n in tracebacks.most_common()))


if __name__ == "__main__":
    main()
