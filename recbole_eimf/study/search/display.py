"""The one progress display of a search: a Ray Tune callback that also closes trials as they end."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback
from tqdm.auto import tqdm

from recbole_eimf.study.search.outcome import SearchOutcome
from recbole_eimf.study.search.trial import Job, close_trial

_FORMAT = "{desc} |{bar:16}| {n_fmt}/{total_fmt} epochs, {elapsed}, at most {remaining} more"


class Display(Callback):
    """A bar over epochs, whose total shrinks with every trial that ends early: the time it predicts is an upper bound.

    Args:
        job: the search.
        pending: numbers of the trials to run.
        found: gets the trials as they end.
        epochs: of a whole trial.
    """

    def __init__(self, job: Job, pending: list[int], found: SearchOutcome, epochs: int) -> None:
        self.job, self.found, self.epochs = job, found, epochs
        self.seen = dict.fromkeys(pending, 0)
        self.best: tuple[float, int] | None = None
        if found.best:
            self.best = (found.best.score, found.best.number)
        self.trials = len(pending) + len(found.trials)

    def __enter__(self) -> Display:
        total = len(self.seen) * self.epochs
        self.bar = tqdm(total=total, desc=self._words(), bar_format=_FORMAT, mininterval=0.5)
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        number, epoch, score = trial.config["number"], result.get("epoch"), result.get("score")
        if epoch is None or score is None:
            return
        self.bar.update(max(epoch - self.seen[number], 0))
        self.seen[number] = max(epoch, self.seen[number])
        if self.best is None or self.job.better(score, self.best[0]):
            self.best = (score, number)
            self.bar.set_description_str(self._words())

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial.config["number"], failed=False)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial.config["number"], failed=True)

    def _close(self, number: int, failed: bool) -> None:
        closed = close_trial(self.job, number, failed)
        self.found.add(closed)
        if failed:
            self.bar.write(f"trial {number} failed: {closed.error}")
        self.bar.total -= max(self.epochs - self.seen[number], 0)
        self.bar.set_description_str(self._words())

    def _words(self) -> str:
        best = f", best {self.job.metric} {self.best[0]:.4f} (trial {self.best[1]})" if self.best else ""
        return f"{len(self.found.trials)}/{self.trials} trials{best}"
