"""What a language model knows of the items of a catalogue: replies, their placebo, text and relations made of them.

Keyed by item tokens. Replies come from an endpoint, a file, a Batch API file; ``shuffled`` gives every item the
knowledge of another one that is about as popular: the same words and graph, about something else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.config.maker import is_marked, marked
from recbole_eimf.config.parts import part_of
from recbole_eimf.core.errors import DataError, InterestSourceError
from recbole_eimf.core.files import read_jsonl
from recbole_eimf.data.item_text import text_of
from recbole_eimf.semantic import knowledge_export
from recbole_eimf.semantic.journal import journal_of
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.item_reply import ITEM, ItemKnowledge, item_prompt, parse_item
from recbole_eimf.semantic.llm.price import Estimate, estimate_calls
from recbole_eimf.semantic.llm.prompt import PromptRequest, load_template
from recbole_eimf.semantic.llm.reply import Reply, reply_from_text
from recbole_eimf.semantic.needs import check_knowledge_source, check_path, source_of_knowledge
from recbole_eimf.semantic.sources import batch, endpoint

#: items of about one popularity among which the placebo permutes: tenths of the catalogue
BUCKETS = 10


@dataclass(frozen=True)
class Knowledge:
    """What an LLM knows of items.

    Attributes:
        items: token -> what is known, absent where nothing is.
        source: of the replies.
        report: counts for the log and result.json.
        digests: token -> sha256 of the prompt that its reply answers, "" where nobody knows.
    """

    items: Mapping[str, ItemKnowledge]
    source: str
    report: Mapping[str, Any]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Exchange:
    """Among which items the placebo exchanges what is known.

    Attributes:
        popularity: item token -> training interactions, about which the exchange keeps; absent: 0.
        seed: of the exchange.
        era: under ``global_time`` item token -> 0 for items that training knows, more for later ones: none gets words
            about an item of another era. Absent: 0.
    """

    popularity: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    era: Mapping[str, int] = field(default_factory=dict)


class KnowledgeStage:
    """Asks about items, or reads what was asked before.

    Args:
        item_text: item token -> text, of the whole catalogue; settings: keys of the stage; name: of the data set.
    """

    def __init__(self, item_text: Mapping[str, str], settings: SemanticSettings, name: str) -> None:
        self.item_text, self.settings, self.name = item_text, settings, name
        self.read_meta: dict[str, Any] | None = None  # of the export that was read

    @property
    def journal(self) -> Path:
        """Where replies of the endpoint are kept, one line each, the moment they arrive."""
        return journal_of(self.settings.semantic_cache, "knowledge", self.name)

    @property
    def source(self) -> str:
        """Where replies come from; of the placebo, what it shuffles."""
        return source_of_knowledge(self.settings)

    def requests(self) -> Sequence[PromptRequest]:
        """The question about each item, in the order of tokens."""
        return self._requests

    @property
    def template(self) -> str:
        """The prompt, with a place for the item."""
        return load_template(self.settings.knowledge_prompt_file, "knowledge.txt", ITEM)

    @cached_property
    def _requests(self) -> list[PromptRequest]:
        template = self.template
        return [item_prompt(item, self.item_text[item], template) for item in sorted(self.item_text)]

    def llm_settings(self) -> OpenAISettings:
        """The endpoint's settings."""
        return part_of(OpenAISettings, self.settings)

    def estimate(self) -> Estimate:
        """Calls, tokens and price of what the journal does not answer."""
        requests, wanted = self.requests(), self.llm_settings()
        return estimate_calls(requests, wanted, client.answered_users(requests, wanted, self.journal, parse_item))

    def run(self, exchange: Exchange | None = None, agreed: bool = False, again: bool = True) -> Knowledge:
        """What is known of the items.

        Args:
            exchange: of the placebo; agreed: paid calls may be made; again: also for items whose reply stands in the
                journal and is of no use, which a training run leaves alone.

        Raises:
            UserError: a source that cannot deliver, a file that does not fit.
        """
        check_knowledge_source(self.settings, self.name)
        replies = self._replies(agreed, again)
        ok = {item: reply for item, reply in replies.items() if reply.status == "ok" and item in self.item_text}
        if not ok:
            where = f" in {self.settings.knowledge_file}" if self.source == "file" else ""
            raise InterestSourceError(
                f"knowledge_source={self.source}: not one of {len(replies)} replies{where} says anything about an item "
                f"of {self.name}. Is it the file of another data set?"
            )
        items = {item: ItemKnowledge.of_texts(reply.interests) for item, reply in ok.items()}
        asked = {request.user_id: request.sha256 for request in self.requests()}
        digests = {item: reply.prompt_sha256 for item, reply in ok.items()}
        report = {
            "replies": len(replies),
            "items_with_text": len(self.item_text),
            "items_known": len(items),
            "items_with_profile": sum(bool(known.profile) for known in items.values()),
            "items_with_next": sum(bool(known.next) for known in items.values()),
            "next_phrases": sum(len(known.next) for known in items.values()),
            "replies_of_other_items": len(replies.keys() - self.item_text.keys()),
            "failed_replies": dict(Counter(reply.failure for reply in replies.values() if reply.failure)),
            "replies_to_another_prompt": sum(bool(d) and d != asked[item] for item, d in digests.items()),
            "replies_unchecked": sum(not digest for digest in digests.values()),
        }
        source = marked(self.source) if any(is_marked(reply.source) for reply in ok.values()) else self.source
        if self.settings.knowledge_source == "shuffled":
            items, source = shuffled_knowledge(items, exchange or Exchange()), marked(source)
        covered = len(items) / max(len(self.item_text), 1)
        parts = ", ".join(
            f"{report[count]} with {what}"
            for count, what in {"items_with_profile": "a profile", "items_with_next": "what is bought next"}.items()
            if report[count] < len(ok)  # a reply may hold one of the two, and a model may read the other
        )
        getLogger().info(
            f"knowledge of items: {len(items)} of {len(self.item_text)} ({covered:.0%}){f', {parts}' * bool(parts)}, "
            f"source {source}"
        )
        if report["replies_to_another_prompt"]:
            getLogger().warning(
                f"{report['replies_to_another_prompt']} of {len(items)} replies answer another prompt than today's "
                f"(other titles, or another knowledge_prompt_file). They are used."
            )
        return Knowledge(items, source, report, digests)

    def _replies(self, agreed: bool, again: bool) -> dict[str, Reply]:
        s = self.settings
        if self.source == "file":
            path = Path(s.knowledge_file)
            if not path.is_dir():
                return read_knowledge(path, s.max_interests)
            file, self.read_meta = knowledge_export.open_knowledge(path)
            replies = read_knowledge(file, s.max_interests)
            return knowledge_export.of_these_titles(replies, self.read_meta, self.item_text, path)
        if self.source == "batch":
            return batch.answers(self.requests(), self.llm_settings(), Path(s.batch_file), self.journal, parse_item)
        return endpoint.ask(
            self.requests(), self.llm_settings(), self.journal, self.name, agreed, again, "knowledge_source", parse_item
        )


#: columns of a line that are no part of what was said; ``source`` is what the command writes beside it
_NOT_SAID = ("item_id", "response", "prompt_sha256", knowledge_export.TITLE, "source")


def read_knowledge(path: Path, most: int = 20) -> dict[str, Reply]:
    """Read replies about items from JSON lines, optionally .gz: ``item_id`` with a raw ``response``, or with the
    answer's own keys (``kind``, ``profile``, ``next``); ``prompt_sha256`` where it is known, and ``source``, which
    tells a placebo.

    Raises:
        DataError: no file, not JSON lines, a line without an item, an item with two replies; names file and line.
    """
    check_path("knowledge_file", str(path))
    found: dict[str, Reply] = {}
    lines: dict[str, int] = {}
    for line, record in read_jsonl(path, half_last_line=False):
        item = record.get("item_id")
        if not isinstance(item, str) or not item:
            raise DataError(f"{path}, line {line}: item_id is {item!r}; it must be the item's id, as text.")
        said = record.get("response")
        told = {key: value for key, value in record.items() if key not in _NOT_SAID}
        if not isinstance(said, str):
            said = json.dumps(told, ensure_ascii=False)
        if item in found and found[item].response != said:
            raise DataError(f"{path}, line {line}: item {item!r} has another reply in line {lines[item]}. Keep one.")
        lines.setdefault(item, line)
        digest = record.get("prompt_sha256") or ""
        found[item] = reply_from_text(item, str(digest), said, batch.maker_of(record), most, parse_item)
    return found


def shuffled_knowledge(items: Mapping[str, ItemKnowledge], exchange: Exchange) -> dict[str, ItemKnowledge]:
    """Each item's knowledge to another item of its era, of the same tenth of that by popularity; an item that is alone
    in its era gets none."""
    rng = np.random.default_rng(exchange.seed)
    placebo: dict[str, ItemKnowledge] = {}
    for era in sorted({exchange.era.get(item, 0) for item in items}):
        there = (item for item in items if exchange.era.get(item, 0) == era)
        tokens = sorted(there, key=lambda item: (exchange.popularity.get(item, 0), item))
        for part in np.array_split(np.arange(len(tokens)), min(BUCKETS, len(tokens) // 2) or 1):
            order = rng.permutation(part)
            # a cycle: nobody keeps what is its own
            placebo |= {tokens[a]: items[tokens[b]] for a, b in zip(order, np.roll(order, 1)) if a != b}
    return placebo


# ---------------------------------------------------------------------- what models read of it
def item_texts(titles: Mapping[str, str], knowledge: Knowledge | None, source: str) -> dict[str, str]:
    """The text of each item that has a title, as ``item_text_source`` says; a title stands in for what is not known.

    >>> known = Knowledge({"a": ItemKnowledge("stapler. for offices", ("staples",))}, "file", {}, {})
    >>> item_texts({"a": "Swingline 747", "b": "Pen"}, known, "title+profile")
    {'a': 'Swingline 747. stapler. for offices', 'b': 'Pen'}
    """
    if knowledge is None or source == "title":
        return dict(titles)
    texts = {}
    for item, title in titles.items():
        texts[item] = text_of(title, knowledge.items[item].profile if item in knowledge.items else "", source)
    return texts


def next_graph(
    phrases: Sequence[Sequence[int]], phrase_vectors: np.ndarray, items: np.ndarray, vectors: np.ndarray, size: int,
    neighbours: int, fitted: np.ndarray | None = None,
) -> sparse.csr_matrix:  # fmt: skip
    """The directed graph of what is bought next: float32 [size, size], row i what follows item i.

    Each phrase says something of the ``neighbours`` items whose texts are nearest to it, by cosine; an item's phrases
    are added up.

    Args:
        phrases: of each of ``size`` items, rows of ``phrase_vectors`` [p, d].
        items: ids of the items that have text, int [n]; vectors: of these, [n, d].
        fitted: bool [n], those whose mean all vectors are centred on; None: all.
    """
    mean = (vectors if fitted is None else vectors[fitted]).mean(0)
    targets, asked = _unit(vectors - mean), _unit(phrase_vectors - mean)
    keep = min(neighbours, len(items))
    column, value = np.empty((len(asked), keep), dtype=np.int64), np.empty((len(asked), keep), dtype=np.float32)
    for begin in range(0, len(asked), 1024):
        score = asked[begin : begin + 1024] @ targets.T
        nearest = np.argpartition(-score, keep - 1, axis=1)[:, :keep]
        column[begin : begin + 1024] = items[nearest]
        value[begin : begin + 1024] = np.take_along_axis(score, nearest, 1).clip(min=0)
    of_phrase = sparse.csr_matrix(
        (value.ravel(), column.ravel(), np.arange(0, value.size + 1, keep)), shape=(len(asked), size)
    )
    flat = [phrase for each in phrases for phrase in each]
    pointer = np.cumsum([0, *map(len, phrases)])
    says = sparse.csr_matrix((np.ones(len(flat), dtype=np.float32), flat, pointer), shape=(size, len(asked)))
    graph = (says @ of_phrase).tocsr()
    graph.setdiag(0)  # nobody asks for the item itself
    graph.eliminate_zeros()
    return graph.astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
