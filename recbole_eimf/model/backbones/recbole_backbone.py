"""RecBole's networks as backbones: their own code, keys and recipes; our rows, item table and loss.

Each takes the class of its network as ``network``; None is RecBole's. (Serving hands in ones that need no RecBole.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recbole_eimf.data.views import TARGET_LIST
from recbole_eimf.model.backbones.attention import fuse_attention
from recbole_eimf.model.backbones.backbone import Backbone, CausalBackbone, TableFactory, TrainingStates
from recbole_eimf.model.backbones.convolution import flatten_convolutions
from recbole_eimf.model.item_table import ItemTable

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


class RecBoleCausal(CausalBackbone):
    """A causal network of RecBole's (SASRec, GRU4Rec): its own code and keys; K = 1."""

    fits_towers = True

    def __init__(self, config, dataset, make_table: TableFactory, network: type[nn.Module]) -> None:
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


def _keep_all_positions(output: Tensor, gather_index: Tensor) -> Tensor:
    return output


class RecBoleSASRec(RecBoleCausal):
    """RecBole's SASRec (Kang and McAuley 2018)."""

    has_transformer = True

    def __init__(self, config, dataset, make_table: TableFactory, network: type[nn.Module] | None = None) -> None:
        if network is None:
            from recbole.model.sequential_recommender.sasrec import SASRec as network
        super().__init__(config, dataset, make_table, network)
        fuse_attention(self.net, causal=True)


class RecBoleGRU4Rec(RecBoleCausal):
    """RecBole's GRU4Rec (Tan et al. 2016)."""

    dimension_key = "embedding_size"

    def __init__(self, config, dataset, make_table: TableFactory, network: type[nn.Module] | None = None) -> None:
        if network is None:
            from recbole.model.sequential_recommender.gru4rec import GRU4Rec as network
        super().__init__(config, dataset, make_table, network)


class RecBoleBERT4Rec(Backbone):
    """RecBole's BERT4Rec network (Sun et al. 2019) with cloze training on whole windows; K = 1.

    RecBole's own ``reconstruct_test_data`` drops the oldest item of *every* sequence to make room for the mask token;
    here an item is dropped only from sequences of full length.
    """

    view = "sequence"
    sees_what_follows = False
    has_transformer = True

    def __init__(self, config, dataset, make_table: TableFactory, network: type[nn.Module] | None = None) -> None:
        super().__init__(config)
        if network is None:
            from recbole.model.sequential_recommender.bert4rec import BERT4Rec as network
        self.net = network(config, dataset)
        fuse_attention(self.net, causal=False)
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
        row = torch.arange(item_seq.shape[0], device=item_seq.device)
        return self.net.forward(masked)[row, position][:, None]

    def _append_mask(self, item_seq: Tensor, item_seq_len: Tensor) -> tuple[Tensor, Tensor]:
        """Put the mask token after the last item; only a full row gives up its oldest item for it."""
        wide = torch.cat([item_seq, item_seq.new_zeros(item_seq.shape[0], 1)], 1)
        full = item_seq_len >= self.max_length
        wide = torch.where(full[:, None], wide.roll(-1, 1), wide)
        position = torch.where(full, item_seq_len - 1, item_seq_len)
        wide = wide.scatter(1, position[:, None], self.mask_token)
        return wide[:, : self.max_length], position

    def training_states(self, batch: Interaction) -> TrainingStates:
        whole = batch[self.item_seq_field]
        own = whole != 0  # what may be hidden: an item is a target in one window only
        if TARGET_LIST in batch:  # the window's items are its inputs and its last target
            length, target = batch[self.length_field], batch[TARGET_LIST] != 0
            whole = torch.cat([whole, whole.new_zeros(len(whole), 1)], 1)
            whole = whole.scatter(1, length[:, None], batch[self.item_field][:, None])
            own = torch.cat([target[:, :1], target], 1)
            full = (length >= self.max_length)[:, None]
            whole, own = (torch.where(full, x.roll(-1, 1), x)[:, : self.max_length] for x in (whole, own))
        hidden = (torch.rand(whole.shape, device=whole.device) < self.mask_ratio) & own
        # every row predicts something; the last item, which is what serving asks for, where the draw hid nothing
        last = (whole != 0).sum(1) - 1
        none = ~hidden.any(1)
        hidden |= none[:, None] & (torch.arange(whole.shape[1], device=whole.device) == last[:, None])
        row, column = hidden.nonzero(as_tuple=True)
        states = self.net.forward(whole.masked_fill(hidden, self.mask_token))[row, column]
        before = torch.where(column > 0, whole[row, column - 1], 0)
        return TrainingStates(states[:, None], whole[row, column], row, 0.0, before=before)


class RecBoleCaser(Backbone):
    """RecBole's Caser (Tang and Wang 2018): convolutions over the latest ``MAX_ITEM_LIST_LENGTH`` items; K = 1.

    **Decisions.** Its convolutions need rows of full width; a row's latest item stands in the last column, as in the
    authors' code, where RecBole's rows have it anywhere. The user embedding is left out: a backbone serves from
    behaviour alone, and under ``user_split`` no test user has one that was trained. ``weight_decay`` takes the place of
    its ``reg_weight``.
    """

    view = "random_cut"
    fits_towers = True
    dimension_key = "embedding_size"

    def __init__(self, config, dataset, make_table: TableFactory, network: type[nn.Module] | None = None) -> None:
        super().__init__(config)
        if network is None:
            from recbole.model.sequential_recommender.caser import Caser as network
        self.net = network(config, dataset)
        flatten_convolutions(self.net)
        dimension = self.net.embedding_size
        self.net.item_embedding = make_table(dimension, 0)
        self.net.user_embedding = _NoUser()
        self.net.fc2 = nn.Linear(dimension, dimension)
        self.net._init_weights(self.net.fc2)

    @property
    def item_embedding(self) -> ItemTable:
        return self.net.item_embedding

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        column = torch.arange(self.max_length, device=item_seq.device) - (self.max_length - item_seq_len[:, None])
        flush_right = item_seq.gather(1, column.clamp(min=0)).masked_fill(column < 0, 0)
        return self.net.forward(item_seq_len, flush_right)[:, None]


class _NoUser(nn.Module):
    """Stands where RecBole's Caser has user embeddings: vectors of no dimension."""

    def forward(self, user: Tensor) -> Tensor:
        return torch.zeros(user.shape[0], 0, device=user.device)
