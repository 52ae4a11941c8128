"""A search over a space of settings on Ray Tune, chosen on validation alone.

Ray runs the trials and ASHA ends the weak ones early. What a trial found stands in its own folder, so a search that was
stopped in any way, or asked for more samples, goes on from there: see :mod:`recbole_eimf.study.search.trial`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recbole_eimf.config.config import EIMFConfig, check_keys
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.models import short_name
from recbole_eimf.config.placebo import check_placebo
from recbole_eimf.config.same_experiment import deciding_settings, differing_settings, in_words, unread
from recbole_eimf.config.yaml_file import read_files, read_yaml
from recbole_eimf.core.environment import environment_kept
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.files import read_json, write_json
from recbole_eimf.core.folders import SEARCH_FILE, check_kind
from recbole_eimf.core.locks import folder_locked
from recbole_eimf.core.parts import require
from recbole_eimf.semantic.needs import check_needs
from recbole_eimf.study.jobs import absolute_paths, gpus_of_a_job, make_text_once, ray_running
from recbole_eimf.study.search.outcome import SearchOutcome
from recbole_eimf.study.search.result import write_found
from recbole_eimf.study.search.space import Space, draw_settings, fitted, read_space, shipped_space, text_ways
from recbole_eimf.study.search.trial import Job, Trial, read_trial, run_trial, set_other_trial_aside

_REDUCTION = 3  # ASHA's: of every three trials that reach a rung about one goes on


@dataclass(frozen=True)
class SearchEffort:
    """How much is tried, and on what: see ``tune --help``. None: a default that depends on the model or the machine."""

    samples: int = 20
    max_epochs: int | None = None
    grace: int | None = None
    cpus_per_trial: float = 1
    gpus_per_trial: float | None = None
    cpus: int | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        for key, least in (("samples", 1), ("max_epochs", 1), ("grace", 1), ("cpus_per_trial", 0.1), ("cpus", 1)):
            value = getattr(self, key)
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"--{key.replace('_', '-')}={value}: at least {least} is needed.")
        if self.gpus_per_trial is not None and not 0 <= self.gpus_per_trial < math.inf:
            raise ConfigError(f"--gpus-per-trial={self.gpus_per_trial}: a number that is not negative is needed.")
        if self.ray_address and self.cpus:
            raise ConfigError(f"--cpus={self.cpus}: limits this machine, but the trials run on {self.ray_address}.")


def tune(
    model: str,
    dataset: str,
    out: str | Path | None = None,
    *,
    samples: int = 20,
    max_epochs: int | None = None,
    grace: int | None = None,
    cpus_per_trial: float = 1,
    gpus_per_trial: float | None = None,
    cpus: int | None = None,
    ray_address: str | None = None,
    space: str | Path | None = None,
    begin_with: str | Path | Mapping[str, Any] | None = None,
    config_file_list: Sequence[str] = (),
    **overrides: Any,
) -> SearchOutcome:
    """Search the settings of a model on validation; the test part is never looked at.

    Args:
        model: as in :func:`recbole_eimf.run`.
        dataset: as in :func:`recbole_eimf.run`.
        out: folder of the search, which goes on with what it holds; ``results/tune/<model>-<data set>`` by default.
        samples: trials; the first is the configuration as it stands.
        max_epochs: of one trial; the configuration's ``epochs`` by default.
        grace: epochs that a trial has before ASHA may stop it.
        cpus_per_trial: processors that a trial takes.
        gpus_per_trial: GPUs that a trial takes; parts are allowed.
        cpus: of this machine to use; all by default.
        ray_address: of a cluster to run on.
        space: a file in place of the shipped space.
        begin_with: settings of the second trial, or a file of them such as another search's ``best.yaml``; keys that
            are not searched here are left out of it.
        config_file_list: YAML files of keys, the later ones stronger.
        overrides: configuration keys; strongest, and not searched.

    Returns:
        The trials (``.to_frame()``) and the best one's ``.settings``.

    Raises:
        UserError: bad input, before any trial; or no trial gave a score.

    Example:
        >>> import recbole_eimf
        >>> found = recbole_eimf.tune("EIMF", "ml-100k", samples=4, max_epochs=5)  # doctest: +SKIP
        >>> recbole_eimf.run("EIMF", "ml-100k", **found.settings)  # doctest: +SKIP
    """
    effort = SearchEffort(samples, max_epochs, grace, cpus_per_trial, gpus_per_trial, cpus, ray_address)
    return search(model, dataset, out, effort, space, config_file_list, begin_with, **overrides)


def search(
    model: str,
    dataset: str,
    out: str | Path | None = None,
    effort: SearchEffort | None = None,
    space_file: str | Path | None = None,
    config_file_list: Sequence[str] = (),
    begin_with: str | Path | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> SearchOutcome:
    """Search the settings of a model on a data set; goes on with what ``out`` holds.

    Args:
        model: as in :func:`recbole_eimf.run`.
        dataset: as in :func:`recbole_eimf.run`.
        out: folder of the search.
        effort: trials, epochs and machines.
        space_file: instead of the shipped space.
        config_file_list: YAML files, the later ones stronger.
        begin_with: as for :func:`tune`.
        overrides: configuration keys; strongest, and not searched.

    Returns:
        The trials and the best one, which ``out`` also holds as files.

    Raises:
        UserError: bad input, before any trial; or no trial gave a score.
    """
    require("ray", "matplotlib")
    from recbole_eimf.experiment import plugin

    plugin.adapt_recbole()
    effort = effort or SearchEffort()
    given = read_files(config_file_list) | overrides
    with environment_kept("CUDA_VISIBLE_DEVICES"):  # RecBole's Config sets it, and would hide GPUs from Ray
        base = _config(model, dataset, given)
        check_placebo(base, base.external_config_dict)
        check_needs(base)
        space = _space(space_file, base, overrides)
        first = {key: base[key] for key in space if key in base}
        second = _second(begin_with, space, first)
        if second:
            _check_second(begin_with, lambda: _config(model, dataset, {**given, **second}))
        drawn = draw_settings(space, effort.samples, base["seed"], first, second)
        epochs = effort.max_epochs or int(base["epochs"])
        out = Path(out or Path("results") / "tune" / f"{_name(base)}-{dataset}").absolute()
        check_kind(out, "search")
        job = _job(model, dataset, given, base, drawn, epochs, out)
        grace = effort.grace or min(10, max(1, epochs // 4), epochs)
        if grace > epochs:
            raise ConfigError(
                f"grace={grace}: epochs that every trial has, and a trial has {epochs} at most. Give fewer, or more "
                f"--max_epochs."
            )
    with folder_locked(out):
        _claim(job, space, base, {"max_epochs": epochs, "grace": grace})
        return _run_missing_trials(SearchOutcome(job, space, given, []), epochs, grace, effort)


def _run_missing_trials(found: SearchOutcome, epochs: int, grace: int, effort: SearchEffort) -> SearchOutcome:
    """Run the trials that the folder does not hold yet."""
    job, drawn = found.job, found.job.settings
    for number in range(len(drawn)):
        set_other_trial_aside(job, number)
    found.trials += [trial for number in range(len(drawn)) if (trial := read_trial(job, number))]
    done = {trial.number for trial in found.trials}
    pending = [number for number in range(len(drawn)) if number not in done]
    with environment_kept("CUDA_VISIBLE_DEVICES"):
        make_text_once(_fitting(job, pending))
    print(f"{len(drawn)} trials over {', '.join(found.space)}; {len(done)} of them done before. Folder: {job.out}")
    try:
        if pending:
            _run_trials(job, pending, found, epochs, grace, effort)
    except KeyboardInterrupt:
        # by what their folders hold: the news of a trial's end may not have come yet
        held = sum(read_trial(job, number) is not None for number in range(len(drawn)))
        print(f"\nstopped with {held} of {len(drawn)} trials done; the same command goes on.")
        raise
    finally:
        if found.best:
            write_found(found)
    found.require_best()
    return found


# ---------------------------------------------------------------------- before the trials
def _config(model: str, dataset: str, given: Mapping[str, Any]) -> EIMFConfig:
    return EIMFConfig(model, dataset, None, {"state": "WARNING", **given})


def _fitting(job: Job, numbers: Sequence[int]) -> Iterator[EIMFConfig]:
    """The configurations of trials; settings that do not fit each other are left to the trial, which says so."""
    for number in numbers:
        with suppress(ConfigError):
            yield _config(job.model, job.dataset, {**job.given, **job.settings[number]})


def _name(config: EIMFConfig) -> str:
    backbone = short_name(_backbone(config))
    return config["model"] if backbone in (None, config["model"]) else f"{config['model']}-{backbone}"


def _backbone(config: EIMFConfig) -> str | None:
    return contract_of(config.model_class).backbone_name(config)


def _space(space_file: str | Path | None, base: EIMFConfig, fixed: Mapping[str, Any]) -> Space:
    # a model of RecBole's is searched as the backbone of its name
    if space_file:
        space = read_space(space_file)
    else:
        space = shipped_space(base["model"], _backbone(base), base["recipe"], text_ways(base))
    settled = dict(fixed)
    if "preference" in space and not _clusters(base):
        print("not searched, because the exemplars are those of interest_file or a share of the users: preference")
        settled["preference"] = base["preference"]
    left = fitted(space, settled, base)
    if not space:
        raise ConfigError(f"{space_file}: nothing in it to search. Write lines such as learning_rate: [0.001, 0.003].")
    if not left:
        raise ConfigError(f"{', '.join(space)}: nothing is left to search; all of it is given as --key.")
    if dropped := [key for key in space if key in fixed]:
        print(f"not searched, because given: {', '.join(dropped)}")
    return left


def _second(
    begin_with: str | Path | Mapping[str, Any] | None, space: Space, first: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The second trial's settings, None where it is a draw as the others."""
    if begin_with is None:
        return None
    found = begin_with if isinstance(begin_with, Mapping) else read_yaml(begin_with)
    check_keys(found)
    second = {key: value for key, value in found.items() if key in space}
    if not second:
        raise ConfigError(f"begin_with={begin_with}: none of its keys is searched here. Searched: {', '.join(space)}.")
    for key, dimension in space.items():
        if not dimension.drawn:  # it and another share a sum: the one that is not said follows the other
            other = dimension.values[1]
            if key in second:
                second.setdefault(other, dimension.left_by(second[key]))
            elif other in second:
                second[key] = dimension.left_by(second[other])
    return {**first, **second}


def _check_second(begin_with: Any, configure: Callable[[], EIMFConfig]) -> None:
    try:
        configure()
    except ConfigError as error:
        name = "begin_with" if isinstance(begin_with, Mapping) else begin_with
        raise ConfigError(f"{name}: {error}") from error


def _clusters(base: EIMFConfig) -> bool:
    """Whether p of affinity propagation has a say in what exemplars there are."""
    source = base["shuffled_source"] if base["interest_source"] == "shuffled" else base["interest_source"]
    side_loaded = source == "file" or (source is None and base["interest_file"])
    return base["use_interests"] and base["clustering"] != "none" and base["preference"] and not side_loaded


def _job(
    model: str,
    dataset: str,
    given: Mapping[str, Any],
    base: EIMFConfig,
    drawn: list[dict[str, Any]],
    epochs: int,
    out: Path,
) -> Job:
    metric = base["valid_metric"].lower()
    if int(base["eval_step"]) < 1:
        raise ConfigError(f"eval_step={base['eval_step']}: a search chooses on validation; set 1 or more.")
    own = {"epochs": epochs, "skip_test": True, "compare_with": [], "save_split": None, "show_progress": False}
    keys = {**given, **absolute_paths(base), **own, "state": "WARNING"}
    return Job(model, dataset, keys, drawn, metric, bool(base["valid_metric_bigger"]), str(out))


def _claim(job: Job, space: Space, base: EIMFConfig, schedule: Mapping[str, int]) -> None:
    """Write down what this folder searches, or refuse a folder that holds another search."""
    ranges = {f"space of {key}": {d.kind: list(d.values)} for key, d in space.items()}
    wanted = {**deciding_settings(base), "model": job.model, "dataset": job.dataset, **schedule, **ranges}
    for key in ("epochs", "skip_test"):  # max_epochs says it; a search never looks at the test part
        wanted.pop(key, None)
    wanted = json.loads(json.dumps(wanted, default=str))
    path = Path(job.out) / SEARCH_FILE
    held = read_json(path, "Give another --out, or remove it where nothing of the search is to be kept.")
    if held is not None:
        if "data.inter" not in held:
            raise ConfigError(f"out={job.out} holds a search of an older version. Give another --out.")
        read_by_none = unread(base).intersection(*(unread(trial) for trial in _fitting(job, range(len(job.settings)))))
        differs = differing_settings(held, wanted, read_by_none)
        if differs:
            raise ConfigError(
                f"out={job.out} holds a search with other settings: {in_words(differs)}. Give the same command, or "
                f"another --out."
            )
    write_json(path, wanted)


# ---------------------------------------------------------------------- on Ray
def _run_trials(
    job: Job, pending: list[int], found: SearchOutcome, epochs: int, grace: int, effort: SearchEffort
) -> None:
    # our folders say all there is to say, and Ctrl-C shall end the search, not Ray's loop alone
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output ignores verbose=0
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from recbole_eimf.study.search.display import Display

    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="score",
        mode="max" if job.bigger else "min",
        max_t=epochs,
        grace_period=grace,
        reduction_factor=_REDUCTION,
        stop_last_trials=False,  # a trial at max_t writes its result first
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the display and trials.csv tell of failed trials
    _replay(scheduler, found.trials)
    gpus = gpus_of_a_job(effort.gpus_per_trial)
    threads = max(1, int(effort.cpus_per_trial))
    scratch = Path(job.out) / "ray"
    with _ray(effort, gpus), Display(job, pending, found, epochs) as display:
        try:
            tune.run(
                tune.with_parameters(run_trial, job=job, gpus=gpus, threads=threads),
                config={"number": tune.grid_search(pending)},
                resources_per_trial={"cpu": effort.cpus_per_trial, "gpu": gpus},
                scheduler=scheduler,
                callbacks=[display],
                storage_path=str(scratch),
                name="search",
                trial_dirname_creator=lambda trial: f"{trial.config['number']:03d}",
                reuse_actors=True,
                raise_on_failed_trial=False,
                verbose=0,
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _replay(scheduler: Any, trials: list[Trial]) -> None:
    """Tell ASHA what earlier trials scored at each rung, so that a search that goes on is as strict as it was."""
    for trial in trials:
        ghost = SimpleNamespace(trial_id=f"done-{trial.number}")
        scheduler.on_trial_add(None, ghost)
        for epoch, score in trial.curve:
            scheduler.on_trial_result(None, ghost, {"epoch": epoch, "score": score})


@contextmanager
def _ray(effort: SearchEffort, gpus: float) -> Iterator[None]:
    with ray_running(effort.cpus, address=effort.ray_address) as ray:
        if not effort.ray_address:
            _check_resources(ray.cluster_resources(), effort.cpus_per_trial, gpus)
        yield


def _check_resources(there: Mapping[str, float], cpus: float, gpus: float) -> None:
    """A trial that asks for more than the machine has would wait for ever."""
    for name, option, wanted in (("CPU", "--cpus-per-trial", cpus), ("GPU", "--gpus-per-trial", gpus)):
        if wanted > there.get(name, 0):
            raise ConfigError(f"{option}={wanted:g}: this machine offers {there.get(name, 0):g} {name}.")
