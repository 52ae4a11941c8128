"""PAD's expert of what an LLM says is bought next: histories of replies, candidates of titles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import recbole_eimf
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.item_table import TextTransform
from recbole_eimf.serving.export import export
from tests.model.pad.conftest import batch_of

EXPERTS = "id+text+aligned+next"


@pytest.fixture
def with_next(built, planted_knowledge):
    def make(**keys):
        known = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge)}
        return built(**{"experts": EXPERTS, **known, **keys})

    return make


def test_what_follows_an_item_is_the_direction_of_the_mean_of_its_phrases(with_next, planted_knowledge):
    _, train = with_next()
    side, tokens = train._dataset.side, train._dataset.field2id_token["item_id"]
    said = {line["item_id"]: line["next"] for line in map(json.loads, planted_knowledge.read_text().splitlines())}
    title = dict(zip(tokens, side.item_text))  # "a comb" is no word of the titles', and adds nothing
    for item, vector in zip(tokens[1:], side.next_text[1:]):
        if item not in said:
            assert not vector.any(), "nothing is said of it"
            continue
        follows = f"i{int(item[1:]) // 5 * 5 + (int(item[1:]) + 1) % 5}"
        assert len(said[item]) == 2
        assert torch.allclose(vector, title[follows] / title[follows].norm(), atol=1e-5)
    assert len(said) == len(tokens) - 2
    assert not side.next_text[0].any()


def test_histories_are_made_of_replies_and_candidates_of_titles(with_next):
    """Both projections are of text in one space: that of the titles."""
    net, train = with_next(score="dot")
    net.eval()
    tower, side = net.towers[3], train._dataset.side
    assert (tower.name, tower.kind) == ("next", "next")
    transform = TextTransform(side.item_text, side.fitted, net.item_settings)
    of_replies = torch.stack([tower.table.projection(transform(text)) for text in side.next_text])
    of_titles = torch.stack([tower.targets.projection(transform(text)) for text in side.item_text])
    said = (side.next_text != 0).any(1)
    assert (~said).sum() == 2, "padding, and the item of which nothing is said"
    assert torch.allclose(tower.table.weight[: net.n_items], of_replies * said[:, None], atol=1e-6)
    assert torch.allclose(tower.vectors(), of_titles * side.item_has_text[:, None], atol=1e-6)
    batch = batch_of(train, 4)
    state = tower.backbone.interests(batch["item_id_list"], batch["item_length"])[:, 0]
    others = net.towers[:3]
    weight = net.gate()
    expected = weight[:, 3] * (state @ tower.vectors().T)
    for e, other in enumerate(others):
        own = other.backbone.interests(batch["item_id_list"], batch["item_length"])[:, 0]
        expected = expected + weight[:, e] * (own @ other.vectors().T)
    assert torch.allclose(net.full_sort_predict(batch), expected, atol=1e-5)
    shown = net.embeddings()
    assert torch.equal(shown["next"], tower.targets.weight[: net.n_items])
    assert torch.equal(shown["next.history"], tower.table.weight[: net.n_items])


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_both_projections_are_trained_and_a_step_makes_both_tables_anew(with_next, loss):
    net, train = with_next(loss=loss)
    net.train()
    found = net.calculate_loss(batch_of(train))
    (found if isinstance(found, torch.Tensor) else sum(found)).backward()
    tower = net.towers[3]
    first = tower.targets.weight
    for table in (tower.table, tower.targets):
        assert all(part.grad.abs().sum() > 0 for part in table.projection.parameters())
    tower.training_states(batch_of(train))
    assert tower.targets.weight is not first


def test_in_training_too_candidates_are_titles(with_next):
    """The loss by hand, over the whole catalogue: histories of replies against candidates of titles."""
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "fusion_dropout": 0.0}
    net, train = with_next(score="dot", loss="ce", **still)
    net.train()
    tower, side, batch = net.towers[3], train._dataset.side, batch_of(train, 6)
    assert tower.targets is tower.own_targets is not tower.table
    states, target, row, _ = net._training_states(batch)
    got = net.score_loss(states, target, batch["user_id"][row], net.item_vectors)
    titles = TextTransform(side.item_text, side.fitted, net.item_settings)(side.item_text)
    of_titles = tower.own_targets.projection(titles) * side.item_has_text[:, None]
    each = [*(other.vectors() for other in net.towers[:3]), of_titles]
    vectors = torch.cat([weight[:, None] * rows for weight, rows in zip(net.gate().T, each)], 1)
    loss = 0.0
    for state, item in zip(states, target):
        scores = [float(state @ vectors[i]) for i in range(1, net.n_items)]
        loss += np.log(np.sum(np.exp(scores))) - scores[item - 1]
    assert got.item() == pytest.approx(loss / len(target), rel=1e-5)


def test_an_item_of_which_nothing_is_said_is_no_vector_of_biases(with_next):
    net, train = with_next(text_projection="gelu")
    tower = net.towers[3]
    with torch.no_grad():
        for name, value in tower.table.projection.named_parameters():
            if name.endswith("bias"):
                value.fill_(0.1)
    said = (train._dataset.side.next_text != 0).any(1)
    assert (~said[1:]).sum() == 1
    assert (tower.table.weight[: net.n_items] != 0).any(1).tolist() == said.tolist()


def test_its_gate_starts_as_that_of_the_text_expert(with_next):
    net, _ = with_next(gate_start=[1.0, 0.0, -4.0])
    assert net.gate.logit[:, 1].tolist() == [1.0, 0.0, -4.0, 0.0]


def test_alone_it_is_pre_trained_where_all_experts_are(with_next):
    net, train = with_next(pretrain="all", experts="id+next", fine_tune=False)
    assert [phase.name for phase in net.phases(train._dataset)] == ["pretrain-id", "pretrain-next"]
    with pytest.raises(ConfigError, match="nothing trains the next expert"):
        with_next(experts="id+next", pretrain="id", fine_tune=False)


def test_it_wants_to_know_where_replies_come_from(built):
    with pytest.raises(ConfigError, match=r"experts=id\+next.*knowledge_source"):
        built(experts="id+next")


def test_the_placebo_says_what_is_said_of_others(with_next):
    real, other = (with_next(knowledge_source=source)[1]._dataset.side.next_text for source in ("file", "shuffled"))
    assert not torch.equal(real, other)
    assert sorted(real.sum(1).tolist()) == pytest.approx(sorted(other.sum(1).tolist()), abs=1e-5)


def test_an_item_that_training_never_saw_is_found_by_it_too(built, wide, tmp_path):
    """With ``unseen_ids=text`` it stands in for the others beside the text expert, by its title."""
    lines = [{"item_id": f"i{i}", "kind": "thing", "profile": "", "next": [f"thing number {i + 1}"]} for i in range(60)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = {"knowledge_source": "file", "knowledge_file": str(tmp_path / "items.jsonl"), "data_path": str(wide)}
    net, _ = built(dataset="wide", experts=EXPERTS, unseen_ids="text", gate="none", **known)
    assert net.instead_of_ids.tolist() == [False, True, False, True]


@pytest.fixture
def trained(planted, semantic_cache, planted_knowledge, tmp_path):
    keys = {"data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd",
            "topk": [1, 3, 5], "valid_metric": "NDCG@5", "state": "ERROR", "show_progress": False, "epochs": 2,
            "hidden_size": 16, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 8, "compare_with": [], "experts": EXPERTS,
            "knowledge_source": "file", "knowledge_file": str(planted_knowledge)}  # fmt: skip

    def make(**more):
        folder = tmp_path / "out"
        return folder, recbole_eimf.run("PAD", "planted", output_dir=str(folder), **{**keys, **more})

    return make


def test_trained_saved_and_served_it_gives_one_list(trained, tmp_path):
    """Neither replies nor titles are needed to serve; an item that is added is a candidate by its title."""
    folder, result = trained()
    assert result.side_load["knowledge"]["source"] == "file"
    assert recbole_eimf.evaluate(folder) == pytest.approx(result.test)
    _, net, loaders = recbole_eimf.load(folder)
    batch = loaders[2]._dataset.rows(np.arange(5))
    net.eval()
    wanted = net.full_sort_predict(batch)
    export(folder, tmp_path / "model")
    served = recbole_eimf.Recommender.load(tmp_path / "model")
    assert served.config["encoder"]["targets"] == [3]
    parts = served._parts
    states = parts.encoder(batch["item_id_list"], batch["item_length"])[:, 0]
    assert torch.allclose(states @ parts.vectors.T, wanted, atol=1e-4)

    assert served.add_items({"new": "blue nail polish"}) == ["new"]
    parts = served._parts
    table = dict(parts.encoder.state_dict())["targets.3.embedding.weight"]
    assert len(table) == net.n_items + 1
    twin = parts.catalogue.row_of["i1"]  # the title is its own
    own = parts.vectors[-1].split(16)[3]
    cosine = [torch.cosine_similarity(own, row.split(16)[3], dim=0) for row in parts.vectors[1:-1]]
    assert int(np.argmax(cosine)) + 1 == twin
