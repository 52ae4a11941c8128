"""The k best items of every history: as evaluation ranks them, or through an index where few users ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.evaluator.chunked import chunk_items, ranked_in_chunks
from recbole_eimf.evaluator.ranking import ranked_items
from recbole_eimf.model.diversity import aggregated
from recbole_eimf.model.products import Query
from recbole_eimf.serving import index as search
from recbole_eimf.serving.catalogue import Catalogue, Users, place_in_ties
from recbole_eimf.serving.many import CoarseTable
from recbole_eimf.serving.parts import Parts, padded
from recbole_eimf.serving.prior_index import PriorIndex

#: requests of up to this many users go through the index one by one; more are cheaper as one product
FEW_USERS = 4


@dataclass(frozen=True)
class Question:
    """What is asked of every history: see :meth:`Recommender.recommend`."""

    k: int
    exclude_seen: bool | None = None
    only: Iterable[str] | None = None
    without: Iterable[str] | None = None


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


def rank(
    parts: Parts,
    config: Mapping[str, Any],
    histories: Sequence[Sequence[str]],
    question: Question,
    users: Sequence[str] | None = None,
    known: Users | None = None,
) -> Ranked:
    """Answer every history.

    Args:
        config: of the model folder; users: tokens, whose orders of equal scores count; known: users of the run.

    Raises:
        ConfigError, DataError: see :meth:`Recommender.recommend`.
    """
    check_histories(histories, users)
    k = min(checked_k(question.k), len(parts.catalogue) - 1)
    as_evaluated = config["evaluation"]["mask_history"]
    exclude_seen = as_evaluated if question.exclude_seen is None else question.exclude_seen
    looked_up = [parts.catalogue.rows(history) for history in histories]
    rows = [found for found, _ in looked_up]
    unknown = np.array([count for _, count in looked_up], dtype=np.int64)
    empty = np.array([not found for found in rows], dtype=bool)
    barred = _barred(parts.catalogue, question.only, question.without)
    places = [place_in_ties(known, user) for user in ([None] * len(rows) if users is None else users)]
    items = np.zeros((len(rows), k), dtype=np.int64)
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    proved = True
    # as many together as the run evaluated together, so that sums run in the same order
    together = config["evaluation"]["eval_batch_size"]
    for group, answer in ((np.flatnonzero(empty), _popular), (np.flatnonzero(~empty), _scored)):
        for begin in range(0, len(group) if k else 0, together):
            part = group[begin : begin + together]
            of_ties = torch.tensor([places[i] for i in part])
            asked = _Asked([rows[i] for i in part], of_ties, exclude_seen, barred)
            items[part], scores[part], sure = answer(parts, config, asked, k)
            proved &= sure
    return Ranked(items, scores, empty, unknown, proved)


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


def _popular(parts: Parts, config: Mapping[str, Any], asked: _Asked, k: int) -> tuple[np.ndarray, np.ndarray, bool]:
    scores = parts.catalogue.popularity.expand(len(asked.rows), -1).clone()
    return (*_ranked(scores, asked, k), True)


def _scored(parts: Parts, config: Mapping[str, Any], asked: _Asked, k: int) -> tuple[np.ndarray, np.ndarray, bool]:
    with torch.inference_mode():
        if parts.encoder is None:
            sequence, length = padded(asked.rows, parts.counts)
            return (*_ranked(parts.counts.scores(sequence, length).clone(), asked, k), True)
        interests = parts.interests(asked.rows)
        if parts.category is not None:
            return (*_diverse(parts, config["diversity"], asked, interests, k), True)
        if parts.prior is not None:
            if len(asked.rows) <= FEW_USERS and parts.index is not None and asked.barred is None:
                return _through_index(parts, asked, interests, k)
            return (*_ranked(_with_prior(parts, asked, interests), asked, k), True)
        chunk = config["evaluation"]["eval_chunk_items"]
        many = parts.index.many if isinstance(parts.index, search.FlatIndex) else None
        alone = len(asked.rows) == 1 and many is not None and parts.index.eight_bits is not None
        if asked.barred is None and many is not None and not alone and many.answers(k):
            return _through_table(many, parts, asked, interests, k, chunk)
        return _one_by_one(parts, asked, interests, k, chunk)


def _through_table(
    table: CoarseTable, parts: Parts, asked: _Asked, interests: Tensor, k: int, wanted_chunk: int | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """All users through the coarse table; those it is not sure of as if there were none."""
    found = table.best(interests, k, asked.history() if asked.exclude_seen else None)
    rows, scores = found.rows.numpy(), found.scores.numpy()
    others = (~found.sure).nonzero()[:, 0]
    proved = True
    if len(others):
        left = _Asked([asked.rows[user] for user in others], asked.places[others], asked.exclude_seen, None)
        rows[others], scores[others], proved = _one_by_one(parts, left, interests[others], k, wanted_chunk)
    return rows, scores, proved


def _one_by_one(
    parts: Parts, asked: _Asked, interests: Tensor, k: int, wanted_chunk: int | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Few users through the index, more as one product."""
    if len(asked.rows) <= FEW_USERS and parts.index is not None and asked.barred is None:
        return _through_index(parts, asked, interests, k)
    return (*_all_products(parts, asked, interests, k, wanted_chunk), True)


def _with_prior(parts: Parts, asked: _Asked, interests: Tensor) -> Tensor:
    """[B, N]: the products and what the prior adds, summed as the model sums them."""
    return Query(interests, parts.vectors, None).scores(0, len(parts.vectors)) + _added(parts, asked)


def _added(parts: Parts, asked: _Asked) -> Tensor:
    """What every product gets, [N], or [B, N] where the history has a say."""
    added = torch.zeros(1) if parts.bias is None else parts.bias
    if parts.prior is None:
        return added
    prior = parts.prior(*padded(asked.rows, parts.encoder))
    return prior if parts.bias is None else added + prior


def _diverse(
    parts: Parts, wanted: Mapping[str, Any], asked: _Asked, interests: Tensor, k: int
) -> tuple[np.ndarray, np.ndarray]:
    offset = _added(parts, asked)
    offset = offset if asked.barred is None else offset + asked.barred
    of_interest = (interest @ parts.vectors.T + offset for interest in interests.unbind(1))
    # all of a history, not what the encoder reads of it
    hidden = pad_sequence([torch.tensor(rows) for rows in asked.rows], True) if asked.exclude_seen else None
    picked = aggregated(of_interest, parts.category, wanted["weight"], wanted["count"], hidden)
    return _ranked(picked, asked, k)


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
        if isinstance(parts.index, PriorIndex):
            best = parts.index.best(own, torch.tensor(history[-parts.max_length :]), k, barred, place)
            best = best or _every_item(parts, asked, user, interests, k)
        else:
            best = search.search_with_proof(parts.index, own, k, parts.vectors, parts.bias, barred, place)
        rows[user, : len(best.rows)], scores[user, : len(best.rows)] = best.rows.numpy(), best.scores.numpy()
        proved &= best.proved
    return rows, scores, proved


def _every_item(parts: Parts, asked: _Asked, user: int, interests: Tensor, k: int) -> search.Best:
    """Brute force for one user of the block, under a prior."""
    alone = _Asked([asked.rows[user]], asked.places[[user]], asked.exclude_seen, None)
    (rows,), (scores,) = _ranked(_with_prior(parts, alone, interests[[user]]), alone, k)
    return search.Best(torch.from_numpy(rows), torch.from_numpy(scores), True)


def _barred(catalogue: Catalogue, only: Iterable[str] | None, without: Iterable[str] | None) -> Tensor | None:
    if only is None and without is None:
        return None
    barred = torch.zeros(len(catalogue))
    if only is not None:
        rows = catalogue.rows(checked_tokens("only", only))[0]
        if not rows:
            raise DataError("only: not one of these items is in the model's catalogue: there is no candidate.")
        barred.fill_(-torch.inf)[rows] = 0.0
    if without is not None:
        barred[catalogue.rows(checked_tokens("without", without))[0]] = -torch.inf
    return barred


def checked_tokens(name: str, given: Iterable[str]) -> list[str]:
    """``given`` as a list, if it is no single text, whose letters would be taken for items. Raises ConfigError."""
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__"):
        raise ConfigError(f"{name}={given!r}: a list of item tokens is needed; write [{given!r}].")
    return list(given)


def similarities(parts: Parts, rows: Tensor) -> Tensor:
    """How near all items are to some: rows [n] -> [n, N], cosines (of counting models, counts)."""
    if parts.encoder is None:
        return parts.counts.scores(rows[:, None], torch.ones(len(rows), dtype=torch.long)).clone()
    unit = torch.nn.functional.normalize(parts.vectors, dim=1)
    return unit[rows] @ unit.T


def checked_k(k: Any) -> int:
    """``k``, if it is a whole number from 0 on. Raises ConfigError."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0:
        raise ConfigError(f"k={k!r}: a whole number from 0 on is needed.")
    return int(k)


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping)


def check_histories(histories: Any, users: Sequence[str] | None) -> None:
    """Raise ConfigError for what is no list of lists, or has another number of users.

    A generator is refused too: to look at it is to use it up.
    """
    if not _is_list(histories) or not all(map(_is_list, histories)):
        raise ConfigError(
            "histories: a list of histories is needed, each a list of item tokens; write [['B001', ...]]."
        )
    if users is not None and len(users) != len(histories):
        raise ConfigError(f"users: {len(users)} for {len(histories)} histories; give one for each.")
    for user in () if users is None else users:
        if isinstance(user, int | float | bytes | np.number):  # another user's order of equal scores
            raise ConfigError(f"users: {user!r} is not text; a token is text, such as {str(user)!r}.")
