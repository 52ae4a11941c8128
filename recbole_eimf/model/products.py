"""Models whose scores are inner products: what ranking in chunks and serving ask of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Query(NamedTuple):
    """Scores as products: the greatest over k of ``interests[b, k] · vectors[i]``, plus ``bias[i]``.

    interests: [B, K, d]; vectors: [N, d], row 0 is padding; bias: [N] or None.
    """

    interests: Tensor
    vectors: Tensor
    bias: Tensor | None = None

    def scores(self, begin: int, end: int) -> Tensor:
        """[B, end - begin], of these items."""
        chunk = self.vectors[begin:end].T
        found = self.interests[:, 0] @ chunk
        for k in range(1, self.interests.shape[1]):
            torch.maximum(found, self.interests[:, k] @ chunk, out=found)
        return found if self.bias is None else found.add_(self.bias[begin:end])


def scored_by_products(method: Callable) -> Callable:
    """Mark a model's ``full_sort_predict`` as what :func:`query` computes in chunks. A subclass that overrides the
    method loses the mark, and is evaluated by its own."""
    method.scored_by_products = True
    return method


def query(model: Any, interaction: Any) -> Query | None:
    """The scores of a batch as products; None where a model's are something else (or are re-ranked)."""
    marked = getattr(type(model).full_sort_predict, "scored_by_products", False)
    if not marked or not model.scores_are_products:  # a mark is worn by models under our contract only
        return None
    interests = model.interests(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
    return Query(interests, model.scored_vectors(), model.item_bias)
