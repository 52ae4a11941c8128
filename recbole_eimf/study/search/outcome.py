"""What a search has found so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recbole_eimf.core.errors import DataError
from recbole_eimf.study.search.space import Space
from recbole_eimf.study.search.trial import Job, Trial

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class SearchOutcome:
    """The trials of a search so far, by number. ``given`` is the configuration it was asked with."""

    job: Job
    space: Space
    given: Mapping[str, Any]
    trials: list[Trial]

    @property
    def best(self) -> Trial | None:
        """The trial with the best validation score; of equal ones the earlier."""
        best: Trial | None = None
        for trial in self.trials:
            if trial.status == "failed" or trial.score is None:
                continue
            if self.job.better(trial.score, best.score if best else None):
                best = trial
        return best

    @property
    def start(self) -> float | None:
        """The validation score of the configuration as it stood, which is the first trial."""
        return next((trial.score for trial in self.trials if trial.number == 0), None)

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

    def to_frame(self) -> pd.DataFrame:
        """A row per trial, by number: status, epochs, score and its settings."""
        import pandas as pd

        rows = [
            {"number": trial.number, "status": trial.status, "epochs": trial.epochs, "score": trial.score}
            | {key: trial.settings.get(key) for key in self.space}
            for trial in self.trials
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """What a user wants to read at the end of a search."""
        best, out = self.require_best(), self.job.out
        counts = {status: sum(t.status == status for t in self.trials) for status in ("finished", "stopped", "failed")}
        before = "" if self.start is None else f"; the configuration as it stood: {self.start:.4f}"
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


def _is_path(key: str) -> bool:
    return key in ("data_path", "semantic_cache", "text_encoder") or key.endswith("_file")
