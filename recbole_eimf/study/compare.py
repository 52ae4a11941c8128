"""Several models, several seeds, one table: what ``compare`` and ``study`` do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_eimf.config.config import EIMFConfig, check_keys
from recbole_eimf.config.old_names import today
from recbole_eimf.config.yaml_file import parse_value, read_files
from recbole_eimf.core.environment import environment_kept
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.folders import check_kind
from recbole_eimf.core.locks import folder_locked
from recbole_eimf.core.parts import require
from recbole_eimf.core.ray_start import check_cluster
from recbole_eimf.data.history_mask import decide, masks_history
from recbole_eimf.experiment.assembly import datasets
from recbole_eimf.study import progress, runs
from recbole_eimf.study.execute import Workers, execute_all
from recbole_eimf.study.jobs import gpus_of_a_job, make_text_once
from recbole_eimf.study.report import report
from recbole_eimf.study.rows import Row, complete, over_their_own, parse_models
from recbole_eimf.study.runs import Run
from recbole_eimf.study.same_question import keys_to_train_with, masks_of, reports_both_masks
from recbole_eimf.study.table import table
from recbole_eimf.study.table.summary import Experiment, Summary, summarise
from recbole_eimf.study.tune_first import tune_rows

if TYPE_CHECKING:
    import pandas as pd

FIRST_SEED = 2020
#: keys of every new table: figures that the source's order inside one time may have made are no evidence
TABLE_DEFAULTS = {"ties": "shuffle"}


@dataclass(frozen=True)
class Effort:
    """How a table is made: ``parallel`` runs at once on Ray (0: one after the other in this process), what each takes
    (``gpus_per_run`` None: one where this machine has any), and ``tune_first`` trials of a search for every row before
    its seeds."""

    parallel: int = 1
    cpus_per_run: int = 1
    gpus_per_run: float | None = None
    tune_first: int = 0
    ray_address: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("parallel", 0), ("cpus_per_run", 1), ("gpus_per_run", 0), ("tune_first", 0)):
            if getattr(self, name) is not None and not least <= getattr(self, name) < math.inf:
                raise ConfigError(f"--{name}={getattr(self, name)}: at least {least}.")

    @property
    def workers(self) -> Workers:
        """Where the runs run."""
        return Workers(self.parallel, self.cpus_per_run, gpus_of_a_job(self.gpus_per_run), self.ray_address)


@dataclass(frozen=True)
class Compared:
    """A table that was made: its ``folder`` (``index.html``, ``table.md``, ``.csv``, ``.tex``, ``comparisons.csv``,
    ``slices.csv``, ``results.json``), what it sums up, and the labels of the runs that ``failed``."""

    folder: Path
    summary: Summary
    failed: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """``table.csv``: every row's metrics over its seeds."""
        import pandas as pd

        return pd.read_csv(self.folder / "table.csv")

    def __str__(self) -> str:
        return table.markdown(self.summary)


@dataclass(frozen=True)
class Plan:
    """An experiment and how to carry it out. ``masks``: the values of ``mask_history``, the one to train with first."""

    experiment: Experiment
    runs: list[Run]
    masks: tuple[bool, ...]
    workers: Workers
    out: Path


def compare(
    models: str | Sequence[str | Row],
    dataset: str,
    out: str | Path,
    *,
    seeds: int | str | Sequence[int] = 5,
    metrics: str | Sequence[str] | None = None,
    title: str | None = None,
    parallel: int = 1,
    cpus_per_run: int = 1,
    gpus_per_run: float | None = None,
    tune_first: int = 0,
    ray_address: str | None = None,
    config_file_list: Sequence[str | Path] = (),
    command: str = "recbole_eimf.compare(...)",
    **overrides: Any,
) -> Compared:
    """Train several models with several seeds and write one table; finished runs are not made again.

    Args:
        models: ``"SASRec,EIMF[SASRec]"``, or such names one by one, or rows of a ``models_file``
            (:func:`recbole_eimf.study.rows.read_rows`). Popularity, Markov and DecayedItemKNN are always added, under
            ``protocol=global_time`` with a half-life that validation chooses too (``Popularity, recent``).
        dataset: as in :func:`recbole_eimf.run`.
        out: folder for runs and tables; the same call goes on with what it holds.
        seeds: how many (from 2020 on), or which.
        metrics: what the tables show, for example ``["Recall@50", "HR@50"]``; the CSV and JSON files hold all.
        title: above the table.
        parallel: runs at once, on Ray; 0: one after the other in this process.
        cpus_per_run: processors that each takes.
        gpus_per_run: GPUs that each takes on Ray; parts are allowed, None is one where this machine has any.
        tune_first: trials of a search that every row has on validation before its seeds.
        ray_address: of a cluster to run on.
        config_file_list: YAML files of keys, the later ones stronger.
        command: how the table says it was made.
        overrides: configuration keys of all rows, strongest but for a row's own.

    Returns:
        The table: ``print`` it, or take ``.to_frame()``.

    Raises:
        UserError: bad names, keys, files or data, before any run; or another command works in ``out``.

    Example:
        >>> import recbole_eimf
        >>> found = recbole_eimf.compare(  # doctest: +SKIP
        ...     "SASRec,EIMF[SASRec]", "ml-100k", "results/ml-100k", seeds=3, parallel=0
        ... )
        >>> found.to_frame()  # doctest: +SKIP
    """
    named = [models] if isinstance(models, str) else list(models)
    rows = [row for each in named for row in ([each] if isinstance(each, Row) else parse_models(each))]
    shared = read_files(config_file_list) | overrides
    experiment = experiment_of(rows, dataset, shared, command, seeds=seeds, metrics=metrics, title=title)
    return carry_out(experiment, Path(out), Effort(parallel, cpus_per_run, gpus_per_run, tune_first, ray_address))


def experiment_of(
    rows: Sequence[Row],
    dataset: str,
    shared: Mapping[str, Any],
    command: str,
    *,
    seeds: int | str | Sequence[int] = 5,
    metrics: str | Sequence[str] | None = None,
    title: str | None = None,
) -> Experiment:
    """Rows on a data set; ``shared`` are the keys of all of them. Raises ConfigError where there is no row."""
    if not rows:
        raise ConfigError("--models is missing, for example --models=SASRec,EIMF[SASRec],placebo[SASRec].")
    check_shared(shared)
    names = [row.name for row in rows]
    keys = {**TABLE_DEFAULTS, **shared}
    return Experiment(
        title or f"{', '.join(names) if len(names) <= 6 else f'{len(names)} models'} on {dataset}",
        dataset,
        complete(over_their_own(rows, keys), protocol=keys.get("protocol")),
        parse_seeds(seeds),
        keys,
        command,
        metric_names(metrics),
    )


def check_shared(shared: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key that a table sets for each of its runs, or that nobody knows: no row is to blame."""
    runs.check_reserved(shared)
    if not shared.get("allow_unknown_keys"):
        check_keys(shared)


def parse_seeds(text: str | int | Sequence[int]) -> tuple[int, ...]:
    """Seeds of a number of them, or of a list.

    >>> parse_seeds("3"), parse_seeds("7,9"), parse_seeds("[5]")
    ((2020, 2021, 2022), (7, 9), (5,))

    Raises:
        ConfigError: neither, or a seed twice.
    """
    value = list(text) if isinstance(text, list | tuple) else parse_value(str(text))
    if isinstance(value, str | tuple):
        value = [parse_value(part) for part in str(text).strip("()").split(",") if part.strip()]
    if type(value) is int and value >= FIRST_SEED:  # a seed, not a number of them
        raise ConfigError(f"seeds={text}: {value} seeds of every row? The one seed {value} is written [{value}].")
    if isinstance(value, int) and value > 0 and not isinstance(value, bool):
        return tuple(range(FIRST_SEED, FIRST_SEED + value))
    if isinstance(value, list) and value and all(type(seed) is int for seed in value) and len({*value}) == len(value):
        return tuple(value)
    raise ConfigError(f"seeds={text}: a number of seeds (5), or different seeds (2020,2021).")


def metric_names(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """RecBole's lower-case names of the metrics a user wants to see.

    >>> metric_names("Recall@50, HR@50"), metric_names("[NDCG@10]")
    (('recall@50', 'hit@50'), ('ndcg@10',))
    """
    names = text.strip("[] ").split(",") if isinstance(text, str) else text or ()
    lower = [str(name).strip().lower() for name in names]
    known = ("hit@" + name.removeprefix("hr@") if name.startswith("hr@") else name for name in lower)
    return tuple(dict.fromkeys(known))  # one that is named twice would be tested, and corrected for, twice


# ---------------------------------------------------------------------- carrying it out
def check(experiment: Experiment, out: Path, effort: Effort) -> None:
    """Look at an experiment's names, keys and folder without making anything.

    Raises:
        UserError: as :func:`carry_out` would, but for a folder in use.
    """
    with environment_kept("CUDA_VISIBLE_DEVICES"):
        experiment = _with_one_mask(experiment, out)
        masks_of(experiment, _runs(experiment, out, effort))


def carry_out(experiment: Experiment, out: Path, effort: Effort) -> Compared:
    """Make the missing runs, writing the tables after each.

    Raises:
        UserError: before any run, for whatever is wrong with keys, data or folders, or a folder in use.
    """
    require("matplotlib", *(["ray"] if effort.parallel or effort.tune_first else []))
    out = out.resolve()
    check_kind(out, "table")
    with folder_locked(out):
        return _make_and_write(experiment, out, effort)


def _make_and_write(experiment: Experiment, out: Path, effort: Effort) -> Compared:
    with environment_kept("CUDA_VISIBLE_DEVICES"):  # RecBole's Config sets it, and would hide GPUs from Ray
        plan = _plan_and_tune(experiment, out, effort)
        _write(plan)  # also tells a metric that nobody computes before anything is trained
        missing = [run for run in plan.runs if not run.finished]
        configs = (EIMFConfig(run.row.model, run.dataset, None, dict(run.given)) for run in missing)
        make_text_once(configs, told=len(plan.masks) > 1)  # the table has both
    if missing:
        _make(plan, missing)
    return Compared(plan.out, _write(plan), tuple(run.label for run in plan.runs if run.error()))


def _plan_and_tune(experiment: Experiment, out: Path, effort: Effort) -> Plan:
    workers = effort.workers
    if workers.ray_address:
        check_cluster(workers.ray_address)
    experiment = _with_one_mask(experiment, out, tell=True)
    shared = keys_to_train_with(experiment.shared)
    planned = _runs(experiment, out, effort)  # names and keys are right before a search begins
    masks = masks_of(experiment, planned)
    if by_recipe := runs.takers(experiment.rows, shared):
        print(f"recipe={today(shared)['recipe']}: {', '.join(by_recipe)}; other rows train as they are")
    if effort.tune_first:
        summarise(experiment, planned, masks)  # a metric that nobody computes is told before hours of search
        unfinished = (run for run in planned if not run.finished)
        make_text_once(EIMFConfig(run.row.model, run.dataset, None, dict(run.given)) for run in unfinished)
        searched, remarks = tune_rows(experiment, shared, workers, effort.tune_first, out / "tune")
        experiment = replace(experiment, remarks=remarks, searched=searched)
        planned = _runs(experiment, out, effort, {name: found.settings for name, found in searched.items()})
        masks = masks_of(experiment, planned)
    return Plan(experiment, planned, masks, workers, out)


def _with_one_mask(experiment: Experiment, out: Path, tell: bool = False) -> Experiment:
    """With ``mask_history=auto`` decided for all rows, by the training part that they share."""
    if experiment.shared.get("mask_history") != "auto":
        return experiment
    any_mask, folder = {**experiment.shared, "mask_history": True}, out.resolve() / "runs"
    # names and keys are right before data are read; what the folder holds has a mask already
    planned = runs.plan(experiment.rows, experiment.dataset, experiment.seeds, any_mask, folder, settled=False)
    counting = next(run for run in planned if run.row.counting)
    config = EIMFConfig(counting.row.model, counting.dataset, None, {**counting.given, "mask_history": "auto"})
    config.data_told = True  # it is said here
    said = decide(config, datasets(config)[1][0])
    if tell:
        print(said)
    return replace(experiment, shared={**experiment.shared, "mask_history": masks_history(config)})


def _runs(
    experiment: Experiment, out: Path, effort: Effort, tuned: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Run]:
    """The runs of a table; ``tuned``: what the search of ``--tune-first`` found, None before it."""
    shared = keys_to_train_with(experiment.shared)
    return runs.plan(
        experiment.rows,
        experiment.dataset,
        experiment.seeds,
        shared,
        out.resolve() / "runs",
        both_masks=reports_both_masks(experiment.shared),
        tuned=tuned,
        settled=tuned is not None or not effort.tune_first,
        trials=effort.tune_first,
    )


def _make(plan: Plan, missing: list[Run]) -> None:
    print(f"{len(missing)} of {len(plan.runs)} runs to make; stop at any time, the same command goes on")
    with progress.progress_bar(plan.runs, plan.workers.parallel) as tell:
        for event in execute_all(missing, plan.workers):
            if event is not None:
                tell(*event)
                _write(plan)


def _write(plan: Plan) -> Summary:
    plan.out.mkdir(parents=True, exist_ok=True)
    summary = summarise(plan.experiment, plan.runs, plan.masks)
    table.write(summary, plan.out)
    report.write(summary, plan.out)
    return summary
