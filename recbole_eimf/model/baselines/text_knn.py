"""Floors that read item text and train nothing: neighbours by text, alone and beside neighbours by purchases."""

from __future__ import annotations

from logging import getLogger

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_eimf.model.baselines.counting import CountingModel, DecayedItemKNN

#: weights of the text among which validation chooses
WEIGHTS = tuple(np.linspace(0, 1, 11).round(2).tolist())


class TextKNN(CountingModel):
    """Cosine of item texts, summed over the history with weights that decay with recency.

    ``score(i) = sum_t knn_decay^t cos(text of the item t steps back, text of i)``; items without text score zero. Text
    vectors are centred first: the mean of all titles says nothing.
    """

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


def text_scores(sequence: Tensor, length: Tensor, text: Tensor, decay: float) -> Tensor:
    """[B, L] right-padded items, [B], unit rows [N, d] -> [B, N]."""
    steps = length[:, None] - 1 - torch.arange(sequence.shape[1], device=sequence.device)
    weight = torch.where(sequence > 0, decay ** steps.clamp(min=0), 0.0)
    return (weight[..., None] * text[sequence]).sum(1) @ text.T


def _largest_is_one(scores: Tensor) -> Tensor:
    return scores / scores.amax(1, keepdim=True).clamp(min=1e-9)


def _unit_text(config, dataset, n_items: int) -> Tensor:
    """Centred text vectors of unit length, zero where there is none, [N, d]; [N, 0] until a saved model is loaded."""
    side = getattr(dataset, "side", None)
    if config["inference_only"] or side is None:
        return torch.zeros(n_items, 0)
    known = side.item_has_text
    mean = side.item_text[known].mean(0)
    return F.normalize((side.item_text - mean) * known[:, None], dim=-1)


def _take_width(model: CountingModel, state, prefix: str) -> None:
    stored = state.get(f"{prefix}text")
    if stored is not None and model.text.shape[1] == 0:
        model.text = torch.zeros_like(stored, device=model.text.device)
