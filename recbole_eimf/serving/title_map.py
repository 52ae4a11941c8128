"""Items that training never saw, placed by their title.

A new item gets, in each tower's table, the weighted mean of the rows of the trained items whose titles are nearest to
its own, the weights being a softmax of the titles' cosines t . t_j:

    row(t) = length * direction of sum_j w_j row_j,   w_j ~ exp(t . t_j / TEMPERATURE),   length = sum_j w_j |row_j|

A mean of vectors is shorter than they are, and a product would rank new items behind all others for that alone, hence
the length. benchmarks/new_items.py measures what this is worth, and what it was chosen by: a regression from titles to
rows, with or without the neighbours' residuals, finds fewer of the items that were hidden, even for towers whose rows
are a linear map of text, where it is nearly exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.serving.catalogue import Catalogue

#: trained items that a new one's place is the mean of, and how fast their weight falls with the cosine of titles
NEIGHBOURS = 20
TEMPERATURE = 0.05


@dataclass(frozen=True)
class TitleEncoder:
    """What turns a title into a vector: the settings of :mod:`recbole_eimf.semantic.encoders.text_encoder`."""

    name: str
    max_length: int
    pooling: str
    identity: str


class Neighbours(NamedTuple):
    """Of each new item the nearest trained ones: rows int64 [n, J] of the catalogue, and weights [n, J] that add up to
    one."""

    rows: Tensor
    weight: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Values of the catalogue, [N] or [N, d], to their weighted means, [n] or [n, d]."""
        near = values[self.rows]
        return torch.einsum("nj,nj...->n...", self.weight.to(near.dtype), near)


@dataclass(frozen=True)
class TitleMap:
    """What places items by their titles.

    text: float16 [N, d_t], unit vectors, zero where an item has no text; trained: bool [N], items with text that
    training saw; shares: [E], what each tower counts for a new item.
    """

    text: Tensor
    trained: Tensor
    shares: Tensor

    def neighbours(self, titles: Tensor) -> Neighbours:
        """[n, d_t] -> at most NEIGHBOURS of each."""
        trained = self.trained.nonzero().squeeze(1)
        # rounded as the catalogue's are, so that an item's own title is nearest to itself
        likeness = titles.half().float() @ self.text[trained].float().T
        cosine, near = likeness.topk(min(NEIGHBOURS, len(trained)))
        return Neighbours(trained[near], torch.softmax(cosine / TEMPERATURE, 1))

    def rows(self, table: Tensor, near: Neighbours) -> Tensor:
        """Rows [n, d] for a tower's table [N, d]."""
        made = near.mean(table)
        return torch.nn.functional.normalize(made, dim=1, eps=1e-12) * near.mean(table.norm(dim=1))[:, None]

    def extended(self, titles: Tensor) -> TitleMap:
        """With further items, which were not trained."""
        none = torch.zeros(len(titles), dtype=torch.bool)
        return replace(self, text=torch.cat([self.text, titles.half()]), trained=torch.cat([self.trained, none]))

    def tensors(self) -> dict[str, Tensor]:
        """As they stand in ``text.safetensors``."""
        return {"text": self.text, "trained": self.trained, "shares": self.shares}

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> TitleMap:
        """From ``text.safetensors``. Raises KeyError for what is missing."""
        return cls(found["text"], found["trained"], found["shares"])


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
