"""What is served is what was evaluated: the same numbers, the same lists, ties included."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from recbole_eimf.config.models import BACKBONES
from recbole_eimf.serving.parts import padded
from tests.data.test_ties import write
from tests.data.test_time_split import EVENTS
from tests.serving.conftest import STOCK, evaluated_lists, histories_of

NEURAL = [("IBIM", {"backbone": name}) for name, card in BACKBONES.items() if not card.over]
COSINE = [("EIMF", {"backbone": "SASRec"}), ("EIMF", {"backbone": "REMI"}), ("IBIM", {"diversity_lambda": 0.5})]
TEXT = [
    ("LLMESR", {}),
    ("LLMESR", {"backbone": "GRU4Rec"}),
    ("IBIM", {"item_text": "codes", "code_pieces": 4, "code_centroids": 8}),
    ("IBIM", {"item_text": "add", "text_adaptor": "moe"}),
    ("IBIM", {"item_text": "concat", "vector_graph": "similar"}),
    ("IBIM", {"item_text": "null_space", "score": "cosine"}),
    ("IBIM", {"item_init": "pca_text"}),
]
TOWERS = [("PAD", {"backbone": "SASRec"}), ("MAKE", {"unseen_ids": "text", "unseen_offset": 0.3}), ("CTRL", {})]
OWN = [("SASRec", STOCK), ("GRU4Rec", STOCK), ("BERT4Rec", {})]
COUNTING = [("Popularity", {}), ("Markov", {}), ("DecayedItemKNN", {})]
PROTOCOLS = [{"protocol": "leave_one_out", "mask_history": False}, {"protocol": "user_split", "mask_history": True}]


def served_lists(run, recommender, **options) -> np.ndarray:
    users, histories = histories_of(run)
    return recommender.rank(histories, max(run.config["topk"]), users=users, **options).rows


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["leave-one-out", "user-split, masked"])
@pytest.mark.parametrize(("model", "keys"), NEURAL + COSINE + TEXT + TOWERS + OWN + COUNTING)
def test_served_lists_are_the_evaluated_ones(exported, wide, model, keys, protocol):
    if "diversity_lambda" in keys:  # categories of ten things each
        keys = keys | {"category_field": "title"}
    run, _, recommender = exported(model, **keys, **protocol)
    expected = evaluated_lists(run.config, run.net, run.loaders[2])
    assert np.array_equal(served_lists(run, recommender), expected)


def test_picks_by_category_know_all_of_a_long_history(exported, wide, tmp_path):
    folder = shutil.copytree(wide, tmp_path / "kinds")
    lines = [f"i{i}\tthing\t{i % 4}" for i in range(60)]
    header = "item_id:token\ttitle:token_seq\tkind:token_seq"
    (folder / "wide" / "wide.item").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    keys = {"data_path": str(folder), "category_field": "kind", "mask_history": True, "MAX_ITEM_LIST_LENGTH": 3}
    run, _, recommender = exported("IBIM", diversity_lambda=0.5, topk=[15], **keys)
    expected = evaluated_lists(run.config, run.net, run.loaders[2])
    assert np.array_equal(served_lists(run, recommender), expected)
    run.net.diversity = None
    assert not np.array_equal(served_lists(run, recommender), evaluated_lists(run.config, run.net, run.loaders[2]))


@pytest.mark.parametrize("model", [name for name, _ in COUNTING])
def test_floors_that_forget_serve_what_they_were_evaluated_with(exported, tmp_path, model):
    """Counts of months ago are far below what breaks ties among counts that are whole."""
    keys = {"dataset": "baskets", "data_path": str(write(tmp_path / "data", EVENTS)), "protocol": "leave_one_out"}
    run, folder, recommender = exported(model, topk=[3, 8], recency_half_life=1.0, **keys)
    expected = evaluated_lists(run.config, run.net, run.loaders[2])
    assert np.array_equal(served_lists(run, recommender), expected)
    assert json.loads((folder / "config.json").read_text())["keys"]["recency_half_life"] == 1.0
    if model == "Markov":
        run.net._forgets = False
        assert not np.array_equal(evaluated_lists(run.config, run.net, run.loaders[2]), expected)


def told(net):
    """A prior of random texts and arrows."""
    prior, draw = net.prior, torch.Generator().manual_seed(3)
    prior.weight.copy_(torch.tensor([1.5, 4.0, 2.5, 0.8]))
    prior.text = torch.nn.functional.normalize(torch.randn(net.n_items, 6, generator=draw), dim=1)
    prior.index = torch.randint(1, net.n_items, (2, 300), generator=draw).unique(dim=1)
    prior.value = torch.rand(prior.index.shape[1], generator=draw)
    prior.together_index = torch.randint(1, net.n_items, (2, 300), generator=draw).unique(dim=1)
    prior.together_value = torch.rand(prior.together_index.shape[1], generator=draw)


@pytest.mark.parametrize(("model", "keys"), [("IBIM", {"backbone": "GRU4Rec"}), ("IBIM", {"backbone": "REMI"}),
                                             ("IBIM", {"diversity_lambda": 0.5, "category_field": "title"}),
                                             ("Hybrid", {})])  # fmt: skip
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["leave-one-out", "user-split, masked"])
def test_what_is_added_to_scores_is_served_too(exported, model, keys, protocol):
    run, folder, recommender = exported(model, told, "flat", score_prior="all", prior_decay=0.7, **keys, **protocol)
    expected = evaluated_lists(run.config, run.net, run.loaders[2])
    assert np.array_equal(served_lists(run, recommender), expected)
    users, histories = histories_of(run)
    one = recommender.rank(histories[:1], expected.shape[1], users=users[:1])
    assert np.array_equal(one.rows[0], expected[0])
    run.net.prior.weight.zero_()
    assert not np.array_equal(evaluated_lists(run.config, run.net, run.loaders[2]), expected)
    assert (folder / "prior.safetensors").is_file()


def equal_and_zero_vectors(net):
    weight = net.backbone.item_embedding.embedding.weight
    weight[10:30] = weight[10]
    weight[30:50] = 0


@pytest.mark.parametrize("masked", [False, True])
def test_equal_scores_are_served_in_the_order_of_evaluation(exported, masked):
    run, _, recommender = exported("IBIM", equal_and_zero_vectors, mask_history=masked, topk=[40])
    expected = evaluated_lists(run.config, run.net, run.loaders[2])
    assert np.array_equal(served_lists(run, recommender), expected)
    users, histories = histories_of(run)
    # without their names users share one order, which ranks other ones of the equals first
    assert not np.array_equal(recommender.rank(histories, 40).rows, expected)


def test_lists_of_chunked_evaluation(exported):
    run, _, recommender = exported("IBIM", equal_and_zero_vectors, eval_chunk_items=7, mask_history=True)
    expected = evaluated_lists(run.config, run.net, run.loaders[2])
    assert np.array_equal(served_lists(run, recommender), expected)


def test_scores_of_chunks_are_those_of_one_product_with_what_items_get_beside_it(exported):
    def biased(net):
        net.backbone.net.output_bias.copy_(torch.randn(net.n_items))

    _, _, recommender = exported("IBIM", biased, backbone="BERT4Rec", eval_chunk_items=7)
    bias = recommender._parts.bias
    assert bias[1:].std() > 0.5
    found = recommender.rank([["i1", "i2"], ["i3"]], 6)
    interests = torch.from_numpy(recommender.interests([["i1", "i2"], ["i3"]]))[:, 0].double()
    expected = interests @ recommender._parts.vectors.double().T + bias
    assert np.allclose(found.scores, expected.gather(1, torch.from_numpy(found.rows)), atol=1e-5)
    assert np.array_equal(found.rows, expected[:, 1:].topk(6).indices + 1)


@pytest.mark.parametrize("backbone", [name for name, card in BACKBONES.items() if not card.over] + ["DualSASRec"])
def test_interests_are_the_models_bit_for_bit(exported, backbone):
    run, _, recommender = exported("EIMF", backbone=backbone)
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, run.net.n_items, rng.integers(1, 12)).tolist() for _ in range(300)]
    sequence, length = padded(rows, recommender._parts.encoder)
    with torch.no_grad():
        expected = run.net.interests(sequence, length)
    tokens = np.array(recommender.catalogue.tokens.to_pylist())
    found = recommender.interests([tokens[row].tolist() for row in rows])
    assert np.array_equal(found, expected.numpy())


def test_one_at_a_time_through_an_index_as_all_together(exported):
    run, _, recommender = exported("EIMF", backbone="REMI", index="flat")
    _, histories = histories_of(run)
    together = recommender.rank(histories, 5)
    alone = [recommender.rank([history], 5) for history in histories]
    assert np.array_equal(together.rows, np.concatenate([found.rows for found in alone]))
    assert np.allclose(together.scores, np.concatenate([found.scores for found in alone]), rtol=1e-5)
