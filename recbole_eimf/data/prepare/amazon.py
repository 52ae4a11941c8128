"""Amazon review data as downloaded, in its three releases."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from recbole_eimf.core.errors import DataError
from recbole_eimf.data.prepare.raw_files import Report, check_encoding, plain_fields, shorten, text_lines
from recbole_eimf.data.prepare.sources import (
    TEXT_FIELDS,
    CsvColumns,
    ItemRow,
    Paths,
    RawSource,
    Row,
    as_paths,
    csv_source,
)

# Names in each release: user, item, time, rating in the reviews; item, brand, categories in the metadata; the order of
# (user, item, rating, time) in its csv of ratings, None where that csv has a header.
_AMAZON = {
    "2014": (("reviewerID", "asin", "unixReviewTime", "overall"), ("asin", "brand", "categories"), (0, 1, 2, 3)),
    "2018": (("reviewerID", "asin", "unixReviewTime", "overall"), ("asin", "brand", "category"), (1, 0, 2, 3)),
    "2023": (("user_id", "parent_asin", "timestamp", "rating"), ("parent_asin", "store", "categories"), None),
}
# 2014's metadata lines begin with their asin: whether to parse the rest is known before parsing it.
_LOOSE_ASIN = re.compile(r"""\{['"]asin['"]: ['"]([^'"]+)['"]""")


def amazon_source(
    release: str,
    reviews: Paths,
    meta: Paths | None = None,
    *,
    text_fields: Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> RawSource:
    """Amazon reviews, ``release`` 2014, 2018 or 2023: JSON lines (2014: also Python literals) or the csv of ratings.

    Times are Unix seconds in 2014 and 2018, milliseconds in 2023.
    """
    if release not in _AMAZON:
        raise DataError(f"amazon: release {release!r} is not known; it is one of {', '.join(_AMAZON)}.")
    names, (item_name, brand, categories), csv_order = _AMAZON[release]
    check_encoding(encoding)
    paths = as_paths(reviews)
    fields = tuple(text_fields or TEXT_FIELDS)
    keys = [{"brand": brand, "categories": categories}.get(name, name) for name in fields]

    def rows(report: Report) -> Iterator[Row]:
        for path in paths:
            if _starts_with_brace(path, encoding):
                for line, record in _records(path, encoding, report):
                    user, item, time, rating = map(record.get, names)
                    yield path, line, user, item, time, rating, None
            elif csv_order:
                for line, row in plain_fields(path, encoding, ",", 4, report):
                    user, item, rating, time = (row[i] for i in csv_order)
                    yield path, line, user, item, time, rating, None
            else:
                yield from csv_source(
                    path, columns=CsvColumns(names[0], names[1], names[2], names[3]), encoding=encoding, fixed=True
                ).rows(report)

    if meta is None:
        return RawSource(f"amazon-{release}", paths, rows, options={"encoding": encoding})
    meta_paths = as_paths(meta)

    def items(report: Report, wanted: Container[str]) -> Iterator[ItemRow]:
        for path in meta_paths:
            for line, record in _records(path, encoding, report, wanted if item_name == "asin" else None):
                yield path, line, record.get(item_name), [_as_text(record.get(key), key) for key in keys]

    options = {"encoding": encoding, "text_fields": fields}
    return RawSource(f"amazon-{release}", (*paths, *meta_paths), rows, fields, items, options=options)


def _starts_with_brace(path: Path, encoding: str) -> bool:
    lines = text_lines(path, encoding)
    try:
        return next(lines, "").lstrip().startswith("{")
    finally:
        lines.close()


def _records(
    path: Path, encoding: str, report: Report, wanted: Container[str] | None = None
) -> Iterator[tuple[int, dict]]:
    """Yield (line number, record) of JSON lines or Python literals; an unwanted item's record has its asin only."""
    for number, line in enumerate(text_lines(path, encoding), 1):
        if not line.strip():
            continue
        if wanted is not None and (found := _LOOSE_ASIN.match(line)) and found[1] not in wanted:
            yield number, {"asin": found[1]}
            continue
        try:
            record = _parse_record(line)
        except ValueError as error:
            report.broken(path, number, f"neither JSON nor a Python literal ({error}): {shorten(line.strip())}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            report.broken(path, number, f"expected an object with named fields: {shorten(line.strip())}")


def _parse_record(line: str) -> object:
    """Parse one line of JSON, or of Python literals as Amazon's 2014 files have it. Raises ValueError."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            # a shop's "\d" in a text is an invalid escape to Python's parser, not to us
            warnings.simplefilter("ignore")
            return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(getattr(error, "msg", None) or type(error).__name__) from error


def _as_text(value: object, key: str) -> str:
    """Return a metadata value as one text: category paths as ``a > b``, several of them with ``|`` between."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_as_text(part, key)}" for name, part in value.items())
    if isinstance(value, list):
        nested = any(isinstance(part, list) for part in value)
        between = " | " if nested else " > " if key.startswith("categor") else " "
        return between.join(filter(None, (_as_text(part, key) for part in value)))
    return str(value)
