"""fetch_openai against a real HTTP server on the loopback interface: replies, the journal, interrupted runs.

Counts and orders only: no test asserts a time.
"""

import contextlib
import json
import logging
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import pytest

from recbole_eimf.core.errors import DataError, InterestSourceError
from recbole_eimf.semantic.llm import calls
from recbole_eimf.semantic.llm.client import OpenAISettings, fetch_openai
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.sources import endpoint
from tests.forked import Forked
from tests.semantic.llm_calls import KEY, always, fetch, journal, once, requests, settings
from tests.semantic.llm_server import GOOD, Answer, LLMServer

pytestmark = pytest.mark.usefixtures("quick_endpoint")


# --- good replies, the journal ----------------------------------------------------------------------------------------


def test_a_good_reply_and_its_record(tmp_path):
    with LLMServer() as server:
        reply = fetch(server, tmp_path)["u0"]
    assert (reply.interests, reply.status, reply.error) == (("Nail art", "Hair care"), "ok", None)
    assert (reply.response, reply.source) == (GOOD, "openai")
    assert reply.usage == {"prompt_tokens": 10, "completion_tokens": 5}
    assert reply.prompt_sha256 == requests(1)[0].sha256
    (record,) = journal(tmp_path)
    assert record == {
        "user_id": "u0",
        "prompt_sha256": reply.prompt_sha256,
        "model": "m",
        "base_url": server.url,
        "temperature": 0.0,
        "max_tokens": 1024,
        "structured": "auto",
        "status": "ok",
        "response": GOOD,
        "interests": ["Nail art", "Hair care"],
        "error": None,
        "failure": None,
        "usage": reply.usage,
        "finish_reason": "stop",
    }


def test_replies_made_with_other_settings_are_used_again_and_said_to_be(tmp_path, caplog):
    with LLMServer() as server:
        fetch(server, tmp_path, n=2)
        assert not caplog.records
        fetch(server, tmp_path, n=2)
        assert not caplog.records
        replies = fetch(server, tmp_path, n=3, temperature=0.7, max_tokens=9)
        assert len(server.asked) == 3
    assert {reply.status for reply in replies.values()} == {"ok"}
    (said,) = (record.getMessage() for record in caplog.records)
    assert "2 with llm_max_tokens=1024 (now 9), 2 with llm_temperature=0.0 (now 0.7). " in said
    assert "of 2 replies" in said
    assert "semantic_cache" in said
    caplog.clear()
    # earlier versions wrote neither; that nobody knows is nothing to say at every run
    lines = [{k: v for k, v in each.items() if k not in ("temperature", "max_tokens")} for each in journal(tmp_path)]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with LLMServer(port=int(server.url.split(":")[2].removesuffix("/v1"))) as again:
        fetch(again, tmp_path, n=3, temperature=0.1)
    assert not again.asked
    assert not caplog.records
    fetch(again, tmp_path, n=3, base_url="http://elsewhere:1/v1")
    assert f"3 with llm_base_url={again.url} (now http://elsewhere:1/v1)" in caplog.text


def test_what_is_sent(tmp_path):
    with LLMServer() as server:
        fetch(server, tmp_path, temperature=0.5, max_tokens=77)
    (asked,) = server.asked
    assert (asked.path, asked.authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "prompt 0"}],
        "max_tokens": 77,
        "temperature": 0.5,
        "response_format": {"type": "json_object"},
    }


@pytest.mark.parametrize(
    "content",
    [f"```json\n{GOOD}\n```", '{"interests": {"a": {"interest": "Nail art"}, "b": {"interest": "Hair care"}}}'],
)
def test_fenced_and_nested_replies(tmp_path, content):
    with LLMServer(always(content=content)) as server:
        assert fetch(server, tmp_path)["u0"].interests == ("Nail art", "Hair care")


def test_replies_come_in_the_order_of_the_requests(tmp_path):
    with LLMServer(lambda asked, n: Answer(delay=0.05 * (asked.prompt == "prompt 1"))) as server:
        assert list(fetch(server, tmp_path, 6)) == [f"u{i}" for i in range(6)]


def test_the_journal_is_not_asked_again(tmp_path):
    with LLMServer() as server:
        first = fetch(server, tmp_path, 5)
        assert fetch(server, tmp_path, 8) == {**first, **fetch(server, tmp_path, 8)}
        assert sorted(server.prompts()) == [f"prompt {i}" for i in range(8)]


def test_a_whole_journal_needs_neither_server_nor_key(tmp_path, monkeypatch):
    with LLMServer() as server:
        first = fetch(server, tmp_path, 3)
    monkeypatch.delenv("TEST_LLM_KEY")
    assert fetch(server, tmp_path, 3) == first


def test_another_model_or_prompt_is_asked_for_itself(tmp_path):
    with LLMServer() as server:
        fetch(server, tmp_path)
        fetch(server, tmp_path, model="other")
        fetch_openai([PromptRequest("u0", "new")], settings(server), tmp_path / "journal.jsonl", progress=False)
    assert server.prompts() == ["prompt 0", "prompt 0", "new"]


def test_failed_ones_are_tried_again_by_the_next_run(tmp_path):
    with LLMServer(lambda asked, n: Answer(content="hm" if n < 2 else GOOD)) as server:
        assert fetch(server, tmp_path)["u0"].status == "failed"
        again = fetch(server, tmp_path)["u0"]
    assert (again.status, len(server.asked)) == ("ok", 3)
    assert again.usage == {"prompt_tokens": 30, "completion_tokens": 15}, "what this reply cost in all"


@pytest.mark.parametrize("written_before", [False, True])
def test_an_answer_without_text_is_an_answer_and_not_paid_for_by_each_training_run(tmp_path, written_before):
    """A refusal in its own field, and thoughts up to the token limit, cost what a reply costs."""
    bare = [{"refusal": "I will not."}, {"finish_reason": "length"}, {"finish_reason": "content_filter"}, {}]
    kinds = ["refusal", "cut off", "content filter", "no content"]
    path = tmp_path / "journal.jsonl"

    def answer(asked, n):
        number = int(asked.prompt.split()[1])
        return Answer(content=None, **bare[number]) if number < len(bare) else Answer()

    with LLMServer(answer) as server:
        found = fetch(server, tmp_path, 5)
        assert [found[f"u{n}"].failure for n in range(5)] == [*kinds, None]
        if written_before:  # records of earlier versions do not say of what kind
            lines = [{k: v for k, v in line.items() if k != "failure"} for line in journal(tmp_path)]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        asked = len(server.asked)
        for _ in range(2):
            again = endpoint.ask(requests(5), settings(server), path, "d", agreed=False, again=False)
            told = [again[f"u{n}"].failure for n in range(5)]
            assert told == (["no content"] * 4 + [None] if written_before else [*kinds, None])
        assert len(server.asked) == asked


def test_no_answer_to_a_complaint_unsays_no_reply_that_came(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_eimf.semantic.llm.endpoint.BACKOFF_SECONDS", 0.01)

    def answer(asked, n):
        if asked.prompt == "prompt 0":
            return Answer()
        return Answer(content="no idea") if len(asked.body["messages"]) == 1 else Answer(status=503)

    with LLMServer(answer) as server:
        wanted = settings(server, max_retries=1)
        path = tmp_path / "journal.jsonl"
        fetch(server, tmp_path, 2, max_retries=1)
        asked = len(server.asked)
        known = endpoint.ask(requests(2), wanted, path, "d", agreed=True, again=False)["u1"]
        assert (known.response, known.status, known.failure) == ("no idea", "failed", journal(tmp_path)[1]["failure"])
        assert len(server.asked) == asked


def test_what_another_process_has_just_paid_for_in_vain_is_not_asked_for_again(tmp_path):
    """Two training runs side by side: the one that waited for the journal finds the other's refusals in it."""
    with LLMServer(lambda asked, n: Answer(content=GOOD if asked.prompt == "prompt 0" else "hm")) as server:

        def run():
            path = tmp_path / "journal.jsonl"
            return endpoint.ask(requests(2), settings(server), path, "d", agreed=True, again=False)

        with mock.patch.object(endpoint, "read_journal", return_value={}):  # as it was before the other one wrote
            replies = [run(), run()]
        asked = len(server.asked)
        assert sorted(set(server.prompts())) == ["prompt 0", "prompt 1"]
        assert replies[0].keys() == replies[1].keys() == {"u0", "u1"}
        assert [[reply[user].status for user in ("u0", "u1")] for reply in replies] == [["ok", "failed"]] * 2
        assert run()["u1"].status == "failed"
        assert asked == len(server.asked) == 3  # one complaint
        path = tmp_path / "journal.jsonl"
        assert endpoint.ask(requests(2), settings(server), path, "d", agreed=True)["u1"].status == "failed"
        assert len(server.asked) == 5


def test_a_journal_with_half_a_last_line_goes_on(tmp_path):
    with LLMServer() as server:
        fetch(server, tmp_path, 3)
        path = tmp_path / "journal.jsonl"
        path.write_bytes(path.read_bytes()[:-30])
        assert all(reply.status == "ok" for reply in fetch(server, tmp_path, 3).values())
    assert len(server.asked) == 4
    assert len(journal(tmp_path)) == 3


def test_a_foreign_journal_is_named(tmp_path):
    (tmp_path / "journal.jsonl").write_text('{"user_id": "u0", "response": "x"}\n')
    with LLMServer() as server, pytest.raises(DataError, match=r"journal\.jsonl, line 1: .*model, prompt_sha256"):
        fetch(server, tmp_path)


def test_max_interests_may_change_between_runs(tmp_path):
    with LLMServer() as server:
        assert fetch(server, tmp_path, max_interests=1)["u0"].interests == ("Nail art",)
        assert fetch(server, tmp_path, max_interests=9)["u0"].interests == ("Nail art", "Hair care")
    assert len(server.asked) == 1


def test_two_prompts_for_one_user_are_an_error_the_same_twice_is_not(tmp_path):
    with LLMServer() as server:
        same = [PromptRequest("u", "x"), PromptRequest("u", "x")]
        assert len(fetch_openai(same, settings(server), tmp_path / "j", progress=False)) == 1
        with pytest.raises(DataError, match="user u"):
            fetch_openai([*same, PromptRequest("u", "y")], settings(server), tmp_path / "j", progress=False)
    assert len(server.asked) == 1


def test_half_an_emoji_does_not_lose_the_reply(tmp_path):
    with LLMServer(always(content='{"1": "Nails", "2": "Smile \ud83d"}')) as server:
        assert fetch(server, tmp_path)["u0"].interests == ("Nails", "Smile ?")
    assert journal(tmp_path)[0]["status"] == "ok"


def test_inside_a_running_event_loop(tmp_path):
    """As in a notebook."""
    import asyncio

    async def cell():
        return fetch(server, tmp_path)

    with LLMServer() as server:
        assert asyncio.run(cell())["u0"].status == "ok"


# --- replies that are no good -----------------------------------------------------------------------------------------


def test_an_unparsable_reply_is_asked_once_more_with_the_complaint(tmp_path):
    with LLMServer(once(content="I love shopping!")) as server:
        reply = fetch(server, tmp_path)["u0"]
    assert (reply.status, reply.interests) == ("ok", ("Nail art", "Hair care"))
    assert reply.usage == {"prompt_tokens": 20, "completion_tokens": 10}
    question, answer, complaint = server.asked[1].body["messages"]
    assert question == {"role": "user", "content": "prompt 0"}
    assert answer == {"role": "assistant", "content": "I love shopping!"}
    assert complaint["role"] == "user"
    assert "No interests found" in complaint["content"]
    assert [(record["status"], record["response"]) for record in journal(tmp_path)] == [
        ("failed", "I love shopping!"),
        ("ok", GOOD),
    ]
    assert [record["usage"]["prompt_tokens"] for record in journal(tmp_path)] == [10, 10]


def test_twice_unparsable_is_failed_with_both_replies_kept(tmp_path):
    with LLMServer(lambda asked, n: Answer(content=f"nonsense {n}")) as server:
        reply = fetch(server, tmp_path)["u0"]
    assert (reply.status, reply.response, reply.interests) == ("failed", "nonsense 1", ())
    assert "No interests found" in reply.error
    assert [record["response"] for record in journal(tmp_path)] == ["nonsense 0", "nonsense 1"]
    assert len(server.asked) == 2


def test_an_empty_reply_is_asked_again_without_an_empty_turn(tmp_path):
    with LLMServer(lambda asked, n: Answer(content=GOOD if "No interests" in asked.prompt else "")) as server:
        assert fetch(server, tmp_path)["u0"].status == "ok"
    (message,) = server.asked[1].body["messages"]
    assert message["content"].startswith("prompt 0\n\nNo interests found")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"content": None, "refusal": "I must not say"}, "I must not say"),
        ({"content": None}, "no content"),
        ({"content": "", "finish_reason": "content_filter"}, "content filter"),
        ({"content": '{"1": "Nai', "finish_reason": "length"}, "raise llm_max_tokens"),
    ],
)
def test_refusals_and_the_like_are_failed_and_not_paid_for_twice(tmp_path, answer, reason):
    with LLMServer(always(**answer)) as server:
        reply = fetch(server, tmp_path)["u0"]
    assert reply.status == "failed"
    assert reason in reply.error
    assert (reply.response, len(server.asked)) == (answer["content"], 1)
    assert journal(tmp_path)[0]["error"] == reply.error


def test_a_truncated_reply_gives_its_whole_interests_then_and_from_the_journal(tmp_path):
    with LLMServer(always(content="1. Nail art\n2. Hair ca", finish_reason="length")) as server:
        assert fetch(server, tmp_path)["u0"].interests == ("Nail art",)
        assert fetch(server, tmp_path)["u0"].interests == ("Nail art",)
    assert len(server.asked) == 1


# --- what the endpoint does not know ----------------------------------------------------------------------------------


def rejecting(unknown):
    """Answer as an endpoint that rejects requests for which ``unknown(body)`` returns a message."""

    def answer(asked, n):
        message = unknown(asked.body)
        return Answer(status=400, error={"message": message}) if message else Answer(delay=0.02)

    return answer


def test_auto_learns_once_that_there_is_no_response_format(tmp_path):
    with LLMServer(rejecting(lambda body: "response_format" in body and "response_format is unsupported")) as server:
        replies = fetch(server, tmp_path, 40, concurrency=16)
    assert all(reply.status == "ok" for reply in replies.values())
    formats = [asked.body.get("response_format", {}).get("type") for asked in server.asked]
    assert formats == ["json_object", "json_schema"] + [None] * 40


def test_auto_takes_a_schema_where_only_schemas_are_known(tmp_path):
    def unknown(body):
        kind = body.get("response_format", {}).get("type")
        return None if kind == "json_schema" else "'response_format.type' must be 'json_schema'"

    with LLMServer(rejecting(unknown)) as server:
        fetch(server, tmp_path, 5)
    assert len(server.asked) == 6


def test_off_never_asks_for_a_format_and_on_insists(tmp_path):
    with LLMServer() as server:
        fetch(server, tmp_path, structured="off")
        assert "response_format" not in server.asked[0].body
    with LLMServer(rejecting(lambda body: "response_format" in body and "no response_format here")) as server:
        with pytest.raises(InterestSourceError, match="set llm_structured: off"):
            fetch(server, tmp_path / "other", 3, structured="on")
        assert len(server.asked) == 2


def test_models_without_max_tokens_and_temperature(tmp_path):
    def unknown(body):
        if "max_tokens" in body:
            return "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return "Unsupported value: 'temperature' does not support 0.0" if "temperature" in body else None

    with LLMServer(rejecting(unknown)) as server:
        fetch(server, tmp_path, 10)
    assert len(server.asked) == 12
    assert server.asked[-1].body["max_completion_tokens"] == 1024


NO_TEMPERATURE = [
    {"message": "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is "
     "supported.", "param": "temperature", "code": "unsupported_value"},
    {"message": "`temperature` is deprecated for this model."},
    {"message": "temperature: Extra inputs are not permitted"},
    {"message": "This model only takes the default temperature; please remove it."},
    {"message": "Unrecognized request argument supplied: temperature"},
    {"message": "invalid temperature: only the default (1) is allowed for this model"},
    {"message": "Wrong value.", "param": "temperature", "code": "unsupported_parameter"},
    {"message": "temperature does not work with reasoning: parameter unknown to o-models"},
]  # fmt: skip


@pytest.mark.parametrize("said", NO_TEMPERATURE, ids=lambda said: said["message"][:30])
def test_a_model_without_temperature_says_so_in_its_own_words(tmp_path, said, caplog):
    def answer(asked, n):
        return Answer(status=400, error=said) if "temperature" in asked.body else Answer()

    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 5)
    assert all(reply.status == "ok" for reply in replies.values())
    assert "takes no temperature; asking without" in caplog.text
    assert "temperature" not in server.asked[-1].body
    assert [line["temperature"] for line in journal(tmp_path)] == [None] * 5, "the journal says how it was asked"
    caplog.clear()
    with LLMServer(answer) as server:
        fetch(server, tmp_path, 5)
    assert server.asked == []
    assert "with llm_temperature" not in caplog.text, "they were made as they would be made today"


@pytest.mark.parametrize(
    "said",
    [
        {"message": "temperature: Input should be less than or equal to 1", "param": "temperature"},
        {"message": "Unsupported role; the words around it are of a temperature", "param": "messages"},
        {"message": "The prompt was flagged: body temperature is not supported", "code": "content_filter"},
    ],
    ids=lambda said: said["message"][:20],
)
def test_a_wrong_temperature_or_another_fault_is_not_taken_for_a_model_without(tmp_path, said):
    server = LLMServer(lambda asked, n: Answer(status=400, error=said))
    with server, contextlib.suppress(InterestSourceError):
        fetch(server, tmp_path, 1)
    assert server.asked
    assert all("temperature" in asked.body for asked in server.asked)


# --- interrupted runs -------------------------------------------------------------------------------------------------


def ask_all(url: str, path: Path) -> None:
    """What the processes below do, until they are killed."""
    calls.STOP_GRACE_SECONDS = 1000.0  # nothing below may come about by waiting
    logging.basicConfig(level="INFO", stream=sys.stderr)
    requests = [PromptRequest(f"u{i}", f"prompt {i}") for i in range(40)]
    settings = OpenAISettings("m", url, "TEST_LLM_KEY", concurrency=4)
    replies = fetch_openai(requests, settings, path, progress=False)
    print(sum(reply.status == "ok" for reply in replies.values()))


class Dam:
    """Answers 20 requests, then holds all others back until opened."""

    def __init__(self):
        self.lock, self.open, self.let_through = threading.Lock(), threading.Event(), 0

    def __call__(self, asked, n):
        with self.lock:
            self.let_through += 1
            through = self.let_through <= 20
        if not through:
            self.open.wait(60)
        return Answer()


def child(server, tmp_path):
    return Forked(ask_all, server.url, tmp_path / "journal.jsonl", cwd=tmp_path)


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the child came to nothing"
        time.sleep(0.01)


def test_kill_9_in_the_middle_asks_again_what_was_in_flight(tmp_path):
    dam = Dam()
    with LLMServer(dam) as server:
        with child(server, tmp_path) as process:
            wait_until(lambda: len(server.prompts()) >= 24 and len(journal(tmp_path)) >= 20, process)
            process.kill()
        before, asked_before = {record["user_id"] for record in journal(tmp_path)}, len(server.prompts())
        assert (len(before), asked_before) == (20, 24)
        dam.open.set()
        with child(server, tmp_path) as process:
            out, err = process.communicate(timeout=60)
        assert out.strip() == "40", err
        again = {prompt.replace("prompt ", "u") for prompt in server.prompts()[asked_before:]}
    assert again == {f"u{i}" for i in range(40)} - before
    assert sorted(record["user_id"] for record in journal(tmp_path)) == sorted(f"u{i}" for i in range(40))


def test_kill_9_asks_at_most_the_calls_in_flight_again(tmp_path):
    """At whatever moment: the child has four calls in flight, and none goes out before the last reply is on disk."""
    with LLMServer(always(delay=0.01)) as server:
        for kills, replies in ((1, 3), (2, 20)):
            with child(server, tmp_path) as process:
                wait_until(lambda least=replies: len(journal(tmp_path)) >= least, process)
                process.kill()
            assert len(server.prompts()) <= len(journal(tmp_path)) + 4 * kills
            journalled = {record["user_id"].replace("u", "prompt ") for record in journal(tmp_path)}
            asked = len(server.prompts())
        with child(server, tmp_path) as process:
            out, err = process.communicate(timeout=60)
        assert out.strip() == "40", err
        assert journalled.isdisjoint(server.prompts()[asked:])
        assert 40 <= len(server.prompts()) <= 40 + 2 * 4
    assert sorted(record["user_id"] for record in journal(tmp_path)) == sorted(f"u{i}" for i in range(40))


def test_no_call_goes_out_before_the_last_reply_is_on_disk(tmp_path, monkeypatch):
    """However slow the disk: what is neither in the journal nor in flight would be paid for twice after a kill."""
    append, ahead = calls.append_jsonl, []

    def slow(path, records):
        time.sleep(0.05)
        ahead.append(len(server.prompts()) - len(journal(tmp_path)))
        append(path, records)

    monkeypatch.setattr(calls, "append_jsonl", slow)
    with LLMServer() as server:
        fetch(server, tmp_path, 40, concurrency=4)
    assert max(ahead) == 4


def test_ctrl_c_keeps_what_has_arrived_and_what_is_under_way(tmp_path):
    dam = Dam()
    with LLMServer(dam) as server:
        with child(server, tmp_path) as process:
            wait_until(lambda: len(server.prompts()) >= 24 and len(journal(tmp_path)) >= 20, process)
            process.send_signal(signal.SIGINT)
            said = []
            for line in process.stderr:
                said.append(line)
                if "Stopping" in line:
                    break
            # the warning comes just before the workers hear of it; a new call would be counted below
            time.sleep(0.2)
            dam.open.set()
            _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "KeyboardInterrupt" in err, said
        assert "Replies from m: 24 ok, 0 failed, 240 prompt and 120 completion tokens" in err
        assert len(server.prompts()) == 24, "a new call was made after Ctrl-C"
        assert len(journal(tmp_path)) == 24, "replies under way were lost"
        fetch(server, tmp_path, 40)
        assert len(server.prompts()) == 40


def test_a_second_ctrl_c_drops_what_is_under_way(tmp_path):
    dam = Dam()
    with LLMServer(dam) as server, child(server, tmp_path) as process:
        wait_until(lambda: len(server.prompts()) >= 24 and len(journal(tmp_path)) >= 20, process)
        process.send_signal(signal.SIGINT)
        for line in process.stderr:
            if "Stopping" in line:
                break
        process.send_signal(signal.SIGINT)
        # the dam stays closed: only the second signal can end this
        _, err = process.communicate(timeout=60)
        assert "KeyboardInterrupt" in err
        assert len(journal(tmp_path)) == 20


def test_an_outcome_that_comes_just_as_a_slice_of_the_wait_ends_is_no_timeout():
    class Late(Future):
        def result(self, timeout=None):
            if not self.done():
                self.set_result(None)
                raise TimeoutError
            return super().result(timeout)

    assert calls._wait(Late()) is None
    own = Future()
    own.set_exception(TimeoutError("of the endpoint"))
    with pytest.raises(TimeoutError, match="of the endpoint"):
        calls._wait(own)


def test_two_runs_at_once_pay_once(tmp_path):
    with LLMServer(always(delay=0.01)) as server, child(server, tmp_path) as one, child(server, tmp_path) as two:
        outputs = [process.communicate(timeout=60) for process in (one, two)]
    assert [out.strip() for out, _ in outputs] == ["40", "40"], outputs
    assert len(server.prompts()) == 40


def test_a_full_disk_stops_the_run_instead_of_losing_replies(tmp_path, monkeypatch):
    def full(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calls, "append_jsonl", full)
    with LLMServer() as server:
        with pytest.raises(OSError, match="No space left"):
            fetch(server, tmp_path, 200, concurrency=2)
        assert len(server.asked) < 100
