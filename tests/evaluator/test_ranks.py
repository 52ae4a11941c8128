"""Places of test targets on disk, and metrics from them by slice."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import recbole_eimf
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import read_tensors, write_tensors
from recbole_eimf.data.protocol import Spans
from recbole_eimf.evaluator.ranks import (
    RANKS_FILE,
    Asked,
    Ranks,
    asked_of,
    check_same_users,
    collected_ranks,
    read_ranks,
)
from recbole_eimf.experiment import assembly
from tests.evaluator import slow


@pytest.fixture
def small(wide):
    return {"data_path": str(wide), "topk": [3, 10], "valid_metric": "NDCG@10", "MAX_ITEM_LIST_LENGTH": 8, "epochs": 1,
            "hidden_size": 16, "inner_size": 16, "show_progress": False, "state": "ERROR", "compare_with": [],
            "protocol": "user_split"}  # fmt: skip


def test_a_run_keeps_every_target_and_its_slices(small, tmp_path):
    metrics = ["Recall", "Hit", "NDCG", "NDCG_hits", "MRR"]
    keys = {**small, "metrics": metrics, "valid_metric": "NDCG_hits@3"}
    result = recbole_eimf.run("IBIM", "wide", output_dir=str(tmp_path), **keys)
    ranks = read_ranks(tmp_path)
    assert set(result.test) == {f"{name.lower()}@{k}" for name in metrics for k in (3, 10)}
    for name, value in result.test.items():
        assert ranks.mean(name) == pytest.approx(value, abs=2e-6), name
    train, _, test = assembly.datasets(EIMFConfig("IBIM", "wide", None, keys))[1]
    flat, spans = test.flat.tolist(), test.spans
    wanted = [(r, i) for r in range(len(test)) for i in sorted(set(flat[spans.middle[r] : spans.end[r]]))]
    assert list(zip(ranks.target_row.tolist(), ranks.target_item.tolist())) == wanted
    seen = train.flat.tolist()
    assert ranks.target_count.tolist() == [seen.count(item) for _, item in wanted]
    assert ranks.user.tolist() == spans.user.tolist()
    assert asked_of(tmp_path) == Asked(len(test), len(wanted), ranks.identity)
    (tmp_path / "half").mkdir()
    assert asked_of(tmp_path / "half") is None
    (tmp_path / "half" / RANKS_FILE).write_bytes((tmp_path / RANKS_FILE).read_bytes()[:50])
    assert asked_of(tmp_path / "half") is None
    for row, rank in zip(ranks.target_row, ranks.target_rank):
        assert rank == -1 or ranks.hits[row, rank] == 1
    assert ranks.hits.sum() == (ranks.target_rank >= 0).sum() > 0
    assert result.slices == json.loads((tmp_path / "result.json").read_text())["slices"] == ranks.by_slice([3, 10])
    assert recbole_eimf.run("IBIM", "wide", **keys).slices == result.slices
    masked = recbole_eimf.evaluate(tmp_path, tmp_path / "masked", mask_history=True)
    other = read_ranks(tmp_path / "masked")
    check_same_users(ranks, other)
    assert other.mean("ndcg@10") == pytest.approx(masked["ndcg@10"], abs=2e-6)
    assert masked != result.test


def test_a_slice_counts_its_own_targets_at_their_places_in_the_whole_ranking(make_bench):
    bench = make_bench("wide", protocol="user_split", topk=[1, 3, 5, 20])
    counts = np.bincount(bench.train.flat.numpy(), minlength=bench.shape[1])
    rng = np.random.default_rng(5)
    partial = 0
    for _ in range(4):
        table = rng.integers(0, 9, bench.shape).astype(np.float32)
        _, ranks = bench.evaluate(table.copy())
        report = ranks.by_slice([5])
        assert len(ranks.slices) == 8
        for name, (low, high) in ranks.slices.items():
            expected, targets_in = {}, 0
            for user, _, targets in bench.users():
                inside = {t for t in targets if low <= counts[t] <= (high if high is not None else 10**9)}
                targets_in += len(inside)
                partial += 0 < len(inside) < len(targets)
                ranked = slow.ranking(table[user].tolist(), user, set())
                for k in (1, 5, 20):
                    values = slow.metrics(ranked, inside, k) if inside else dict.fromkeys(slow.metrics([], {0}, k))
                    for metric, value in values.items():
                        expected.setdefault(metric, []).append(np.nan if value is None else value)
            assert report[name]["targets"] == targets_in
            for metric, values in expected.items():
                np.testing.assert_allclose(ranks.per_user(metric, name), values, atol=1e-12, err_msg=f"{metric} {name}")
            if targets_in:
                assert report[name]["ndcg@5"] == pytest.approx(np.nanmean(expected["ndcg@5"]), abs=1e-6)
                assert report[name]["users"] == np.isfinite(expected["ndcg@5"]).sum()
            else:
                assert report[name] == {"targets": 0, "users": 0}
    assert partial > 0


def test_a_slice_tells_how_many_users_it_has_however_often_they_are_asked():
    user, row, count = np.array([7, 7, 9]), np.array([0, 1, 1, 2]), np.array([1, 1, 5, 5])
    rank = np.array([0, -1, 2, 1], dtype=np.int32)
    hits = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=np.uint8)
    slices = {"cold": (1, 1), "warm": (2, None)}
    ranks = Ranks(user, hits, np.array([1, 2, 1]), row, np.arange(1, 5), rank, count, "x", slices)
    found = ranks.by_slice([3])
    assert {name: (values["targets"], values["users"]) for name, values in found.items()} == {
        "cold": (2, 1),
        "warm": (2, 2),
    }
    assert found["cold"]["recall@3"] == 0.5


def test_a_target_that_is_asked_for_twice_is_one_with_marks_of_its_own():
    names = {"user": np.array(["[PAD]", "a", "b"]), "item": np.array([f"i{n}" for n in range(10)])}
    asked = torch.tensor([0, 0, 0, 1]), torch.tensor([5, 3, 5, 4])
    part = SimpleNamespace(
        spans=Spans(np.array([1, 2]), *(np.zeros(2, dtype=np.int64) for _ in range(3))),
        targets=lambda rows: asked,
        tied_targets=lambda rows: np.array([False, True, False, True]),
        of_new_users=lambda rows, train: np.array([False, False, False, True]),
        history=lambda rows: (torch.tensor([1, 0]), torch.tensor([3, 5])),
        item_num=10, uid_field="user", iid_field="item", field2id_token=names,
    )  # fmt: skip
    train = SimpleNamespace(item_counts=lambda: np.array([0, 1, 1, 0, 1, 3, 0, 0, 0, 0]))
    ranks = collected_ranks(np.array([[5, 1], [2, 4]]), part, train)
    assert list(zip(ranks.target_row, ranks.target_item)) == [(0, 3), (0, 5), (1, 4)]
    assert (ranks.target_rank.tolist(), ranks.targets.tolist()) == ([-1, 0, 1], [2, 1])
    assert ranks.hits.tolist() == [[1, 0], [0, 1]]
    assert {name: marked.tolist() for name, marked in ranks.marks.items()} == {
        "tied": [True, False, True],
        "untied": [False, True, False],
        "new_user": [False, False, True],
        "repeat": [False, True, False],  # another row's history is not this one's
        "seen": [False, True, True],
    }
    bounded = collected_ranks(np.array([[5, 1], [2, 4]]), part, train, [1, 2, 4]).marks
    assert {name: marked.tolist() for name, marked in bounded.items() if name.startswith("history_")} == {
        "history_0": [False] * 3, "history_1-2": [True] * 3, "history_3-4": [False] * 3, "history_>4": [False] * 3,
    }  # fmt: skip
    part.history = lambda rows: (torch.tensor([1, 1, 1]), torch.tensor([3, 5, 3]))
    bounded = collected_ranks(np.array([[5, 1], [2, 4]]), part, train, [1, 2]).marks
    assert bounded["history_0"].tolist() == [True, True, False], "nothing came before"
    assert bounded["history_>2"].tolist() == [False, False, True], "an item that was there twice is two events"
    # who was asked for what is a matter of names, which another filter numbers differently
    part.spans = dataclasses.replace(part.spans, user=np.array([2, 1]))
    names |= {"user": np.array(["[PAD]", "b", "a"]), "item": names["item"][[0, 1, 2, 8, 4, 9, 6, 7, 3, 5]]}
    asked = torch.tensor([0, 0, 0, 1]), torch.tensor([9, 8, 9, 4])
    train.item_counts = lambda: np.ones(10, dtype=np.int64)
    assert collected_ranks(np.array([[5, 1], [2, 4]]), part, train).identity == ranks.identity
    names["user"] = names["user"][[0, 2, 1]]
    assert collected_ranks(np.array([[5, 1], [2, 4]]), part, train).identity != ranks.identity


def test_the_same_targets_at_other_rows_of_a_user_are_asked_otherwise():
    """Under time_target=successive the order of equal times decides which row asks for what."""
    names = {"user": np.array(["[PAD]", "a"]), "item": np.array([f"i{n}" for n in range(10)])}

    def identity(first, second):
        part = SimpleNamespace(
            spans=Spans(np.array([1, 1]), *(np.zeros(2, dtype=np.int64) for _ in range(3))),
            targets=lambda rows: (torch.tensor([0, 1]), torch.tensor([first, second])),
            tied_targets=lambda rows: np.array([False, False]), of_new_users=lambda rows, train: np.array([False] * 2),
            history=lambda rows: (torch.tensor([1]), torch.tensor([3])),
            item_num=10, uid_field="user", iid_field="item", field2id_token=names,
        )  # fmt: skip
        train = SimpleNamespace(item_counts=lambda: np.ones(10, dtype=np.int64))
        return collected_ranks(np.array([[5, 1], [2, 4]]), part, train).identity

    assert identity(5, 4) == identity(5, 4) != identity(4, 5)


@pytest.mark.parametrize("keys", [{"protocol": "user_split"}, {}])
def test_repeats_are_targets_that_their_row_s_history_holds(make_bench, keys):
    bench = make_bench(**keys)
    _, ranks = bench.evaluate(np.random.default_rng(6).normal(size=bench.shape).astype(np.float32))
    wanted = [target in history for _, history, targets in bench.users() for target in sorted(targets)]
    assert ranks.marks["repeat"].tolist() == wanted
    assert ("seen" in ranks.marks) == (ranks.target_count == 0).any()
    assert 0 < sum(wanted) < len(wanted)
    rows = [r for r, (_, history, targets) in enumerate(bench.users()) if history & targets]
    found = ranks.by_slice([3])["repeat"]
    assert (found["targets"], found["users"]) == (sum(wanted), len(rows))
    assert found["ndcg@3"] == round(float(np.mean(ranks.per_user("ndcg@3", "repeat")[rows])), 6)


def test_runs_on_other_users_or_targets_are_not_compared(make_bench, tmp_path):
    def ranks(**keys):
        bench = make_bench("wide", **{"protocol": "user_split", **keys})
        return bench.evaluate(np.random.default_rng(0).normal(size=bench.shape).astype(np.float32))[1]

    first = ranks()
    assert first.identity == ranks(mask_history=True).identity
    check_same_users(first, ranks(MAX_ITEM_LIST_LENGTH=3))
    for other in (ranks(split_seed=3), ranks(protocol="leave_one_out")):
        with pytest.raises(DataError, match="A and B were not tested on the same users"):
            check_same_users(first, other, ("A", "B"))
    first.write(tmp_path)
    again = read_ranks(tmp_path)
    for entry in dataclasses.fields(first):
        assert np.array_equal(getattr(again, entry.name), getattr(first, entry.name)), entry.name
    kinds = {"user": "i8", "hits": "u1", "targets": "i4", "target_rank": "i4", "target_count": "i8", "marked": "u1"}
    assert {name: getattr(again, name).dtype.str[1:] for name in kinds} == kinds
    rows, targets = len(first.user), len(first.target_row)
    dataclasses.replace(first, user=np.full(rows, first.user[0])).write(tmp_path)
    assert asked_of(tmp_path) == Asked(1, targets, first.identity, rows)
    tensors = read_tensors(tmp_path / RANKS_FILE)
    del tensors["marked"]  # as files were written before there were marks
    write_tensors(tmp_path / RANKS_FILE, tensors, {"identity": first.identity, "slices": json.dumps(first.slices)})
    assert read_ranks(tmp_path).marks == {}
    assert read_ranks(tmp_path).mean("ndcg@5", "cold") == first.mean("ndcg@5", "cold")


def test_wrong_questions_and_files_are_named(make_bench, small, tmp_path):
    bench = make_bench("wide", topk=[5])
    _, ranks = bench.evaluate(np.zeros(bench.shape, np.float32))
    for metric in ("recall", "recall@0", "recall@6", "precision@5", "recall@x"):
        with pytest.raises(ConfigError, match=f"metric='{metric}'.*recall, hit, ndcg, ndcg_hits, mrr.*1 to 5"):
            ranks.per_user(metric)
    with pytest.raises(ConfigError, match="slice='cald'.*Did you mean 'cold'"):
        ranks.mean("recall@5", "cald")
    with pytest.raises(DataError, match="test_ranks.safetensors: no such file"):
        read_ranks(tmp_path)
    ranks.write(tmp_path)
    tensors = read_tensors(tmp_path / "test_ranks.safetensors")
    write_tensors(tmp_path / "test_ranks.safetensors", {"hits": tensors["hits"]}, {"rows": "as version 0.1 wrote it"})
    with pytest.raises(DataError, match="test_ranks.safetensors: lacks"):
        read_ranks(tmp_path)
    with pytest.raises(ConfigError, match=r"slice_bounds=\[5, 5\]"):
        recbole_eimf.run("Popularity", "wide", **{**small, "slice_bounds": [5, 5]})
