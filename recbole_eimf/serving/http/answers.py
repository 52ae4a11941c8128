"""Requests to answers: what Recommender says, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_eimf.serving.explain import means_more, who_says
from recbole_eimf.serving.http.schema import RecommendRequest, SimilarRequest
from recbole_eimf.serving.http.service import Served
from recbole_eimf.serving.http.settings import MAX_EXPLAINED


class FieldError(ValueError):
    """A field of a request that cannot be answered: where it is, and why. ``part``: of the request."""

    part = "body"

    def __init__(self, message: str, *where: str | int) -> None:
        super().__init__(message)
        self.where = where


class QueryError(FieldError):
    """The same of what stands behind the question mark of an address."""

    part = "query"


def recommended(served: Served, asked: RecommendRequest) -> dict[str, Any]:
    """The answer to POST /recommend. Raises FieldError, UserError."""
    model = served.model
    histories, users = _histories(served, asked)
    if asked.explain and (items := asked.k * len(histories)) > MAX_EXPLAINED:
        raise FieldError(
            f"{asked.k:,} for each of {len(histories):,} histories are {items:,} items, and a request with explain may "
            f"ask for {MAX_EXPLAINED:,}; give a smaller k or fewer histories, or leave explain out",
            "k",
        )
    found = model.rank(
        histories, asked.k, users=users, exclude_seen=asked.exclude_seen, only=asked.only, without=asked.without
    )
    results = [
        {
            "items": _items(served, rows, scores),
            "source": "popularity" if empty else "model",
            "unknown_items": int(unknown),
        }
        for rows, scores, empty, unknown in zip(found.rows, found.scores, found.empty, found.unknown)
    ]
    answer = {"model": served.about, "results": results, "proved": bool(found.proved)}
    known = model.catalogue.row_of
    if strange := sum(token not in known for token in (*(asked.only or ()), *(asked.without or ()))):
        answer["unknown_candidates"] = strange
    if asked.explain:
        frame = model.reasons(histories, found)
        why = iter(frame.to_dict("records"))
        for item in (item for result in results for item in result["items"]):
            item |= {name: _plain(value) for name, value in next(why).items()}
        explained = (model.config["text"] or {}).get("explain") or {}
        answer["llm_used"] = explained.get("llm_used")
        answer["said_by"] = who_says(explained) if explained else None
        answer["honesty"] = frame.attrs["honesty"]
        answer["means_more"] = means_more(explained)
    return answer


def _histories(served: Served, asked: RecommendRequest) -> tuple[list[list[str]], Sequence[str] | None]:
    given = [name for name in ("history", "histories", "user") if getattr(asked, name) is not None]
    if len(given) != 1:
        field = given[1] if given else "history"
        raise FieldError(f"give one of history, histories and user; given: {', '.join(given) or 'none'}", field)
    if asked.user is not None and asked.users is not None:
        raise FieldError(
            "names the users of histories, and user is asked with its own history; leave users out", "users"
        )
    if asked.user is not None:
        return [_history_of(served, asked.user)], [asked.user]
    histories = [asked.history] if asked.history is not None else asked.histories
    if asked.users is not None and len(asked.users) != len(histories):
        raise FieldError(f"{len(asked.users)} for {len(histories)} histories; give one for each", "users")
    return histories, asked.users


def _history_of(served: Served, user: str) -> list[str]:
    users = served.model.users
    if users is None:
        raise FieldError("this model was exported without users' histories; give history", "user")
    if user not in users.row_of:
        raise FieldError(f"not among the {len(users.tokens) - 1:,} users of this model; give history", "user")
    return served.model.catalogue.tokens_of(users.history(user))


def _items(served: Served, rows: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    there = rows > 0
    rows, catalogue = rows[there], served.model.catalogue
    columns = (catalogue.tokens.take(rows).to_pylist(), scores[there].tolist(), catalogue.titles.take(rows).to_pylist())
    return [{"item": item, "score": score, "title": title} for item, score, title in zip(*columns)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def similar(served: Served, asked: SimilarRequest) -> dict[str, Any]:
    """The answer to POST /similar. Raises FieldError."""
    known = served.model.catalogue.row_of
    for place, item in enumerate(asked.items):
        if item not in known:  # without looking for a similar name, which takes seconds in a large catalogue
            raise FieldError(f"{item!r} is not in this model's catalogue", "items", place)
    frame = served.model.similar_items(asked.items, asked.k)
    results = [{"item": item, "similar": []} for item in asked.items]
    place = -1
    for row in frame.to_dict("records"):
        place += row["rank"] == 1
        results[place]["similar"].append(
            {"item": row["similar"], "score": float(row["score"]), "title": row.get("title")}
        )
    return {"model": served.about, "results": results}
