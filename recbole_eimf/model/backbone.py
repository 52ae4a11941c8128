"""Backbones: RecBole's networks and ours behind one contract.

A backbone turns item sequences into interests. EIMF and IBIM know nothing else of it:

* ``interests(item_seq, item_seq_len) -> [B, K, d]``: what is served;
* ``positions(item_seq) -> [B, L, d]`` where the network is causal: the state after each item;
* ``training_states(batch) -> TrainingStates``: the states a training batch asks to predict items with;
* ``item_embedding``: the :class:`~recbole_eimf.model.item_table.ItemTable`; ``item_bias`` [N] or None;
* ``view``: the training rows it wants (:mod:`recbole_eimf.data.views`).

A further backbone is one class in one file and a name in ``BACKBONES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_eimf.data.dataset import TARGET_LIST
from recbole_eimf.errors import ConfigError, suggestion
from recbole_eimf.model.item_table import ItemTable
from recbole_eimf.model.layer import SelfAttentiveRouting
from recbole_eimf.model.loss import routing_penalty

#: (dimension, extra rows) -> table; the model that owns the text makes it
TableFactory = Callable[[int, int], ItemTable]


class TrainingStates(NamedTuple):
    """States of a training batch, one per target.

    interests: [P, K, d]; target: [P] item ids; row: [P] the batch row a target belongs to; penalty: a scalar the
    backbone adds to the recommendation loss.
    """

    interests: Tensor
    target: Tensor
    row: Tensor
    penalty: Tensor | float


class Backbone(nn.Module):
    """The contract; subclasses give ``interests`` and, where causal, ``positions``."""

    view: str = "prefix"
    item_bias: Tensor | None = None
    #: beta of REMI's interest-aware hard negatives; None trains with the plain softmax
    hard_negative_beta: float | None = None

    def __init__(self, config) -> None:
        super().__init__()
        self.item_seq_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self.item_field = config["ITEM_ID_FIELD"]
        self.max_length = config["MAX_ITEM_LIST_LENGTH"]

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L] right-padded item ids, [B] lengths (at least 1) -> [B, K, d]."""
        raise NotImplementedError

    def positions(self, item_seq: Tensor) -> Tensor:
        """[B, L] -> [B, L, d]: the state after each item. Causal networks only."""
        raise NotImplementedError(f"{type(self).__name__} is not causal: it has no state per position.")

    def training_states(self, batch: Interaction) -> TrainingStates:
        """States for the targets of a batch: every position of ``sequence`` rows, else the one target of a row."""
        item_seq, target = batch[self.item_seq_field], batch[self.item_field]
        if TARGET_LIST in batch:
            row, column = (item_seq != 0).nonzero(as_tuple=True)
            states = self.positions(item_seq)[row, column]
            return TrainingStates(states[:, None], batch[TARGET_LIST][row, column], row, 0.0)
        interests = self.interests(item_seq, batch[self.length_field])
        return TrainingStates(interests, target, torch.arange(len(target), device=target.device), 0.0)


class RecBoleCausal(Backbone):
    """A causal network of RecBole's (SASRec, GRU4Rec): its own code and keys; K = 1."""

    view = "sequence"

    def __init__(self, config, dataset, make_table: TableFactory, network: type[SequentialRecommender]) -> None:
        super().__init__(config)
        self.net = network(config, dataset)
        self.net.item_embedding = make_table(self.net.item_embedding.embedding_dim, 0)
        # RecBole's forward ends by picking the last position; here it hands out every position
        self.net.gather_indexes = _keep_all_positions

    @property
    def item_embedding(self) -> ItemTable:
        return self.net.item_embedding

    def positions(self, item_seq: Tensor) -> Tensor:
        return self.net.forward(item_seq, (item_seq != 0).sum(1))

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        states = self.positions(item_seq)
        row = torch.arange(len(item_seq), device=item_seq.device)
        return states[row, item_seq_len - 1][:, None]


def _keep_all_positions(output: Tensor, gather_index: Tensor) -> Tensor:
    return output


class RecBoleSASRec(RecBoleCausal):
    """RecBole's SASRec (Kang and McAuley 2018)."""

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        from recbole.model.sequential_recommender.sasrec import SASRec

        super().__init__(config, dataset, make_table, SASRec)


class RecBoleGRU4Rec(RecBoleCausal):
    """RecBole's GRU4Rec (Tan et al. 2016)."""

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        from recbole.model.sequential_recommender.gru4rec import GRU4Rec

        super().__init__(config, dataset, make_table, GRU4Rec)


class RecBoleBERT4Rec(Backbone):
    """RecBole's BERT4Rec network (Sun et al. 2019) with cloze training on whole windows; K = 1.

    RecBole's own ``reconstruct_test_data`` drops the oldest item of *every* sequence to make room for the mask token;
    here an item is dropped only from sequences of full length.
    """

    view = "sequence"

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config)
        from recbole.model.sequential_recommender.bert4rec import BERT4Rec

        self.net = BERT4Rec(config, dataset)
        self.net.item_embedding = make_table(self.net.item_embedding.embedding_dim, 1)
        self.mask_token = self.net.mask_token
        self.mask_ratio = config["mask_ratio"]

    @property
    def item_embedding(self) -> ItemTable:
        return self.net.item_embedding

    @property
    def item_bias(self) -> Tensor:
        return self.net.output_bias

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        masked, position = self._append_mask(item_seq, item_seq_len)
        row = torch.arange(len(item_seq), device=item_seq.device)
        return self.net.forward(masked)[row, position][:, None]

    def _append_mask(self, item_seq: Tensor, item_seq_len: Tensor) -> tuple[Tensor, Tensor]:
        """Put the mask token after the last item; only a full row gives up its oldest item for it."""
        wide = torch.cat([item_seq, item_seq.new_zeros(len(item_seq), 1)], 1)
        full = item_seq_len >= self.max_length
        wide = torch.where(full[:, None], wide.roll(-1, 1), wide)
        position = torch.where(full, item_seq_len - 1, item_seq_len)
        wide = wide.scatter(1, position[:, None], self.mask_token)
        return wide[:, : self.max_length], position

    def training_states(self, batch: Interaction) -> TrainingStates:
        whole = batch[self.item_seq_field]
        if TARGET_LIST in batch:  # the window's items are its inputs and its last target
            length = batch[self.length_field]
            whole = torch.cat([whole, whole.new_zeros(len(whole), 1)], 1)
            whole = whole.scatter(1, length[:, None], batch[self.item_field][:, None])
            whole = torch.where((length >= self.max_length)[:, None], whole.roll(-1, 1), whole)[:, : self.max_length]
        hidden = (torch.rand(whole.shape, device=whole.device) < self.mask_ratio) & (whole != 0)
        # every row predicts something; the last item, which is what serving asks for, where the draw hid nothing
        last = (whole != 0).sum(1) - 1
        none = ~hidden.any(1)
        hidden[none.nonzero().squeeze(1), last[none]] = True
        row, column = hidden.nonzero(as_tuple=True)
        states = self.net.forward(whole.masked_fill(hidden, self.mask_token))[row, column]
        return TrainingStates(states[:, None], whole[row, column], row, 0.0)


class ComiRecSABackbone(Backbone):
    """ComiRec-SA (Cen et al. 2020): self-attentive extraction of K interests.

    Keys: ``hidden_size`` d, ``interest_num`` K, ``hidden_dropout_prob`` on the items that the attention mixes.
    """

    view = "random_cut"
    routing_weight = 0.0

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config)
        self.item_embedding = make_table(config["hidden_size"], 0)
        self.routing = SelfAttentiveRouting(config["hidden_size"], config["interest_num"], self.max_length)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def _extract(self, item_seq: Tensor) -> tuple[Tensor, Tensor]:
        items = self.dropout(self.item_embedding(item_seq))
        return self.routing(items, item_seq != 0)

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        return self._extract(item_seq)[0]

    def training_states(self, batch: Interaction) -> TrainingStates:
        item_seq, target = batch[self.item_seq_field], batch[self.item_field]
        interests, attention = self._extract(item_seq)
        penalty = 0.0
        if self.routing_weight:
            penalty = self.routing_weight * routing_penalty(attention, item_seq != 0)
        return TrainingStates(interests, target, torch.arange(len(target), device=target.device), penalty)


class REMIBackbone(ComiRecSABackbone):
    """REMI (Xie et al. 2023): ComiRec-SA, interest-aware hard negatives, routing regularisation.

    Keys: ``remi_beta`` (hardness of the negatives), ``routing_weight`` (see
    :func:`~recbole_eimf.model.loss.routing_penalty` for its unit).
    """

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config, dataset, make_table)
        self.hard_negative_beta = config["remi_beta"]
        self.routing_weight = config["routing_weight"]


BACKBONES: dict[str, type[Backbone]] = {
    "SASRec": RecBoleSASRec,
    "GRU4Rec": RecBoleGRU4Rec,
    "BERT4Rec": RecBoleBERT4Rec,
    "ComiRecSA": ComiRecSABackbone,
    "REMI": REMIBackbone,
}


def backbone_class(name: str) -> type[Backbone]:
    """Look a backbone up. Raises ConfigError with the closest name."""
    if name not in BACKBONES:
        raise ConfigError(f"backbone={name!r}:{suggestion(name, BACKBONES)} Allowed: {', '.join(BACKBONES)}.")
    return BACKBONES[name]
