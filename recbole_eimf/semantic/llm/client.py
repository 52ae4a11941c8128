"""Asking a language model for interests (EIMF eq. 3) over any OpenAI-compatible endpoint.

Every reply is paid for, so it is on disk (the journal) before anything else happens to it, and a later run asks only
what the journal does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import append_jsonl, read_jsonl
from recbole_eimf.semantic.llm.endpoint import Endpoint, GaveUpError, OpenAISettings, StoppedError, read_key
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import (
    Reply,
    ReplyError,
    completion_finish,
    completion_interests,
    completion_text,
    completion_usage,
    parse_interests,
)

logger = logging.getLogger(__name__)

# After Ctrl-C or a fatal error, replies under way are already paid for: they may still arrive this long.
STOP_GRACE_SECONDS = 10.0
# The 1,124 replies at hand (2 to 7 interests each) average 309 characters, rounded up from 77 tokens.
COMPLETION_TOKENS_PER_CALL = 100


@dataclass(frozen=True)
class Estimate:
    """What a run will take, before the first call; ``cost`` in USD, None without both prices."""

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    def __str__(self) -> str:
        cost = "price not configured" if self.cost is None else f"about ${self.cost:.2f}"
        return (
            f"{self.calls} calls ({self.cached} answered by the journal), about {self.prompt_tokens:,} prompt and "
            f"{self.completion_tokens:,} completion tokens, {cost}"
        )


def estimate(requests: Sequence[PromptRequest], settings: OpenAISettings, done: Collection[str]) -> Estimate:
    """Estimate calls, tokens and cost of the requests whose user is not in ``done`` (see ``answered_users``).

    No tokenizer is asked: a prompt's tokens are its UTF-8 bytes / 4, which is the usual characters / 4 for English and
    closer to the truth for other scripts; a completion is taken as 100 tokens (measured on real replies), or
    ``max_tokens`` if that is less. Retries and unparsable replies asked again are not foreseen.
    """
    asked = [request for request in requests if request.user_id not in done]
    prompt_tokens = sum((len(request.prompt.encode()) + 3) // 4 for request in asked)
    completion_tokens = len(asked) * min(COMPLETION_TOKENS_PER_CALL, settings.max_tokens)
    cost = _cost(settings, prompt_tokens, completion_tokens)
    return Estimate(len(asked), len(requests) - len(asked), prompt_tokens, completion_tokens, cost)


def answered_users(requests: Sequence[PromptRequest], settings: OpenAISettings, journal: Path) -> set[str]:
    """Return the users whose request the journal already answers: same prompt, same model, status ok."""
    return set(_reusable(requests, settings, _read_journal(journal, settings.model)))


def fetch_openai(
    requests: Sequence[PromptRequest], settings: OpenAISettings, journal: Path, *, progress: bool = True
) -> dict[str, Reply]:
    """Return a Reply per request, by user id; only what ``journal`` does not answer is asked (eq. 3).

    At most ``concurrency`` calls are in flight. 408, 409, 425, 429, 5xx, time-outs and lost connections are tried
    again up to ``max_retries`` times, honouring Retry-After; a prompt that still has no answer is a failed reply, as
    are refusals and replies that cannot be parsed even after one complaint to the model. Each reply is appended to the
    journal as it arrives. On Ctrl-C no new call starts, replies under way are kept, and KeyboardInterrupt is raised.

    Raises InterestSourceError, naming endpoint, model and where the key comes from, if the endpoint rejects the key
    (401, 403), the model (404) or the request (other 4xx), is out of credit, answers with something else than chat
    completions, or answers nothing at all. Raises DataError for a broken journal or two prompts for one user.
    """
    requests = _one_per_user(requests)
    journal = Path(journal)
    with _exclusive(journal):
        past = _read_journal(journal, settings.model)
        replies = _reusable(requests, settings, past)
        pending = [request for request in requests if request.user_id not in replies]
        logger.info("Interests from %s: %s", settings.model, estimate(requests, settings, replies))
        if pending:
            run = _Run(pending, settings, journal, past, progress)
            _run_in_thread(run)
            replies.update(run.replies)
            logger.info("Interests from %s: %s", settings.model, run.summary())
    return {request.user_id: replies[request.user_id] for request in requests}


def _cost(settings: OpenAISettings, prompt_tokens: int, completion_tokens: int) -> float | None:
    if settings.price_in is None or settings.price_out is None:
        return None
    return (prompt_tokens * settings.price_in + completion_tokens * settings.price_out) / 1e6


def _one_per_user(requests: Sequence[PromptRequest]) -> list[PromptRequest]:
    by_user: dict[str, PromptRequest] = {}
    for request in requests:
        if by_user.setdefault(request.user_id, request) != request:
            raise DataError(f"user {request.user_id}: two different prompts were asked for. Ask for one per user.")
    return list(by_user.values())


# --- the journal ------------------------------------------------------------------------------------------------------


@dataclass
class _Past:
    """The journal's records of one prompt to one model."""

    ok: dict | None = None
    usage: dict[str, int] | None = None

    def pay(self, usage: Mapping[str, int] | None) -> None:
        if usage:
            self.usage = {key: (self.usage or {}).get(key, 0) + count for key, count in usage.items()}


def _read_journal(journal: Path, model: str) -> dict[tuple[str, str], _Past]:
    """Read the journal by (user, prompt digest), leaving out other models' records."""
    past: dict[tuple[str, str], _Past] = {}
    if not Path(journal).exists():
        return past
    for line, record in read_jsonl(journal):
        missing = {"user_id", "prompt_sha256", "model", "status", "response", "usage"} - record.keys()
        if missing:
            raise DataError(
                f"{journal}, line {line}: a journal record without {', '.join(sorted(missing))}. Remove it."
            )
        if record["model"] == model:
            entry = past.setdefault((record["user_id"], record["prompt_sha256"]), _Past())
            entry.pay(record["usage"])
            if record["status"] == "ok":
                entry.ok = record
    return past


def _reusable(
    requests: Sequence[PromptRequest], settings: OpenAISettings, past: Mapping[tuple[str, str], _Past]
) -> dict[str, Reply]:
    replies = {}
    for request in requests:
        entry = past.get((request.user_id, request.sha256))
        if entry is None or entry.ok is None:
            continue
        # parsed anew, because max_interests may have changed since
        try:
            truncated = entry.ok.get("finish_reason") == "length"
            interests = parse_interests(entry.ok["response"], settings.max_interests, truncated=truncated)
        except ReplyError:
            interests = entry.ok.get("interests", [])[: settings.max_interests]
        replies[request.user_id] = Reply(
            request.user_id, request.sha256, entry.ok["response"], tuple(interests), "ok", None, entry.usage, "openai"
        )
    return replies


@contextlib.contextmanager
def _exclusive(journal: Path) -> Iterator[None]:
    """Hold the journal for one process, so that two runs that start together do not both pay; released by any death."""
    try:
        import fcntl
    except ImportError:  # Windows: a journal is for one run at a time there
        yield
        return
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            logger.warning("%s: another run is filling this journal; waiting for it.", journal)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


# --- the calls --------------------------------------------------------------------------------------------------------


class _Run:
    """All calls of one fetch_openai, in one event loop."""

    def __init__(
        self,
        pending: Sequence[PromptRequest],
        settings: OpenAISettings,
        journal: Path,
        past: dict[tuple[str, str], _Past],
        progress: bool,
    ):
        self.settings, self.key, self.journal, self.past = settings, read_key(settings), journal, past
        self.endpoint = Endpoint(settings, self.key)
        self.total, self.queue = len(pending), iter(pending)
        self.replies: dict[str, Reply] = {}
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}
        self.given_up_in_a_row = 0
        self.loop = asyncio.new_event_loop()
        self.stopping = self.endpoint.stopping
        self.records: asyncio.Queue[dict | None] = asyncio.Queue()
        self.workers: list[asyncio.Task] = []
        self.bar = tqdm(total=self.total, unit="prompt", desc="interests", disable=not progress, dynamic_ncols=True)

    async def main(self) -> None:
        writer = asyncio.create_task(self._write_journal())
        count = min(self.settings.concurrency, self.total)
        self.workers = [asyncio.create_task(self._work(first=n == 0)) for n in range(count)]
        try:
            await self._watch(writer)
        finally:
            self.abort()
            await asyncio.gather(*self.workers, return_exceptions=True)
            self.records.put_nowait(None)
            await writer
            await self.endpoint.close()
            self.bar.close()
        for worker in self.workers:
            if not worker.cancelled() and worker.exception():
                raise worker.exception()

    async def _watch(self, writer: asyncio.Task) -> None:
        """Wait for the workers; after a stop or the first exception only for what is in flight, and not for long."""
        stop = asyncio.create_task(self.stopping.wait())
        running = set(self.workers)
        while running and not self.stopping.is_set():
            done, _ = await asyncio.wait({*running, stop, writer}, return_when=asyncio.FIRST_COMPLETED)
            running -= done
            if any(not task.cancelled() and task.exception() for task in done):
                self.stopping.set()
        if running:
            await asyncio.wait(running, timeout=STOP_GRACE_SECONDS)
        stop.cancel()

    def abort(self) -> None:
        """Drop what is in flight."""
        for worker in self.workers:
            worker.cancel()

    def summary(self) -> str:
        failed = sum(reply.status == "failed" for reply in self.replies.values())
        cost = _cost(self.settings, **self.tokens)
        return (
            f"{len(self.replies) - failed} ok, {failed} failed, {self.tokens['prompt_tokens']:,} prompt and "
            f"{self.tokens['completion_tokens']:,} completion tokens" + ("" if cost is None else f", ${cost:.2f}")
        )

    async def _write_journal(self) -> None:
        """Append records as they come; what arrives during one fsync shares the next, so the disk slows no call."""
        while True:
            records = [await self.records.get()]
            while not self.records.empty():
                records.append(self.records.get_nowait())
            whole = [record for record in records if record is not None]
            if whole:
                await asyncio.get_running_loop().run_in_executor(None, append_jsonl, self.journal, whole)
            if None in records:
                return

    async def _work(self, first: bool) -> None:
        # the first call goes alone: a wrong key or an unknown parameter is met once, not by every worker
        try:
            if not first:
                await self.endpoint.settled.wait()
            for request in self.queue:
                if self.stopping.is_set():
                    return
                await self._answer(request)
        except StoppedError:
            return
        finally:
            self.endpoint.settled.set()

    async def _answer(self, request: PromptRequest) -> None:
        """Ask one prompt, and once more with the parser's complaint if the reply holds no interests."""
        messages = [{"role": "user", "content": request.prompt}]
        for last in (False, True):
            try:
                completion = await self.endpoint.complete(messages)
            except GaveUpError as error:
                self._record(request, None, [], str(error))
                self._count_given_up(error)
                break
            self.given_up_in_a_row = 0
            try:
                self._record(request, completion, completion_interests(completion, self.settings.max_interests), None)
                break
            except ReplyError as error:
                self._record(request, completion, [], str(error))
                if last or error.final or self.stopping.is_set():
                    break
                messages = _with_complaint(request.prompt, self._text(completion), str(error))
        self.bar.update()

    def _record(
        self, request: PromptRequest, completion: Mapping[str, Any] | None, interests: list[str], error: str | None
    ) -> None:
        response, usage, finish_reason = None, None, None
        if completion is not None:
            response, usage = self._text(completion), completion_usage(completion)
            finish_reason = completion_finish(completion)
        entry = self.past.setdefault((request.user_id, request.sha256), _Past())
        entry.pay(usage)
        reply = Reply(
            request.user_id,
            request.sha256,
            response,
            tuple(map(self.key.scrub, interests)),
            "failed" if error else "ok",
            error and self.key.scrub(error),
            entry.usage,
            "openai",
        )
        self.replies[request.user_id] = reply
        self.records.put_nowait(
            {
                "user_id": reply.user_id,
                "prompt_sha256": reply.prompt_sha256,
                "model": self.settings.model,
                "base_url": self.endpoint.base_url,
                "status": reply.status,
                "response": reply.response,
                "interests": list(reply.interests),
                "error": reply.error,
                "usage": usage,  # this call's alone: the sum over a prompt's records is what it cost
                "finish_reason": finish_reason,
            }
        )
        for name, count in (usage or {}).items():
            self.tokens[name] += count
        self.bar.set_postfix_str(f"{sum(self.tokens.values()):,} tokens", refresh=False)

    def _text(self, completion: Mapping[str, Any]) -> str | None:
        text = completion_text(completion)
        return text if text is None else self.key.scrub(text)

    def _count_given_up(self, error: GaveUpError) -> None:
        """Stop the run if the endpoint is plainly down, instead of backing off for every prompt there is."""
        if not error.endpoint_down:
            return
        self.given_up_in_a_row += 1
        if self.given_up_in_a_row == min(max(3, self.settings.concurrency), self.total):
            self.stopping.set()
            raise self.endpoint.error(
                f"{self.given_up_in_a_row} prompts in a row got no answer: {error}",
                "Check the network and the endpoint, then run again: what has arrived is kept.",
            )


def _run_in_thread(run: _Run) -> None:
    """Run the event loop in a thread: Ctrl-C then reaches us between calls, and a notebook's own loop does not mind."""
    outcome: Future[None] = Future()

    def work() -> None:
        try:
            outcome.set_result(run.loop.run_until_complete(run.main()))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            run.loop.run_until_complete(run.loop.shutdown_default_executor())
            run.loop.close()

    thread = threading.Thread(target=work, name="interests", daemon=True)
    thread.start()
    try:
        _wait(outcome)
    except KeyboardInterrupt:
        try:
            logger.warning("Stopping: keeping the replies under way (Ctrl-C again drops them).")
            _tell(run, run.stopping.set)
            _wait(outcome)
        except KeyboardInterrupt:
            _tell(run, run.abort)
            _wait(outcome)
        raise
    finally:
        thread.join(timeout=5)


def _wait(outcome: Future) -> None:
    while True:
        try:
            return outcome.result(timeout=1)  # in slices: a wait without end cannot be interrupted on Windows
        except FutureTimeoutError:
            if outcome.done():
                raise


def _tell(run: _Run, what: Callable[[], Any]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has just ended by itself
        run.loop.call_soon_threadsafe(what)


def _with_complaint(prompt: str, response: str | None, complaint: str) -> list[dict]:
    if not response:  # endpoints reject an empty turn of the assistant
        return [{"role": "user", "content": f"{prompt}\n\n{complaint}"}]
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": response},
        {"role": "user", "content": complaint},
    ]
