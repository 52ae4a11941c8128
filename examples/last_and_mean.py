"""A backbone of your own: two interests, the last item and the mean of the history.

python run_recbole_eimf.py --model=IBIM --backbone=examples.last_and_mean:LastAndMean --dataset=ml-100k
python run_recbole_eimf.py --model=EIMF --backbone=examples.last_and_mean:LastAndMean --dataset=ml-100k
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_eimf.model.backbones.backbone import Backbone


class LastAndMean(Backbone):
    """[B, L] items -> [B, 2, d]: the last item through one layer, the mean of all items through another.

    Keys: ``hidden_size`` d, ``hidden_dropout_prob``; None where nobody sets them.
    """

    view = "prefix"  # a training row for every item of a sequence, with what came before it

    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config)
        dimension = config["hidden_size"] or 64
        self.item_embedding = make_table(dimension, 0)  # the model owns text and scores; the backbone asks for a table
        self.dropout = nn.Dropout(config["hidden_dropout_prob"] or 0.0)
        self.of_last = nn.Linear(dimension, dimension)
        self.of_mean = nn.Linear(dimension, dimension)

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        items = self.dropout(self.item_embedding(item_seq))  # [B, L, d]
        real = (item_seq != 0).unsqueeze(-1)  # histories are padded on the right with item 0
        mean = (items * real).sum(1) / real.sum(1).clamp_min(1)
        last = items[torch.arange(len(items), device=items.device), item_seq_len - 1]
        return torch.stack([self.of_last(last), self.of_mean(mean)], dim=1)
