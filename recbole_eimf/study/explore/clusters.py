"""Clusters and replies, as they stand in the document of ``explore``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_eimf.semantic.llm.reply import Reply
from recbole_eimf.semantic.pipeline import Pipeline
from recbole_eimf.study.explore.nearness import Near, between_titles, far_below, nearest_titles
from recbole_eimf.study.explore.said import Said, template_of

#: latest items of an exemplar's history that are shown
_SHOWN = 30


def clusters(pipeline: Pipeline, said: Said, prompts: Mapping[str, str]) -> dict[str, Any]:
    """``clusters``, one for each exemplar, and ``far``: the measure of interests that are near to no title."""
    known = _Titles(pipeline)
    sizes = Counter(said.cluster.values())
    bought = _bought(pipeline, said)
    texts = sorted({text for row in said.texts for text in row})
    vectors = pipeline.encode(texts, "encode_interests") if texts else np.zeros((0, known.vectors.shape[1]))
    near = nearest_titles(vectors, known.vectors)
    of_text = {text: place for place, text in enumerate(texts)}
    every = near.cosine[[of_text[text] for row in said.texts for text in row], 0] if texts else np.zeros(0)
    below = far_below(every)
    row = {user: u for u, user in enumerate(pipeline.corpus.users)}
    made = []
    for c, (user, interests) in enumerate(zip(said.exemplars, said.texts)):
        history = pipeline.corpus.histories[row[user]]
        found = [known.interest(of_text[text], text, vectors, near, history, bought[c], below) for text in interests]
        made.append(
            {
                "exemplar": user,
                "users": sizes[c],
                "interests": found,
                "history": [known.item(item) for item in history[-_SHOWN:]],
                "history_items": len(history),
                **_reply(said.replies.get(user), prompts.get(user), pipeline),
            }
        )
    said_of = [one for cluster in made for one in cluster["interests"]]
    between = between_titles(known.titles, known.vectors)
    far = {
        "below": round(below, 4),
        "interests": sum(one["far"] for one in said_of),
        "far_from_history": sum(one["far_from_history"] for one in said_of),
        "of": len(said_of),
        "median": round(float(np.median(every)), 4) if len(every) else None,
        "between_titles": None if between is None else round(between, 4),
    }
    return {"clusters": made, "far": far}


class _Titles:
    """The titles of the catalogue, and how an interest stands to them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.row, self.vectors = pipeline.item_vectors
        self.text = pipeline.corpus.item_text
        self.tokens = list(self.row)
        self.titles = [self.text[token] for token in self.tokens]

    def item(self, token: str) -> dict[str, Any]:
        return {"item": token, "title": self.text.get(token)}

    def interest(
        self,
        place: int,
        text: str,
        vectors: np.ndarray,
        near: Near,
        history: Sequence[str],
        bought: Counter,
        below: float,
    ) -> dict[str, Any]:
        """An interest, row ``place`` of ``vectors`` and ``near``, with the titles nearest to it.

        Args:
            history: the exemplar's items; bought: item -> users of the cluster that have it; below: what is far.
        """
        own = [item for item in dict.fromkeys(history) if item in self.row]
        nearest = [
            {**self.item(self.tokens[n]), "cosine": round(float(cosine), 3), "users": bought[self.tokens[n]]}
            for n, cosine in zip(near.nearest[place], near.cosine[place])
        ]
        found = {"text": text, "nearest": nearest, "far": bool(near.cosine[place, 0] < below)}
        if not own:
            return found | {"own": None, "far_from_history": False}
        cosines = self.vectors[[self.row[item] for item in own]] @ vectors[place]
        best = int(cosines.argmax())
        own_best = {**self.item(own[best]), "cosine": round(float(cosines[best]), 3)}
        return found | {"own": own_best, "far_from_history": bool(cosines[best] < below)}


def _bought(pipeline: Pipeline, said: Said) -> list[Counter]:
    """How many users of each cluster have each item."""
    counts: list[Counter] = [Counter() for _ in said.exemplars]
    for user, history in zip(pipeline.corpus.users, pipeline.corpus.histories):
        if user in said.cluster:
            counts[said.cluster[user]].update(set(history))
    return counts


def _reply(reply: Reply | None, prompt: str | None, pipeline: Pipeline) -> dict[str, Any]:
    """The reply of an exemplar, and the part of its prompt that is its own."""
    if reply is None:
        return {"status": "missing", "reply": None, "asked": None, "error": None, "failure": None, "usage": None}
    before, after = template_of(pipeline)
    asked = None
    if prompt is not None and prompt.startswith(before) and prompt.endswith(after):
        asked = prompt[len(before) : len(prompt) - len(after)]
    return {
        "status": reply.status,
        "reply": reply.response,
        "asked": asked,
        "error": reply.error,
        "failure": reply.failure,
        "usage": reply.usage,
    }


def replies(pipeline: Pipeline, said: Said) -> dict[str, Any]:
    """Replies of no use (raw), exemplars without any, and replies that nobody uses."""
    training = set(pipeline.corpus.users)
    exemplars = set(said.exemplars)
    failed = [
        {"exemplar": user, "failure": reply.failure, "error": reply.error, "reply": reply.response}
        for user, reply in said.replies.items()
        if reply.status != "ok"
    ]
    unused = [user for user, reply in said.replies.items() if reply.status == "ok" and user not in exemplars]
    moved = ("exemplars_not_in_training", "users_moved_to_nearest_exemplar", "users_without_assignment",
             "replies_of_this_history", "replies_of_shorter_history", "replies_of_another_history",
             "replies_unchecked", "replies_that_know_held_out_items", "users_assigned_with_held_out_items")  # fmt: skip
    return {
        "ok": sum(reply.status == "ok" for reply in said.replies.values()),
        "failed": failed,
        "missing": list(said.unanswered),
        "unused": [{"exemplar": user, "in_training": user in training} for user in unused],
        **{name: said.report[name] for name in moved if name in said.report},
    }
