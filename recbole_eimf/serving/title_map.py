"""Items that training never saw, placed by their title.

A title's vector t is mapped to the item table by a ridge regression, fitted on the items that were trained and have
text; to that is added the mean of what the regression misses of the nearest trained items (by the cosine of titles):

    row(t) = W (t - mean) + b + mean over neighbours j of (row_j - W (t_j - mean) - b)

A regression's vectors are shorter than those it was fitted on, and a dot product would rank new items behind all
others for that alone: the row gets the mean length of its neighbours'. benchmarks/new_items.py measures what it is
worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.serving.catalogue import Catalogue

#: trained items that a new one is compared with, and the ridge, in units of the mean variance of a text dimension
NEIGHBOURS = 10
RIDGE = 1.0


@dataclass(frozen=True)
class TitleEncoder:
    """What turns a title into a vector: the settings of :mod:`recbole_eimf.semantic.encoders.text_encoder`."""

    name: str
    max_length: int
    pooling: str
    identity: str


@dataclass(frozen=True)
class TitleMap:
    """From titles to rows of the towers' item tables.

    text: float16 [N, d_t], unit vectors, zero where an item has no text; trained: bool [N], items the map was fitted
    on; mean: [d_t]; weight, offset: of each tower [d_t, d], [d]; shares: [E], what each tower counts for a new item.
    """

    text: Tensor
    trained: Tensor
    mean: Tensor
    weight: tuple[Tensor, ...]
    offset: tuple[Tensor, ...]
    shares: Tensor

    @classmethod
    def fitted(cls, text: Tensor, trained: Tensor, tables: list[Tensor], shares: Tensor) -> TitleMap:
        """Fit the map.

        Args:
            text: [N, d_t]; trained: bool [N]; tables: [N, d] of each tower; shares: [E].
        """
        text = text.half()
        known = text[trained].double()
        mean = known.mean(0)
        centred = known - mean
        square = centred.T @ centred
        square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
        weight, offset = [], []
        for table in tables:
            rows = table[trained].double()
            middle = rows.mean(0)
            weight.append(torch.linalg.solve(square, centred.T @ (rows - middle)).float())
            offset.append(middle.float())
        return cls(text, trained, mean.float(), tuple(weight), tuple(offset), shares)

    def neighbours(self, titles: Tensor) -> Tensor:
        """[n, d_t] -> int64 [n, at most NEIGHBOURS]: rows of the nearest trained items."""
        trained = self.trained.nonzero().squeeze(1)
        near = (titles @ self.text[trained].float().T).topk(min(NEIGHBOURS, len(trained))).indices
        return trained[near]

    def rows(self, titles: Tensor, tower: int, table: Tensor, near: Tensor) -> Tensor:
        """[n, d_t] -> [n, d]: rows for a tower's table [N, d]; near: of :meth:`neighbours`."""
        left_over = table[near] - self._mapped(self.text[near].float(), tower)
        made = self._mapped(titles, tower) + left_over.mean(1)
        length = table[near].norm(dim=-1).mean(1, keepdim=True)
        return made / made.norm(dim=1, keepdim=True).clamp(min=1e-12) * length

    def _mapped(self, titles: Tensor, tower: int) -> Tensor:
        return (titles - self.mean) @ self.weight[tower] + self.offset[tower]

    def extended(self, titles: Tensor) -> TitleMap:
        """With further items, which were not trained."""
        none = torch.zeros(len(titles), dtype=torch.bool)
        return replace(self, text=torch.cat([self.text, titles.half()]), trained=torch.cat([self.trained, none]))

    def tensors(self) -> dict[str, Tensor]:
        """As they stand in ``text.safetensors``."""
        found = {"text": self.text, "trained": self.trained, "mean": self.mean, "shares": self.shares}
        for tower, (weight, offset) in enumerate(zip(self.weight, self.offset)):
            found |= {f"weight.{tower}": weight, f"offset.{tower}": offset}
        return found

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> TitleMap:
        """From ``text.safetensors``. Raises KeyError for what is missing."""
        towers = range(len(found["shares"]))
        parts = (tuple(found[f"{name}.{tower}"] for tower in towers) for name in ("weight", "offset"))
        return cls(found["text"], found["trained"], found["mean"], *parts, found["shares"])


def encoded(wanted: Mapping[str, Any], titles: list[str], catalogue: Catalogue) -> np.ndarray:
    """Titles to vectors, float32 [n, d_t] of unit length.

    Raises:
        ConfigError: the encoder is not here, or is another than the one the model was trained with.
    """
    corpus = None
    if wanted["name"] == "tfidf-svd":  # fitted on the titles of the run's catalogue
        corpus = tuple(title for title in catalogue.titles.to_pylist()[: wanted["fitted_on"]] if title)
    encoder = _encoder(TitleEncoder(**{key: wanted[key] for key in TitleEncoder.__annotations__}), corpus)
    return encoder.encode(titles)


@lru_cache(maxsize=2)
def _encoder(wanted: TitleEncoder, corpus: tuple[str, ...] | None):
    from recbole_eimf.semantic.encoders.build import build_encoder
    from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings

    keys = asdict(wanted)
    identity = keys.pop("identity")
    encoder = build_encoder(EncoderSettings(**keys), corpus)
    if encoder.identity != identity:
        raise ConfigError(
            f"text encoder {wanted.name}: here it is {encoder.identity}, and the model was trained with {identity}. "
            f"Vectors of two encoders do not belong in one space: install what the model was trained with."
        )
    return encoder
