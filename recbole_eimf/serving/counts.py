"""The counting floors as sparse tables: :mod:`recbole_eimf.model.baselines.counting` without RecBole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from scipy import sparse
from torch import Tensor

from recbole_eimf.core.errors import DataError
from recbole_eimf.model.history_scores import history_scores, ties_broken

COUNTING_MODELS = ("Popularity", "Markov", "DecayedItemKNN")


class Counts:
    """Scores of a floor.

    Args:
        model: one of ``COUNTING_MODELS``; items: N, with padding; keys: ``MAX_ITEM_LIST_LENGTH``,
            ``recency_half_life`` and, of DecayedItemKNN, ``knn_decay``.
        tensors: ``popularity`` [N] and, of a matrix [N, N], ``row_pointer``, ``column``, ``value``.

    Raises:
        DataError: parameters are missing.
    """

    width = None

    def __init__(self, model: str, items: int, keys: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        wanted = ("popularity",) if model == "Popularity" else ("popularity", "row_pointer", "column", "value")
        missing = [name for name in wanted if name not in tensors]
        if missing or model not in COUNTING_MODELS:
            raise DataError(f"{model}: no counting model of recbole_eimf, or its tables lack {', '.join(missing)}.")
        self.model, self.keys = model, keys
        self.tensors = {name: tensors[name] for name in wanted}
        self.max_length = keys["MAX_ITEM_LIST_LENGTH"]
        self.popularity = tensors["popularity"]
        self.decays = keys.get("recency_half_life") is not None  # older folders do not say it
        self.matrix = None
        if model != "Popularity":
            parts = (tensors["value"].numpy(), tensors["column"].numpy(), tensors["row_pointer"].numpy())
            self.matrix = sparse.csr_matrix(parts, shape=(items, items))

    def scores(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, N]."""
        return ties_broken(self._counted(item_seq, item_seq_len), self.popularity, self.decays)

    def contributions(self, history: list[int], distinct: list[int]) -> Tensor:
        """What each of the ``distinct`` items of a history adds to every item's count, [H, N]; all of it before
        popularity orders the rest, which no item of the history has a part in."""
        if self.model == "Popularity":
            return torch.zeros(len(distinct), len(self.popularity))
        sequence = torch.tensor(history[-self.max_length :])
        alone = torch.where(sequence == torch.tensor(distinct)[:, None], sequence, 0)
        return self._counted(alone, torch.full((len(distinct),), len(sequence)))

    def _counted(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        if self.matrix is None:
            return self.popularity.expand(len(item_seq), -1)
        if self.model == "Markov":
            last = item_seq[torch.arange(len(item_seq)), item_seq_len - 1].numpy()
            return torch.from_numpy(self.matrix[last].toarray())
        return history_scores(item_seq, item_seq_len, self.matrix, self.keys["knn_decay"])
