import json
import logging

import pytest

from recbole_eimf.core.errors import DataError, InterestSourceError
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.sources.batch import fetch_file, read_batch, write_batch

GOOD = '{"1": "Nail art", "2": "Hair care"}'


def lines(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def requests(*users):
    return [PromptRequest(user, f"JSON prompt of {user}") for user in users]


# --- file -------------------------------------------------------------------------------------------------------------


def test_file_replies(tmp_path):
    path = lines(
        tmp_path / "r.jsonl",
        {"user_id": "a", "response": GOOD, "prompt_sha256": "abc"},
        {"user_id": "b", "response": "I would rather not."},
    )
    replies = fetch_file(None, path)
    assert replies["a"].interests == ("Nail art", "Hair care")
    assert (replies["a"].status, replies["a"].source, replies["a"].prompt_sha256) == ("ok", "file", "abc")
    assert (replies["b"].status, replies["b"].response) == ("failed", "I would rather not.")
    assert "No interests found" in replies["b"].error


def test_file_is_restricted_to_the_requests_and_the_absent_stay_absent(tmp_path):
    path = lines(tmp_path / "r.jsonl", *({"user_id": u, "response": GOOD} for u in "abc"))
    assert list(fetch_file(requests("c", "a", "z"), path)) == ["c", "a"]


def test_file_max_interests(tmp_path):
    path = lines(tmp_path / "r.jsonl", {"user_id": "a", "response": GOOD})
    assert fetch_file(None, path, max_interests=1)["a"].interests == ("Nail art",)


def test_file_counts_replies_to_other_prompts(tmp_path, caplog):
    (request, other) = requests("a", "b")
    path = lines(
        tmp_path / "r.jsonl",
        {"user_id": "a", "response": GOOD, "prompt_sha256": request.sha256},
        {"user_id": "b", "response": GOOD, "prompt_sha256": request.sha256},
    )
    assert fetch_file([request], path)["a"].status == "ok"
    assert not caplog.records
    fetch_file([request, other], path)
    assert "1 of 2 replies answer another prompt" in caplog.text


def test_file_the_same_line_twice_is_no_conflict(tmp_path):
    path = lines(tmp_path / "r.jsonl", *[{"user_id": "a", "response": GOOD}] * 2)
    assert len(fetch_file(None, path)) == 1


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"response": GOOD}, "user_id is missing"),
        ({"user_id": "b"}, "response is missing"),
        ({"user_id": "b", "response": {"1": "x"}}, "response is dict"),
        ({"user_id": 3, "response": GOOD}, "user_id is int"),
        ({"user_id": "b", "response": GOOD, "prompt_sha256": 1}, "prompt_sha256 is int"),
        ({"user_id": "a", "response": "else"}, "user a has another response in line 1"),
        ("not json", "not JSON"),
        ("[1]", "list"),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_file_errors_name_file_and_line(tmp_path, bad, complaint, last):
    good = {"user_id": "a", "response": GOOD}
    path = lines(tmp_path / "mine.jsonl", good, bad, *([] if last else [good]))
    with pytest.raises(DataError, match=f"mine.jsonl, line 2: .*{complaint}"):
        fetch_file(None, path)


def test_file_missing(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl"):
        fetch_file(None, tmp_path / "none.jsonl")


# --- batch ------------------------------------------------------------------------------------------------------------


def output(custom_id, content=GOOD, *, finish_reason="stop", refusal=None):
    message = {"role": "assistant", "content": content, "refusal": refusal}
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    return {"id": "x", "custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}


def ids(asked, tmp_path):
    write_batch(asked, OpenAISettings("m"), tmp_path / "in.jsonl")
    return [json.loads(line)["custom_id"] for line in (tmp_path / "in.jsonl").read_text().splitlines()]


def test_batch_input_is_what_the_api_reads(tmp_path):
    asked = [PromptRequest("ü 1", 'As JSON:\n"x"'), PromptRequest("b", "no such word")]
    write_batch(asked, OpenAISettings("gpt-x", max_tokens=9), tmp_path / "in.jsonl")
    first, second = map(json.loads, (tmp_path / "in.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["method"], first["url"]) == ("POST", "/v1/chat/completions")
    assert first["body"] == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": 'As JSON:\n"x"'}],
        "max_completion_tokens": 9,
        "temperature": 0.0,
        "response_format": {"type": "json_object"},
    }
    assert "response_format" not in second["body"]
    assert first["custom_id"] != second["custom_id"]


def test_nothing_of_a_user_is_in_a_batch(tmp_path):
    asked = [PromptRequest(user, "the same prompt") for user in ("secret-1", "secret-2")]
    first, second = ids(asked, tmp_path)
    assert first != second
    assert "secret" not in (tmp_path / "in.jsonl").read_text(encoding="utf-8")
    replies = read_batch(asked, lines(tmp_path / "out.jsonl", output(second, '{"1": "Pens"}'), output(first)))
    assert [replies[user.user_id].interests for user in asked] == [("Nail art", "Hair care"), ("Pens",)]


def test_answers_to_a_batch_of_an_earlier_version_still_load(tmp_path, caplog):
    asked = requests("a", "b")
    old = [output(f"{request.sha256[:16]}-{request.user_id}") for request in asked]
    assert list(read_batch(asked, lines(tmp_path / "out.jsonl", *old))) == ["a", "b"]
    assert not caplog.records


def test_batch_there_and_back_in_any_order(tmp_path):
    asked = requests("a", "b", "never answered")
    a, b, _ = ids(asked, tmp_path)
    replies = read_batch(asked, lines(tmp_path / "out.jsonl", output(b, '{"1": "Pens"}'), output(a)))
    assert {user: reply.interests for user, reply in replies.items()} == {
        "a": ("Nail art", "Hair care"),
        "b": ("Pens",),
    }
    assert replies["a"].usage == {"prompt_tokens": 7, "completion_tokens": 3}
    assert (replies["a"].source, replies["a"].prompt_sha256) == ("batch", asked[0].sha256)


def test_batch_failures(tmp_path):
    asked = requests("refused", "rejected", "expired", "cut", "garbage")
    refused, rejected, expired, cut, garbage = ids(asked, tmp_path)
    path = lines(
        tmp_path / "out.jsonl",
        output(refused, None, refusal="I cannot"),
        {"custom_id": rejected, "response": {"status_code": 400, "body": {"error": {"message": "bad"}}}, "error": None},
        {"custom_id": expired, "response": None, "error": {"code": "batch_expired", "message": "too late"}},
        output(cut, '{"1": "Pens", "2": "Pap', finish_reason="length"),
        output(garbage, "hm"),
    )
    replies = read_batch(asked, path)
    assert {user: reply.status for user, reply in replies.items()} == {
        "refused": "failed",
        "rejected": "failed",
        "expired": "failed",
        "cut": "ok",
        "garbage": "failed",
    }
    assert "I cannot" in replies["refused"].error
    assert "bad" in replies["rejected"].error
    assert "too late" in replies["expired"].error
    assert replies["cut"].interests == ("Pens",)
    assert replies["garbage"].response == "hm"


def test_batch_a_second_batch_of_the_failed_mends_them(tmp_path):
    asked = requests("a")
    (a,) = ids(asked, tmp_path)
    for order in ([output(a, "hm"), output(a)], [output(a), output(a, "hm")]):
        assert read_batch(asked, lines(tmp_path / "out.jsonl", *order))["a"].status == "ok"


def test_batch_output_of_another_prompt_is_not_taken(tmp_path, caplog):
    (old,) = ids([PromptRequest("a", "yesterday's prompt")], tmp_path)
    assert read_batch(requests("a"), lines(tmp_path / "out.jsonl", output(old))) == {}
    assert "1 lines answer no prompt" in caplog.text


@pytest.mark.parametrize("bad", ['{"custom_id": "x"}', '{"response": {}}', "{", "[]"])
def test_batch_errors_name_file_and_line(tmp_path, bad):
    asked = requests("a")
    (a,) = ids(asked, tmp_path)
    with pytest.raises(DataError, match=r"out\.jsonl, line 2"):
        read_batch(asked, lines(tmp_path / "out.jsonl", output(a), bad))


def test_batch_with_nothing_to_ask_or_too_much(tmp_path, monkeypatch):
    with pytest.raises(InterestSourceError, match="no request"):
        write_batch([], OpenAISettings("m"), tmp_path / "in.jsonl")
    monkeypatch.setattr("recbole_eimf.semantic.sources.batch.BATCH_REQUESTS", 2)
    with pytest.raises(InterestSourceError, match="3 requests"):
        write_batch(requests("a", "b", "c"), OpenAISettings("m"), tmp_path / "in.jsonl")
    assert not (tmp_path / "in.jsonl").exists()


def test_reports_how_many_failed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fetch_file(requests("a", "b"), lines(tmp_path / "r.jsonl", {"user_id": "a", "response": "hm"}))
    assert "1 replies for 2 users, 1 of them without interests" in caplog.text
