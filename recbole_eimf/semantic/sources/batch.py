"""Replies made elsewhere: side-loaded reply files and the files of OpenAI's Batch API (EIMF eq. 3)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_eimf.core.errors import DataError, InterestSourceError
from recbole_eimf.core.files import atomic_path, read_jsonl
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import (
    Parser,
    Reply,
    ReplyError,
    completion_interests,
    completion_text,
    completion_usage,
    parse_interests,
    reply_from_text,
)
from recbole_eimf.semantic.trial import counted

logger = logging.getLogger(__name__)

# OpenAI's limits for one batch file
BATCH_REQUESTS, BATCH_BYTES = 50_000, 200_000_000


def fetch_file(requests: Sequence[PromptRequest] | None, path: Path, max_interests: int = 20) -> dict[str, Reply]:
    """Read replies from JSON lines ``{user_id, response, prompt_sha256?}``, by user id.

    With ``requests``, other users are left out; a requested user without a line is absent from the result (the caller
    reports coverage). A reply to another prompt than the requested one is used, and counted in a warning: histories
    cut differently still speak of the same user. A reply that cannot be parsed is failed.

    Raises DataError naming file and line: not JSON, a missing or mistyped key, one user with two responses.
    """
    wanted = None if requests is None else {request.user_id: request.sha256 for request in requests}
    found: dict[str, tuple[int, str, str]] = {}
    for line, record in _read(path):
        user, response = _text(record, "user_id", path, line), _text(record, "response", path, line)
        digest = record.get("prompt_sha256") or ""
        if not isinstance(digest, str):
            raise DataError(f"{path}, line {line}: prompt_sha256 is {type(digest).__name__}, not a string.")
        if user in found and found[user][1] != response:
            raise DataError(
                f"{path}, line {line}: user {user} has another response in line {found[user][0]}. Keep one of them."
            )
        found.setdefault(user, (line, response, digest))
    users = list(found) if wanted is None else [user for user in wanted if user in found]
    other = sum(bool(wanted and found[user][2] and found[user][2] != wanted[user]) for user in users)
    if other:
        logger.warning("%s: %d of %d replies answer another prompt than today's.", path, other, len(users))
    replies = {user: reply_from_text(user, found[user][2], found[user][1], "file", max_interests) for user in users}
    _report(path, replies, None if wanted is None else len(wanted))
    return replies


def write_batch(requests: Sequence[PromptRequest], settings: OpenAISettings, path: Path) -> None:
    """Write the requests as an input file for OpenAI's Batch API, atomically; ``read_batch`` reads what comes back.

    A batch cannot find out what the endpoint knows, so ``structured: auto`` asks for JSON where the prompt says JSON,
    as OpenAI demands. Raises InterestSourceError if there is nothing to ask or the file would exceed the API's limits.
    """
    lines = [
        json.dumps(
            {
                "custom_id": custom_id,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": _batch_body(request, settings),
            },
            ensure_ascii=False,
        ).encode()
        for custom_id, request in zip(_custom_ids(requests), requests, strict=True)
    ]
    size = sum(map(len, lines)) + len(lines)
    if not lines:
        raise InterestSourceError(f"{path}: no request to write; every user has its reply.")
    if len(lines) > BATCH_REQUESTS or size > BATCH_BYTES:
        raise InterestSourceError(
            f"{path}: {len(lines):,} requests of {size / 1e6:.0f} MB; a batch file takes {BATCH_REQUESTS:,} requests "
            f"and {BATCH_BYTES / 1e6:.0f} MB. Ask about fewer exemplars (exemplar_ratio)."
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"\n".join(lines) + b"\n")


def read_batch(
    requests: Sequence[PromptRequest], path: Path, max_interests: int = 20, parse: Parser = parse_interests
) -> dict[str, Reply]:
    """Read a Batch API output file (or output and error file in one) into Replies, by user id.

    Lines may come in any order. A request that failed in the batch is failed with the API's reason, unless another
    line answers it; one without any line is absent. Lines that answer none of ``requests`` (another user, or a prompt
    that has changed since) are left out and counted in a warning.

    Raises DataError naming file and line: not JSON, or no line of a batch output.
    """
    by_id = {_earlier_id(request): request for request in requests}
    by_id |= dict(zip(_custom_ids(requests), requests, strict=True))
    replies: dict[str, Reply] = {}
    foreign = 0
    for line, record in _read(path):
        request = by_id.get(_text(record, "custom_id", path, line))
        if "response" not in record and "error" not in record:
            raise DataError(f"{path}, line {line}: neither response nor error: not an output file of the Batch API.")
        if request is None:
            foreign += 1
        elif request.user_id not in replies or replies[request.user_id].status == "failed":
            replies[request.user_id] = _batch_reply(request, record, max_interests, parse)
    if foreign:
        logger.warning("%s: %d lines answer no prompt of this run.", path, foreign)
    _report(path, replies, len(requests))
    return replies


def _custom_ids(requests: Sequence[PromptRequest]) -> list[str]:
    """What a batch calls each request: the prompt's digest and, of equal prompts, their number.

    The digest, because an output file does not repeat the prompt, and must not be taken for an answer to another one.
    Nothing of the user: the file is uploaded.
    """
    times: Counter[str] = Counter()
    ids = []
    for request in requests:
        digest = request.sha256[:32]
        ids.append(f"{digest}-{times[digest]}")
        times[digest] += 1
    return ids


def _earlier_id(request: PromptRequest) -> str:
    """What batches of versions before 0.2 called a request: their answers still load."""
    return f"{request.sha256[:16]}-{request.user_id}"


def _batch_body(request: PromptRequest, settings: OpenAISettings) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": "user", "content": request.prompt}],
        # the name that all of OpenAI's models take
        "max_completion_tokens": settings.max_tokens,
    }
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.structured == "on" or (settings.structured == "auto" and "json" in request.prompt.lower()):
        body["response_format"] = {"type": "json_object"}
    return body


def _batch_reply(request: PromptRequest, record: Mapping[str, Any], max_interests: int, parse: Parser) -> Reply:
    response = record.get("response") or {}
    body = response.get("body") if isinstance(response, Mapping) else None
    body = body if isinstance(body, Mapping) else {}
    interests: tuple[str, ...] = ()
    error, failure = record.get("error") or body.get("error"), None
    if error:
        failure = "no answer"
        error = f"The batch failed for this prompt: {error.get('message') if isinstance(error, Mapping) else error}"
    else:
        try:
            interests, error = tuple(completion_interests(body, max_interests, parse)), None
        except ReplyError as problem:
            error, failure = str(problem), problem.kind
    return Reply(
        request.user_id,
        request.sha256,
        completion_text(body),
        interests,
        "failed" if error else "ok",
        error,
        completion_usage(body),
        "batch",
        failure,
    )


def _read(path: Path) -> list[tuple[int, dict]]:
    """Read all lines; unlike in a journal of ours, half a last line is a broken file."""
    if not Path(path).exists():
        raise DataError(f"{path}: no such file of replies.")
    return list(read_jsonl(path, half_last_line=False))


def _text(record: Mapping[str, Any], key: str, path: Path, line: int) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        problem = "is missing" if key not in record else f"is {type(value).__name__}, not a string"
        raise DataError(f"{path}, line {line}: {key} {problem}.")
    return value


def _report(path: Path, replies: Mapping[str, Reply], wanted: int | None) -> None:
    failed = [reply for reply in replies.values() if reply.status == "failed"]
    of = "" if wanted is None else f" for {wanted} users"
    kinds = counted(Counter(reply.failure for reply in failed))
    logger.info(
        "%s: %d replies%s, %d of them without interests%s",
        path,
        len(replies),
        of,
        len(failed),
        f" ({kinds})" if kinds else "",
    )
    if failed:
        logger.warning("%s: user %s, for one: %s", path, failed[0].user_id, failed[0].error)
