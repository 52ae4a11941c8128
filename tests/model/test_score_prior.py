"""What a score prior is made of and keeps: buckets, tables of counts, placebo, and what is saved and loaded."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.placing import Neighbours
from recbole_eimf.model.score_prior import WEIGHTS, ScorePrior, prior_of, reads_next, reads_text
from recbole_eimf.semantic.side_load import SideInformation

N = 15
#: training frequencies and their buckets, which begin at 1, 6, 21 and 101
COUNTS = np.array([0, 3, 0, 9, 400, 25, 5, 6, 100, 101, 1, 20, 21, 2, 60])
BUCKETS = [0, 1, 0, 2, 4, 3, 1, 2, 3, 4, 1, 2, 3, 1, 3]
ARROWS = sparse.csr_matrix(([2.0, 4.0, 1.0, 5.0], ([1, 1, 3, 4], [2, 3, 2, 3])), shape=(N, N))


TEXT = torch.nn.functional.normalize(torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), dim=1)


def prior(kind, **keys):
    # under global_time training is told nothing of item 3, which is recommended nevertheless
    known = {"seen": torch.arange(N) != 3, "next_among": lambda named: ARROWS @ sparse.diags(named.astype(float))}
    side = SideInformation(TEXT, torch.arange(N) > 0, None, None, None, {}, next_items=ARROWS, **known)
    config = {"score_prior": kind, "prior_weights": "grid", "prior_decay": 0.5, "knowledge_source": "file",
              "inference_only": False, **keys}  # fmt: skip
    return prior_of(config, SimpleNamespace(side=side, item_counts=lambda: COUNTS), N)


def test_items_have_the_weight_of_their_frequency_where_weights_are_by_frequency():
    made = prior("similar", prior_weights="by_frequency")
    assert made.bucket.tolist() == BUCKETS
    assert made.weight.shape == (4, 5)
    assert not made.value.numel(), "of arrows that are not read none is kept"
    for same in ("grid", "learned"):
        made = prior("similar", prior_weights=same)
        assert not len(made.bucket)
        assert made.weight.shape == (4,)


@pytest.mark.parametrize("kind", ["next", "previous"])
def test_arrows_are_read_in_the_direction_that_is_asked_for(kind):
    made = prior(kind)
    found = made.part(kind, torch.tensor([[1, 0], [3, 2], [2, 3]]), torch.tensor([1, 2, 2]))
    follows = {1: {2: 0.5, 3: 1.0}, 3: {2: 1.0}, 4: {3: 1.0}}
    # of the arrows into an item the heaviest counts one: 3 follows 1 and 4, 2 follows 1 by half and 3
    before = {2: {1: 0.5, 3: 1.0}, 3: {1: 1.0, 4: 1.0}}
    of = follows if kind == "next" else before
    for row, history in zip(found.tolist(), ([1], [3, 2], [2, 3])):
        wanted = [sum(0.5**t * of.get(j, {}).get(i, 0.0) for t, j in enumerate(reversed(history))) for i in range(N)]
        assert row == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("inference_only", [False, True])
@pytest.mark.parametrize(("source", "placebo"), [("file", False), ("shuffled", True)])
def test_reasons_know_whether_the_knowledge_is_of_other_items(source, placebo, inference_only):
    """So does a saved run that is loaded to be served, which reads no knowledge."""
    assert prior("both", knowledge_source=source, inference_only=inference_only).placebo is placebo


def test_tables_of_counts_have_rows_beyond_the_shortest_integers():
    many = 40_000
    counts = sparse.csr_matrix(([1.0], ([many - 1], [many - 2])), shape=(many, many))
    made = ScorePrior("together", 0.5, None, many, together=counts)
    assert made.part("together", torch.tensor([[many - 1]]), torch.tensor([1]))[0].nonzero().tolist() == [[many - 2]]


def test_a_loaded_prior_forgets_the_tables_it_has_used_and_a_stored_one_carries_none():
    history = torch.tensor([[1, 3]]), torch.tensor([2])
    made, other = prior("next"), prior("next")
    empty = len(pickle.dumps(other))
    before = other.part("next", *history)
    assert len(pickle.dumps(other)) == empty
    state = made.state_dict()
    state["value"] = 2 * state["value"]
    other.load_state_dict(state)
    torch.testing.assert_close(other.part("next", *history), 2 * before)


@pytest.mark.parametrize("kind", ["next", "previous", "together+previous"])
def test_a_prior_without_its_knowledge_is_refused(make_config, kind):
    with pytest.raises(ConfigError, match="knowledge_source=none: score_prior="):
        assembly.datasets(make_config("IBIM", score_prior=kind))


def test_a_prior_of_text_without_text_is_refused():
    config = {"score_prior": "together+similar", "inference_only": False, "knowledge_source": "none"}
    with pytest.raises(ConfigError, match="score_prior=together.similar: needs item text"):
        prior_of(config, SimpleNamespace(), N)


def test_what_is_read_is_what_the_parts_need():
    told = {"none": (False, False), "together": (False, False), "similar": (True, False), "next": (True, True),
            "similar+together": (True, False), "together+previous": (True, True), "all": (True, True)}  # fmt: skip
    for kind, wanted in told.items():
        assert (reads_text({"score_prior": kind}), reads_next({"score_prior": kind})) == wanted, kind
    assert list(WEIGHTS) == sorted({0.0, *WEIGHTS}), "a grid ascends from nothing"


PARTS_OF_WORDS = ("similar", "next", "previous")


def weighed(weights_are):
    """A prior of text and arrows, of which no two weights are the same: the prior, and (part, item) -> weight."""
    made = prior("+".join(PARTS_OF_WORDS), prior_weights=weights_are)
    by_bucket = weights_are == "by_frequency"
    for n, part in enumerate(PARTS_OF_WORDS):
        made.set_weight(part, torch.arange(1.0, 6.0) * 10**n if by_bucket else 10.0**n)
    return made, lambda part, item: 10 ** PARTS_OF_WORDS.index(part) * (1 + BUCKETS[item] if by_bucket else 1)


@pytest.mark.parametrize("weights_are", ["grid", "by_frequency"])
def test_each_item_of_a_history_adds_its_share_as_it_weighs(weights_are):
    """In a loop over the module's formula; added up they are the score's."""
    made, weight = weighed(weights_are)
    known = [i for i in range(1, N) if i != 3]  # whose texts the mean is of
    centred = (TEXT - TEXT[known].mean(0)).tolist()
    unit = [[x / np.linalg.norm(row) for x in row] for row in centred]
    follows = ARROWS.toarray() / np.maximum(ARROWS.toarray().max(1, keepdims=True), 1e-9)
    before = follows.T / np.maximum(follows.T.max(1, keepdims=True), 1e-9)
    history, items = [3, 1, 4], [2, 3, 4, 9]
    total = np.zeros(len(items))
    for part in PARTS_OF_WORDS:
        found = made.of_steps(part, torch.tensor(history), torch.tensor(items)).numpy()
        for n, j in enumerate(history):
            for column, i in enumerate(items):
                alike = {"similar": np.dot(unit[j], unit[i]), "next": follows[j, i], "previous": before[j, i]}[part]
                wanted = weight(part, i) * 0.5 ** (len(history) - 1 - n) * alike
                assert found[n, column] == pytest.approx(wanted, rel=1e-4, abs=1e-5), (part, j, i)
        total += found.sum(0)
    scores = made(torch.tensor([[*history, 0]]), torch.tensor([3]))[0]
    assert scores[items].tolist() == pytest.approx(total.tolist(), rel=1e-4)


@pytest.mark.parametrize("own_text", [True, False])
def test_further_items_have_text_and_arrows_of_their_own_or_of_their_neighbours(own_text):
    made, _ = weighed("by_frequency")
    near = Neighbours(torch.tensor([[1, 3], [4, 2]]), torch.tensor([[0.75, 0.25], [0.4, 0.6]]))
    texts = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]])
    grown = made.extended(near, texts if own_text else None)
    mean = TEXT[[i for i in range(1, N) if i != 3]].mean(0)
    wanted = (texts - mean) / (texts - mean).norm(dim=1, keepdim=True) if own_text else near.place(made.text)
    assert torch.allclose(grown.text[N:], wanted, atol=1e-6)
    assert torch.equal(grown.text[:N], made.text)
    assert grown.bucket.tolist() == [*BUCKETS, 0, 0], "training never saw them"
    assert (grown.n_items, made.n_items, len(made.text)) == (N + 2, N, N)
    assert np.allclose(grown._matrix("next").toarray(), near.place_in_graph(made._matrix("next")).toarray())
    assert grown(torch.tensor([[1]]), torch.tensor([1])).shape == (1, N + 2)


def test_items_without_arrows_are_placed_among_those_that_have_some():
    made, _ = weighed("grid")
    before = made._matrix("next")
    items = torch.tensor([5, 3])  # 3 has arrows
    near = Neighbours(torch.tensor([[1, 4], [1, 1]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    made.place(items, near)
    found = made._matrix("next").toarray()
    assert np.allclose(found, near.place_unknown(before, items).toarray())
    assert found[5].any()
    assert np.array_equal(found[3], before.toarray()[3])


def test_a_saved_prior_is_loaded_by_one_that_was_told_nothing():
    made, _ = weighed("by_frequency")
    bare = ScorePrior("+".join(PARTS_OF_WORDS), 0.5, None, N)
    bare.load_state_dict(made.state_dict())
    history = torch.tensor([[3, 1, 4], [2, 0, 0]]), torch.tensor([3, 1])
    assert torch.equal(bare(*history), made(*history))
    assert bare(*history).any()
