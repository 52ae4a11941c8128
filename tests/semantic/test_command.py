"""``python -m recbole_eimf interests`` as a user types it, against a loopback endpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from tests.forked import Forked, command_line
from tests.semantic.llm_server import GOOD, Answer, LLMServer


@pytest.fixture
def arguments(planted, tmp_path):
    return [
        "interests", "--dataset=planted", f"--data_path={planted}", "--text_encoder=tfidf-svd", "--exemplar_ratio=0.1",
        f"--semantic_cache={tmp_path / 'cache'}", f"--output_dir={tmp_path / 'out'}", "--interest_source=openai",
        "--llm_price_in=1", "--llm_price_out=2",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")


def test_dry_run_shows_prompt_and_price_and_calls_nobody(arguments, capsys):
    with LLMServer() as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--dry-run"]) == 0
        assert server.asked == []
    shown = capsys.readouterr().out
    assert "The user's historical click sequence is as follows" in shown
    assert "nail polish (i" in shown
    assert "calls" in shown
    assert "$" in shown or "USD" in shown


def said_price(shown):
    """(calls, answered by the journal, prompt tokens, price) of what a command says before it spends."""
    found = re.search(r"(\d+) calls \((\d+) answered .*?, about ([\d,]+) prompt and .* tokens, about \$([\d.]+)", shown)
    calls, cached, tokens, price = (float(each.replace(",", "")) for each in found.groups())
    return calls, cached, tokens, price


@pytest.mark.parametrize("command", ["interests", "knowledge"])
def test_the_dry_run_says_what_is_then_sent(arguments, tmp_path, capsys, command):
    """The first time all of it, the second what stands in the journal without a reply of use."""
    other = [each for each in arguments[1:] if "interest_source" not in each and "llm_price" not in each]
    asking = [command, *other, f"--{command.removesuffix('s')}_source=openai"]
    asking += ["--llm_price_in=10000", "--llm_price_out=20000", "--llm_check_first=0"]
    good = GOOD if command == "interests" else '{"kind": "pen", "next": ["ink"]}'
    before = 0
    for content, code in (("N/A", 3), (good, 0)):
        with LLMServer(lambda asked, n: Answer(content=content if "(i3)" in asked.prompt else good)) as server:  # noqa: B023
            asking_here = [*asking, f"--llm_base_url={server.url}"]
            assert main([*asking_here, "--dry-run"]) == 0
            assert server.asked == []
            calls, cached, tokens, price = said_price(capsys.readouterr().out)
            assert main([*asking_here, "--yes"]) == code
            assert said_price(capsys.readouterr().out) == (calls, cached, tokens, price)
            sent = {asked.prompt for asked in server.asked}
        assert (calls, cached) == (len(sent), before)
        assert tokens == sum(-(-len(prompt.encode()) // 4) for prompt in sent)
        assert price == pytest.approx(tokens * 0.01 + calls * 100 * 0.02, abs=0.01)
        before = len(sent) - sum("(i3)" in prompt for prompt in sent)
    assert calls
    assert cached


def test_without_a_terminal_it_does_not_spend(arguments, capsys):
    with LLMServer() as server:
        assert main([*arguments, f"--llm_base_url={server.url}"]) == 2
        assert server.asked == []
    assert "--yes" in capsys.readouterr().err


def test_a_missing_key_is_an_error_before_any_work(arguments, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main([*arguments, "--yes"]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_the_clusters_are_those_of_the_run_that_will_ask(arguments, capsys):
    """recipe=paper joins texts and searches with p = -10: other exemplars than those of EIMF as it comes."""
    from recbole_eimf.experiment.interests import training_pipeline

    keys = dict(argument.removeprefix("--").split("=") for argument in arguments[2:-3])
    del keys["exemplar_ratio"]  # which would take the place of p
    strong, paper = (training_pipeline("planted", None, {**keys, **more})[0].settings
                     for more in ({}, {"recipe": "paper", "model": "EIMF"}))  # fmt: skip
    assert (strong.sequence_text, strong.preference) == ("pooled", None)
    assert (paper.sequence_text, paper.preference) == ("joined", -10.0)
    assert main([*arguments, "--dry-run", "--model=SASRec"]) == 2
    assert "model=SASRec reads no interests" in capsys.readouterr().err
    assert main([*arguments, "--dry-run", "--recipe=papr"]) == 2
    assert "paper" in capsys.readouterr().err
    asked = [each for each in arguments if "interest" not in each and "ratio" not in each]
    assert main(["knowledge", *asked, "--knowledge_source=openai", "--dry-run", "--recipe=paper"]) == 2
    assert "recipe=paper: items are asked about alike" in capsys.readouterr().err


def test_a_licence_without_an_export_is_refused(arguments, capsys):
    assert main([*arguments, "--dry-run", "--licence=CC-BY-4.0"]) == 2
    assert "--licence=CC-BY-4.0: is for the replies that --export=DIR writes" in capsys.readouterr().err


def test_its_files_side_load_into_training(arguments, planted, semantic_cache, tmp_path, capsys):
    with LLMServer() as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 0
        asked = len(server.asked)
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 0
        assert len(server.asked) == asked  # everything was answered: nothing is paid twice
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["llm_used"] is True
    assert report["exemplars"] == asked
    result = recbole_eimf.run(
        "EIMF", "planted", data_path=str(planted), semantic_cache=str(semantic_cache), text_encoder="tfidf-svd",
        interest_source="file", interest_file=str(tmp_path / "out" / "interests.jsonl"),
        assignment_file=str(tmp_path / "out" / "assignment.csv.gz"), epochs=1, topk=[5], valid_metric="NDCG@5",
        show_progress=False, state="ERROR", compare_with=[], MAX_ITEM_LIST_LENGTH=8,
    )  # fmt: skip
    assert result.side_load["training_users_with_interests"] == 120
    written = "".join(p.read_text(errors="ignore") for p in tmp_path.rglob("*") if p.is_file())
    assert "sk-secret-of-the-test" not in written + capsys.readouterr().out


def test_failed_replies_are_reported_and_asked_again(arguments, tmp_path, capsys):
    with LLMServer(lambda asked, n: Answer(content="no interests here")) as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 2
    assert "not one of" in capsys.readouterr().err
    bad = "(i3)"
    with LLMServer(lambda asked, n: Answer(content="nothing" if bad in asked.prompt else Answer().content)) as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 3
        failing = {p for p in server.prompts() if bad in p}
    assert failing
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["exemplars_without_interests"] == len(failing)
    with LLMServer() as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 0
        assert set(server.prompts()) == failing  # the answered ones are not asked again


def test_kill_9_resumes_where_it_was(arguments, tmp_path):
    command = [*arguments, "--yes", "--llm_concurrency=1"]
    with LLMServer(lambda asked, n: Answer(delay=0.15)) as server:
        command.append(f"--llm_base_url={server.url}")
        process = Forked(command_line, *command, cwd=tmp_path)
        journal = tmp_path / "cache" / "replies-planted.jsonl"
        deadline = time.time() + 120
        while time.time() < deadline and not (journal.is_file() and journal.read_text().count("\n") >= 4):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = {json.loads(line)["user_id"] for line in journal.read_text().splitlines()}
        before = len(server.asked)
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 0
        again = server.prompts()[before:]
    exemplars = json.loads((tmp_path / "out" / "report.json").read_text())["exemplars"]
    assert 4 <= len(kept) < exemplars
    assert len(again) == exemplars - len(kept)


def test_batch_requests_and_answers(arguments, tmp_path, capsys):
    words = [a for a in arguments if "interest_source" not in a]
    assert main([*words, "--interest_source=batch"]) == 0
    requests = [json.loads(line) for line in (tmp_path / "out" / "batch_requests.jsonl").read_text().splitlines()]
    assert all(r["url"] == "/v1/chat/completions" for r in requests)
    answers = tmp_path / "answers.jsonl"
    with open(answers, "w") as stream:
        for request in requests:
            body = json.loads(Answer().body("m"))
            line = {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
            stream.write(json.dumps(line) + "\n")
    assert main([*words, "--interest_source=batch", f"--batch_file={answers}"]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["interests"] == 2 * len(requests)


def answered(requests, path, content=GOOD):
    """Write a file of answers, as the Batch API sends them."""
    body = json.loads(Answer(content=content).body("m"))
    answers = [{"custom_id": each["custom_id"], "response": {"status_code": 200, "body": body}} for each in requests]
    path.write_text("".join(json.dumps(each) + "\n" for each in answers))


def requests_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_of_several_files_asks_only_what_the_journal_does_not_answer(arguments, tmp_path, capsys, monkeypatch):
    """Replies of the endpoint, a batch of several files, an answer of no use among theirs, and a further batch."""
    monkeypatch.setattr("recbole_eimf.semantic.sources.batch.BATCH_REQUESTS", 2)
    words, out = [a for a in arguments if "interest_source" not in a], tmp_path / "out"
    with LLMServer(lambda asked, n: Answer(content="N/A" if "(i3)" in asked.prompt else GOOD)) as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 3
        failing = {prompt for prompt in server.prompts() if "(i3)" in prompt}
    capsys.readouterr()
    assert main([*words, "--interest_source=batch", "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert not list(out.glob("batch*"))
    assert main([*words, "--interest_source=batch"]) == 0
    shown = capsys.readouterr().out
    price = next(line for line in shown.splitlines() if line.startswith("model "))
    assert price in dry
    paths = sorted(out.glob("batch_requests*.jsonl"))
    requests = [each for path in paths for each in requests_in(path)]
    assert {each["body"]["messages"][0]["content"] for each in requests} == failing
    assert f": {len(failing)} calls (" in price
    assert len(paths) == -(-len(failing) // 2) > 1
    assert all(str(path) in shown for path in paths)
    answers = tmp_path / "answers"
    answers.mkdir()
    answered(requests[1:], answers / "1.jsonl")
    answered(requests[:1], answers / "2.jsonl", "N/A")
    read = [*words, "--interest_source=batch", f"--batch_file={answers}"]
    assert main([*read, "--dry-run"]) == 0
    assert "no paid calls" in capsys.readouterr().out
    assert main(read) == 3
    shown = capsys.readouterr().out
    assert f"{out / 'batch_left.jsonl'}: the requests without a reply of use" in shown
    assert "asks for the failed ones again" not in shown, "reading a batch asks nobody"
    assert requests_in(out / "batch_left.jsonl") == requests[:1]
    answered(requests[:1], answers / "3.jsonl")
    assert main(read) == 0
    assert not (out / "batch_left.jsonl").exists()
    report = json.loads((out / "report.json").read_text())
    assert report["interests"] == 2 * report["exemplars"] > 2 * len(failing)


def test_a_batch_of_what_the_journal_answers_is_not_written(arguments, tmp_path, capsys):
    words = [a for a in arguments if "interest_source" not in a]
    with LLMServer() as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 0
    assert main([*words, "--interest_source=batch"]) == 2
    assert "there is no request to write. The source openai" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("batch*"))


@pytest.mark.parametrize(("answer", "code", "calls"), [(None, 2, 20), ("n", 2, 20), ("y", 2, 36)])
def test_an_endpoint_that_refuses_is_asked_about_before_it_is_paid_on(
    arguments, tmp_path, capsys, monkeypatch, answer, code, calls
):
    words = [a for a in arguments if "exemplar_ratio" not in a] + ["--exemplar_ratio=0.16", "--llm_concurrency=2"]
    if answer:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: print(question) or answer)
    with LLMServer(lambda asked, n: Answer(content="I'm sorry, but I cannot help with that.")) as server:
        assert main([*words, f"--llm_base_url={server.url}", "--yes"]) == code
        # two prompts may have been asked once, or ten twice, when the trial ends: those are not asked a second time
        assert len(server.asked) == pytest.approx(calls, abs=4 if answer == "y" else 0)
    shown = capsys.readouterr()
    assert ("Go on and pay" in shown.out) == bool(answer)
    assert ("not one of the first 20 replies" in shown.err) == (answer != "y")
    assert "Traceback" not in shown.err


def test_refusals_are_counted_in_the_report(arguments, tmp_path):
    refusal = lambda asked, n: Answer(content="N/A") if "(i3)" in asked.prompt else Answer()  # noqa: E731
    with LLMServer(refusal) as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 3
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["failed_replies"] == {"placeholder": report["exemplars_without_interests"]}


@pytest.mark.parametrize("command", ["interests", "knowledge"])
def test_a_key_is_needed_only_for_prompts_that_the_journal_does_not_answer(
    arguments, tmp_path, capsys, monkeypatch, command
):
    """Neither a key nor the client where it answers all; the command says how many it does not."""
    words = [each for each in arguments[1:] if "interest_source" not in each]
    asking = [command, *words, f"--{command.removesuffix('s')}_source=openai"]
    good = GOOD if command == "interests" else '{"kind": "pen", "next": ["ink"]}'
    with LLMServer(lambda asked, n: Answer(content=good)) as server:
        assert main([*asking, f"--llm_base_url={server.url}", "--yes"]) == 0
    journal = next((tmp_path / "cache").glob("*-planted.jsonl"))
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setattr("recbole_eimf.core.parts._found", lambda module: module != "openai")
    capsys.readouterr()
    assert main([*asking, "--yes"]) == 0
    assert main(asking) == 0, "nothing to pay, nothing to agree to"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[2:]))
    capsys.readouterr()
    assert main([*asking, "--yes"]) == 2
    assert "openai is needed here and not installed" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main([*asking, "--yes"]) == 2
    shown = capsys.readouterr().err
    assert "OPENAI_API_KEY: no API key there" in shown
    assert f"{journal} does not answer 2 of the prompts" in shown
    assert main([*asking, "--yes", "--llm_model=another"]) == 2, "the journal of another model answers nothing"


def test_a_run_needs_no_key_where_the_journal_answers(arguments, planted, semantic_cache, tmp_path, monkeypatch):
    with LLMServer() as server:
        assert main([*arguments, f"--llm_base_url={server.url}", "--yes"]) == 0
    monkeypatch.delenv("OPENAI_API_KEY")
    result = recbole_eimf.run(
        "EIMF", "planted", data_path=str(planted), semantic_cache=str(tmp_path / "cache"), text_encoder="tfidf-svd",
        exemplar_ratio=0.1, interest_source="openai", epochs=1, topk=[5], valid_metric="NDCG@5", show_progress=False,
        state="ERROR", compare_with=["placebo"], MAX_ITEM_LIST_LENGTH=8,
    )  # fmt: skip
    assert result.side_load["training_users_with_interests"] == 120
