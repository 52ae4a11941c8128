"""Tables made apart, read again and joined: by other commands, on other machines, over other backbones.

An arena of days is made in parts. Parts of one data set under one protocol become one table where they asked the same
users for the same targets; a row that two parts hold has to say the same in both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import read_json
from recbole_eimf.core.folders import RESULTS_FILE, kind_of, name_of
from recbole_eimf.evaluator.candidates import mode_of
from recbole_eimf.study.rows import FRAMED
from recbole_eimf.study.standings import counts, title_of

#: what parts have in common, with what tables older than the key were made with
_BEFORE = {"ties": "source", "refit": False}


@dataclass(frozen=True)
class Part:
    """A table that was read: its ``content`` as ``results.json`` has it, where ``page`` of it is, and what ``source``
    to name in an error."""

    content: dict[str, Any]
    source: str
    page: Path | None = None


def read_parts(paths: Sequence[Path]) -> list[Part]:
    """The tables of each path: an arena's folder, a table's, a ``results.json``, or a file of several tables.

    Raises:
        DataError: a path that is not there, holds no table, or is damaged.
    """
    found: list[Part] = []
    for path in paths:
        if kind_of(path) in ("run", "model", "data", "search"):
            raise DataError(f"{path}: not a table but {name_of(path)}. Give folders that compare or study made.")
        if path.is_dir():
            own = path / RESULTS_FILE
            files = [own] if own.is_file() else sorted(path.glob(f"*/{RESULTS_FILE}"))
            if not files:
                raise DataError(f"{path}: no table in it. A folder that compare or study made holds results.json.")
        elif path.is_file():
            files = [path]
        else:
            raise DataError(
                f"{path}: no such file or folder. Give folders that compare or study made, or their results.json."
            )
        for file in files:
            found += _parts_of(file)
    return found


def _parts_of(file: Path) -> list[Part]:
    content = read_results(file)
    several = content.get("tables")
    contents = several if isinstance(several, list) else [content]
    page = file.parent / "index.html"
    for one in contents:
        if not isinstance(one, dict) or not {"dataset", "protocol", "views", "rows"} <= one.keys() or not one["views"]:
            raise DataError(f"{file}: no table of compare or study. What they write is named results.json.")
    return [Part(one, str(file), page if page.is_file() and len(contents) == 1 else None) for one in contents]


def read_results(path: Path) -> dict[str, Any]:
    """What a file of results holds.

    Raises:
        DataError: it is damaged, or no object.
    """
    content = read_json(path, "The command that made it writes it anew.")
    if not isinstance(content, dict):
        raise DataError(f"{path}: no table of compare or study. What they write is named results.json.")
    return content


def join_parts(parts: Sequence[Part]) -> list[Part]:
    """One part for each data set and protocol, in the order in which they were given.

    p values stay those of the parts, each corrected over its own tests.

    Raises:
        DataError: two parts of one data set and protocol asked other users or targets, masked or ordered otherwise, or
            hold other figures for one row.
    """
    found: dict[str, Part] = {}
    for part in parts:
        title = title_of(part.content)
        found[title] = _joined(found[title], part) if title in found else part
    return list(found.values())


def _joined(one: Part, other: Part) -> Part:
    first, second = one.content, other.content
    for what, (mine, theirs) in _asked(first, second).items():
        if mine != theirs and None not in (mine, theirs):  # None: nothing was asked yet
            raise DataError(
                f"{one.source} and {other.source} are both of {title_of(first)}, but {what} is {mine} in one and "
                f"{theirs} in the other: they cannot be one table. Give one of them."
            )
    views = first["views"][0], second["views"][0]
    mine, theirs = ({row["name"]: row for row in table["rows"]} for table in (first, second))
    for name in mine.keys() & theirs.keys():
        figures = [view["rows"].get(name) for view in views]
        if all(figures) and figures[0] != figures[1]:
            raise DataError(f"{name}: {one.source} and {other.source} {_why_not_alike(mine[name], theirs[name])}")
    # a row that one part has planned and the other finished is the other's
    of_other = {name for name in mine if not views[0]["rows"].get(name) and views[1]["rows"].get(name)}
    rows = [theirs[name] if name in of_other else row for name, row in mine.items()]
    rows += [row for name, row in theirs.items() if name not in mine]
    planned = {
        row["name"]: _planned(second if row["name"] in of_other or row["name"] not in mine else first, row)
        for row in rows
    }
    view = {
        **views[0],
        "rows": {**views[1]["rows"], **{name: found for name, found in views[0]["rows"].items() if found}},
        "tested": {**views[1]["tested"], **views[0]["tested"]},
        "comparisons": _once([*views[0]["comparisons"], *views[1]["comparisons"]]),
    }
    whole = {
        **first,
        "rows": rows,
        "views": [view],
        "finished": sum(len(row["runs"]) for row in rows),
        "planned": sum(planned.values()),
        "planned_runs": planned,
        "notes": list(dict.fromkeys([*first.get("notes", ()), *second.get("notes", ())])),
        "made_with": _once([*first.get("made_with", ()), *second.get("made_with", ())]),
    }
    return Part(whole, f"{one.source} with {other.source}")  # no page shows them together but this one


def _planned(table: Mapping[str, Any], row: Mapping[str, Any]) -> int:
    """How many runs of a row its table has planned; one that is joined already says so."""
    wanted = 1 if counts(row) else len(table.get("seeds", ()))
    return max(len(row["runs"]), table.get("planned_runs", {}).get(row["name"], wanted))


def _why_not_alike(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The end of a sentence on two parts that have other figures for a row."""
    seeds = [", ".join(str(run["seed"]) for run in row["runs"]) for row in (mine, theirs)]
    if seeds[0] != seeds[1]:
        return f"have it for the seeds {seeds[0]} and {seeds[1]}. Give the one file, or finish the other's runs."
    return (
        "have other figures for it. Rows made in two ways, as with and without a search, are no one table: give one of "
        "the files."
    )


def _asked(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two parts have to have in common: name -> what each has."""
    return {
        "mask_history": (first["views"][0]["mask_history"], second["views"][0]["mask_history"]),
        "what targets are ranked among": (_ranked(first), _ranked(second)),
        **{key: (_setting(first, key), _setting(second, key)) for key in _BEFORE},
        "the number of test users": (_tested(first, "users"), _tested(second, "users")),
        "the number of targets": (_tested(first, "targets"), _tested(second, "targets")),
        "the digest of what was asked": (_tested(first, "identity"), _tested(second, "identity")),
    }


def _ranked(table: Mapping[str, Any]) -> str | None:
    return mode_of(table["rows"][0]["settings"]) if table["rows"] else None


def _setting(table: Mapping[str, Any], key: str) -> Any:
    return table["rows"][0]["settings"].get(key, _BEFORE[key]) if table["rows"] else None


def _tested(table: Mapping[str, Any], of: str) -> int | str | None:
    return next((one.get(of) for one in table["views"][0]["tested"].values()), None)


def _once(entries: Sequence[Any]) -> list[Any]:
    """Equal entries once. Of a pair of rows that both tested, the first's test stands (another correction is no other
    question)."""
    found: dict[str, Any] = {}
    for entry in entries:
        pair = [entry.get(key) for key in ("row", "other", "metric")]
        found.setdefault(json.dumps(entry if None in pair else pair, sort_keys=True), entry)
    return list(found.values())


# ---------------------------------------------------------------------- methods, whatever they stand over
def by_method(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table for each data set, protocol and backbone, whose rows are named by the method alone.

    ``EIMF[REMI]`` becomes ``EIMF[backbone]``, shown as EIMF, and ``REMI`` the row ``backbone``, so that
    :func:`recbole_eimf.study.standings.standings` ranks what stands over any of them. Of rows over no backbone those
    stay that only count. A backbone that has no row over it has no table.
    """
    return [one for table in tables for backbone in _backbones(table) if (one := _over(table, backbone)) is not None]


def _backbones(table: Mapping[str, Any]) -> list[str]:
    inner = [framed["inner"] for row in table["rows"] if (framed := FRAMED.fullmatch(row["name"]))]
    named = {row["name"] for row in table["rows"]}
    return [name for name in dict.fromkeys(inner) if name in named]


def _over(table: Mapping[str, Any], backbone: str) -> dict[str, Any] | None:
    names = {backbone: "backbone"}
    for row in table["rows"]:
        framed = FRAMED.fullmatch(row["name"])
        if framed and framed["inner"] == backbone:
            names[row["name"]] = f"{framed['frame']}[backbone]"
        elif not framed and counts(row):
            names[row["name"]] = row["name"]
    view = table["views"][0]
    rows = [
        {
            **row,
            "name": name,
            "shown": "backbone alone" if name == "backbone" else name.removesuffix("[backbone]"),
            "against": [names.get(other, other) for other in row.get("against", ())],
        }
        for row in table["rows"]
        if (name := names.get(row["name"]))
    ]
    compared = [
        {**one, "row": names[one["row"]], "other": names[one["other"]]}
        for one in view["comparisons"]
        if one["row"] in names and one["other"] in names
    ]
    figures = {names[name]: of_row for name, of_row in view["rows"].items() if name in names}
    if sum(name == "backbone" or name.endswith("[backbone]") for name in figures) < 2:
        return None
    shown = next(row.get("shown", backbone) for row in table["rows"] if row["name"] == backbone)
    return {
        **table,
        "protocol": f"{table['protocol']}, over {shown}",
        "rows": rows,
        "views": [{**view, "rows": figures, "comparisons": compared}],
    }
