import json
import logging

import pytest

from recbole_eimf.core.errors import DataError, InterestSourceError
from recbole_eimf.semantic.journal import read_journal
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.sources import batch, endpoint
from recbole_eimf.semantic.sources.batch import fetch_file, write_batch

GOOD = '{"1": "Nail art", "2": "Hair care"}'


def lines(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def requests(*users):
    return [PromptRequest(user, f"JSON prompt of {user}") for user in users]


def read_batch(asked, path):
    """Answers with a journal beside them, which is empty at first."""
    return batch.answers(asked, OpenAISettings("m"), path, path.with_name("journal.jsonl"))


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


def test_a_key_that_a_line_has_twice_is_named_and_what_an_llm_wrote_is_left_to_it(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text('{"user_id": "a", "response": "Nails", "other": {"x": 1, "x": 2}}\n')
    assert len(fetch_file(None, path)) == 1
    path.write_text('{"user_id": "a", "response": "Nails"}\n{"user_id": "b", "response": "Hair", "user_id": "c"}\n')
    with pytest.raises(DataError, match=r"replies\.jsonl, line 2: key 'user_id' is given twice\. Keep one"):
        fetch_file(None, path)


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
    with pytest.raises(InterestSourceError, match="no request"):
        write_batch(requests("a"), OpenAISettings("m"), tmp_path / "in.jsonl", {"a"})
    monkeypatch.setattr(batch, "BATCH_BYTES", 100)
    with pytest.raises(InterestSourceError, match="one request has 0 MB; a batch file takes 0 MB"):
        write_batch(requests("a", "b", "c"), OpenAISettings("m"), tmp_path / "in.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (5, [5]), (1, [1] * 5)])
def test_more_requests_than_a_file_takes_go_into_several(tmp_path, monkeypatch, limit, sizes):
    monkeypatch.setattr(batch, "BATCH_REQUESTS", limit)
    asked = [PromptRequest(user, "one prompt" if user < "d" else "another") for user in "abcde"]
    paths = write_batch(asked, OpenAISettings("m"), tmp_path / "in.jsonl")
    names = [f"in-{n}.jsonl" for n in range(1, len(sizes) + 1)] if len(sizes) > 1 else ["in.jsonl"]
    assert [path.name for path in paths] == names
    content = [path.read_text().splitlines() for path in paths]
    assert [*map(len, content)] == sizes
    named = [json.loads(line)["custom_id"] for part in content for line in part]
    monkeypatch.undo()
    assert named == ids(asked, tmp_path)
    assert len(set(named)) == 5


def test_a_file_of_requests_is_cut_before_it_is_too_large(tmp_path, monkeypatch):
    asked = [PromptRequest(user, f"JSON {user}" * size) for user, size in zip("abcdef", (9, 99, 9, 9, 50, 9))]
    whole = write_batch(asked, OpenAISettings("m"), tmp_path / "in.jsonl")[0].read_bytes()
    sizes = [*map(len, whole.splitlines(keepends=True))]
    for most in (max(sizes), sizes[0] + sizes[1], len(whole) - 1, len(whole)):
        monkeypatch.setattr(batch, "BATCH_BYTES", most)
        parts = [path.read_bytes() for path in write_batch(asked, OpenAISettings("m"), tmp_path / "in.jsonl")]
        assert b"".join(parts) == whole
        assert all(0 < len(part) <= most for part in parts)
        for part, after in zip(parts, parts[1:]):
            assert len(part) + len(after.splitlines(keepends=True)[0]) > most, "no more files than needed"


def test_files_of_an_earlier_and_larger_batch_do_not_stay(tmp_path, monkeypatch):
    for name in ("in-x.jsonl", "in-2.json", "in.txt", "other-2.jsonl"):
        (tmp_path / name).touch()
    others, asked, path = set(tmp_path.iterdir()), requests("a", "b", "c"), tmp_path / "in.jsonl"
    monkeypatch.setattr(batch, "BATCH_REQUESTS", 1)
    for done, names in (((), {"in-1", "in-2", "in-3"}), ({"a"}, {"in-1", "in-2"}), ({"a", "b"}, {"in"})):
        written = write_batch(asked, OpenAISettings("m"), path, done)
        assert {each.stem for each in written} == names
        assert set(tmp_path.iterdir()) - others == set(written)


def test_who_is_answered_is_left_out_and_equal_prompts_keep_their_numbers(tmp_path):
    asked = [PromptRequest(user, "the same prompt") for user in "abc"]
    _, second, _ = ids(asked, tmp_path)
    (path,) = write_batch(asked, OpenAISettings("m"), tmp_path / "in.jsonl", {"a", "c"})
    assert [json.loads(line)["custom_id"] for line in path.read_text().splitlines()] == [second]
    replies = read_batch(asked, lines(tmp_path / "out.jsonl", output(second)))
    assert list(replies) == ["b"]


def test_a_folder_of_answers_is_read_as_one_file(tmp_path):
    asked = requests("a", "b", "c")
    a, b, c = ids(asked, tmp_path)
    folder = tmp_path / "answers"
    folder.mkdir()
    with pytest.raises(DataError, match=r"answers: no \.jsonl file in this folder"):
        read_batch(asked, folder)
    lines(folder / "2.jsonl", output(a), output(c, "hm"))
    lines(folder / "1-error.jsonl", {"custom_id": a, "response": None, "error": {"message": "expired"}}, output(b))
    (folder / "notes.txt").write_text("not JSON")
    replies = read_batch(asked, folder)
    assert {user: reply.status for user, reply in replies.items()} == {"a": "ok", "b": "ok", "c": "failed"}
    lines(folder / "3.jsonl", output(c), {"response": {}})
    with pytest.raises(DataError, match=r"answers/3\.jsonl, line 2: custom_id is missing"):
        read_batch(asked, folder)


def test_what_no_batch_answers_comes_from_the_journal_of_the_same_model_and_prompt(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    asked = requests("a", "b", "c", "d")
    a, b, _, _ = ids(asked, tmp_path)
    record = {"status": "ok", "response": '{"1": "Pens"}', "usage": None, "temperature": 0.7}
    models = {"d": "other"}
    journal = lines(tmp_path / "journal.jsonl", *(
        {"user_id": each.user_id, "prompt_sha256": each.sha256, "model": models.get(each.user_id, "m"), **record}
        for each in asked
    ))  # fmt: skip
    path = lines(tmp_path / "out.jsonl", output(a), output(b, "hm"))
    replies = batch.answers(asked, OpenAISettings("m"), path, journal)
    assert {user: reply.interests for user, reply in replies.items()} == {
        "a": ("Nail art", "Hair care"), "b": ("Pens",), "c": ("Pens",)
    }  # fmt: skip
    assert "journal.jsonl: 2 replies that no batch has are taken from it" in caplog.text
    assert "of 2 replies that are used again from it, 2 with llm_temperature=0.7 (now 0.0)" in caplog.text
    assert list(batch.answers(asked, OpenAISettings("m"), path, tmp_path / "none.jsonl")) == ["a", "b"]


def test_what_a_batch_answers_is_in_the_journal_from_then_on(tmp_path, caplog):
    """Once, whatever is read again; half a line that a kill left is written whole; the endpoint is not asked again."""
    caplog.set_level(logging.INFO)
    asked, journal = requests("a", "b", "c"), tmp_path / "new" / "journal.jsonl"
    a, b, c = ids(asked, tmp_path)
    path = lines(tmp_path / "out.jsonl", output(a), output(b, "hm"), output(c, '{"1": "Pens"', finish_reason="length"))
    wanted = OpenAISettings("m", api_key_env="NO_SUCH_KEY")
    batch.answers(asked, wanted, path, journal)
    first = journal.read_text()
    records = [json.loads(line) for line in first.splitlines()]
    assert [(each["user_id"], each["status"], each["source"], each["interests"]) for each in records] == [
        ("a", "ok", "batch", ["Nail art", "Hair care"]), ("c", "ok", "batch", ["Pens"])
    ]  # fmt: skip
    assert [each["prompt_sha256"] for each in records] == [asked[0].sha256, asked[2].sha256]
    assert records[0]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3}
    assert not {"temperature", "base_url"} & records[0].keys(), "nobody knows with what it was asked"
    batch.answers(asked, wanted, path, journal)
    assert journal.read_text() == first
    journal.write_text(first[:-30])  # a kill
    batch.answers(asked, wanted, path, journal)
    assert journal.read_text() == first
    caplog.clear()
    replies = endpoint.ask([asked[0], asked[2]], wanted, journal, "mine", agreed=False)
    assert [reply.interests for reply in replies.values()] == [("Nail art", "Hair care"), ("Pens",)]
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize(("said", "kept"), [("m-2026-01-02", 1), ("x/M", 1), ("m@20260102", 1), (None, 1), (7, 1),
                          ("other", 0), ("m-mini", 0), ("m2", 0)])  # fmt: skip
def test_answers_of_another_model_are_not_put_down_to_this_one(tmp_path, caplog, said, kept):
    (request,) = asked = requests("a")
    answer = output(*ids(asked, tmp_path))
    answer["response"]["body"]["model"] = said
    path, journal = lines(tmp_path / "out.jsonl", answer), tmp_path / "journal.jsonl"
    assert batch.answers(asked, OpenAISettings("m"), path, journal)["a"].status == "ok"
    assert len(read_journal(journal, "m")) == kept
    assert (f"1 of 1 answers are of model {said}, not llm_model=m" in caplog.text) == (not kept)


def test_answers_under_the_name_behind_a_deployment_are_kept_where_the_user_says_so(tmp_path, caplog):
    asked, files = requests("a", "b"), {}
    for request, custom_id, said in zip(asked, ids(asked, tmp_path), ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18")):
        files[request.user_id] = output(custom_id)
        files[request.user_id]["response"]["body"]["model"] = said
    path, journal = lines(tmp_path / "out.jsonl", *files.values()), tmp_path / "journal.jsonl"
    batch.answers(asked, OpenAISettings("mine"), path, journal)
    assert not journal.exists()
    assert "--llm_model_alias=gpt-4o-2024-08-06 has them written there" in caplog.text
    caplog.clear()
    batch.answers(asked, OpenAISettings("mine", model_alias="gpt-4o"), path, journal)
    assert list(read_journal(journal, "mine")) == [("a", asked[0].sha256)]
    assert "1 of 2 answers are of model gpt-4o-mini-2024-07-18, not llm_model=mine" in caplog.text


def test_a_file_without_an_answer_is_named(tmp_path):
    with pytest.raises(DataError, match="batch_file=.*empty.jsonl: no answer in it"):
        read_batch(requests("a"), lines(tmp_path / "empty.jsonl"))


def test_a_journal_that_takes_nothing_does_not_stop_the_batch(tmp_path, caplog):
    asked = requests("a")
    path = lines(tmp_path / "out.jsonl", output(*ids(asked, tmp_path)))
    (tmp_path / "file").write_text("")
    assert list(batch.answers(asked, OpenAISettings("m"), path, tmp_path / "file" / "journal.jsonl")) == ["a"]
    assert "answers of the batch are not kept there" in caplog.text


def test_reports_how_many_failed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fetch_file(requests("a", "b"), lines(tmp_path / "r.jsonl", {"user_id": "a", "response": "hm"}))
    assert "1 replies for 2 users, 1 of them without interests" in caplog.text
