"""RecTools' SASRecModel for ``against_rectools.py``: runs in RecTools' own environment and imports nothing of ours.

Reads one JSON command per line from standard input and answers each with one JSON line: ``{"train": {...settings}}``
builds a model, ``{"epochs": n}`` trains n epochs more and returns seconds and CPU seconds of each, ``{"hits": k}`` the
hit rate at k of the held-out items (nothing filtered), a fraction.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

_EPOCHS: list[list[float]] = []


class Clock(Callback):
    """Notes the wall and CPU seconds of every training epoch; RecTools copies callbacks, hence the module's list."""

    def on_train_epoch_start(self, trainer, module) -> None:
        self.began = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer, module) -> None:
        _EPOCHS.append([time.perf_counter() - self.began[0], time.process_time() - self.began[1]])


def make_trainer() -> Trainer:
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not get between the replies
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    train, held_out = (pd.read_csv(path, dtype={"user": str, "item": str}) for path in sys.argv[1:3])
    train = train.rename(columns={"user": Columns.User, "item": Columns.Item})
    train[Columns.Datetime] = pd.to_datetime(train.pop("rank"), unit="D")
    train[Columns.Weight] = 1.0
    dataset, model = Dataset.construct(train), None
    for line in sys.stdin:
        command = json.loads(line)
        if "train" in command:
            settings = dict(command["train"])
            seed_everything(settings.pop("seed"))
            model = SASRecModel(**settings, loss="softmax", get_trainer_func=make_trainer)
            users = int(train[Columns.User].nunique())
            answer = {"rows": users, "targets": len(train) - users}
        elif "epochs" in command:
            _EPOCHS.clear()
            for _ in range(command["epochs"]):
                model.fit_partial(dataset, min_epochs=1, max_epochs=1)
            answer = {"seconds": [wall for wall, _ in _EPOCHS], "cpu_seconds": [cpu for _, cpu in _EPOCHS]}
            answer["parameters"] = sum(p.numel() for p in model.torch_model.parameters() if p.requires_grad)
        else:
            found = model.recommend(held_out["user"].to_numpy(), dataset, k=command["hits"], filter_viewed=False)
            pairs = found.merge(held_out, left_on=[Columns.User, Columns.Item], right_on=["user", "item"])
            answer = {"hit_rate": len(pairs) / len(held_out)}
        print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    main()
