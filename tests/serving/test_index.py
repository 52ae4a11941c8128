"""Search with proof against brute force, on tables made to mislead it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.serving import index as search
from recbole_eimf.serving.eight_bits import EightBits
from recbole_eimf.serving.index import (
    Candidates,
    FlatIndex,
    FlatQuery,
    HNSWIndex,
    HNSWQuery,
    check_index_kind,
    search_with_proof,
)

ITEMS = 3000


def table(kind: str) -> torch.Tensor:
    """[N, 8]"""
    torch.manual_seed(0)
    vectors = torch.randn(ITEMS, 8)
    if kind == "equal vectors":
        vectors[:] = vectors[1]
    elif kind == "few distinct":
        vectors = vectors[torch.randint(1, 9, (ITEMS,))]
    elif kind == "zero vectors":
        vectors[ITEMS // 2 :] = 0
    elif kind == "long and short":
        vectors *= torch.logspace(-6, 6, ITEMS)[torch.randperm(ITEMS), None]
    elif kind == "nearly equal":
        vectors = vectors[:1] + 1e-7 * vectors
    vectors[0] = 0
    return vectors


KINDS = ["random", "equal vectors", "few distinct", "zero vectors", "long and short", "nearly equal"]


def by_loops(interests, k, vectors, bias, barred, user):
    """Rows of the k best in double precision: by score, then by the user's own order of the catalogue."""
    places = (np.random.default_rng(0).permutation(len(vectors)) + user * 2654435761) % len(vectors)
    products = vectors.double()[:, None] * interests.double()  # a loop over columns: equal rows have equal sums
    scores = sum(products[..., column] for column in range(vectors.shape[1])).amax(1)
    scores = (scores if bias is None else scores + bias).tolist()
    scored = [(-scores[row], places[row], row) for row in range(1, len(vectors)) if row not in barred]
    return [row for _, _, row in sorted(scored)[:k]]


def coarse(vectors, bias=None) -> FlatIndex:
    """The coarse form, whatever this processor prefers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_quicker", lambda *_: True)
        return FlatIndex(vectors, bias)


def test_many_users_at_once_are_for_a_coarse_table_without_a_bias():
    """Its chunks know of no bias: with one it would rank by products alone."""
    vectors, bias = table("random"), torch.randn(ITEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_quicker", lambda *_: True)
        assert FlatIndex(vectors).many is not None
        assert FlatIndex(vectors, bias).many is None
        assert FlatIndex(vectors, for_many=False).many is None
        patch.setattr(search, "_quicker", lambda *_: False)
        assert FlatIndex(vectors).many is None


@pytest.mark.parametrize("eight", [False, True])
@pytest.mark.parametrize("place", ["bias", "added"])
def test_what_is_added_is_rounded_whatever_its_sign(monkeypatch, place, eight):
    """Scores far below zero lose as many digits as those far above: the bound has to say so."""
    vectors, interests = table("random"), torch.randn(3, 8)
    monkeypatch.setattr(search, "_whole_numbers", lambda *_: eight)
    far = torch.full((ITEMS,), -3e6)
    given = {"bias": far} if place == "bias" else {}
    found = FlatIndex(vectors, **given).query(interests, far if place == "added" else None)
    true = (vectors.double() @ interests.double().T).amax(1) + far.double()
    off = (found.blocks.flatten()[1:ITEMS].double() - true[1:]).abs().max()
    assert 0.05 < off <= found.error


def eight_bits(vectors, bias=None) -> FlatIndex:
    """Whole numbers, whatever this processor prefers."""
    index = FlatIndex(vectors, bias)
    index.eight_bits = EightBits(vectors, index.longest)
    return index


FORMS = pytest.mark.parametrize("make", [FlatIndex, coarse, eight_bits])


@FORMS
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_brute_force(kind, make):
    vectors = table(kind)
    interests = torch.randn(3, 8)
    interests[1] *= 100  # far stronger than the others
    barred = torch.randint(1, ITEMS, (40,))
    found = search_with_proof(make(vectors), interests, 10, vectors, None, barred, user=5)
    assert found.proved
    expected = by_loops(interests, 10, vectors, None, set(barred.tolist()), 5)
    if kind in ("nearly equal", "long and short"):  # rounding decides among the last digits: the scores must agree
        scores = lambda rows: (vectors[rows] @ interests.T).amax(1)  # noqa: E731
        assert torch.allclose(scores(found.rows), scores(torch.tensor(expected)), rtol=1e-6)
    else:
        assert found.rows.tolist() == expected


@FORMS
def test_padding_is_no_item_where_all_others_score_less(make):
    vectors = -table("random").abs()
    found = search_with_proof(make(vectors), torch.ones(2, 8), 10, vectors)
    assert found.rows.tolist() == by_loops(torch.ones(2, 8), 10, vectors, None, set(), 0)


@FORMS
def test_where_all_scores_are_equal_what_was_left_out_is_asked_for_too(make):
    vectors = table("random")
    found = search_with_proof(make(vectors), torch.zeros(2, 8), 10, vectors, user=3)
    assert found.rows.tolist() == by_loops(torch.zeros(2, 8), 10, vectors, None, set(), 3)


@FORMS
def test_a_bias_counts(make):
    vectors, bias = table("random"), torch.randn(ITEMS) * 5
    interests = torch.randn(2, 8)
    found = search_with_proof(make(vectors, bias), interests, 10, vectors, bias, None)
    assert found.rows.tolist() == by_loops(interests, 10, vectors, bias, set(), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bits_are_off_by_no_more_than_they_say(kind):
    vectors = table(kind)
    interests = torch.randn(3, 8) * torch.tensor([[1.0], [100.0], [1e-3]])
    written = EightBits(vectors, float(vectors.norm(dim=1).max()))
    scores, error = written.scores(interests)
    exact = (interests.double() @ vectors.T.double()).amax(0)
    assert (scores - exact).abs().max() <= error
    assert error < 0.03 * float(interests.norm(dim=1).max() * vectors.norm(dim=1).max())  # and no idle promise


@pytest.mark.parametrize("lossy", ["nothing", "vectors", "interests", "both"])
def test_a_coarse_index_is_off_by_no_more_than_it_says(lossy):
    """bfloat16 has 8 bits. What writing loses of a number, and of the sum 2 + 2^-7, all pulls the same way."""
    lost, vectors, interests = 2.0**-8 - 1e-5, torch.zeros(ITEMS, 2), torch.zeros(2, 2)
    vectors[7], interests[0] = torch.tensor([1.0, 1.0 + 2.0**-7]), torch.tensor([1.0, 1.0])
    vectors[7] += lost * (lossy in ("vectors", "both"))
    interests[0] += lost * (lossy in ("interests", "both"))
    index = coarse(vectors)
    off = float(interests[0].double() @ vectors[7].double()) - 2
    assert float(index.query(interests).blocks.flatten()[7]) == 2
    error = float(index.error(interests))
    assert off <= error < 2 * off
    found = FlatIndex(vectors[:, :1], torch.full((ITEMS,), 2.0**20 + 0.4375))  # whole products, a sum that is rounded
    asked = found.query(torch.tensor([[0.125]]))
    exact = 0.125 * vectors[:, 0].double() + 2.0**20 + 0.4375
    assert 0 < (asked.blocks.flatten()[1:ITEMS] - exact[1:]).abs().max() <= asked.error


def test_what_is_added_to_products_is_off_by_no_more_than_is_said():
    vectors = torch.ones(ITEMS, 1)
    asked = FlatIndex(vectors).query(torch.tensor([[0.0625]]), torch.full((ITEMS,), 2.0**20))  # half of the last bit
    assert 0 < float((asked.blocks.flatten()[1:ITEMS] - 2.0**20 - 0.0625).abs().max()) <= asked.error < 1


def test_candidates_are_scored_in_double_precision():
    """2^26 + 1 - 2^26 is 0 or 1 in single precision, by the order of the sum."""
    vectors = torch.zeros(ITEMS, 8)
    for row, places in enumerate(itertools.permutations(range(8), 3), 1):
        vectors[row, list(places)] = torch.tensor([2.0**26, 1.0, -(2.0**26)])
    index = Liar((vectors != 0).any(1).float())
    index.longest = 0.0
    assert (search_with_proof(index, torch.ones(1, 8), 300, vectors).scores == 1).all()


@pytest.mark.parametrize("of_interests", [False, True])
def test_eight_bits_are_off_by_all_they_say_where_what_is_lost_points_along(of_interests):
    """The bound is Cauchy and Schwarz's, met where the part that writing leaves out is parallel to the other side."""
    lossy, exact = torch.zeros(40, 8), torch.zeros(40, 8)
    lossy[:, 0] = exact[:, 1] = 127.0
    lossy[7, 1:], exact[7, 1:] = 0.49, 127.0  # row 7 alone loses something: seven times 0.49
    vectors, interests = (exact, lossy[7:8]) if of_interests else (lossy, exact[7:8])
    written = EightBits(vectors, float(vectors.norm(dim=1).max()))
    scores, error = written.scores(interests)
    lost = float((scores[7] - interests[0].double() @ vectors[7].double()).abs())
    assert lost == pytest.approx(7 * 0.49 * 127, rel=1e-5)
    assert lost <= error < 1.002 * lost


def test_eight_bits_say_what_scaling_costs_where_writing_costs_nothing():
    """Whole numbers times a scale are written as they are; their products are rounded once they are scaled."""
    vectors = torch.zeros(ITEMS, 8)
    vectors[:, 0], vectors[:, 1] = torch.arange(ITEMS) % 127, 127.0
    written = EightBits(vectors, float(vectors.norm(dim=1).max()))
    assert written.off == 0
    for step in range(1, 40):
        interests = torch.zeros(2, 8)
        interests[:, 0] = torch.tensor([127.0, 101.0]) * (step / 390.0)
        scores, error = written.scores(interests)
        exact = (interests.double() @ vectors.T.double()).amax(0)
        assert (scores - exact).abs().max() <= error


def test_eight_bits_look_at_what_is_lost_of_every_part_of_a_large_catalogue():
    vectors = torch.full(((1 << 18) + 2, 2), 127.0)
    vectors[-1] = torch.tensor([12.7, 0.04])  # of which the second is written as nothing
    assert EightBits(vectors, float(vectors[0].norm())).off == pytest.approx(0.04, rel=1e-3)


@pytest.mark.parametrize("items", [63, 64, 65, 1000])
@pytest.mark.parametrize("reaching", [torch.inf, 0.5])
def test_blocks_give_the_greatest_of_all(items, reaching):
    scores = torch.randn(items, generator=torch.Generator().manual_seed(items)).round(decimals=1)
    found = FlatQuery(scores, 0.1).top(20, reaching)
    depth = 20 if reaching == torch.inf else max(20, int((scores >= reaching - 0.1).sum()))
    expected = scores.sort(descending=True).values
    assert torch.equal(scores[found.rows], expected[:depth])
    assert len(found.rows.unique()) == depth
    assert found.ceiling == float(expected[depth]) + 0.1


@pytest.mark.parametrize("k", [1, ITEMS - 1, ITEMS + 5])
def test_all_of_a_catalogue_and_more(k):
    vectors, interests = table("few distinct"), torch.randn(2, 8)
    found = search_with_proof(FlatIndex(vectors), interests, k, vectors, user=4)
    assert found.rows.tolist() == by_loops(interests, k, vectors, None, set(), 4)


def test_all_items_seen_leaves_nothing():
    vectors = table("random")
    found = search_with_proof(FlatIndex(vectors), torch.randn(2, 8), 5, vectors, None, torch.arange(1, ITEMS))
    assert len(found.rows) == 0


class Liar:
    """Claims that nothing beyond what it gives can matter, but says where it stopped."""

    certain = True
    longest = 1.0

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def query(self, interests):
        return self

    def top(self, depth, reaching):
        self.asked.append(depth)
        values, rows = self.scores.topk(depth + 1)
        return Candidates(rows[:-1], float(values[-1]))


def test_depth_doubles_until_the_kth_score_is_above_what_was_left_out():
    vectors = torch.zeros(ITEMS, 1)
    vectors[100:200] = 1.0  # a hundred items share the first place
    index = Liar(vectors[:, 0])
    found = search_with_proof(index, torch.ones(1, 1), 10, vectors)
    assert index.asked == [26, 52, 104]
    assert set(found.rows.tolist()) <= set(range(100, 200))
    assert found.rows.tolist() == by_loops(torch.ones(1, 1), 10, vectors, None, set(), 0)


def test_as_many_more_are_asked_for_as_are_barred():
    vectors = torch.zeros(ITEMS, 1)
    vectors[1:, 0] = torch.linspace(2, 1, ITEMS - 1)
    index, barred = Liar(vectors[:, 0]), torch.arange(1, 301)  # a long history, of all the best
    found = search_with_proof(index, torch.ones(1, 1), 10, vectors, None, barred)
    assert index.asked == [326]
    assert found.rows.tolist() == list(range(301, 311))


@pytest.mark.parametrize(("share", "times"), [(0.9, 6), (1.1, 1)])
def test_a_ceiling_as_near_as_sums_may_be_off_proves_nothing(share, times):
    """|h| |v| d eps, of the longest interest and vector: by less two ways of summing may differ."""
    vectors, k = torch.zeros(ITEMS, 8), 10
    vectors[1:, 0] = torch.linspace(2, 1, ITEMS - 1)
    interests = torch.zeros(2, 8)
    interests[0, 0] = 4.0
    index = Liar(vectors[:, 0] * 4)
    index.longest = 2.0
    reached, off = float(index.scores[k]), 4 * 2 * 8 * 2.0**-23

    def top(depth, reaching):
        index.asked.append(depth)
        return Candidates(torch.arange(1, depth + 1), reached - share * off)

    index.top = top
    assert search_with_proof(index, interests, k, vectors).rows.tolist() == list(range(1, k + 1))
    assert len(index.asked) == times


def test_a_graph_finds_nearly_all_and_claims_no_proof(tmp_path):
    vectors, bias = table("random"), torch.randn(ITEMS)
    index = HNSWIndex.over(vectors, bias)
    index.write(tmp_path / "index.faiss")
    index = HNSWIndex.read(tmp_path / "index.faiss", vectors, biased=True)
    right = 0
    for seed in range(20):
        interests = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
        found = search_with_proof(index, interests, 10, vectors, bias)
        assert not found.proved
        right += len(set(found.rows.tolist()) & set(by_loops(interests, 10, vectors, bias, set(), 0)))
    assert right >= 195
    with pytest.raises(DataError, match="an index of 2999 items of 9 numbers over 2999 of 8"):
        HNSWIndex.read(tmp_path / "index.faiss", vectors, biased=False)
    with pytest.raises(DataError, match="an index of 2999 items of 9 numbers over 2998 of 9"):
        HNSWIndex.read(tmp_path / "index.faiss", vectors[:-1], biased=True)


def test_a_graph_grows_and_the_old_one_stays():
    vectors, bias = table("random")[:300], torch.randn(300)
    vectors[250:] *= 3
    old = HNSWIndex.over(vectors[:250], bias[:250])
    new = old.extended(vectors, bias, 250)
    assert (old.index.ntotal, new.index.ntotal) == (249, 299)
    assert new.longest == pytest.approx(float(vectors.norm(dim=1).max()))
    interests = torch.randn(2, 8)
    assert search_with_proof(new, interests, 5, vectors, bias).rows.tolist() == by_loops(
        interests, 5, vectors, bias, set(), 0
    )


class Graph:
    """Answers as faiss does: places from 0, -1 where it found no more."""

    def search(self, interests, depth, params):
        scores = np.array([[5.0, 4.0, 3.0], [9.0, 7.0, -np.inf]], dtype=np.float32)
        return scores, np.array([[4, 0, 2], [2, 7, -1]])


def test_a_graph_s_ceiling_is_the_greatest_of_where_its_interests_stopped():
    found = HNSWQuery(Graph(), np.zeros((2, 8), dtype=np.float32)).top(3, torch.inf)
    assert found.rows.tolist() == [1, 3, 5, 8]
    assert found.ceiling == 7


def test_unknown_kind_of_index():
    with pytest.raises(ConfigError, match="index=flatt"):
        check_index_kind("flatt")
