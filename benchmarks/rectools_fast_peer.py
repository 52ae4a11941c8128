"""RecTools 0.19's ``fast_transformers`` for ``against_rectools.py``: what its authors put in the place of SASRecModel.

Runs in RecTools' own environment, imports nothing of ours and answers what ``rectools_peer.py`` answers. Which of the
two is trained stands in its fifth argument: ``flat`` (FlatSASRecNet: the library has the network and its batches, the
training loop here is Lightning's under a full softmax, as UniSRecModel's) or ``unisrec`` (UniSRecModel, text alone).
An epoch ends inside Lightning's loop, so commands are answered from there: the optimiser keeps its state between them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools.fast_transformers import FlatSASRecNet, SequenceBatchDataset, UniSRecModel, build_sequences
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


class Loop(pl.Callback):
    """Reads commands between epochs; ``settings`` is the next ``train`` command, None once the pipe is closed."""

    def __init__(self, replies, train: pd.DataFrame, held_out: pd.DataFrame) -> None:
        self.replies, self.train, self.held_out = replies, train, held_out
        self.settings, self.wanted, self.length, self.spent = None, 0, 0, []

    def on_train_start(self, trainer, module) -> None:
        self.spent = []
        self.serve(trainer, module)

    def on_train_epoch_start(self, trainer, module) -> None:
        self.began = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer, module) -> None:
        self.spent.append((time.perf_counter() - self.began[0], time.process_time() - self.began[1]))
        self.wanted -= 1
        if self.wanted:
            return
        numbers = sum(p.numel() for p in module.net.parameters() if p.requires_grad)
        self.answer(
            {"seconds": [a for a, _ in self.spent], "cpu_seconds": [b for _, b in self.spent], "parameters": numbers}
        )
        self.spent = []
        self.serve(trainer, module)

    def serve(self, trainer, module) -> None:
        """Answer until an epoch is asked for, or end the training."""
        for line in sys.stdin:
            command = json.loads(line)
            if "epochs" in command:
                self.wanted = command["epochs"]
                return
            if "train" in command:
                self.settings = command["train"]
                raise StopTraining
            self.answer({"hit_rate": self.hit_rate(module.net, command["hits"])})
        self.settings = None
        raise StopTraining

    def answer(self, found: dict) -> None:
        print(json.dumps(found), file=self.replies, flush=True)

    @torch.no_grad()
    def hit_rate(self, net, k: int) -> float:
        """Held-out items among the k best of all that were trained on; what a user had is ranked too."""
        rows = self.train.groupby("user")["number"].apply(lambda items: items.to_numpy()[-self.length :])
        places = {item: place for place, item in enumerate(np.unique(self.train["number"]))}
        sequences = torch.zeros(len(self.held_out), self.length, dtype=torch.long)
        for row, user in enumerate(self.held_out["user"]):
            history = [places[item] + 1 for item in rows[user]]
            sequences[row, -len(history) :] = torch.tensor(history)
        was, _ = net.training, net.eval()
        vectors = net.all_item_embeddings() if isinstance(net, FlatSASRecNet) else net.project_all()[1:]
        encode = net.encode if isinstance(net, FlatSASRecNet) else net
        best = [(encode(part)[:, -1] @ vectors.T).topk(k).indices for part in sequences.split(512)]
        net.train(was)
        wanted = torch.tensor([places.get(item, -1) for item in self.held_out["number"]])
        return float((torch.cat(best) == wanted[:, None]).any(dim=1).float().mean())


class StopTraining(Exception):
    """Out of Lightning's loop, whatever it waits for."""


class Flat(pl.LightningModule):
    """FlatSASRecNet under a softmax over all items."""

    def __init__(self, net: FlatSASRecNet, rate: float) -> None:
        super().__init__()
        self.net, self.rate = net, rate

    def training_step(self, batch, _):
        logits = self.net(batch)
        return cross_entropy(logits.flatten(0, 1), batch["y"].flatten() - 1, ignore_index=-1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01)


def trainer(loop: Loop) -> pl.Trainer:
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(max_epochs=100_000, accelerator="cpu", callbacks=[loop], gradient_clip_val=1.0, **off)


def fit(kind: str, loop: Loop, text: torch.Tensor, settings: dict) -> None:
    """Train until another command ends it."""
    pl.seed_everything(settings["seed"])
    loop.length = settings["session_max_len"]
    columns = [torch.from_numpy(loop.train[name].to_numpy()) for name in ("user_number", "number", "rank")]
    shape = {name: settings[name] for name in ("n_factors", "n_blocks", "n_heads", "session_max_len")}
    shape["dropout"] = settings["dropout_rate"]
    if kind == "unisrec":
        model = UniSRecModel(text, **shape, lr=settings["lr"], batch_size=settings["batch_size"])
        model._make_trainer = lambda *_: trainer(loop)
        model.fit(*columns)
        return
    x, y, items, _ = build_sequences(*columns, max_len=loop.length)
    batches = DataLoader(SequenceBatchDataset(x, y), batch_size=settings["batch_size"], shuffle=True)
    trainer(loop).fit(Flat(FlatSASRecNet(len(items), **shape), settings["lr"]), batches)


def main() -> None:
    replies, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    train, held_out = (pd.read_csv(path, dtype={"user": str, "item": str}) for path in sys.argv[1:3])
    text, kind = np.load(sys.argv[3]), sys.argv[5]
    numbers = {item: place for place, item in enumerate(json.loads(Path(sys.argv[4]).read_text()), start=1)}
    vectors = torch.from_numpy(np.vstack([np.zeros_like(text[:1]), text]))
    for table in (train, held_out):
        table["number"] = table["item"].map(numbers)
    train["user_number"] = pd.factorize(train["user"])[0]
    loop = Loop(replies, train, held_out)
    line = sys.stdin.readline()
    loop.settings = json.loads(line)["train"] if line else None
    users = int(train["user"].nunique())
    while loop.settings is not None:
        loop.answer({"rows": users, "targets": len(train) - users})
        try:
            fit(kind, loop, vectors, loop.settings)
        except StopTraining:
            continue


if __name__ == "__main__":
    main()
