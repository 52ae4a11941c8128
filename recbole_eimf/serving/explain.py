"""Why an item is recommended, and whether an LLM's sentence beside it means anything.

For every model of interests: the interest that won the maximum, and the two items of the history nearest to it. For
EIMF also a sentence: of the interests that the LLM wrote for the exemplar nearest to the user (by the text of their
history), the one with the highest weight of eq. 8 for the item. The behaviour that ranks items does not read that
sentence, so it is a name, not a cause. *Honesty*: how often the sentence named ranks the recommended item's title
better, among all titles, than the sentence that another exemplar's interests would have named: 50 % is a name without
meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_eimf.model.layer import MaskedSelfAttention

if TYPE_CHECKING:
    from recbole_eimf.serving.recommender import Parts, Ranked

#: items of the history that are named
BECAUSE = 2


@dataclass(frozen=True)
class Sentences:
    """The LLM's interests of EIMF's exemplars, and the trained maps that weigh them (eq. 7-8).

    exemplars: [C] user tokens; texts: [C] lists of sentences; interests: float16 [C, M, d_t], their vectors; mask: bool
    [C, M]; histories: float16 [C, d_t], unit vectors of the text of the exemplars' histories; weights: ``projection``
    [d, d'], ``query``, ``key``, ``value`` [d, d], and, where text is transformed, ``mean`` [d_t], ``map`` [d_t, d'],
    ``scale``.
    """

    exemplars: pa.Array
    texts: pa.ListArray
    interests: Tensor
    mask: Tensor
    histories: Tensor
    weights: Mapping[str, Tensor]

    @cached_property
    def answerable(self) -> Tensor:
        """int64: exemplars with interests and with a history that has text."""
        return (self.mask.any(1) & (self.histories != 0).any(1)).nonzero().squeeze(1)

    def nearest(self, histories: Tensor) -> Tensor:
        """[B, d_t] text of histories -> int64 [B], the nearest exemplar."""
        near = histories @ self.histories[self.answerable].float().T
        return self.answerable[near.argmax(1)]

    def weigh(self, exemplar: Tensor, titles: Tensor) -> Tensor:
        """Eq. 8: [R] exemplars, [R, d_t] titles -> [R, M] weights, zero where an exemplar has no further interest."""
        mask = self.mask[exemplar]
        query = self._projected(titles)
        logits = torch.einsum("rd,rmd->rm", query, self._attended[exemplar]) / math.sqrt(query.shape[-1])
        return torch.softmax(logits.masked_fill(~mask, -torch.inf), -1)

    @cached_property
    def _attended(self) -> Tensor:
        """Eq. 7: [C, M, d]."""
        attention = MaskedSelfAttention(self.weights["query"].shape[0])
        attention.load_state_dict({f"{name}.weight": self.weights[name] for name in ("query", "key", "value")})
        mask = self.mask.clone()
        mask[~mask.any(1), 0] = True  # a row of the softmax needs something; such exemplars are never named
        with torch.no_grad():
            return attention(self._projected(self.interests.float()), mask)

    def _projected(self, text: Tensor) -> Tensor:
        if "map" in self.weights:
            moved = (text.double() - self.weights["mean"]) @ self.weights["map"] * self.weights["scale"]
            text = moved.float()
        return F.linear(text, self.weights["projection"])

    # ------------------------------------------------------------------ on disk
    def tensors(self) -> dict[str, Tensor]:
        """As they stand in ``explain.safetensors``."""
        return {"interests": self.interests, "mask": self.mask, "histories": self.histories, **self.weights}

    def columns(self) -> dict[str, Any]:
        """As they stand in ``interests.parquet``."""
        return {"exemplar": self.exemplars, "interests": self.texts}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], exemplars: pa.Array, texts: pa.ListArray) -> Sentences:
        """From the two files. Raises KeyError for what is missing."""
        rest = dict(tensors)
        parts = [rest.pop(name) for name in ("interests", "mask", "histories")]
        return cls(exemplars, texts, *parts, rest)


def reasons(parts: Parts, rows: Sequence[Sequence[int]], found: Ranked) -> pd.DataFrame:
    """A row per recommendation of ``found``: ``interest``, ``because``, and with sentences ``sentence`` and its weight.

    Args:
        rows: the users' histories, rows of the catalogue.
    """
    user, place = (found.rows > 0).nonzero()
    items = found.rows[user, place]
    columns: dict[str, Any] = {"interest": np.full(len(items), None, dtype=object), "because": [[] for _ in items]}
    named = {"sentence": np.full(len(items), None, dtype=object), "sentence_weight": np.full(len(items), np.nan)}
    for one in np.unique(user):
        at = np.flatnonzero(user == one)
        if found.empty[one]:
            continue
        history = list(dict.fromkeys(rows[one][-parts.max_length :]))
        interest, near = _nearest_of_history(parts, rows[one], history, items[at])
        columns["interest"][at] = interest
        names = parts.catalogue.names(history)
        for place_of, best in zip(at, near):
            columns["because"][place_of] = [names[i] for i in best]
        if parts.sentences is not None and parts.text is not None:
            sentences, weights = _sentences(parts, history, items[at])
            named["sentence"][at], named["sentence_weight"][at] = sentences, weights
    return pd.DataFrame(columns | (named if parts.sentences is not None else {}))


def _nearest_of_history(
    parts: Parts, rows: Sequence[int], history: list[int], items: np.ndarray
) -> tuple[list[int | None], list[list[int]]]:
    """(the interest that won each item, places in ``history`` of the items nearest to it)."""
    if parts.encoder is None:  # a counting model: the items whose counts speak for the recommended one
        scores = parts.counts.scores(torch.tensor(history)[:, None], torch.ones(len(history), dtype=torch.long))
        return [None] * len(items), _best_places(scores[:, torch.from_numpy(items)].T, history, items)
    interests = parts.interests([rows])[0]
    won = (interests @ parts.vectors[items].T).argmax(0)
    near = F.normalize(interests, dim=1) @ F.normalize(parts.vectors[history], dim=1).T  # [K, H]
    return won.tolist(), _best_places(near[won], history, items)


def _best_places(near: Tensor, history: list[int], items: np.ndarray) -> list[list[int]]:
    """The places of the greatest of ``near`` [R, H]; an item is no reason for itself."""
    itself = torch.tensor(history) == torch.from_numpy(items)[:, None]
    best = near.masked_fill(itself, -torch.inf).topk(min(BECAUSE, len(history)))
    return [
        [place for place, value in zip(places, values) if value > -torch.inf]
        for places, values in zip(best.indices.tolist(), best.values.tolist())
    ]


def history_text(text: Tensor, rows: Sequence[int]) -> Tensor:
    """The unit mean of the titles' vectors of a history, [d_t]; zero where none has text."""
    return F.normalize(text[list(rows)].float().sum(0), dim=0)


def _sentences(parts: Parts, history: list[int], items: np.ndarray) -> tuple[list[str | None], np.ndarray]:
    words, text = parts.sentences, parts.text.text
    none: list[str | None] = [None] * len(items)
    own = history_text(text, history)
    if not own.any() or not len(words.answerable):
        return none, np.full(len(items), np.nan)
    exemplar = words.nearest(own[None]).expand(len(items))
    titles = text[items].float()
    weights = words.weigh(exemplar, titles)
    chosen = weights.argmax(1)
    said = words.texts[int(exemplar[0])].as_py()
    there = titles.any(1)
    value = torch.where(there, weights.amax(1), torch.nan)
    return [said[c] if ok else None for c, ok in zip(chosen.tolist(), there.tolist())], value.numpy()


def honesty(parts: Parts, histories: Sequence[Sequence[int]], found: Ranked, seed: int = 0) -> dict[str, Any]:
    """How often the sentence named ranks the recommended title better than another exemplar's: see the module.

    Returns:
        ``better`` (ties count half), ``error`` (standard error over users), ``pairs``, ``users``.
    """
    words, text = parts.sentences, parts.text.text.float()
    has_text = text.any(1)
    rng = np.random.default_rng(seed)
    shares = []
    pairs = 0
    for rows, items in zip(histories, found.rows):
        items = torch.from_numpy(items[items > 0])
        items, own = items[has_text[items]], history_text(text, rows)
        if not len(items) or not own.any() or len(words.answerable) < 2:
            continue
        near = words.nearest(own[None])
        others = words.answerable[words.answerable != near]
        other = others[torch.from_numpy(rng.integers(len(others), size=len(items)))]
        ranks = [_rank_of_title(words, text, exemplar, items, has_text) for exemplar in (near.expand_as(items), other)]
        shares.append(float(((ranks[0] < ranks[1]).float() + 0.5 * (ranks[0] == ranks[1]).float()).mean()))
        pairs += len(items)
    if not shares:
        return {"better": None, "error": None, "pairs": 0, "users": 0}
    error = float(np.std(shares) / math.sqrt(len(shares)))
    return {"better": float(np.mean(shares)), "error": error, "pairs": pairs, "users": len(shares)}


def _rank_of_title(words: Sentences, text: Tensor, exemplar: Tensor, items: Tensor, has_text: Tensor) -> Tensor:
    """Place of each item's title among all titles, by the cosine with the exemplar's sentence of highest weight."""
    chosen = words.weigh(exemplar, text[items]).argmax(1)
    sentence = words.interests[exemplar, chosen].float()
    near = sentence @ text.T
    near[:, ~has_text] = -torch.inf
    return (near > near.gather(1, items[:, None])).sum(1)


def said_of(better: Mapping[str, Any] | None) -> str | None:
    """The honesty number in words, for the command line and the card."""
    if not better or better["better"] is None:
        return None
    share, error = 100 * better["better"], 100 * better["error"]
    meaning = "more than a placebo's" if share - 2 * error > 50 else "no more than a placebo's"
    whose = "the LLM's sentences" if better["llm_used"] else "the sentences (keywords of titles; no LLM)"
    return (
        f"What {whose} mean: the one named ranks the recommended title above another exemplar's in "
        f"{share:.1f} % of {better['pairs']:,} cases (± {2 * error:.1f}; 50 % is chance): {meaning}. Items are ranked "
        f"without reading them."
    )
