"""Many users through a coarse table: who is sure of their list has brute force's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from recbole_eimf.serving import many
from recbole_eimf.serving.answer import Question, rank
from recbole_eimf.serving.catalogue import Catalogue
from recbole_eimf.serving.eight_bits import EightBits
from recbole_eimf.serving.index import HNSWIndex
from recbole_eimf.serving.many import CoarseTable
from recbole_eimf.serving.parts import Parts
from tests.serving.test_index import ITEMS, KINDS, coarse, table

USERS, K = 12, 5


def best_by_loops(interests, vectors, seen, k=K):
    """Rows of each user's k best, in double precision."""
    scores = np.einsum("bkd,nd->bkn", interests.double().numpy(), vectors.double().numpy()).max(1)
    scores[:, 0] = -np.inf
    for user, item in seen:
        scores[user, item] = -np.inf
    return np.argsort(-scores, kind="stable")[:, :k].tolist(), np.sort(-scores)[:, :k] * -1


def asked(vectors, interests, seen=(), k=K):
    index = coarse(vectors)
    of = CoarseTable(index.vectors, vectors, index.error)
    assert [of.answers(k) for k in (0, K, len(vectors) // 2)] == [False, True, False]
    history = tuple(torch.tensor(column) for column in zip(*seen)) if seen else None
    return of.best(interests, k, history)


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_sure_has_brute_force(kind):
    vectors = table(kind)
    interests = torch.randn(USERS, 3, 8, generator=torch.Generator().manual_seed(1))
    interests[:, 1] *= 30  # far stronger than the others
    first, _ = best_by_loops(interests, vectors, [])
    seen = [(user, item) for user in range(USERS) for item in (first[user][0], first[user][3], 7)]
    found = asked(vectors, interests, seen)
    rows, scores = best_by_loops(interests, vectors, seen)
    for user in found.sure.nonzero()[:, 0].tolist():
        assert found.rows[user].tolist() == rows[user]
        assert np.allclose(found.scores[user], scores[user], rtol=1e-6)
    assert found.scores.dtype == torch.float32
    sure = int(found.sure.sum())
    if kind == "random":
        assert sure >= USERS - 2
    elif kind in ("equal vectors", "few distinct", "nearly equal"):
        assert sure == 0  # which of equal ones comes first is not for sums to say


@pytest.mark.parametrize("items", [2991, 2992, 2993])  # one place is left over in the chunks, none, fifteen
def test_the_last_item_is_an_item_and_what_is_left_over_is_none(items):
    vectors = table("random")[:items]
    vectors[-1] *= 6 / vectors[-1].norm()
    interests = vectors[-1].expand(1, 1, 8)
    (order,), _ = best_by_loops(interests, vectors, [], items)
    assert order[0] == items - 1
    for k in (K, 30):
        found = asked(vectors, interests, k=k)
        assert found.sure.item()
        assert found.rows[0].tolist() == order[:k]
    seen = [(0, item) for item in range(1, items) if item not in order[1:K]]
    assert not asked(vectors, interests, seen).sure.item(), "four items are no five"


def test_chunks_are_enough_for_half_as_many_items():
    of = CoarseTable(torch.zeros(ITEMS, 8, dtype=torch.bfloat16), torch.zeros(ITEMS, 8), None)
    assert of.chunks == 188  # of sixteen
    assert [of.answers(k) for k in (0, 1, 77, 78)] == [False, True, True, False]


def test_scores_below_zero_are_not_taken_for_others():
    """Bits of what is below zero stand in the wrong order, as those of the least would be the best."""
    vectors = -table("random").abs() - 1
    vectors[0] = 0
    interests = torch.rand(USERS, 2, 8, generator=torch.Generator().manual_seed(1)) + 0.1
    assert not asked(vectors, interests).sure.any(), "who has nothing above zero is answered elsewhere"
    places = [(7 + 400 * n) % ITEMS for n in range(K)]  # in different chunks
    vectors[places] *= -torch.arange(2.0, 2.0 + K)[:, None]
    rows, scores = best_by_loops(interests, vectors, [], K + 1)
    assert (scores[:, K - 1] > 0).all()
    assert (scores[:, K] < 0).all()
    found = asked(vectors, interests)
    assert found.sure.all()
    assert found.rows.tolist() == [user[:K] for user in rows]
    vectors[places[0]] *= -1  # one is missing above zero: the last place is for one below
    assert not asked(vectors, interests).sure.any()


def test_what_rounding_brings_below_zero_is_not_forgotten():
    """An item whose score is above the last of the list's, and whose coarse score is below zero, where no order is."""
    vectors = torch.zeros(ITEMS, 4)
    vectors[1:, 0] = -torch.linspace(5.0, 6.0, ITEMS - 1)
    vectors[100:105, 0] = torch.tensor([7.0, 6.0, 5.0, 4.0, 0.0001])
    assert asked(vectors, torch.ones(1, 1, 4), k=4).sure.all()
    vectors[200] = torch.tensor([1.003, 1.003, -1.004, -1.0015])
    assert float(vectors[200].sum()) > 0.0004
    assert float(vectors[200].to(torch.bfloat16).float().sum()) < -0.007
    assert best_by_loops(torch.ones(1, 1, 4), vectors, [])[0] == [[100, 101, 102, 103, 200]]
    assert not asked(vectors, torch.ones(1, 1, 4)).sure.any()


def test_items_on_the_edge_of_what_was_looked_into():
    vectors = torch.zeros(ITEMS, 1)
    vectors[1:, 0] = torch.linspace(1.0, 1.05, ITEMS - 1)  # more items within bfloat16's rounding than are looked into
    found = asked(vectors, torch.ones(2, 1, 1))
    assert not found.sure.any()
    vectors[1:] = vectors[1 + torch.randperm(ITEMS - 1, generator=torch.Generator().manual_seed(0))]
    found = asked(vectors, torch.ones(1, 1, 1))
    assert not found.sure.any(), "what was looked into is above its coarse score, and so is what was not"
    vectors[100:105, 0] = torch.tensor([3.0, 4.0, 5.0, 6.0, 7.0])
    found = asked(vectors, torch.ones(2, 1, 1), [(1, 104)])
    assert found.sure.tolist() == [True, False]  # the second one's fifth is one of the many
    assert found.rows[0].tolist() == [104, 103, 102, 101, 100]


@pytest.mark.parametrize("spread", [range(1, 188), [5 + 188 * n for n in range(16)] + [6 + 188 * n for n in range(16)]])
def test_neither_a_chunk_nor_an_item_that_was_not_looked_into_is_forgotten(spread):
    """More items within a rounding than are looked into: one in each chunk, or all in two of them."""
    vectors, places = torch.zeros(ITEMS, 1), torch.tensor(list(spread))
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    vectors[places, 0] = torch.linspace(1.0435, 1.0505, len(places))[order]
    assert len(vectors.to(torch.bfloat16)[places].unique()) == 1
    assert not asked(vectors, torch.ones(1, 1, 1)).sure.any()
    vectors[places[:8], 0] = torch.arange(2.0, 10.0)
    found = asked(vectors, torch.ones(1, 1, 1))
    assert found.sure.all()
    assert found.rows.tolist() == [places[:8].flip(0)[:K].tolist()]


def test_a_history_bars_its_own_user_s_items_alone():
    vectors = table("random")
    vectors[1] *= 6 / vectors[1].norm()
    vectors[6] = vectors[1] * 5 / 6
    found = asked(vectors, vectors[1].expand(2, 1, 8), [(0, 3), (1, 2)])
    assert found.sure.all()
    assert found.rows[:, :2].tolist() == [[1, 6], [1, 6]]
    found = asked(vectors, vectors[1].expand(2, 1, 8), [(0, 6), (1, 1)])
    assert found.sure.all()
    assert found.rows[:, 0].tolist() == [1, 6]


def test_an_item_of_a_history_beyond_all_candidates_is_nobody_else_s():
    history = torch.tensor([0, 1]), torch.tensor([8, 4])
    assert many._stand_in(torch.tensor([[1, 2], [3, 4]]), history).tolist() == [[False, False], [False, True]]


def test_blocks_do_not_change_answers(monkeypatch):
    vectors = table("random")
    interests = torch.randn(USERS, 2, 8)
    first, _ = best_by_loops(interests, vectors, [])
    seen = [(user, item) for user in range(USERS) for item in first[user][: 1 + user % 3]]
    whole = asked(vectors, interests, seen)
    assert whole.sure.sum() > USERS // 2
    for room in (2 * ITEMS * 2 * 5, 1):  # of five users at a time, or four; of not even one
        monkeypatch.setattr(many, "_BYTES", room)
        parts = asked(vectors, interests, seen)
        assert torch.equal(whole.sure, parts.sure)
        assert torch.equal(whole.rows[whole.sure], parts.rows[whole.sure])


def test_half_a_rounding_apart_is_not_sure():
    """Two items whose difference single precision may lose."""
    vectors = table("random")
    best = int((vectors @ torch.ones(8)).argmax())
    other = 1 if best != 1 else 2
    vectors[other] = vectors[best]
    vectors[other, 0] = torch.nextafter(vectors[best, 0], torch.tensor(-torch.inf))
    found = asked(vectors, torch.ones(1, 1, 8))
    assert not found.sure.item()
    for lost in (4e-7, 8e-7):  # eight terms may lose 4.8e-7, in either sum
        vectors[other, 0] = vectors[best, 0] - lost * vectors[best].abs().sum()
        assert not asked(vectors, torch.ones(1, 1, 8)).sure.item()
    vectors[other, 0] = vectors[best, 0] - 0.01
    assert asked(vectors, torch.ones(1, 1, 8)).sure.item()


@pytest.mark.parametrize(("apart", "sure"), [(0.25, False), (1.0, True)])
def test_what_a_sum_may_be_off_by_goes_with_its_item(apart, sure):
    """The second one's sum may be off by half, as 2^20 is added and taken off; by coarse scores it is the first."""
    vectors = torch.zeros(ITEMS, 4)
    vectors[100] = torch.tensor([2.0**20, -(2.0**20), 131_672.0, 0.0])
    vectors[101, :2] = torch.tensor([131_272.0, 401.0])
    vectors[102, :2] = torch.tensor([131_272.0, 400.0 - apart])
    vectors[103:106, 0] = torch.tensor([90_000.0, 80_000.0, 70_000.0])
    coarse_scores = vectors.to(torch.bfloat16).float().sum(1).to(torch.bfloat16)
    assert coarse_scores[100] > coarse_scores[101] == coarse_scores[102]
    found = asked(vectors, torch.ones(1, 1, 4))
    assert found.rows.tolist() == [[101, 100, 102, 103, 104]]
    assert found.sure.item() is sure


@pytest.mark.parametrize(("score", "sure"), [(8.248, False), (8.254, True)])
def test_the_last_one_s_sum_may_be_off_below_what_was_left_out(score, sure):
    """It may be off by 0.2525, as 2^19 is added and taken off; coarse scores of what is left out are up to 8."""
    vectors = torch.zeros(ITEMS, 4)
    vectors[1:, 0] = 7.99
    vectors[100:104, 0] = torch.tensor([40.0, 30.0, 20.0, 10.0])
    vectors[104, :3] = torch.tensor([2.0**19, -(2.0**19), score])
    assert vectors[1, 0].to(torch.bfloat16) == 8
    exactly = CoarseTable(vectors.to(torch.bfloat16), vectors, lambda interests: torch.zeros(len(interests)))
    found = exactly.best(torch.ones(1, 1, 4), K)
    assert found.rows.tolist() == [[100, 101, 102, 103, 104]]
    assert found.sure.item() is sure


def test_what_fills_chunks_and_padding_are_no_items_though_they_are_candidates(monkeypatch):
    """As where nearly all is barred, and too few items are left for as many candidates."""
    vectors = torch.zeros(ITEMS - 9, 1)
    vectors[1:] = -1.0
    vectors[1:K, 0], vectors[-1] = torch.tensor([-0.5, -0.6, -0.7, -0.8]), -0.1
    of = CoarseTable(vectors.to(torch.bfloat16), vectors, lambda interests: torch.zeros(len(interests)))
    candidates = torch.tensor([[0, ITEMS - 9, ITEMS - 1, 1, 2, 3, 4, 5, 6]])
    monkeypatch.setattr(of, "_candidates", lambda *_: (candidates, torch.tensor([-2.0])))
    assert of.best(torch.ones(1, 1, 1), K - 1).rows.tolist() == [[1, 2, 3, 4]]


def served(index_of, vectors, histories, together=256, **options):
    """Answers of a catalogue of these vectors, a user's interest being the vector of their last item."""
    tokens = pa.array(["[PAD]", *map(str, range(1, ITEMS))])

    class Last:
        max_length = width = 10

        def __call__(self, sequence, length):
            return vectors[sequence[torch.arange(len(length)), length - 1]][:, None]

    catalogue = Catalogue(tokens, pa.nulls(ITEMS, pa.string()), np.ones(ITEMS, dtype=np.int64))
    parts = Parts(catalogue, Last(), vectors, index=index_of(vectors))
    config = {"evaluation": {"mask_history": True, "eval_batch_size": together, "eval_chunk_items": None}}
    return rank(parts, config, histories, Question(K, **options))


def with_table(vectors):
    index = coarse(vectors)
    index.many = CoarseTable(index.vectors, vectors, index.error)
    return index


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"exclude_seen": False}, {"without": ["3", "5"]}])
def test_lists_are_the_same_with_and_without_a_table(kind, options):
    vectors = table(kind)
    draw = np.random.default_rng(2)
    histories = [[str(item) for item in draw.integers(1, ITEMS, size)] for size in draw.integers(1, 9, 30)] + [
        [],
        ["?"],
    ]
    found, plain = (served(index_of, vectors, histories, **options) for index_of in (with_table, lambda _: None))
    assert np.array_equal(found.rows, plain.rows)
    assert np.allclose(found.scores, plain.scores, rtol=1e-5)
    assert found.proved


def test_one_answer_that_a_graph_gave_is_enough_for_nothing_to_be_proved():
    vectors = table("random")
    long = [str(item) for item in range(1, ITEMS // 2)]  # so much is barred that all items are looked at
    proved = [
        served(HNSWIndex.over, vectors, histories, together=1).proved
        for histories in ([long], [["3"]], [long, ["3"]], [["3"], long])
    ]
    assert proved == [True, False, False, False]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nearly equal"])
def test_a_user_alone_gets_the_list_of_the_batch(kind):
    vectors = table(kind)

    def in_eight_bits(vectors):
        index = with_table(vectors)
        index.eight_bits = EightBits(vectors, index.longest)
        return index

    draw = np.random.default_rng(3)
    histories = [[str(item) for item in draw.integers(1, ITEMS, 5)] for _ in range(8)]
    together = served(in_eight_bits, vectors, histories)
    alone = [served(in_eight_bits, vectors, [history]) for history in histories]
    assert all(one.proved for one in alone)
    assert np.array_equal(together.rows, np.concatenate([one.rows for one in alone]))
