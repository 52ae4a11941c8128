"""fetch_openai when replies with status 200 are damaged, refused or of no use, over a real HTTP server."""

import itertools
import json
import logging

import pytest

from recbole_eimf.core.errors import DataError, InterestSourceError
from recbole_eimf.semantic import journal as journal_file
from recbole_eimf.semantic.llm import calls
from recbole_eimf.semantic.llm.client import fetch_openai
from tests.semantic.llm_calls import KEY, always, fetch, journal, once, requests, settings
from tests.semantic.llm_server import GOOD, Answer, LLMServer

RUN_AWAY = {
    "spaces, as JSON mode is known for": '{"1": "Nail art",' + " " * 40_000 + "x",
    "spaces after a key": '{"1": "Nail art", "2"' + " " * 40_000 + "x",
    "stars": "*" * 40_000,
    "spaces in a line": "interest" + " " * 2_000 + "x",
}

pytestmark = pytest.mark.usefixtures("quick_endpoint")

REFUSAL = "I'm sorry, but I cannot help with that."


def whole(**changes):
    """A chat completion with parts replaced."""
    message = {"role": "assistant", "content": GOOD}
    message.update(changes.pop("message", {}))
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    choice.update(changes.pop("choice", {}))
    return {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}, **changes}


def body(**changes):
    return json.dumps(whole(**changes))


UNREADABLE = {
    "not UTF-8": b'{"choices": [{"message": {"content": "caf\xe9"}}]}',
    "deep": '{"choices": ' + "[" * 100_000,
    "deep and whole": '{"choices": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "a huge integer": '{"choices": [], "created": ' + "1" * 5000 + "}",
    "cut off": body()[:-20],
    "empty": "",
    "binary": bytes(range(256)),
    "choices of another type": '{"choices": {"0": {}}}',
    "choices null": '{"choices": null}',
    "NULs": body().replace("Nail", "Na\0il"),
}
NO_COMPLETION = {
    "no choice": body(choices=[]),
    "a choice that is a number": body(choices=[5]),
    "a choice that is null": body(choices=[None]),
    "a list as message": json.dumps({"choices": [{"message": [1]}]}),
    "no message": json.dumps({"choices": [{"text": "Nail art"}]}),
}
OF_USE = {
    "usage is text": body(usage="many"),
    "usage is a list": body(usage=[1, 2]),
    "a count is text": body(usage={"prompt_tokens": "ten", "completion_tokens": 5}),
    "a count is endless": body(usage={"prompt_tokens": 1e999, "completion_tokens": 5}).replace("Infinity", "1e999"),
    "a count is nan": body(usage={"prompt_tokens": float("nan"), "completion_tokens": 5}),
    "a count is negative": body(usage={"prompt_tokens": -3, "completion_tokens": 5}),
    "a count is a list": body(usage={"prompt_tokens": [10], "completion_tokens": {}}),
    "a count of 4,000 digits": body(usage={"prompt_tokens": "HERE"}).replace('"HERE"', "9" * 4000),
    "finish_reason is an object": body(choice={"finish_reason": {"a": [1]}}, usage=None),
    "content is an object": body(message={"content": {"1": "Nail art", "2": "Hair care"}}, usage=None),
    "content is a list of texts": body(message={"content": ["Nail art", "Hair care"]}, usage=None),
    "refusal is false": body(message={"refusal": False}, usage=None),
    "a second choice of nonsense": body(choices=[*whole()["choices"], 7], usage=None),
    "fields nobody knows": body(id={"x": [[]]}, created="now", model=3, object=None, usage=None),
}  # fmt: skip
OF_NO_USE = {
    "content is a number": body(message={"content": 5}),
    "content is true": body(message={"content": True}),
    "content is a deep list": body().replace(json.dumps(GOOD), "[" * 900 + "]" * 900),
    "content is a list of numbers": body(message={"content": [1, 2]}),
    "parts of another type": body(message={"content": [{"text": {"value": "x"}}, {"text": 3}]}),
    "refusal is an object": body(message={"refusal": {"deep": [1]}}),
    "a refusal as text": body(message={"content": REFUSAL}),
}


@pytest.mark.parametrize("raw", [*UNREADABLE.values(), *NO_COMPLETION.values()], ids=[*UNREADABLE, *NO_COMPLETION])
@pytest.mark.parametrize("first", [True, False])
def test_a_malformed_reply_is_kept_raw_and_the_run_goes_on(tmp_path, raw, first):
    bad = "prompt 0" if first else "prompt 2"
    with LLMServer(lambda asked, n: Answer(raw=raw) if asked.prompt == bad else Answer()) as server:
        replies = fetch(server, tmp_path, 4, concurrency=1)
        asked = server.prompts().count(bad)
    assert sorted(reply.status for reply in replies.values()) == ["failed", "ok", "ok", "ok"]
    (failed,) = (reply for reply in replies.values() if reply.failure)
    assert failed.failure == "malformed"
    records = [record for record in journal(tmp_path) if record["status"] == "failed"]
    assert len(records) == asked == (2 if raw in UNREADABLE.values() else 1)
    sent = raw if isinstance(raw, bytes) else raw.encode()
    assert records[0]["response"] == sent.decode("utf-8", "backslashreplace")
    assert records[0]["usage"] is None or raw in NO_COMPLETION.values()


@pytest.mark.parametrize("error", ['"overloaded"', '{"message": "overloaded"}'])
def test_an_error_with_status_200_is_waited_for_whatever_its_form(tmp_path, error, monkeypatch):
    monkeypatch.setattr("recbole_eimf.semantic.llm.endpoint.BACKOFF_SECONDS", 0.01)
    with LLMServer(once(raw=f'{{"error": {error}}}')) as server:
        assert fetch(server, tmp_path)["u0"].status == "ok"
        assert len(server.asked) == 2


def test_a_malformed_reply_is_asked_for_once_more(tmp_path):
    with LLMServer(once(raw=UNREADABLE["not UTF-8"])) as server:
        assert fetch(server, tmp_path)["u0"].status == "ok"
    assert [asked.body["messages"] for asked in server.asked] == [[{"role": "user", "content": "prompt 0"}]] * 2


@pytest.mark.parametrize("raw", OF_USE.values(), ids=OF_USE)
def test_what_is_odd_about_a_good_reply_does_no_harm(tmp_path, raw):
    with LLMServer(always(raw=raw)) as server:
        reply = fetch(server, tmp_path)["u0"]
        assert (reply.status, reply.interests, reply.usage) == ("ok", ("Nail art", "Hair care"), None)
        assert fetch(server, tmp_path)["u0"] == reply
        assert len(server.asked) == 1


@pytest.mark.parametrize("raw", OF_NO_USE.values(), ids=OF_NO_USE)
def test_what_is_odd_about_a_bad_reply_fails_it_alone(tmp_path, raw):
    with LLMServer(lambda asked, n: Answer(raw=raw) if asked.prompt.startswith("prompt 1") else Answer()) as server:
        replies = fetch(server, tmp_path, 3)
    assert [reply.status for reply in replies.values()] == ["ok", "failed", "ok"]
    assert replies["u1"].failure in ("no interests", "no content", "refusal", "placeholder")


def test_another_page_in_the_middle_fails_one_prompt(tmp_path):
    """After a good reply the address is known to be right."""
    answer = lambda asked, n: Answer(raw="<html>busy</html>") if asked.prompt == "prompt 2" else Answer()  # noqa: E731
    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 4, concurrency=1)
    assert [reply.status for reply in replies.values()] == ["ok", "ok", "failed", "ok"]
    assert replies["u2"].response == "<html>busy</html>"


def test_a_parser_that_fails_loses_no_reply(tmp_path, monkeypatch):
    def broken(*_):
        raise IndexError("no such thing")

    monkeypatch.setattr(calls, "completion_interests", broken)
    with LLMServer() as server:
        assert fetch(server, tmp_path)["u0"].error == "Reading the reply failed (IndexError)."
    assert journal(tmp_path)[0]["response"] == GOOD


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refusal_is_asked_once_more_and_counted_by_kind(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def answer(asked, n):
        contents = {"prompt 0": REFUSAL, "prompt 1": '{"1": "N/A"}', "prompt 2": '{"error": {"code": 1}}'}
        return Answer(content=contents.get(asked.prompt, GOOD))

    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 5)
    assert [reply.failure for reply in replies.values()] == ["refusal", "placeholder", "error object", None, None]
    assert len(server.asked) == 8
    assert "2 ok, 3 failed (1 refusal, 1 placeholder, 1 error object)" in caplog.text
    complaints = [asked.body["messages"][-1]["content"] for asked in server.asked if len(asked.body["messages"]) > 1]
    assert any("best guess is enough" in complaint for complaint in complaints)


def test_a_refusal_that_was_once_taken_for_an_interest_is_asked_again(tmp_path):
    with LLMServer() as server:
        fetch(server, tmp_path, 2)
        path = tmp_path / "journal.jsonl"
        old = [{**record, "response": '{"1": "Unknown"}', "interests": ["Unknown"]} for record in journal(tmp_path)[:1]]
        path.write_text("".join(json.dumps(record) + "\n" for record in old + journal(tmp_path)[1:]))
        assert [reply.interests for reply in fetch(server, tmp_path, 2).values()] == [("Nail art", "Hair care")] * 2
    assert len(server.asked) == 3


def test_a_long_bad_reply_is_not_sent_back_whole(tmp_path):
    with LLMServer(once(content="blah " * 50_000)) as server:
        assert fetch(server, tmp_path)["u0"].status == "ok"
    assert len(server.asked[1].body["messages"][1]["content"]) == calls.MOST_COMPLAINED_OF


# --- an endpoint of no use --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"content": REFUSAL}, "20 refusal"),
        ({"raw": UNREADABLE["deep"]}, "20 malformed"),
        ({"raw": body(choices=[])}, "20 malformed"),
        ({"content": None, "refusal": "no"}, "20 refusal"),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 64])
def test_an_endpoint_of_no_use_is_not_paid_on(tmp_path, answer, kind, concurrency):
    with LLMServer(always(**answer)) as server:
        with pytest.raises(
            InterestSourceError, match="not one of the first 20 replies (.* )?holds an interest"
        ) as error:
            fetch(server, tmp_path, 200, concurrency=concurrency, ask=lambda question: None)
        assert len(server.asked) == len(journal(tmp_path)) == 20
    for part in (kind, server.url, "model m", "journal.jsonl", "--llm_check_first=0"):
        assert part in str(error.value)


def test_a_trial_counts_prompts_beside_replies_and_speaks_of_what_was_asked_for(tmp_path):
    stopped = [
        ("interests", "(to 10 prompts, some asked twice) holds an interest", " prompt_file"),
        ("knowledge", "(to 10 prompts, some asked twice) holds knowledge of an item", " knowledge_prompt_file"),
    ]
    nobody = lambda question: None  # noqa: E731
    for what, holds, key in stopped:
        with LLMServer(always(content=REFUSAL)) as server:
            wanted, path = settings(server, concurrency=1), tmp_path / f"{what}.jsonl"
            with pytest.raises(InterestSourceError) as error:
                fetch_openai(requests(15), wanted, path, progress=False, ask=nobody, what=what)
        assert f"not one of the first 20 replies {holds}" in str(error.value)
        assert key in str(error.value)
        assert ".. " not in str(error.value)


def test_one_question_and_then_all_of_them(tmp_path):
    questions = []

    def ask(question):
        questions.append(question)
        return True

    good = {f"prompt {n}" for n in range(90, 100)}
    with LLMServer(lambda asked, n: Answer(content=GOOD if asked.prompt in good else REFUSAL)) as server:
        replies = fetch(server, tmp_path, 100, ask=ask)
        assert len(server.asked) <= 190
    assert len(questions) == 1
    assert "20 refusal" in questions[0]
    assert sum(reply.status == "ok" for reply in replies.values()) == 10
    assert len(replies) == 100


def test_no_is_no(tmp_path):
    with LLMServer(always(content=REFUSAL)) as server:
        with pytest.raises(InterestSourceError, match="llm_check_first"):
            fetch(server, tmp_path, 100, ask=lambda question: False)
        assert len(server.asked) == 20


@pytest.mark.parametrize(("key", "calls"), [({"check_first": 0}, 80), ({"check_first": 5}, 5), ({}, 20)])
def test_check_first(tmp_path, key, calls):
    with LLMServer(always(content=REFUSAL)) as server:
        try:
            fetch(server, tmp_path, 40, ask=lambda question: None, **key)
        except InterestSourceError:
            assert calls < 80
        assert len(server.asked) == calls


def test_one_good_reply_is_enough_and_answered_prompts_are_proof(tmp_path):
    ask = pytest.fail
    with LLMServer(lambda asked, n: Answer(content=GOOD if asked.prompt == "prompt 7" else REFUSAL)) as server:
        assert sum(reply.status == "ok" for reply in fetch(server, tmp_path, 40, ask=ask).values()) == 1
        fetch(server, tmp_path, 40, ask=ask)
    assert len(server.asked) == 79 + 78


def test_calls_without_an_answer_are_no_replies(tmp_path):
    """They cost nothing; where they alternate with refusals, the trial neither ends early nor waits for ever."""
    turn = itertools.count()
    answer = lambda asked, n: Answer(status=500) if next(turn) % 3 else Answer(content=REFUSAL)  # noqa: E731
    with LLMServer(answer) as server, pytest.raises(InterestSourceError, match="not one of the first 20"):
        fetch(server, tmp_path, 200, concurrency=30, max_retries=0, ask=lambda question: None)
    replies = [record for record in journal(tmp_path) if record["response"]]
    assert len(replies) == 20


# --- long replies, journals of others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [True, False])
def test_a_long_reply_is_cut_in_the_journal(tmp_path, bad):
    long = ("" if bad else '{"1": "Nail art", "2": "Hair care"}') + "é" * 200_000
    with LLMServer(always(content=long)) as server:
        reply = fetch(server, tmp_path)["u0"]
        record = journal(tmp_path)[0]
        assert record["response"] == "é" * (journal_file.MOST_BYTES // 2) or not bad
        assert record["response_bytes"] == len(long.encode())
        assert len(record["response"].encode()) <= journal_file.MOST_BYTES
        assert (tmp_path / "journal.jsonl").stat().st_size < 3 * journal_file.MOST_BYTES
        assert reply.status == ("failed" if bad else "ok")
        if not bad:
            assert fetch(server, tmp_path)["u0"].interests == ("Nail art", "Hair care")
            assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": ["u0"]}, "line 1: user_id is list"),
        ({"prompt_sha256": None}, "line 1: prompt_sha256 is NoneType"),
        ({"response": 3}, "line 1: response is int"),
        ({"usage": "much"}, "line 1: usage is str"),
    ],
)
def test_a_damaged_journal_is_named(tmp_path, change, message):
    with LLMServer() as server:
        fetch(server, tmp_path)
        record = {**journal(tmp_path)[0], **change}
        (tmp_path / "journal.jsonl").write_text(json.dumps(record) + "\n")
        with pytest.raises(DataError, match=f"journal.jsonl, {message}"):
            fetch(server, tmp_path)


@pytest.mark.parametrize("change", [{"interests": "Nail"}, {"interests": [1, None]}, {"usage": {"prompt_tokens": "x"}}])
def test_small_damage_to_the_journal_does_no_harm(tmp_path, change):
    with LLMServer() as server:
        fetch(server, tmp_path)
        record = {**journal(tmp_path)[0], **change}
        (tmp_path / "journal.jsonl").write_text(json.dumps(record) + "\n")
        assert fetch(server, tmp_path)["u0"].interests == ("Nail art", "Hair care")
        assert len(server.asked) == 1


def test_the_key_is_in_no_raw_reply(tmp_path):
    with LLMServer(always(raw='{"choices": "' + KEY)) as server:
        fetch_openai(requests(1), settings(server), tmp_path / "journal.jsonl", progress=False)
    assert KEY not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize("content", RUN_AWAY.values(), ids=RUN_AWAY)
def test_a_reply_of_a_model_that_runs_away_does_not_hold_up_the_others(tmp_path, content):
    """Reading it took half a minute, in which the calls under way ran into their time-out and were paid again."""

    def answer(asked, n):
        return Answer(content=content) if asked.prompt == "prompt 1" else Answer(delay=0.5)

    with LLMServer(answer) as server:
        replies = fetch(server, tmp_path, 6, concurrency=6, timeout=15.0)
    prompts = server.prompts()
    assert [prompts.count(f"prompt {n}") for n in (0, 2, 3, 4, 5)] == [1] * 5
    assert [reply.status for user, reply in replies.items() if user != "u1"] == ["ok"] * 5
    assert (replies["u1"].interests == ("Nail art",)) == ("Nail art" in content)
