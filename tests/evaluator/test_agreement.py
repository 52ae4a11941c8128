"""Agreement of two models' distances: pairs, Kendall's tau and spreads against slow counts, and the command."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.core.errors import DataError
from recbole_eimf.model.pad.experts import frequency_buckets
from recbole_eimf.study import agreement
from recbole_eimf.study.agreement import RunVectors


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def slow_tau(first, second):
    """Eq. 13: concordant minus discordant pairs over all pairs (no ties)."""
    agree = total = 0
    for i in range(len(first)):
        for j in range(i):
            agree += 1 if (first[i] - first[j]) * (second[i] - second[j]) > 0 else -1
            total += 1
    return agree / total


def test_tau_of_each_bucket_is_eq_13(rng):
    first, bucket = rng.random(60), rng.integers(1, 4, 60)
    second = first + rng.normal(0, 0.3, 60)
    bucket[bucket == 3] = 4  # bucket 3 is empty
    got = agreement.tau_by_bucket(first, second, bucket, 4)
    for number in (1, 2, 4):
        inside = bucket == number
        assert got[number - 1] == pytest.approx(slow_tau(first[inside], second[inside]), abs=1e-12)
    assert got[2] is None


def test_two_pairs_have_a_tau_and_a_single_one_has_none():
    found = agreement.tau_by_bucket(np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 9.0]), np.array([1, 1, 2]), 2)
    assert found == [-1.0, None]


def test_pairs_are_every_behaviour_before_its_target_once():
    histories = [np.array([1, 2, 3, 1]), np.array([2, 3]), np.array([4])]
    expected = set()
    for history in histories:
        for t in range(len(history)):
            expected |= {(int(history[b]), int(history[t])) for b in range(max(t - 2, 0), t)}
    got = agreement.behaviour_target_pairs(histories, max_length=2)
    assert {tuple(pair) for pair in got.tolist()} == {pair for pair in expected if pair[0] != pair[1]}
    assert len(got) == len(set(map(tuple, got.tolist())))
    assert [1, 1] not in agreement.behaviour_target_pairs(histories, 3).tolist(), "an item is at no distance to itself"


def test_at_most_so_many_pairs_of_every_bucket_are_drawn(rng):
    bucket = rng.permutation(np.repeat([1, 2, 3], [30, 3, 10]))
    drawn = agreement.sample_by_bucket(np.zeros((43, 2)), bucket, 7, rng)
    assert np.bincount(bucket[drawn]).tolist() == [0, 7, 3, 7]
    assert drawn.tolist() == sorted(set(drawn.tolist()))


def test_near_and_far_tell_related_vectors_from_unrelated_ones(rng):
    by_ids = rng.random(5000)
    same = agreement.near_and_far(by_ids, by_ids * 3 + 1)
    assert same["overlap"] == 0
    other = agreement.near_and_far(by_ids, rng.random(5000))
    assert other["overlap"] > 0.8
    assert sum(other["near"]) == pytest.approx(1)
    nearest = np.sort(by_ids)[:500] * 3 + 1
    assert same["near"][1] == pytest.approx(((nearest >= same["edges"][1]) & (nearest < same["edges"][2])).mean())


def runs(rng, noise):
    ids = rng.normal(size=(40, 6)).astype(np.float32)
    counts = np.concatenate([[0], rng.integers(1, 30, 39)])
    histories = [rng.integers(1, 40, 8) for _ in range(60)]
    tokens = np.array([str(i) for i in range(40)])
    other = np.concatenate([ids + rng.normal(0, noise, ids.shape), np.zeros((40, 3))], 1)  # another dimension
    return [
        RunVectors(n, v, tokens, histories, counts, 5) for n, v in (("a", {"id": ids}), ("b", {"aligned.id": other}))
    ]


@pytest.mark.parametrize("histories", [[[3], [5]], [[3, 3], [5]]])
def test_histories_without_two_items_are_an_error_that_says_so(rng, histories):
    first, second = runs(rng, 0.5)
    first = replace(first, histories=[np.array(history) for history in histories])
    with pytest.raises(DataError, match="^a: no training history has two different items"):
        agreement.compare_vectors(first, second, 500, 3, 0)


def test_the_less_a_model_moved_the_more_it_agrees(rng):
    near, far = (agreement.compare_vectors(*runs(np.random.default_rng(0), noise), 500, 3, 0) for noise in (0.1, 2.0))
    (row,) = near["tau"]
    assert (row["first"], row["second"], row["side"]) == ("id", "aligned.id", "ids")
    assert all(a > b for a, b in zip(row["tau"], far["tau"][0]["tau"]))
    assert min(row["tau"]) > 0.8
    assert max(near["pairs"]) <= 500


def test_a_pair_is_in_the_bucket_of_its_target(rng):
    first, second = runs(rng, 0.5)
    pairs = agreement.behaviour_target_pairs(first.histories, 5)
    bucket = frequency_buckets(first.counts, 3)[pairs[:, 1]]
    found = agreement.compare_vectors(first, second, len(pairs), 3, 0)
    assert found["pairs"] == np.bincount(bucket)[1:].tolist()
    by_ids, by_others = (agreement.distances(v, pairs) for run in (first, second) for v in run.vectors.values())
    for number, tau in enumerate(found["tau"][0]["tau"], start=1):
        inside = bucket == number
        assert tau == pytest.approx(kendalltau(by_ids[inside], by_others[inside]).statistic)
    assert agreement.compare_vectors(first, second, 20, 3, 0)["pairs"] == [20, 20, 20]


def test_vectors_are_compared_with_those_of_their_side(rng):
    first, second = (replace(run, vectors={**run.vectors, "text": rng.normal(size=(40, 4))}) for run in runs(rng, 0.5))
    found = agreement.compare_vectors(first, second, 20, 3, 0)["tau"]
    assert [(row["first"], row["second"], row["side"]) for row in found] == [
        ("id", "aligned.id", "ids"), ("text", "text", "text")
    ]  # fmt: skip


def test_near_and_far_go_by_a_run_s_own_ids_else_by_those_of_the_first(rng):
    first, second = runs(rng, 9.0)  # whose ids have nothing in common
    without = replace(second, vectors={"text": first.vectors["id"] * 2})
    for other, name in ((second, "aligned.id"), (without, "text")):
        found = agreement.compare_vectors(first, other, 500, 3, 0)["near_and_far"]
        assert [found[part][1][name]["overlap"] for part in ("warm", "cold")] == [0, 0]


@pytest.mark.parametrize(("buckets", "warm", "cold"), [(3, (1, 1), (3, 3)), (4, (1, 2), (3, 4)), (10, (1, 4), (7, 10))])
def test_the_warm_and_the_cold_third_are_of_the_buckets_at_either_end(rng, monkeypatch, buckets, warm, cold):
    asked = []
    monkeypatch.setattr(agreement, "_random_pairs", lambda _, limits, *__: asked.append(limits) or np.array([[1, 2]]))
    agreement.compare_vectors(*runs(rng, 0.5), 20, buckets, 0)
    assert list(dict.fromkeys(asked)) == [warm, cold]


def test_where_no_item_is_warm_or_cold_there_are_no_pairs_of_them(rng):
    first, second = runs(rng, 0.5)
    alike = first.counts.copy()
    alike[1:] = 5  # all items are bought as often: one bucket holds them
    first, second = (dataclasses.replace(run, counts=alike) for run in (first, second))
    found = agreement.compare_vectors(first, second, 20, 10, 0)["near_and_far"]
    assert {name: [len(of_run) for of_run in both] for name, both in found.items() if not any(map(len, both))}


def test_vectors_of_a_model_that_scores_by_cosine_have_no_length():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert agreement._plain(vectors, unit=True) == pytest.approx(np.array([[0.6, 0.8], [0.0, 1.0]]))
    assert agreement._plain(vectors, unit=False).tolist() == vectors.tolist()


def test_runs_on_other_items_are_refused(rng):
    first, second = runs(rng, 0.1)
    with pytest.raises(agreement.DataError, match="same items"):
        agreement.compare_vectors(
            first, RunVectors("c", second.vectors, second.tokens[::-1], [], second.counts, 5), 10, 3, 0
        )


def test_the_command_reads_two_runs_and_writes_json_and_figures(planted, semantic_cache, tmp_path, capsys):
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    sizes = {"n_layers": 1, "hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "epochs": 1, "topk": [5]}
    quiet = {"show_progress": False, "state": "ERROR", "phase_cache": False, "valid_metric": "NDCG@5"}
    keys = {"data_path": str(planted), **text, **sizes, **quiet}
    for model, own in (("IBIM", {}), ("PAD", {"align_epochs": 1})):
        recbole_eimf.run(model, "planted", output_dir=str(tmp_path / model), **own, **keys)
    out = tmp_path / "found"
    assert main(["agreement", str(tmp_path / "IBIM"), str(tmp_path / "PAD"), f"--out={out}", "--pairs=50"]) == 0
    found = json.loads((out / "agreement.json").read_text())
    assert {(row["first"], row["second"]) for row in found["tau"]} == {("id", "id"), ("id", "aligned.id")}
    assert len(found["pairs"]) == 10
    assert set(found["near_and_far"]["cold"][1]) == {"titles", "id", "text", "aligned", "aligned.id", "aligned.text"}
    for name in ("agreement_tau.png", "agreement_distances.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "aligned.id" in capsys.readouterr().out


def test_a_run_over_a_backbone_of_ones_own_is_read_if_it_is_named(planted, tmp_path, capsys):
    name = "examples.last_and_mean:LastAndMean"
    keys = {"data_path": str(planted), "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "epochs": 1, "topk": [5]}
    quiet = {"show_progress": False, "state": "ERROR", "valid_metric": "NDCG@5"}
    own, ours, out = (str(tmp_path / folder) for folder in ("own", "ours", "found"))
    recbole_eimf.run("IBIM", "planted", backbone=name, output_dir=own, **keys, **quiet)
    recbole_eimf.run("IBIM", "planted", output_dir=ours, **keys, **quiet)
    asked = ["agreement", own, ours, f"--out={out}", "--pairs=50"]
    assert main(asked) == 2
    assert f"--backbone={name} of `explore` and `agreement`" in " ".join(capsys.readouterr().err.split())
    assert main([*asked, f"--backbone={name}"]) == 0
    assert json.loads((tmp_path / "found" / "agreement.json").read_text())["tau"]
    for option, of in ((f"--backbone={name}", "a run over"), (f"--model={name}", "a run of")):
        assert main(["agreement", ours, ours, option]) == 2
        assert f"{option}: {ours} is not {of} that class" in " ".join(capsys.readouterr().err.split())


def test_wrong_arguments_are_named(tmp_path, capsys):
    assert main(["agreement", str(tmp_path)]) == 2
    assert "two runs" in capsys.readouterr().err
    assert main(["agreement", str(tmp_path), str(tmp_path), "--pair=3"]) == 2
    assert "Did you mean 'pairs'" in capsys.readouterr().err
    assert main(["agreement", str(tmp_path), str(tmp_path), "--pairs=0"]) == 2
    assert "--pairs=0: a whole number from 1 on" in capsys.readouterr().err
    assert main(["agreement", str(tmp_path), str(tmp_path), "--out="]) == 2
    assert "--out=: no value" in capsys.readouterr().err
    assert main(["agreement", str(tmp_path), str(tmp_path)]) == 2
    assert "model.safetensors" in capsys.readouterr().err
