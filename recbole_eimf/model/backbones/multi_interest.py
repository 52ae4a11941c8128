"""Multi-interest backbones (ComiRec-SA, ComiRec-DR, MIND, REMI) and the mean of a history (DNN), of our own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recbole_eimf.model.backbones.backbone import Backbone, CausalBackbone, TableFactory, TrainingStates, last_items
from recbole_eimf.model.layer import BehaviourToInterestRouting, PositionalRouting, SelfAttentiveRouting
from recbole_eimf.model.losses.loss import routing_penalty

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


class MultiInterestBackbone(Backbone):
    """Items, dropped out, and a routing that makes K interests of them.

    Keys: ``hidden_size`` d, ``interest_num`` K, ``hidden_dropout_prob`` on the items that are mixed.
    """

    view = "random_cut"

    def __init__(self, config, make_table: TableFactory, routing: Callable[..., nn.Module]) -> None:
        super().__init__(config)
        self.item_embedding = make_table(config["hidden_size"], 0)
        self.routing = routing(config["hidden_size"], config["interest_num"], self.max_length)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def _extract(self, item_seq: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L] -> interests [B, K, d], weights of the items in them [B, K, L]."""
        items = self.dropout(self.item_embedding(item_seq))
        return self.routing(items, item_seq != 0)

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        return self._extract(item_seq)[0]


class ComiRecSABackbone(MultiInterestBackbone):
    """ComiRec-SA (Cen et al. 2020): self-attentive extraction of K interests."""

    routing_weight = 0.0

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config, make_table, SelfAttentiveRouting)

    def training_states(self, batch: Interaction) -> TrainingStates:
        item_seq, target = batch[self.item_seq_field], batch[self.item_field]
        interests, attention = self._extract(item_seq)
        penalty = 0.0
        if self.routing_weight:
            penalty = self.routing_weight * routing_penalty(attention, item_seq != 0)
        row = torch.arange(len(target), device=target.device)
        before = last_items(item_seq, batch[self.length_field])
        return TrainingStates(interests, target, row, penalty, before=before)


class REMIBackbone(ComiRecSABackbone):
    """REMI (Xie et al. 2023): ComiRec-SA, interest-aware hard negatives, routing regularisation.

    Keys: ``remi_beta`` (hardness of the negatives; 0, the default, is REMI without them, and tables call it so),
    ``routing_weight`` (see :func:`~recbole_eimf.model.losses.loss.routing_penalty` for its unit).
    """

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config, dataset, make_table)
        self.hard_negative_beta = config["remi_beta"]
        self.routing_weight = config["routing_weight"]


class ComiRecDRBackbone(MultiInterestBackbone):
    """ComiRec-DR (Cen et al. 2020): dynamic routing with a map of its own for every position and interest.

    Key: ``routing_softmax`` (see :func:`~recbole_eimf.model.layer.dynamic_routing`).
    """

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config, make_table, partial(PositionalRouting, softmax=config["routing_softmax"]))


class MINDBackbone(MultiInterestBackbone):
    """MIND (Li et al. 2019): behaviour-to-interest routing, then two layers shared by the interests.

    A user of n items has K' = max(1, min(K, floor(log2 n))) interests. The slots of the others hold copies of the
    first: a copy changes neither a maximum over interests (serving, hard readout) nor what an index finds, where an
    empty slot would score 0 and beat every item with a negative score. In training ``TrainingStates.mask`` keeps the
    copies out of what a softmax over interests would count twice. Label-aware attention (eq. 8) is ``readout: soft``
    with ``readout_power: p``; the default is ``readout: hard``, to the paper the limit of a growing p, and what the
    released code of ComiRec and REMI trains MIND with.

    Key: ``routing_softmax`` (see :func:`~recbole_eimf.model.layer.dynamic_routing`).
    """

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config, make_table, partial(BehaviourToInterestRouting, softmax=config["routing_softmax"]))
        dimension = config["hidden_size"]
        self.mlp = nn.Sequential(nn.Linear(dimension, 4 * dimension), nn.ReLU(), nn.Linear(4 * dimension, dimension))

    def _extract(self, item_seq: Tensor) -> tuple[Tensor, Tensor]:
        interests, weight = super()._extract(item_seq)
        interests = self.mlp(interests)
        live = self.routing.live(item_seq != 0)
        return torch.where(live[..., None], interests, interests[:, :1]), weight

    def training_states(self, batch: Interaction) -> TrainingStates:
        states = super().training_states(batch)
        return states._replace(mask=self.routing.live(batch[self.item_seq_field] != 0))


class DNNBackbone(CausalBackbone):
    """YouTube's DNN (Covington et al. 2016): the mean of the items so far, through two layers; K = 1.

    A running mean is causal, so every position of a sequence is trained on, not one cut of it.

    Keys: ``hidden_size`` d, ``hidden_dropout_prob`` on the items.
    """

    def __init__(self, config, dataset, make_table: TableFactory) -> None:
        super().__init__(config)
        dimension = config["hidden_size"]
        self.item_embedding = make_table(dimension, 0)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.mlp = nn.Sequential(nn.Linear(dimension, 4 * dimension), nn.ReLU(), nn.Linear(4 * dimension, dimension))

    def positions(self, item_seq: Tensor) -> Tensor:
        items = self.dropout(self.item_embedding(item_seq))
        count = torch.arange(1, item_seq.shape[1] + 1, device=item_seq.device)
        return self.mlp(items.cumsum(1) / count[:, None])
