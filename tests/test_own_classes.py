"""Backbones and models of a user's own that break the contract: an error in a line that names them, before an epoch."""

from __future__ import annotations

import pytest
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.backbones.backbone import Backbone

HERE = "tests.test_own_classes"
QUICK = {
    "epochs": 1,
    "show_progress": False,
    "state": "INFO",
    "compare_with": [],
    "topk": [5],
    "metrics": ["NDCG"],
    "valid_metric": "NDCG@5",
    "MAX_ITEM_LIST_LENGTH": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
}


class Mean(Backbone):
    """A backbone as it should be."""

    view = "prefix"

    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config)
        self.item_embedding = make_table(8, 0)
        self.layer = nn.Linear(8, 8)

    def interests(self, item_seq, item_seq_len):
        return self.layer(self.item_embedding(item_seq).sum(1) / item_seq_len[:, None])[:, None]


class Unsaid(SequentialRecommender):
    """A model that says nothing of how it learns."""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Mean", f"Mean is not a model but a backbone. Give --model=IBIM --backbone={HERE}:Mean"),
        ("QUICK", "QUICK is a dict; a class is needed"),
        ("Unsaid", "model=Unsaid: does not say how it learns. Add --loss_type=CE"),
    ],
)
def test_a_class_that_is_no_model_is_refused(make_config, name, words):
    with pytest.raises(ConfigError, match=words):
        make_config(f"{HERE}:{name}")
