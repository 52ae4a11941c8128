"""``python -m recbole_eimf compare``: several models, several seeds, one table."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.yaml_file import parse_command_line, parse_value, read_yaml
from recbole_eimf.core.environment import environment_kept
from recbole_eimf.core.errors import ConfigError, DataError, suggestion
from recbole_eimf.core.locks import folder_locked
from recbole_eimf.core.parts import require
from recbole_eimf.data.protocol import PROTOCOLS
from recbole_eimf.study import progress, runs
from recbole_eimf.study.options import OptionsParser
from recbole_eimf.study.report import report
from recbole_eimf.study.rows import Row, complete, parse_models, read_rows
from recbole_eimf.study.runs import RESERVED, Run, Workers
from recbole_eimf.study.search.space import shipped_space
from recbole_eimf.study.table import table
from recbole_eimf.study.table.summary import Experiment, Summary, summarise

USAGE = """usage: python -m recbole_eimf compare --models SASRec,EIMF[SASRec],placebo[SASRec] --dataset NAME --out DIR
         [--protocol leave_one_out|user_split|global_time] [--seeds 5] [--parallel 2] [--config_files a.yaml ...]
         [--key=value ...]

Trains every model with every seed and writes DIR/table.md, table.csv, table.tex, results.json and index.html. Finished
runs are not made again and interrupted ones go on: stop it at any time and give the same command.

models    SASRec            a backbone of ours, trained as EIMF trains it
          EIMF[SASRec]      EIMF over it; placebo[SASRec]: with the interests of random exemplars
          RecBole[SASRec]   RecBole's own class; other names as --model takes them (package.module:Class too)
          placebo[PAD], shuffled_text[...], noise_text[...]: a row with texts of other items, or noise in their place
          shuffled_history[SASRec]: trained and tested on histories in an order of chance
          TextKNN, ItemKNN+text: floors for data with text
          Popularity, Markov and DecayedItemKNN are always added
options   --models_file FILE.yaml   rows with name, model, backbone, keys, against
          --seeds 5 | 2020,2021     how many (from 2020 on), or which
          --metrics Recall@50,HR@50 what the tables show; the CSV and JSON files hold all
          --ties=source             the source's order inside one time, as the papers; tables shuffle it
          --mask_history=both       score every checkpoint with the history masked and not masked
          --tune-first N            the same search of N trials for every model on validation before the seeds
          --parallel N              runs at once, on Ray; 0: one after the other in this process
          --cpus-per-run 1, --gpus-per-run 0, --ray_address ADDRESS
          any configuration key as --key=value, for all rows; a row's own keys are stronger
"""
FIRST_SEED = 2020
#: keys of every new table: figures that the source's order inside one time may have made are no evidence
TABLE_DEFAULTS = {"ties": "shuffle"}


@dataclass(frozen=True)
class Plan:
    """An experiment and how to carry it out. ``masks``: the values of ``mask_history``, the one to train with first."""

    experiment: Experiment
    runs: list[Run]
    masks: tuple[bool, ...]
    workers: Workers
    out: Path


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, or 1 if a run failed.

    Raises:
        UserError: bad names, keys, files or data, before any run.
    """
    if not arguments or set(arguments) & {"-h", "--help"}:
        print(USAGE)
        return 0
    parser = options_parser("compare")
    parser.add_option("models", default="")
    parser.add_option("models_file")
    options, shared = parse_options(parser, arguments)
    rows = parse_models(options.models) + (read_rows(options.models_file) if options.models_file else [])
    if not rows:
        raise ConfigError("--models is missing, for example --models=SASRec,EIMF[SASRec],placebo[SASRec].")
    if not options.out:
        raise ConfigError("--out is missing: the folder for runs and tables, for example --out=results/office.")
    names = [row.name for row in rows]
    title = options.title or f"{', '.join(names) if len(names) <= 6 else f'{len(names)} models'} on {options.dataset}"
    experiment = Experiment(
        title,
        options.dataset,
        complete(rows),
        parse_seeds(options.seeds or "5"),
        {**TABLE_DEFAULTS, **shared},
        command_text("compare", arguments),
        metric_names(options.metrics),
    )
    return carry_out(experiment, options)


# ---------------------------------------------------------------------- the command line, shared with `study`
def options_parser(prog: str) -> OptionsParser:
    """The options that ``compare`` and ``study`` share; every other argument is a key."""
    parser = OptionsParser(prog)
    for name in ("dataset", "out", "seeds", "metrics", "title", "protocol"):
        parser.add_option(name)
    parser.add_option("config_files", nargs="+", default=[])
    for name, kind, default in (("parallel", int, 1), ("cpus_per_run", int, 1), ("gpus_per_run", float, 0.0),
                                ("tune_first", int, 0), ("ray_address", str, None)):  # fmt: skip
        parser.add_option(name, type=kind, default=default)
    return parser


def parse_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, dict]:
    """(options, the keys of all rows): configuration files first, the command line stronger.

    Raises:
        ConfigError: an argument that is neither an option nor ``--key=value``, a key that a table sets itself, no data
            set, a number out of range.
    """
    options, rest = parser.parse_known_args(arguments)
    shared: dict[str, Any] = {}
    for path in (path for text in options.config_files for path in text.split()):
        shared.update(read_yaml(path))
    shared.update(parse_command_line(rest))
    options.dataset = str(options.dataset or shared.pop("dataset", "") or "")
    if not options.dataset:
        raise ConfigError("--dataset is missing, for example --dataset=ml-100k (ships with RecBole).")
    if options.protocol:
        if options.protocol not in PROTOCOLS:
            near = suggestion(options.protocol, PROTOCOLS)
            raise ConfigError(f"--protocol={options.protocol}: allowed are {', '.join(PROTOCOLS)}.{near}")
        shared["protocol"] = options.protocol
    for key, instead in RESERVED.items():
        if key in shared:
            raise ConfigError(f"{key}={shared[key]!r}: a table sets it for each run; instead there is {instead}.")
    for name, least in (("parallel", 0), ("cpus_per_run", 1), ("gpus_per_run", 0), ("tune_first", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name}={getattr(options, name)}: at least {least}.")
    return options, shared


def parse_seeds(text: str | int) -> tuple[int, ...]:
    """Seeds of a number of them, or of a list.

    >>> parse_seeds("3"), parse_seeds("7,9"), parse_seeds("[5]")
    ((2020, 2021, 2022), (7, 9), (5,))

    Raises:
        ConfigError: neither, or a seed twice.
    """
    value = parse_value(str(text))
    if isinstance(value, str | tuple):
        value = [parse_value(part) for part in str(text).strip("()").split(",") if part.strip()]
    if isinstance(value, int) and value > 0 and not isinstance(value, bool):
        return tuple(range(FIRST_SEED, FIRST_SEED + value))
    if isinstance(value, list) and value and all(type(seed) is int for seed in value) and len({*value}) == len(value):
        return tuple(value)
    raise ConfigError(f"seeds={text}: a number of seeds (5), or different seeds (2020,2021).")


def metric_names(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """RecBole's lower-case names of the metrics a user wants to see.

    >>> metric_names("Recall@50, HR@50")
    ('recall@50', 'hit@50')
    """
    names = text.split(",") if isinstance(text, str) else text or ()
    lower = [str(name).strip().lower() for name in names]
    return tuple("hit@" + name.removeprefix("hr@") if name.startswith("hr@") else name for name in lower)


def command_text(name: str, arguments: Sequence[str]) -> str:
    """The command to print, so that it can be given again."""
    return f"python -m recbole_eimf {name} {shlex.join(arguments)}"


# ---------------------------------------------------------------------- carrying it out
def check(experiment: Experiment, options: argparse.Namespace) -> None:
    """Look at an experiment's names, keys and folder without making anything.

    Raises:
        UserError: as :func:`carry_out` would, but for a folder in use.
    """
    with environment_kept("CUDA_VISIBLE_DEVICES"):
        _runs(experiment, options)


def carry_out(experiment: Experiment, options: argparse.Namespace) -> int:
    """Make the missing runs, writing the tables after each. Returns 0, or 1 if a run failed.

    Raises:
        UserError: before any run, for whatever is wrong with keys, data or folders, or a folder in use.
    """
    require("matplotlib", *(["ray"] if options.parallel or options.tune_first else []))
    with folder_locked(Path(options.out).resolve()):
        return _carried_out(experiment, options)


def _carried_out(experiment: Experiment, options: argparse.Namespace) -> int:
    with environment_kept("CUDA_VISIBLE_DEVICES"):  # RecBole's Config sets it, and would hide GPUs from Ray
        plan = _planned(experiment, options)
        _write(plan)  # also tells a metric that nobody computes before anything is trained
        missing = [run for run in plan.runs if not run.finished]
        runs.prepare(missing)
    if missing:
        _make(plan, missing)
    summary = _write(plan)
    print(f"\n{table.markdown(summary)}\nwritten: {plan.out}/index.html, table.md, table.csv, table.tex, results.json")
    failed = [run.label for run in plan.runs if run.error()]
    if failed:
        print(f"failed: {', '.join(failed)} (error.txt under {plan.out}/runs); the same command tries them again")
    return 1 if failed else 0


def _planned(experiment: Experiment, options: argparse.Namespace) -> Plan:
    workers = Workers(options.parallel, options.cpus_per_run, options.gpus_per_run, options.ray_address)
    if workers.ray_address:
        runs.check_cluster(workers.ray_address)
    out = Path(options.out).resolve()
    shared, masks = _masks(experiment.shared)
    planned = _runs(experiment, options)  # names and keys are right before a search begins
    if by_recipe := runs.takers(experiment.rows, shared):
        print(f"recipe={runs.today(shared)['recipe']}: {', '.join(by_recipe)}; other rows train as they are")
    if options.tune_first:
        tuned, remarks = _tuned(experiment, shared, workers, options.tune_first, out / "tune")
        planned, experiment = _runs(experiment, options, tuned), replace(experiment, remarks=remarks)
    return Plan(experiment, planned, masks, workers, out)


def _runs(
    experiment: Experiment, options: argparse.Namespace, tuned: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Run]:
    """The runs of a table; ``tuned``: what the search of ``--tune-first`` found, None before it."""
    shared, masks = _masks(experiment.shared)
    folder = Path(options.out).resolve() / "runs"
    settled = tuned is not None or not options.tune_first
    return runs.plan(
        experiment.rows, experiment.dataset, experiment.seeds, shared, folder, len(masks) > 1, tuned, settled
    )


def _tuned(
    experiment: Experiment, shared: Mapping[str, Any], workers: Workers, samples: int, folder: Path
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The same search for every row that has something to search, on validation: (what each found, by name; remarks).

    Keys that are given are not searched. A row whose trials all fail goes on as it is: its runs will say why.
    """
    from recbole_eimf.study.search import tune

    found: dict[str, dict[str, Any]] = {}
    remarks = [f"Rows have the best settings of a search of their own: {samples} trials each, on validation."]
    cpus = None if workers.ray_address else max(workers.parallel, 1) * workers.cpus
    effort = tune.Effort(
        samples, cpus_per_trial=workers.cpus, gpus_per_trial=workers.gpus, cpus=cpus, ray_address=workers.ray_address
    )
    for row in [row for row in experiment.rows if _searchable(row, experiment.dataset, shared)]:
        _, given = runs.configured(row, experiment.dataset, shared)
        given = {key: value for key, value in given.items() if key not in runs.FORCED}
        print(f"search for {row.name}:")
        try:
            best = tune.search(row.model, experiment.dataset, folder / runs.folder_name(row.name), effort, **given)
            found[row.name] = dict(best.require_best().settings)
        except DataError as error:
            remarks.append(f"**{row.name} is not tuned:** {error}")
            print(f"{row.name}: {error}")
    return found, tuple(remarks)


def _searchable(row: Row, dataset: str, shared: Mapping[str, Any]) -> bool:
    """Whether a space is shipped for a row. Raises ConfigError if there is none for one that is trained."""
    config, _ = runs.configured(row, dataset, shared)
    try:
        shipped_space(config["model"], contract_of(config.model_class).backbone_name(config))
    except ConfigError as error:
        if not row.counting:
            raise ConfigError(f"--tune-first: row {row.name!r}: {error}") from error
        return False
    return True


def _masks(shared: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[bool, ...]]:
    """The keys to train with, and the values of mask_history to report, the one to train with first."""
    wanted = shared.get("mask_history", False)
    if wanted == "auto":
        raise ConfigError("mask_history=auto: rows of one table rank the same candidates. Write True, False or both.")
    if wanted != "both":
        return dict(shared), (bool(wanted),)
    first = shared.get("protocol", "leave_one_out") != "user_split"
    return {**shared, "mask_history": first}, (first, not first)


def _make(plan: Plan, missing: list[Run]) -> None:
    print(f"{len(missing)} of {len(plan.runs)} runs to make; stop at any time, the same command goes on")
    with progress.shown(plan.runs, plan.workers.parallel) as tell:
        for event in runs.execute_all(missing, plan.workers):
            if event is not None:
                tell(*event)
                _write(plan)


def _write(plan: Plan) -> Summary:
    plan.out.mkdir(parents=True, exist_ok=True)
    summary = summarise(plan.experiment, plan.runs, plan.masks)
    table.write(summary, plan.out)
    report.write(summary, plan.out)
    return summary
