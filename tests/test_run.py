"""Runs: resume, several targets per user through RecBole's evaluator, side-loaded interests, the placebo."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import recbole_eimf
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.core.errors import ConfigError, DataError, InterestSourceError
from recbole_eimf.core.files import read_tensors
from recbole_eimf.experiment import assembly
from recbole_eimf.experiment.result import RunResult, summary, table
from recbole_eimf.semantic.sources.side_loaded import read_assignment
from recbole_eimf.trainer.state import read_state


@pytest.fixture
def keys(planted, semantic_cache):
    sizes = {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 32, "epochs": 6}
    quiet = {"show_progress": False, "state": "ERROR", "compare_with": []}
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    return {"data_path": str(planted), "topk": [1, 5], "valid_metric": "NDCG@5", **text, **sizes, **quiet}


@pytest.mark.parametrize("eval_step", [1, 2, 0])
def test_a_stopped_run_goes_on_to_the_same_result(keys, tmp_path, eval_step):
    keys = {**keys, "eval_step": eval_step}
    whole = recbole_eimf.run("EIMF", "planted", output_dir=str(tmp_path / "whole"), **keys)
    half = {**keys, "output_dir": str(tmp_path / "half")}
    recbole_eimf.run("EIMF", "planted", **{**half, "epochs": 3})
    assert read_state(tmp_path / "half" / "last.safetensors")[1]["epoch"] == 2
    gone_on = recbole_eimf.run("EIMF", "planted", resume=True, **half)
    assert gone_on.epochs == 6
    assert gone_on.test == whole.test
    assert gone_on.valid == whole.valid
    losses = [json.loads((tmp_path / n / "history.json").read_text()) for n in ("whole", "half")]
    assert [e["losses"] for e in losses[0]] == [e["losses"] for e in losses[1]]
    evaluated = [e["epoch"] for e in losses[0] if "valid" in e]
    assert evaluated == [e for e in range(6) if eval_step and (e + 1) % eval_step == 0]


@pytest.mark.parametrize("key", ["save_dataset", "save_dataloaders"])
def test_a_saved_split_is_that_of_its_protocol_alone(keys, tmp_path, monkeypatch, caplog, key):
    """RecBole compares neither protocol nor ties: the result had the label of one and the figures of another."""
    read = []
    load = assembly.pickle.load
    monkeypatch.setattr(assembly.pickle, "load", lambda stream, **how: read.append(stream) or load(stream, **how))
    keys = {**keys, "state": "WARNING"}
    saved = {**keys, key: True, "checkpoint_dir": str(tmp_path / "saved")}
    first = recbole_eimf.run("Markov", "planted", **saved)
    assert not read
    assert recbole_eimf.run("Markov", "planted", **saved).test == first.test
    assert read
    read.clear()
    for other in ({"protocol": "user_split"}, {"train_share": 0.5}):
        caplog.clear()
        found = recbole_eimf.run("Markov", "planted", **saved, **other).test
        assert found == recbole_eimf.run("Markov", "planted", **keys, **other).test
        assert "it was made with other settings" in caplog.text
        assert not read
    (tmp_path / "saved").rename(tmp_path / "moved")
    (pickled,) = (tmp_path / "moved").glob("*.pth")
    (beside,) = (tmp_path / "moved").glob("*.pth.json")
    beside.unlink()  # of RecBole's, or somebody else's: not opened
    path = {"save_dataset": "dataset_save_path", "save_dataloaders": "dataloaders_save_path"}[key]
    assert recbole_eimf.run("Markov", "planted", **keys, **{path: str(pickled)}).test == first.test
    assert not read


def test_a_run_without_a_test_says_so_and_shows_validation(keys, tmp_path):
    keys |= {"skip_test": True, "compare_with": ["Popularity", "backbone"]}
    result = recbole_eimf.run("EIMF", "planted", **keys)
    assert not result.test
    assert not any(other.test for other in result.compared)
    text = summary(result)
    assert "validation, %" in text
    assert f"{100 * result.valid['ndcg@5']:.2f}" in text
    assert "Popularity" in text


def test_metrics_without_a_k_among_drawn_items(keys, wide):
    """The table took a k out of every name, after training; and histories of several lengths were not joined."""
    values = {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "eval_args": {"mode": "uni5"}, "epochs": 1}
    drawn = {**keys, **values, "data_path": str(wide), "compare_with": ["Popularity"]}
    result = recbole_eimf.run("EIMF", "wide", **drawn)
    assert set(result.test) == {"auc", "logloss"}
    assert "each target ranked among 5 items drawn uniformly (uni5), which is no evidence" in summary(result)
    head, _, *rows = summary(result).splitlines()[-4:]
    assert head.split()[1:3] == ["auc", "logloss"]
    for run, row in zip([result, *result.compared], rows):
        best = min(other.test["logloss"] for other in (result, *result.compared)) == run.test["logloss"]
        assert row.split()[2].rstrip("*") == f"{100 * run.test['logloss']:.2f}"
        assert row.split()[2].endswith("*") == best


def test_resume_of_another_model_is_refused(keys, tmp_path):
    recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path), **keys)
    with pytest.raises(ConfigError, match=r"hidden_size was 16, is 8.*--resume=force"):
        recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path), resume=True, **{**keys, "hidden_size": 8})
    with pytest.raises(ConfigError, match="output_dir"):
        recbole_eimf.run("IBIM", "planted", resume=True, **keys)


def test_a_checkpoint_is_evaluated_without_text_and_with_other_settings(keys, tmp_path):
    result = recbole_eimf.run("EIMF", "planted", output_dir=str(tmp_path), item_text="add", **keys)
    nowhere = {"text_fields": ["gone"], "semantic_cache": str(tmp_path / "empty")}
    assert recbole_eimf.evaluate(tmp_path, **nowhere) == pytest.approx(result.test)
    masked = recbole_eimf.evaluate(tmp_path, mask_history=True, **nowhere)
    assert masked != result.test
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("mask", [False, True])
def test_user_split_metrics_agree_with_a_slow_count(keys, wide, tmp_path, mask):
    """Recall, Hit and NDCG of several targets per user, from RecBole's evaluator, against loops over ranked lists."""
    keys = {**keys, "data_path": str(wide), "epochs": 2}
    result = recbole_eimf.run(
        "IBIM", "wide", output_dir=str(tmp_path), protocol="user_split", mask_history=mask, **keys
    )
    config = EIMFConfig(
        "IBIM", "wide", None, {**keys, "protocol": "user_split", "mask_history": mask, "inference_only": True}
    )
    train, _, test_data = assembly.loaders(config)
    model = config.model_class(config, train._dataset)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    model.eval()
    part = test_data._dataset
    recall, hit, ndcg = [], [], []
    for r in range(len(part)):
        history = part.flat[part.spans.start[r] : part.spans.middle[r]].tolist()
        targets = set(part.flat[part.spans.middle[r] : part.spans.end[r]].tolist())
        scores = model.full_sort_predict(part.rows(np.array([r])))[0].tolist()
        allowed = [i for i in range(1, part.item_num) if not (mask and i in history)]
        ranked = sorted(allowed, key=lambda i: -scores[i])[:5]
        found = [i in targets for i in ranked]
        recall.append(sum(found) / len(targets))
        hit.append(float(any(found)))
        gain = sum(1 / np.log2(n + 2) for n, ok in enumerate(found) if ok)
        ndcg.append(gain / sum(1 / np.log2(n + 2) for n in range(min(5, len(targets)))))
    assert max(len(set(part.flat[a:b].tolist())) for a, b in zip(part.spans.middle, part.spans.end)) > 1
    assert result.test["recall@5"] == pytest.approx(np.mean(recall), abs=1e-5)
    assert result.test["hit@5"] == pytest.approx(np.mean(hit), abs=1e-5)
    assert result.test["ndcg@5"] == pytest.approx(np.mean(ndcg), abs=1e-5)
    kept = read_tensors(tmp_path / "test_ranks.safetensors")
    assert (kept["hits"][:, :5].any(1) == np.array(hit, dtype=bool)).all()
    assert kept["user"].tolist() == part.spans.user.tolist()


# ---------------------------------------------------------------------- side-loading
@pytest.fixture
def side_files(tmp_path):
    replies = [{"user_id": f"u{u}", "response": json.dumps({"1": f"nail polish {u}", "2": "hair"})} for u in (0, 1, 2)]
    (tmp_path / "interests.jsonl").write_text("".join(json.dumps(r) + "\n" for r in replies))
    rows = [f"u{u},u{u % 3}" for u in range(118)]  # u118 and u119 have no exemplar
    (tmp_path / "assignment.csv").write_text("user_id,exemplar_user_id\n" + "\n".join(rows) + "\n")
    return {
        "interest_source": "file",
        "interest_file": str(tmp_path / "interests.jsonl"),
        "assignment_file": str(tmp_path / "assignment.csv"),
    }


def side_of(config):
    _, parts = assembly.datasets(config)
    return parts[0], parts[0].side


def test_side_loaded_interests_arrive_at_the_right_users(make_config, side_files):
    train, side = side_of(make_config("EIMF", **side_files))
    names = train.field2id_token["user_id"]
    exemplar = dict(zip(names, side.user_exemplar.tolist()))
    assert exemplar["[PAD]"] == exemplar["u118"] == exemplar["u119"] == -1
    assert exemplar["u4"] == exemplar["u1"] != exemplar["u2"]
    assert side.report["training_users_with_interests"] == 118
    assert side.report["users_without_assignment"] == 2
    assert side.interest_mask.sum(1).tolist() == [2, 2, 2]


def test_under_a_user_split_only_training_exemplars_are_used(make_config, side_files):
    config = make_config("EIMF", protocol="user_split", split_seed=2, **side_files)
    train, side = side_of(config)
    names = train.field2id_token["user_id"]
    training = {names[u] for u in train.spans.user}
    out = {"u0", "u1", "u2"} - training
    assert out, "choose another split_seed: this one trains on every exemplar"
    assert len(side.interests) == 3 - len(out)
    moved = [u for u in training if u[1:].isdigit() and int(u[1:]) < 118 and f"u{int(u[1:]) % 3}" in out]
    exemplar = dict(zip(names, side.user_exemplar.tolist()))
    assert moved
    assert all(exemplar[u] >= 0 for u in moved)
    assert side.report["users_moved_to_nearest_exemplar"] == len(moved)


def test_the_placebo_keeps_interests_and_shuffles_users(make_config, side_files):
    _, real = side_of(make_config("EIMF", **side_files))
    _, placebo = side_of(make_config("EIMF", **{**side_files, "interest_source": "shuffled"}))
    assert torch.equal(real.interests, placebo.interests)
    assert ((real.user_exemplar >= 0) == (placebo.user_exemplar >= 0)).all()
    known = real.user_exemplar >= 0
    agreement = (real.user_exemplar[known] == placebo.user_exemplar[known]).float().mean()
    assert agreement < 0.6
    _, again = side_of(make_config("EIMF", **{**side_files, "interest_source": "shuffled", "seed": 7}))
    assert not torch.equal(again.user_exemplar, placebo.user_exemplar)


def test_without_an_assignment_everyone_joins_the_nearest_exemplar(make_config, side_files):
    from recbole_eimf.semantic.side_load import pipeline_of

    config = make_config("EIMF", **{**side_files, "assignment_file": None})
    train, side = side_of(config)
    assert side.report["training_users_with_interests"] == 120
    vectors, _ = pipeline_of(config, train).user_vectors
    users = [train.field2id_token["user_id"][u] for u in train.spans.user]
    rows = [users.index(f"u{n}") for n in range(3)]
    exemplar = dict(zip(train.field2id_token["user_id"], side.user_exemplar.tolist()))
    for u, user in enumerate(users):
        if user not in ("u0", "u1", "u2"):
            distances = [float(((vectors[u] - vectors[r]) ** 2).sum()) for r in rows]
            assert distances[exemplar[user]] == pytest.approx(min(distances), abs=1e-6)


def test_without_clustering_every_user_is_its_own_exemplar(make_config):
    """The paper's p = None (figure 4)."""
    _, side = side_of(make_config("EIMF", clustering="none"))
    assert len(side.interests) == 120
    assert sorted(side.user_exemplar[side.user_exemplar >= 0].tolist()) == list(range(120))


def test_files_that_do_not_fit_are_named(make_config, side_files, tmp_path):
    with pytest.raises(ConfigError, match="interest_file"):
        side_of(make_config("EIMF", interest_source="file"))
    wrong = tmp_path / "other.jsonl"
    wrong.write_text('{"user_id": "stranger", "response": "{}"}\n')
    with pytest.raises(DataError, match="none of its 1 users.*stranger"):
        side_of(make_config("EIMF", **{**side_files, "interest_file": str(wrong)}))
    broken = tmp_path / "broken.csv"
    broken.write_text("user_id,exemplar_user_id\nu1\n")
    with pytest.raises(DataError, match="broken.csv, line 2"):
        read_assignment(broken)
    with pytest.raises(DataError, match="no column 'titel'.*Did you mean 'title'"):
        side_of(make_config("EIMF", text_fields=["titel"]))


def test_paid_calls_need_agreement(make_config, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with pytest.raises(InterestSourceError, match="paid calls.*--yes"):
        side_of(make_config("EIMF", interest_source="openai", llm_base_url="http://127.0.0.1:9/v1"))


def test_batch_source_asks_for_its_file(make_config):
    with pytest.raises(ConfigError, match="batch_file"):
        side_of(make_config("EIMF", interest_source="batch"))


def test_real_replies_cover_every_training_user(shared, make_config, tmp_path):
    from recbole_eimf.cli.prepare import main

    source, replies = shared / "datasets" / "amazon-office", shared / "interests" / "amazon-office"
    main(["csv", f"--interactions={source / 'interactions.csv.gz'}", f"--items={source / 'items.csv.gz'}",
          "--name=amazon-office", f"--out={tmp_path}"])  # fmt: skip
    config = make_config(
        "EIMF", dataset="amazon-office", data_path=str(tmp_path), protocol="user_split", interest_source="file",
        interest_file=str(replies / "interests.jsonl"), assignment_file=str(replies / "assignment.csv.gz"),
    )  # fmt: skip
    train, side = side_of(config)
    assert side.report["training_users_with_interests"] == len(train.spans) == 3924
    assert side.report["items_with_text"] == 2417
    assert side.report["users_without_assignment"] == 0


def test_a_runs_own_table_shows_recall_where_it_is_not_the_hit_rate():
    """With one target a row, as under ``leave_one_out`` and for successive targets of ``global_time``, it is."""
    facts = ("SASRec", None, "d", "global_time", True, 1)
    rest = (1, 0, 0.0, 0.0, 1, None)
    single = RunResult(*facts, {}, {"recall@5": 0.5, "hit@5": 0.5, "ndcg@5": 0.3}, *rest)
    several = RunResult(*facts, {}, {"recall@5": 0.4, "hit@5": 0.5, "ndcg@5": 0.3}, *rest)
    bare = RunResult(*facts, {}, {"ndcg@5": 0.3}, *rest)
    heads = [table(runs).splitlines()[0].split()[1:-3] for runs in ([single], [single, several], [bare])]
    assert heads == [["hit@5", "ndcg@5"], ["recall@5", "hit@5", "ndcg@5"], ["ndcg@5"]]
