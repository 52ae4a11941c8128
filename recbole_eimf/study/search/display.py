"""The one progress display of a search: a Ray Tune callback that also closes trials as they end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from ray.tune import Callback

from recbole_eimf.study.progress import Reading, TimeLeft, going, limit_of, moving, progress_in_words
from recbole_eimf.study.runs import histories_of
from recbole_eimf.study.search.outcome import SearchOutcome
from recbole_eimf.study.search.trial import Job, Trial, close_trial


class Display(Callback):
    """A bar over trials, which take as long as those that are done did (:mod:`recbole_eimf.study.progress`).

    Args:
        job: the search.
        pending: numbers of the trials to run.
        found: has the trials that are done, and gets the others as they end.
        epochs: of a whole trial.
    """

    def __init__(self, job: Job, pending: list[int], found: SearchOutcome, epochs: int) -> None:
        self.job, self.found, self.epochs = job, found, epochs
        before = [trial for trial in found.trials if trial.number not in pending]  # a stop, or more samples
        self.numbers = sorted([*pending, *(trial.number for trial in before)])
        self.begun: dict[int, float] = {}
        self.over = {trial.number: self._done(trial, "done", trial.seconds) for trial in before}
        self.best: tuple[float, int] | None = None
        if found.best:
            self.best = (found.best.score, found.best.number)
        self._open = ExitStack()

    def __enter__(self) -> Display:
        self.bar = self._open.enter_context(moving(self._look, self._words, 1, "search"))
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.begun[trial.config["number"]] = time.time()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        score = result.get("score")
        if score is not None and (self.best is None or self.job.better(score, self.best[0])):
            self.best = (score, trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial.config["number"], failed=False)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial.config["number"], failed=True)

    def _close(self, number: int, failed: bool) -> None:
        closed = close_trial(self.job, number, failed)
        self.found.add(closed)
        took = time.time() - self.begun.get(number, time.time())
        self.over[number] = self._done(closed, "failed" if failed else "done", max(took, closed.seconds))
        if failed:
            self.bar.write(f"trial {number} failed: {closed.error}")
        self.bar.refresh()

    def _done(self, trial: Trial, state: str, seconds: float) -> Reading:
        known = self._known(trial.number)
        # all trials are of one row: without a limit this one would say that the others are trained in phases
        limit = limit_of(histories_of(self.job.folder(trial.number)), self.epochs)
        return Reading(**known, state=state, epochs=trial.epochs, limit=limit, seconds=seconds)

    def _known(self, number: int) -> dict[str, Any]:
        return {"label": f"trial {number}", "row": "trial", "counting": False}

    def _look(self) -> list[Reading]:
        """What is known of each trial."""
        now, readings = time.time(), []
        for number in self.numbers:
            known = self._known(number)
            if number in self.over:
                readings.append(self.over[number])
            elif number in self.begun:
                readings.append(going(self.job.folder(number), self.epochs, now, **known))
            else:
                readings.append(Reading(**known, state="waiting", limit=self.epochs))
        return readings

    def _words(self, readings: Sequence[Reading], found: TimeLeft) -> str:
        best = f"best {self.job.metric} {self.best[0]:.4f} (trial {self.best[1]})" if self.best else ""
        return progress_in_words(readings, found, "trials", best)
