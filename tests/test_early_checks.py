"""What keys and files alone can tell is told before data are loaded, by every command that would load them."""

from __future__ import annotations

import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.core.errors import UserError
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.study import runs
from recbole_eimf.study.rows import parse_model
from tests.conftest import write_atomic

#: (model, keys, what the message must say)
MISSING = [
    ("EIMF", {"interest_source": "file"}, "interest_source=file: interest_file is not set.*--interest_file="),
    ("EIMF", {"interest_source": "file", "interest_file": "no.jsonl"}, "interest_file=no.jsonl: no such file.*Mend"),
    ("EIMF", {"interest_source": "file", "interest_file": "{ROOT}"}, "interest_file=.*not an export"),
    ("EIMF", {"interest_source": "file", "interest_file": "{FILE}", "assignment_file": "no.csv"},
     "assignment_file=no.csv: no such file"),
    ("EIMF", {"interest_file": "{FILE}"}, "interest_source=keywords does not read it.*--interest_source=file"),
    ("EIMF", {"interest_source": "openai"}, "OPENAI_API_KEY: no API key there"),
    ("EIMF", {"prompt_file": "no.txt"}, "prompt_file=no.txt: no such file"),
    ("EIMF", {"interest_source": "tests.nowhere:f"}, "interest_source=tests.nowhere:f"),
    ("EIMF", {"llm_base_url": "127.0.0.1:8765"}, "llm_base_url=.*begins with http:// or https://"),
    ("EIMF", {"interest_source": "openai", "llm_base_url": "http://localhost:80O0/v1"},
     "localhost:80o0/v1: not an address"),
    ("PAD", {"text_encoder": "openai:small", "llm_base_url": "http://localhost:80:90/v1"}, "80:90/v1: not an address"),
    ("PAD", {"text_encoder": "openai:small", "llm_base_url": "http://localhost:99999/v1"}, "99999/v1: not an address"),
    ("IBIM", {"score_prior": "next"}, "knowledge_source=none: score_prior=next reads.*--knowledge_file"),
    ("IBIM", {"score_prior": "next", "knowledge_source": "file"}, "knowledge_file is not set.*--knowledge_file="),
    ("IBIM", {"score_prior": "next", "knowledge_source": "file", "knowledge_file": "no.jsonl"},
     "knowledge_file=no.jsonl: no such file"),
    ("IBIM", {"score_prior": "next", "knowledge_source": "file", "knowledge_file": "{ROOT}"},
     "knowledge_file=.*: a folder without a readable meta.json.*Name the JSONL file"),
    ("PAD", {"semantic_cache": "{FILE}"}, "semantic_cache=.*replies.jsonl: a file, where a folder is needed"),
    ("PAD", {"semantic_cache": "{FILE}/deeper"}, "semantic_cache=.*deeper: .*replies.jsonl is a file, where a folder"),
    ("NextKNN", {}, "knowledge_source=none: model=NextKNN reads"),
    ("PAD", {"text_encoder": "minilmm"}, "text_encoder=minilmm: no encoder of ours .*Did you mean 'minilm'"),
    ("IBIM", {"item_text": "add", "text_encoder": "llm2vec:{ROOT}"}, "text encoder 'llm2vec:.*cannot be loaded here"),
    ("EIMF", {"text_encoder": "tfidf-svd", "encoder_processes": 2}, "encoder_processes=2: tfidf-svd runs in one proc"),
    ("PAD", {"text_fields": "[titel]"}, "planted.item, line 1: no column 'titel'.*Did you mean 'title'"),
    ("IBIM", {"backbone": "GRU4Rec", "torch_compile": True}, "torch_compile=True: backbone=GRU4Rec has no transformer"),
    ("GRU4Rec", {"torch_compile": True}, "torch_compile=True: GRU4Rec has no transformer encoder"),
    ("Popularity", {"torch_compile": True}, "torch_compile=True: Popularity has no transformer encoder"),
    ("Popularity", {"place_unseen": True}, "place_unseen=True: Popularity has no vectors"),
    ("GRU4Rec", {"place_unseen": True}, "place_unseen=True: GRU4Rec has no vectors"),
]  # fmt: skip


@pytest.fixture
def keys(planted, tmp_path, monkeypatch):
    """Keys of a run that must not get as far as its data."""

    def loaded(*args, **kwargs):
        raise AssertionError("data are loaded")

    monkeypatch.setattr(LazySequenceDataset, "__init__", loaded)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "replies.jsonl").write_text('{"user_id": "u0", "response": "{}"}\n')
    return {"data_path": str(planted), "state": "ERROR", "show_progress": False}


def filled(more, tmp_path):
    names = {"ROOT": str(tmp_path), "FILE": str(tmp_path / "replies.jsonl")}
    return {key: value.format(**names) if isinstance(value, str) else value for key, value in more.items()}


@pytest.mark.parametrize(("model", "more", "said"), MISSING)
def test_a_run(keys, tmp_path, model, more, said):
    with pytest.raises(UserError, match=said):
        recbole_eimf.run(model, "planted", **keys, compare_with=[], **filled(more, tmp_path))


@pytest.mark.parametrize(("model", "more", "said"), MISSING)
def test_a_row_of_a_table(keys, tmp_path, model, more, said):
    given = "".join(f"{key}: {value}, " for key, value in filled(more, tmp_path).items())
    rows = tmp_path / "rows.yaml"
    model = "RecBole[GRU4Rec]" if model == "GRU4Rec" else model
    rows.write_text(f"rows: [{{name: good, model: SASRec}}, {{name: bad, model: '{model}', keys: {{{given}}}}}]")
    study = tmp_path / "mine.yaml"
    study.write_text(rows.read_text())
    with pytest.raises(UserError, match=f"row 'bad': .*{said}"):
        recbole_eimf.study(study, "planted", tmp_path / "out", parallel=0, seeds=1, **keys)
    assert not list((tmp_path / "out").glob("runs/*"))


@pytest.mark.parametrize(("model", "more", "said"), MISSING[:1])
def test_a_search(keys, tmp_path, model, more, said):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=said):
        recbole_eimf.tune(model, "planted", tmp_path / "out", **keys, **more)


def test_what_is_trained_beside_a_run(keys, tmp_path):
    with pytest.raises(UserError, match="compare_with=NextKNN: knowledge_source=none: model=NextKNN reads"):
        recbole_eimf.run("IBIM", "planted", **keys, compare_with=["NextKNN"])
    file = tmp_path / "place.yaml"
    file.write_text("place_unseen: True\ncompare_with: [Popularity]\n")
    with pytest.raises(UserError, match="compare_with=Popularity: place_unseen=True: Popularity has no vectors"):
        recbole_eimf.run("EIMF", "planted", [file], **keys)


def test_text_that_the_data_set_lacks(keys, tmp_path, capsys):
    keys["data_path"] = str(write_atomic(tmp_path, "bare", [[0, 1, 2], [1, 2, 3]]))
    with pytest.raises(UserError, match="bare.item: no such file, and the text of items is read from it"):
        recbole_eimf.run("PAD", "bare", **keys)
    with pytest.raises(UserError, match="bare.item: no such file"):
        recbole_eimf.run("IBIM", "bare", **keys, place_unseen=True)
    for command in (
        ["interests", "--interest_source=keywords"],
        ["knowledge", "--knowledge_source=openai", "--dry-run"],
    ):
        assert main([*command, "--dataset=bare", f"--data_path={keys['data_path']}"]) == 2
        assert "bare.item: no such file" in capsys.readouterr().err


def test_a_run_that_cannot_be_gone_on_with(keys):
    with pytest.raises(UserError, match="resume=True: output_dir is not set.*--output_dir=FOLDER"):
        recbole_eimf.run("IBIM", "nowhere", **keys, resume=True)


@pytest.mark.parametrize(("command", "more", "said"), [
    ("interests", ["--interest_source=file"], "interest_file is not set"),
    ("interests", ["--interest_source=openai"], "OPENAI_API_KEY: no API key"),
    ("interests", ["--interest_source=openai", "--llm_base_url=127.0.0.1:1", "--dry-run"], "begins with http"),
    ("interests", ["--interest_source=shuffled"], "nothing to run"),
    ("interests", ["--text_encoder=minilmm"], "Did you mean 'minilm'"),
    ("interests", ["--interest_source=batch", "--prompt_file=no.txt"], "prompt_file=no.txt: no such file"),
    ("interests", ["--interest_source=openai", "--prompt_file=no.txt", "--dry-run"], "prompt_file=no.txt: no such"),
    ("interests", ["--interest_source=batch", "--interest_file=r.jsonl"], "interest_source=batch does not read it"),
    ("interests", ["--interest_source=openai", "--assignment_file=a.csv", "--dry-run"], "openai does not read it"),
    ("knowledge", ["--knowledge_source=batch", "--knowledge_file=k.jsonl"], "knowledge_source=batch does not read it"),
    ("knowledge", ["--knowledge_source=openai", "--knowledge_file=k.jsonl", "--dry-run"], "openai does not read it"),
    ("knowledge", ["--knowledge_source=batch", "--knowledge_prompt_file=no.txt"], "prompt_file=no.txt: no such"),
    ("knowledge", ["--knowledge_source=file"], "knowledge_file is not set"),
    ("knowledge", ["--knowledge_source=openai"], "OPENAI_API_KEY: no API key"),
])  # fmt: skip
def test_the_commands_of_the_llm_stage(keys, capsys, command, more, said):
    assert main([command, "--dataset=planted", f"--data_path={keys['data_path']}", *more]) == 2
    assert said in capsys.readouterr().err


def test_keys_of_all_rows_go_to_those_that_can_place_or_compile(planted):
    from recbole_eimf.config.layers import concerning

    assert concerning("IBIM", {"torch_compile": True}) == {"torch_compile": True}
    assert concerning("Markov", {"torch_compile": True}) == {}
    shared = {"place_unseen": True}
    assert concerning("Markov", shared) == concerning("IBIM", shared) == shared
    assert concerning("Popularity", shared) == concerning("TextKNN", shared) == concerning("GRU4Rec", shared) == {}


#: (row, key and value, the model, what it reads)
IDLE = [
    ("shuffled_text[Markov]", "text_source=shuffled: Markov", "item text", "the order of a history"),
    ("noise_text[SASRec]", "text_source=noise: IBIM", "item text", "the order of a history"),
    ("shuffled_text[NextKNN]", "text_source=shuffled: NextKNN", "item text", "an LLM's knowledge of items and"),
    (
        "shuffled_text[ProfileDistillation]",
        "text_source=shuffled: Pro",
        "item text",
        "interests of users and the",
    ),
    ("shuffled_knowledge[Popularity]", "knowledge_source=shuffled: Popularity", "an LLM's knowl", "nothing that a pl"),
    ("shuffled_interests[PAD]", "interest_source=shuffled: PAD", "interests of users", "item text and the order"),
    ("shuffled_interests[RecBole[SASRec]]", "interest_source=shuffled: SASRec", "interests", "the order of a history"),
    ("shuffled_history[Popularity]", "shuffled_history=True: Popularity", "the order of a h", "nothing that a placebo"),
]


@pytest.mark.parametrize(("row", "said", "missing", "known"), IDLE)
def test_a_placebo_that_shuffles_nothing(keys, tmp_path, row, said, missing, known):
    given = {**keys, "knowledge_source": "file", "knowledge_file": str(tmp_path / "replies.jsonl")}
    with pytest.raises(UserError, match="row ") as error:
        recbole_eimf.compare(
            [row.partition("[")[2].removesuffix("]"), row], "planted", tmp_path / "out", parallel=0, seeds=1, **given
        )
    assert all(words in str(error.value) for words in (said, f"does not read {missing}", f"It reads {known}"))


def test_a_run_or_a_search_that_shuffles_nothing(keys, tmp_path):
    with pytest.raises(UserError, match="text_source=shuffled: Markov does not read item text"):
        recbole_eimf.run("Markov", "planted", **keys, text_source="shuffled")
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="interest_source=shuffled: IBIM does not read interests"):
        recbole_eimf.tune("IBIM", "planted", tmp_path / "out", **keys, interest_source="shuffled")


def test_a_way_to_draw_a_placebo_where_there_is_none(keys, tmp_path):
    said = "placebo_draw=permute: says how a placebo's interests are drawn, and no interests are shuffled"
    for model, more in (("EIMF", {"compare_with": []}), ("EIMF", {"compare_with": ["Popularity"]}),
                        ("PAD", {"compare_with": ["placebo"]})):  # fmt: skip
        with pytest.raises(UserError, match=said):
            recbole_eimf.run(model, "planted", **keys, placebo_draw="permute", **more)
    for more in (
        {"compare_with": ["placebo"]},
        {"interest_source": "shuffled"},
        {"compare_with": [], "interest_source": "shuffled"},
    ):
        with pytest.raises(AssertionError, match="data are loaded"):
            recbole_eimf.run("EIMF", "planted", **keys, placebo_draw="permute", **more)
    with pytest.raises(UserError, match=said):
        recbole_eimf.compare(["EIMF"], "planted", tmp_path / "out", parallel=0, seeds=1, **keys, placebo_draw="permute")


def test_a_row_that_reads_text_by_a_key_of_all_rows_has_a_placebo(planted, tmp_path):
    """And what all rows share is left out for those that do not read it."""
    rows = [parse_model(name) for name in ("Markov", "SASRec", "shuffled_text[SASRec]")]
    shared = {"data_path": str(planted), "item_text": "add"}
    made = runs.plan(rows, "planted", (1,), shared, tmp_path)
    assert made[2].given["text_source"] == "shuffled"
    made = runs.plan(rows[:2], "planted", (1,), {**shared, "text_source": "noise"}, tmp_path)
    assert ("text_source" in made[0].given, made[1].given["text_source"]) == (False, "noise")
