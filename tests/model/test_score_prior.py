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
from recbole_eimf.model.score_prior import ScorePrior, prior_of
from recbole_eimf.semantic.side_load import SideInformation

N = 15
#: training frequencies and their buckets, which begin at 1, 6, 21 and 101
COUNTS = np.array([0, 3, 0, 9, 400, 25, 5, 6, 100, 101, 1, 20, 21, 2, 60])
BUCKETS = [0, 1, 0, 2, 4, 3, 1, 2, 3, 4, 1, 2, 3, 1, 3]
ARROWS = sparse.csr_matrix(([2.0, 4.0, 1.0, 5.0], ([1, 1, 3, 4], [2, 3, 2, 3])), shape=(N, N))


def prior(kind, **keys):
    text = torch.nn.functional.normalize(torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    # under global_time training is told nothing of item 3, which is recommended nevertheless
    known = {"seen": torch.arange(N) != 3, "next_among": lambda named: ARROWS @ sparse.diags(named.astype(float))}
    side = SideInformation(text, torch.arange(N) > 0, None, None, None, {}, next_items=ARROWS, **known)
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
