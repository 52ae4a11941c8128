"""Replies made elsewhere: side-loaded reply files and the files of OpenAI's Batch API (EIMF eq. 3)."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_eimf.config.maker import is_marked, is_own, marked, unmarked
from recbole_eimf.core.disk import writing
from recbole_eimf.core.errors import DataError, DiskError, InterestSourceError
from recbole_eimf.core.files import append_jsonl, atomic_path, read_jsonl
from recbole_eimf.semantic.journal import cut, exclusive, read_journal, record_of, reusable
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import (
    Parser,
    Reply,
    ReplyError,
    completion_finish,
    completion_interests,
    completion_text,
    completion_usage,
    parse_interests,
    reply_from_text,
)
from recbole_eimf.semantic.trial import name_failures

logger = logging.getLogger(__name__)

# OpenAI's limits for one batch file
BATCH_REQUESTS, BATCH_BYTES = 50_000, 200_000_000


def fetch_file(requests: Sequence[PromptRequest] | None, path: Path, max_interests: int = 20) -> dict[str, Reply]:
    """Read replies from JSON lines ``{user_id, response, prompt_sha256?, raw?}``, by user id.

    A line that says it was not an LLM's, or a placebo's (``source``, as ``interests`` writes it), keeps saying so.

    With ``requests``, other users are left out; a requested user without a line is absent from the result (the caller
    reports coverage). A reply to another prompt than the requested one is used, and counted in a warning: histories
    cut differently still speak of the same user. A reply that cannot be parsed is failed.

    Raises DataError naming file and line: not JSON, a missing or mistyped key, one user with two responses.
    """
    wanted = None if requests is None else {request.user_id: request.sha256 for request in requests}
    found: dict[str, tuple[int, str, str]] = {}
    makers: dict[str, str] = {}
    raw: dict[str, str] = {}
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
        makers.setdefault(user, maker_of(record))
        if isinstance(record.get("raw"), str):
            raw.setdefault(user, record["raw"])
    users = list(found) if wanted is None else [user for user in wanted if user in found]
    other = sum(bool(wanted and found[user][2] and found[user][2] != wanted[user]) for user in users)
    if other:
        logger.warning("%s: %d of %d replies answer another prompt than today's.", path, other, len(users))
    replies = {
        user: replace(
            reply_from_text(user, found[user][2], found[user][1], makers[user], max_interests), raw=raw.get(user)
        )
        for user in users
    }
    _report(path, replies, None if wanted is None else len(wanted))
    return replies


def write_batch(
    requests: Sequence[PromptRequest], settings: OpenAISettings, path: Path, done: Collection[str] = ()
) -> list[Path]:
    """Write the requests as input files for OpenAI's Batch API, each atomically; ``answers`` reads what comes back.

    One file where the API's limits allow it, ``path`` itself; else ``NAME-1.jsonl``, ``NAME-2.jsonl``, ... Files that
    an earlier call of the same name left are removed: whoever uploads all of them would pay twice.

    A batch cannot find out what the endpoint knows, so ``structured: auto`` asks for JSON where the prompt says JSON,
    as OpenAI demands.

    Args:
        requests: all of them, those of ``done`` too: equal prompts are told apart by their number among all.
        path: where to; done: users who need not be asked.

    Returns:
        The files, in order.

    Raises:
        InterestSourceError: there is nothing to ask, or one request is longer than a file may be.
    """
    asked = [pair for pair in zip(_custom_ids(requests), requests, strict=True) if pair[1].user_id not in done]
    if not asked:
        raise InterestSourceError(f"{path}: no request to write; every user has its reply.")
    ends = _ends((len(_batch_line(*pair, settings)) for pair in asked), path)
    names = [path] if len(ends) == 1 else [path.with_stem(f"{path.stem}-{n}") for n in range(1, len(ends) + 1)]
    remove_batch(path, names)
    for name, begin, end in zip(names, [0, *ends], ends):
        with atomic_path(name) as temporary, open(temporary, "wb") as stream:
            stream.writelines(_batch_line(*pair, settings) for pair in asked[begin:end])
    return names


def remove_batch(path: Path, but: Collection[Path] = ()) -> None:
    """Remove the files that ``write_batch`` wrote under this name, those of ``but`` apart."""
    numbered = re.compile(rf"{re.escape(path.stem)}(-\d+)?{re.escape(path.suffix)}")
    with writing(path):
        for old in path.parent.iterdir() if path.parent.is_dir() else ():
            if numbered.fullmatch(old.name) and old not in but:
                old.unlink()


def _ends(sizes: Iterable[int], path: Path) -> list[int]:
    """Where to cut lines of these sizes so that each part is within the API's limits: each part's end."""
    ends, begin, total, count = [], 0, 0, 0
    for count, size in enumerate(sizes, start=1):
        if size > BATCH_BYTES:
            raise InterestSourceError(
                f"{path}: one request has {size / 1e6:.0f} MB; a batch file takes {BATCH_BYTES / 1e6:.0f} MB. Ask with "
                f"shorter prompts (prompt_items)."
            )
        if count - 1 - begin == BATCH_REQUESTS or total + size > BATCH_BYTES:
            begin, total = count - 1, 0
            ends.append(begin)
        total += size
    return [*ends, count]


def answers(
    requests: Sequence[PromptRequest],
    settings: OpenAISettings,
    path: Path,
    journal: Path,
    parse: Parser = parse_interests,
) -> dict[str, Reply]:
    """What batches have answered and, where that is nothing of use, the endpoint's journal: of what stands there
    ``write_batch`` had nothing to ask. By user id.

    Lines and files of answers may come in any order. A request that failed in the batch is failed with the API's
    reason, unless another line answers it; one without any line is absent. Lines that answer none of ``requests``
    (another user, or a prompt that has changed since) are left out and counted in a warning. Answers of use are written
    into the journal: they are paid for, and the endpoint need not be asked for them again.

    Args:
        path: an output or error file of the Batch API, or a folder of them; journal: the endpoint's.

    Raises:
        DataError: naming file and line: not JSON, or no line of a batch output.
    """
    found = _answered(requests, path, settings.max_interests, parse)
    _remember(requests, found, settings, path, journal, parse)
    replies = {user: reply for user, (reply, _) in found.items()}
    left = [each for each in requests if each.user_id not in replies or replies[each.user_id].status == "failed"]
    if not left:
        return replies
    past = read_journal(journal, settings.model)
    known = reusable(left, settings.max_interests, past, parse)
    if known:
        logger.info("%s: %d replies that no batch has are taken from it", journal, len(known))
        client.say_made_otherwise([each for each in left if each.user_id in known], settings, journal, past)
    return replies | known


def _remember(
    requests: Sequence[PromptRequest],
    found: Mapping[str, tuple[Reply, Mapping[str, Any]]],
    settings: OpenAISettings,
    path: Path,
    journal: Path,
    parse: Parser,
) -> None:
    """Write a batch's answers of use into the journal, those apart that it has and those of another model.

    With what they were asked nobody can tell, so their records do not say. A journal that cannot be written is no
    reason to stop: nothing is lost that the files of answers do not hold.
    """
    good = [each for each in requests if each.user_id in found and found[each.user_id][0].status == "ok"]
    others = [each for each in good if not _of_model(found[each.user_id][1], settings)]
    ours = [each for each in good if _of_model(found[each.user_id][1], settings)]
    if others:
        other = found[others[0].user_id][1]["model"]
        logger.warning(
            "%s: %d of %d answers are of model %s, not llm_model=%s: they are used, and not written into %s. If that "
            "is the model behind this name (of an Azure deployment, for one), --llm_model_alias=%s has them written "
            "there; if it is another model, --llm_model=%s, for the source openai with that one.",
            path, len(others), len(good), other, settings.model, journal, other, other,
        )  # fmt: skip

    def new() -> list[PromptRequest]:
        past = read_journal(journal, settings.model)
        known = reusable(ours, settings.max_interests, past, parse)
        return [each for each in ours if each.user_id not in known]

    if not new():
        return
    try:
        with exclusive(journal):
            missing = new()
            append_jsonl(journal, (_record(*found[each.user_id], settings.model) for each in missing))
    except (OSError, DiskError) as error:
        logger.warning("%s: answers of the batch are not kept there, so openai would ask again: %s", journal, error)
        return
    logger.info("%s: %d answers of the batch are kept there", journal, len(missing))


def _of_model(body: Mapping[str, Any], settings: OpenAISettings) -> bool:
    """Whether an answer is of the model that was asked, by its name or its alias."""
    said = body.get("model")
    if not isinstance(said, str) or not said:
        return True
    return any(_names(said, name) for name in (settings.model, settings.model_alias) if name)


def _names(said: str, model: str) -> bool:
    """Whether a model is meant, which endpoints name with a date behind it or a provider before it.

    Words behind it make another model: ``gpt-4o-mini`` is not ``gpt-4o``.
    """
    said, wanted = (name.rpartition("/")[2].casefold() for name in (said, model))
    return said.startswith(wanted) and re.fullmatch(r"([-@]\d[\d-]*)?", said[len(wanted) :]) is not None


def _record(reply: Reply, body: Mapping[str, Any], model: str) -> dict[str, Any]:
    response, size = cut(reply.response)
    kept = replace(reply, response=response)
    return record_of(kept, model, reply.usage, completion_finish(body), source=reply.source, **size)


def answer_files(path: Path) -> list[Path]:
    """The files of answers that ``batch_file`` names: itself or, of a folder, its ``.jsonl`` files by name.

    Raises:
        DataError: there is none.
    """
    if path.is_dir():
        found = sorted(each for each in path.glob("*.jsonl") if each.is_file())
        if not found:
            raise DataError(f"batch_file={path}: no .jsonl file in this folder. Put the answers of the batches there.")
        return found
    if not path.is_file():
        raise DataError(f"batch_file={path}: no such file. Mend the path, or leave batch_file out.")
    return [path]


def _answered(
    requests: Sequence[PromptRequest], path: Path, max_interests: int, parse: Parser
) -> dict[str, tuple[Reply, Mapping[str, Any]]]:
    """What batches have answered, each reply with the completion that it stands in."""
    by_id = {_earlier_id(request): request for request in requests}
    by_id |= dict(zip(_custom_ids(requests), requests, strict=True))
    found: dict[str, tuple[Reply, Mapping[str, Any]]] = {}
    foreign = lines = 0
    for file, line, record in _lines(path):
        lines += 1
        request = by_id.get(_text(record, "custom_id", file, line))
        if "response" not in record and "error" not in record:
            raise DataError(f"{file}, line {line}: neither response nor error: not an output file of the Batch API.")
        if request is None:
            foreign += 1
        elif request.user_id not in found or found[request.user_id][0].status == "failed":
            body = _body(record)
            found[request.user_id] = _batch_reply(request, record, body, max_interests, parse), body
    if not lines:
        raise DataError(f"batch_file={path}: no answer in it. Was it copied whole?")
    if foreign:
        logger.warning("%s: %d lines answer no prompt of this run.", path, foreign)
    _report(path, {user: reply for user, (reply, _) in found.items()}, len(requests))
    return found


def _lines(path: Path) -> Iterator[tuple[Path, int, dict]]:
    for file in answer_files(Path(path)):
        for line, record in _read(file):
            yield file, line, record


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


def _batch_line(custom_id: str, request: PromptRequest, settings: OpenAISettings) -> bytes:
    line = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": _batch_body(request, settings),
    }
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


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


def _body(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The completion of a line of answers; empty where there is none."""
    response = record.get("response") or {}
    body = response.get("body") if isinstance(response, Mapping) else None
    return body if isinstance(body, Mapping) else {}


def _batch_reply(
    request: PromptRequest, record: Mapping[str, Any], body: Mapping[str, Any], max_interests: int, parse: Parser
) -> Reply:
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


def maker_of(record: Mapping[str, Any]) -> str:
    """Who made a reply that is read from a file: keywords and a user's own function say so, all else is an LLM's.

    A placebo's stays marked as one, whoever's words it has.
    """
    source = str(record.get("source") or "")
    made = unmarked(source)
    known = made if made == "keywords" or is_own(made) else "file"
    return marked(known) if is_marked(source) else known


def _report(path: Path, replies: Mapping[str, Reply], wanted: int | None) -> None:
    failed = [reply for reply in replies.values() if reply.status == "failed"]
    of = "" if wanted is None else f" for {wanted} users"
    kinds = name_failures(Counter(reply.failure for reply in failed))
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
