"""``interests --export``: replies as data, and what is checked when they are loaded."""

import gzip
import itertools
import json

import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.experiment.result import summary
from recbole_eimf.semantic.corpus import Corpus
from recbole_eimf.semantic.export import fingerprint_of
from recbole_eimf.semantic.pipeline import Pipeline
from recbole_eimf.semantic.sources.batch import fetch_file
from recbole_eimf.semantic.sources.side_loaded import read_assignment
from tests.semantic.llm_server import GOOD, Answer, LLMServer


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")


@pytest.fixture
def words(planted, tmp_path):
    return [
        "interests", "--dataset=planted", f"--data_path={planted}", "--text_encoder=tfidf-svd", "--exemplar_ratio=0.1",
        f"--semantic_cache={tmp_path / 'cache'}", f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip


def test_an_export_holds_what_others_need_and_loads(words, tmp_path, capsys):
    folder = tmp_path / "export"
    fenced = f"Here they are:\n```json\n{GOOD}\n```"
    contents = itertools.cycle((fenced, GOOD))
    with LLMServer(lambda asked, n: Answer(next(contents))) as server:
        paid = [*words, "--interest_source=openai", f"--llm_base_url={server.url}", "--llm_model=qwen-x", "--yes"]
        assert main([*paid, "--export", str(folder), "--licence=CC BY 4.0"]) == 0
        assert main([*paid, f"--export={folder}"]) == 0  # over an earlier export
        asked = {asked.prompt for asked in server.asked}
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "assignment.csv.gz", "interests.jsonl", "meta.json",
    ]  # fmt: skip
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["dataset"], meta["protocol"], meta["model"], meta["llm_used"]) == (
        "planted", "leave_one_out", "qwen-x", True,
    )  # fmt: skip
    replies, assignment = fetch_file(None, folder / "interests.jsonl"), read_assignment(folder / "assignment.csv.gz")
    assert (len(replies), len(assignment)) == (meta["exemplars"], meta["users"]) == (len(asked), 120)
    assert set(assignment.values()) == set(replies)
    from recbole_eimf.semantic.llm.prompt import PromptRequest

    assert {reply.prompt_sha256 for reply in replies.values()} == {PromptRequest("", p).sha256 for p in asked}
    lines = [json.loads(line) for line in (folder / "interests.jsonl").read_text().splitlines()]
    # what was read of a reply, and the reply itself where that is not the same
    assert {line["response"] for line in lines} == {GOOD}
    assert {line.get("raw") for line in lines} == {None, fenced}
    card = (folder / "README.md").read_text()
    for part in ("qwen-x", "leave_one_out", meta["training_data"], "licence", "{history}", "`raw`"):
        assert part in card
    assert "sk-secret" not in "".join(path.read_text(errors="ignore") for path in folder.iterdir())
    capsys.readouterr()

    load = [*words[:-1], f"--output_dir={tmp_path / 'loaded'}", "--interest_source=file", f"--interest_file={folder}"]
    assert main(load) == 0
    report = json.loads((tmp_path / "loaded" / "report.json").read_text())
    assert (report["exemplars"], report["users_moved_to_nearest_exemplar"]) == (meta["exemplars"], 0)
    assert read_assignment(tmp_path / "loaded" / "assignment.csv.gz") == assignment

    # exported anew it was made by whoever made it, and says what it said
    again = tmp_path / "again"
    assert main([*load, f"--prompt_items={meta['prompt_items'] + 1}", f"--export={again}"]) == 0
    anew = json.loads((again / "meta.json").read_text())
    assert {key for key in meta if anew[key] != meta[key]} == {"source", "files"}
    written = [json.loads(line) for line in (again / "interests.jsonl").read_text().splitlines()]
    assert [{**line, "source": "openai"} for line in written] == lines
    assert main([*load, f"--export={again}", "--licence=none"]) == 0
    assert json.loads((again / "meta.json").read_text())["licence"] == "none"
    assert main([*load[:-2], "--interest_source=keywords", f"--export={again}"]) == 0
    assert json.loads((again / "meta.json").read_text())["model"] is None

    assert main([*load, "--protocol=user_split"]) == 2
    assert "protocol=leave_one_out, this run has protocol=user_split" in capsys.readouterr().err
    (folder / "meta.json").write_text(json.dumps({**meta, "training_data": "0" * 16}))
    assert main(load) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "all settings that it records are the same" in error
    assert f"interest_file={folder}/interests.jsonl, gives up this check" in error


def test_keywords_that_are_loaded_from_a_file_are_still_no_llms(words, tmp_path, capsys):
    assert main([*words, "--interest_source=keywords", f"--export={tmp_path / 'first'}"]) == 0
    load = [*words[:-1], f"--output_dir={tmp_path / 'out2'}", "--interest_source=file"]
    again = [*load, f"--interest_file={tmp_path / 'first'}", f"--export={tmp_path / 'second'}"]
    assert main(again) == 0
    assert json.loads((tmp_path / "out2" / "report.json").read_text())["llm_used"] is False
    assert "NO LLM was used" in capsys.readouterr().out
    # the file alone, too, and however often it was written anew
    for file in (tmp_path / "out" / "interests.jsonl", tmp_path / "second" / "interests.jsonl"):
        assert main([*load, f"--interest_file={file}"]) == 0
        assert json.loads((tmp_path / "out2" / "report.json").read_text())["llm_used"] is False
    for folder in ("first", "second"):
        card = (tmp_path / folder / "README.md").read_text()
        assert "no LLM: keywords of titles" in card
        assert "prompt" not in card, "nobody was asked anything"


def test_interests_of_a_function_of_ones_own_stay_so_when_they_are_loaded(planted, words, tmp_path, capsys):
    """Nobody says that they are keywords, nor an LLM's: whether it asks one it alone knows."""
    assert main([*words, "--interest_source=examples.first_words:first_words", f"--export={tmp_path / 'first'}"]) == 0
    meta = json.loads((tmp_path / "first" / "meta.json").read_text())
    assert (meta["made_by"], meta["llm_used"]) == ("own", False)
    load = [*words[:-1], f"--output_dir={tmp_path / 'out2'}", "--interest_source=file"]
    assert main([*load, f"--interest_file={tmp_path / 'first'}", f"--export={tmp_path / 'second'}"]) == 0
    report = json.loads((tmp_path / "out2" / "report.json").read_text())
    assert (report["source"], report["made_by"], report["llm_used"]) == ("file", "own", False)
    assert "NO LLM" not in capsys.readouterr().out
    assert "a function of the maker's own" in (tmp_path / "second" / "README.md").read_text()
    keys = {"data_path": str(planted), "text_encoder": "tfidf-svd", "epochs": 1, "show_progress": False}
    keys |= {"semantic_cache": str(tmp_path / "cache"), "state": "ERROR", "gpu_id": "", "train_batch_size": 8}
    file = {"interest_source": "file", "interest_file": str(tmp_path / "out" / "interests.jsonl")}
    found = recbole_eimf.run("EIMF", "planted", None, backbone="SASRec", **keys, **file)
    assert found.side_load["made_by"] == "own"
    assert "interests: file (a function of your own)" in summary(found)


def test_a_placebo_that_was_written_is_one_when_it_is_loaded(planted, tmp_path):
    keys = {"data_path": str(planted), "text_encoder": "tfidf-svd", "semantic_cache": str(tmp_path / "cache")}
    keys |= {"exemplar_ratio": 0.1, "show_progress": False}
    recbole_eimf.interests("planted", "shuffled", tmp_path / "0", **keys)
    for again in range(2):
        folder = tmp_path / str(again)
        file = {"interest_file": str(folder / "interests.jsonl"), "assignment_file": str(folder / "assignment.csv.gz")}
        found = recbole_eimf.interests("planted", "file", tmp_path / str(again + 1), **keys, **file)
        assert (found.source, found.llm_used) == ("shuffled file", False), again
    file.pop("assignment_file")
    alone = recbole_eimf.interests("planted", "file", tmp_path / "real", **keys, **file)
    assert alone.source == "file", "what the file says is its exemplars' own: only who has them was shuffled"
    lines = (tmp_path / "real" / "interests.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in lines} == {"keywords"}


@pytest.mark.parametrize("key", ["output_dir", "export"])
def test_replies_that_are_read_are_not_written_over(words, tmp_path, capsys, key):
    """Of a file's replies only those of today's users with interests would be left."""
    folder = tmp_path / "paid"
    assert main([*words, "--interest_source=keywords", f"--export={folder}"]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for read in (folder, folder / "interests.jsonl"):
        capsys.readouterr()
        others = [one for one in words if key == "export" or not one.startswith("--output_dir")]
        assert main([*others, "--interest_source=file", f"--interest_file={read}", f"--{key}={folder}"]) == 2
        assert f"would be written over interest_file={read}" in " ".join(capsys.readouterr().err.split())
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(before["interests.jsonl"])
    keys = {"data_path": words[2].partition("=")[2], "text_encoder": "tfidf-svd", "interest_file": str(elsewhere)}
    with pytest.raises(ConfigError, match="would be written over assignment_file"):
        recbole_eimf.interests(
            "planted", "file", folder, assignment_file=str(folder / "assignment.csv.gz"), **keys
        )  # fmt: skip
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_export_that_cannot_be_written_is_told_before_anything_is_paid_for(words, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*words, "--interest_source=keywords", f"--export={tmp_path / 'file' / 'x'}"]) == 2
    assert "--export=" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_of_an_export_that_changed_is_refused(words, tmp_path, capsys):
    folder = tmp_path / "export"
    assert main([*words, "--interest_source=keywords", f"--export={folder}"]) == 0
    load = [*words[:-1], f"--output_dir={tmp_path / 'out2'}", "--interest_source=file", f"--interest_file={folder}"]

    def said(*more):
        capsys.readouterr()
        code = main([*load, *more])
        return code, " ".join(capsys.readouterr().err.split())

    assert said()[0] == 0
    assert json.loads((tmp_path / "out2" / "report.json").read_text())["users_of_unchecked_assignment"] == 0
    assignment = folder / "assignment.csv.gz"
    (tmp_path / "kept.csv.gz").write_bytes(assignment.read_bytes())
    rows = [f"{user},{exemplar}" for user, exemplar in reversed(read_assignment(assignment).items())]
    assignment.write_bytes(gzip.compress("\n".join(["user_id,exemplar_user_id", *rows]).encode()))
    code, error = said()
    assert code == 2
    assert f"{assignment}: not the file that was exported" in error
    assert f"assignment_file={assignment}" in error
    assert said(f"--assignment_file={assignment}")[0] == 0
    assert json.loads((tmp_path / "out2" / "report.json").read_text())["users_of_unchecked_assignment"] == 120
    assignment.unlink()
    assert "assignment.csv.gz is missing" in said()[1]
    assignment.write_bytes((tmp_path / "kept.csv.gz").read_bytes())
    assert said()[0] == 0
    with open(folder / "interests.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")
    assert f"interest_file={folder}/interests.jsonl" in said()[1]
    meta = json.loads((folder / "meta.json").read_text())
    del meta["files"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert said()[0] == 0, "an export of an earlier version holds no digests"
    for later in (2, "2.1", None):
        (folder / "meta.json").write_text(json.dumps(meta | {"format": later, "recbole_eimf": "9.9"}))
        code, error = said()
        assert code == 2
        assert f"interest_file={folder}: meta.json has format {later!r}" in error
        assert "install that" in error
        assert "recbole_eimf 9.9" in error


def test_where_an_export_may_go(words, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert main([*words, f"--export={tmp_path / 'mine'}"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert main([*words, "--export"]) == 2
    assert "--export is given without a value" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"protocol": 1}', "\udcff"])
def test_a_folder_that_is_no_export(tmp_path, content):
    if content is not None:
        (tmp_path / "meta.json").write_text(content, errors="surrogateescape")
    corpus = Corpus(["a"], [["x"]], {"x": "pen"})
    with pytest.raises(DataError, match=r"without a readable meta\.json"):
        Pipeline(corpus, SemanticSettings(interest_source="file", interest_file=str(tmp_path)), "d")


def test_the_fingerprint_knows_sequences_not_their_order():
    one = fingerprint_of(["a", "b"], [["x", "y"], ["z"]])
    assert one == fingerprint_of(["b", "a"], [["z"], ["x", "y"]])
    for users, histories in (
        (["a", "b"], [["y", "x"], ["z"]]),
        (["a", "c"], [["x", "y"], ["z"]]),
        (["a", "b"], [["x"], ["y", "z"]]),
        (["a"], [["x", "y"]]),
    ):
        assert one != fingerprint_of(users, histories)
