"""The order of the ranked list and every metric, through loader, collector and evaluator, against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import DataError
from recbole_eimf.evaluator.collector import ranked_items
from tests.evaluator import slow

KS = (1, 3, 5, 20)


def score_matrices(shape, rng):
    """Score matrices that are hard to rank: few distinct values, one value, targets' neighbours, barred items, NaN."""
    yield rng.integers(0, 3, shape).astype(np.float32)
    yield rng.integers(0, 20, shape).astype(np.float32)
    yield np.full(shape, 0.25, dtype=np.float32)
    yield rng.normal(size=shape).astype(np.float32)
    yield np.where(rng.random(shape) < 0.7, -np.inf, rng.integers(0, 2, shape)).astype(np.float32)
    popular = np.sort(rng.integers(0, 4, shape[1]))[::-1]
    yield np.broadcast_to(popular, shape).astype(np.float32)
    yield np.where(rng.random(shape) < 0.3, np.nan, rng.integers(0, 3, shape)).astype(np.float32)
    yield np.where(rng.random(shape) < 0.2, np.inf, -rng.integers(0, 2, shape)).astype(np.float32)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(("dataset", "protocol"), [("planted", "leave_one_out"), ("planted", "user_split"),
                                                   ("wide", "user_split")])  # fmt: skip
def test_every_metric_agrees_with_a_slow_count_ties_included(make_bench, dataset, protocol, mask):
    bench = make_bench(dataset, protocol=protocol, mask_history=mask)
    rng = np.random.default_rng(11)
    several = short = 0
    for table in [m for _ in range(2) for m in score_matrices(bench.shape, rng)]:
        found, ranks = bench.evaluate(table.copy())
        expected = {}
        for user, history, targets in bench.users():
            scores = np.where(np.isnan(table[user]), -np.inf, table[user]).tolist()
            ranked = slow.ranking(scores, user, history if mask else set())
            several += len(targets) > 1
            short += len(ranked) < KS[-1]
            for k in KS:
                for name, value in slow.metrics(ranked, targets, k).items():
                    expected.setdefault(name, []).append(value)
        assert set(found) == set(expected)
        for name, values in expected.items():
            assert found[name] == pytest.approx(np.mean(values), abs=2e-6), name
            np.testing.assert_allclose(ranks.per_user(name), values, atol=1e-12, err_msg=name)
            assert ranks.mean(name) == pytest.approx(np.mean(values))
    assert several > 0 or protocol == "leave_one_out"
    assert short > 0


def test_among_drawn_items_equal_scores_stand_in_the_users_own_order(make_bench):
    """RecBole has a row for each pair of user and candidate there, and one of scores for each user."""
    args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni3"}
    bench = make_bench("planted", eval_args=args, eval_batch_size=80)  # twenty users at a time
    table = np.random.default_rng(3).integers(0, 2, bench.shape).astype(np.float32)
    found, _ = bench.evaluate(table)
    candidates: dict[int, set[int]] = {}
    for user, item in bench.trainer.model.asked:
        candidates.setdefault(user, set()).add(item)
    expected: dict[str, list[float]] = {}
    for user, _, targets in bench.users():
        others = set(range(bench.shape[1])) - candidates[user]
        ranked = slow.ranking(table[user].tolist(), user, others)
        for k in KS:
            for name, value in slow.metrics(ranked, targets, k).items():
                expected.setdefault(name, []).append(value)
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), abs=2e-6), name


def drawn_args(mode):
    return {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode}


#: rows of several targets; several rows of one user; some of both, repeats among them
SEVERAL = [
    ("wide", {"protocol": "user_split"}),
    ("timed", {"protocol": "user_split", "mask_history": True, "split_ratios": [0.5, 0.2, 0.3]}),
    ("wide", {"protocol": "leave_one_out", "mask_history": True}),
    ("timed", {"protocol": "global_time"}),
    ("timed", {"protocol": "global_time", "time_target": "all", "mask_history": True}),
    ("timed", {"protocol": "leave_one_out", "ties": "together"}),
]


@pytest.fixture
def timed(tmp_path):
    """``timed``: 40 users and 30 items over 60 days, several items a day, and the same one again now and then."""
    rng = np.random.default_rng(5)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(40):
        days = np.sort(rng.integers(0, 60, rng.integers(6, 15))) * 86400 + 1_500_000_000
        rows += [f"u{user}\ti{item}\t{day}" for item, day in zip(rng.integers(0, 30, len(days)), days)]
    (tmp_path / "timed").mkdir()
    (tmp_path / "timed" / "timed.inter").write_text("\n".join(rows) + "\n")
    return {"data_path": str(tmp_path), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


@pytest.mark.parametrize("mode", ["uni4", "pop4"])
@pytest.mark.parametrize(("dataset", "keys"), SEVERAL)
def test_among_drawn_items_each_row_has_all_its_targets_and_nothing_that_counts_against_them(
    make_bench, timed, dataset, keys, mode
):
    keys = {**keys, **(timed if dataset == "timed" else {})}
    bench = make_bench(dataset, eval_args=drawn_args(mode), eval_batch_size=30, **keys)
    rows = list(bench.users())
    assert len(rows) > 8
    several = len(rows) > len({user for user, _, _ in rows}) or any(len(targets) > 1 for *_, targets in rows)
    assert several or keys["protocol"] == "leave_one_out"
    seen = 0
    for made, place, row, target in bench.loader:
        assert len(made) <= 30 or int(row[-1]) == 0, "more candidates than a batch has room for"
        users, items, labels = (made[field].tolist() for field in ("user_id", "item_id", "label"))
        for n in range(int(row[-1]) + 1):
            user, history, targets = rows[seen + n]
            own = [i for i, p in enumerate(place.tolist()) if p == n]
            asked = [int(t) for t, r in zip(target, row) if r == n]
            assert {users[i] for i in own} == {user}
            assert set(asked) == targets
            assert [items[i] for i in own if labels[i]] == asked
            drawn = [items[i] for i in own if not labels[i]]
            assert len(drawn) == 4 * len(asked)
            assert not {0, *targets} & {*drawn}
            assert not keys.get("mask_history") or not history & {*drawn}
        seen += int(row[-1]) + 1
    assert seen == len(rows)


@pytest.mark.parametrize(("dataset", "keys"), SEVERAL)
def test_among_drawn_items_metrics_are_those_of_the_ranks(make_bench, timed, dataset, keys):
    """Per row, by which slices and tests over users are made; a target that was had before is missed where masked."""
    keys = {**keys, **(timed if dataset == "timed" else {})}
    bench = make_bench(dataset, eval_args=drawn_args("uni4"), eval_batch_size=30, **keys)
    found, ranks = bench.evaluate(np.random.default_rng(3).integers(0, 9, bench.shape).astype(np.float32))
    for name, value in found.items():
        assert value == pytest.approx(ranks.mean(name), abs=2e-6), name
    assert len(ranks.user) == len(list(bench.users()))
    possible = [len(t - (h if keys.get("mask_history") else set())) / len(t) for _, h, t in bench.users()]
    assert found["recall@20"] == pytest.approx(np.mean(possible), abs=2e-6)
    assert keys.get("mask_history") is None or dataset == "wide" or np.mean(possible) < 1


def test_nothing_left_to_draw_is_an_error_and_no_endless_draw(make_bench):
    bench = make_bench("planted", protocol="user_split", mask_history=True, eval_args=drawn_args("uni4"))
    with pytest.raises(DataError, match="none is left to draw for user u.*mode: full.*mask_history=False"):
        list(bench.loader)


def test_ndcg_hits_reads_the_ordered_list_not_a_set(make_bench):
    """REMI's reference code enumerates a *set* of items: there, the same items in another order give the same NDCG."""
    bench = make_bench("wide", topk=[5])
    first, last = np.zeros(bench.shape, np.float32), np.zeros(bench.shape, np.float32)
    for user, _, targets in bench.users():
        target = next(iter(targets))
        others = [i for i in range(1, bench.shape[1]) if i != target][:4]
        first[user, [target, *others]] = [9, 8, 7, 6, 5]
        last[user, [target, *others]] = [5, 8, 7, 6, 9]
    best, _ = bench.evaluate(first)
    worst, _ = bench.evaluate(last)
    assert best["ndcg_hits@5"] == 1.0
    assert worst["ndcg_hits@5"] == pytest.approx(1 / np.log2(6), abs=1e-6)
    assert best["recall@5"] == worst["recall@5"] == 1.0


def test_a_masked_target_is_never_found(make_bench):
    """With fewer candidates than k, RecBole's topk goes on into masked items and counts targets among them."""
    bench = make_bench("planted", protocol="user_split", mask_history=True, topk=[9], valid_metric="NDCG@9")
    found, ranks = bench.evaluate(np.zeros(bench.shape, np.float32))
    possible = [len(targets - history) / len(targets) for _, history, targets in bench.users()]
    assert min(possible) == 0
    assert found["recall@9"] == pytest.approx(np.mean(possible), abs=1e-6)
    np.testing.assert_allclose(ranks.per_user("recall@9"), possible)


def test_a_constant_model_finds_as_many_targets_as_chance(make_bench):
    """Whichever items the targets are: the first in the file, the last, or the most popular."""
    bench = make_bench("wide", topk=[10], valid_metric="NDCG@10")
    items = torch.zeros(bench.shape, dtype=torch.float32)
    items[:, 0] = -torch.inf
    users = torch.arange(1, bench.shape[0])
    ranked = ranked_items(items[1:], users, 10)
    shown = np.bincount(ranked.flatten().numpy(), minlength=bench.shape[1])[1:]
    assert shown.mean() == 100 * 10 / 60
    assert shown.min() >= 14
    assert shown.max() <= 20
    found, _ = bench.evaluate(np.zeros(bench.shape, np.float32))
    assert abs(found["hit@10"] - 10 / 60) < 0.08


def test_the_order_does_not_depend_on_batches_or_on_how_ties_are_cut(monkeypatch):
    rng = np.random.default_rng(3)
    scores = torch.tensor(rng.integers(0, 4, (50, 40)).astype(np.float32))
    users = torch.arange(100, 150)
    whole = ranked_items(scores, users, 12)
    alone = torch.cat([ranked_items(scores[r : r + 1], users[r : r + 1], 12) for r in range(50)])
    assert torch.equal(whole, alone)
    monkeypatch.setattr("recbole_eimf.evaluator.ranking._CELLS_AT_ONCE", 100)
    assert torch.equal(whole, ranked_items(scores, users, 12))
    assert torch.equal(whole[:, :5], ranked_items(scores, users, 5))
    assert all(len(set(row)) == 12 for row in whole.tolist())
    # a tie that only shows one place beyond the last
    across = -torch.arange(40.0).clamp(max=12).repeat(50, 1)
    across[:, 0] = -torch.inf
    expected = [slow.ranking(row, user, set())[:12] for user, row in zip(users.tolist(), across.tolist())]
    assert ranked_items(across, users, 12).tolist() == expected
    assert ranked_items(scores, users, 60).shape == (50, 60)


@pytest.mark.parametrize("metric", ["ItemCoverage", "TailPercentage", "GAUC"])
def test_metrics_that_need_something_else_work_too(make_bench, metric):
    bench = make_bench("wide", metrics=[metric, "Recall"], topk=[5], valid_metric="Recall@5")
    bench.trainer.eval_collector.data_collect(type("Loader", (), {"dataset": bench.train}))
    table = np.random.default_rng(0).normal(size=bench.shape).astype(np.float32)
    once, _ = bench.evaluate(table.copy())
    again, _ = bench.evaluate(table.copy())
    assert once == again
    shown = {item for user, _, _ in bench.users() for item in slow.ranking(table[user].tolist(), user, set())[:5]}
    if metric == "ItemCoverage":
        assert once["itemcoverage@5"] == pytest.approx(len(shown) / bench.shape[1], abs=1e-6)
    else:
        assert 0 < once["gauc" if metric == "GAUC" else "tailpercentage@5"] < 1
