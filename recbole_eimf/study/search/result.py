"""What a search leaves behind: best.yaml, trials.csv, results.json and search.png."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_eimf import __version__
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import atomic_path, write_json
from recbole_eimf.study.search.space import Space
from recbole_eimf.study.search.trial import Job, Trial


@dataclass
class Found:
    """The trials of a search so far, by number. ``given`` is the configuration it was asked with."""

    job: Job
    space: Space
    given: Mapping[str, Any]
    trials: list[Trial]

    @property
    def best(self) -> Trial | None:
        """The trial with the best validation score; of equal ones the earlier."""
        best = None
        for trial in self.trials:
            scored = trial.status != "failed" and trial.score is not None
            if scored and self.job.better(trial.score, best.score if best else None):
                best = trial
        return best

    @property
    def settings(self) -> dict[str, Any]:
        """The best configuration: what was given and what the best trial adds."""
        paths = {key: self.job.given[key] for key in self.given if key in self.job.given and _is_path(key)}
        return {**self.given, **paths, **self.require_best().settings}

    def add(self, trial: Trial) -> None:
        """Take in a trial that ended, in place of an earlier try of the same number."""
        self.trials = sorted([*(t for t in self.trials if t.number != trial.number), trial], key=lambda t: t.number)

    def require_best(self) -> Trial:
        """The best trial. Raises DataError with the first failure if no trial has a score."""
        best = self.best
        if best is None:
            reasons = [trial.error for trial in self.trials if trial.error]
            raise DataError(
                f"{self.job.out}: none of {len(self.trials)} trials gave a score. "
                f"{reasons[0] if reasons else ''} Each trial's folder holds its error.txt."
            )
        return best

    def summary(self) -> str:
        """What a user wants to read at the end of a search."""
        best, out = self.require_best(), self.job.out
        counts = {status: sum(t.status == status for t in self.trials) for status in ("finished", "stopped", "failed")}
        start = next((t.score for t in self.trials if t.number == 0 and t.score is not None), None)
        before = "" if start is None else f"; the configuration as it stood: {start:.4f}"
        lines = [
            f"\n{len(self.trials)} trials: {counts['finished']} finished, {counts['stopped']} stopped early, "
            f"{counts['failed']} failed",
            f"best validation {self.job.metric}: {best.score:.4f} (trial {best.number}){before}",
            *(f"  {key}: {value}" for key, value in best.settings.items()),
            f"written: {out}/best.yaml, trials.csv, results.json, search.png",
            f"now test it, once: python run_recbole_eimf.py --model={self.job.model} --dataset={self.job.dataset} "
            f"--config_files={out}/best.yaml",
        ]
        return "\n".join(lines)


def write_found(found: Found) -> None:
    """Write the files of a search that has a best trial. Nothing of the test part is in them."""
    from recbole_eimf.study.search.plot import plot_search

    out = Path(found.job.out)
    _write_best(out / "best.yaml", found)
    _write_table(out / "trials.csv", found)
    head = {"model": found.job.model, "dataset": found.job.dataset, "metric": found.job.metric, "version": __version__}
    ranges = {key: {dimension.kind: list(dimension.values)} for key, dimension in found.space.items()}
    body = {"space": ranges, "best": found.require_best().number, "trials": [asdict(t) for t in found.trials]}
    write_json(out / "results.json", {**head, **body})
    plot_search(found, out / "search.png")


def _is_path(key: str) -> bool:
    return key in ("data_path", "semantic_cache", "text_encoder") or key.endswith("_file")


def _write_best(path: Path, found: Found) -> None:
    best = found.require_best()
    head = (
        f"# {found.job.model} on {found.job.dataset}: trial {best.number} of {len(found.trials)}, "
        f"validation {found.job.metric} {best.score:.6f} (recbole_eimf {__version__})\n"
        f"# --model={found.job.model} --dataset={found.job.dataset} --config_files={path}\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(head + yaml.safe_dump(found.settings, sort_keys=False), encoding="utf-8")


def _write_table(path: Path, found: Found) -> None:
    metric, keys = found.job.metric, list(found.space)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", "status", f"valid_{metric}", "best_epoch", "epochs", "seconds", *keys, "error"])
    for t in found.trials:
        values = [t.settings.get(key) for key in keys]
        writer.writerow([t.number, t.status, t.score, t.best_epoch, t.epochs, t.seconds, *values, t.error])
    with atomic_path(path) as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8")
