"""Data sets of RecBole's models that read more than rows of items, over our lazy sequences."""

from __future__ import annotations

import numpy as np
from recbole.data.dataset import KGSeqDataset
from recbole.data.interaction import Interaction
from recbole.sampler import SeqSampler

from recbole_eimf.config.stock_needs import needs_graph, stock_class
from recbole_eimf.data.dataset import LazySequenceDataset


class SequencesWithNegatives(LazySequenceDataset):
    """DIEN's: beside every history ``neg_item_id_list`` [b, L], for each item another one, drawn once."""

    def _add_columns(self) -> None:
        field = self.config["NEG_PREFIX"] + self.iid_field
        self.copy_field_property(field, self.iid_field)
        drawn = SeqSampler(self).sample_neg_sequence(self.inter_feat[self.iid_field].numpy())
        self.inter_feat.update(Interaction({field: drawn}))


class StoredRows(LazySequenceDataset):
    """FEARec's: its loss draws other training rows of the same target, so all of them are kept, as RecBole does."""

    def build(self):
        train, valid, test = super().build()
        train.inter_feat = train.rows(np.arange(len(train)))
        return [train, valid, test]


class SequencesWithGraph(LazySequenceDataset, KGSeqDataset):
    """GRU4RecKG's and KSR's: sequences with a knowledge graph and the trained vectors of its entities."""

    def get_preload_weight(self, field: str) -> np.ndarray:
        """RecBole's, in single precision: KSR multiplies the vectors by its own."""
        return super().get_preload_weight(field).astype(np.float32)


_OWN = {"DIEN": SequencesWithNegatives, "FEARec": StoredRows}


def lazy_dataset_class(model_class: type) -> type[LazySequenceDataset]:
    """The data set class of a model, ours or RecBole's."""
    own = getattr(model_class, "dataset_class", None)  # a model of RecBole's may be given one, too
    if own is not None:
        return own
    if needs_graph(model_class):
        return SequencesWithGraph
    stock = stock_class(model_class)
    return _OWN.get(stock.__name__ if stock else "", LazySequenceDataset)
