"""What models over a backbone have in common, however they are made: one network with a readout (IBIM, EIMF), or a sum
of towers (PAD, the text baselines)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_eimf.config import keys
from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.model.backbones.backbone import Backbone, WeighsTargets, backbone_class, try_out
from recbole_eimf.model.base import SequenceModel
from recbole_eimf.model.losses.negatives import NegativeSampler, known_items


class OverBackbone(WeighsTargets, SequenceModel):
    """A model whose states a backbone makes; its item vectors follow ``ItemSettings``.

    Args:
        config: RecBole's configuration.
        dataset: the training part.
    """

    takes_backbone = True

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.item_settings = keys.read(ItemSettings, config)
        self.inference_only = bool(config["inference_only"])
        self.logits_dtype = getattr(torch, self.item_settings.logits_dtype)

    @classmethod
    def backbone_name(cls, config) -> str:
        """The backbone of a configuration."""
        return cls.fixed_backbone or config["backbone"]

    @classmethod
    def network_name(cls, config) -> str:
        """The backbone that is built: a form of :meth:`backbone_name`, where a model has one."""
        return cls.backbone_name(config)

    @classmethod
    def choose_training_view(cls, config) -> str:
        """The rows this model trains on, where ``training_view`` does not say."""
        return backbone_class(cls.network_name(config)).view

    def try_own_backbone(self, config) -> None:
        """Hold a backbone of the user's own against the contract, before anything is trained. Raises ConfigError."""
        name = self.network_name(config)
        for module in self.modules() if ":" in name else ():
            if isinstance(module, Backbone):
                try_out(name, module)

    @property
    def unit_vectors(self) -> bool:
        return self.item_settings.score == "cosine"

    def _competing_items(self, config, dataset, titles_make_vectors: bool) -> Tensor | None:
        """int64 [C], the ids of the items that compete with a target; None where the whole catalogue does.

        In time order an item that comes later has no title yet: where titles make the vectors it does not compete.
        """
        return known_items(dataset) if titles_make_vectors and config["protocol"] == "global_time" else None

    def _new_sampler(self, dataset, candidates: Tensor) -> NegativeSampler:
        """What draws ``num_negatives`` among ``candidates``, int64 [C], for a softmax."""
        wanted = self.item_settings
        counts = dataset.item_counts() if wanted.negative_sampling == "popularity" else None
        return NegativeSampler(candidates, counts, wanted.negatives_for == "target", wanted.negative_correction)
