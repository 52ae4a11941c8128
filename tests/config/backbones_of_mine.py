"""A third party's backbones, found by their import path."""

from recbole_eimf.model.backbones.backbone import CausalBackbone
from recbole_eimf.model.backbones.recbole_backbone import RecBoleGRU4Rec


class LastItem(CausalBackbone):
    """A user's interest is the item seen last."""

    fits_towers = True

    def __init__(self, config, dataset, make_table) -> None:
        super().__init__(config)
        self.item_embedding = make_table(config["hidden_size"], 0)

    def positions(self, item_seq):
        return self.item_embedding(item_seq)


class MyGRU(RecBoleGRU4Rec):
    """GRU4Rec under another name: starts from GRU4Rec's settings."""


class NoBackbone:
    """Something else."""
