"""The raw data sources: what each one's files look like, as streams of interactions and of item texts.

A source yields interactions as ``(path, line, user, item, time, rating, order)`` and items as
``(path, line, item, texts)``, texts in the order of its ``fields``. Values are as raw as they come: the reader of
the stream checks them. ``order`` only breaks ties in time.
"""

from __future__ import annotations

import calendar
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from recbole_eimf.core.errors import DataError
from recbole_eimf.data.prepare.raw_files import (
    Report,
    check_encoding,
    check_file,
    csv_header,
    csv_rows,
    find_columns,
    plain_fields,
    shorten,
    text_lines,
)

PathLike = str | os.PathLike
Paths = PathLike | Sequence[PathLike]
Row = tuple[Path, int, object, object, object, object, object]
ItemRow = tuple[Path, int, object, Sequence[str]]

#: ids are never changed: who typed "u1, b1" has an item called " b1"
_SPACED = "ids with white space around them, which is kept as part of the id"
TEXT_FIELDS = ("title", "brand", "categories", "description")


@dataclass(frozen=True)
class RawSource:
    """One raw data set: its files and how to stream them.

    fields: the text columns of the items, () if there is nothing but ids. items: None if there is no item file;
    its second argument holds the items that are wanted, so that a source may skip the work for the others.
    timed: False if the place in the file is the only order there is.
    """

    kind: str
    files: tuple[Path, ...]
    rows: Callable[[Report], Iterator[Row]]
    fields: tuple[str, ...] = ()
    items: Callable[[Report, Container[str]], Iterator[ItemRow]] | None = None
    timed: bool = True
    options: dict[str, object] = field(default_factory=dict)


def as_paths(paths: Paths) -> tuple[Path, ...]:
    """Return one path or several as checked paths. Raises DataError for a file that is missing or empty."""
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    return tuple(check_file(path) for path in paths)


# ---------------------------------------------------------------------------------------------------------------- csv


@dataclass(frozen=True)
class CsvColumns:
    """Column names of plain CSV files. None: the usual name is used if the file has it (rating, order, title).

    text: further text columns of the items, each ``column`` or ``field=column`` (the atomic file's name first).
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    rating: str | None = None
    order: str | None = None
    title: str | None = None
    text: Sequence[str] | None = None
    items_item: str | None = None


def csv_source(
    interactions: Paths,
    items: PathLike | None = None,
    *,
    columns: CsvColumns | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    no_time: bool = False,
    fixed: bool = False,
) -> RawSource:
    """Plain CSV files (or .gz of them) with a header. Every column is looked up before anything long is read.

    ``fixed``: the columns are a known data set's, no option changes them.
    """
    columns = columns or CsvColumns()
    check_encoding(encoding)
    paths = as_paths(interactions)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise DataError(f"--delimiter: {delimiter!r} is not one character (write 'tab' for a tabulator).")
    picks = [
        _interaction_columns(path, columns, encoding, _delimiter(path, delimiter), no_time, fixed) for path in paths
    ]

    def rows(report: Report) -> Iterator[Row]:
        for path, (header, user, item, time, rating, order) in zip(paths, picks):
            for line, row in csv_rows(path, encoding, _delimiter(path, delimiter), header, report):
                for token in (row[user], row[item]):
                    if token != token.strip():
                        report.note(_SPACED, f"{path}, line {line}: {token!r}")
                yield (
                    path,
                    line,
                    row[user],
                    row[item],
                    None if time is None else row[time],
                    None if rating is None else row[rating],
                    None if order is None else row[order],
                )

    options = {"encoding": encoding, "delimiter": delimiter, "no_time": no_time, "columns": vars(columns)}
    if items is None:
        return RawSource("csv", paths, rows, timed=not no_time, options=options)
    (items_path,) = as_paths(items)
    split = _delimiter(items_path, delimiter)
    header = csv_header(items_path, encoding, split)
    texts = _text_columns(header, columns)
    wanted = [(columns.items_item or columns.item, "--items-item-column"), *texts.values()]
    key, *places = find_columns(items_path, header, wanted, split)
    fields = dict(zip(texts, places))

    def item_rows(report: Report, wanted: Container[str]) -> Iterator[ItemRow]:
        if "title" not in fields:
            there = ", ".join(name for place, name in enumerate(header) if place != key) or "none besides the ids"
            kind = "items' file without a title column" + ("" if fields else ": ids only")
            report.note(kind, f"{items_path}: columns that are there: {there}. Name the title's with --title-column")
        for line, row in csv_rows(items_path, encoding, split, header, report):
            yield items_path, line, row[key], [row[column] for column in fields.values()]

    return RawSource("csv", (*paths, items_path), rows, tuple(fields), item_rows, not no_time, options)


def _delimiter(path: Path, chosen: str | None) -> str:
    return chosen or ("\t" if path.name.removesuffix(".gz").endswith(".tsv") else ",")


def _interaction_columns(
    path: Path, columns: CsvColumns, encoding: str, delimiter: str, no_time: bool, fixed: bool
) -> tuple:
    """Return (header, positions of user, item, time, rating, order), None for what the file does not have."""
    header = csv_header(path, encoding, delimiter)

    def maybe(name: str | None, usual: str) -> str | None:
        return name or (usual if usual in header else None)

    times = "--time-column (or give --no-time: the order of the file decides)"
    asked = (
        (columns.user, "--user-column"),
        (columns.item, "--item-column"),
        (None if no_time else columns.time, times),
        (maybe(columns.rating, "rating"), "--rating-column"),
        (maybe(columns.order, "order"), "--order-column"),
    )
    wanted = [(name, "" if fixed else option) for name, option in asked if name is not None]
    found = iter(find_columns(path, header, wanted, delimiter))  # all at once: so are those that are missing named
    return (header, *(None if name is None else next(found) for name, _ in asked))


def _text_columns(header: Sequence[str], columns: CsvColumns) -> dict[str, tuple[str, str]]:
    """Return {field name in the atomic file: (column of the csv, the option that names it)}."""
    fields = {}
    if columns.title or "title" in header:
        fields["title"] = columns.title or "title", "--title-column"
    names = columns.text if columns.text is not None else [name for name in TEXT_FIELDS[1:] if name in header]
    for name in names:
        target, _, column = name.rpartition("=")
        target = re.sub(r"\W+", "_", target or column)
        if target == "title" and "title" in fields and column == (columns.title or "title"):
            continue
        if target in fields or target == "item_id":
            raise DataError(
                f"--text-columns: two columns would be written as {target!r}. Write {name!r} as field=column."
            )
        fields[target] = column, "--text-columns"
    return fields


# ---------------------------------------------------------------------------------------------------------- movielens

# The flags of u.item's last columns, in its u.genre's order.
_GENRES_100K = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"]
_GENRES_100K += ["Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War"]
_GENRES_100K += ["Western"]


def movielens_source(ratings: PathLike, movies: PathLike | None = None, *, encoding: str | None = None) -> RawSource:
    """MovieLens: ratings.dat and movies.dat (1M, 10M), u.data and u.item (100K), ratings.csv and movies.csv (20M on).

    ``encoding`` None: UTF-8 where the films' file is UTF-8, else latin-1, which 100K and 1M are in. Times are Unix
    seconds.
    """
    (path,) = as_paths(ratings)
    if encoding:
        check_encoding(encoding)
    first = _first_line(path, encoding or "latin-1")
    if "::" in first or "\t" in first:
        between = "::" if "::" in first else "\t"

        def rows(report: Report) -> Iterator[Row]:
            for line, (user, item, rating, time) in plain_fields(path, encoding or "latin-1", between, 4, report):
                yield path, line, user, item, time, rating, None

    else:
        columns = CsvColumns("userId", "movieId", "timestamp", "rating")
        rows = csv_source(path, columns=columns, encoding=encoding or "utf-8", fixed=True).rows
    if movies is None:
        return RawSource("movielens", (path,), rows, options={"encoding": encoding})
    (movies_path,) = as_paths(movies)
    codec = encoding or _utf8_or_latin1(movies_path)
    first = _first_line(movies_path, codec)
    separator = next((mark for mark in ("::", "|") if mark in first.split(",")[0]), ",")

    def items(report: Report, wanted: Container[str]) -> Iterator[ItemRow]:
        if separator == "::":
            for line, (item, title, genres) in plain_fields(movies_path, codec, "::", 3, report):
                yield movies_path, line, item, [title, genres.replace("|", " | ")]
        elif separator == "|":
            width = 5 + len(_GENRES_100K)
            for line, row in plain_fields(movies_path, codec, "|", width, report):
                genres = [name for name, flag in zip(_GENRES_100K, row[5:]) if flag == "1"]
                yield movies_path, line, row[0], [row[1], " | ".join(genres)]
        else:
            header = csv_header(movies_path, codec, ",")
            picks = find_columns(movies_path, header, [(name, "") for name in ("movieId", "title", "genres")], ",")
            for line, row in csv_rows(movies_path, codec, ",", header, report):
                item, title, genres = (row[i] for i in picks)
                yield movies_path, line, item, [title, genres.replace("|", " | ")]

    return RawSource(
        "movielens", (path, movies_path), rows, ("title", "categories"), items, options={"encoding": encoding}
    )


def _first_line(path: Path, encoding: str) -> str:
    lines = text_lines(path, encoding)
    try:
        return next(lines)
    finally:
        lines.close()


def _utf8_or_latin1(path: Path) -> str:
    # the films' file is small; 10M's is UTF-8 and read as latin-1 would give garbled titles, not an error
    try:
        for _ in text_lines(path, "utf-8"):
            pass
    except DataError as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            return "latin-1"
        raise
    return "utf-8"


# ---------------------------------------------------------------------------------------------------------- mind-news


def mind_source(
    behaviors: Paths, news: Paths | None = None, *, history: bool = True, encoding: str = "utf-8"
) -> RawSource:
    """MIND: behaviors.tsv and news.tsv (train's and dev's together, if wanted).

    A user's clicked impressions are ordered by time, then by place. The History column names earlier clicks without
    times: the one of the user's earliest line is taken, once, and comes before everything else in its own order,
    with that line's time. Later lines' histories would repeat it and the clicks. Times are Unix seconds (read as UTC).
    """
    check_encoding(encoding)
    paths = as_paths(behaviors)

    def rows(report: Report) -> Iterator[Row]:
        earliest: dict[str, tuple[int, Path, int, str]] = {}
        for path in paths:
            for line, (_, user, when, past, shown) in plain_fields(path, encoding, "\t", 5, report):
                try:
                    moment = datetime.strptime(when, "%m/%d/%Y %I:%M:%S %p")
                except ValueError:
                    report.broken(path, line, f"the time {shorten(when)} is not like '11/15/2019 8:55:22 AM'")
                    continue
                time = calendar.timegm(moment.timetuple())
                report.add("impression lines read")
                known = earliest.get(user)
                if known and known[3] != past:
                    report.add("impression lines with another history of that user (not taken)")
                if known is None or time < known[0]:
                    earliest[user] = time, path, line, past
                for place, impression in enumerate(shown.split()):
                    news_id, _, label = impression.rpartition("-")
                    if label == "1" and news_id:
                        yield path, line, user, news_id, time, None, place
                    elif label != "0" or not news_id:
                        report.note("impressions without a label 0 or 1", f"{path}, line {line}: {shorten(impression)}")
        if not history:
            return
        for user, (time, path, line, past) in earliest.items():
            clicks = past.split()
            report.add("clicks from histories", len(clicks))
            for place, news_id in enumerate(clicks):
                yield path, line, user, news_id, time, None, place - len(clicks)

    options = {"encoding": encoding, "history": history}
    if news is None:
        return RawSource("mind-news", paths, rows, options=options)
    news_paths = as_paths(news)

    def items(report: Report, wanted: Container[str]) -> Iterator[ItemRow]:
        for path in news_paths:
            for line, row in plain_fields(path, encoding, "\t", 8, report):
                yield path, line, row[0], [row[3], f"{row[1]} > {row[2]}", row[4]]

    fields = ("title", "categories", "description")
    return RawSource("mind-news", (*paths, *news_paths), rows, fields, items, options=options)
