"""Asking a language model for interests (EIMF eq. 3) over any OpenAI-compatible endpoint.

Every reply is paid for, so it is on disk (the journal) before anything else happens to it, and a later run asks only
what the journal does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_eimf.core.bars import bar
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import append_jsonl, encodable
from recbole_eimf.semantic.journal import (
    Past,
    asked_with,
    cut,
    exclusive,
    kept,
    made_otherwise,
    of_use,
    read_journal,
    record_of,
    reusable,
    useless,
)
from recbole_eimf.semantic.llm.endpoint import Completion, Endpoint, GaveUpError, OpenAISettings, StoppedError, read_key
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
)
from recbole_eimf.semantic.trial import NO_ANSWER, Trial, ask_terminal, name_failures

logger = logging.getLogger(__name__)

# After Ctrl-C or a fatal error, replies under way are already paid for: they may still arrive this long.
STOP_GRACE_SECONDS = 10.0
# The 1,124 replies at hand (2 to 7 interests each) average 309 characters, rounded up from 77 tokens; the 2,420 about
# items (knowledge) 302.
COMPLETION_TOKENS_PER_CALL = 100
# Characters of a bad reply that go back to the model with the complaint: they are paid for a second time.
MOST_COMPLAINED_OF = 4000
#: calls for one prompt at most: a reply that cannot be read is asked for once more
MOST_CALLS = 2
# What a complaint takes beside the reply that it is about.
COMPLAINT_TOKENS = 40


def _dollars(cost: float) -> str:
    """A price as one reads it; a small one is not nothing.

    >>> _dollars(1.234), _dollars(0.002), _dollars(0.0)
    ('about $1.23', 'less than $0.01', 'nothing')
    """
    return "nothing" if cost == 0 else "less than $0.01" if cost < 0.005 else f"about ${cost:.2f}"


@dataclass(frozen=True)
class Estimate:
    """What a run will take, before the first call; ``cost`` in USD, None without both prices. ``most_calls``,
    ``most_cost``: where every reply has to be asked for once more."""

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    most_calls: int
    most_cost: float | None

    def __str__(self) -> str:
        cost = "price unknown (set llm_price_in and llm_price_out)" if self.cost is None else _dollars(self.cost)
        said = (
            f"{self.calls} calls ({self.cached} answered by the journal), about {self.prompt_tokens:,} prompt and "
            f"{self.completion_tokens:,} completion tokens, {cost}"
        )
        if self.most_calls == self.calls:
            return said
        most = "" if self.most_cost is None else f" and {_dollars(self.most_cost)}"
        return f"{said}; up to {self.most_calls} calls{most} where replies cannot be read and are asked for once more"


def estimate(
    requests: Sequence[PromptRequest], settings: OpenAISettings, done: Collection[str], most: int = MOST_CALLS
) -> Estimate:
    """Estimate calls, tokens and cost of the requests whose user is not in ``done`` (see ``answered_users``).

    No tokenizer is asked: a prompt's tokens are its UTF-8 bytes / 4, which is the usual characters / 4 for English and
    closer to the truth for other scripts; a completion is taken as 100 tokens (measured on real replies), or
    ``max_tokens`` if that is less. ``most``: calls for one prompt at most, which the estimate names beside the one that
    is expected (1 where nothing is asked again, as in a batch); the prompt and the reply are then sent with a
    complaint. Retries of calls that got no answer are not foreseen.
    """
    asked = [request for request in requests if request.user_id not in done]
    prompt_tokens = sum((len(request.prompt.encode()) + 3) // 4 for request in asked)
    completion_tokens = len(asked) * min(COMPLETION_TOKENS_PER_CALL, settings.max_tokens)
    cost = _cost(settings, prompt_tokens, completion_tokens)
    again = (most - 1) * (prompt_tokens + completion_tokens + COMPLAINT_TOKENS * len(asked))
    most_cost = _cost(settings, prompt_tokens + again, most * completion_tokens)
    return Estimate(
        len(asked), len(requests) - len(asked), prompt_tokens, completion_tokens, cost, most * len(asked), most_cost
    )


def answered_users(
    requests: Sequence[PromptRequest], settings: OpenAISettings, journal: Path, parse: Parser = parse_interests
) -> set[str]:
    """Return the users whose request the journal already answers: same prompt, same model, status ok.

    Other settings of a reply (temperature, ...) do not count; :func:`fetch_openai` says where they were others.
    """
    return set(reusable(requests, settings.max_interests, read_journal(journal, settings.model), parse))


def fetch_openai(
    requests: Sequence[PromptRequest],
    settings: OpenAISettings,
    journal: Path,
    *,
    progress: bool = True,
    parse: Parser = parse_interests,
    ask: Callable[[str], bool | None] = ask_terminal,
    what: str = "interests",
    again: bool = True,
) -> dict[str, Reply]:
    """Return a Reply per request, by user id; only what ``journal`` does not answer is asked (eq. 3).

    At most ``concurrency`` calls are in flight. 408, 409, 425, 429, 5xx, time-outs and lost connections are tried
    again up to ``max_retries`` times, honouring Retry-After; a prompt that still has no answer is a failed reply, as
    are refusals and replies that cannot be parsed even after one complaint to the model. Each reply is in the journal
    before the same worker makes another call, so a kill loses at most the ``concurrency`` calls in flight. On Ctrl-C no
    new call starts, replies under way are kept, and KeyboardInterrupt is raised.

    ``parse`` reads a reply's text; :func:`~recbole_eimf.semantic.llm.item_reply.parse_item` where prompts ask about
    items, whose token is then the ``user_id``; ``what`` is asked for, as the progress bar says.

    If the journal answers nothing and not one of the first ``check_first`` replies holds an interest, ``ask`` is asked
    whether to go on; it returns None if nobody is there. Without ``again`` a reply of no use that stands in the journal
    is not asked for once more, even where another process has just written it.

    Raises InterestSourceError, naming endpoint, model and where the key comes from, if the endpoint rejects the key
    (401, 403), the model (404) or the request (other 4xx), is out of credit, answers with something else than chat
    completions, answers nothing at all, or sends nothing of use and nobody wants to go on. Raises DataError for a
    broken journal or two prompts for one user.
    """
    requests = _one_per_user(requests)
    journal = Path(journal)
    with exclusive(journal):
        past = read_journal(journal, settings.model)
        known = kept(requests, settings.max_interests, past, parse)
        replies, settled = of_use(known), {} if again else useless(known)
        asked = [request for request in requests if request.user_id not in settled]
        say_reused(asked, settings, journal, past, replies)
        replies |= settled
        check_first = 0 if replies else settings.check_first
        while pending := [request for request in requests if request.user_id not in replies]:
            answered = any(reply.status == "ok" for reply in replies.values())
            run = _Run(pending, settings, journal, past, progress, check_first, parse, answered, what)
            _run_in_thread(run)
            replies.update(run.replies)
            logger.info("Replies from %s: %s", settings.model, run.summary())
            if run.trial.failed:
                _ask_to_go_on(run, ask)
            check_first = 0
    _say_failed([replies[request.user_id] for request in requests], journal)
    return {request.user_id: replies[request.user_id] for request in requests}


def _say_failed(replies: Sequence[Reply], journal: Path) -> None:
    failed = [reply for reply in replies if reply.failure]
    if failed:
        kinds = name_failures(Counter(reply.failure for reply in failed))
        logger.warning(
            "%s: %d of %d prompts are without a reply of use (%s); %s, for one: %s",
            journal, len(failed), len(replies), kinds, failed[0].user_id, failed[0].error,
        )  # fmt: skip


def say_reused(
    requests: Sequence[PromptRequest],
    settings: OpenAISettings,
    journal: Path,
    past: Mapping[tuple[str, str], Past],
    done: Collection[str],
) -> None:
    """Say how many calls are left, and with which other settings replies of the users in ``done`` were made."""
    say_made_otherwise([request for request in requests if request.user_id in done], settings, journal, past)
    logger.info("Replies from %s: %s", settings.model, estimate(requests, settings, done))


def say_made_otherwise(
    answered: Sequence[PromptRequest], settings: OpenAISettings, journal: Path, past: Mapping[tuple[str, str], Past]
) -> None:
    """Warn where replies that are used again were made with other settings: this run's configuration will not say so.

    They are not asked for again: what was paid for is not thrown away without a word of the user's.
    """
    others = made_otherwise([past[request.user_id, request.sha256].ok or {} for request in answered], settings)
    if others:
        logger.warning(
            "%s: of %d replies that stand in it and are used again, %s. To have them made anew, give another "
            "semantic_cache, or remove their lines.", journal, len(answered), ", ".join(others),
        )  # fmt: skip


#: what is asked for -> (what of it a reply of use holds, the key of the prompt's file)
_HELD = {
    "interests": ("an interest", "prompt_file"),
    "knowledge": ("knowledge of an item", "knowledge_prompt_file"),
}


def _ask_to_go_on(run: _Run, ask: Callable[[str], bool | None]) -> None:
    """Raise InterestSourceError unless somebody wants to pay for more replies from an endpoint of no use so far."""
    trial, last = run.trial, next(reply for reply in reversed(run.replies.values()) if reply.error)
    prompts = sum(reply.failure != NO_ANSWER for reply in run.replies.values())
    to = f" (to {prompts} prompts, some asked twice)" if prompts < trial.limit else ""
    held, template = _HELD.get(run.what, _HELD["interests"])
    problem = (
        f"not one of the first {trial.limit} replies{to} holds {held} ({name_failures(trial.failures)}); "
        f"{last.user_id}, for one: {last.error}"
    )
    answer = ask(f"{run.settings.model} at {run.endpoint.base_url}: {problem}\nGo on and pay for the other prompts?")
    if not answer:
        raise run.endpoint.error(
            f"stopped, because {problem}",
            f"The raw replies are in {run.journal}. Try another llm_model, llm_base_url or {template}, or "
            f"--llm_structured=off. To go on all the same: --llm_check_first=0.",
        )


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


# --- the calls --------------------------------------------------------------------------------------------------------


class _Run:
    """All calls of one fetch_openai, in one event loop."""

    def __init__(
        self,
        pending: Sequence[PromptRequest],
        settings: OpenAISettings,
        journal: Path,
        past: dict[tuple[str, str], Past],
        progress: bool,
        check_first: int,
        parse: Parser = parse_interests,
        others_answered: bool = False,
        what: str = "interests",
    ):
        self.parse, self.what = parse, what
        self.settings, self.key, self.journal, self.past = settings, read_key(settings), journal, past
        self.endpoint = Endpoint(settings, self.key, answered_before=any(one.ok for one in past.values()))
        self.total, self.queue = len(pending), iter(pending)
        self.replies: dict[str, Reply] = {}
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}
        self.given_up_in_a_row, self.others_answered = 0, others_answered
        self.loop = asyncio.new_event_loop()
        self.stopping = self.endpoint.stopping
        self.trial = Trial(check_first)
        self.records: asyncio.Queue[tuple[dict, asyncio.Future] | None] = asyncio.Queue()
        self.writer: asyncio.Task | None = None
        self.workers: list[asyncio.Task] = []
        self.bar = bar(total=self.total, unit="prompt", desc=what, disable=not progress, dynamic_ncols=True)

    async def main(self) -> None:
        self.writer = asyncio.create_task(self._write_journal())
        count = min(self.settings.concurrency, self.total)
        self.workers = [asyncio.create_task(self._work(first=n == 0)) for n in range(count)]
        try:
            await self._watch(self.writer)
        finally:
            self.abort()
            await asyncio.gather(*self.workers, return_exceptions=True)
            self.records.put_nowait(None)
            await self.writer
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
        self.trial.close()
        if running:
            await asyncio.wait(running, timeout=STOP_GRACE_SECONDS)
        stop.cancel()

    def abort(self) -> None:
        """Drop what is in flight."""
        for worker in self.workers:
            worker.cancel()

    def summary(self) -> str:
        failures = Counter(reply.failure for reply in self.replies.values() if reply.failure)
        failed = failures.total()
        cost = _cost(self.settings, **self.tokens)
        return (
            f"{len(self.replies) - failed} ok, {failed} failed"
            + (f" ({name_failures(failures)})" if failures else "")
            + f", {self.tokens['prompt_tokens']:,} prompt and "
            f"{self.tokens['completion_tokens']:,} completion tokens" + ("" if cost is None else f", {_dollars(cost)}")
        )

    async def _write_journal(self) -> None:
        """Append records as they come; what arrives during one fsync shares the next."""
        while True:
            records = [await self.records.get()]
            while not self.records.empty():
                records.append(self.records.get_nowait())
            whole = [record for record in records if record is not None]
            if whole:
                lines = [line for line, _ in whole]
                await asyncio.get_running_loop().run_in_executor(None, append_jsonl, self.journal, lines)
                for _, written in whole:
                    written.done() or written.set_result(None)  # done: whoever waited has been cancelled
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
        """Ask one prompt, and once more, with the parser's complaint, if the reply holds no interests."""
        messages = [{"role": "user", "content": request.prompt}]
        for number in range(1, MOST_CALLS + 1):
            await self.trial.turn()
            if self.stopping.is_set():
                return
            completion, interests, error = None, [], None
            try:
                completion = await self.endpoint.complete(messages)
                self.given_up_in_a_row = 0
                interests = self._interests(completion)
            except GaveUpError as problem:
                error = ReplyError(str(problem), final=True, kind=NO_ANSWER)
                await self._record(request, None, [], error)
                self.trial.over(NO_ANSWER)
                self._count_given_up(problem)
                break
            except ReplyError as problem:
                error = problem
            await self._record(request, completion, interests, error)
            self.trial.over(error and error.kind)
            if self.trial.failed:
                self.stopping.set()
            if error is None or number == MOST_CALLS or error.final or self.stopping.is_set():
                break
            if completion.body is not None:
                messages = _with_complaint(request.prompt, self._text(completion), str(error))
        self.bar.update()

    def _interests(self, completion: Completion) -> list[str]:
        if completion.body is None:
            raise ReplyError(f"The reply cannot be read: {completion.problem}.", kind="malformed")
        try:
            return completion_interests(completion.body, self.settings.max_interests, self.parse)
        except ReplyError:
            raise
        except Exception as error:  # the reply is paid for: it must reach the journal whatever is the matter with it
            logger.warning("A reply could not be read; please report it with its line of %s.", self.journal)
            raise ReplyError(f"Reading the reply failed ({type(error).__name__}).", True, "malformed") from error

    async def _record(
        self, request: PromptRequest, completion: Completion | None, interests: list[str], error: ReplyError | None
    ) -> None:
        """Note a reply, and return when its record is on disk."""
        response, usage, finish_reason = None, None, None
        if completion is not None and completion.body is not None:
            usage, finish_reason = completion_usage(completion.body), completion_finish(completion.body)
            response = self._text(completion)
        if completion is not None and response is None and error is not None and error.kind == "malformed":
            response = self.key.scrub(completion.raw)
        response, size = cut(response)
        entry = self.past.setdefault((request.user_id, request.sha256), Past())
        entry.pay(usage)
        reply = Reply(
            request.user_id,
            request.sha256,
            response,
            tuple(map(self.key.scrub, interests)),
            "failed" if error else "ok",
            error and encodable(self.key.scrub(str(error))),
            entry.usage,
            "openai",
            error and error.kind,
        )
        self.replies[request.user_id] = reply
        for name, count in (usage or {}).items():
            self.tokens[name] += count
        self.bar.set_postfix_str(f"{sum(self.tokens.values()):,} tokens", refresh=False)
        record = record_of(reply, self.settings.model, usage, finish_reason, **asked_with(self.settings), **size)
        written = asyncio.get_running_loop().create_future()
        self.records.put_nowait((record, written))
        await asyncio.wait({written, self.writer}, return_when=asyncio.FIRST_COMPLETED)
        if not written.done():  # the disk is full: no further call may be paid for
            raise StoppedError

    def _text(self, completion: Completion) -> str | None:
        text = completion_text(completion.body)
        return text if text is None else self.key.scrub(text)

    def _count_given_up(self, error: GaveUpError) -> None:
        """Stop the run if the endpoint is plainly down, instead of backing off for every prompt there is."""
        if not error.endpoint_down:
            return
        self.given_up_in_a_row += 1
        most = max(3, self.settings.concurrency)
        if error.unreachable or not self.others_answered:
            most = min(most, self.total)  # else a few may fail for what is in them: the others have replies
        if self.given_up_in_a_row >= most and not self.stopping.is_set():
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
            if outcome.done():  # with a TimeoutError of its own, or just after this slice has ended
                return outcome.result()


def _tell(run: _Run, what: Callable[[], Any]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has just ended by itself
        run.loop.call_soon_threadsafe(what)


def _with_complaint(prompt: str, response: str | None, complaint: str) -> list[dict]:
    if not response:  # endpoints reject an empty turn of the assistant
        return [{"role": "user", "content": f"{prompt}\n\n{complaint}"}]
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": response[:MOST_COMPLAINED_OF]},
        {"role": "user", "content": complaint},
    ]
