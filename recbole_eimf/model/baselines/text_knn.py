"""Floors that read item text and train nothing: neighbours by text, alone and beside neighbours by purchases."""

from __future__ import annotations

from logging import getLogger

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbole_eimf.model.baselines.counting import CountingModel, DecayedItemKNN
from recbole_eimf.model.history_scores import history_scores, text_scores, unit_text

#: weights of the text among which validation chooses
WEIGHTS = tuple(np.linspace(0, 1, 11).round(2).tolist())


class TextKNN(CountingModel):
    """Cosine of item texts, summed over the history with weights that decay with recency.

    ``score(i) = sum_t knn_decay^t cos(text of the item t steps back, text of i)``; items without text score zero. Text
    vectors are centred first: the mean of all titles says nothing.
    """

    places_unseen = False

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.decay = config["knn_decay"]
        self.register_buffer("text", _unit_text(config, dataset, self.n_items))

    @classmethod
    def needs_side_information(cls, config) -> str:
        return "text"

    def _scores(self, interaction) -> Tensor:
        return text_scores(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], self.text, self.decay)

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        _take_width(self, state, prefix)
        super()._load_from_state_dict(state, prefix, *args)


class ItemKNNText(DecayedItemKNN):
    """``(1 - w) DecayedItemKNN + w TextKNN``, each divided by the user's largest score; w is chosen on validation.

    Training is one look at the validation part for each of :data:`WEIGHTS`: an epoch here is a weight.
    """

    weights = WEIGHTS
    counts_alone = False

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer("text", _unit_text(config, dataset, self.n_items))
        self.register_buffer("weight", torch.zeros(()))

    @classmethod
    def needs_side_information(cls, config) -> str:
        return "text"

    def set_weight(self, weight: float) -> None:
        """What share of a score is the text's, 0 to 1."""
        self.weight.fill_(weight)
        getLogger().debug(f"weight of the text: {weight}")

    def _scores(self, interaction) -> Tensor:
        bought = super()._scores(interaction)
        alike = text_scores(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], self.text, self.decay)
        return (1 - self.weight) * _largest_is_one(bought) + self.weight * _largest_is_one(alike)

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        _take_width(self, state, prefix)
        super()._load_from_state_dict(state, prefix, *args)


class NextKNN(CountingModel):
    """What an LLM says is bought next, alone: ``score(i) = sum_t knn_decay^t G[item t steps back, i]`` with G of
    :func:`~recbole_eimf.semantic.knowledge.next_graph`."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.decay = config["knn_decay"]
        self._register_matrix(_next_items(config, dataset, self.n_items))

    @classmethod
    def needs_side_information(cls, config) -> str:
        return "text"

    @classmethod
    def reads_item_text(cls, config) -> bool:
        """Only to place new items; else it says which items the LLM's words may name."""
        return super().needs_side_information(config) is not None

    @classmethod
    def needs_next_items(cls, config) -> bool:
        return True

    def _scores(self, interaction) -> Tensor:
        return history_scores(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], self._matrix(), self.decay)


class ItemKNNTextNext(ItemKNNText):
    """:class:`ItemKNNText` with a share of :class:`NextKNN`, each divided by the user's largest score; the shares of
    both, (text, next), are chosen on validation."""

    weights = tuple((text, follows) for follows in (0.0, 0.1, 0.2, 0.3, 0.5) for text in WEIGHTS[:9:2])

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer("next_weight", torch.zeros(()))
        follows = _next_items(config, dataset, self.n_items).tocoo()
        self.register_buffer("next_index", torch.from_numpy(np.stack([follows.row, follows.col]).astype(np.int64)))
        self.register_buffer("next_value", torch.from_numpy(follows.data.astype(np.float32)))
        self._follows: sparse.csr_matrix | None = None

    @classmethod
    def needs_next_items(cls, config) -> bool:
        return True

    def set_weight(self, weight: tuple[float, float]) -> None:
        """The shares of text and of what is bought next."""
        super().set_weight(weight[0])
        self.next_weight.fill_(weight[1])

    def _scores(self, interaction) -> Tensor:
        if self._follows is None:
            parts = (self.next_value.cpu().numpy(), tuple(self.next_index.cpu().numpy()))
            self._follows = sparse.csr_matrix(parts, shape=(self.n_items, self.n_items))
        follows = history_scores(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], self._follows, self.decay)
        others = super()._scores(interaction)
        return (1 - self.next_weight) * others + self.next_weight * _largest_is_one(follows)

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        self._follows = None
        for name in ("next_index", "next_value"):
            if (stored := state.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.zeros_like(stored, device=self.weight.device))
        super()._load_from_state_dict(state, prefix, *args)


def _next_items(config, dataset, n_items: int) -> sparse.csr_matrix:
    """[N, N]; nothing in it until a saved model is loaded."""
    side = getattr(dataset, "side", None)
    if config["inference_only"] or side is None:
        return sparse.csr_matrix((n_items, n_items), dtype=np.float32)
    return side.next_items


def _largest_is_one(scores: Tensor) -> Tensor:
    return scores / scores.amax(1, keepdim=True).clamp(min=1e-9)


def _unit_text(config, dataset, n_items: int) -> Tensor:
    """Centred text vectors of unit length, zero where there is none, [N, d]; [N, 0] until a saved model is loaded."""
    side = getattr(dataset, "side", None)
    if config["inference_only"] or side is None:
        return torch.zeros(n_items, 0)
    return unit_text(side)


def _take_width(model: CountingModel, state, prefix: str) -> None:
    stored = state.get(f"{prefix}text")
    if stored is not None and model.text.shape[1] == 0:
        model.text = torch.zeros_like(stored, device=model.text.device)
