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

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.model.layer import unit_rows
from recbole_eimf.serving.encoder import EncoderSpec, build_encoder
from recbole_eimf.serving.index import FlatIndex, HNSWIndex

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


def extended(parts, config: Mapping[str, Any], titles: Mapping[str, str]):
    """(parts with these items, the tokens that were new); see :meth:`Recommender.add_items`."""
    if parts.text is None:
        raise ConfigError(
            f"{config['name']}: no map from titles to items was kept, so none can be added. Export the run with "
            f"--text yes (of a data set with titles; counting models have no such map)."
        )
    new = {str(token): title for token, title in titles.items() if str(token) not in parts.catalogue.row_of}
    for token, title in new.items():
        if not token or not isinstance(title, str) or not title.strip():
            raise DataError(f"item {token!r}: its title is {title!r}; a token and some text are needed to place it.")
    if not new:
        return parts, []
    vectors = encoded(config["text"]["encoder"], list(new.values()), parts.catalogue)
    for token, vector in zip(new, vectors):
        if not np.any(vector):
            raise DataError(f"item {token!r}: the text encoder knows no word of {new[token]!r}, so it has no place.")
    return with_rows(parts, torch.from_numpy(vectors), list(new), list(new.values())), list(new)


def with_rows(parts, vectors: Tensor, tokens: list[str], titles: list[str]):
    """``parts`` with items at the end whose titles have these vectors [n, d_t]."""
    spec, items = parts.encoder.spec, len(parts.catalogue)
    near = parts.text.neighbours(vectors)
    state, made = dict(parts.encoder.state_dict()), []
    for tower, name in enumerate(parts.encoder.tables()):
        table = state[name]
        made.append(parts.text.rows(vectors, tower, table[:items], near))
        state[name] = torch.cat([table[:items], made[-1], table[items:]])
    if parts.bias is not None:
        bias = torch.cat([parts.bias, parts.bias[near].mean(1)])
        state |= {name: bias for name in state if name.endswith("output_bias")}
    rows = torch.cat([parts.vectors, _scored(spec, made, parts.text.shares)])
    grown = replace(
        parts,
        catalogue=parts.catalogue.extended(tokens, titles),
        encoder=build_encoder(spec, items + len(tokens), state),
        vectors=rows,
        bias=None if parts.bias is None else bias,
        text=parts.text.extended(vectors),
    )
    if parts.category is not None:  # of no known category: each differs from every other
        alone = torch.arange(len(tokens)) + int(parts.category.max()) + 1
        grown = replace(grown, category=torch.cat([parts.category, alone]))
    return replace(grown, index=_index(parts.index, grown, items))


def _scored(spec: EncoderSpec, made: list[Tensor], shares: Tensor) -> Tensor:
    """Rows of the towers' tables to scored vectors, side by side."""
    each = [unit_rows(rows) if spec.score == "cosine" else rows for rows in made]
    joined = torch.cat([rows * share for rows, share in zip(each, shares)], 1)
    return torch.nn.functional.pad(joined, (0, 1)) if spec.append_one else joined


def _index(old, grown, items: int):
    if isinstance(old, HNSWIndex):
        return old.extended(grown.vectors, grown.bias, items)
    return None if old is None else FlatIndex(grown.vectors, grown.bias)


def encoded(wanted: Mapping[str, Any], titles: list[str], catalogue) -> np.ndarray:
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
    from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings, build_encoder

    keys = asdict(wanted)
    identity = keys.pop("identity")
    encoder = build_encoder(EncoderSettings(**keys), corpus)
    if encoder.identity != identity:
        raise ConfigError(
            f"text encoder {wanted.name}: here it is {encoder.identity}, and the model was trained with {identity}. "
            f"Vectors of two encoders do not belong in one space: install what the model was trained with."
        )
    return encoder
