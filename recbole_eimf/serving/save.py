"""What answers requests to a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import pyarrow as pa

from recbole_eimf.core.errors import DataError
from recbole_eimf.core.parts import MissingPartError
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.card import model_card
from recbole_eimf.serving.catalogue import Catalogue, Users
from recbole_eimf.serving.index import HNSWIndex
from recbole_eimf.serving.parts import Parts

logger = getLogger(__name__)
_GRAPH = "encoder.onnx"


def write(folder: Path, parts: Parts, config: Mapping[str, Any], users: Users | None) -> None:
    """Write a model folder, in place of an older one; ``users`` None leaves histories out.

    Args:
        config: of the run; items may have been added since, and are counted.

    Raises:
        DataError: ``config`` lacks what the card says.
    """
    config = {**config, "data": {**config["data"], "items": len(parts.catalogue) - 1}}
    try:
        card = model_card(config)
    except KeyError as error:
        raise DataError(
            f"{folder}: cannot be written, because the {model_folder.CONFIG} of the model lacks {error}. Put it back, "
            f"or export the model again."
        ) from error
    with model_folder.new_folder(folder, config) as new:
        write_parts(new, parts, users)
        if _GRAPH in config.get("files", ()):  # it holds a table of items, which may have grown
            _write_graph(new / _GRAPH, parts)
        (new / model_folder.CARD).write_text(card, encoding="utf-8")


def _write_graph(file: Path, parts: Parts) -> None:
    from recbole_eimf.serving.onnx import write_onnx  # onnx is not needed to serve

    try:
        write_onnx(file, parts.encoder)
    except MissingPartError as error:
        logger.warning("%s is left out, because it could not be written again: %s", _GRAPH, error)


def write_parts(folder: Path, parts: Parts, users: Users | None) -> None:
    """Write what a :class:`~recbole_eimf.serving.recommender.Parts` holds."""
    write_catalogue(folder, parts.catalogue)
    if parts.counts is not None:
        model_folder.write_tensors(folder / "counts.safetensors", parts.counts.tensors)
    else:
        model_folder.write_tensors(folder / "encoder.safetensors", parts.encoder.state_dict())
        items = {"vectors": parts.vectors, "bias": parts.bias, "category": parts.category}
        present = {name: tensor for name, tensor in items.items() if tensor is not None}
        model_folder.write_tensors(folder / "items.safetensors", present)
    if parts.prior is not None:
        model_folder.write_tensors(folder / "prior.safetensors", parts.prior.state_dict())
    if parts.text is not None:
        model_folder.write_tensors(folder / "text.safetensors", parts.text.tensors())
    if parts.sentences is not None:
        model_folder.write_tensors(folder / "explain.safetensors", parts.sentences.tensors())
        model_folder.write_table(folder / "interests.parquet", parts.sentences.columns())
    if isinstance(parts.index, HNSWIndex):
        parts.index.write(folder / "index.faiss")
    if users is not None:
        model_folder.write_table(folder / "users.parquet", {"user": users.tokens, "history": users.histories})


def write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Write ``items.parquet``."""
    columns = {"item": catalogue.tokens, "title": catalogue.titles, "count": pa.array(catalogue.counts)}
    model_folder.write_table(folder / model_folder.ITEMS, columns)
