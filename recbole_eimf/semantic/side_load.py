"""Aligning text and interests, which are keyed by tokens, to RecBole's internal ids: the one place where it happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbole_eimf.config import keys
from recbole_eimf.config.keys import DataSettings, SemanticSettings
from recbole_eimf.config.training_data import training_keys
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data.item_text import read_item_text
from recbole_eimf.semantic import needs
from recbole_eimf.semantic.corpus import Corpus
from recbole_eimf.semantic.knowledge import Exchange, Knowledge, KnowledgeStage, item_texts, next_graph
from recbole_eimf.semantic.pipeline import Interests, Pipeline
from recbole_eimf.semantic.text_placebo import text_vectors


@dataclass(frozen=True)
class SideInformation:
    """Side-loaded tensors in RecBole's ids; row 0 of items and users is padding. What was not asked for is None.

    Attributes:
        item_text: float32 [N, d_t], zero where an item has no text.
        item_has_text: bool [N].
        interests: float32 [C, M, d_t], those of the exemplars.
        interest_mask: bool [C, M], which of them are there.
        user_exemplar: int64 [U], -1 where a user has none.
        report: coverage, source and seconds, for the log and result.json.
        seen: bool [N], the items that training knows, under ``global_time``; None elsewhere.
        next_items: float32 [N, N], what an LLM says is bought after each item
            (:func:`~recbole_eimf.semantic.knowledge.next_graph`).
        match_text: float32 [N, d_t], the text that interests are matched to, where it is not ``item_text``.
        next_among: bool [N] -> ``next_items`` as it is where these items alone have a title.
        next_text: float32 [N, d_t], the direction of the mean of what is said to be bought next, zero where nothing is
            said.
    """

    item_text: Tensor
    item_has_text: Tensor
    interests: Tensor | None
    interest_mask: Tensor | None
    user_exemplar: Tensor | None
    report: dict[str, Any]
    seen: Tensor | None = None
    next_items: sparse.csr_matrix | None = None
    match_text: Tensor | None = None
    next_among: Callable[[np.ndarray], sparse.csr_matrix] | None = None
    next_text: Tensor | None = None

    @property
    def next_known(self) -> sparse.csr_matrix:
        """``next_items`` for training: under ``global_time`` among the items of ``fitted``."""
        return self.next_items if self.seen is None else self.next_among(self.fitted.numpy())

    @property
    def fitted(self) -> Tensor:
        """bool [N]: the items whose texts statistics (whitening, means) are taken of; under ``global_time`` those that
        training knows, for the others' texts were not there yet."""
        return self.item_has_text if self.seen is None else self.item_has_text & self.seen

    def known_to(self, later) -> SideInformation:
        """The same for a model that is trained again on ``later``, a part that goes on further in time: its new items
        have text; clusters, exemplars and interests stay, and its new users have none."""
        return replace(self, seen=None if self.seen is None else torch.from_numpy(later.item_counts() > 0))


def corpus_of(config, train) -> Corpus:
    """The training part of a data set as tokens, with the text of every item of the catalogue.

    Args:
        config: RecBole's configuration.
        train: the training part (:class:`~recbole_eimf.data.dataset.LazySequenceDataset`).
    """
    wanted = keys.read(SemanticSettings, config)
    user_field, item_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    texts = read_item_text(path, item_field, wanted.text_fields, config["field_separator"], config["encoding"])
    fewer = [wanted.text_fields[:n] for n in range(1, len(wanted.text_fields))] if wanted.interest_file else []
    shorter = tuple(
        read_item_text(path, item_field, fields, config["field_separator"], config["encoding"]) for fields in fewer
    )
    tokens = train.field2id_token[item_field]
    catalogue = {token: texts[token] for token in tokens[1:] if token in texts}
    if not catalogue:
        raise DataError(
            f"{path}: not one of the {len(tokens) - 1} items of {config['dataset']} has text in "
            f"{', '.join(wanted.text_fields)}. Choose other text_fields, or a model that needs no text."
        )
    users, _ = train.sequences()
    user_tokens = train.field2id_token[user_field]
    histories, elsewhere = ([[tokens[i] for i in h] for h in each] for each in train.source_sequences())
    asked = elsewhere if train.source_row is not None else None
    return Corpus([user_tokens[u] for u in users], histories, catalogue, shorter, asked)


def pipeline_of(config, train) -> Pipeline:
    """The ESIM pipeline of a configuration over a training part."""
    wanted = keys.read(SemanticSettings, config)
    protocol = keys.read(DataSettings, config).protocol
    device, made_from = str(config["device"]), training_keys(config)
    return Pipeline(corpus_of(config, train), wanted, config["dataset"], device, protocol, made_from)


def load_side_information(config, train, interests: bool, follows: bool = False) -> SideInformation:
    """Run (or read from the cache) the off-line stage and align it to RecBole's ids.

    Args:
        config: RecBole's configuration.
        train: the training part; nothing else of the data is seen.
        interests: whether LLM interests are wanted, or item text alone; follows: whether what is bought next is.

    Raises:
        UserError: missing text, an interest source that cannot deliver, files that do not fit.
    """
    pipeline = pipeline_of(config, train)
    if interests:
        pipeline.check_source()
    knowledge = _knowledge(config, train, pipeline, follows)
    rows, real = _vectors(pipeline, knowledge, pipeline.settings.item_text_source)
    tokens = train.field2id_token[config["ITEM_ID_FIELD"]]
    known = [(i, rows[token]) for i, token in enumerate(tokens) if token in rows]
    ids, where = (list(column) for column in zip(*known))
    era = _eras(config, train)

    def placed(vectors: np.ndarray) -> Tensor:
        """Vectors of text in RecBole's ids, or their placebo's."""
        found, of_rows = torch.zeros(len(tokens), vectors.shape[1]), None
        if era is not None:
            of_rows = np.zeros(len(vectors), dtype=np.int64)
            of_rows[where] = era[ids]
        made = text_vectors(vectors, pipeline.settings.text_source, config["seed"], of_rows)
        found[ids] = torch.from_numpy(made[where])
        return found

    has_text = torch.zeros(len(tokens), dtype=torch.bool)
    has_text[ids] = True
    seen = _seen(config, train)
    if seen is not None and not (has_text & seen).any():
        raise DataError(
            f"protocol=global_time: of the {len(ids)} items with text none is known to training, so that nothing can "
            f"be learned of it. Give training's items text, or choose a model that reads none."
        )
    report: dict[str, Any] = {
        "text_source": pipeline.settings.text_source,
        "text_encoder": pipeline.settings.text_encoder,
        "items": len(tokens) - 1,
        "items_with_text": len(ids),
    }
    loaded = SideInformation(placed(real), has_text, None, None, None, report, seen)
    if interests and pipeline.settings.interest_match == "profile":
        loaded = replace(loaded, match_text=placed(_vectors(pipeline, knowledge, "profile")[1]))
    if knowledge is not None:
        report["item_text_source"] = pipeline.settings.item_text_source
        report["knowledge"] = {"source": knowledge.source, **knowledge.report}
        if follows:
            loaded = _with_next_items(loaded, pipeline, knowledge, tokens, np.array(ids), real[where])
    if not interests:
        report["seconds"] = {stage: round(seconds, 2) for stage, seconds in pipeline.seconds.items()}
        return loaded
    found = pipeline.run(seed=config["seed"], agreed=bool(config["yes"]), again=False)
    return _with_interests(loaded, config, train, pipeline, found)


def item_vectors(config, train, pipeline: Pipeline) -> tuple[dict[str, int], np.ndarray]:
    """(item token -> row, vectors) of the item text that a configuration's model reads, not its placebo's.

    Raises:
        UserError: replies about items that are asked for and cannot be had.
    """
    return _vectors(pipeline, _knowledge(config, train, pipeline, False), pipeline.settings.item_text_source)


def _vectors(pipeline: Pipeline, knowledge: Knowledge | None, source: str) -> tuple[dict[str, int], np.ndarray]:
    """(item token -> row, vectors) of one kind of item text; clusters, prompts and replies stay those of the titles."""
    if source == "title":
        return pipeline.item_vectors
    texts = item_texts(pipeline.corpus.item_text, knowledge, source)
    rows = {token: row for row, token in enumerate(sorted(texts))}
    return rows, pipeline.encode([texts[token] for token in rows], "encode_profiles")


def _knowledge(config, train, pipeline: Pipeline, follows: bool) -> Knowledge | None:
    """What an LLM knows of the items; None where nothing asks for it."""
    settings = pipeline.settings
    needs.check_knowledge_file(settings)
    if settings.knowledge_file and needs.source_of_knowledge(settings) == "none":
        getLogger().warning(f"knowledge_file={settings.knowledge_file} is not read: knowledge_source=none.")
    if not needs.reads_knowledge(settings, follows):
        return None
    stage = KnowledgeStage(pipeline.corpus.item_text, settings, config["dataset"])
    needs.check_knowledge_source(settings, config["dataset"], partial(needs.asking_for_knowledge, config))
    return stage.run(exchange_of(config, train), agreed=bool(config["yes"]), again=False)


def exchange_of(config, train) -> Exchange:
    """Among which items the placebo of knowledge exchanges it, with the run's seed."""
    tokens, era = train.field2id_token[config["ITEM_ID_FIELD"]].tolist(), _eras(config, train)
    popularity = dict(zip(tokens[1:], train.item_counts().tolist()[1:]))
    return Exchange(popularity, config["seed"], {} if era is None else dict(zip(tokens[1:], era.tolist()[1:])))


def _with_next_items(
    loaded: SideInformation,
    pipeline: Pipeline,
    knowledge: Knowledge,
    tokens: np.ndarray,
    ids: np.ndarray,
    vectors: np.ndarray,
) -> SideInformation:
    """With what an LLM says is bought next.

    Args:
        tokens: of all items, [N]; ids, vectors: of the items with text, [n] and [n, d_t].
    """
    said, phrases = _next_said(pipeline, knowledge, tokens)
    among = partial(_next_among, said, phrases, ids, vectors, pipeline.settings.next_neighbours)
    fitted = loaded.fitted.numpy()[ids]  # later titles may be named, and move nothing between those of before
    graph = next_graph(said, phrases, ids, vectors, len(tokens), pipeline.settings.next_neighbours, fitted)
    return replace(loaded, next_items=graph, next_among=among, next_text=_means(said, phrases))


def _next_said(pipeline: Pipeline, knowledge: Knowledge, tokens: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """(of each item the rows of the phrases that say what follows it, the phrases' vectors [p, d_t])."""
    phrases = sorted({phrase for known in knowledge.items.values() for phrase in known.next})
    if not phrases:
        raise DataError(f"knowledge_source={knowledge.source}: not one reply says what is bought next.")
    encoded, row = pipeline.encode(phrases, "encode_next"), {phrase: n for n, phrase in enumerate(phrases)}
    known = (knowledge.items.get(token) for token in tokens)
    return [[] if each is None else [row[phrase] for phrase in each.next] for each in known], encoded


def _means(said: list[list[int]], phrases: np.ndarray) -> Tensor:
    """float32 [N, d_t]: the mean of each item's phrases, as long as a text's vector; zero where it has none."""
    found = np.zeros((len(said), phrases.shape[1]), dtype=np.float32)
    for item, rows in enumerate(said):
        if rows:
            found[item] = phrases[rows].mean(0)
    return torch.nn.functional.normalize(torch.from_numpy(found), dim=1)


def _next_among(
    said: list[list[int]], encoded: np.ndarray, ids: np.ndarray, vectors: np.ndarray, neighbours: int, named: np.ndarray
) -> sparse.csr_matrix:
    there = named[ids]
    return next_graph(said, encoded, ids[there], vectors[there], len(said), neighbours)


def _with_interests(loaded: SideInformation, config, train, pipeline: Pipeline, found: Interests) -> SideInformation:
    """With the interests of exemplars, and which exemplar each user has; the report says how many have any.

    Raises:
        ConfigError: no training user has one.
    """
    texts = sorted({text for row in found.texts for text in row})
    vectors = torch.from_numpy(pipeline.encode(texts, "encode_interests"))
    row_of = {text: i for i, text in enumerate(texts)}
    width = max(len(row) for row in found.texts)
    embedded = torch.zeros(len(found.texts), width, loaded.item_text.shape[1])
    mask = torch.zeros(len(found.texts), width, dtype=torch.bool)
    for c, row in enumerate(found.texts):
        if row:
            embedded[c, : len(row)] = vectors[[row_of[text] for text in row]]
            mask[c, : len(row)] = True
    ids = train.field2token_id[config["USER_ID_FIELD"]]
    user_exemplar = torch.full((train.user_num,), -1, dtype=torch.int64)
    for user, exemplar in found.assignment.items():
        user_exemplar[ids[user]] = exemplar
    covered = int((user_exemplar >= 0).sum())
    if not covered:
        raise ConfigError(f"interest_source={pipeline.settings.interest_source}: no training user has interests.")
    report = loaded.report
    report |= {
        "source": found.source,
        "llm_used": found.llm_used,
        "made_by": found.made_by,
        "training_users": len(pipeline.corpus.users),
        "training_users_with_interests": covered,
        **found.report,
        "seconds": {stage: round(seconds, 2) for stage, seconds in pipeline.seconds.items()},
    }
    getLogger().info(
        f"side-loaded: {report['items_with_text']}/{report['items']} items with text, "
        f"{covered}/{report['training_users']} training users with interests; the others are masked out"
    )
    return replace(loaded, interests=embedded, interest_mask=mask, user_exemplar=user_exemplar)


def _seen(config, train) -> Tensor | None:
    """bool [N]: items of the training part where later ones must not tell anything; None elsewhere."""
    if config["protocol"] != "global_time":
        return None
    return torch.from_numpy(train.item_counts() > 0)


def _eras(config, train) -> np.ndarray | None:
    """int [N], where later items must not tell anything: 0 for those of the training part, 1 for those that come before
    the test where a model is trained again (``refit``), 2 for all others; None elsewhere."""
    if (seen := _seen(config, train)) is None:
        return None
    before = seen.numpy() if train.before_test is None else train.before_test.item_counts() > 0
    return np.where(seen.numpy(), 0, np.where(before, 1, 2))
