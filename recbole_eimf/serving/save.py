"""A :class:`~recbole_eimf.serving.recommender.Recommender` to a model folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from recbole_eimf.serving import model_folder
from recbole_eimf.serving.card import model_card
from recbole_eimf.serving.catalogue import Catalogue, Users
from recbole_eimf.serving.index import HNSWIndex
from recbole_eimf.serving.recommender import Parts, Recommender


def save(recommender: Recommender, folder: Path, histories: bool) -> Path:
    """See :meth:`Recommender.save`."""
    users = recommender.users if histories else None
    with model_folder.new_folder(folder, recommender.config) as new:
        write_parts(new, recommender._parts, users)
        (new / "README.md").write_text(model_card(recommender.config), encoding="utf-8")
    return folder


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
    model_folder.write_table(folder / "items.parquet", columns)
