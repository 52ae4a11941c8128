"""Search under a score prior against loops: lists, counts and like text added to products."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.score_prior import PARTS, ScorePrior
from recbole_eimf.serving import index as search
from recbole_eimf.serving.eight_bits import EightBits
from recbole_eimf.serving.export import check_index
from recbole_eimf.serving.new_items import _index
from recbole_eimf.serving.prior_index import PriorIndex

ITEMS, WIDTH, TEXT = 2000, 8, 6
HISTORY = torch.tensor([5, 1200, 7, 1999, 7, 300])
DECAY = 0.7


def graph(seed: int, edges: int) -> sparse.csr_matrix:
    draw = np.random.default_rng(seed)
    places = draw.integers(1, ITEMS, (2, edges))
    return sparse.coo_matrix((draw.random(edges).astype(np.float32), places), shape=(ITEMS, ITEMS)).tocsr()


def made_prior(weights: list[float], by_frequency: bool = False) -> ScorePrior:
    draw = torch.Generator().manual_seed(1)
    bucket = torch.arange(ITEMS) % 5 if by_frequency else None
    prior = ScorePrior("all", DECAY, None, ITEMS, bucket, graph(2, 40 * ITEMS))
    prior._set_graph("", graph(3, 10 * ITEMS))
    prior.text = torch.nn.functional.normalize(torch.randn(ITEMS, TEXT, generator=draw), dim=1)
    prior.text[0] = 0
    weight = torch.tensor(weights)
    prior.weight.copy_(weight[:, None] * torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5]) if by_frequency else weight)
    return prior


def by_loops(prior, vectors, bias, interests, barred, user, k):
    """(rows, scores) of the k best in double precision, from the formula at the head of score_prior.py."""
    graphs = {
        "next": prior._matrix("next"),
        "previous": prior._matrix("previous"),
        "together": prior._matrix("together"),
    }
    dense = {name: found.toarray().astype(float) for name, found in graphs.items()}
    text = prior.text.double().numpy()
    dense["similar"] = text @ text.T
    weight = prior.weight.double().numpy()
    scores = (vectors.double().numpy() @ interests.double().numpy().T).max(1)
    scores = scores if bias is None else scores + bias.double().numpy()
    for place, part in enumerate(PARTS):
        of_items = weight[place][prior.bucket.numpy()] if len(prior.bucket) else weight[place]
        for back, item in enumerate(reversed(HISTORY.tolist())):
            scores = scores + of_items * DECAY**back * dense[part][item]
    places = (np.random.default_rng(0).permutation(ITEMS) + user * 2654435761) % ITEMS
    order = sorted((-scores[row], places[row], row) for row in range(1, ITEMS) if row not in barred)[:k]
    return [row for _, _, row in order], [-score for score, _, _ in order]


def plain(prior, vectors, bias):
    return PriorIndex(prior, vectors, bias)


def coarse(prior, vectors, bias):
    """The coarse form, whatever this processor prefers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_quicker", lambda *_: True)
        return PriorIndex(prior, vectors, bias)


def eight_bits(prior, vectors, bias):
    """Whole numbers, whatever this processor prefers."""
    made = PriorIndex(prior, vectors, bias)
    own = torch.arange(ITEMS)
    joined = torch.cat([vectors, prior.weighed_text(own)], 1) if prior.weighs_text else vectors
    made.flat.eight_bits = EightBits(joined, made.flat.longest)
    return made


WEIGHTS = {
    "all": [2.0, 1.5, 0.7, 3.0],
    "lists far above products": [0.0, 80.0, 60.0, 0.0],
    "like text alone": [3.0, 0.0, 0.0, 0.0],
    "counts alone": [0.0, 0.0, 0.0, 5.0],
    "none": [0.0, 0.0, 0.0, 0.0],
    "against": [-2.0, -1.0, 0.0, -3.0],
}


@pytest.mark.parametrize("make", [plain, coarse, eight_bits])
@pytest.mark.parametrize("by_frequency", [False, True], ids=["same for all", "by frequency"])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_answers_are_those_of_loops(weights, by_frequency, make):
    draw = torch.Generator().manual_seed(4)
    vectors, interests = torch.randn(ITEMS, WIDTH, generator=draw), torch.randn(3, WIDTH, generator=draw)
    bias = torch.randn(ITEMS, generator=draw) if by_frequency else None
    prior = made_prior(weights, by_frequency)
    barred = HISTORY
    found = make(prior, vectors, bias).best(interests, HISTORY, 10, barred, user=5)
    rows, scores = by_loops(prior, vectors, bias, interests, set(barred.tolist()), 5, 10)
    assert found.proved
    assert found.rows.tolist() == rows
    assert np.allclose(found.scores, scores, rtol=1e-5)


def test_what_is_not_barred_may_be_an_item_of_the_history():
    prior, vectors = (
        made_prior([40.0, 0.0, 0.0, 0.0]),
        torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(0)),
    )
    interests = torch.ones(1, WIDTH)
    found = PriorIndex(prior, vectors).best(interests, HISTORY, 10)
    rows, _ = by_loops(prior, vectors, None, interests, set(), 0, 10)
    assert found.rows.tolist() == rows
    assert {*rows} & {*HISTORY.tolist()}


def test_padding_is_no_item_whatever_is_added_to_it():
    prior = made_prior(WEIGHTS["all"])
    pair = sparse.coo_matrix(([100.0], ([300], [0])), shape=(ITEMS, ITEMS)).tocsr()
    prior._set_graph("together_", pair)
    vectors = -torch.rand(ITEMS, WIDTH, generator=torch.Generator().manual_seed(0))
    vectors[0] = 0
    found = PriorIndex(prior, vectors).best(torch.ones(1, WIDTH), HISTORY, 10)
    assert 0 not in found.rows


def test_equal_scores_go_by_the_users_own_order():
    prior, interests = made_prior(WEIGHTS["counts alone"]), torch.ones(2, WIDTH)
    vectors = torch.zeros(ITEMS, WIDTH)
    vectors[1 : ITEMS // 20] = 1.0  # below what the counts lift
    for user in (0, 3):
        found = PriorIndex(prior, vectors).best(interests, HISTORY, 150, user=user)
        assert found.rows.tolist() == by_loops(prior, vectors, None, interests, set(), user, 150)[0]


def test_where_nearly_all_items_are_asked_for_it_leaves_them_to_brute_force():
    index = PriorIndex(made_prior(WEIGHTS["all"]), torch.randn(ITEMS, WIDTH))
    assert index.best(torch.ones(1, WIDTH), HISTORY, ITEMS // 2) is None


@pytest.mark.parametrize(("below", "times"), [(8.5, 2), (9.5, 1)])
def test_a_ceiling_as_near_as_what_is_added_may_be_off_proves_nothing(monkeypatch, below, times):
    """Eight sums may lose the last bit of 2^20 each, and the index's own one more: two ways of summing may differ."""
    prior, bit = made_prior(WEIGHTS["counts alone"]), 2.0**20 * torch.finfo(torch.float32).eps
    added = torch.zeros(ITEMS)
    added[1:11], added[11:200] = 2.0**20, 2.0**20 - below * bit
    monkeypatch.setattr(prior, "counted", lambda _: added)
    asked, top = [], search.FlatQuery.top
    monkeypatch.setattr(search.FlatQuery, "top", lambda query, *given: asked.append(given) or top(query, *given))
    found = PriorIndex(prior, torch.zeros(ITEMS, WIDTH)).best(torch.zeros(1, WIDTH), HISTORY, 10)
    assert sorted(found.rows.tolist()) == list(range(1, 11))
    assert len(asked) == times


@pytest.mark.parametrize("by_frequency", [False, True], ids=["same for all", "by frequency"])
def test_what_is_kept_apart_is_what_the_prior_adds(by_frequency):
    prior = made_prior(WEIGHTS["all"], by_frequency)
    sequence = torch.stack([HISTORY, torch.tensor([9, 8, 0, 0, 0, 0])])
    length = torch.tensor([6, 2])
    text = prior.text_query(sequence, length) @ prior.weighed_text(torch.arange(ITEMS)).T
    counted = torch.stack([prior.counted(row[:end]) for row, end in zip(sequence, length)])
    torch.testing.assert_close(text + counted, prior(sequence, length))


def told(net):
    """A prior of random texts, arrows and counts."""
    net.prior.weight.copy_(torch.tensor(WEIGHTS["all"]))
    net.prior.text = torch.nn.functional.normalize(torch.randn(net.n_items, 6), dim=1)
    for prefix, seed in (("", 1), ("together_", 2)):
        places = np.random.default_rng(seed).integers(1, net.n_items, (2, 400))
        shape = (net.n_items, net.n_items)
        net.prior._set_graph(prefix, sparse.coo_matrix((np.ones(400, np.float32), places), shape=shape).tocsr())


@pytest.mark.parametrize("backbone", ["GRU4Rec", "REMI"])
def test_one_at_a_time_through_the_index_as_all_together(exported, monkeypatch, backbone):
    """Of a model folder, which a user's request goes through the index of."""
    monkeypatch.setattr(search, "_SLACK", 1)
    _, _, recommender = exported("IBIM", told, "flat", backbone=backbone, score_prior="all")
    assert isinstance(recommender._parts.index, PriorIndex)
    draw = np.random.default_rng(0)
    tokens = np.array(recommender.catalogue.tokens.to_pylist())
    histories = [tokens[draw.integers(1, len(tokens), draw.integers(1, 6))].tolist() for _ in range(40)]
    asked, best = [], PriorIndex.best
    monkeypatch.setattr(PriorIndex, "best", lambda *given: asked.append(best(*given)) or asked[-1])
    together = recommender.rank(histories, 5)
    assert not asked  # many are quicker as one product
    alone = [recommender.rank([history], 5) for history in histories]
    assert sum(found is not None for found in asked) > 20
    assert np.array_equal(together.rows, np.concatenate([found.rows for found in alone]))
    assert np.allclose(together.scores, np.concatenate([found.scores for found in alone]), rtol=1e-5)


def test_a_graph_over_a_prior_is_refused(made_run):
    run = made_run("IBIM", told, backbone="GRU4Rec", score_prior="all")
    with pytest.raises(ConfigError, match="index=hnsw: the run has score_prior=all.*--index=flat"):
        check_index(run, "hnsw")
    check_index(run, "flat")
    check_index(made_run("IBIM", backbone="GRU4Rec"), "hnsw")


def test_items_that_are_added_are_found_through_the_index_too():
    prior, vectors = made_prior(WEIGHTS["all"]), torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(0))
    vectors[-1] *= 10
    old = PriorIndex(prior, vectors[:-100])
    grown = _index(old, SimpleNamespace(prior=prior, vectors=vectors, bias=None), ITEMS - 100)
    assert isinstance(grown, PriorIndex)
    interests = vectors[[ITEMS - 1]] * 100
    assert grown.best(interests, HISTORY[:3], 1).rows.tolist() == [ITEMS - 1]


def test_what_places_an_item_the_same_whatever_else_is_added():
    alone = {
        kind: ScorePrior(kind, DECAY, None, 5).places_each_alone for kind in ("similar", "together", "next", "all")
    }
    assert alone == {"similar": True, "together": False, "next": False, "all": False}
    assert not ScorePrior("similar+together", DECAY, None, 5).places_each_alone
