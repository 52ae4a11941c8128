"""How the tables of README and docs/results are read, and what a cell of theirs may print, from the JSON files of
benchmarks/results.

A cell's parts stand apart by `` / ``. The numbers of a part are mean and deviation, or gain, p and corrected p; each
that is printed must be what the JSON rounds to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import stdev
from typing import Any

ROOT = Path(__file__).parents[1]
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
_METRIC = {"HR": "hit", "NDCG": "ndcg", "Recall": "recall"}
#: tables of the same users as another
_BESIDE = {
    "beauty_user_split": ["beauty_floors_user_split_source"],
    "beauty_user_split_shuffled": ["beauty_prior_user_split"],
}
_PRIOR_ROWS = {"counts and texts[SASRec]": "SASRec+similar+together"}
_OLD_NAMES = {"EIMF placebo[SASRec]": "placebo[SASRec]"}
Row = str | tuple[str, str]  # the JSON's name of a row, or of two, whose difference the page's row is
Cell = Callable[[Any], list[list[float | None]]]  # what a row's cell may print: the numbers of each part


def table(page: str, heading: str, number: int) -> list[list[str]]:
    """The cells of a section's table: its header, then its rows."""
    sections = re.split(r"^#+ ", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)
    found = [section for section in sections if section.startswith(heading)]
    assert len(found) == 1, f"{page}: sections that begin with {heading!r}: {len(found)}"
    lines = [match.group().splitlines() for match in re.finditer(r"(?:^\|.*\n?)+", found[0], flags=re.M)][number]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines]
    return [cells[0], *cells[2:]]


def numbers(part: str) -> list[str]:
    return [figure.replace(",", "") for figure in _NUMBER.findall(part.replace("*", ""))]


def rounds_to(value: float | None, printed: str) -> bool:
    half = 0.5 * 10 ** -len(printed.partition(".")[2])
    slack = min(half / 10, 5e-4)  # some files keep three decimals, so that they round once already
    return value is not None and abs(float(printed) - value) <= half + slack


def wrong(cell: str, parts: list[list[float | None]]) -> bool:
    printed = [numbers(part) for part in cell.split(" / ")]
    if len(printed) > len(parts) or any(len(a) > len(b) for a, b in zip(printed, parts, strict=False)):
        return True
    pairs = [pair for a, b in zip(printed, parts, strict=False) for pair in zip(b, a, strict=False)]
    return not all(rounds_to(value, figure) for value, figure in pairs)


@cache
def result(file: str) -> Any:
    found = json.loads((ROOT / f"benchmarks/results/{file}.json").read_text(encoding="utf-8"))
    return found["tables"][0] if "arena" in found else found


def counting(row: Any) -> bool:
    return not row["runs"] or row["runs"][0]["parameters"] <= 1


def view(file: str, masked: bool) -> Any:
    return next(one for one in result(file)["views"] if one["mask_history"] is masked)


def mean(file: str, metric: str, *masked: bool, of: str = "{}") -> Cell:
    """Of a table of ``compare`` or ``study``: mean and deviation of a row, a part for each way of masking."""

    def read(row: str) -> list[list[float | None]]:
        found = (view(file, one)["rows"][of.format(row)][metric] for one in masked)
        return [[one["mean"], one["std"]] for one in found]

    return read


def gain(file: str, metric: str, over: str, *masked: bool, of: str = "{}", corrected_only: bool = False) -> Cell:
    """Gain in per cent, p and corrected p: of a row over ``over``, where ``{}`` is what stands in the row's brackets;
    or of a pair of rows."""

    def read(row: Row) -> list[list[float | None]]:
        mine, *other = (of.format(row),) if isinstance(row, str) else row
        inner = re.search(r"[\[(](.+)[\])]", mine)
        asked = (mine, *(other or [over.format(inner[1] if inner else row)]), metric)
        parts = []
        for one in masked:
            found = next(c for c in view(file, one)["comparisons"] if (c["row"], c["other"], c["metric"]) == asked)
            p = [] if corrected_only else [found["test"]["p_value"]]
            parts.append([found["relative"], *p, found["adjusted"]])
        return parts

    return read


def searched(file: str, what: str) -> Cell:
    """Of ``--tune-first``: a row's validation score as it stood, or the best."""

    def read(row: str) -> list[list[float | None]]:
        found = next(one["search"] for one in result(file)["rows"] if one["name"] == row)
        return [[100 * found[what]]] if found else []

    return read


def share(file: str, name: str, metric: str) -> Cell:
    """Of the targets of one slice, histories masked."""

    def read(row: str) -> list[list[float | None]]:
        slices = result(file)["slices"]
        masked = next(s for s in (slices if isinstance(slices, list) else [slices]) if s["mask_history"])
        return [[masked["rows"][row][name][metric]]]

    return read


def both_of(*cells: Cell) -> Cell:
    """The parts of several cells, one after the other."""
    return lambda row: [part for cell in cells for part in cell(row)]


def known(file: str, metric: str, part: str = "all", of: Row = "{}") -> Cell:
    """Of a table of ``benchmarks/knowledge.py``: a row's mean and deviation, or gain and p of one row over another."""

    def read(row: Row) -> list[list[float | None]]:
        asked = row if isinstance(row, tuple) else of
        rows, name = result(file)["rows"], row if isinstance(row, str) else ""
        if isinstance(asked, str):
            found = rows[asked.format(name)][part][metric]
            return [[found["percent"], stdev(found["of_seeds"]) if len(found.get("of_seeds", [])) > 1 else None]]
        mine, other = (one.format(name) for one in asked)
        found = rows[mine][part][metric][f"over {other}"]
        return [[found["percent"], found["p_value"]]]

    return read


def placed(part: str, metric: str) -> Cell:
    """Of ``benchmarks/place_unseen.py``: a row and how its new items stand, or what all rows are held against."""

    def read(row: Row) -> list[list[float | None]]:
        rows = result("beauty_global_time_placed")["rows"]
        if row == "floor placed":
            return [[result("beauty_global_time_placed")[row][part][metric]["mean"], None]]
        if isinstance(row, str):
            return [[rows["SASRec"]["placed"][part][metric]["against"], None]]
        found = rows[row[0]][row[1]][part][metric]
        return [[found["mean"], found["std"]]]

    return read


def apart(file: str, masked: bool, *metrics: str) -> Cell:
    """By how much per cent the mean of a row is above that of another, a part for each metric. A table of floors, and
    one of the same users, may hold a row that the table itself lacks."""

    def of(name: str, metric: str) -> float:
        for each in (file, *_BESIDE.get(file, ())):
            rows = result(each)["rows"]
            if isinstance(rows, dict):
                if masked and (known_as := _PRIOR_ROWS.get(name)):
                    return rows[known_as]["all"][metric]["percent"]
                continue
            rows = view(each, masked)["rows"]
            if found := next((rows[one][metric] for one in (name, _OLD_NAMES.get(name)) if one in rows), None):
                return found["mean"]
        raise AssertionError(f"{file}: no row {name}")

    return lambda row: [[100 * (of(row[0], metric) / of(row[1], metric) - 1)] for metric in metrics]


def headed(file: str, masked: bool, header: list[str]) -> list[Cell]:
    """A column for each metric of a table's header."""
    names = [re.search(r"(HR|NDCG|Recall)(@\d+)", name) for name in header[1:]]
    return [mean(file, _METRIC[name[1]] + name[2], masked) for name in names if name]


def together(file: str, *metrics: str, masked: Sequence[bool] = (False, True), of: str = "{}") -> list[Cell]:
    return [mean(file, metric, *masked, of=of) for metric in metrics]
