"""What is bought next as a label and as what a rare item's vector is made of, against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse

from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.experiment import assembly
from recbole_eimf.model.item_graph import heaviest, mixture, similar_graph, vector_mixture
from recbole_eimf.model.item_table import ItemTable
from recbole_eimf.model.losses.soft_label import NextLabels
from recbole_eimf.semantic.side_load import SideInformation

N, D, COUNT, K = 12, 4, 3, 2.5


@pytest.fixture(scope="module")
def graph():
    draw = np.random.default_rng(3)
    dense = draw.random((N, N)) * (draw.random((N, N)) < 0.5)
    dense[0] = dense[:, 0] = 0
    np.fill_diagonal(dense, 0)
    dense[4] = 0  # no neighbours
    dense[5] = np.eye(N)[6]  # fewer than COUNT
    return dense


COUNTS = np.array([0, 3, 0, 1, 0, 9, 2, 40, 1, 0, 5, 7])


def test_the_heaviest_entries_of_a_row_fall(graph):
    columns, values = heaviest(sparse.csr_matrix(graph), COUNT)
    for row in range(N):
        best = sorted(range(N), key=lambda i: -graph[row, i])[:COUNT]
        assert values[row].tolist() == pytest.approx([graph[row, i] for i in best])
        assert [c for c, v in zip(columns[row], values[row]) if v] == [i for i in best if graph[row, i]]


def mixed_by_hand(graph, vectors, count=COUNT):
    found = vectors.copy()
    for i in range(1, N):
        near = [j for j in sorted(range(N), key=lambda j: -graph[i, j])[:count] if graph[i, j]]
        weight = [graph[i, j] * COUNTS[j] / (K + COUNTS[j]) for j in near]
        if sum(weight):
            share = K / (K + COUNTS[i])
            mean = sum(w * vectors[j] for w, j in zip(weight, near)) / sum(weight)
            found[i] = (1 - share) * vectors[i] + share * mean
    return found


def test_a_vector_is_as_much_its_neighbours_as_it_is_rare(graph):
    vectors = np.random.default_rng(4).random((N, D)).astype(np.float32)
    vectors[0] = 0
    made = mixture(sparse.csr_matrix(graph), COUNTS, K, COUNT).to_dense().numpy() @ vectors
    assert made == pytest.approx(mixed_by_hand(graph, vectors), abs=1e-6)
    assert not np.allclose(made[2], vectors[2])
    assert np.allclose(made[4], vectors[4]), "no neighbours"


def test_the_table_is_mixed_trained_through_and_folded(graph):
    made = mixture(sparse.csr_matrix(graph), COUNTS, K, COUNT)
    table = ItemTable(N, D, ItemSettings(), extra_rows=1, mixture=made)
    ids = table.embedding.weight
    assert table.weight[:N].detach().numpy() == pytest.approx(mixed_by_hand(graph, ids[:N].detach().numpy()), abs=1e-6)
    assert torch.equal(table.weight[N], ids[N]), "the mask token is no item"
    table(torch.tensor([2])).sum().backward()
    neighbours = [j for j in range(N) if made.to_dense()[2, j]]
    assert (ids.grad.abs().sum(1) > 0).nonzero()[:, 0].tolist() == neighbours, "an unseen item is its neighbours alone"
    bare = ItemTable(N, D, ItemSettings(), extra_rows=1, inference_only=True)
    bare.load_state_dict(table.state_dict())
    assert torch.equal(bare.weight, table.weight)


def test_items_of_like_text_are_neighbours():
    text = np.random.default_rng(5).standard_normal((N, 6)).astype(np.float32)
    has_text = np.arange(N) % 5 > 0
    centred = text - text[has_text].mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    found = similar_graph(text, has_text, COUNT).toarray()
    for i in range(N):
        cosines = {j: unit[i] @ unit[j] for j in range(N) if has_text[i] and has_text[j] and j != i}
        best = sorted(cosines, key=lambda j: -cosines[j])[:COUNT]
        wanted = [max(cosines[j], 0) if j in best else 0 for j in range(N)]
        assert found[i].tolist() == pytest.approx(wanted, abs=1e-5)


def graph_by_hand(kind, graph, text, fitted):
    """W of the module's docstring, [N, N]: nothing points to an item that is not ``fitted``."""
    found = np.zeros((N, N))
    if kind == "next":
        heaviest_of = [max([graph[i, j] for j in range(N) if fitted[j]], default=0) for i in range(N)]
        follows = [[graph[i, j] / heaviest_of[i] if fitted[j] and graph[i, j] else 0 for j in range(N)]
                   for i in range(N)]  # fmt: skip
        for i, j in itertools.product(range(N), range(N)):
            found[i, j] = follows[i][j] + follows[j][i]
    else:
        centred = text - text[fitted].mean(0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        for i, j in itertools.product(range(1, N), range(1, N)):
            found[i, j] = max(unit[i] @ unit[j], 0) if i != j else 0
    return found * fitted


@pytest.mark.parametrize("later", [[], [3, 6, 8]])
@pytest.mark.parametrize("kind", ["next", "similar"])
def test_what_a_model_mixes_is_the_graph_it_asks_for(graph, kind, later):
    """``later``: items that training does not know (``global_time``), in whose direction no arrow is drawn."""
    text = np.random.default_rng(6).standard_normal((N, 6)).astype(np.float32)
    text[0] = 0
    has_text = np.arange(N) > 0
    seen = ~np.isin(np.arange(N), later)
    known = {"next_items": sparse.csr_matrix(graph)}
    if later:
        known |= {"seen": torch.from_numpy(seen), "next_among": lambda named: sparse.csr_matrix(graph * named)}
    side = SideInformation(torch.from_numpy(text), torch.from_numpy(has_text), None, None, None, {}, **known)
    vectors = np.random.default_rng(4).random((N, D)).astype(np.float32)
    wanted = mixed_by_hand(graph_by_hand(kind, graph, text, has_text & seen), vectors, 5)
    made = vector_mixture(kind, K, side, COUNTS).to_dense().numpy() @ vectors
    assert made == pytest.approx(wanted, abs=1e-5)
    assert vector_mixture("none", K, side, COUNTS) is None


@pytest.mark.parametrize("backbone", ["SASRec", "BERT4Rec", "REMI"])
def test_a_label_is_shared_with_what_is_bought_after_the_item_before(built, make_config, planted_knowledge, backbone):  # noqa: F811
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "backbone": backbone}
    net, train = built("IBIM", next_labels=0.3, next_label_items=4, **keys)
    net.eval()
    if net.item_bias is not None:
        torch.nn.init.normal_(net.item_bias)
    config = make_config("IBIM", next_labels=0.3, next_label_items=4, **keys)
    batch = next(iter(assembly.loaders(config)[0]))
    torch.manual_seed(1)
    states, vectors, readout = net._forward(batch)
    scores = readout @ vectors.T
    if net.item_bias is not None:
        scores = scores + net.item_bias[: len(vectors)]
    positive = scores[torch.arange(len(scores)), states.target]
    found = net._labelled_score(positive, states, vectors, readout, batch).tolist()
    graph = train.side.next_items.toarray()
    users = batch["user_id"][states.row].tolist()
    sequences = dict(zip(*train.sequences()))
    shared = 0
    for p, (user, target, before) in enumerate(zip(users, states.target.tolist(), states.before.tolist())):
        said = np.where(np.isin(np.arange(len(graph)), np.argsort(-graph[before], kind="stable")[:4]), graph[before], 0)
        mean = scores[p].detach().numpy() @ (said / said.sum()) if said.sum() else positive[p].item()
        shared += said.sum() > 0
        assert found[p] == pytest.approx(0.7 * positive[p].item() + 0.3 * mean, abs=1e-4)
        if before:
            items = sequences[user].tolist()
            assert (before, target) in zip(items, items[1:])
    assert shared


def test_an_item_of_which_nothing_is_known_shares_no_label_and_gradients_stay_finite(graph):
    columns, values = (torch.from_numpy(part) for part in heaviest(sparse.csr_matrix(graph), COUNT))
    labels = NextLabels(columns, values, 0.3)
    readout, table = torch.randn(4, D, requires_grad=True), torch.randn(N, D, requires_grad=True)
    before, target = torch.tensor([4, 0, 5, 1]), torch.tensor([1, 2, 3, 4])
    positive = (readout * table[target]).sum(1)
    found = labels(positive, readout, table, before)
    assert torch.equal(found[:2], positive[:2]), "4 is followed by nothing, and 0 is no item"
    wanted = 0.7 * positive[2] + 0.3 * readout[2] @ table[6]
    assert found[2].item() == pytest.approx(wanted.item(), abs=1e-5)
    found.sum().backward()
    assert readout.grad.isfinite().all()
    assert table.grad.isfinite().all()
    assert not labels.state_dict(), "labels are made again, not saved"


def test_what_needs_arrows_asks_for_them(built):  # noqa: F811
    from recbole_eimf.core.errors import ConfigError

    for keys in ({"next_labels": 0.1}, {"vector_graph": "next"}):
        with pytest.raises(ConfigError, match="knowledge_source=none"):
            built("IBIM", backbone="SASRec", knowledge_source="none", **keys)
        with pytest.raises(ConfigError, match="score_prior=next"):
            built("Hybrid", backbone="SASRec", **keys)
    net, _ = built("IBIM", backbone="SASRec", knowledge_source="none", vector_graph="similar")
    assert net.backbone.item_embedding.mixture is not None


@pytest.mark.parametrize(
    ("keys", "alone"), [({}, True), ({"vector_graph": "similar"}, False), ({"next_labels": 0.1}, False)]
)
def test_vectors_that_are_made_of_others_are_not_looked_up_one_by_one(built, planted_knowledge, keys, alone):  # noqa: F811
    keys |= {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "num_negatives": 5}
    net, _ = built("IBIM", backbone="SASRec", **keys)
    assert net.looks_up is alone
