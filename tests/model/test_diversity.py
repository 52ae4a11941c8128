"""Controllable aggregation against the greedy algorithm written out, and through RecBole's ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.diversity import aggregated, greedy_diverse
from tests.conftest import TITLES, planted_sequences, write_atomic

KINDS = ["nail", "nail", "nail", "nail", "", "hair", "hair", "hair", "hair", ""]


def brute_force(scores, kind, weight, count, candidates):
    """ComiRec algorithm 2: arg max of f(u, i) + lambda * sum over the picked of [categories differ]."""
    picked = []
    for _ in range(count):
        rest = [i for i in candidates if i not in picked]
        picked.append(max(rest, key=lambda i: scores[i] + weight * sum(kind[i] != kind[j] for j in picked)))
    return picked


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 10.0])
def test_greedy_picks_are_those_of_the_algorithm_as_printed(weight):
    rng = np.random.default_rng(0)
    scores, kind = rng.normal(size=(6, 40)), rng.integers(5, size=40)
    got = greedy_diverse(torch.from_numpy(scores), torch.from_numpy(kind), weight, count=10, pool=25)
    for row, picks in zip(scores, got.tolist()):
        assert picks == brute_force(row, kind, weight, 10, np.argsort(-row)[:25])
    if not weight:
        assert got.tolist() == np.argsort(-scores)[:, :10].tolist()


def candidates_of(of_interest, count, barred=()):
    """The best ``count`` items of each interest, padding and ``barred`` left out."""
    ranked = [[i for i in np.argsort(-own, kind="stable") if i and i not in barred] for own in of_interest]
    return sorted({i for items in ranked for i in items[:count]})


@pytest.mark.parametrize("left", [1, 4, 9])
def test_fewer_items_than_are_to_be_picked_stand_in_their_order(left):
    """A request that bars all but a few items, as ``only`` does when serving, gets these in their order."""
    rng = np.random.default_rng(2)
    scores, kind = torch.from_numpy(rng.normal(size=(2, 4, 30))), rng.integers(4, size=30)
    allowed = rng.choice(np.arange(1, 30), left, replace=False)
    barred = torch.ones(30, dtype=torch.bool)
    barred[allowed] = False
    scores = scores.masked_fill(barred, -torch.inf)
    got = aggregated(iter(scores), torch.from_numpy(kind), 0.5, count=12)
    for own, ranked in zip(scores.amax(0).numpy(), got):
        assert ranked.topk(left).indices.tolist() == brute_force(own, kind, 0.5, left, allowed.tolist())
        assert ranked[barred].isneginf().all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0])
def test_candidates_come_from_every_interest(weight):
    """An interest whose scores are small beside another's has its best items among the candidates all the same."""
    rng = np.random.default_rng(1)
    of_interest, kind = rng.normal(size=(3, 5, 40)), rng.integers(4, size=40)
    of_interest[0] += 9  # its 40 items are above all others
    hidden = torch.from_numpy(rng.integers(1, 40, size=(5, 3)))
    scores = of_interest.max(0)
    for barred in (None, hidden):
        got = aggregated(map(torch.from_numpy, of_interest), torch.from_numpy(kind), weight, 6, barred)
        for row in range(5):
            left_out = set() if barred is None else set(barred[row].tolist())
            pool = candidates_of(of_interest[:, row], 6, left_out)
            assert len(pool) > 6
            picked = brute_force(scores[row], kind, weight, 6, pool)
            assert got[row].topk(6).indices.tolist() == picked
            rest = [i for i in range(40) if i not in picked]
            assert got[row, rest].tolist() == pytest.approx(scores[row, rest].tolist())


@pytest.fixture
def built(make_config, tmp_path):
    folder = write_atomic(tmp_path, "kinds", planted_sequences(), TITLES)
    lines = [f"i{i}\t{title}\t{kind}" for i, (title, kind) in enumerate(zip(TITLES, KINDS))]
    header = "item_id:token\ttitle:token_seq\tkind:token_seq"
    (folder / "kinds" / "kinds.item").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")

    def make(**keys):
        torch.manual_seed(0)
        config = make_config(
            keys.pop("model", "ComiRecSA"), dataset="kinds", data_path=str(folder), category_field="kind", **keys
        )
        loaders = assembly.loaders(config)
        torch.manual_seed(0)
        return config.model_class(config, loaders[0]._dataset).eval(), loaders

    return make


def test_the_top_is_re_ranked_by_category(built):
    plain, (train, _, test) = built(interest_num=2, topk=[1, 3], valid_metric="NDCG@3")
    net, _ = built(interest_num=2, topk=[1, 3], valid_metric="NDCG@3", diversity_lambda=0.05)
    kind_of = dict(zip([f"i{i}" for i in range(10)], KINDS))
    kind = [kind_of.get(t) or f"alone {t}" for t in train._dataset.field2id_token["item_id"]]  # padding too
    rows = next(iter(test))[0]
    before, after = (m.full_sort_predict(rows).detach() for m in (plain, net))
    interests = plain.interests(rows["item_id_list"], rows["item_length"])
    of_interest = (interests @ plain.scored_vectors().T).detach().double().numpy()  # [B, K, N]
    changed = 0
    for one, other, own in zip(before.double().numpy(), after, of_interest):
        pool = candidates_of(own, 3)
        expected = brute_force(one, kind, 0.05, 3, pool)
        assert other.topk(3).indices.tolist() == expected
        changed += set(expected) != set(np.argsort(-one[1:])[:3] + 1)
        rest = [i for i in range(len(one)) if i not in expected]
        assert other[rest].tolist() == pytest.approx(one[rest].tolist(), abs=1e-6)
    assert changed


def test_a_score_prior_counts_before_the_top_is_re_ranked(built):
    """What the prior adds moves items into the pool of every interest, and the pick is by scores with it."""
    prior = {
        "score_prior": "together",
        "prior_weights": "learned",
        "interest_num": 2,
        "topk": [3],
        "valid_metric": "NDCG@3",
    }
    plain, (_, _, test) = built(**prior)
    net, _ = built(**prior, diversity_lambda=0.05)
    rows = next(iter(test))[0]
    asked = rows["item_id_list"], rows["item_length"]
    with torch.no_grad():
        for model in (plain, net):
            model.prior.set_weight("together", 2.0)
        added = plain.prior(*asked)[:, None].double()
        before, after = (m.full_sort_predict(rows).double().numpy() for m in (plain, net))
        of_interest = (plain.interests(*asked) @ plain.scored_vectors().T).double()
    kind_of = dict(zip([f"i{i}" for i in range(10)], KINDS))
    kind = [kind_of.get(t) or f"alone {t}" for t in test._dataset.field2id_token["item_id"]]
    without = [candidates_of(own, 3) for own in of_interest.numpy()]
    pools = [candidates_of(own, 3) for own in (of_interest + added).numpy()]
    assert pools != without  # else the test would not see whether it is added
    for one, other, pool in zip(before, torch.from_numpy(after), pools):
        assert other.topk(3).indices.tolist() == brute_force(one, kind, 0.05, 3, pool)


def test_masked_history_takes_no_place_among_the_picks(built):
    net, _ = built(
        topk=[3], valid_metric="NDCG@3", diversity_lambda=0.05, mask_history=True, model="EIMF", backbone="MIND"
    )
    row = Interaction({"item_id_list": torch.tensor([[1, 2, 3, 4, 5, 6]]), "item_length": torch.tensor([6])})
    assert set(net.full_sort_predict(row)[0].topk(3).indices.tolist()) <= {7, 8, 9, 10}


def test_nor_does_what_a_row_no_longer_shows_of_a_long_history(built):
    keys = {"topk": [3], "valid_metric": "NDCG@3", "diversity_lambda": 0.05, "mask_history": True, "interest_num": 2}
    net, (_, _, test) = built(MAX_ITEM_LIST_LENGTH=2, **keys)
    kind_of = dict(zip([f"i{i}" for i in range(10)], KINDS))
    kind = [kind_of.get(t) or f"alone {t}" for t in test._dataset.field2id_token["item_id"]]
    rows, (owner, items), *_ = next(iter(test))
    with torch.no_grad():
        interests = net.interests(rows["item_id_list"], rows["item_length"])
        of_interest = (interests @ net.scored_vectors().T).double().numpy()
        found = net.full_sort_predict(rows)
    found[owner, items] = -torch.inf  # as the trainer masks
    had = [set(items[owner == row].tolist()) for row in range(len(rows))]
    asked = [row for row in range(len(rows)) if len(had[row]) < 8]
    assert any(had[row] - set(rows["item_id_list"][row].tolist()) for row in asked)
    for row in asked:
        own = of_interest[row]
        expected = brute_force(own.max(0), kind, 0.05, 3, candidates_of(own, 3, had[row]))
        assert found[row].topk(3).indices.tolist() == expected


def test_a_trained_checkpoint_takes_the_weight_at_evaluation(built):
    plain, _ = built()
    net, _ = built(diversity_lambda=0.1, inference_only=True)
    net.load_state_dict(plain.state_dict())
    assert "diversity.category" not in net.state_dict()


@pytest.mark.parametrize(("field", "match"), [("sort", "no column 'sort'"), ("kind", "no item")])
def test_a_weight_without_categories_is_an_error(make_config, tmp_path, field, match):
    folder = write_atomic(tmp_path, "kinds", planted_sequences(20))
    (folder / "kinds" / "kinds.item").write_text("item_id:token\tkind:token_seq\ni0\t\n", encoding="utf-8")
    keys = {"dataset": "kinds", "data_path": str(folder), "diversity_lambda": 0.1, "category_field": field}
    config = make_config("MIND", **keys)
    train, *_ = assembly.loaders(config)
    with pytest.raises(ConfigError, match=f"(?s)diversity_lambda=0.1, category_field='{field}'.*{match}"):
        config.model_class(config, train._dataset)
