"""The catalogue of models and backbones: one card each, from which come the registry, help, tables and tests.

A card names classes by import path and imports none: what a model is made of is loaded when it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from recbole_eimf.core.errors import ConfigError, imported, suggestion


@dataclass(frozen=True)
class BackboneCard:
    """A backbone of ours: ``path`` is ``module:Class``; ``towers``: whether PAD's experts can be built over it;
    ``over``: the backbone it is a form of, whose settings it takes."""

    name: str
    path: str
    help: str
    towers: bool = False
    over: str | None = None


_OF_INTERESTS = ("ItemSettings", "InterestModelSettings", "NetworkSettings", "PriorSettings")
#: family -> parts of the catalogue of keys
_READS = {
    "eimf": _OF_INTERESTS,
    "text": _OF_INTERESTS,
    "backbone": _OF_INTERESTS,
    "pad": (*_OF_INTERESTS, "PADSettings"),
    **dict.fromkeys(("floor", "text floor", "knowledge floor"), ("NetworkSettings",)),
}


@dataclass(frozen=True)
class ModelCard:
    """A model of ours.

    Attributes:
        name: what ``--model=`` takes, and the class's name.
        module: that holds the class.
        family: ``eimf``, ``text`` (further models of interests that read text), ``backbone``, ``pad``, ``floor``,
            ``text floor``: one that data without text cannot have, or ``knowledge floor``: one that data without an
            LLM's knowledge of items cannot have.
        help: one line.
        backbones: names it can be built over, the first by default; one is a fixed one; none: it has no backbone.
        named_over: whether its rows in tables name the backbone.
        contract: backbones the contract tests build it over; ``None`` is as it stands.
        keys: keys beside the tests' own that its contract needs.
        reads: parts of the catalogue of keys that it reads beside those of its family (:attr:`parts`).
    """

    name: str
    module: str
    family: str
    help: str
    backbones: tuple[str, ...] = ()
    named_over: bool = False
    contract: tuple[str | None, ...] = (None,)
    keys: dict[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the catalogue of keys that it reads, by the names of their classes in :mod:`config.keys`,
        beside those of every run, and of text and interests where it reads some."""
        return (*_READS[self.family], *self.reads)

    @property
    def floor(self) -> bool:
        """Whether it only counts and stands in every table."""
        return self.family == "floor"

    @property
    def fixed_backbone(self) -> str | None:
        """The one backbone it has, or None."""
        return self.backbones[0] if len(self.backbones) == 1 else None


_BACKBONES = "recbole_eimf.model.backbones.recbole_backbone:RecBole"
_MULTI = "recbole_eimf.model.backbones.multi_interest:"
_DUAL = "recbole_eimf.model.backbones.dual_view:Dual"
BACKBONES = {card.name: card for card in (
    BackboneCard("SASRec", f"{_BACKBONES}SASRec", "self-attention (Kang and McAuley 2018)", towers=True),
    BackboneCard("GRU4Rec", f"{_BACKBONES}GRU4Rec", "a GRU (Tan et al. 2016)", towers=True),
    BackboneCard("BERT4Rec", f"{_BACKBONES}BERT4Rec", "bidirectional self-attention, cloze (Sun et al. 2019)"),
    BackboneCard("Caser", f"{_BACKBONES}Caser", "convolutions (Tang and Wang 2018)", towers=True),
    BackboneCard("ComiRecSA", f"{_MULTI}ComiRecSABackbone", "K interests by attention (Cen et al. 2020)"),
    BackboneCard("ComiRecDR", f"{_MULTI}ComiRecDRBackbone", "K interests by dynamic routing (Cen et al. 2020)"),
    BackboneCard("MIND", f"{_MULTI}MINDBackbone", "up to K interests by routing (Li et al. 2019)"),
    BackboneCard("REMI", f"{_MULTI}REMIBackbone",
                 "ComiRecSA, routing regularised; hard negatives by remi_beta, 0 here (Xie et al. 2023)"),
    BackboneCard("DNN", f"{_MULTI}DNNBackbone", "the mean of the items (Covington et al. 2016)"),
    BackboneCard("LiGR", "recbole_eimf.model.backbones.ligr:LiGRBackbone",
                 "gated self-attention; with recipe=esasrec eSASRec (Tikhonovich et al. 2025)"),
    *(BackboneCard(f"Dual{name}", f"{_DUAL}{name}", f"{name} over two views of items (LLM-ESR's)", over=name)
      for name in ("SASRec", "GRU4Rec")),
)}  # fmt: skip
#: what PAD's towers can be built over: one state per target, at places that every tower shares
TOWER_BACKBONES = tuple(card.name for card in BACKBONES.values() if card.towers)

#: what every model of interests is built and tested over; the others are forms of these
_ALL = tuple(card.name for card in BACKBONES.values() if card.over is None)
#: what LLM-ESR's views can be taken of
DUAL_BACKBONES = tuple(card.over for card in BACKBONES.values() if card.over is not None)
_IBIM, _PAD = "recbole_eimf.model.ibim", "recbole_eimf.model.pad.pad"
_TEXT, _COUNTING = "recbole_eimf.model.baselines.text_baselines", "recbole_eimf.model.baselines.counting"
_TEXT_KNN = "recbole_eimf.model.baselines.text_knn"
_TOWER = {"family": "pad", "backbones": TOWER_BACKBONES, "named_over": True, "contract": ("SASRec",)}
#: by name; the order is that of help and tables
MODELS = {card.name: card for card in (
    ModelCard("EIMF", "recbole_eimf.model.eimf", "eimf", "joint training with interests of an LLM (arXiv 2411.09410)",
              _ALL, True, _ALL, reads=("EIMFSettings",)),
    ModelCard("IBIM", _IBIM, "eimf", "a backbone alone, trained as EIMF trains it: EIMF's baseline", _ALL, False, _ALL),
    *(ModelCard(name, _IBIM, "backbone", f"IBIM over {name}: {BACKBONES[name].help}", (name,))
      for name in ("REMI", "ComiRecSA", "ComiRecDR", "MIND", "DNN", "LiGR")),
    ModelCard("LLM2BERT4Rec", _IBIM, "backbone",
              "BERT4Rec whose item vectors start from principal components of item text (Harte et al. 2023)",
              ("BERT4Rec",)),
    ModelCard("LLMESR", "recbole_eimf.model.baselines.llm_esr", "text",
              "items as ids and as adapted text, and self-distillation from users of like text (Liu et al. 2024)",
              DUAL_BACKBONES, True, ("SASRec",), reads=("DistillationSettings",)),
    ModelCard("ProfileDistillation", "recbole_eimf.model.baselines.profile_distillation", "text",
              "first epochs that learn the users' LLM profiles too (Severin et al. 2026)", _ALL, True,
              ("REMI",), reads=("DistillationSettings",)),
    ModelCard("PAD", _PAD, **{**_TOWER, "contract": TOWER_BACKBONES},
              help="pre-train, align, disentangle: experts of ids, of text, of both (arXiv 2412.04107)"),
    ModelCard("SMEM", _PAD, help="PAD without its align phase", **_TOWER),
    ModelCard("Hybrid", _TEXT, help="ids and text in one item vector", **_TOWER),
    ModelCard("MoRec", _TEXT, help="text in place of ids (Yuan et al. 2023)", **_TOWER),
    ModelCard("CTRL", _TEXT, help="ids aligned with text by contrast, then trained alone (Li et al. 2023)", **_TOWER),
    ModelCard("MAKE", _TEXT, help="a pre-trained text expert and an id expert (Sheng et al. 2024)", **_TOWER),
    ModelCard("DisCo", _TEXT, help="ids and text disentangled in chunks (Du et al. 2024)", **_TOWER),
    ModelCard("Popularity", _COUNTING, "floor", "counts of items"),
    ModelCard("Markov", _COUNTING, "floor", "counts of what follows the last item"),
    ModelCard("DecayedItemKNN", _COUNTING, "floor", "items bought together, weighing less the longer ago"),
    ModelCard("TextKNN", _TEXT_KNN, "text floor", "items of like text, weighing less the longer ago"),
    ModelCard("ItemKNNText", _TEXT_KNN, "text floor", "DecayedItemKNN plus TextKNN, weighed on validation"),
    ModelCard("NextKNN", _TEXT_KNN, "knowledge floor", "what an LLM says is bought next, weighing less the longer ago"),
    ModelCard("ItemKNNTextNext", _TEXT_KNN, "knowledge floor", "ItemKNNText plus NextKNN, weighed on validation"),
)}  # fmt: skip
#: in every table: a neural model that does not beat counting is not worth its price
FLOORS = tuple(card.name for card in MODELS.values() if card.floor)


def load_class(key: str, path: str) -> type:
    """The class of ``package.module:Class``.

    Args:
        key: what names it, for the message; path: the import path.

    Raises:
        ConfigError: no such module or class, with the closest name, or a module that fails while it is imported.
    """
    module_name, _, class_name = path.partition(":")
    module = imported(key, path)
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(
            f"{key}={path}: {module_name} has no class {class_name}.{suggestion(class_name, vars(module))}"
        )
    if not isinstance(found, type):
        raise ConfigError(f"{key}={path}: {class_name} is a {type(found).__name__}; a class is needed.")
    return found


def load_model_class(name: str) -> type:
    """Find the class of ``--model=name``.

    Args:
        name: one of ours, one of RecBole's, or ``package.module:Class``.

    Raises:
        ConfigError: no such model, module or class; the message suggests the closest name.
    """
    if ":" in name:
        return _recommender(name, load_class("model", name))
    if name in MODELS:
        return load_class("model", f"{MODELS[name].module}:{name}")
    stock_models()
    from recbole.utils import get_model

    try:
        return get_model(name)
    except (ValueError, AttributeError, ImportError) as error:  # an unknown name makes RecBole import lightgbm
        near = suggestion(name, known_model_names()) or _with_colon(name)
        raise ConfigError(
            f"model={name}: no such model.{near} "
            f"Ours: {', '.join(MODELS)}; RecBole's by their names; your own as package.module:Class."
        ) from error


def _recommender(name: str, found: type) -> type:
    """A class of the user's own if it is a model, to which the rest of RecBole can be given. Raises ConfigError."""
    from recbole.model.abstract_recommender import AbstractRecommender  # late: help needs no RecBole

    if issubclass(found, AbstractRecommender):
        return found
    said = f"model={name}: {found.__name__} is not a model"
    if any(cls.__module__ == "recbole_eimf.model.backbones.backbone" for cls in found.__mro__):
        raise ConfigError(f"{said} but a backbone. Give --model=IBIM --backbone={name}.")
    raise ConfigError(f"{said}. Derive it from one of ours, or from a sequential model of RecBole's.")


def _with_colon(name: str) -> str:
    """A hint for an import path that has a dot where the colon belongs.

    >>> _with_colon("mine.nets.Mamba"), _with_colon("Mamba")
    (" Did you mean 'mine.nets:Mamba'?", '')
    """
    module, dot, class_name = name.rpartition(".")
    return f" Did you mean '{module}:{class_name}'?" if dot and module and class_name else ""


def stock_models() -> ModuleType:
    """RecBole's sequential models.

    Its sine.py turns autograd's anomaly detection on for the whole process, which makes training half as fast: here the
    setting stays what it was. Whoever asks for RecBole's models first must ask here.
    """
    name = "recbole.model.sequential_recommender"
    if name in sys.modules:
        return sys.modules[name]
    import torch

    wanted, checks = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        return importlib.import_module(name)
    finally:
        torch.autograd.set_detect_anomaly(wanted, checks)


def known_model_names() -> list[str]:
    """Names that ``--model`` takes without an import path, ours first."""
    stock = stock_models()
    return [*MODELS, *sorted(name for name in vars(stock) if name[0].isupper() and name not in MODELS)]


# ---------------------------------------------------------------------- backbones
def load_backbone_class(name: str) -> type:
    """Find the class of ``--backbone=name``.

    Args:
        name: one of ours, or ``package.module:Class``.

    Raises:
        ConfigError: no such backbone, module or class; the message suggests the closest name.
    """
    if ":" in str(name):
        return load_class("backbone", name)
    if name not in BACKBONES:
        raise ConfigError(
            f"backbone={name!r}:{suggestion(str(name), BACKBONES) or _with_colon(str(name))} Allowed: "
            f"{', '.join(BACKBONES)}, or your own as package.module:Class."
        )
    return load_class("backbone", BACKBONES[name].path)


def backbone_lineage(name: str) -> list[str]:
    """The backbones of ours whose settings one starts from: itself, or those that somebody's own derives from.

    >>> backbone_lineage("REMI"), backbone_lineage("no such thing")
    (['REMI'], [])
    """
    if name in BACKBONES:
        return [BACKBONES[name].over or name]
    if ":" not in name:
        return []
    paths = {card.path: card.name for card in BACKBONES.values()}
    parents = (f"{cls.__module__}:{cls.__name__}" for cls in reversed(load_backbone_class(name).__mro__))
    return [paths[path] for path in parents if path in paths]


def short_name(name: str | None) -> str | None:
    """A backbone or model as tables and folders name it: the class of an import path.

    >>> short_name("mine.networks:Mamba"), short_name("SASRec")
    ('Mamba', 'SASRec')
    """
    return name if name is None else name.rpartition(":")[2]
