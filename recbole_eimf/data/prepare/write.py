"""Raw data -> RecBole's atomic files.

Interactions are read as a stream into integer-coded columns, filtered and sorted; only then are the items' texts
streamed, and written at once for the items that are left. So memory grows with the number of interactions (about 30
bytes each, and as much again while sorting) and of distinct ids, not with the size of the reviews' and descriptions'
texts.

What RecBole 1.2.1 makes of an atomic file decides how it is written: its reader takes a double quote at the start of
a field for csv quoting and swallows fields and lines up to the next one; a field above 131,072 characters stops it;
``NA``, ``None`` and the like become missing values; times become float32, which tells Unix seconds apart only every
two minutes (hence the ``order`` column).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_eimf.core.disk import LONGEST_NAME, check_writable
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import atomic_path, read_json
from recbole_eimf.core.folders import PREPARE_FILE
from recbole_eimf.data.item_text import MAX_TEXT, clean_text
from recbole_eimf.data.prepare import evidence
from recbole_eimf.data.prepare.amazon import amazon_source
from recbole_eimf.data.prepare.interaction_log import (
    Filters,
    InteractionLog,
    Kept,
    apply_filters,
    filter_options,
)
from recbole_eimf.data.prepare.raw_files import Report, shorten
from recbole_eimf.data.prepare.sources import (
    CsvColumns,
    PathLike,
    Paths,
    RawSource,
    csv_source,
    mind_source,
    movielens_source,
)

_ROWS_PER_WRITE = 100_000


def prepare(source: RawSource, out: PathLike, name: str, filters: Filters, report: Report) -> Report:
    """Write ``out/name/name.inter``, ``name.item`` (if the source has items) and ``prepare.json``.

    All of them appear whole or not at all. Returns the report. Raises DataError (see ``raw_files``,
    ``interaction_log``), also where a data set that ``prepare`` did not make would be lost.
    """
    folder = _output_folder(out, name, source)
    earlier = _earlier(folder, name)
    check_writable(folder, "--out", make=False)
    log = InteractionLog(source.timed)
    report.add("interactions read", 0)
    report.add(report.broken_kind, 0)
    for path, line, *values in source.rows(report):
        if fault := log.add(*values):
            report.broken(path, line, fault)
    if not log.user:
        faults = "".join(f" {place}." for place in report.places.get(report.broken_kind, []))
        raise DataError(f"{source.files[0]}: no interaction in it.{faults} Is it the right file for {source.kind}?")
    report.counts["interactions read"] = len(log.user)
    as_days = log.read_days()
    kept = apply_filters(log, filters, report)
    del log
    kept_items = np.unique(kept.item)
    report.add("kept: interactions", len(kept.user))
    report.add("kept: users", len(np.unique(kept.user)))
    report.add("kept: items", len(kept_items))
    report.add("kept: users with equal times", _users_with_ties(kept))
    report.remarks += evidence.remarks(kept, source.timed)
    if as_days:
        report.remarks.append(
            "days: every time has the form 20231118, so all are read as days, written as Unix seconds"
        )
    record = _record(source, name, filters, report)
    existed = folder.exists()
    try:
        with contextlib.ExitStack() as files:
            inter = files.enter_context(atomic_path(folder / f"{name}.inter"))
            _write_interactions(inter, kept)
            if source.items:
                item = files.enter_context(atomic_path(folder / f"{name}.item"))
                _write_items(item, source, {kept.item_tokens[code] for code in kept_items}, report)
            note = files.enter_context(atomic_path(folder / PREPARE_FILE))
            text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
            note.write_text(text + "\n", encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{folder}: can not be written ({error}). Choose another --out.") from error
    finally:
        if not existed and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
    if earlier is not None and (differs := _otherwise(earlier, json.loads(text))):
        # told, but not written down: the same command gives the same files, whatever was there before
        report.remarks.append(f"replaced: the folder held another data set of that name ({differs})")
    return report


def _earlier(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of what an earlier command has made in the folder; None where there is nothing.

    Raises:
        DataError: it holds a data set of another origin.
    """
    if not (folder / f"{name}.inter").is_file():
        return None
    note = read_json(folder / PREPARE_FILE, "Choose another --out or --name, or move the data set away.")
    if not isinstance(note, dict):
        raise DataError(
            f"{folder / name}.inter: is there already and was not made by `prepare`, and would be lost. Choose another "
            f"--out or --name, or move it away."
        )
    return note


def _otherwise(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In what two records differ, in words: what was read, with which options, or what was kept of it."""
    pairs = {key: (old.get(key), new[key]) for key in ("source", "files")}
    before = old.get("options") or {}
    pairs |= {key: (before.get(key), value) for key, value in new["options"].items()}
    counted = old.get("counts") or {}
    kept = {key: (counted.get(key), count) for key, count in new["counts"].items() if key.startswith("kept")}
    for found in (pairs, kept):  # other counts follow from other options
        if differ := [f"{key} was {was}, is {now}" for key, (was, now) in found.items() if was != now]:
            return "; ".join(differ)
    return ""


def _output_folder(out: PathLike, name: str, source: RawSource) -> Path:
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise DataError(f"--name: {name!r} is not a plain name (letters, digits, '-', '_', '.').")
    if len(name.encode()) > LONGEST_NAME:
        raise DataError(f"--name: {name[:40]}... has {len(name.encode())} bytes; a name has at most {LONGEST_NAME}.")
    folder = Path(out) / name
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: exists and is not a folder. Choose another --out or --name.")
    targets = {(folder / f"{name}.{kind}").resolve() for kind in ("inter", "item")}
    if same := next((path for path in source.files if path.resolve() in targets), None):
        raise DataError(f"{same}: would be written over while it is read. Choose another --out or --name.")
    if source.items is None and (old := folder / f"{name}.item").exists():
        raise DataError(f"{old}: is from an earlier run and would not fit. Remove it, or name the items' file as well.")
    return folder


def _users_with_ties(kept: Kept) -> int:
    tie = (kept.user[1:] == kept.user[:-1]) & (kept.time[1:] == kept.time[:-1])
    return len(np.unique(kept.user[1:][tie]))


def _write_interactions(path: Path, kept: Kept) -> None:
    rated = kept.rating is not None
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        rating = "rating:float\t" if rated else ""
        stream.write(f"user_id:token\titem_id:token\t{rating}timestamp:float\torder:float\n")
        for start in range(0, len(kept.user), _ROWS_PER_WRITE):
            part = slice(start, start + _ROWS_PER_WRITE)
            users = (kept.user_tokens[code] for code in kept.user[part].tolist())
            items = (kept.item_tokens[code] for code in kept.item[part].tolist())
            times, orders = kept.time[part].tolist(), kept.order[part].tolist()
            if rated:
                stars = ("" if value != value else f"{value:.7g}" for value in kept.rating[part].tolist())
                rows = zip(users, items, stars, times, orders)
                stream.writelines(f"{u}\t{i}\t{r}\t{t}\t{o}\n" for u, i, r, t, o in rows)
            else:
                stream.writelines(f"{u}\t{i}\t{t}\t{o}\n" for u, i, t, o in zip(users, items, times, orders))


def _write_items(path: Path, source: RawSource, wanted: set[str], report: Report) -> None:
    """Write the wanted items in the order of the metadata, those without any text last."""
    fields, items = source.fields, source.items
    title = fields.index("title") if "title" in fields else None
    written: set[str] = set()
    textless: dict[str, str] = {}
    report.reading = "items"
    for kind in ("items read", report.broken_kind, "items read without interactions"):
        report.add(kind, 0)
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write("\t".join(["item_id:token", *(f"{field}:token_seq" for field in fields)]) + "\n")
        for file, line, item, raw in items(report, wanted):
            place = f"{file}, line {line}: {shorten(item)}"
            if not isinstance(item, str) or not item.strip():
                report.broken(file, line, "the item id is missing or empty")
                continue
            report.counts["items read"] += 1
            if item not in wanted:
                report.add("items read without interactions")
            elif item in written or item in textless and not any(raw):
                report.note("items named again (the first text stays)", place)
            else:
                texts = [clean_text(text) for text in raw]
                if not any(texts) and fields:
                    textless[item] = place
                    continue
                # a later record may have the text that the first one lacked
                textless.pop(item, None)
                written.add(item)
                stream.write("\t".join([item, *texts]) + "\n")
                if any(len(text) > MAX_TEXT for text in raw):
                    report.note(f"texts cut to {MAX_TEXT:,} characters", place)
                if title is not None and not texts[title]:
                    report.note("items without a title", place)
        for item in sorted(wanted - written):
            stream.write(item + "\t" * len(fields) + "\n")
    for place in textless.values():
        report.note("items without text", place)
    absent = sorted(wanted - written - textless.keys())
    if len(absent) == len(wanted):
        raise DataError(
            f"{source.files[-1]}: names none of the {len(wanted):,} items of the interactions (such as "
            f"{absent[0]!r}). Do the two files belong together?"
        )
    for item in absent:
        report.note("items not in the items' file", f"{source.files[-1]}: {item!r}")


def _record(source: RawSource, name: str, filters: Filters, report: Report) -> dict[str, object]:
    return {
        "name": name,
        "source": source.kind,
        "files": [path.name for path in source.files],
        "options": {**source.options, **filter_options(filters), "on_broken_line": report.on_broken_line},
        "counts": report.counts,
        "places": report.places,
        "remarks": report.remarks,
    }


def prepare_csv(
    interactions: Paths,
    out: PathLike,
    name: str,
    *,
    items: PathLike | None = None,
    columns: CsvColumns | None = None,
    delimiter: str | None = None,
    no_time: bool = False,
    encoding: str = "utf-8",
    filters: Filters | None = None,
    on_broken_line: str = "error",
) -> Report:
    """Prepare plain CSV files with a header (or .gz). Times stay in the file's unit, ISO 8601 becomes Unix seconds.

    ``no_time``: there is no time column; the order column, if any, and the place in the file decide, and the
    position is written as the time. Raises DataError naming file, line, column and value.
    """
    source = csv_source(interactions, items, columns=columns, delimiter=delimiter, encoding=encoding, no_time=no_time)
    return prepare(source, out, name, filters or Filters(), Report(on_broken_line))


def prepare_amazon(
    release: str,
    reviews: Paths,
    out: PathLike,
    name: str,
    *,
    meta: Paths | None = None,
    text_fields: Sequence[str] | None = None,
    encoding: str = "utf-8",
    filters: Filters | None = None,
    on_broken_line: str = "skip",
) -> Report:
    """Prepare Amazon reviews of ``release`` "2014", "2018" or "2023"; the default filter is the 5-core.

    Times are Unix seconds (2023: milliseconds). Raises DataError.
    """
    source = amazon_source(release, reviews, meta, text_fields=text_fields, encoding=encoding)
    return prepare(source, out, name, filters or Filters(k_core=5), Report(on_broken_line))


def prepare_movielens(
    ratings: PathLike,
    out: PathLike,
    name: str,
    *,
    movies: PathLike | None = None,
    encoding: str | None = None,
    filters: Filters | None = None,
    on_broken_line: str = "error",
) -> Report:
    """Prepare MovieLens 100K, 1M, 10M, 20M, 25M or 32M, told apart by their form. Times are Unix seconds.

    Raises DataError.
    """
    source = movielens_source(ratings, movies, encoding=encoding)
    return prepare(source, out, name, filters or Filters(), Report(on_broken_line))


def prepare_mind(
    behaviors: Paths,
    out: PathLike,
    name: str,
    *,
    news: Paths | None = None,
    history: bool = True,
    encoding: str = "utf-8",
    filters: Filters | None = None,
    on_broken_line: str = "skip",
) -> Report:
    """Prepare MIND: each user's click history, then the clicked impressions. Times are Unix seconds (read as UTC).

    Raises DataError.
    """
    source = mind_source(behaviors, news, history=history, encoding=encoding)
    return prepare(source, out, name, filters or Filters(), Report(on_broken_line))
