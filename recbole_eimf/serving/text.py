"""The part of an export that has to do with text: what places new items, and what EIMF's reasons are made of."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from recbole_eimf.config.keys import ItemSettings, read
from recbole_eimf.config.maker import made_by
from recbole_eimf.experiment.load import load
from recbole_eimf.model.eimf import EIMF
from recbole_eimf.model.item_table import TextTransform
from recbole_eimf.model.pad.towers import TowerModel
from recbole_eimf.semantic.kept import as_files
from recbole_eimf.semantic.pipeline import Pipeline
from recbole_eimf.semantic.side_load import item_vectors, pipeline_of
from recbole_eimf.serving.answer import Question, rank
from recbole_eimf.serving.explain import honesty
from recbole_eimf.serving.parts import Parts
from recbole_eimf.serving.sentences import Sentences, history_text
from recbole_eimf.serving.title_map import TitleMap

logger = logging.getLogger(__name__)
#: test users whose recommendations the sentences are tried on
_TRIED = 500


def with_text(run, parts: Parts, config: dict[str, Any]) -> tuple[Parts, dict[str, Any]]:
    """``parts`` with a map from titles, and EIMF's sentences; ``config`` that says so.

    Args:
        run: :class:`recbole_eimf.serving.export.Run`.
    """
    train = run.loaders[0]._dataset
    pipeline = pipeline_of(run.config, train)
    wanted = pipeline.settings
    # what tfidf-svd knows it has of the titles, which are all that the folder holds
    source = "title" if wanted.text_encoder == "tfidf-svd" else wanted.item_text_source
    text = _item_text(pipeline.item_vectors if source == "title" else item_vectors(run.config, train, pipeline), parts)
    trained = (text != 0).any(1) & torch.from_numpy(parts.catalogue.counts > 0)
    trained[0] = False
    parts = replace(parts, text=TitleMap(text.half(), trained, _shares(run.net, parts)))
    encoder = {
        "name": wanted.text_encoder,
        "max_length": wanted.text_max_length,
        "pooling": wanted.text_pooling,
        "identity": pipeline.encoder.identity,
        "fitted_on": len(parts.catalogue),
    }
    config = {**config, "text": {"encoder": encoder, "source": source, "explain": None}}
    side = run.result["side_load"] or {}
    if not isinstance(run.net, EIMF) or not run.config["use_interests"] or "source" not in side:
        return parts, config
    asked = pipeline if run.asked is None else pipeline_of(run.config, run.asked)
    if asked.encoder.identity != pipeline.encoder.identity:
        logger.warning(
            f"no sentences are kept: text_encoder={wanted.text_encoder} was fitted anew on later titles, and those "
            f"numbers are not the ones that interests were learned in. An encoder that is not fitted keeps them."
        )
        return parts, config
    parts = replace(parts, sentences=_sentences(run, asked, parts))
    whose = {"source": side["source"], "llm_used": side["llm_used"], "made_by": made_by(side)}
    config["text"]["explain"] = {**whose, **_honesty(run, parts, config)}
    return parts, config


def _item_text(known: tuple[dict[str, int], np.ndarray], parts: Parts) -> Tensor:
    """float32 [N, d_t], zero where an item has no text."""
    rows, vectors = known
    text = torch.zeros(len(parts.catalogue), vectors.shape[1])
    for row, token in enumerate(parts.catalogue.tokens.to_pylist()):
        if row and token in rows:
            text[row] = torch.from_numpy(vectors[rows[token]])
    return text


def _shares(net: nn.Module, parts: Parts) -> Tensor:
    """[E]: what each tower's score counts for a new item: what it counts for the rarest item that was trained."""
    towers = len(parts.encoder.towers)
    if not isinstance(net, TowerModel):
        return torch.ones(towers)
    counts = parts.catalogue.counts
    rarest = int(np.argmin(np.where(counts > 0, counts, counts.max() + 1)[1:])) + 1
    with torch.no_grad():
        weights = net._weights(torch.tensor([rarest], device=net.device))
    return torch.ones(towers) if weights is None else weights[0].cpu().clone()


def _sentences(run, pipeline: Pipeline, parts: Parts) -> Sentences:
    """What ``explain=True`` names, from the same replies that trained the model: nobody is asked again."""
    with as_files(pipeline, run.result["side_load"]["source"]) as given:
        quiet = {"gpu_id": "", "state": "WARNING", "show_progress": False}
        logging.disable(logging.WARNING)  # what there is to warn of, the run's log says
        try:
            config, net, (train, _, _) = load(run.folder, inference_only=False, **{**quiet, **run.given, **given})
            asked = train._dataset if train._dataset.asked is None else train._dataset.asked
            found = pipeline_of(config, asked).run(seed=config["seed"])
        finally:
            logging.disable(logging.NOTSET)
    side, esim = train._dataset.side, net.esim
    weights = {name: getattr(esim.attention, name).weight for name in ("query", "key", "value")}
    weights["projection"] = esim.projection.weight
    weights = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
    transform = TextTransform(side.item_text, side.fitted, read(ItemSettings, run.config))
    if not transform.identity:
        weights |= {"mean": transform.mean, "map": transform.map, "scale": torch.as_tensor(transform.scale).double()}
    row_of = dict(zip(pipeline.corpus.users, pipeline.corpus.histories))
    text, known = parts.text.text, parts.catalogue.row_of
    histories = [history_text(text, [known[i] for i in row_of[user] if i in known]) for user in found.exemplars]
    return Sentences(
        pa.array(found.exemplars, pa.string()),
        pa.array([list(texts) for texts in found.texts], pa.list_(pa.string())),
        side.interests.half(),
        side.interest_mask.clone(),
        torch.stack(histories).half(),
        weights,
    )


def _honesty(run, parts: Parts, config: dict[str, Any]) -> dict[str, Any]:
    test = run.loaders[2]._dataset
    chosen = np.random.default_rng(0).permutation(len(test))[:_TRIED]
    flat, spans = test.flat.numpy(), test.spans
    histories = [flat[spans.start[u] : spans.middle[u]].tolist() for u in chosen]
    tokens = np.array(parts.catalogue.tokens.to_pylist(), dtype=object)
    found = rank(parts, config, [tokens[rows].tolist() for rows in histories], Question(10))
    return honesty(parts, histories, found)
