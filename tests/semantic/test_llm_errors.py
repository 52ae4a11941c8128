"""fetch_openai when the endpoint errs: retries and back-off, errors no retry can mend.

Counts and orders only: no test asserts a time.
"""

import email.utils
import json
import logging
import random
import threading
import time

import pytest

from recbole_eimf.core.errors import InterestSourceError
from recbole_eimf.semantic.llm import endpoint
from tests.semantic.llm_calls import always, fetch, journal, once
from tests.semantic.llm_server import Answer, LLMServer

pytestmark = pytest.mark.usefixtures("quick_endpoint")


# --- concurrency and retries ------------------------------------------------------------------------------------------


def test_concurrency_is_used_and_bounded(tmp_path):
    five = threading.Event()

    def answer(asked, n):
        # held until five are there, so that a busy machine cannot make them come one by one; the first is asked alone
        if server.most_at_once >= 5:
            five.set()
        if asked.prompt != "prompt 0":
            five.wait(timeout=60)
        return Answer(delay=0.05)

    with LLMServer(answer) as server:
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


def test_nobody_asks_while_the_endpoint_wants_to_be_left_alone(tmp_path):
    """One of four calls under way is told to wait; the other three end within that time, and call no more until then.

    The server counts what comes in a part of the time that begins when it says so and ends well before the wait does.
    """
    lock, arrived, told, ended = threading.Lock(), threading.Semaphore(0), threading.Event(), threading.Event()
    early = []

    def answer(asked, n):
        with lock:
            if told.is_set() and not ended.is_set():
                early.append(asked.prompt)
        if asked.prompt in ("prompt 2", "prompt 3", "prompt 4"):
            arrived.release()
            told.wait(30)
            return Answer(delay=0.5)  # so that the 429 has come by then
        if asked.prompt != "prompt 1" or n:
            return Answer()
        for _ in range(3):
            arrived.acquire(timeout=30)
        with lock:
            told.set()
        threading.Timer(1.5, ended.set).start()
        return Answer(status=429, headers={"Retry-After": "2.5"})

    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 20, concurrency=4)
    assert early == []
    assert all(reply.status == "ok" for reply in replies.values())
    assert len(server.asked) == 21


def test_a_wait_that_the_endpoint_asked_for_ends_with_the_run(tmp_path, monkeypatch):
    """Who waits at the gate makes no call once another call has failed for good."""
    monkeypatch.setattr("recbole_eimf.semantic.llm.calls.STOP_GRACE_SECONDS", 1000.0)
    told = threading.Event()

    def answer(asked, n):
        if asked.prompt == "prompt 1":
            told.set()
            return Answer(status=429, headers={"Retry-After": "250"})
        if asked.prompt == "prompt 2":
            told.wait(30)
            return Answer(status=401, delay=0.5)
        return Answer(delay=0.02)

    begin = time.monotonic()
    with LLMServer(answer) as server, pytest.raises(InterestSourceError, match="HTTP 401"):
        fetch(server, tmp_path, 20, concurrency=3)
    assert time.monotonic() - begin < 200
    assert "prompt 19" not in server.prompts()


def test_a_call_is_not_made_again_in_other_words_once_the_run_is_being_stopped(tmp_path):
    told = threading.Event()

    def answer(asked, n):
        if asked.prompt == "prompt 1":
            told.set()
            return Answer(status=401)
        if asked.prompt == "prompt 2":
            told.wait(30)
            return Answer(status=400, delay=0.5, error={"message": "response_format is unsupported"})
        return Answer()

    with LLMServer(answer) as server, pytest.raises(InterestSourceError, match="HTTP 401"):
        fetch(server, tmp_path, 3, concurrency=3)
    assert server.prompts().count("prompt 2") == 1


def test_what_has_come_is_counted_and_priced_where_the_endpoint_gives_up(tmp_path, caplog):
    """An account that runs dry: what was spent on it is told as at the end of a run that went well."""
    caplog.set_level(logging.INFO)

    def answer(asked, n):
        spent = asked.prompt == "prompt 2"
        return Answer(status=429, error={"message": "dry", "code": "insufficient_quota"}) if spent else Answer()

    with LLMServer(answer) as server, pytest.raises(InterestSourceError, match="out of credit"):
        fetch(server, tmp_path, 5, concurrency=1, price_in=1e5, price_out=1e5)
    assert "Replies from m: 2 ok, 0 failed, 20 prompt and 10 completion tokens, about $3.00" in caplog.text


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 90 < endpoint._retry_after({"retry-after": date}) <= 100
    assert endpoint._retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert endpoint._retry_after({}) is None


@pytest.mark.parametrize("value", ["inf", "Infinity", "nan", "1e999"])
def test_a_retry_after_that_is_no_number_is_no_wait(value):
    assert endpoint._retry_after({"retry-after": value}) is None
    assert endpoint._retry_after({"retry-after-ms": value, "retry-after": "2"}) == 2


def test_a_wait_of_hours_ends_the_run_at_once_and_replies_under_way_are_kept(tmp_path):
    told, under_way = threading.Event(), threading.Event()

    def answer(asked, n):
        if asked.prompt == "prompt 1":
            under_way.wait(30)
            told.set()
            return Answer(status=429, headers={"Retry-After": "7201"}, error={"message": "The day is over."})
        if asked.prompt == "prompt 2":
            under_way.set()
            told.wait(30)
            return Answer(delay=0.5)
        return Answer()

    with LLMServer(answer) as server, pytest.raises(InterestSourceError) as caught:
        fetch(server, tmp_path, 20, concurrency=2)
    assert "HTTP 429: The day is over. (asks to wait 7201 s" in str(caught.value)
    assert "Run the same command again in 121 minutes" in str(caught.value)
    assert server.prompts() == ["prompt 0", "prompt 1", "prompt 2"]
    assert [(record["user_id"], record["status"]) for record in journal(tmp_path)] == [("u0", "ok"), ("u2", "ok")]


def test_what_an_endpoint_says_ends_with_one_full_stop(tmp_path):
    for answer, ends in (
        ({"status": 401, "error": {"message": "No such key."}}, "No such key. Check the key"),
        ({"raw": b"<html>"}, "does llm_base_url end in /v1? The endpoint"),
    ):
        with LLMServer(always(**answer)) as server, pytest.raises(InterestSourceError) as caught:
            fetch(server, tmp_path)
        assert ends in str(caught.value)


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


def test_a_prompt_that_always_fails_does_not_stop_a_run_whose_other_replies_stand_in_the_journal(tmp_path, caplog):
    """A single prompt left tells nothing of the endpoint, unless nothing can be sent to it, or nobody has a reply."""
    answer = lambda asked, n: Answer(status=500 if asked.prompt == "prompt 2" else 200)  # noqa: E731
    with LLMServer(answer) as server:
        fetch(server, tmp_path, 5, max_retries=0)
        caplog.clear()
        replies = fetch(server, tmp_path, 5, max_retries=0)
        assert server.prompts().count("prompt 2") == 2
    assert [reply.status for reply in replies.values()] == ["ok", "ok", "failed", "ok", "ok"]
    assert "1 of 5 prompts are without a reply of use (1 no answer); u2, for one: HTTP 500" in caplog.text
    with pytest.raises(InterestSourceError, match="1 prompts in a row got no answer: no connection"):
        fetch(server, tmp_path, 5, max_retries=0)
    with LLMServer(always(status=500)) as server, pytest.raises(InterestSourceError, match="1 prompts in a row"):
        fetch(server, tmp_path / "new", 1, max_retries=0)


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
        (404, {"message": "no model m"}, "Check llm_model"),
        (400, {"message": "n must be 1"}, "set llm_structured: off"),
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


@pytest.mark.parametrize(("status", "error"), [
    (400, {"code": 400, "type": "BadRequestError", "message": "This model's maximum context length is 2048 tokens."}),
    (400, {"code": "invalid_prompt", "message": "no"}),
    (413, {"message": "prompt is too long"}),
])  # fmt: skip
def test_a_refusal_of_the_very_first_prompt_in_words_that_are_known_fails_that_prompt_only(tmp_path, status, error):
    answer = lambda asked, n: Answer(status=status, error=error) if asked.prompt == "prompt 0" else Answer()  # noqa: E731
    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 3)
    assert [reply.status for reply in replies.values()] == ["failed", "ok", "ok"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_endpoint_that_has_answered_refuses_prompts_and_a_second_run_goes_on(tmp_path, status):
    refuse = {"prompt 1"}
    answer = lambda asked, n: Answer(status=status) if asked.prompt in refuse else Answer()  # noqa: E731
    with LLMServer(answer) as server:
        first = fetch(server, tmp_path, 3, concurrency=1)
        assert [reply.status for reply in first.values()] == ["ok", "failed", "ok"]
        second = fetch(server, tmp_path, 4, concurrency=1)  # begins with the prompt that was refused
    assert [reply.status for reply in second.values()] == ["ok", "failed", "ok", "ok"]


def test_an_endpoint_that_refuses_everything_from_some_prompt_on_is_not_asked_all(tmp_path):
    with LLMServer(lambda asked, n: Answer() if asked.prompt == "prompt 0" else Answer(status=400)) as server:
        with pytest.raises(InterestSourceError, match="scripted 400"):
            fetch(server, tmp_path, 40, concurrency=1)
        assert len(server.prompts()) == 1 + endpoint.REFUSED_IN_A_ROW + 1


def test_half_an_emoji_in_an_error_can_be_written_to_the_journal(tmp_path):
    error = {"message": "cut \ud83d", "code": "content_filter"}
    with LLMServer(always(status=400, error=error)) as server:
        reply = fetch(server, tmp_path)["u0"]
        assert "cut ?" in reply.error
        fetch(server, tmp_path)
    assert [record["error"] for record in journal(tmp_path)] == [reply.error] * 2
