"""Keys that a model never reads are refused where they were given, and narrowed where several models share them."""

import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.layers import concerning
from recbole_eimf.config.reading import switched_off, unasked
from recbole_eimf.config.same_experiment import unread
from recbole_eimf.core.errors import ConfigError

QUIET = {"show_progress": False, "state": "ERROR", "compare_with": []}


@pytest.mark.parametrize(
    ("model", "key", "value", "said"),
    [
        (
            "SASRec",
            "score_prior",
            "all",
            "SASRec is RecBole's class and does not read it; ours, which does, is --model=IBIM",
        ),
        ("SASRec", "item_text", "null_space", "--backbone=SASRec"),
        ("SASRec", "item_init", "pca_text", "--backbone=SASRec"),
        ("SINE", "vector_graph", "similar", "SINE is RecBole's class and does not read it. Leave it out"),
        ("Popularity", "score_prior", "similar", "model=Popularity does not read it"),
        ("DecayedItemKNN", "next_labels", 0.2, "model=DecayedItemKNN does not read it"),
        ("IBIM", "gamma", 0.5, "train a model that reads it: EIMF"),
        ("EIMF", "align_epochs", 3, "model=EIMF does not read it"),
    ],
)
def test_a_key_that_the_model_never_reads_is_refused(model, key, value, said):
    with pytest.raises(ConfigError) as error:
        EIMFConfig(model, "ml-100k", None, {**QUIET, key: value})
    assert f"{key}={value}" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("SASRec", {"n_layers": 1, "hidden_size": 32, "ties": "shuffle", "num_threads": 1, "item_text": "none"}),
        ("IBIM", {"score_prior": "similar+together", "item_text": "add"}),
        ("EIMF", {"gamma": 0.5, "next_labels": 0.0, "score_prior": "together"}),
        ("PAD", {"gamma": 0.5, "align_epochs": 3, "score_prior": "together"}),
        ("DecayedItemKNN", {"knn_decay": 0.5, "knn_neighbours": 50}),
        ("examples.smoothed:Smoothed", {"score_prior": "together", "gamma": 0.5}),
    ],
)
def test_keys_that_it_reads_and_defaults_and_all_of_ones_own_class_pass(model, keys):
    assert EIMFConfig(model, "ml-100k", None, {**QUIET, **keys})


def test_of_keys_that_several_models_share_each_gets_what_it_reads():
    shared = {"score_prior": "together", "gamma": 0.5, "epochs": 3, "ties": "shuffle"}
    assert concerning("IBIM", shared) == {"score_prior": "together", "epochs": 3, "ties": "shuffle"}
    assert concerning("EIMF", shared) == shared
    assert concerning("Markov", shared) == {"epochs": 3, "ties": "shuffle"} == concerning("SASRec", shared)


def test_the_command_ends_with_2_before_it_reads_data(tmp_path, capsys):
    command = ["run", "--model=SASRec", "--dataset=nowhere", f"--data_path={tmp_path}", "--item_text=null_space"]
    assert main(command) == 2
    assert "item_text=null_space" in capsys.readouterr().err


def test_what_stands_beside_a_run_need_not_read_the_files_of_the_run(planted, tmp_path, semantic_cache):
    file = tmp_path / "mine.yaml"
    file.write_text("gamma: 0.4\nscore_prior: together\n")
    keys = {"data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd", "epochs": 1}
    small = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 8, "topk": [5]}
    wanted = {**QUIET, **keys, **small, "valid_metric": "NDCG@5", "compare_with": ["backbone", "Markov", "SASRec"]}
    found = recbole_eimf.run("EIMF", "planted", [str(file)], **wanted)
    assert [other.model for other in found.compared] == ["IBIM", "Markov", "SASRec"]


def test_a_key_that_no_row_of_a_table_reads_is_refused(planted, tmp_path, capsys):
    command = ["compare", "--models=SASRec,GRU4Rec", "--dataset=planted", f"--data_path={planted}", "--parallel=0"]
    assert main([*command, "--align_epochs=3", f"--out={tmp_path / 'out'}"]) == 2
    assert "align_epochs=3: no row of the table reads it (SASRec, GRU4Rec)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("model", "keys", "found"),
    [
        ("IBIM", {"text_adaptor": "moe", "adaptor_experts": 4}, {"text_adaptor": "item_text=add|concat"}),
        ("IBIM", {"item_text": "add", "code_pieces": 4}, {"code_pieces": "item_text=codes"}),
        ("IBIM", {"prior_weights": "learned", "prior_decay": 0.6}, {"prior_weights": "score_prior"}),
        ("IBIM", {"prior_weights": "learned", "score_prior": "together"}, {}),
        (
            "IBIM",
            {"next_label_items": 3, "next_labels": 0.1, "vector_graph_weight": 9.0},
            {"vector_graph_weight": "vector_graph"},
        ),
        ("Hybrid", {"fusion": "add", "text_adaptor": "mlp"}, {}),
    ],
)
def test_a_key_that_does_nothing_without_another_one_is_told(model, keys, found):
    config = EIMFConfig(model, "ml-100k", None, {**QUIET, **keys})
    assert switched_off(config.model_class, keys, config) == found


def test_a_run_says_which_keys_it_does_not_read(planted, tmp_path, capsys):
    small = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 8, "topk": [5], "epochs": 1}
    wanted = {**QUIET, **small, "data_path": str(planted), "valid_metric": "NDCG@5", "prior_weights": "learned"}
    told = "prior_weights=learned is not read: score_prior=none. Add --score_prior, or leave prior_weights out."
    recbole_eimf.run("IBIM", "planted", **wanted)
    assert told not in capsys.readouterr().err
    recbole_eimf.run("IBIM", "planted", **{**wanted, "show_progress": True})
    assert told in capsys.readouterr().err


def test_a_wrong_key_of_a_file_that_a_run_shares_is_named_with_file_and_line(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 3\ngamma: 0.4\nnext_neighbors: 5\n")
    command = ["knowledge", "--dataset=ml-100k", "--knowledge_source=openai", "--dry-run", f"--config_files={file}"]
    assert main(command) == 2
    assert f"{file}, line 3: unknown key 'next_neighbors'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("lines", "command", "said"),
    [
        ("epochs: 2\nprotocol: userSplit\n", "run --model=EIMF", ", line 2: protocol='userSplit': allowed is"),
        ('# note\nepochs: "2"\n', "run --model=IBIM", ", line 2: epochs='2': allowed is a whole number"),
        ("title: x\n", "run --model=IBIM", ", line 1: title='x': not a key of a run"),
        ("epochs: 1\nalpha: 0.5\n", "run --model=SASRec", ", line 2: alpha=0.5: model=SASRec is RecBole's class"),
        ("protocol: userSplit\n", "compare --models=SASRec --parallel=0 --out=out", ", line 1: protocol='userSplit'"),
        ("protocol: userSplit\n", "study eimf_ablation --parallel=0 --out=out", ", line 1: protocol='userSplit'"),
        ("\nprotocol: userSplit\n", "tune --model=IBIM --out=out", ", line 2: protocol='userSplit'"),
    ],
)
def test_a_wrong_value_of_a_file_is_named_with_file_and_line(tmp_path, monkeypatch, capsys, lines, command, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(lines)
    assert main([*command.split(), "--dataset=ml-100k", "--config_files=mine.yaml"]) == 2
    assert f"error: mine.yaml{said}" in " ".join(capsys.readouterr().err.split())


def test_a_value_that_the_command_line_gives_is_not_blamed_on_a_file(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("protocol: user_split\n")
    file = f"--config_files={tmp_path / 'mine.yaml'}"
    for start in (["run", "--model=IBIM"], ["tune", "--model=IBIM"], ["compare", "--models=SASRec", "--out=out"]):
        assert main([*start, "--dataset=ml-100k", file, "--protocol=userSplit"]) == 2
        said = capsys.readouterr().err
        assert "protocol='userSplit'" in said or "protocol=userSplit" in said
        assert "mine.yaml" not in said


@pytest.mark.parametrize(
    ("model", "keys", "found"),
    [
        ("IBIM", {"interest_source": "file", "interest_file": "nix.jsonl"}, ["interest_source", "interest_file"]),
        ("IBIM", {"knowledge_file": "nix.jsonl", "text_encoder": "tfidf-svd"}, ["knowledge_file", "text_encoder"]),
        ("SASRec", {"interest_source": "openai", "llm_model": "m"}, ["interest_source", "llm_model"]),
        ("IBIM", {"item_text": "add", "text_encoder": "tfidf-svd", "interest_file": "x"}, ["interest_file"]),
        ("IBIM", {"semantic_cache": "elsewhere", "text_fields": ("title",)}, []),
        ("EIMF", {"interest_source": "file", "interest_file": "x", "text_encoder": "tfidf-svd"}, []),
        ("NextKNN", {"knowledge_source": "file", "knowledge_file": "x"}, []),
    ],
)
def test_text_and_replies_that_a_model_does_not_read_are_told(model, keys, found):
    config = EIMFConfig(model, "ml-100k", None, {**QUIET, **keys})
    assert unasked(unread(config), keys) == found
