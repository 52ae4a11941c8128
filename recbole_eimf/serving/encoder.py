"""The behaviour half of a model, rebuilt from a model folder: histories in, interests ready for inner products out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.config.models import BACKBONES
from recbole_eimf.core.errors import DataError
from recbole_eimf.model.backbones.backbone import Backbone, backbone_class
from recbole_eimf.model.item_table import ItemTable
from recbole_eimf.model.layer import encoded_by_length, scored_states
from recbole_eimf.serving.networks import NETWORKS

#: networks of RecBole's own models (not ours over them) that are served
OWN_MODELS = ("SASRec", "GRU4Rec", "BERT4Rec")


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is built from, as it stands in ``config.json``.

    towers: the name of each tower's backbone, or of one network of RecBole's where ``own`` is set; keys: what these
    read of a configuration; score, score_scale: how a state is made ready; append_one: states have a last dimension in
    which they are one (the offset of unseen items); own: RecBole's model as it stands; targets: the places of the
    towers whose candidates are in a table of their own, not in that of histories.
    """

    towers: tuple[str, ...]
    keys: Mapping[str, Any]
    score: str = "dot"
    score_scale: float = 1.0
    append_one: bool = False
    own: bool = False
    targets: tuple[int, ...] = ()


class Encoder(nn.Module):
    """Histories [B, L] to interests [B, K, d], for one tower, or states of several side by side [B, 1, E d].

    Args:
        spec: what to build; items: N, the catalogue with padding (row 0).

    Raises:
        DataError: there is no such backbone here.
    """

    def __init__(self, spec: EncoderSpec, items: int) -> None:
        super().__init__()
        self.spec = spec
        known = _Catalogue(items)
        if spec.own:
            self.towers = nn.ModuleList(_own(name, spec.keys, known) for name in spec.towers)
        else:
            self.towers = nn.ModuleList(_backbone(name, spec.keys, known) for name in spec.towers)
        self.targets = nn.ModuleDict(  # no network reads them: new items are placed among their rows
            {str(place): _table(known, self.towers[place].item_embedding.dimension) for place in spec.targets}
        )

    @property
    def max_length(self) -> int:
        """How many of the latest items of a history are read."""
        return self.spec.keys["MAX_ITEM_LIST_LENGTH"]

    @property
    def width(self) -> int | None:
        """Columns that a row must have; None: as many as the longest row of its batch."""
        return self.max_length if self.spec.own else None

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L] right-padded rows of the catalogue, [B] lengths (at least 1) -> [B, K, d].

        A row may hold at most :attr:`max_length` items. The interests' product with an item's vector is its score.
        """
        if self.spec.own:
            return self.towers[0](item_seq, item_seq_len)[:, None]
        if len(self.towers) == 1 and not self.spec.append_one:
            return self._scored(encoded_by_length(self.towers[0].interests, item_seq, item_seq_len))
        states = [encoded_by_length(tower.interests, item_seq, item_seq_len)[:, 0] for tower in self.towers]
        joined = torch.cat([self._scored(state) for state in states], 1)
        return (F.pad(joined, (0, 1), value=1.0) if self.spec.append_one else joined)[:, None]

    def _scored(self, states: Tensor) -> Tensor:
        return scored_states(states, self.spec.score, self.spec.score_scale)

    def tables(self) -> list[str]:
        """The names of the tables of histories' items in :meth:`state_dict`, one a tower."""
        ending = "item_embedding.weight" if self.spec.own else "item_embedding.embedding.weight"
        return [name for name in self.state_dict() if name.endswith(ending)]

    def target_tables(self) -> list[str]:
        """The names of the tables of candidates, one a tower: those of histories, where a tower has no other."""
        own = {place: f"targets.{place}.embedding.weight" for place in self.spec.targets}
        return [own.get(place, name) for place, name in enumerate(self.tables())]


class _Catalogue:
    """What a backbone asks of a data set."""

    def __init__(self, items: int) -> None:
        self.item_num = items


def _table(known: _Catalogue, dimension: int, extra_rows: int = 0) -> ItemTable:
    return ItemTable(known.item_num, dimension, ItemSettings(), extra_rows=extra_rows, inference_only=True)


def _backbone(name: str, keys: Mapping[str, Any], known: _Catalogue) -> Backbone:
    if name not in BACKBONES:  # an import path would run code that a folder names
        raise DataError(f"encoder over {name!r}: no backbone of recbole_eimf. Served are {', '.join(BACKBONES)}.")
    plain = BACKBONES[name].over or name
    network = {"network": NETWORKS[plain]} if plain in NETWORKS else {}
    return backbone_class(name)(keys, known, partial(_table, known), **network)


class _OwnBERT4Rec(NETWORKS["BERT4Rec"]):
    """RecBole's BERT4Rec as RecBole serves it: every sequence gives up its oldest place for the mask token."""

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        wide = F.pad(item_seq, (0, 1)).scatter(1, item_seq_len[:, None], self.mask_token)
        return self.gather_indexes(super().forward(wide[:, 1:]), item_seq_len - 1)


def _own(name: str, keys: Mapping[str, Any], known: _Catalogue) -> nn.Module:
    if name not in OWN_MODELS:
        raise DataError(f"encoder of {name}: not one of RecBole's models that are served ({', '.join(OWN_MODELS)}).")
    return _OwnBERT4Rec(keys, known) if name == "BERT4Rec" else NETWORKS[name](keys, known)


def build_history_encoder(spec: EncoderSpec, items: int, tensors: Mapping[str, Tensor]) -> Encoder:
    """An encoder with these parameters (no copies are made), ready to score.

    Raises:
        DataError: parameters are missing, or do not fit.
    """
    with torch.device("meta"), _ShapesAlone():
        encoder = Encoder(spec, items)
    try:
        encoder.load_state_dict(dict(tensors), strict=True, assign=True)
    except RuntimeError as error:
        raise DataError(f"the encoder's parameters do not fit {'+'.join(spec.towers)}: {error}") from error
    encoder.eval().requires_grad_(False)
    for kernel in (parameter for parameter in encoder.parameters() if parameter.dim() > 2):
        # torch multiplies a kernel with a batch of histories otherwise where it wants a gradient (matmul folds the
        # batch), with other last bits on some processors, and evaluation had it so. Nothing is trained here
        kernel.requires_grad_(True)
    return encoder


class _ShapesAlone(TorchFunctionMode):
    """Inside, nothing is filled with fresh numbers: for a large catalogue that takes longer than reading it, and on the
    meta device torch would first import its compiler, seconds long."""

    _FILLS = ("normal_", "uniform_", "zero_", "fill_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if name == "randn" else function)(*args, **kwargs)


class AskedKeys(dict):
    """A configuration that notes which keys it was asked for: what a model folder has to keep of it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def __missing__(self, key: str) -> Any:
        self[key] = self.config[key]
        return self[key]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.config


def keys_read(towers: tuple[str, ...], own: bool, config: Any) -> dict[str, Any]:
    """The keys that building these towers reads of a configuration, with their values."""
    asked = AskedKeys(config)
    with torch.device("meta"), _ShapesAlone():
        Encoder(EncoderSpec(towers, asked, own=own), 2)
    return {key: asked[key] for key in sorted({*asked, "MAX_ITEM_LIST_LENGTH"})}
