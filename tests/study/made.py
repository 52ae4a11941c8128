"""Runs of a table that nobody trained, of random but different quality, and what is read of it."""

from __future__ import annotations

import json
import re

import numpy as np

from recbole_eimf.evaluator.ranks import Ranks
from recbole_eimf.study.runs import Run

USERS, DEPTH = 9, 5
SETTINGS = {"protocol": "user_split", "valid_metric": "Recall@5", "topk": [1, 5], "metrics": ["Recall", "Hit", "NDCG"]}
COMMAND = "python -m recbole_eimf compare --models 'SASRec,EIMF[SASRec]' & more"


def ranks_of(places) -> Ranks:
    """One target per user, at this place (-1: not found)."""
    places = np.asarray(places, dtype=np.int32)
    hits = (places[:, None] == np.arange(DEPTH)).astype(np.uint8)
    rows, items = np.arange(len(places)), np.arange(1, len(places) + 1)
    counts = np.where(rows < 4, 1, 9)
    slices = {"cold": (1, 3), "warm": (4, None), "unseen": (0, 0)}
    return Ranks(rows, hits, np.ones(len(places), np.int32), rows, items, places, counts, "same", slices)


def finish(run: Run, places, mask: bool = False, **more) -> None:
    """Leave what a finished run leaves."""
    ranks = ranks_of(places)
    test = {f"{kind}@{k}": ranks.mean(f"{kind}@{k}") for k in (1, 5) for kind in ("recall", "hit", "ndcg")}
    result = {"seed": run.seed, "test": test, "valid": {}, "mask_history": mask, "epochs": 3, "seconds_per_epoch": 0.5,
              "train_seconds": 1.5, "parameters": 1234, "slices": ranks.by_slice([1, 5]), **more}  # fmt: skip
    run.folder.mkdir(parents=True)
    ranks.write(run.folder)
    (run.folder / "result.json").write_text(json.dumps(result))
    history = [{"epoch": e, "losses": [3.0 - e, 1.0], "valid": {"recall@5": 0.1 * e}} for e in range(3)]
    (run.folder / "history.json").write_text(json.dumps(history))


def gains(places, metric: str) -> np.ndarray:
    """Per user, from the place of the one target."""
    kind, k = metric.split("@")
    found = [0 <= place < int(k) for place in places]
    return np.array([(1 / np.log2(p + 2) if kind == "ndcg" else 1.0) if ok else 0.0 for p, ok in zip(places, found)])


def rows_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.split("\n\n")[2].split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def note_run(run: Run, **told) -> None:
    (run.folder / "run.json").write_text(json.dumps(told))
