"""``Recommender``: a model folder in memory, and what one asks of it."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.evaluator.ranking import ranked_items
from recbole_eimf.serving import hub
from recbole_eimf.serving.answer import Question, Ranked, check_histories, checked_k, checked_tokens, rank, similarities
from recbole_eimf.serving.catalogue import Catalogue, Users
from recbole_eimf.serving.explain import reasons, said_of
from recbole_eimf.serving.load import read
from recbole_eimf.serving.new_items import extended
from recbole_eimf.serving.parts import Parts
from recbole_eimf.serving.save import write


class Recommender:
    """A trained model as one asks it: histories of item tokens in, items out.

    Make one with :meth:`load`, :meth:`from_run` or :meth:`from_pretrained`. Methods may be called by several threads at
    once; :meth:`add_items` replaces the catalogue under a lock, and requests that are under way keep the old one.
    """

    def __init__(self, parts: Parts, config: Mapping[str, Any], users: Users | None) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self.config = dict(config)
        self.users = users

    # ------------------------------------------------------------------ where one comes from
    @classmethod
    def load(cls, folder: str | os.PathLike, verify: bool = True) -> Recommender:
        """Read a model folder, which runs no code of it and needs no RecBole.

        Args:
            folder: what ``export`` or :meth:`save` wrote.
            verify: compare every file with its digest; without it only sizes are looked at.

        Raises:
            DataError: no such folder, not a model folder, damaged, or written by a newer version.
        """
        return cls(*read(Path(folder), verify))

    @classmethod
    def from_run(cls, output_dir: str | os.PathLike, **options: Any) -> Recommender:
        """The model of a finished run; ``options`` are those of :func:`recbole_eimf.serving.export.export`."""
        from recbole_eimf.serving.export import export  # the one part that reads RecBole

        with tempfile.TemporaryDirectory() as name:
            return cls.load(export(output_dir, Path(name) / "model", **options), verify=False)

    @classmethod
    def from_pretrained(cls, repository: str, revision: str | None = None, **options: Any) -> Recommender:
        """Read a model of the Hugging Face hub (or a folder of that name); ``options`` go to ``snapshot_download``.

        Raises:
            ConfigError: huggingface_hub is not installed.
            DataError: as :meth:`load`.
        """
        return cls.load(hub.fetched(repository, revision, **options))

    def save(self, folder: str | os.PathLike, histories: bool = True) -> Path:
        """Write a model folder with the items that were added; ``histories`` False leaves the users' out."""
        write(Path(folder), self._parts, self.config, self.users if histories else None)
        return Path(folder)

    def push_to_hub(self, repository: str, private: bool = True, histories: bool = False, **options: Any) -> str:
        """Upload to the Hugging Face hub; returns the address. Users' histories stay here unless asked for."""
        with tempfile.TemporaryDirectory() as name:
            folder = self.save(Path(name) / "model", histories)
            return hub.pushed(folder, repository, private, **options)

    # ------------------------------------------------------------------ what it is
    @property
    def catalogue(self) -> Catalogue:
        """The items: tokens, titles, training counts."""
        return self._parts.catalogue

    def __len__(self) -> int:
        """How many items can be recommended."""
        return len(self.catalogue) - 1

    @property
    def places_each_alone(self) -> bool:
        """Whether an item that is added gets the same place whatever is added before it or with it."""
        return self._parts.prior is None or self._parts.prior.places_each_alone

    def __repr__(self) -> str:
        return f"Recommender({self.config['name']} on {self.config['data']['dataset']}, {len(self):,} items)"

    # ------------------------------------------------------------------ questions
    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        users: Sequence[str] | None = None,
        exclude_seen: bool | None = None,
        only: Iterable[str] | None = None,
        without: Iterable[str] | None = None,
        explain: bool = False,
    ) -> pd.DataFrame:
        """The k best items of every history.

        What is served is what was evaluated: with the histories of all test users and ``users`` naming them, the items
        are those that the run's metrics come from, ties included.

        Args:
            histories: item tokens of each user, oldest first; of long ones the latest are read.
            k: how many; more than there are candidates gives them all, 0 gives none.
            users: their tokens, for the column ``user`` and for the order of equal scores; default their numbers.
            exclude_seen: leave out what stands anywhere in the history; None does as the run's evaluation did.
            only: candidates, tokens; without: tokens that are no candidates. Unknown tokens here are passed over.
            explain: say why (:mod:`recbole_eimf.serving.explain`): columns ``interest``, ``because``, with a score
                prior ``added``, and of EIMF ``sentence`` and ``sentence_weight``; ``attrs["honesty"]`` says what the
                sentences are worth.

        Returns:
            A row per recommendation: ``user``, ``rank`` (from 1), ``item``, ``score``, ``title`` where the model has
            titles, and ``source``: ``model``, or ``popularity`` where no item of the history is known. ``attrs`` has
            ``unknown_items`` (tokens passed over in the histories), ``empty_histories`` and ``proved``.

        Raises:
            ConfigError: k is no whole number from 0 on, or histories is no list of lists.
            DataError: ``only`` leaves no candidate, or an item is a number.
        """
        parts = self._parts
        question = Question(k, exclude_seen, only, without)
        found = rank(parts, self.config, histories, question, users, self.users)
        frame = self.frame(found, users, parts)
        if explain:
            why = self.reasons(histories, found, parts)
            attrs = {**frame.attrs, **why.attrs}
            frame = pd.concat([frame, why], axis=1)
            frame.attrs = attrs
        return frame

    def rank(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        users: Sequence[str] | None = None,
        exclude_seen: bool | None = None,
        only: Iterable[str] | None = None,
        without: Iterable[str] | None = None,
    ) -> Ranked:
        """:meth:`recommend` as arrays over rows of the catalogue, for batches and services."""
        question = Question(k, exclude_seen, only, without)
        return rank(self._parts, self.config, histories, question, users, self.users)

    def similar_items(self, items: Sequence[str], k: int = 10) -> pd.DataFrame:
        """The k nearest items of each, by the cosine of what the model scores with (of counting models, by its counts).

        Returns:
            ``item``, ``rank``, ``similar``, ``score`` and, with titles, ``title``.

        Raises:
            DataError: an item is not in the catalogue. ConfigError: k is no whole number from 0 on, items is no list.
        """
        parts = self._parts
        k = min(checked_k(k), len(parts.catalogue) - 2)
        items = checked_tokens("items", items)
        rows = torch.tensor([parts.catalogue.row(item) for item in items], dtype=torch.long)
        scores = similarities(parts, rows)
        scores[:, 0] = -torch.inf
        scores[torch.arange(len(rows)), rows] = -torch.inf
        found = ranked_items(scores, torch.zeros(len(rows), dtype=torch.long), max(k, 0))
        values = scores.gather(1, found)
        given = np.repeat(np.asarray(items, dtype=object), found.shape[1])
        return _frame(parts.catalogue, "item", given, found.numpy(), values.numpy(), "similar")

    def interests(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 [B, K, D]: what histories are searched with; their products with items' vectors are the scores.

        A history without a known item has zeros.

        Raises:
            ConfigError: the model only counts.
        """
        check_histories(histories, None)
        parts = self._parts
        if parts.encoder is None:
            raise ConfigError(f"{self.config['name']} only counts: it has no interests.")
        rows = [parts.catalogue.rows(history)[0] for history in histories]
        some = [i for i, found in enumerate(rows) if found]
        first = parts.interests([rows[i] for i in some] or [[1]])
        out = np.zeros((len(rows), *first.shape[1:]), dtype=np.float32)
        if some:
            out[some] = first.numpy()
        return out

    def add_items(self, titles: Mapping[str, str], profiles: Mapping[str, str] | None = None) -> list[str]:
        """Add items by their text. They can be recommended, and stand in histories, at once.

        Args:
            titles: token -> title; profiles: token -> an LLM's words on the item, for a model of a run with
                ``item_text_source=title+profile`` or ``profile``; where there are none the title stands in.

        Returns:
            The tokens that were new; items that are known already stay as they are.

        Raises:
            ConfigError: the model has no map from text to vectors (see :mod:`recbole_eimf.serving.new_items`), or it
                knows no profiles.
            DataError: a title is empty, or no text.
        """
        with self._lock:
            self._parts, added = extended(self._parts, self.config, titles, profiles)
        return added

    # ------------------------------------------------------------------ as a table
    def reasons(self, histories: Sequence[Sequence[str]], found: Ranked, parts: Parts | None = None) -> pd.DataFrame:
        """What :meth:`recommend` says with ``explain`` of each item that :meth:`rank` found for these histories: the
        columns of :func:`recbole_eimf.serving.explain.reasons`, and ``attrs["honesty"]``."""
        parts = parts or self._parts
        frame = reasons(parts, [parts.catalogue.rows(history)[0] for history in histories], found)
        frame.attrs = {"honesty": said_of((self.config["text"] or {}).get("explain"))}
        return frame

    def table(self, found: Ranked, users: Sequence[str]) -> pa.Table:
        """:meth:`frame` as an Arrow table, without a Python object for every cell: for many users."""
        catalogue = self._parts.catalogue
        user, place = (found.rows > 0).nonzero()
        items = pa.array(found.rows[user, place])
        source = pa.array(["model", "popularity"]).take(pa.array(found.empty[user].astype(np.int8)))
        columns = {
            "user": pa.array(users, pa.string()).take(pa.array(user)),
            "rank": pa.array(place + 1),
            "item": catalogue.tokens.take(items),
            "score": pa.array(found.scores[user, place]),
        }
        if catalogue.has_titles:
            columns["title"] = catalogue.titles.take(items)
        return pa.table({**columns, "source": source})

    def frame(self, found: Ranked, users: Sequence[str] | None = None, parts: Parts | None = None) -> pd.DataFrame:
        """What :meth:`rank` found, as :meth:`recommend` returns it."""
        catalogue = (parts or self._parts).catalogue
        names = np.arange(len(found.rows)) if users is None else np.asarray(users, dtype=object)
        frame = _frame(catalogue, "user", np.repeat(names, found.rows.shape[1]), found.rows, found.scores, "item")
        source = np.where(found.empty, "popularity", "model").astype(object)
        frame["source"] = np.repeat(source, (found.rows > 0).sum(1))
        frame.attrs = {
            "unknown_items": int(found.unknown.sum()),
            "empty_histories": int(found.empty.sum()),
            "proved": found.proved,
        }
        return frame


def _frame(
    catalogue: Catalogue, name: str, given: np.ndarray, rows: np.ndarray, scores: np.ndarray, item: str
) -> pd.DataFrame:
    flat = rows.ravel()
    there = flat > 0
    rank = np.broadcast_to(np.arange(1, rows.shape[1] + 1), rows.shape).ravel()
    kept = flat[there]
    columns = {
        name: given[there],
        "rank": rank[there],
        item: catalogue.tokens.take(kept).to_numpy(zero_copy_only=False),
        "score": scores.ravel()[there],
    }
    if catalogue.has_titles:
        columns["title"] = catalogue.titles.take(kept).to_numpy(zero_copy_only=False)
    return pd.DataFrame(columns)
