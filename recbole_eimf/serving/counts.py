"""The counting floors as sparse tables: :mod:`recbole_eimf.model.baselines.counting` without RecBole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbole_eimf.core.errors import DataError

COUNTING_MODELS = ("Popularity", "Markov", "DecayedItemKNN")


class Counts:
    """Scores of a floor.

    Args:
        model: one of ``COUNTING_MODELS``; items: N, with padding; keys: ``MAX_ITEM_LIST_LENGTH`` and, of
            DecayedItemKNN, ``knn_decay``.
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
        popularity = tensors["popularity"]
        self.floor = popularity / (popularity.max() + 1) * 1e-4  # breaks ties, and fills what is unseen
        self.popularity = popularity
        self.matrix = None
        if model != "Popularity":
            parts = (tensors["value"].numpy(), tensors["column"].numpy(), tensors["row_pointer"].numpy())
            self.matrix = sparse.csr_matrix(parts, shape=(items, items))

    def scores(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, N]."""
        if self.model == "Popularity":
            return self.popularity.expand(len(item_seq), -1) + self.floor
        if self.model == "Markov":
            last = item_seq[torch.arange(len(item_seq)), item_seq_len - 1].numpy()
            return torch.from_numpy(self.matrix[last].toarray()) + self.floor
        sequence, length = item_seq.numpy(), item_seq_len.numpy()
        row, column = sequence.nonzero()
        weight = self.keys["knn_decay"] ** (length[row] - 1 - column)
        shape = (len(sequence), self.matrix.shape[0])
        history = sparse.coo_matrix((weight, (row, sequence[row, column])), shape=shape)
        scores = (history.tocsr() @ self.matrix).toarray().astype(np.float32)
        return torch.from_numpy(scores) + self.floor
