"""What the scripts that race two programs share: contestants that take turns, data that all of them read, results."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import statistics
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RESULTS = Path(__file__).resolve().parent / "results"


class Contestant:
    """A process of its own that keeps its data and model and works only while it is asked to.

    ``make(*arguments)`` is called there and returns the function that answers; both must be importable. Processes of
    their own, because what one contestant changes for a whole process (anomaly mode, malloc's thresholds) must not
    reach the other.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *question: Any) -> Any:
        """Return the answer. Raises RuntimeError with the contestant's traceback."""
        self._pipe.send(question)
        fine, answer = self._pipe.recv()
        if not fine:
            raise RuntimeError(answer)
        return answer

    def close(self) -> None:
        """End the process, by force if it is still at work."""
        self._pipe.close()
        self._process.join(timeout=5)
        self._process.terminate()


def _serve(pipe: Any, make: Callable[..., Callable[..., Any]], arguments: tuple) -> None:
    answer = None
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        try:
            answer = answer or make(*arguments)
            pipe.send((True, answer(*question)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


def in_turns(contestants: dict[str, Contestant], repeats: int, question: Callable[[str], tuple]) -> dict[str, list]:
    """Ask every contestant ``repeats`` times, strictly one after the other; answers by name."""
    answers: dict[str, list] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            answers[name].append(contestant.ask(*question(name)))
    return answers


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and range of repeated measurements."""
    return {
        "median": round(statistics.median(seconds), 4),
        "least": round(min(seconds), 4),
        "most": round(max(seconds), 4),
    }


def ranked_copy(dataset: str, data_path: str, folder: str, last: int | None = None) -> pd.DataFrame:
    """Copy a data set into ``folder`` with each interaction's rank within its user as time stamp; return the table.

    Programs break ties and round time stamps differently; ranks give all of them the same sequences, and so the same
    training targets and the same held-out items. ``last`` keeps so many interactions of each user.
    """
    source, target = Path(data_path) / dataset, Path(folder) / dataset
    target.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(source / f"{dataset}.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    by = "order:float" if "order:float" in table else "timestamp:float"
    table = table.sort_values(["user_id:token", by], kind="stable")
    if last is not None:
        table = table.groupby("user_id:token").tail(last)
    table["timestamp:float"] = table.groupby("user_id:token").cumcount() + 1
    columns = ["user_id:token", "item_id:token", "timestamp:float"]
    table[columns].to_csv(target / f"{dataset}.inter", sep="\t", index=False)
    shutil.copyfile(source / f"{dataset}.item", target / f"{dataset}.item")
    return table[columns].set_axis(["user", "item", "rank"], axis=1)


def merge_result(name: str, entry: dict[str, Any], *keys: str) -> None:
    """Put ``entry`` at ``keys`` of results/<name>.json, keeping what earlier runs put elsewhere; print it."""
    path = RESULTS / f"{name}.json"
    whole = json.loads(path.read_text()) if path.exists() else {}
    inner = whole
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = entry
    path.write_text(json.dumps(whole, indent=1, default=_plain) + "\n")
    print(json.dumps({"/".join(keys): entry}, indent=1, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
