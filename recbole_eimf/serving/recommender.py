"""``Recommender``: a model folder in memory, and what one asks of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.evaluator.chunked import Query, chunk_items, ranked_in_chunks
from recbole_eimf.evaluator.ranking import ranked_items
from recbole_eimf.serving import index as search
from recbole_eimf.serving.catalogue import Catalogue, Users, place_in_ties
from recbole_eimf.serving.counts import Counts
from recbole_eimf.serving.encoder import Encoder
from recbole_eimf.serving.explain import Sentences, reasons, said_of
from recbole_eimf.serving.new_items import TitleMap, extended

#: requests of up to this many users go through the index one by one; more are cheaper as one product
FEW_USERS = 4


@dataclass(frozen=True)
class Parts:
    """All that answers a request; replaced as a whole when items are added, so that no request sees half of it.

    encoder: None for counting models; vectors: [N, D], row 0 is padding; bias: [N] or None; counts: of counting models;
    index: for few users at a time, None is all products; category: int64 [N] for ComiRec's aggregation, or None; text:
    what places new items, or None; sentences: what EIMF's reasons are made of, or None.
    """

    catalogue: Catalogue
    encoder: Encoder | None = None
    vectors: Tensor | None = None
    bias: Tensor | None = None
    counts: Counts | None = None
    index: search.Index | None = None
    category: Tensor | None = None
    text: TitleMap | None = None
    sentences: Sentences | None = None

    @property
    def max_length(self) -> int:
        """How many of the latest items of a history are read."""
        return (self.encoder or self.counts).max_length

    def interests(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Histories as rows of the catalogue, none empty -> [B, K, D]."""
        with torch.inference_mode():
            return self.encoder(*_padded(rows, self.encoder))


class Ranked(NamedTuple):
    """Rows of the catalogue int64 [B, k], best first, 0 where there is no further item; their scores float32 [B, k].

    empty: bool [B], no item of the history was known, and popularity answers; unknown: int64 [B], items of the history
    that the catalogue does not have; proved: whether the answer is certain to be that of brute force (only a graph
    index's is not).
    """

    rows: np.ndarray
    scores: np.ndarray
    empty: np.ndarray
    unknown: np.ndarray
    proved: bool = True


class Recommender:
    """A trained model as one asks it: histories of item tokens in, items out.

    Make one with :meth:`load`, :meth:`from_run` or :meth:`from_pretrained`. Methods may be called by several threads at
    once; :meth:`add_items` replaces the catalogue under a lock, and requests that are under way keep the old one.
    """

    def __init__(
        self, parts: Parts, config: Mapping[str, Any], users: Users | None, folder: Path | None = None
    ) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self.config = dict(config)
        self.users = users
        self.folder = folder

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
        from recbole_eimf.serving.load import load

        return load(Path(folder), verify)

    @classmethod
    def from_run(cls, output_dir: str | os.PathLike, **options: Any) -> Recommender:
        """The model of a finished run; ``options`` are those of :func:`recbole_eimf.serving.export.export`."""
        import tempfile

        from recbole_eimf.serving.export import export

        with tempfile.TemporaryDirectory() as name:
            found = cls.load(export(output_dir, Path(name) / "model", **options), verify=False)
            found.folder = None
            return found

    @classmethod
    def from_pretrained(cls, repository: str, revision: str | None = None, **options: Any) -> Recommender:
        """Read a model of the Hugging Face hub (or a folder of that name); ``options`` go to ``snapshot_download``.

        Raises:
            ConfigError: huggingface_hub is not installed.
            DataError: as :meth:`load`.
        """
        from recbole_eimf.serving import hub

        return cls.load(hub.fetched(repository, revision, **options))

    def save(self, folder: str | os.PathLike, histories: bool = True) -> Path:
        """Write a model folder with the items that were added; ``histories`` False leaves the users' out."""
        from recbole_eimf.serving.save import save

        return save(self, Path(folder), histories)

    def push_to_hub(self, repository: str, private: bool = True, histories: bool = False, **options: Any) -> str:
        """Upload to the Hugging Face hub; returns the address. Users' histories stay here unless asked for."""
        from recbole_eimf.serving import hub

        return hub.pushed(self, repository, private, histories, **options)

    # ------------------------------------------------------------------ what it is
    @property
    def catalogue(self) -> Catalogue:
        """The items: tokens, titles, training counts."""
        return self._parts.catalogue

    def __len__(self) -> int:
        """How many items can be recommended."""
        return len(self.catalogue) - 1

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
            explain: say why (:mod:`recbole_eimf.serving.explain`): columns ``interest``, ``because`` and, of EIMF,
                ``sentence`` and ``sentence_weight``; ``attrs["honesty"]`` says what the sentences are worth.

        Returns:
            A row per recommendation: ``user``, ``rank`` (from 1), ``item``, ``score``, ``title`` where the model has
            titles, and ``source``: ``model``, or ``popularity`` where no item of the history is known. ``attrs`` has
            ``unknown_items`` (tokens passed over in the histories), ``empty_histories`` and ``proved``.

        Raises:
            ConfigError: k is no whole number from 0 on, or histories is no list of lists.
            DataError: ``only`` leaves no candidate.
        """
        parts = self._parts
        found = self._rank(parts, histories, k, users, exclude_seen, only, without)
        frame = self.frame(found, users, parts)
        if explain:
            attrs = frame.attrs
            rows = [parts.catalogue.rows(history)[0] for history in histories]
            frame = pd.concat([frame, reasons(parts, rows, found)], axis=1)
            frame.attrs = {**attrs, "honesty": said_of((self.config["text"] or {}).get("explain"))}
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
        return self._rank(self._parts, histories, k, users, exclude_seen, only, without)

    def _rank(self, parts: Parts, histories, k, users, exclude_seen, only, without) -> Ranked:
        _check_histories(histories, users)
        exclude_seen = self.config["evaluation"]["mask_history"] if exclude_seen is None else exclude_seen
        k = min(_checked_k(k), len(parts.catalogue) - 1)
        known = [parts.catalogue.rows(history) for history in histories]
        rows = [found for found, _ in known]
        unknown = np.array([count for _, count in known], dtype=np.int64)
        empty = np.array([not found for found in rows], dtype=bool)
        barred = _barred(parts.catalogue, only, without)
        places = [place_in_ties(self.users, user) for user in users or [None] * len(rows)]
        items = np.zeros((len(rows), k), dtype=np.int64)
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
        proved = True
        if k:
            for group, answer in ((np.flatnonzero(empty), self._popular), (np.flatnonzero(~empty), self._scored)):
                for part in _split(group, self._together(parts)):
                    asked = _Asked(
                        [rows[i] for i in part], torch.tensor([places[i] for i in part]), exclude_seen, barred
                    )
                    items[part], scores[part], sure = answer(parts, asked, k)
                    proved &= sure
        return Ranked(items, scores, empty, unknown, proved)

    def similar_items(self, items: Sequence[str], k: int = 10) -> pd.DataFrame:
        """The k nearest items of each, by the cosine of what the model scores with (of counting models, by its counts).

        Returns:
            ``item``, ``rank``, ``similar``, ``score`` and, with titles, ``title``.

        Raises:
            DataError: an item is not in the catalogue. ConfigError: k is no whole number from 0 on.
        """
        parts = self._parts
        k = min(_checked_k(k), len(parts.catalogue) - 2)
        rows = torch.tensor([parts.catalogue.row(item) for item in items], dtype=torch.long)
        scores = _similarities(parts, rows)
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
        _check_histories(histories, None)
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

    def add_items(self, titles: Mapping[str, str]) -> list[str]:
        """Add items by their text: token -> title. They can be recommended, and stand in histories, at once.

        Returns:
            The tokens that were new; items that are known already stay as they are.

        Raises:
            ConfigError: the model has no map from text to vectors (see :mod:`recbole_eimf.serving.new_items`).
            DataError: a title is empty, or no text.
        """
        with self._lock:
            self._parts, added = extended(self._parts, self.config, titles)
        return added

    # ------------------------------------------------------------------ as a table
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

    # ------------------------------------------------------------------ how it is found
    def _together(self, parts: Parts) -> int:
        """Users of a block: as many as the run evaluated together, so that sums run in the same order."""
        return self.config["evaluation"]["eval_batch_size"]

    def _popular(self, parts: Parts, asked: _Asked, k: int) -> tuple[np.ndarray, np.ndarray, bool]:
        scores = parts.catalogue.popularity.expand(len(asked.rows), -1).clone()
        return (*_ranked(scores, asked, k), True)

    def _scored(self, parts: Parts, asked: _Asked, k: int) -> tuple[np.ndarray, np.ndarray, bool]:
        with torch.inference_mode():
            if parts.encoder is None:
                sequence, length = _padded(asked.rows, parts.counts)
                return (*_ranked(parts.counts.scores(sequence, length).clone(), asked, k), True)
            interests = parts.interests(asked.rows)
            if parts.category is not None:
                return (*self._diverse(parts, asked, interests, k), True)
            if len(asked.rows) <= FEW_USERS and parts.index is not None and asked.barred is None:
                return _through_index(parts, asked, interests, k)
            return (*_all_products(parts, asked, interests, k, self.config["evaluation"]["eval_chunk_items"]), True)

    def _diverse(self, parts: Parts, asked: _Asked, interests: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        from recbole_eimf.model.diversity import aggregated

        wanted = self.config["diversity"]
        scores = Query(interests, parts.vectors, parts.bias).scores(0, len(parts.vectors))
        if asked.barred is not None:
            scores += asked.barred
        hidden = _padded(asked.rows, parts.encoder)[0] if asked.exclude_seen else None
        picked = aggregated(scores, parts.category, wanted["weight"], wanted["count"], interests.shape[1], hidden)
        return _ranked(picked, asked, k)


class _Asked(NamedTuple):
    """A block of users: rows of their histories, whose order of ties they have [B], and what is no candidate."""

    rows: list[list[int]]
    places: Tensor
    exclude_seen: bool
    barred: Tensor | None  # [N], 0 or minus infinity

    def history(self) -> tuple[Tensor, Tensor]:
        """(user of the block, item) of all histories."""
        user = np.repeat(np.arange(len(self.rows)), [len(rows) for rows in self.rows])
        return torch.from_numpy(user), torch.tensor([row for rows in self.rows for row in rows], dtype=torch.long)


def _ranked(scores: Tensor, asked: _Asked, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank scores [B, N], which are written to."""
    scores[:, 0] = -torch.inf
    if asked.exclude_seen:
        scores[asked.history()] = -torch.inf
    if asked.barred is not None:
        scores += asked.barred
    rows = ranked_items(scores, asked.places, k)
    return rows.numpy(), scores.gather(1, rows).numpy()


def _all_products(
    parts: Parts, asked: _Asked, interests: Tensor, k: int, wanted_chunk: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """As evaluation ranks: all products at once, or a chunk of items at a time where there are many."""
    items = len(parts.vectors)
    query = Query(interests, parts.vectors, parts.bias)
    chunk = chunk_items(wanted_chunk, len(asked.rows), items, interests.device)
    if not chunk:
        return _ranked(query.scores(0, items), asked, k)

    def scores(begin: int, end: int) -> Tensor:
        found = query.scores(begin, end)
        return found if asked.barred is None else found.add_(asked.barred[begin:end])

    history = asked.history() if asked.exclude_seen else None
    rows = ranked_in_chunks(scores, items, asked.places, k, chunk, history)
    values = torch.einsum("bkd,bjd->bkj", interests, parts.vectors[rows]).amax(1)
    values = values if parts.bias is None else values + parts.bias[rows]
    return rows.numpy(), values.masked_fill(rows == 0, -torch.inf).numpy()


def _through_index(parts: Parts, asked: _Asked, interests: Tensor, k: int) -> tuple[np.ndarray, np.ndarray, bool]:
    rows = np.zeros((len(asked.rows), k), dtype=np.int64)
    scores = np.full((len(asked.rows), k), -np.inf, dtype=np.float32)
    proved = True
    for user, (history, own) in enumerate(zip(asked.rows, interests)):
        barred = torch.tensor(history) if asked.exclude_seen else None
        place = int(asked.places[user])
        best = search.search_with_proof(parts.index, own, k, parts.vectors, parts.bias, barred, place)
        rows[user, : len(best.rows)], scores[user, : len(best.rows)] = best.rows.numpy(), best.scores.numpy()
        proved &= best.proved
    return rows, scores, proved


def _padded(rows: Sequence[Sequence[int]], reader: Encoder | Counts) -> tuple[Tensor, Tensor]:
    """The latest items of histories: ([B, L] right-padded, [B] lengths)."""
    latest = [history[-reader.max_length :] for history in rows]
    length = [len(history) for history in latest]
    table = np.zeros((len(rows), reader.width or max(length)), dtype=np.int64)
    for row, history in enumerate(latest):
        table[row, : len(history)] = history
    return torch.from_numpy(table), torch.tensor(length)


def _split(group: np.ndarray, size: int) -> list[np.ndarray]:
    return [group[begin : begin + size] for begin in range(0, len(group), size)]


def _barred(catalogue: Catalogue, only: Iterable[str] | None, without: Iterable[str] | None) -> Tensor | None:
    if only is None and without is None:
        return None
    barred = torch.zeros(len(catalogue))
    if only is not None:
        rows = catalogue.rows(_tokens("only", only))[0]
        if not rows:
            raise DataError("only: not one of these items is in the model's catalogue: there is no candidate.")
        barred.fill_(-torch.inf)[rows] = 0.0
    if without is not None:
        barred[catalogue.rows(_tokens("without", without))[0]] = -torch.inf
    return barred


def _tokens(name: str, given: Iterable[str]) -> Iterable[str]:
    if isinstance(given, str):
        raise ConfigError(f"{name}={given!r}: a list of item tokens is needed; write [{given!r}].")
    return given


def _similarities(parts: Parts, rows: Tensor) -> Tensor:
    """[n] -> [n, N]."""
    if parts.encoder is None:
        return parts.counts.scores(rows[:, None], torch.ones(len(rows), dtype=torch.long)).clone()
    unit = torch.nn.functional.normalize(parts.vectors, dim=1)
    return unit[rows] @ unit.T


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


def _checked_k(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0:
        raise ConfigError(f"k={k!r}: a whole number from 0 on is needed.")
    return int(k)


def _check_histories(histories: Any, users: Sequence[str] | None) -> None:
    if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
        raise ConfigError(
            "histories: a list of histories is needed, each a list of item tokens; write [['B001', ...]]."
        )
    if users is not None and len(users) != len(histories):
        raise ConfigError(f"users: {len(users)} for {len(histories)} histories; give one for each.")


def with_index(parts: Parts, kind: str, folder: Path | None = None) -> Parts:
    """``parts`` with the index that ``kind`` asks for; ``auto`` is flat where an index pays.

    Raises:
        ConfigError: no such kind. DataError: ``folder`` has no readable ``index.faiss`` and ``kind`` is hnsw.
    """
    search.check_kind(kind)
    items = len(parts.catalogue)
    if parts.encoder is None or kind == "none" or (kind == "auto" and items < search.FEWEST_ITEMS):
        return parts
    if kind == "hnsw":
        file = None if folder is None else folder / "index.faiss"
        biased = parts.bias is not None
        made = search.HNSWIndex.over(parts.vectors, parts.bias) if file is None else None
        return replace(parts, index=made or search.HNSWIndex.read(file, parts.vectors, biased))
    return replace(parts, index=search.FlatIndex(parts.vectors, parts.bias))
