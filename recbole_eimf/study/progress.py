"""How far the runs of a table are, and how long the rest takes: work is counted in seconds, not in runs.

What a run will take is the best that is known about it: what finished runs of its row took; its own pace over the
epochs that finished runs of other rows had, or, before there are any, over those it may have; the other trained rows.
Models that only count take seconds where training takes minutes: they say nothing about trained rows.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_eimf.core.bars import EVERY, Lines, bar, moves
from recbole_eimf.core.errors import UserError
from recbole_eimf.core.run_folder import BEST_FILE, HISTORY_FILE, STATE_FILE
from recbole_eimf.experiment.refit import FOLDER as REFIT
from recbole_eimf.experiment.refit import phase_epochs
from recbole_eimf.study.runs import Run, histories_of

_NEARLY = 0.98  # what takes longer than expected is nearly done, not done
_ON_TERMINAL, _IN_FILE = 2.0, EVERY  # seconds between two looks; in a file each is a line


@dataclass(frozen=True)
class Reading:
    """What is known of a run. ``state``: ``waiting``, ``running``, ``done`` or ``failed``.

    ``epochs`` are those done and the part of the present one; of a run that goes on they are at most ``limit`` (None:
    unknown, as of a model that is trained in phases). With ``refit`` that is the limit of the first training, ``again``
    that of the second, and once the second has begun ``total`` is what both have. ``pace``: seconds of an epoch;
    ``seconds``: of the whole run, once it is done.
    """

    label: str
    row: str
    counting: bool
    state: str
    epochs: float = 0.0
    limit: int | None = None
    pace: float | None = None
    seconds: float | None = None
    again: int = 0
    total: int | None = None


@dataclass(frozen=True)
class TimeLeft:
    """``share`` of the work that is done, 0 to 1; seconds ``left`` (None where nothing is known of it), and how surely:
    ``about``, ``at most`` (runs may stop early) or ``at least`` (nobody knows how many epochs come)."""

    share: float
    left: float | None
    how: str = "about"


def estimate_time_left(readings: Sequence[Reading], at_once: int = 1) -> TimeLeft:
    """How far the runs are, and what is left.

    Args:
        at_once: runs side by side: the rest takes that part of its seconds, but not less than its longest run.
    """
    found = [_expected(one, readings) for one in readings]
    trained = [told for one, told in zip(readings, found) if told[0] is not None and not one.counting]
    done, rest, hows, late = 0.0, [], set(), 0.0
    for one, (seconds, how) in zip(readings, found):
        spent = one.epochs * (one.pace or 0.0)
        if one.state == "failed":
            continue
        if one.state == "done":
            done += seconds or 0.0
            continue
        if seconds is None and not one.counting:
            if not trained:
                return TimeLeft(0.0, None)
            seconds = statistics.mean(others for others, _ in trained)
            how = "at least" if spent else _together({known for _, known in trained})
            if spent > _NEARLY * seconds:  # longer than all that is known: nobody can say how long it goes on
                done, late = done + spent, late + spent
                hows.add(how)
                continue
        seconds = seconds or 0.0
        spent = min(spent, _NEARLY * seconds)
        done += spent
        rest.append(seconds - spent)
        if not one.counting:
            hows.add(how)
    work = done + sum(rest) + late  # what is late is taken to be half done
    left = max(sum(rest) / max(at_once, 1), max(rest, default=0.0))
    return TimeLeft(done / work if work else float(not rest), left if left or not late else None, _together(hows))


def _together(hows: set[str]) -> str:
    """How well a sum is known: one bound that some of its parts have is that of the sum, two opposite ones are none."""
    bounds = hows - {"about"}
    return bounds.pop() if len(bounds) == 1 else "about"


def _expected(one: Reading, readings: Sequence[Reading]) -> tuple[float | None, str]:
    """(seconds of a whole run, how well they are known); None where only other rows could tell."""
    if one.state == "done":
        return one.seconds, "about"
    if one.total and one.pace and not one.counting:
        return one.pace * one.total, "about"
    alike = [o for o in readings if (o.counting if one.counting else o.row == one.row)]
    took = [(o.seconds, o.epochs) for o in alike if o.state == "done" and o.seconds is not None]
    if took:
        seconds, epochs = (statistics.mean(values) for values in zip(*took))
        # the machine may be slower now, and this run may go on longer
        return max(seconds, max(epochs, one.epochs + 1) * (one.pace or 0.0)), "about"
    paces = [one.pace] if one.pace else [o.pace for o in alike if o.pace]
    phased = any(o.limit is None for o in alike)  # has epochs beyond the limit of each phase
    if one.counting or phased or not paces:
        return None, "about"
    pace = statistics.mean(paces)
    most = one.limit + one.again
    stopped = [o.epochs for o in readings if o.state == "done" and o.epochs and not o.counting]
    if stopped:  # early, most of them; one patience makes rows alike
        return pace * min(max(statistics.mean(stopped), one.epochs + 1), most), "about"
    return pace * most, "at most"


# ---------------------------------------------------------------------- what the runs' folders say
def read(run: Run, failed: bool, now: float) -> Reading:
    """Look at a run's folder at a time (seconds since 1970).

    Raises:
        DataError: a file in it is damaged.
    """
    known = {"label": run.label, "row": run.row.name, "counting": run.row.counting}
    limit, refits = run.settings.get("epochs"), bool(run.settings.get("refit"))
    if run.finished:
        result, seconds = run.result(), run.notes().get("seconds")
        seconds = result["train_seconds"] if seconds is None else seconds
        epochs = result["epochs"] + (result.get("refit") or {}).get("epochs", 0)
        return Reading(**known, state="done", epochs=epochs, seconds=seconds)
    if failed or not run.running:
        again = limit if refits and limit else 0
        return Reading(**known, state="failed" if failed else "waiting", limit=limit, again=again)
    found = going(run.folder, limit, now, **known)
    if not refits or found.limit is None:
        return found
    return replace(found, again=found.limit, total=_with_refit(run))


def _with_refit(run: Run) -> int | None:
    """How many epochs both trainings of a run have, by its folder; None before the second one has begun."""
    histories, settings = run.histories(), run.settings
    if REFIT not in histories:
        return None
    first = [{**epoch, "phase": ""} for epoch in histories.get("", [])]
    best = phase_epochs(first, settings["valid_metric"], settings.get("valid_metric_bigger", True))
    return len(first) + best[""] if first else None


def going(folder: Path, limit: int | None, now: float, **known: Any) -> Reading:
    """Look at the folder that a model is being trained in; ``known``: label, row and counting of the reading."""
    of_all = histories_of(folder)
    histories = {phase: history for phase, history in of_all.items() if not phase or not _taken(folder / phase)}
    epochs = [epoch for history in histories.values() for epoch in history if epoch["epoch"] >= 0]
    if not epochs:
        return Reading(**known, state="running", limit=limit)
    pace = statistics.mean(epoch["train_seconds"] + epoch.get("valid_seconds", 0.0) for epoch in epochs)
    since = now - max(path.stat().st_mtime for path in folder.glob(f"**/{HISTORY_FILE}"))
    present = min(max(since, 0.0) / pace, _NEARLY) if pace else 0.0
    return Reading(
        **known,
        state="running",
        epochs=len(epochs) + present,
        limit=limit_of(of_all, limit),
        pace=pace,
    )


def _taken(phase: Path) -> bool:
    """Whether a phase was trained by another run and taken over: no time of this one went into it."""
    return (phase / BEST_FILE).is_file() and not (phase / STATE_FILE).is_file()


def limit_of(histories: Collection[str], limit: int | None) -> int | None:
    """The epochs that a model may have in its first training, by the names of the histories in its folder; None for one
    that is trained in phases: they have names, and epochs each."""
    return None if {*histories} - {"", REFIT} else limit


def progress_in_words(readings: Sequence[Reading], found: TimeLeft, what: str = "runs", said: str = "") -> str:
    """``3 of 12 runs, about 20 min left; 1 failed; SASRec/2020 epoch 7 of at most 200``; ``said``: after the time."""
    states = [one.state for one in readings]
    left = "time left: not known yet" if found.left is None else f"{found.how} {duration(found.left)} left"
    if all(state in ("done", "failed") for state in states):
        left = "all made"
    parts = [f"{states.count('done')} of {len(states)} {what}, {left}", *([said] if said else [])]
    if "failed" in states:
        parts.append(f"{states.count('failed')} failed")
    running = [_running(one) for one in readings if one.state == "running"]
    return "; ".join([*parts, *([", ".join(running)] if running else [])])


def _running(one: Reading) -> str:
    if one.counting:
        return one.label
    epoch = int(one.epochs) + 1
    if one.total:
        return f"{one.label} epoch {min(epoch, one.total)} of {one.total}, trained again"
    return f"{one.label} epoch {epoch}" + (f" of at most {one.limit}" if one.limit and epoch <= one.limit else "")


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(20), duration(1690), duration(12_400), duration(300_000)
    ('1 min', '28 min', '3 h 27 min', '3 d 11 h')
    """
    minutes = max(round(seconds / 60), 1)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


# ---------------------------------------------------------------------- on the terminal
@contextlib.contextmanager
def progress_bar(runs: Sequence[Run], at_once: int) -> Iterator[Callable[[Run, str | None], None]]:
    """A bar over all runs that moves while one trains; what is yielded is to be told each that ended, and why not."""
    failed: set[str] = set()
    over: dict[str, Reading] = {}

    def look() -> list[Reading]:
        readings = [over.get(run.label) or read(run, run.label in failed, time.time()) for run in runs]
        over.update({one.label: one for one in readings if one.state in ("done", "failed")})
        return readings

    with moving(look, progress_in_words, at_once, "runs") as bar:

        def tell(run: Run, why: str | None) -> None:
            if why is not None:
                failed.add(run.label)
                bar.write(f"failed: {run.label}: {why}")
            bar.refresh()

        yield tell


class Moving:
    """A bar that is told of, between its looks: :func:`moving`."""

    def __init__(self, bar: tqdm, refresh: Callable[[], None]) -> None:
        self._bar, self.refresh = bar, refresh

    def write(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(line)


@contextlib.contextmanager
def moving(
    look: Callable[[], Sequence[Reading]], words: Callable[[Sequence[Reading], TimeLeft], str], at_once: int, what: str
) -> Iterator[Moving]:
    """A bar over the readings that ``look`` finds every few seconds, with ``words`` beside it."""
    stop = threading.Event()
    file = sys.stderr  # a run in this process puts a file in its place
    drawn = "|{bar:20}| " if moves(file) else ""
    form = what + ": {percentage:3.0f}% " + drawn + "{elapsed}, {desc}"
    with bar(total=1.0, bar_format=form, file=file) as shown_bar:

        def refresh() -> None:
            with contextlib.suppress(UserError, OSError):  # a folder that someone removes: the run itself will say so
                readings = look()
                found = estimate_time_left(readings, max(at_once, sum(one.state == "running" for one in readings)))
                shown_bar.n = found.share if found.share == 1 else min(found.share, 0.99)
                shown_bar.set_description_str(words(readings, found))
                if isinstance(shown_bar, Lines):
                    shown_bar.say()

        def watch() -> None:
            while not stop.wait(_ON_TERMINAL if moves(file) else _IN_FILE):
                refresh()

        watcher = threading.Thread(target=watch, daemon=True)
        refresh()
        watcher.start()
        try:
            yield Moving(shown_bar, refresh)
        finally:
            stop.set()
            watcher.join()
