"""The arena: one study over several data sets and protocols, and a page over all of them.

Each data set under each protocol is a table of its own, ``<out>/<data set>-<protocol>``, made as ``compare`` makes any;
stopped in any way, the same command goes on. ``<out>/index.html`` and ``arena.json`` say who stands where over all
tables (:mod:`recbole_eimf.study.standings`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import atomic_path, write_json
from recbole_eimf.core.version import __version__
from recbole_eimf.study.compare import Effort, carry_out, check, metric_names
from recbole_eimf.study.report.template import render
from recbole_eimf.study.standings import Standings, by_backbone, standings
from recbole_eimf.study.study import Study, experiment_of
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
        UserError: a bad file, bad keys or data, before any run.
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
            keys = {**given, "protocol": protocol}
            own = {"seeds": seeds, "metrics": metrics, "title": title, "only": only}
            planned.append((experiment_of(study, dataset, keys, command, **own), out / f"{dataset}-{protocol}"))
    if not planned:
        raise ConfigError(f"--dataset={','.join(datasets)}: without times there is no table under {', '.join(wanted)}.")
    for experiment, folder in planned:
        check(experiment, folder, effort)
    metric = (metric_names(metrics) or study.metrics or ("ndcg@10",))[0]
    failed: list[str] = []
    made = None
    for experiment, folder in planned:
        print(f"{experiment.title}: {folder}")
        failed += carry_out(experiment, folder, effort).failed
        made = write([place for _, place in planned], out, title or study.title, metric, command, remarks)
    return Arena(out, made, tuple(failed))


def _has_times(dataset: str, given: Mapping[str, Any]) -> bool:
    from recbole_eimf.data.dataset import LazySequenceDataset
    from recbole_eimf.experiment import plugin

    plugin.adapt_recbole()
    known = {key: given[key] for key in ("data_path", "load_col", "TIME_FIELD", "ORDER_FIELD") if key in given}
    data = LazySequenceDataset(EIMFConfig("Popularity", dataset, None, {**known, "state": "ERROR"}))
    data.build()
    return data.times is not None


# ---------------------------------------------------------------------- the page
def write(
    folders: Sequence[Path], out: Path, title: str, metric: str, command: str, remarks: Sequence[str] = ()
) -> Standings:
    """Write ``index.html`` and ``arena.json`` over the tables that are there.

    Args:
        folders: of the tables; metric: ranked by, such as ``ndcg@10``.

    Raises:
        DataError: a damaged table, or none with two rows.
    """
    from recbole_eimf.study.report import arena_plot  # late: matplotlib
    from recbole_eimf.study.report.report import Unique

    there = [folder for folder in folders if (folder / "results.json").is_file()]
    tables = [_read(folder / "results.json") for folder in there]
    found = standings(tables, metric)
    links = [_link(folder, out) for folder in there]
    unique = Unique()
    page = render(
        "arena.html",
        title=title,
        metric=pretty(metric),
        found=found,
        facts=[_facts(table, count) for table, count in zip(tables, found.seeds)],
        links=links,
        remarks=list(remarks),
        differences=[
            (name, one, unique(arena_plot.critical_difference(one))) for name, one in by_backbone(found, tables).items()
        ],
        cost_plot=unique(arena_plot.cost(found)),
        command=command,
        version=__version__,
    )
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    told = {"title": title, "command": command, "version": __version__, "remarks": list(remarks)}
    write_json(out / "arena.json", told | dataclasses.asdict(found))
    return found


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
        [f"{row.rank:.2f}", row.name, *(f"{mean:.2f}" for mean, _ in row.figures), f"{row.parameters:,.0f}",
         f"{row.seconds:,.0f}", str(row.calls)]
        for row in found.rows
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in [head, *rows]]  # fmt: skip
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
