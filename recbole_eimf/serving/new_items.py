"""Adding items to a catalogue by their title (:mod:`recbole_eimf.model.placing` says where they are placed)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data.item_text import clean_text, text_of
from recbole_eimf.data.prepare.interaction_log import PADDING, control_fault
from recbole_eimf.model.layer import scored_items
from recbole_eimf.serving.encoder import EncoderSpec, build_history_encoder
from recbole_eimf.serving.index import FlatIndex, HNSWIndex, Index
from recbole_eimf.serving.parts import Parts
from recbole_eimf.serving.prior_index import PriorIndex
from recbole_eimf.serving.title_map import encoded


def extended(
    parts: Parts, config: Mapping[str, Any], titles: Mapping[str, str], profiles: Mapping[str, str] | None = None
) -> tuple[Parts, list[str]]:
    """(parts with these items, the tokens that were new); see :meth:`Recommender.add_items`."""
    if parts.text is None:
        raise ConfigError(
            f"{config['name']}: no map from titles to items was kept, so none can be added. Export the run with "
            f"--text yes (of a data set with titles; counting models have no such map)."
        )
    if not isinstance(titles, Mapping):
        raise ConfigError(f"titles={titles!r}: a dictionary of token to title is needed; write {{'NEW1': 'a title'}}.")
    new = {}
    for token, title in ((str(token), title) for token, title in titles.items()):
        if token not in parts.catalogue.row_of:
            # as ``prepare`` writes it: the same title is placed where it would have been in the catalogue
            new[token] = clean_text(title) if isinstance(title, str) else ""
            if not token.strip() or not new[token]:
                raise DataError(
                    f"item {token!r}: its title is {title!r}; a token and some text are needed to place it."
                )
            # it would be recommended, and no list of items or histories could name it
            if fault := "is RecBole's name for no item" if token == PADDING else control_fault(token):
                raise DataError(f"item {token!r}: the token {fault}. Name the item otherwise.")
    source = config["text"].get("source", "title")
    if profiles and source == "title":
        raise ConfigError(
            f"{config['name']}: profiles are given, and its items are placed by their titles alone. Leave them out, or "
            f"train with item_text_source=title+profile and export again."
        )
    if not new:
        return parts, []
    words = {str(token): profile for token, profile in (profiles or {}).items()}
    texts = [text_of(title, words.get(token, ""), source) for token, title in new.items()]
    vectors = encoded(config["text"]["encoder"], texts, parts.text, parts.catalogue, config["evaluation"]["protocol"])
    for token, vector in zip(new, vectors):
        if not np.any(vector):
            raise DataError(
                f"item {token!r}: the text encoder knows no word of {new[token]!r}, so the item cannot be placed. "
                f"Give another title."
            )
    own = "prior" in config and config["prior"].get("text") == source  # the space that its texts are in
    return with_rows(parts, torch.from_numpy(vectors), list(new), list(new.values()), own), list(new)


def with_rows(parts: Parts, vectors: Tensor, tokens: list[str], titles: list[str], own_text: bool = False) -> Parts:
    """``parts`` with items at the end whose texts have these vectors [n, d_t]; ``own_text``: also for its prior."""
    spec, items = parts.encoder.spec, len(parts.catalogue)
    near = parts.text.neighbours(vectors)
    state, placed = dict(parts.encoder.state_dict()), {}
    for name in {*parts.encoder.tables(), *parts.encoder.target_tables()}:
        table = state[name]
        placed[name] = near.place(table[:items])
        state[name] = torch.cat([table[:items], placed[name], table[items:]])
    made = [placed[name] for name in parts.encoder.target_tables()]
    if parts.bias is not None:
        bias = torch.cat([parts.bias, near.mean(parts.bias)])
        state |= {name: bias for name in state if name.endswith("output_bias")}
    rows = torch.cat([parts.vectors, _scored(spec, made, parts.text.shares)])
    grown = replace(
        parts,
        catalogue=parts.catalogue.extended(tokens, titles),
        encoder=build_history_encoder(spec, items + len(tokens), state),
        vectors=rows,
        bias=None if parts.bias is None else bias,
        text=parts.text.extended(vectors),
        prior=None if parts.prior is None else parts.prior.extended(near, vectors if own_text else None),
    )
    if parts.category is not None:  # of no known category: each differs from every other
        alone = torch.arange(len(tokens)) + int(parts.category.max()) + 1
        grown = replace(grown, category=torch.cat([parts.category, alone]))
    return replace(grown, index=_index(parts.index, grown, items))


def _scored(spec: EncoderSpec, made: list[Tensor], shares: Tensor) -> Tensor:
    """Rows of the towers' tables to scored vectors, side by side."""
    each = [scored_items(rows, spec.score) for rows in made]
    joined = torch.cat([rows * share for rows, share in zip(each, shares)], 1)
    return torch.nn.functional.pad(joined, (0, 1)) if spec.append_one else joined


def _index(old: Index | PriorIndex | None, grown: Parts, items: int) -> Index | None:
    if isinstance(old, HNSWIndex):
        return old.extended(grown.vectors, grown.bias, items)
    if isinstance(old, PriorIndex):
        return PriorIndex(grown.prior, grown.vectors, grown.bias)
    return None if old is None else FlatIndex(grown.vectors, grown.bias)
