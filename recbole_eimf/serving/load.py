"""A model folder on disk to what answers requests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.core.errors import DataError
from recbole_eimf.model.score_prior import ScorePrior
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.catalogue import Catalogue, Users
from recbole_eimf.serving.counts import Counts
from recbole_eimf.serving.encoder import Encoder, EncoderSpec, build_history_encoder
from recbole_eimf.serving.index import KINDS
from recbole_eimf.serving.parts import Parts, with_index
from recbole_eimf.serving.sentences import Sentences
from recbole_eimf.serving.title_map import TitleEncoder, TitleMap

#: keys of ``config.json`` that every model has, beside those of its parts
_NEEDED = (
    "name", "encoder", "diversity", "text", "index", "data.dataset", "evaluation.mask_history",
    "evaluation.eval_batch_size", "evaluation.eval_chunk_items",
)  # fmt: skip


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


#: what values that answers are made with have to be; another one would change them, or fail long after
_KINDS = {
    "name": lambda value: isinstance(value, str),
    "evaluation.mask_history": lambda value: isinstance(value, bool),
    "evaluation.eval_batch_size": _count,
    "evaluation.eval_chunk_items": lambda value: value is None or type(value) is int,
    "diversity.weight": lambda value: type(value) in (int, float),
    "diversity.count": _count,
    "encoder.score": lambda value: value in ("dot", "cosine"),
    "encoder.keys.MAX_ITEM_LIST_LENGTH": _count,
    "keys.MAX_ITEM_LIST_LENGTH": _count,
}


def read(folder: Path, verify: bool) -> tuple[Parts, dict[str, Any], Users | None]:
    """What a model folder holds: see :meth:`Recommender.load`."""
    config = model_folder.read_config(folder, verify)
    _check_keys(folder / model_folder.CONFIG, config)
    catalogue = _catalogue(folder)
    items = len(catalogue)
    try:
        if config["encoder"] is None:
            tensors = model_folder.read_tensors(folder / "counts.safetensors")
            parts = Parts(catalogue, counts=Counts(config["model"], items, config["keys"], tensors))
        else:
            parts = _scored_by_products(folder, config, catalogue)
        if "users.parquet" in config["files"]:
            table = model_folder.read_table(folder / "users.parquet", ("user", "history"))
            users = Users(_one(table["user"]), _one(table["history"]))
        else:
            users = None
    except KeyError as error:
        raise DataError(
            f"{folder / model_folder.CONFIG}: lacks {error}. Put it back, or export the model again."
        ) from error
    except (TypeError, AttributeError) as error:  # values of other kinds than export writes
        raise DataError(
            f"{folder / model_folder.CONFIG}: is not of a model of this version ({error}). Export the model again."
        ) from error
    return with_index(parts, _index_of(folder, config), folder), config, users


def _index_of(folder: Path, config: Mapping[str, Any]) -> str:
    """The kind of index. Raises DataError: nobody typed a key here, a file was edited."""
    kind = config["index"]
    if kind not in KINDS:
        raise DataError(
            f"{folder / model_folder.CONFIG}: index={kind!r}; allowed are {', '.join(KINDS)}. Put it back, or export "
            f"the model again."
        )
    return kind


def _check_keys(file: Path, config: Mapping[str, Any]) -> None:
    """Check that all is there of which answers make use, long after a model has been loaded."""
    needed = [*_NEEDED]
    encoder = config.get("encoder")
    if encoder is None:
        needed += ["keys.MAX_ITEM_LIST_LENGTH"]
    elif isinstance(encoder, Mapping):
        needed += ["encoder.score", "encoder.keys.MAX_ITEM_LIST_LENGTH"]
    if config.get("diversity"):
        needed += ["diversity.weight", "diversity.count"]
    if config.get("text"):
        needed += [f"text.encoder.{key}" for key in TitleEncoder.__annotations__]
    for name in needed:
        found: Any = config
        for key in name.split("."):
            if not isinstance(found, Mapping) or key not in found:
                raise DataError(f"{file}: lacks {name!r}. Put it back, or export the model again.")
            found = found[key]
        if name in _KINDS and not _KINDS[name](found):
            raise DataError(
                f"{file}: {name} is {found!r}, which is not allowed. Put it back, or export the model again."
            )


def _one(column):
    column = column.combine_chunks()
    return column.chunk(0) if hasattr(column, "chunk") else column


def _catalogue(folder: Path) -> Catalogue:
    table = model_folder.read_table(folder / model_folder.ITEMS, ("item", "title", "count"))
    counts = table["count"].to_numpy()
    return Catalogue(_one(table["item"]), _one(table["title"]), np.ascontiguousarray(counts))


def _scored_by_products(folder: Path, config: dict[str, Any], catalogue: Catalogue) -> Parts:
    lists = {key: tuple(value) for key, value in config["encoder"].items() if key in ("towers", "targets")}
    spec = EncoderSpec(**{**config["encoder"], **lists})
    encoder = build_history_encoder(spec, len(catalogue), model_folder.read_tensors(folder / "encoder.safetensors"))
    items = model_folder.read_tensors(folder / "items.safetensors")
    try:
        _check_items(folder, items, len(catalogue), encoder)
    except RuntimeError as error:  # torch's: parameters that fit, of a network that does not run
        raise DataError(f"{folder}: its encoder cannot be asked ({error}). Export the model again.") from error
    text = None
    if "text.safetensors" in config["files"]:
        text = TitleMap.of_tensors(model_folder.read_tensors(folder / "text.safetensors"))
    sentences = None
    if "explain.safetensors" in config["files"]:
        table = model_folder.read_table(folder / "interests.parquet", ("exemplar", "interests"))
        tensors = model_folder.read_tensors(folder / "explain.safetensors")
        sentences = Sentences.of(tensors, _one(table["exemplar"]), _one(table["interests"]))
    prior = None
    if config.get("prior"):
        known = config["prior"]
        prior = ScorePrior(known["kind"], known["decay"], None, len(catalogue), placebo=known.get("placebo", False))
        _fill(folder / "prior.safetensors", prior)
    return Parts(
        catalogue,
        encoder,
        items["vectors"],
        items.get("bias"),
        category=items.get("category"),
        text=text,
        sentences=sentences,
        prior=prior,
    )


def _fill(file: Path, prior: ScorePrior) -> None:
    try:
        prior.load_state_dict(model_folder.read_tensors(file))
    except RuntimeError as error:  # torch's for tensors that are missing or too many
        raise DataError(f"{file}: not of a score prior ({error}). Export the model again.") from error


def _check_items(folder: Path, items: dict[str, Tensor], count: int, encoder: Encoder) -> None:
    file = folder / "items.safetensors"
    if "vectors" not in items:
        raise DataError(f"{file}: has no vectors. Export the model again.")
    with torch.inference_mode():
        wide = encoder(torch.ones(1, encoder.width or 1, dtype=torch.long), torch.ones(1, dtype=torch.long)).shape[-1]
    if tuple(items["vectors"].shape) != (count, wide) or any(len(tensor) != count for tensor in items.values()):
        raise DataError(
            f"{file}: vectors of shape {list(items['vectors'].shape)} for {count} items and interests of {wide} "
            f"numbers. Export the model again."
        )
