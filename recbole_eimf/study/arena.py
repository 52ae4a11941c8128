"""The arena: one study over several data sets and protocols, and a page over all of them.

Each data set under each protocol is a table of its own, ``<out>/<data set>-<protocol>``, made as ``compare`` makes any;
stopped in any way, the same command goes on. ``<out>/index.html`` and ``arena.json`` say who stands where over all
tables (:mod:`recbole_eimf.study.standings`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.layers import concerning
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import atomic_path, write_json
from recbole_eimf.core.folders import RESULTS_FILE, check_kind
from recbole_eimf.core.version import __version__
from recbole_eimf.data import time_split
from recbole_eimf.evaluator import candidates
from recbole_eimf.study.compare import Effort, carry_out, check, metric_names
from recbole_eimf.study.joined import Part, by_method, read_parts
from recbole_eimf.study.report.template import render
from recbole_eimf.study.standings import Standings, by_backbone, rows_with, standings, title_of
from recbole_eimf.study.study import Study, experiment_of_study
from recbole_eimf.study.table.content import k_of
from recbole_eimf.study.table.notes import BARE_REMI, SHARED, versions_texts
from recbole_eimf.study.table.summary import Experiment, pretty


@dataclass(frozen=True)
class Arena:
    """An arena that was made: its ``folder``, who stands where, and the labels of the runs that ``failed``."""

    folder: Path
    standings: Standings
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return standings_table(self.standings)


def run_arena(
    study: Study,
    datasets: Sequence[str],
    given: Mapping[str, Any],
    command: str,
    out: Path,
    effort: Effort,
    *,
    seeds: int | str | Sequence[int] | None = None,
    metrics: str | Sequence[str] | None = None,
    title: str | None = None,
    only: Sequence[str] = (),
) -> Arena:
    """Make the missing runs of every table, and the page over all tables after each.

    Args:
        study: with ``protocols``; datasets: names; given: keys of all rows; a ``protocol`` among them is the only one.
        command: how the page says it was made; out: a folder for all tables; effort: as for ``compare``.
        seeds, metrics, title, only: in place of the study's own.

    Raises:
        UserError: a bad file, bad keys or data, before any run; DataError after all of them where no two rows can be
            ranked over the tables.
    """
    protocols = (given["protocol"],) if "protocol" in given else study.protocols
    own = {"seeds": seeds, "metrics": metrics, "title": title, "only": only}
    planned: list[tuple[Experiment, Path]] = []
    tables, remarks = _tables(study, datasets, protocols, given)
    for dataset, protocol in tables:
        keys = {**_read_by(protocol, given), "protocol": protocol}
        planned.append((experiment_of_study(study, dataset, keys, command, **own), out / f"{dataset}-{protocol}"))
    check_kind(out, "table")
    for experiment, folder in planned:
        check_kind(folder, "table")
        check(experiment, folder, effort)
    metric = (metric_names(metrics) or study.metrics or ("ndcg@10",))[0]
    failed: list[str] = []
    made: Standings | None = None
    for experiment, folder in planned:
        print(f"{experiment.title}: {folder}")
        failed += carry_out(experiment, folder, effort).failed
        try:
            made = write([place for _, place in planned], out, title or study.title, metric, command, remarks)
        except DataError as error:  # the tables after this one may be what the page lacks
            made, why = None, error
            print(f"no page over all tables yet: {error}")
    if made is None:
        told = f" Failed: {', '.join(failed)} (error.txt in their folders)." if failed else ""
        raise DataError(f"{out}: all tables are made, but no page over them: {why}{told}") from why
    return Arena(out, made, tuple(failed))


def _tables(
    study: Study, datasets: Sequence[str], protocols: Sequence[str], given: Mapping[str, Any]
) -> tuple[list[tuple[str, str]], list[str]]:
    """(data set and protocol of every table, remarks on those that cannot be: ``global_time`` without times).

    Raises:
        ConfigError: there is no table.
    """
    tables: list[tuple[str, str]] = []
    remarks = []
    for dataset in datasets:
        for protocol in protocols:
            looked_for = protocol == "global_time" and "protocol" not in given
            if looked_for and not _has_times(dataset, {**study.keys, **given}):
                remarks.append(f"{dataset} has no times, and no table under global_time.")
                print(remarks[-1])
            else:
                tables.append((dataset, protocol))
    if not tables:
        names = ",".join(datasets)
        raise ConfigError(f"--dataset={names}: without times there is no table under {', '.join(protocols)}.")
    return tables, remarks


def _has_times(dataset: str, given: Mapping[str, Any]) -> bool:
    from recbole_eimf.data.dataset import LazySequenceDataset
    from recbole_eimf.experiment import plugin

    plugin.adapt_recbole()
    known = _read_by("leave_one_out", given)
    known.pop("mask_history", None)  # "both" is a table's
    config = EIMFConfig("Popularity", dataset, None, {**concerning("Popularity", known), "state": "ERROR"})
    config.data_told = config.times_told = True  # the tables say it, of their own keys
    data = LazySequenceDataset(config)
    data.build()
    return data.times is not None


def _read_by(protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys that another protocol alone reads: a table has those of its own."""
    known = our_keys()
    return {key: value for key, value in given.items() if key not in known or known[key].protocol in (None, protocol)}


# ---------------------------------------------------------------------- the page
def write(
    folders: Sequence[Path], out: Path, title: str, metric: str, command: str, remarks: Sequence[str] = ()
) -> Standings:
    """Write ``index.html`` and ``arena.json`` over the tables that are there; a remark names those without two rows.

    The page shows the standings by the metric at every k that all tables have, one at a time where scripts run.

    Args:
        folders: of the tables; metric: ranked by, such as ``ndcg@10``.

    Raises:
        DataError: a damaged table, or none with two rows.
    """
    parts = [part for folder in folders if (folder / RESULTS_FILE).is_file() for part in read_parts([folder])]
    return write_joined(parts, out, title, metric, command, remarks)


def write_joined(
    parts: Sequence[Part], out: Path, title: str, metric: str, command: str, remarks: Sequence[str] = ()
) -> Standings:
    """As :func:`write`, over tables that were read."""
    there = [part for part in parts if rows_with(part.content, metric) > 1]
    tables = [part.content for part in there]
    waiting = [title_of(part.content) for part in parts if part not in there]
    if waiting:  # a table is written before its first run
        few = f"Not ranked, for fewer than two rows have {pretty(metric)} there: {'; '.join(waiting)}."
        remarks = [*remarks, few]
    found = standings(tables, metric)
    every = {}
    for each in _at_every_k(tables, metric):
        with contextlib.suppress(DataError):  # fewer rows may have this k
            every[each] = found if each == metric else standings(tables, each)
    page = render(
        "arena.html",
        title=title,
        facts=[_facts(table, count) for table, count in zip(tables, found.seeds)],
        links=[_link(part.page, out) for part in there],
        remarks=[*remarks, *_limits(tables)],
        ks=[k_of(each) for each in every],
        first_k=k_of(metric),
        rankings=_drawn(every, tables),
        command=command,
        made=versions_texts(one for table in tables for one in table.get("made_with", ())),
        version=__version__,
    )
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    told = {"title": title, "command": command, "version": __version__, "remarks": [*remarks, *_limits(tables)]}
    others = {each: dataclasses.asdict(one) for each, one in every.items() if each != metric}
    methods = {each: _methods_json(one) for each in every if (one := methods_over_backbones(tables, each))}
    write_json(out / "arena.json", told | dataclasses.asdict(found) | {"others": others, "methods": methods})
    return found


def methods_over_backbones(tables: Sequence[Mapping[str, Any]], metric: str) -> Standings | None:
    """Methods ranked within each data set, protocol and backbone; None where there are fewer than two of these.

    What one data set says over three backbones is no three data sets' word: no test belongs to these ranks.
    """
    blocks = [block for block in by_method(tables) if rows_with(block, metric) > 1]
    if len(blocks) < 2:
        return None
    try:
        return standings(blocks, metric)
    except DataError:  # no two methods in every one of them
        return None


def _methods_json(found: Standings) -> dict[str, Any]:
    told = dataclasses.asdict(found)
    return {key: told[key] for key in ("rows", "tables", "seeds", "left_out")}


def _at_every_k(tables: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The metric at every k that a row of every table has, by k; always the metric itself."""
    kind = metric.partition("@")[0]
    known = [{name for of_row in table["views"][0]["rows"].values() for name in of_row} for table in tables]
    common = {name for name in set.intersection(*known) if name.startswith(f"{kind}@")} if known else set()
    return sorted(common | {metric}, key=lambda name: k_of(name) or 0)


def _drawn(every: Mapping[str, Standings], tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows of each metric: its standings, and their figures."""
    from recbole_eimf.study.report import arena_plot  # late: matplotlib
    from recbole_eimf.study.report.report import Unique

    unique = Unique()
    return [
        {
            "k": k_of(metric),
            "metric": pretty(metric),
            "found": found,
            "differences": [
                (name, one, unique(arena_plot.critical_difference_diagram(one)))
                for name, one in by_backbone(found, tables).items()
            ],
            "methods": methods_over_backbones(tables, metric),
            "cost_plot": unique(arena_plot.cost(found)),
        }
        for metric, found in every.items()
    ]


def _limits(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """What limits what the page says, as the tables have it: shared machines, what a row lacks."""
    shared = [title_of(table) for table in tables if _says(table, SHARED)]
    found = [f"Seconds do not compare: runs shared a machine in {'; '.join(shared)}."] if shared else []
    return found + ([BARE_REMI] if any(_says(table, BARE_REMI) for table in tables) else [])


def _says(table: Mapping[str, Any], words: str) -> bool:
    return any(words in note for note in table.get("notes", ()))


def _link(page: Path | None, out: Path) -> str | None:
    """From the arena's page to a table's, where it has one of its own."""
    return None if page is None else Path(os.path.relpath(page, out)).as_posix()


def _facts(table: Mapping[str, Any], seeds: int) -> str:
    """What one table is about: history, ties, users, seeds."""
    settings = table["rows"][0]["settings"]
    asked = next(iter(table["views"][0]["tested"].values()), None)
    size = f"{asked['users']:,} users, {asked['targets']:,} targets, " if asked else ""
    masked = "masked" if table["views"][0]["mask_history"] else "not masked"
    drawn = "" if candidates.mode_of(settings) == "full" else f"{candidates.told(settings)}, "
    told = [run["borders"] for row in table["rows"] for run in row["runs"] if run.get("borders")]
    parted = time_split.told(settings, bool(settings.get("refit")), next(iter(told), None))
    times = f"{parted}, " if table["protocol"] == "global_time" else ""
    return (
        f"{table['dataset']}, {table['protocol']}: history {masked}, ties={settings.get('ties', 'source')}, "
        f"{times}{drawn}{size}"
        f"{seeds} seed{'s' if seeds != 1 else ''} of all rows, {table['finished']} of {table['planned']} runs"
    )


def standings_table(found: Standings, costs: bool = True) -> str:
    """The standings for a terminal; tables whose names would not fit have numbers. ``costs``: with what a row costs."""
    numbered = sum(map(len, found.tables)) > 80
    named = [str(number) for number, _ in enumerate(found.tables, 1)] if numbered else found.tables
    head = ["rank", "row", *named, *(["parameters", "train s", "LLM calls"] if costs else [])]
    rows = [[f"{row.rank:.2f}", row.shown, *(f"{mean:.2f}" for mean, _ in row.figures)] for row in found.rows]
    if costs:
        for cells, row in zip(rows, found.rows):
            cells += [f"{row.parameters:,.0f}", f"{row.seconds:,.0f}", str(row.calls)]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in [head, *rows]]  # fmt: skip
    legend = [f"{number}: {table}" for number, table in zip(named, found.tables)] if numbered else []
    return "\n".join([*legend, lines[0], "-" * len(lines[0]), *lines[1:]])
