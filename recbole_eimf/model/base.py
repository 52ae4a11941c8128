"""The contract of a model of ours: what it must be able to do, and what everybody may ask it.

A model is a class that derives from :class:`SequenceModel`. Three methods must be there (``calculate_loss``,
``full_sort_predict``, ``predict``); everything else has an answer here that a model may change. What is asked of the
class, before there is a model, stands in :class:`~recbole_eimf.config.contract.ModelContract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_eimf.config.contract import ModelContract


class SequenceModel(ModelContract, SequentialRecommender, ABC):
    """Base of every model of ours.

    Args:
        config: RecBole's configuration.
        dataset: the training part (:class:`~recbole_eimf.data.dataset.LazySequenceDataset`).
    """

    input_type = InputType.POINTWISE
    trims_batches = True
    places_unseen = True
    #: a training step reads a few items' vectors alone, by id: their gradient can be sparse
    looks_up: bool = False
    #: scores are products of ``interests`` and ``scored_vectors`` (plus ``item_bias``) and nothing comes after
    scores_are_products: bool = False
    #: added to the scores of items, [N], or None
    item_bias: Tensor | None = None
    #: only the direction of item vectors counts
    unit_vectors: bool = False

    @abstractmethod
    def calculate_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The loss of a batch, a scalar; of several parts, whose sum is trained, a tuple."""

    @abstractmethod
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """[B, N]: the score of every item, from behaviour alone."""

    @abstractmethod
    def predict(self, interaction: Interaction) -> Tensor:
        """[B]: the score of each row's ``item_id``."""

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, K, d]: a user's interests, ready for an inner-product index over ``scored_vectors``."""
        raise NotImplementedError(f"{type(self).__name__} has no vectors of users.")

    def scored_vectors(self) -> Tensor:
        """[N, d]: the vectors whose inner product with an interest is the score."""
        raise NotImplementedError(f"{type(self).__name__} has no vectors of items.")

    def embeddings(self) -> dict[str, Tensor]:
        """Item vectors [N, d] by name, for comparing what two models see as near; none where it has none."""
        return {}
