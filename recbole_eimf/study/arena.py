"""The arena: one study over several data sets and protocols, and a page over all of them.

Each data set under each protocol is a table of its own, ``<out>/<data set>-<protocol>``, made as ``compare`` makes any;
stopped in any way, the same command goes on. ``<out>/index.html`` and ``arena.json`` say who stands where over all
tables (:mod:`recbole_eimf.study.standings`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.keys import our_keys
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import atomic_path, write_json
from recbole_eimf.core.version import __version__
from recbole_eimf.study.compare import Effort, carry_out, check, metric_names
from recbole_eimf.study.report.template import render
from recbole_eimf.study.standings import Standings, by_backbone, rows_with, standings, title_of
from recbole_eimf.study.study import Study, experiment_of
from recbole_eimf.study.table.content import place
from recbole_eimf.study.table.notes import BARE_REMI, SHARED, versions_text
from recbole_eimf.study.table.summary import Experiment, pretty


@dataclass(frozen=True)
class Arena:
    """An arena that was made: its ``folder``, who stands where, and the labels of the runs that ``failed``."""

    folder: Path
    standings: Standings
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return as_text(self.standings)


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
    wanted = (given["protocol"],) if "protocol" in given else study.protocols
    planned: list[tuple[Experiment, Path]] = []
    remarks = []
    for dataset in datasets:
        for protocol in wanted:
            if protocol == "global_time" and "protocol" not in given and not _has_times(dataset, given):
                remarks.append(f"{dataset} has no times, and no table under global_time.")
                print(remarks[-1])
                continue
            keys = {**_read_by(protocol, given), "protocol": protocol}
            own = {"seeds": seeds, "metrics": metrics, "title": title, "only": only}
            planned.append((experiment_of(study, dataset, keys, command, **own), out / f"{dataset}-{protocol}"))
    if not planned:
        raise ConfigError(f"--dataset={','.join(datasets)}: without times there is no table under {', '.join(wanted)}.")
    for experiment, folder in planned:
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


def _has_times(dataset: str, given: Mapping[str, Any]) -> bool:
    from recbole_eimf.data.dataset import LazySequenceDataset
    from recbole_eimf.experiment import plugin

    plugin.adapt_recbole()
    known = {key: given[key] for key in ("data_path", "load_col", "TIME_FIELD", "ORDER_FIELD") if key in given}
    data = LazySequenceDataset(EIMFConfig("Popularity", dataset, None, {**known, "state": "ERROR"}))
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
    begun = {folder: _read(folder / "results.json") for folder in folders if (folder / "results.json").is_file()}
    there = [folder for folder, table in begun.items() if rows_with(table, metric) > 1]
    tables = [begun[folder] for folder in there]
    waiting = [title_of(table) for folder, table in begun.items() if folder not in there]
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
        links=[_link(folder, out) for folder in there],
        remarks=[*remarks, *_limits(tables)],
        ks=[place(each) for each in every],
        first_k=place(metric),
        rankings=_drawn(every, tables),
        command=command,
        made=list(dict.fromkeys(versions_text(one) for table in tables for one in table.get("made_with", ()))),
        version=__version__,
    )
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    told = {"title": title, "command": command, "version": __version__, "remarks": [*remarks, *_limits(tables)]}
    others = {each: dataclasses.asdict(one) for each, one in every.items() if each != metric}
    write_json(out / "arena.json", told | dataclasses.asdict(found) | {"others": others})
    return found


def _at_every_k(tables: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The metric at every k that a row of every table has, by k; always the metric itself."""
    kind = metric.partition("@")[0]
    known = [{name for of_row in table["views"][0]["rows"].values() for name in of_row} for table in tables]
    common = {name for name in set.intersection(*known) if name.startswith(f"{kind}@")} if known else set()
    return sorted(common | {metric}, key=lambda name: place(name) or 0)


def _drawn(every: Mapping[str, Standings], tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows of each metric: its standings, and their figures."""
    from recbole_eimf.study.report import arena_plot  # late: matplotlib
    from recbole_eimf.study.report.report import Unique

    unique = Unique()
    return [
        {
            "k": place(metric),
            "metric": pretty(metric),
            "found": found,
            "differences": [
                (name, one, unique(arena_plot.critical_difference(one)))
                for name, one in by_backbone(found, tables).items()
            ],
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


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}). The command that made it writes it anew.") from error


def _link(folder: Path, out: Path) -> str:
    try:
        return f"{folder.relative_to(out).as_posix()}/index.html"
    except ValueError:
        return (folder / "index.html").resolve().as_uri()


def _facts(table: Mapping[str, Any], seeds: int) -> str:
    """What one table is about: history, ties, users, seeds."""
    settings = table["rows"][0]["settings"]
    asked = next(iter(table["views"][0]["tested"].values()), None)
    size = f"{asked['users']:,} users, {asked['targets']:,} targets, " if asked else ""
    masked = "masked" if table["views"][0]["mask_history"] else "not masked"
    return (
        f"{table['dataset']}, {table['protocol']}: history {masked}, ties={settings.get('ties', 'source')}, {size}"
        f"{seeds} seed{'s' if seeds != 1 else ''} of all rows, {table['finished']} of {table['planned']} runs"
    )


def as_text(found: Standings) -> str:
    """The standings for a terminal."""
    head = ["rank", "row", *found.tables, "parameters", "train s", "LLM calls"]
    rows = [
        [f"{row.rank:.2f}", row.shown, *(f"{mean:.2f}" for mean, _ in row.figures), f"{row.parameters:,.0f}",
         f"{row.seconds:,.0f}", str(row.calls)]
        for row in found.rows
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in [head, *rows]]  # fmt: skip
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
