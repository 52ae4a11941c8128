"""Floors and prior made of an LLM's knowledge of items, against loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import recbole_eimf
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data import protocol
from recbole_eimf.experiment import assembly
from recbole_eimf.model.score_prior import PARTS, WEIGHTS
from recbole_eimf.serving.card import model_card
from recbole_eimf.serving.export import export
from tests.model.test_counting import rows

SEQUENCES = [[1, 5, 2], [3]]


def by_hand(graph, sequence, decay):
    return sum(decay**t * graph[item] for t, item in enumerate(reversed(sequence)))


def test_next_knn_sums_what_follows_over_the_history(built):
    net, train = built("NextKNN", knn_decay=0.7)
    graph = train.side.next_items.toarray()
    assert (graph > 0).any()
    assert (np.diag(graph) == 0).all()
    for sequence, scores in zip(SEQUENCES, net._scores(rows(SEQUENCES))):
        assert scores.tolist() == pytest.approx(by_hand(graph, sequence, 0.7).tolist(), abs=1e-5)


def test_its_first_place_after_an_item_is_what_the_reply_names(built):
    net, train = built("NextKNN")
    ids = train.field2token_id["item_id"]
    best = net._scores(rows([[ids["i0"]], [ids["i6"]]])).argmax(1)
    assert best.tolist() == [ids["i1"], ids["i7"]]


def test_weighed_with_text_and_purchases_each_part_is_divided_by_its_largest(built):
    net, train = built("ItemKNNTextNext", knn_decay=0.7)
    net.set_weight((0.3, 0.0))
    without = net._scores(rows(SEQUENCES))
    floor, _ = built("ItemKNNText", knn_decay=0.7)
    floor.set_weight(0.3)
    assert torch.equal(without, floor._scores(rows(SEQUENCES)))
    net.set_weight((0.3, 0.2))
    graph = train.side.next_items.toarray()
    for sequence, one, both in zip(SEQUENCES, without, net._scores(rows(SEQUENCES))):
        follows = by_hand(graph, sequence, 0.7)
        assert both.tolist() == pytest.approx((0.8 * one.numpy() + 0.2 * follows / follows.max()).tolist(), abs=1e-5)
    assert len(set(net.weights)) == len(net.weights) == 25
    assert (0.0, 0.0) in net.weights, "purchases alone are among the choices"
    assert {share for share, none in net.weights if none == 0} < {*floor.weights}


def test_a_phrase_speaks_for_as_many_items_as_are_asked_for(built):
    one, three = (built("NextKNN", next_neighbours=n)[1].side.next_items for n in (1, 3))
    assert np.diff(one.indptr).max() <= 2, "of two phrases each"
    assert 2 < np.diff(three.indptr).max() <= 6


@pytest.mark.parametrize(("model", "key"), [("NextKNN", "value"), ("ItemKNNTextNext", "next_value")])
def test_a_loaded_floor_forgets_the_table_it_has_used(built, model, key):
    net, _ = built(model)
    if model == "ItemKNNTextNext":
        net.set_weight((0.0, 1.0))
    assert net._scores(rows(SEQUENCES)).any()
    state = net.state_dict()
    net.load_state_dict({**state, key: torch.zeros_like(state[key])})
    assert not net._scores(rows(SEQUENCES)).any()


def test_the_placebo_has_as_many_arrows_elsewhere(built):
    real, other = (built("NextKNN", knowledge_source=source)[1].side.next_items for source in ("file", "shuffled"))
    assert (real != other).nnz > 0


@pytest.fixture
def prior_keys(planted, semantic_cache, planted_knowledge):
    return {"data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd",
            "topk": [1, 3, 5], "valid_metric": "NDCG@5", "state": "ERROR", "show_progress": False, "epochs": 1,
            "hidden_size": 16, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 8, "compare_with": [], "score_prior": "both",
            "knowledge_source": "file", "knowledge_file": str(planted_knowledge)}  # fmt: skip


def test_the_prior_is_weighed_on_validation_saved_and_loaded(prior_keys, tmp_path):
    plain = recbole_eimf.run("IBIM", "planted", **{**prior_keys, "score_prior": "none"})
    found = recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path / "out"), **prior_keys)
    assert found.valid["ndcg@5"] >= plain.valid["ndcg@5"], "zero is among the weights"
    _, net, loaders = recbole_eimf.load(tmp_path / "out")
    weights = dict(zip(PARTS, net.prior.weight.tolist()))
    assert set(weights.values()) <= set(WEIGHTS)
    assert weights["next"] > 0, "in the planted data an item is followed by the next of its cycle"
    assert recbole_eimf.evaluate(tmp_path / "out") == pytest.approx(found.test)
    assert found.prior == {part: weights[part] for part in ("similar", "next")}
    assert "score prior added to its scores: " in str(found)
    assert f"next {weights['next']:.3g}" in str(found)
    assert "knowledge of items: file, of 9 of 10 items" in str(found)
    card = (export(tmp_path / "out", tmp_path / "model") / "README.md").read_text()
    assert "A prior is added to the network's scores, with weights that validation chose (`score_prior=both`)" in card
    assert "What a language model says of items had a part in it (source: file, 9 items)" in card
    assert "Item text had a part in it (encoder tfidf-svd)." in card
    told = json.loads((tmp_path / "model" / "config.json").read_text())
    told["evaluation"]["side_load"]["text_source"] = "shuffled"
    assert "(encoder tfidf-svd; not that of the items: `text_source=shuffled`)" in model_card(told)
    assert "Test part of the protocol `leave_one_out`, all items ranked, items of" in card
    told["evaluation"] |= {"eval_args": {"mode": "uni9"}, "test": {}}
    assert "Validation part (the test part was left alone) of the protocol `leave_one_out`, each target ranked among " \
        "9 items drawn uniformly (uni9), which is no evidence" in model_card(told)  # fmt: skip
    batch = rows(SEQUENCES)
    net.eval()
    scores = net.full_sort_predict(batch)
    assert net.predict(batch).tolist() == pytest.approx(scores[[0, 1], batch["item_id"]].tolist(), abs=1e-5)


@pytest.mark.parametrize("how", ["grid", "learned", "by_frequency"])
def test_a_run_that_goes_on_keeps_what_its_prior_weighs(prior_keys, tmp_path, monkeypatch, how):
    """A run stopped before its result is written begins with a weighed model: weighed again it weighed nothing."""
    keys = {**prior_keys, "prior_weights": how, "output_dir": str(tmp_path / "out")}
    found = recbole_eimf.run("IBIM", "planted", **keys)
    _, net, _ = recbole_eimf.load(tmp_path / "out")
    assert net.prior.weight.any()
    for lost in ((), ("prior.json",), ("prior.json", "result.json")):
        for name in lost:
            (tmp_path / "out" / name).unlink(missing_ok=True)
        again = recbole_eimf.run("IBIM", "planted", resume=True, **keys)
        assert (again.valid, again.test) == (found.valid, found.test)
        _, after, _ = recbole_eimf.load(tmp_path / "out")
        assert torch.equal(after.prior.weight, net.prior.weight)
    longer = recbole_eimf.run("IBIM", "planted", resume=True, **{**keys, "epochs": 3})
    fresh = recbole_eimf.run("IBIM", "planted", **{**keys, "epochs": 3, "output_dir": str(tmp_path / "fresh")})
    assert (longer.valid, longer.test) == (fresh.valid, fresh.test)


@pytest.mark.parametrize(("model", "backbone"), [("IBIM", "SASRec"), ("IBIM", "BERT4Rec"), ("Hybrid", "SASRec")])
def test_the_prior_is_added_and_changes_no_training(built, make_config, planted_knowledge, model, backbone):
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "backbone": backbone}
    torch.manual_seed(0)
    net, train = built(model, score_prior="all", prior_decay=0.5, **keys)
    net.eval()
    if backbone == "BERT4Rec":  # whose items have a bias, which stays
        torch.nn.init.normal_(net.item_bias)
    alone = net.full_sort_predict(rows(SEQUENCES))
    net.prior.set_weight("similar", 2.0)
    net.prior.set_weight("next", 3.0)
    net.prior.set_weight("previous", 0.7)
    net.prior.set_weight("together", 5.0)
    knn = built("DecayedItemKNN", knn_decay=0.5)[0]
    counts = knn._scores(rows(SEQUENCES)).numpy() / knn._matrix().toarray()[1:].max(1).mean()
    assert counts.any(1).all()
    assert not net.scores_are_products
    graph = train.side.next_items.toarray()
    text = train.side.item_text.numpy().astype(float)
    known = train.side.item_has_text.numpy()
    text[known] -= text[known].mean(0)
    text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
    largest = np.maximum(graph.max(1, keepdims=True), 1e-9)
    back = (graph / largest).T
    back = back / np.maximum(back.max(1, keepdims=True), 1e-9)
    assert not np.allclose(back, graph / largest)
    for sequence, one, both, count in zip(SEQUENCES, alone, net.full_sort_predict(rows(SEQUENCES)), counts):
        added = 2 * by_hand(text @ text.T, sequence, 0.5) + 3 * by_hand(graph / largest, sequence, 0.5)
        added += 0.7 * by_hand(back, sequence, 0.5) + 5 * count
        assert (both - one).tolist() == pytest.approx(added.tolist(), abs=1e-4)


def test_a_prior_of_counts_alone_needs_no_text(built):
    net, train = built("IBIM", score_prior="together", text_fields=[], backbone="GRU4Rec")
    assert getattr(train, "side", None) is None
    assert net.prior.together_value.numel()
    assert not net.prior.text.numel() + net.prior.value.numel()


def test_a_prior_without_its_knowledge_is_refused(make_config):
    with pytest.raises(ConfigError, match="knowledge_source=none: score_prior=next reads"):
        assembly.datasets(make_config("IBIM", score_prior="next"))


def test_users_of_a_share_train_again_before_the_test_with_the_same_share_of_new_ones():
    def spans(users):
        each = np.repeat(users, 2)
        return protocol.Spans(each, *np.arange(3 * len(each)).reshape(3, -1))

    train, before_test = spans(np.arange(0, 80)), spans(np.arange(40, 120))
    assert len({*protocol.share_of_users(train, 0.001, 7).user.tolist()}) == 1, "at least one"
    smaller = None
    for share in (0.25, 0.5, 1.0):
        first = {*protocol.share_of_users(train, share, 7).user.tolist()}
        again = {*protocol.share_of_users(before_test, share, 7, train).user.tolist()}
        assert again & {*range(80)} == first & {*range(40, 80)}
        assert len(again & {*range(80, 120)}) == 40 * share
        assert smaller is None or smaller < again
        smaller = again


def test_fewer_training_users_are_nested_and_the_test_part_stays(make_config):
    parts = {share: assembly.datasets(make_config("Markov", train_share=share))[1] for share in (0.1, 0.25, 1.0)}
    users = {share: set(train.spans.user.tolist()) for share, (train, _, _) in parts.items()}
    assert [len(users[share]) for share in (0.1, 0.25, 1.0)] == [12, 30, 120]
    assert users[0.1] < users[0.25] < users[1.0]
    for _, valid, test in parts.values():
        assert len(valid) == len(test) == 120
    train = parts[0.1][0]
    assert len(train.flat) == sum(end - start for start, end in zip(train.spans.start, train.spans.middle))
