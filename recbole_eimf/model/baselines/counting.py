"""Counting floors: models without training that a neural one must beat to be worth its price."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recbole_eimf.config.contract import CHOSEN
from recbole_eimf.model.base import SequenceModel
from recbole_eimf.model.bought_together import bought_together, interaction_weights
from recbole_eimf.model.history_scores import history_scores, ties_broken
from recbole_eimf.model.placing import Neighbours

#: half-lives (days) among which ``recency_half_life=chosen`` has validation choose; of equals the last is kept, which
#: forgets least
HALF_LIVES = (7.0, 30.0, 90.0, 180.0, 365.0, None)


class CountingModel(SequenceModel):
    """Base of the floors: counts are taken from the training part when the model is made, and saved with it.

    With ``recency_half_life=chosen`` an epoch is one look at the validation part with one of :data:`HALF_LIVES`.
    """

    counting = True

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.fake = nn.Parameter(torch.zeros(1))  # RecBole's trainer wants something to optimise
        self.weights = self.choices(config)
        self._held: sparse.csr_matrix | None = None
        self._placed: tuple[Tensor, Neighbours] | None = None
        self._forgets = self.counts_alone and config["recency_half_life"] is not None
        self._counts_anew = _chooses(type(self), config)
        if self._counts_anew:
            self._counted = config, dataset
            self.register_buffer("half_life", torch.zeros(()))  # days; 0: no event counts less for its age
        if config["inference_only"] and not hasattr(dataset, "item_counts"):
            self.register_buffer("popularity", torch.zeros(self.n_items))
        else:
            self._count(config, dataset, interaction_weights(config, dataset))

    def _count(self, config, dataset, weight: np.ndarray) -> None:
        """Take the counts of the training part, each interaction with its weight [n]."""
        counts = np.bincount(dataset.flat.numpy(), weight, minlength=self.n_items)
        self.register_buffer("popularity", torch.from_numpy(counts.astype(np.float32)))

    @property
    def decays(self) -> bool:
        """Whether counts lose weight with age."""
        return self._forgets if not self._counts_anew else bool(self.half_life > 0)

    @property
    def chosen_half_life(self) -> float | None:
        """Days, of ``recency_half_life=chosen``; None where nothing is forgotten."""
        return self.half_life.item() if self.decays else None

    @classmethod
    def choices(cls, config) -> tuple[Any, ...]:
        """The half-lives, where validation chooses one."""
        return HALF_LIVES if _chooses(cls, config) else cls.weights

    @classmethod
    def chosen(cls, config, epoch: int) -> dict[str, Any] | None:
        """The half-life of an epoch, where validation chose one."""
        return {"recency_half_life": HALF_LIVES[epoch]} if _chooses(cls, config) else None

    def set_weight(self, weight: float | None) -> None:
        """Count anew with this half-life (days; None: all count alike), of ``recency_half_life=chosen``."""
        config, dataset = self._counted
        device = self.popularity.device
        self._count(config, dataset, interaction_weights(config, dataset, weight))
        self._held = None
        self.to(device)
        self.half_life.fill_(weight or 0.0)
        if self._placed is not None:  # what was placed among the first counts has its place among these
            self.place(*self._placed)
        getLogger().debug(f"recency_half_life: {weight}")

    @classmethod
    def choose_training_view(cls, config) -> str:
        return "interactions"

    @classmethod
    def needs_side_information(cls, config) -> str | None:
        return "text" if config["place_unseen"] else None

    def calculate_loss(self, interaction) -> Tensor:
        """Zero: there is nothing to train."""
        return self.fake.sum() * 0

    def _scores(self, interaction) -> Tensor:
        """[B, N] counts or weights; popularity breaks ties and fills what is unseen."""
        raise NotImplementedError

    def full_sort_predict(self, interaction) -> Tensor:
        """[B, N]"""
        return ties_broken(self._scores(interaction), self.popularity, self.decays)

    def predict(self, interaction) -> Tensor:
        """[B]"""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def _register_matrix(self, matrix: sparse.csr_matrix) -> None:
        matrix = matrix.tocsr()
        matrix.sort_indices()
        self.register_buffer("row_pointer", torch.from_numpy(matrix.indptr.astype(np.int64)))
        self.register_buffer("column", torch.from_numpy(matrix.indices.astype(np.int64)))
        self.register_buffer("value", torch.from_numpy(matrix.data.astype(np.float32)))

    def _matrix(self) -> sparse.csr_matrix:
        """The registered matrix in the processor's memory: a GPU's is copied once, not for every batch."""
        if self._held is None:
            parts = (self.value.cpu().numpy(), self.column.cpu().numpy(), self.row_pointer.cpu().numpy())
            self._held = sparse.csr_matrix(parts, shape=(self.n_items, self.n_items))
        return self._held

    def place(self, items: Tensor, near: Neighbours) -> None:
        """Count of items that no count knows, int64 [n], what is counted of the trained items they are nearest to."""
        if self._counts_anew:
            self._placed = items, near
        device = self.value.device
        self._register_matrix(near.place_unknown(self._matrix(), items))
        self._held = None
        self.to(device)

    def _apply(self, *args, **kwargs):
        self._held = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        self._held = None
        for name in ("column", "value"):  # of items that were placed there are more
            if hasattr(self, name) and (stored := state.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.zeros_like(stored, device=self.popularity.device))
        super()._load_from_state_dict(state, prefix, *args)


class Popularity(CountingModel):
    """Every user gets the most frequent training items.

    RecBole's Pop adds one per *batch* in which an item occurs (its indexed addition keeps one of several equal ids), so
    its order depends on the batch size; this counts interactions.
    """

    counts_alone = True

    places_unseen = False
    reads_order = False

    def _scores(self, interaction) -> Tensor:
        return self.popularity.expand(len(interaction[self.ITEM_SEQ_LEN]), -1)


class Markov(CountingModel):
    """First-order Markov chain: how often an item followed the user's last one in training."""

    counts_alone = True

    def _count(self, config, dataset, weight: np.ndarray) -> None:
        super()._count(config, dataset, weight)
        flat, spans = dataset.flat.numpy(), dataset.spans
        inside = np.ones(max(len(flat) - 1, 0), dtype=bool)
        last = spans.middle[spans.middle > spans.start] - 1
        inside[last[last < len(inside)]] = False  # a user's last item is not followed by the next user's first
        pair = np.flatnonzero(inside)
        counts = sparse.coo_matrix(
            (weight[pair + 1], (flat[pair], flat[pair + 1])),
            shape=(self.n_items, self.n_items),
        )
        self._register_matrix(counts.tocsr())

    def _scores(self, interaction) -> Tensor:
        sequence, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        last = sequence.gather(1, length[:, None] - 1).squeeze(1).cpu().numpy()
        return torch.from_numpy(self._matrix()[last].toarray()).to(sequence.device)


class DecayedItemKNN(CountingModel):
    """Item-to-item cosine over users, summed over the history with weights that decay with recency.

    ``score(i) = sum_t knn_decay^t sim(item t steps back, i)``; ``sim = co-occurrences / sqrt(count · count)``, shrunk
    by ``knn_shrink`` added to the denominator; each row keeps its ``knn_neighbours`` largest.
    """

    counts_alone = True

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.decay = config["knn_decay"]

    def _count(self, config, dataset, weight: np.ndarray) -> None:
        super()._count(config, dataset, weight)
        self._register_matrix(bought_together(dataset, weight, config["knn_shrink"], config["knn_neighbours"]))

    def _scores(self, interaction) -> Tensor:
        sequence, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return history_scores(sequence, length, self._matrix(), self.decay)


def _chooses(model_class: type[CountingModel], config) -> bool:
    """Whether validation chooses how fast a floor forgets."""
    return model_class.counts_alone and config["recency_half_life"] == CHOSEN
