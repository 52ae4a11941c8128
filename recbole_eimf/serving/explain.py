"""Why an item is recommended, and whether an LLM's sentence beside it means anything.

For every model of interests: the interest that won the maximum, and the two items of the history that are nearest to
the item (by the cosine of what the model scores with; of counting models, by their counts). With a score prior also the
item of the history for which it adds most, and how: by like text, or by what an LLM says is bought after one of the
two. That is part of the score, so it is a cause.

For EIMF also a sentence: of the interests that the LLM wrote for the exemplar nearest to the user (by the text of their
history), the one with the highest weight of eq. 8 for the item. The behaviour that ranks items does not read that
sentence, so it is a name, not a cause. *Honesty*: how often the sentence named ranks the recommended item's title
better, among all titles, than the sentence that another exemplar's interests would have named: 50 % is a name without
meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_eimf.config.maker import made_by
from recbole_eimf.serving.answer import Ranked
from recbole_eimf.serving.parts import Parts
from recbole_eimf.serving.sentences import Sentences, history_text

#: items of the history that are named
BECAUSE = 2
#: how a part of a score prior says that it adds to an item, {} being one of the history
_ADDED = {
    "similar": "its text is like that of {}",
    "next": "{who} it is bought after {}",
    "previous": "{who} {} is bought after it",
    "together": "it is bought with {}",
}
#: (sentence, title) pairs that are ranked at a time
_PAIRS = 512


def reasons(parts: Parts, rows: Sequence[Sequence[int]], found: Ranked) -> pd.DataFrame:
    """A row per recommendation of ``found``: ``interest``, ``because``; with a score prior ``added``; with sentences
    ``sentence`` and its weight.

    Args:
        rows: the users' histories, rows of the catalogue.
    """
    user, place = (found.rows > 0).nonzero()
    items = found.rows[user, place]
    columns: dict[str, Any] = {"interest": np.full(len(items), None, dtype=object), "because": [[] for _ in items]}
    if parts.prior is not None:
        columns["added"] = np.full(len(items), None, dtype=object)
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
        if parts.prior is not None:
            columns["added"][at] = _added(parts, rows[one], items[at])
        if parts.sentences is not None and parts.text is not None:
            sentences, weights = _sentences(parts, history, items[at])
            named["sentence"][at], named["sentence_weight"][at] = sentences, weights
    return pd.DataFrame(columns | (named if parts.sentences is not None else {}))


def _nearest_of_history(
    parts: Parts, rows: Sequence[int], history: list[int], items: np.ndarray
) -> tuple[list[int | None], list[list[int]]]:
    """(the interest that won each item, places in ``history`` of the items nearest to it)."""
    if parts.encoder is None:  # a counting model: the items whose counts speak for the recommended one
        added = parts.counts.contributions(list(rows), history)[:, torch.from_numpy(items)].T
        return [None] * len(items), _best_places(added.masked_fill(added <= 0, -torch.inf), history, items)
    interests = parts.interests([rows])[0]
    won = (interests @ parts.vectors[items].T).argmax(0)
    near = F.normalize(parts.vectors[items], dim=1) @ F.normalize(parts.vectors[history], dim=1).T  # [R, H]
    return won.tolist(), _best_places(near, history, items)


def _added(parts: Parts, rows: Sequence[int], items: np.ndarray) -> list[str | None]:
    """In words, what the score prior adds most to each item for; None where it adds nothing."""
    prior, sequence = parts.prior, torch.tensor(rows[-parts.max_length :])
    wanted = torch.from_numpy(items)
    distinct, which = sequence.unique(return_inverse=True)  # who had an item often is told what all the times add
    none = torch.zeros(len(distinct), len(wanted))
    each = torch.cat([none.index_add(0, which, prior.of_steps(part, sequence, wanted)) for part in prior.parts])
    itself = (distinct[:, None] == wanted).repeat(len(prior.parts), 1)
    most, place = each.masked_fill(itself, -torch.inf).max(0)  # of [parts * H, R]
    who = "a placebo says" if prior.placebo else "an LLM says"
    names = parts.catalogue.names(distinct.tolist())
    return [
        _ADDED[prior.parts[at // len(distinct)]].format(names[at % len(distinct)], who=who) if value > 0 else None
        for value, at in zip(most.tolist(), place.tolist())
    ]


def _best_places(near: Tensor, history: list[int], items: np.ndarray) -> list[list[int]]:
    """The places of the greatest of ``near`` [R, H]; an item is no reason for itself."""
    itself = torch.tensor(history) == torch.from_numpy(items)[:, None]
    best = near.masked_fill(itself, -torch.inf).topk(min(BECAUSE, len(history)))
    return [
        [place for place, value in zip(places, values) if value > -torch.inf]
        for places, values in zip(best.indices.tolist(), best.values.tolist())
    ]


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
    nothing = {"better": None, "error": None, "pairs": 0, "users": 0}
    if len(words.answerable) < 2:
        return nothing
    own = torch.stack([history_text(text, rows) for rows in histories])
    items = torch.from_numpy(found.rows)
    user, place = (has_text[items] & (items > 0) & own.any(1, keepdim=True)).nonzero(as_tuple=True)
    if not len(user):
        return nothing
    items, near = items[user, place], words.nearest(own)[user]
    others = torch.from_numpy(np.random.default_rng(seed).integers(len(words.answerable) - 1, size=len(user)))
    at = torch.searchsorted(words.answerable, near)
    other = words.answerable[others + (others >= at)]  # any but the nearest
    ranks = [_rank_of_title(words, text, exemplar, items, has_text) for exemplar in (near, other)]
    better = (ranks[0] < ranks[1]).double() + 0.5 * (ranks[0] == ranks[1]).double()
    pairs = torch.bincount(user)
    shares = (torch.bincount(user, better) / pairs)[pairs > 0].numpy()
    error = float(shares.std(ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else 0.0
    return {"better": float(shares.mean()), "error": error, "pairs": len(user), "users": len(shares)}


def _rank_of_title(words: Sentences, text: Tensor, exemplar: Tensor, items: Tensor, has_text: Tensor) -> Tensor:
    """Place of each item's title among all titles, by the cosine with the exemplar's sentence of highest weight."""
    titles, ranks = text[has_text].T.contiguous(), []
    for part, own in zip(exemplar.split(_PAIRS), items.split(_PAIRS)):
        chosen = words.weigh(part, text[own]).argmax(1)
        sentence = words.interests[part, chosen].float()
        to_own = (sentence * text[own]).sum(1, keepdim=True)
        ranks.append((sentence @ titles > to_own + 1e-6).sum(1))
    return torch.cat(ranks)


def means_more(better: Mapping[str, Any] | None) -> bool | None:
    """Whether the sentence named does better than a placebo's, beyond two standard errors; None where nobody knows."""
    if not better or better["better"] is None:
        return None
    return bool(better["better"] - 2 * better["error"] > 0.5)


def who_says(known: Mapping[str, Any]) -> str:
    """Whose words the sentences are, as it stands before "of users like this one"."""
    return {
        "llm": "an LLM says",
        "own": "a function of the trainer's own says",
        "keywords": "keywords, no LLM,",
    }[made_by(known)]


def said_of(better: Mapping[str, Any] | None) -> str | None:
    """The honesty number in words, for the command line, the pages and the card."""
    more = means_more(better)
    if better is None or more is None:
        return None
    share, error = 100 * better["better"], 100 * better["error"]
    whose = {
        "llm": "The LLM's sentences",
        "own": "The sentences (of a function of the trainer's own)",
        "keywords": "The sentences (keywords of titles; no LLM)",
    }[made_by(better)]
    verdict = "mean more than a placebo's" if more else "mean no more than a placebo's, so none of them is a reason"
    return (
        f"{whose} {verdict}: the one named ranks the recommended title above another exemplar's in {share:.1f} % of "
        f"{better['pairs']:,} cases (± {2 * error:.1f}; 50 % is chance). Items are ranked without reading them."
    )
