"""Making the runs of a table: one in its folder, or many, several at a time, here or on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_eimf.config.same_experiment import differing_settings
from recbole_eimf.core.errors import UserError
from recbole_eimf.core.files import write_json
from recbole_eimf.core.run_folder import ERROR_FILE, METRICS_FILE, NOTES_FILE, RESULT_FILE
from recbole_eimf.core.version import made_with
from recbole_eimf.study.jobs import on_lent_gpus, ray_running
from recbole_eimf.study.runs import OTHER_MASK, Run, read_of_run, trained_seconds


# ---------------------------------------------------------------------- one run
def execute(job: Mapping[str, Any]) -> str | None:
    """Train one run in its folder; called in a process of its own. Returns None, or what stopped it, in one line."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.extend(path for path in job["sys_path"] if path not in sys.path)
    with open(folder / "log.txt", "a", encoding="utf-8") as log, _standing_in(folder, log):
        (folder / "running").touch()
        try:
            _train(job, folder)
        except Exception as error:
            line = _one_line(error)
            with contextlib.suppress(OSError):  # a full disk: the caller is told all the same
                (folder / ERROR_FILE).write_text(f"{line}\n\n{traceback.format_exc()}", encoding="utf-8")
                traceback.print_exc()
            return line
        finally:
            (folder / "running").unlink(missing_ok=True)
    (folder / ERROR_FILE).unlink(missing_ok=True)
    return None


def _train(job: Mapping[str, Any], folder: Path) -> None:
    import torch

    from recbole_eimf.experiment.load import evaluate
    from recbole_eimf.experiment.run import run

    torch.set_num_threads(job["threads"])
    given = {**job["given"], "num_threads": job["threads"]}
    if not (folder / RESULT_FILE).is_file():
        stored = read_of_run(folder / NOTES_FILE)
        same = stored is not None and not differing_settings(stored["settings"], job["settings"], job["unread"])
        (folder / OTHER_MASK / METRICS_FILE).unlink(missing_ok=True)  # of another model than the one to come
        kept = ("row", "model", "dataset", "given", "settings", "runs_at_once", "trials")
        told = {name: job[name] for name in kept} | {"made_with": made_with()}
        write_json(folder / NOTES_FILE, told)
        (folder / ERROR_FILE).unlink(missing_ok=True)  # of an earlier try: this one goes on where it is stopped
        before = trained_seconds(folder) if same else 0.0  # of sessions that were killed
        begin = time.monotonic()
        # what a failed run of other settings has left is not gone on with
        run(job["model"], job["dataset"], **{**given, "output_dir": str(folder), "resume": same, "overwrite": not same})
        told["seconds"] = round(before + time.monotonic() - begin, 3)
        write_json(folder / NOTES_FILE, told | {"machine": _machine()})
    if job["other_mask"]:
        chosen = read_of_run(folder / RESULT_FILE)["mask_history"]
        target = folder / OTHER_MASK
        trusted = job["model"] if ":" in job["model"] else None  # the user named it
        device = {key: given[key] for key in ("gpu_id", "use_gpu") if key in given}
        found = evaluate(folder, target, trusted, mask_history=not chosen, state="ERROR", **device)
        write_json(target / METRICS_FILE, found)


def _machine() -> dict[str, Any]:
    """How busy the machine was just now: its cores, and the processes that wanted one (mean of 5 minutes)."""
    load = round(os.getloadavg()[1], 2) if hasattr(os, "getloadavg") else None  # Windows has none
    return {"cores": os.cpu_count(), "load": load}


def _one_line(error: BaseException) -> str:
    text = " ".join((str(error).strip() or type(error).__name__).split("\n")[0].split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _standing_in(folder: Path, log) -> Iterator[None]:
    """RecBole writes log/ and log_tensorboard/ where it stands: that is the run's folder, not the user's."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        os.chdir(before)
        root = logging.getLogger()
        for handler in [h for h in root.handlers if getattr(h, "stream", None) is log]:
            root.removeHandler(handler)


# ---------------------------------------------------------------------- many runs
@dataclass(frozen=True)
class Workers:
    """How many runs at once, and where.

    ``parallel`` 0 runs them one after the other in this process (no Ray); with ``ray_address`` the cluster decides how
    many fit. Every other run is a Ray task in a fresh process with ``cpus`` threads.
    """

    parallel: int = 1
    cpus: int = 1
    gpus: float = 0.0
    ray_address: str | None = None


def execute_all(runs: Sequence[Run], workers: Workers) -> Iterator[tuple[Run, str | None] | None]:
    """Make every run; yields (run, what stopped it) as each ends, and None now and then while waiting."""
    jobs = [_job(run, workers) for run in runs]
    for run in runs:
        (run.folder / "running").unlink(missing_ok=True)  # a kill left it
    if workers.parallel == 0:
        for run, job in zip(runs, jobs):
            yield run, execute(job)
    else:
        yield from _on_ray(runs, jobs, workers)


def _job(run: Run, workers: Workers) -> dict[str, Any]:
    return {
        "row": run.row.name,
        "model": run.row.model,
        "dataset": run.dataset,
        "given": dict(run.given),
        "settings": dict(run.settings),
        "unread": sorted(run.unread),
        "trials": run.trials,
        "folder": str(run.folder),
        "other_mask": run.other_mask,
        "threads": workers.cpus,
        "runs_at_once": None if workers.ray_address else max(workers.parallel, 1),
        "sys_path": [os.path.abspath(path) for path in sys.path],
    }


def _on_ray(runs: Sequence[Run], jobs: Sequence[dict], workers: Workers) -> Iterator[tuple[Run, str | None] | None]:
    slots = None if workers.ray_address else workers.parallel * workers.cpus
    with ray_running(slots, workers.cpus, workers.ray_address) as ray:
        # max_calls=1: a process per run, so that nothing of one run (threads, memory, registered models) meets another
        remote = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_calls=1, max_retries=0)(_in_worker)
        waiting = {remote.remote(job): run for run, job in zip(runs, jobs)}
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=2.0)
            for reference in done:
                run = waiting.pop(reference)
                try:
                    yield run, ray.get(reference)
                except ray.exceptions.RayError as error:  # the process died: out of memory, a lost machine
                    line = f"the worker process died ({type(error).__name__}): out of memory?"
                    with contextlib.suppress(OSError):
                        run.folder.mkdir(parents=True, exist_ok=True)
                        (run.folder / ERROR_FILE).write_text(f"{line}\n\n{error}\n", encoding="utf-8")
                    yield run, line
            if not done:
                yield None


def _in_worker(job: dict[str, Any]) -> str | None:
    import ray

    return execute({**job, "given": on_lent_gpus(job["given"], bool(ray.get_gpu_ids()))})
