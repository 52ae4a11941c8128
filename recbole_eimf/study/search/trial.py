"""One trial of a search: what a Ray worker runs, and what it leaves on disk.

A trial's folder says everything about it, so a search that was stopped goes on from the folders alone: ``trial.json``
is there once the search is done with the trial; before that, ``last.safetensors`` and ``history.json`` are the state of
its training.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.files import free_name, write_json
from recbole_eimf.core.folders import SEARCH_FILE
from recbole_eimf.core.run_folder import (
    BEST_FILE,
    CONFIG_FILE,
    ERROR_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    PTH_FILE,
    RESULT_FILE,
    STATE_FILE,
)
from recbole_eimf.study.jobs import on_lent_gpus
from recbole_eimf.study.runs import read_of_run, trained_seconds
from recbole_eimf.study.search.space import identity

_SETTINGS_FILE = "settings.json"
_TRIAL_FILE = "trial.json"
_STATE_FILES = (STATE_FILE, MODEL_FILE, CONFIG_FILE, PTH_FILE, BEST_FILE)


@dataclass(frozen=True)
class Job:
    """What every trial of a search shares; it travels to Ray's workers.

    Attributes:
        model, dataset: as in :func:`recbole_eimf.run`.
        given: the configuration's keys, paths absolute.
        settings: the keys that each trial tries.
        metric: its name in the results (``ndcg@10``).
        bigger: whether more of it is better.
        out: the search's folder, absolute.
    """

    model: str
    dataset: str
    given: Mapping[str, Any]
    settings: list[dict[str, Any]]
    metric: str
    bigger: bool
    out: str

    def folder(self, number: int) -> Path:
        """Where trial ``number`` writes."""
        return Path(self.out) / "trials" / f"{number:03d}"

    def better(self, one: float, other: float | None) -> bool:
        """Whether ``one`` beats ``other``."""
        return other is None or (one > other if self.bigger else one < other)


@dataclass
class Trial:
    """What is known of a trial: validation only, the test part is never looked at.

    status: ``finished`` (trained to its end), ``stopped`` (by ASHA) or ``failed``; score: the best validation metric;
    best_epoch (from 0) and epochs as in a run's result; seconds of training and validation; curve: per validation
    (epochs so far, best score so far).
    """

    number: int
    status: str
    settings: dict[str, Any]
    score: float | None = None
    valid: dict[str, float] = field(default_factory=dict)
    best_epoch: int = -1
    epochs: int = 0
    seconds: float = 0.0
    curve: list[list[float]] = field(default_factory=list)
    error: str | None = None


def run_trial(config: dict[str, Any], job: Job, gpus: float, threads: int) -> None:
    """Ray's trainable: train trial ``config["number"]``, reporting the best validation score so far every epoch.

    A trial that was cut off goes on from its state; the epochs it had are reported again first, which tells the
    scheduler where it stands.

    Args:
        config: Ray's, holds the trial's number.
        job: the search.
        gpus: how much of a GPU Ray lent; 0 keeps the trial off all of them.
        threads: of torch.
    """
    from ray import tune

    from recbole_eimf.experiment.run import run

    number = config["number"]
    folder = job.folder(number)
    if not (Path(job.out) / SEARCH_FILE).is_file():
        raise ConfigError(f"out={job.out}: this worker does not see it; on a cluster, choose a folder all nodes share.")
    best: float | None = None

    def report(epoch: int, score: float) -> None:
        nonlocal best
        best = score if job.better(score, best) else best
        tune.report({"epoch": epoch + 1, "score": best})

    for entry in _evaluated(_history(folder)):
        report(entry["epoch"], entry["valid"][job.metric])
    keys = on_lent_gpus({**job.given, **job.settings[number], "output_dir": str(folder)}, bool(gpus))
    keys["num_threads"] = job.given.get("num_threads") or threads
    keys["resume"] = any(folder.rglob(STATE_FILE))  # of a phase, too
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SETTINGS_FILE, job.settings[number])
    (folder / ERROR_FILE).unlink(missing_ok=True)
    try:
        run(job.model, job.dataset, None, report, **keys)
    except Exception:
        with contextlib.suppress(OSError):  # a full disk: Ray is told all the same
            (folder / ERROR_FILE).write_text(traceback.format_exc(), encoding="utf-8")
        raise


def _history(folder: Path) -> list[dict[str, Any]]:
    return read_of_run(folder / HISTORY_FILE) or []


def _evaluated(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs that were scored on validation; with ``eval_step`` not all are."""
    return [entry for entry in history if "valid" in entry]


# ---------------------------------------------------------------------- the search's side
def close_trial(job: Job, number: int, failed: bool) -> Trial:
    """Write down how a trial ended, and drop the state of its training: nobody goes on from there."""
    folder = job.folder(number)
    result = folder / RESULT_FILE
    history = _history(folder)
    trial = Trial(number, "stopped", job.settings[number], curve=_curve(history, job))
    if failed:
        trial.status, trial.error = "failed", _reason(folder)
    evaluated = _evaluated(history)
    if evaluated:
        sign = 1 if job.bigger else -1
        # of equals the last, whose model is the one that is kept
        best = max(evaluated, key=lambda entry: (sign * entry["valid"][job.metric], entry["epoch"]))
        trial.valid, trial.best_epoch, trial.epochs = best["valid"], best["epoch"], history[-1]["epoch"] + 1
    if result.is_file() and not failed:
        trial.status = "finished"
        found = read_of_run(result)
        trial.valid = found["valid"]  # with the weights of a score prior, which are chosen once the model is trained
        if not history:  # a trainer of RecBole's own keeps none
            trial.epochs = found["epochs"]
    trial.score = trial.valid.get(job.metric)
    trial.seconds = round(trained_seconds(folder), 3)
    write_json(folder / _TRIAL_FILE, asdict(trial))
    if not failed:
        for path in [path for name in _STATE_FILES for path in folder.rglob(name)]:
            path.unlink()
    return trial


def set_other_trial_aside(job: Job, number: int) -> None:
    """Make room where a trial's folder holds other settings: those that another search's best is tried in move with it.

    The earlier trial is kept beside the others, and counts no more.
    """
    folder = job.folder(number)
    tried = next((read_of_run(path) for name in (_SETTINGS_FILE, _TRIAL_FILE)
                  if (path := folder / name).is_file()), None)  # fmt: skip
    if tried is None or identity(tried.get("settings", tried)) == identity(job.settings[number]):
        return
    kept = free_name(folder.with_name(f"{folder.name}-earlier"))
    folder.rename(kept)
    print(f"trial {number} is one of other settings now; the earlier one is kept in {kept}")


def read_trial(job: Job, number: int) -> Trial | None:
    """A trial that the search is done with; None for one that is still to run, as a failed one is."""
    held = read_of_run(job.folder(number) / _TRIAL_FILE)
    if held is None:
        return None
    trial = Trial(**held)
    return None if trial.status == "failed" else trial


def _curve(history: list[dict[str, Any]], job: Job) -> list[list[float]]:
    best, curve = None, []
    for entry in _evaluated(history):
        score = entry["valid"][job.metric]
        best = score if job.better(score, best) else best
        curve.append([entry["epoch"] + 1, best])
    return curve


def _reason(folder: Path) -> str:
    path = folder / ERROR_FILE
    said = path.read_text(encoding="utf-8").strip().splitlines() if path.is_file() else []
    return said[-1] if said else "the worker's process ended; was it out of memory, or the disk full?"
