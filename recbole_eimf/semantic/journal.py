"""The journal of paid replies: one JSON line each, on disk before anything else happens to a reply."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import read_jsonl
from recbole_eimf.core.locks import alone
from recbole_eimf.semantic.llm.access import address_of, shown_url
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import (
    NO_INTERESTS,
    Parser,
    Reply,
    ReplyError,
    completion_usage,
    parse_interests,
    reply_from_text,
)
from recbole_eimf.semantic.trial import NO_ANSWER

logger = logging.getLogger(__name__)

# Real replies have some hundred bytes; what a run-away model or a broken gateway sends must not fill the disk.
MOST_BYTES = 256 * 1024
_TEXT_OR_NONE = (str, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "user_id": (str,),
    "prompt_sha256": (str,),
    "model": (str,),
    "status": (str,),
    "response": _TEXT_OR_NONE,
    "usage": (dict, type(None)),
}
#: keys that decide a reply beside prompt and model -> where a record has their value; earlier versions wrote fewer
_DECIDING = {
    "llm_base_url": "base_url",
    "llm_temperature": "temperature",
    "llm_max_tokens": "max_tokens",
    "llm_structured": "structured",
}


@dataclass
class Past:
    """The journal's records of one prompt to one model."""

    ok: dict | None = None
    failed: dict | None = None
    usage: dict[str, int] | None = None

    def pay(self, usage: Mapping[str, int] | None) -> None:
        if usage:
            self.usage = {key: (self.usage or {}).get(key, 0) + count for key, count in usage.items()}


def journal_of(semantic_cache: str | Path, asked: Literal["replies", "knowledge"], dataset: str) -> Path:
    """Where an endpoint's replies about a data set's users ("replies") or items ("knowledge") are kept."""
    return Path(semantic_cache) / f"{asked}-{dataset}.jsonl"


def cut(response: str | None) -> tuple[str | None, dict[str, int]]:
    """Return a response that fits the journal, and what its record says in addition if it had to be cut."""
    content = (response or "").encode()
    if len(content) <= MOST_BYTES:
        return response, {}
    return content[:MOST_BYTES].decode("utf-8", "ignore"), {"response_bytes": len(content)}


def record_of(
    reply: Reply, model: str, usage: Mapping[str, int] | None, finish_reason: str | None, **more: Any
) -> dict[str, Any]:
    """A line of the journal.

    Args:
        usage: of this call alone (the sum over a prompt's records is what it cost); more: what is known beside, of the
            settings that it was asked with (:func:`asked_with`) and of what was cut.
    """
    return {
        "user_id": reply.user_id,
        "prompt_sha256": reply.prompt_sha256,
        "model": model,
        "status": reply.status,
        "response": reply.response,
        "interests": list(reply.interests),
        "error": reply.error,
        "failure": reply.failure,
        "usage": usage,
        "finish_reason": finish_reason,
        **more,
    }


def read_journal(journal: Path, model: str) -> dict[tuple[str, str], Past]:
    """Read the journal by (user, prompt digest), leaving out other models' records.

    Raises DataError naming file, line and key for a record that is none of ours.
    """
    past: dict[tuple[str, str], Past] = {}
    if not Path(journal).exists():
        return past
    for line, record in read_jsonl(journal):
        missing = _TYPES.keys() - record.keys()
        if missing:
            raise DataError(
                f"{journal}, line {line}: a journal record without {', '.join(sorted(missing))}. Remove it."
            )
        for key, types in _TYPES.items():
            if not isinstance(record[key], types):
                raise DataError(f"{journal}, line {line}: {key} is {type(record[key]).__name__}. Remove the line.")
        if record["model"] == model:
            entry = past.setdefault((record["user_id"], record["prompt_sha256"]), Past())
            entry.pay(completion_usage(record))
            if record["status"] == "ok":
                entry.ok = record
            elif entry.failed is None or _answered(record):  # no answer to a second call unsays none that came
                entry.failed = record
    return past


def _answered(record: Mapping[str, Any]) -> bool:
    """Whether a call had an answer, be it one without text: a refusal, or thoughts up to the token limit."""
    if "failure" in record:
        return record["failure"] != NO_ANSWER
    return any(record.get(key) is not None for key in ("response", "usage", "finish_reason"))  # of earlier versions


def kept(
    requests: Sequence[PromptRequest],
    max_interests: int,
    past: Mapping[tuple[str, str], Past],
    parse: Parser = parse_interests,
) -> dict[str, Reply]:
    """What the journal knows of each request, by user id: the reply of use, else the last one that is of none."""
    replies = reusable(requests, max_interests, past, parse)
    for request in requests:
        entry = past.get((request.user_id, request.sha256))
        if request.user_id in replies or entry is None:
            continue
        record = entry.failed or entry.ok
        said = reply_from_text(
            request.user_id, request.sha256, record["response"] or "", "openai", max_interests, parse
        )
        failure = record.get("failure")
        if not isinstance(failure, str):
            unread = "no content" if _answered(record) else NO_ANSWER
            failure = (said.failure or "malformed") if record["response"] else unread
        error = record.get("error") if isinstance(record.get("error"), str) else said.error
        replies[request.user_id] = replace(
            said, response=record["response"], interests=(), status="failed", error=error, usage=entry.usage,
            failure=failure,
        )  # fmt: skip
    return replies


def of_use(known: Mapping[str, Reply]) -> dict[str, Reply]:
    """Of what a journal holds (:func:`kept`), the replies of use."""
    return {user: reply for user, reply in known.items() if reply.status == "ok"}


def useless(known: Mapping[str, Reply]) -> dict[str, Reply]:
    """The replies of no use; not calls that had no reply at all."""
    return {user: reply for user, reply in known.items() if reply.status == "failed" and reply.failure != NO_ANSWER}


def reusable(
    requests: Sequence[PromptRequest],
    max_interests: int,
    past: Mapping[tuple[str, str], Past],
    parse: Parser = parse_interests,
) -> dict[str, Reply]:
    """Return a Reply for each request that the journal answers, by user id."""
    replies = {}
    for request in requests:
        entry = past.get((request.user_id, request.sha256))
        interests = _interests(entry.ok, max_interests, parse) if entry is not None and entry.ok is not None else []
        if interests:
            replies[request.user_id] = Reply(
                request.user_id,
                request.sha256,
                entry.ok["response"],
                tuple(interests),
                "ok",
                None,
                entry.usage,
                "openai",
            )
    return replies


def asked_with(settings: OpenAISettings) -> dict[str, Any]:
    """What a record says of the settings that its reply was asked with."""
    return {
        "base_url": shown_url(address_of(settings.base_url)),
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "structured": settings.structured,
    }


def without_temperature(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a reply of a model that refused a temperature: it had its own, whatever the settings say."""
    return {**asked, "temperature": None, "temperature_refused": True}


def made_otherwise(records: Iterable[Mapping[str, Any]], settings: OpenAISettings) -> list[str]:
    """What differs between today's settings and those that records were made with: a phrase for each key and value.

    Records of earlier versions, which do not say what they were made with, differ in nothing; nor do those of a model
    that refused a temperature, in theirs.
    """
    today = asked_with(settings)
    others = Counter(
        (key, str(record[name]))
        for record in records
        for key, name in _DECIDING.items()
        if name in record and record[name] != today[name] and not record.get(f"{name}_refused")
    )
    return [
        f"{count} with {key}={value} (now {today[_DECIDING[key]]})" for (key, value), count in sorted(others.items())
    ]


def _interests(record: Mapping[str, Any], max_interests: int, parse: Parser) -> list[str]:
    """The interests of a record, parsed anew because max_interests may have changed since.

    None of a reply that passed for interests when it was journalled and is known for a refusal today.
    """
    stored = record.get("interests")
    stored = [text for text in stored if isinstance(text, str)] if isinstance(stored, list) else []
    if "response_bytes" in record:
        return stored[:max_interests]
    try:
        truncated = record.get("finish_reason") == "length"
        return parse(record["response"] or "", max_interests, truncated=truncated)
    except ReplyError as error:
        return [] if error.kind in NO_INTERESTS else stored[:max_interests]


@contextlib.contextmanager
def exclusive(journal: Path) -> Iterator[None]:
    """Hold the journal for one process, so that two runs that start together do not both pay; released by any death."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "ab"):  # what cannot be written must be known before a call is paid for
        pass

    def say(holder: str) -> None:
        logger.warning("%s: another run (process %s) is filling this journal; waiting for it.", journal, holder)

    with alone(journal.with_name(f"{journal.name}.lock"), say):
        yield
