"""fetch_openai against a real HTTP server on the loopback interface. Counts and orders only: no test asserts a time."""

import email.utils
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recbole_eimf.errors import ConfigError, DataError, InterestSourceError
from recbole_eimf.semantic import endpoint, llm
from recbole_eimf.semantic.endpoint import Secret, read_key
from recbole_eimf.semantic.llm import Estimate, OpenAISettings, answered_users, estimate, fetch_openai
from recbole_eimf.semantic.prompt import PromptRequest
from tests.semantic.llm_server import GOOD, Answer, LLMServer

KEY = "sk-test-3f9a1c77d2e84b06"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(endpoint, "LONGEST_BACKOFF_SECONDS", 0.05)


def requests(n):
    return [PromptRequest(f"u{i}", f"prompt {i}") for i in range(n)]


def settings(server, **changes):
    return OpenAISettings(**{"model": "m", "base_url": server.url, "api_key_env": "TEST_LLM_KEY", **changes})


def fetch(server, tmp_path, n=1, **changes):
    return fetch_openai(requests(n), settings(server, **changes), tmp_path / "journal.jsonl", progress=False)


def journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def always(**answer):
    return lambda asked, n: Answer(**answer)


def once(then=None, **answer):
    return lambda asked, n: Answer(**answer) if n == 0 else (then or Answer())


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
        "status": "ok",
        "response": GOOD,
        "interests": ["Nail art", "Hair care"],
        "error": None,
        "usage": reply.usage,
        "finish_reason": "stop",
    }


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


# --- concurrency and retries ------------------------------------------------------------------------------------------


def test_concurrency_is_used_and_bounded(tmp_path):
    with LLMServer(always(delay=0.05)) as server:
        fetch(server, tmp_path, 30, concurrency=5)
    assert server.most_at_once == 5


def test_every_reply_once_with_64_in_flight_and_random_429s(tmp_path):
    rng, lock = random.Random(1), threading.Lock()
    good = []

    def answer(asked, n):
        with lock:
            if n < 5 and rng.random() < 0.3:
                return Answer(status=429, headers={"Retry-After": "0.01"})
            good.append(asked.prompt)
        return Answer(content=json.dumps({"1": f"reply to {asked.prompt}"}), delay=0.02)

    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 300, concurrency=64)
    assert {user: reply.interests for user, reply in replies.items()} == {
        f"u{i}": (f"reply to prompt {i}",) for i in range(300)
    }
    assert sorted(good) == sorted(f"prompt {i}" for i in range(300))
    assert sorted(record["user_id"] for record in journal(tmp_path)) == sorted(replies)
    assert len(server.asked) > 330, "the test's 429s were not random"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_passing_errors_are_retried(tmp_path, status):
    with LLMServer(lambda asked, n: Answer(status=status if n < 3 else 200)) as server:
        assert fetch(server, tmp_path)["u0"].status == "ok"
    assert len(server.asked) == 4
    assert len(journal(tmp_path)) == 1


@pytest.fixture
def waits(monkeypatch):
    """The seconds of every back-off (calls themselves are told apart by their time-out of 50 s)."""
    seen = []
    original = endpoint.asyncio.wait_for

    async def wait_for(what, seconds):
        if seconds != 50.0:
            seen.append(seconds)
        return await original(what, seconds)

    monkeypatch.setattr(endpoint.asyncio, "wait_for", wait_for)
    return seen


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "0.2"}, 0.205, 0.21),
        ({"Retry-After": "60", "retry-after-ms": "200"}, 0.205, 0.21),
        ({"Retry-After": "soon"}, 0.005, 0.01),
        ({}, 0.005, 0.01),
    ],
)
def test_retry_after_is_honoured_with_jitter_on_top(tmp_path, headers, least, most, waits):
    with LLMServer(once(status=429, headers=headers)) as server:
        fetch(server, tmp_path, timeout=50.0)
    (wait,) = waits
    assert least <= wait <= most


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 90 < endpoint._retry_after({"retry-after": date}) <= 100
    assert endpoint._retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert endpoint._retry_after({}) is None


def test_a_wait_of_hours_is_not_waited_for(tmp_path):
    answer = lambda asked, n: Answer(status=429, headers={"Retry-After": "7200"}) if "0" in asked.prompt else Answer()  # noqa: E731
    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 3)
    assert "asks to wait 7200 s" in replies["u0"].error
    assert [replies[user].status for user in ("u1", "u2")] == ["ok", "ok"]
    assert len(server.asked) == 3


def test_back_off_grows_and_is_jittered(tmp_path, monkeypatch, waits):
    monkeypatch.setattr(endpoint, "LONGEST_BACKOFF_SECONDS", 0.08)
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.02)
    with LLMServer(lambda asked, n: Answer(status=500 if n < 4 else 200)) as server:
        fetch(server, tmp_path, timeout=50.0)
    assert len(waits) == 4
    for wait, longest in zip(waits, (0.02, 0.04, 0.08, 0.08)):
        assert longest / 2 <= wait <= longest
    assert len(set(waits)) == 4


def test_a_call_that_hangs_is_cut_off_and_made_again(tmp_path):
    with LLMServer(once(delay=3.0)) as server:
        assert fetch(server, tmp_path, timeout=0.3)["u0"].status == "ok"
    assert len(server.asked) == 2


def test_a_prompt_that_never_gets_an_answer_fails_alone(tmp_path):
    answer = lambda asked, n: Answer(status=500 if asked.prompt == "prompt 2" else 200)  # noqa: E731
    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 5, max_retries=2)
    assert [reply.status for reply in replies.values()] == ["ok", "ok", "failed", "ok", "ok"]
    assert "HTTP 500: scripted 500 (3 tries)" in replies["u2"].error
    assert server.prompts().count("prompt 2") == 3
    assert {record["user_id"]: record["status"] for record in journal(tmp_path)}["u2"] == "failed"


def test_an_endpoint_that_is_down_stops_the_run(tmp_path):
    with LLMServer(always(status=503)) as server:
        with pytest.raises(InterestSourceError, match=r"4 prompts in a row got no answer: HTTP 503.*2 tries"):
            fetch(server, tmp_path, 100, max_retries=1, concurrency=4)
        assert len(server.asked) < 30


def test_nobody_listens(tmp_path):
    server = LLMServer()
    server._http.server_close()
    with pytest.raises(InterestSourceError, match="no connection") as error:
        fetch(server, tmp_path, 2, max_retries=1)
    assert server.url in str(error.value)


# --- errors that no retry can mend ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [
        (401, None, "Check the key in environment variable TEST_LLM_KEY"),
        (403, None, "Check the key in environment variable TEST_LLM_KEY"),
        (404, {"message": "no model m"}, "Check the name of the model"),
        (400, {"message": "n must be 1"}, "set structured: off"),
        (429, {"message": "no credit", "code": "insufficient_quota"}, "out of credit"),
    ],
)
def test_fatal_errors_stop_at_the_first_call(tmp_path, status, error, remedy):
    with LLMServer(always(status=status, error=error)) as server:
        with pytest.raises(InterestSourceError, match=remedy) as caught:
            fetch(server, tmp_path, 50, concurrency=16)
        for part in (server.url, "model m", f"HTTP {status}", "TEST_LLM_KEY", (error or {}).get("message", "")):
            assert part in str(caught.value)
        assert len(server.asked) == 1
    assert journal(tmp_path) == []


def test_a_fatal_error_in_the_middle_keeps_what_is_under_way(tmp_path):
    """A reply that arrives after another call was rejected is paid for like any other."""
    rejected = threading.Event()

    def answer(asked, n):
        if asked.prompt == "prompt 1":
            rejected.set()
            return Answer(status=401)
        if asked.prompt == "prompt 2":
            rejected.wait(10)
            return Answer(delay=0.2)
        return Answer()

    with LLMServer(answer) as server, pytest.raises(InterestSourceError, match="HTTP 401"):
        fetch(server, tmp_path, 20, concurrency=3)
    assert "u2" in {record["user_id"] for record in journal(tmp_path)}


@pytest.mark.parametrize("raw", ["<html>welcome</html>", '{"hello": 1}', '"text"'])
def test_something_else_than_a_chat_endpoint(tmp_path, raw):
    with LLMServer(always(raw=raw)) as server, pytest.raises(InterestSourceError, match="not a chat completion"):
        fetch(server, tmp_path)


def test_an_error_in_a_reply_of_status_200_counts_as_that_error(tmp_path):
    with LLMServer(once(raw='{"error": {"message": "upstream down", "code": 502}}')) as server:
        assert fetch(server, tmp_path)["u0"].status == "ok"
    answer = always(raw='{"error": {"message": "who are you", "code": 401}}')
    with LLMServer(answer) as server, pytest.raises(InterestSourceError, match="who are you.*TEST_LLM_KEY"):
        fetch(server, tmp_path / "other")


@pytest.mark.parametrize("code", ["content_filter", "DataInspectionFailed", "context_length_exceeded"])
def test_a_400_about_one_prompt_fails_that_prompt_only(tmp_path, code):
    error = {"message": "not this one", "code": code}
    answer = lambda asked, n: Answer(status=400, error=error) if asked.prompt == "prompt 0" else Answer()  # noqa: E731
    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 3)
    assert [reply.status for reply in replies.values()] == ["failed", "ok", "ok"]
    assert "not this one" in replies["u0"].error
    assert server.prompts().count("prompt 0") == 1


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
        ({"content": '{"1": "Nai', "finish_reason": "length"}, "raise max_tokens"),
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
        with pytest.raises(InterestSourceError, match="set structured: off"):
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


# --- estimate, settings, key ------------------------------------------------------------------------------------------


def test_estimate_counts_only_what_is_not_journalled(tmp_path):
    priced = OpenAISettings("m", max_tokens=50, price_in=2.0, price_out=10.0)
    asked = [PromptRequest(user, "x" * 400) for user in "abcd"] + [PromptRequest("e", "茶" * 4)]
    assert estimate(asked, priced, {"a", "b", "zzz"}) == Estimate(3, 2, 203, 150, (203 * 2 + 150 * 10) / 1e6)
    assert estimate(asked, OpenAISettings("m", price_in=2.0), ()).cost is None
    with LLMServer() as server:
        fetch(server, tmp_path, 2)
        assert answered_users(requests(3), settings(server), tmp_path / "journal.jsonl") == {"u0", "u1"}
    assert answered_users(requests(3), settings(server), tmp_path / "none.jsonl") == set()


def test_the_estimate_is_logged_before_the_first_call(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    with LLMServer(lambda asked, n: seen.append(caplog.text) or Answer()) as server:
        fetch(server, tmp_path, 3, price_in=1.0, price_out=1.0)
    assert "3 calls (0 answered by the journal)" in seen[0]
    assert "about $0.00" in seen[0]
    assert "3 ok, 0 failed, 30 prompt and 15 completion tokens" in caplog.text
    assert "HTTP Request" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": ""}, "model"),
        ({"concurrency": 0}, "concurrency = 0"),
        ({"max_retries": -1}, "max_retries = -1"),
        ({"timeout": 0}, "timeout = 0"),
        ({"structured": "maybe"}, "structured = 'maybe'"),
        ({"max_interests": 0}, "max_interests = 0"),
    ],
)
def test_settings_that_cannot_work(changes, named):
    with pytest.raises(ConfigError, match=named):
        OpenAISettings(**{"model": "m", **changes})


def test_yaml_booleans_for_structured():
    assert (OpenAISettings("m", structured=True).structured, OpenAISettings("m", structured=False).structured) == (
        "on",
        "off",
    )


@pytest.mark.parametrize("url", ["127.0.0.1:1/v1", "nonsense", "file:///etc"])
def test_a_base_url_that_is_none(tmp_path, url):
    with pytest.raises(InterestSourceError, match="base_url"):
        fetch_openai(requests(1), OpenAISettings("m", url, "TEST_LLM_KEY"), tmp_path / "j", progress=False)


def test_the_key_file_comes_before_the_variable(tmp_path):
    (tmp_path / "key").write_text("sk-from-file\n")
    with LLMServer() as server:
        fetch(server, tmp_path, api_key_file=str(tmp_path / "key"))
    assert server.asked[0].authorization == "Bearer sk-from-file"


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}é"])
def test_no_key_or_a_malformed_one(monkeypatch, value):
    monkeypatch.delenv("TEST_LLM_KEY")
    if value is not None:
        monkeypatch.setenv("TEST_LLM_KEY", value)
    with pytest.raises(InterestSourceError, match="TEST_LLM_KEY") as error:
        read_key(OpenAISettings("m", api_key_env="TEST_LLM_KEY"))
    assert KEY not in str(error.value)


def test_no_key_file(tmp_path):
    with pytest.raises(InterestSourceError, match="nokey"):
        read_key(OpenAISettings("m", api_key_file=str(tmp_path / "nokey")))


def test_the_key_in_place_of_its_variables_name_is_not_repeated():
    with pytest.raises(ConfigError, match="api_key_env") as error:
        OpenAISettings("m", api_key_env=KEY)
    assert KEY not in str(error.value)


def chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("status", [200, 401, 400, 404, 500])
def test_the_key_is_nowhere(tmp_path, caplog, capfd, status):
    """Not even if the endpoint echoes it, at the most talkative log level, in the URL, or in an exception's chain."""
    caplog.set_level(logging.DEBUG)
    echo = f"you sent {KEY}"
    answers = {
        200: always(content=json.dumps({"1": echo}), refusal=None),
        500: lambda asked, n: Answer(status=500, error={"message": echo}) if n else Answer(content=echo),
    }
    with LLMServer(answers.get(status, always(status=status, error={"message": echo, "code": KEY}))) as server:
        host = server.url.removeprefix("http://")
        options = settings(server, base_url=f"http://user:{KEY}@{host}?api_key={KEY}", max_retries=1)
        caught = None
        try:
            fetched = fetch_openai(requests(2), options, tmp_path / "journal.jsonl", progress=True)
        except InterestSourceError as error:
            caught, fetched = error, {}
    assert server.asked, "nothing was sent"
    if caught is None:
        assert status == 200
        assert fetched["u0"].interests == ("you sent ***",)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    out = capfd.readouterr()
    told = "".join(f"{error} {error!r} {vars(error)}" for error in chain(caught))
    shown = {
        "files": written,
        "log": caplog.text,
        "stdout": out.out,
        "stderr": out.err,
        "exception": told,
        "replies": repr(fetched),
        "secret": repr(read_key(options)) + repr(vars(read_key(options))),
    }
    assert [place for place, text in shown.items() if KEY in text] == []
    assert "interests" in out.err, "the progress bar was not captured"


def test_settings_never_hold_the_key(tmp_path):
    (tmp_path / "key").write_text(KEY)
    options = OpenAISettings("m", api_key_env="TEST_LLM_KEY", api_key_file=str(tmp_path / "key"))
    assert KEY not in repr(options) + str(vars(options))


def test_a_placeholder_key_is_no_secret():
    assert Secret("EMPTY").scrub("an EMPTY box") == "an EMPTY box"
    assert Secret("sk-12345").scrub("Bearer sk-12345.") == "Bearer ***."


# --- interrupted runs -------------------------------------------------------------------------------------------------

CHILD = """
import logging, signal, sys
from pathlib import Path
from recbole_eimf.semantic import llm
from recbole_eimf.semantic.llm import OpenAISettings, fetch_openai
from recbole_eimf.semantic.prompt import PromptRequest
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children start with SIGINT ignored
llm.STOP_GRACE_SECONDS = 1000.0  # nothing below may come about by waiting
logging.basicConfig(level="INFO", stream=sys.stderr)
requests = [PromptRequest(f"u{i}", f"prompt {i}") for i in range(40)]
settings = OpenAISettings("m", sys.argv[1], "TEST_LLM_KEY", concurrency=4)
replies = fetch_openai(requests, settings, Path(sys.argv[2]), progress=False)
print(sum(reply.status == "ok" for reply in replies.values()))
"""


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
    command = [sys.executable, "-c", CHILD, server.url, str(tmp_path / "journal.jsonl")]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, env=os.environ
    )


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the child came to nothing"
        time.sleep(0.01)


def test_kill_9_in_the_middle_pays_for_nothing_twice(tmp_path):
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


def test_two_runs_at_once_pay_once(tmp_path):
    with LLMServer(always(delay=0.01)) as server, child(server, tmp_path) as one, child(server, tmp_path) as two:
        outputs = [process.communicate(timeout=60) for process in (one, two)]
    assert [out.strip() for out, _ in outputs] == ["40", "40"], outputs
    assert len(server.prompts()) == 40


def test_a_full_disk_stops_the_run_instead_of_losing_replies(tmp_path, monkeypatch):
    def full(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(llm, "append_jsonl", full)
    with LLMServer() as server:
        with pytest.raises(OSError, match="No space left"):
            fetch(server, tmp_path, 200, concurrency=2)
        assert len(server.asked) < 100
