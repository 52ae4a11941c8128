"""The calls of one run: several prompts at once, each reply on disk before the next call of the same worker.

They run in an event loop in a thread of its own, so that Ctrl-C reaches us between calls and keeps what is paid for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

from recbole_eimf.core.bars import bar
from recbole_eimf.core.files import append_jsonl, encodable
from recbole_eimf.semantic.journal import Past, asked_with, cut, record_of, without_temperature
from recbole_eimf.semantic.llm.access import read_key
from recbole_eimf.semantic.llm.endpoint import Completion, Endpoint, GaveUpError, OpenAISettings, StoppedError
from recbole_eimf.semantic.llm.price import MOST_CALLS, cost_of, dollars
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
from recbole_eimf.semantic.trial import NO_ANSWER, Trial, name_failures

logger = logging.getLogger(__name__)

# After Ctrl-C or a fatal error, replies under way are already paid for: they may still arrive this long.
STOP_GRACE_SECONDS = 10.0
# Characters of a bad reply that go back to the model with the complaint: they are paid for a second time.
MOST_COMPLAINED_OF = 4000


class Calls:
    """All calls of one :func:`~recbole_eimf.semantic.llm.client.fetch_openai`, in one event loop."""

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
        cost = cost_of(self.settings, **self.tokens)
        return (
            f"{len(self.replies) - failed} ok, {failed} failed"
            + (f" ({name_failures(failures)})" if failures else "")
            + f", {self.tokens['prompt_tokens']:,} prompt and "
            f"{self.tokens['completion_tokens']:,} completion tokens" + ("" if cost is None else f", {dollars(cost)}")
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
        asked = asked_with(self.settings)
        if self.endpoint.dialect.temperature != self.settings.temperature:
            asked = without_temperature(asked)
        record = record_of(reply, self.settings.model, usage, finish_reason, **asked, **size)
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


def run_in_thread(run: Calls) -> None:
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


def _tell(run: Calls, what: Callable[[], Any]) -> None:
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
