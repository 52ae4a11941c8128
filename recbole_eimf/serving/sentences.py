"""What EIMF's reasons are made of: the LLM's interests of exemplars, and the trained maps that weigh them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_eimf.model.layer import MaskedSelfAttention


@dataclass(frozen=True)
class Sentences:
    """The LLM's interests of EIMF's exemplars, and the trained maps that weigh them (eq. 7-8).

    exemplars: [C] user tokens; texts: [C] lists of sentences; interests: float16 [C, M, d_t], their vectors; mask: bool
    [C, M]; histories: float16 [C, d_t], unit vectors of the text of the exemplars' histories; weights: ``projection``
    [d, d'], ``query``, ``key``, ``value`` [d, d], and, where text is transformed, ``mean`` [d_t], ``map`` [d_t, d'],
    ``scale``.
    """

    exemplars: pa.Array
    texts: pa.ListArray
    interests: Tensor
    mask: Tensor
    histories: Tensor
    weights: Mapping[str, Tensor]

    @cached_property
    def answerable(self) -> Tensor:
        """int64: exemplars with interests and with a history that has text."""
        return (self.mask.any(1) & (self.histories != 0).any(1)).nonzero().squeeze(1)

    def nearest(self, histories: Tensor) -> Tensor:
        """[B, d_t] text of histories -> int64 [B], the nearest exemplar."""
        near = histories @ self.histories[self.answerable].float().T
        return self.answerable[near.argmax(1)]

    def weigh(self, exemplar: Tensor, titles: Tensor) -> Tensor:
        """Eq. 8: [R] exemplars, [R, d_t] titles -> [R, M] weights, zero where an exemplar has no further interest."""
        mask = self.mask[exemplar]
        query = self._projected(titles)
        logits = torch.einsum("rd,rmd->rm", query, self._attended[exemplar]) / math.sqrt(query.shape[-1])
        return torch.softmax(logits.masked_fill(~mask, -torch.inf), -1)

    @cached_property
    def _attended(self) -> Tensor:
        """Eq. 7: [C, M, d]."""
        attention = MaskedSelfAttention(self.weights["query"].shape[0])
        attention.load_state_dict({f"{name}.weight": self.weights[name] for name in ("query", "key", "value")})
        mask = self.mask.clone()
        mask[~mask.any(1), 0] = True  # a row of the softmax needs something; such exemplars are never named
        with torch.no_grad():
            return attention(self._projected(self.interests.float()), mask)

    def _projected(self, text: Tensor) -> Tensor:
        if "map" in self.weights:
            moved = (text.double() - self.weights["mean"]) @ self.weights["map"] * self.weights["scale"]
            text = moved.float()
        return F.linear(text, self.weights["projection"])

    # ------------------------------------------------------------------ on disk
    def tensors(self) -> dict[str, Tensor]:
        """As they stand in ``explain.safetensors``."""
        return {"interests": self.interests, "mask": self.mask, "histories": self.histories, **self.weights}

    def columns(self) -> dict[str, Any]:
        """As they stand in ``interests.parquet``."""
        return {"exemplar": self.exemplars, "interests": self.texts}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], exemplars: pa.Array, texts: pa.ListArray) -> Sentences:
        """From the two files. Raises KeyError for what is missing."""
        rest = dict(tensors)
        parts = [rest.pop(name) for name in ("interests", "mask", "histories")]
        return cls(exemplars, texts, *parts, rest)


def history_text(text: Tensor, rows: Sequence[int]) -> Tensor:
    """The unit mean of the titles' vectors of a history, [d_t]; zero where none has text."""
    return F.normalize(text[list(rows)].float().sum(0), dim=0)
