"""Any score matrix through the real loaders, RecBole's trainer loop and its metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recbole_eimf.evaluator.ranks import collected_ranks
from recbole_eimf.experiment import assembly
from recbole_eimf.trainer.trainer import InterestTrainer


class GivenScores(nn.Module):
    """A model that is a table."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.table = torch.zeros(0)
        self.asked: list[tuple[int, int]] = []

    def full_sort_predict(self, interaction):
        return self.table[interaction["user_id"]]

    def predict(self, interaction):
        self.asked += zip(interaction["user_id"].tolist(), interaction["item_id"].tolist())
        return self.table[interaction["user_id"], interaction["item_id"]]


class Bench:
    """The test part of a data set and whatever scores one wants to see evaluated on it."""

    def __init__(self, config) -> None:
        train, _, self.loader = assembly.loaders(config)
        self.train, self.test = train._dataset, self.loader._dataset
        self.trainer = InterestTrainer(config, GivenScores())
        self.shape = (self.test.user_num, self.test.item_num)

    def evaluate(self, table: np.ndarray) -> tuple[dict[str, float], object]:
        """(RecBole's result, Ranks) for scores [users, items]."""
        self.trainer.model.table = torch.tensor(table)
        found = self.trainer.evaluate(self.loader, load_best_model=False)
        items = self.trainer.evaluator.last.get("rec.items").numpy()
        return found, collected_ranks(items, self.test, self.train, (1, 5, 20))

    def users(self):
        """(RecBole id, history, targets) of every test user, read off the sequences."""
        flat, spans = self.test.flat.tolist(), self.test.spans
        for user, start, middle, end in zip(spans.user, spans.start, spans.middle, spans.end):
            yield int(user), set(flat[start:middle]), set(flat[middle:end])


@pytest.fixture
def make_bench(make_config, wide):
    """``make_bench(dataset, **keys)``: batches of 7 users, k beyond the small catalogue."""

    def make(dataset="planted", **keys):
        if dataset == "wide":
            keys["data_path"] = str(wide)
        every = {"metrics": ["Recall", "Hit", "NDCG", "NDCG_hits", "MRR"], "topk": [1, 3, 5, 20], "eval_batch_size": 7}
        return Bench(make_config("Popularity", dataset=dataset, **{**every, **keys}))

    return make
