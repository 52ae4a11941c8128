"""The losses of CTRL, DisCo and MAKE against loops over items and rows, on a real batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.pad.pad import batch_items
from tests.model.by_formula import cosine

STILL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "fusion_dropout": 0.0}


@pytest.fixture
def built(make_config):
    def make(model, **keys):
        torch.manual_seed(0)
        config = make_config(model, backbone="SASRec", **STILL, **keys)
        train = assembly.loaders(config)[0]._dataset
        return config.model_class(config, train), train

    return make


def log_share(values, place):
    return values[place] - math.log(sum(math.exp(v) for v in values))


def contrast(first, second, tau, same=lambda k, j: False):
    """InfoNCE with one side as the query and the other as what is looked for, row by row (eq. 16 of PAD)."""
    total = 0.0
    for k in range(len(first)):
        others = [j for j in range(len(second)) if j == k or not same(k, j)]
        total -= log_share([cosine(first[k], second[j]) / tau for j in others], others.index(k))
    return total / len(first)


def symmetric(first, second, tau, same=lambda k, j: False):
    return (contrast(first, second, tau, same) + contrast(second, first, tau, same)) / 2


def test_rows_of_which_no_text_says_anything_are_no_pairs(built):
    """Their mean text is nothing, to which no state has a cosine."""
    net, train = built("CTRL")
    (phase,) = net.phases(train)
    stage, batch = phase.model.eval(), train.rows(np.arange(12))
    for row in (0, 5):
        real = batch["item_id_list"][row] > 0
        batch["item_id_list"][row][real] = 7
    stage.item_has_text[7], stage.all_told = False, False
    told = stage.item_has_text[batch["item_id_list"]].any(1)
    assert told.tolist() == [row not in (0, 5) for row in range(12)]
    _, of_rows = stage.calculate_loss(batch)
    _, of_told = stage.calculate_loss(batch[told])
    assert of_rows.item() == pytest.approx(of_told.item(), abs=1e-5)
    stage.item_has_text[:] = False
    assert stage.calculate_loss(batch)[1].item() == 0


def test_ctrls_first_stage_contrasts_both_sides_of_items_and_of_rows(built):
    net, train = built("CTRL", tau=0.2)
    (phase,) = net.phases(train)
    stage, (tower,) = phase.model.eval(), net.towers
    with torch.no_grad():
        torch.nn.init.normal_(stage.projection.weight)  # far from symmetric
        tower.table.embedding.weight[1:].normal_()
    missing = 4  # an item without text takes no part
    stage.item_has_text[missing] = False
    stage.item_text[missing] = 100.0
    batch = train.rows(np.r_[np.arange(10), 3])  # one user twice: rows that hold the same are no negatives
    sequence, length = batch["item_id_list"], batch["item_length"]
    batch["item_id_list"][10], batch["item_length"][10] = sequence[3], length[3]
    with torch.no_grad():
        of_items, of_rows = (float(part) for part in stage.calculate_loss(batch))
        items = sorted(set(batch_items(batch, "item_id_list", "item_id").tolist()) - {missing})
        said = [stage.projection.weight @ stage.item_text[i] for i in items]
        ids = [tower.table.embedding.weight[i] for i in items]
        expected = symmetric(ids, said, 0.2)
        assert of_items == pytest.approx(expected, rel=1e-4)
        assert expected != pytest.approx(contrast(ids, said, 0.2), rel=1e-3)

        histories = [[i for i in row.tolist() if i] for row in sequence]
        assert len({len(history) for history in histories}) > 1, "rows must be padded"
        means = []
        for history in histories:
            real = [stage.item_text[i] for i in history if i != missing]
            means.append(stage.projection.weight @ (sum(real) / len(real)))
        states = list(tower.states(sequence, length))
        expected = symmetric(states, means, 0.2, lambda k, j: histories[k] == histories[j])
        assert of_rows == pytest.approx(expected, rel=1e-4)


def test_ctrls_first_stage_has_a_loss_where_text_is_missing(built):
    net, train = built("CTRL")
    (phase,) = net.phases(train)
    stage, batch = phase.model.train(), train.rows(np.arange(4))
    batch["item_id_list"][0] = torch.tensor([7] * int(batch["item_length"][0]) + [0] * 8)[
        : batch["item_id_list"].shape[1]
    ]
    stage.item_has_text[7], stage.item_text[7] = False, 0.0
    losses = stage.calculate_loss(batch)
    assert all(torch.isfinite(part) for part in losses)
    sum(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.parameters() if p.grad is not None)


def test_ctrls_first_stage_skips_a_contrast_of_items_where_none_has_text(built):
    net, train = built("CTRL")
    (phase,) = net.phases(train)
    stage = phase.model.train()
    stage.item_has_text[:], stage.item_text[:] = False, 0.0
    of_items, of_rows = stage.calculate_loss(train.rows(np.arange(4)))
    assert of_items.item() == 0
    assert torch.isfinite(of_rows)
    (of_items + of_rows).backward()


def test_ctrls_second_stage_is_ids_alone(built):
    net, train = built("CTRL")
    plain, _ = built("PAD", experts="id")
    plain.towers[0].load_state_dict(net.towers[0].state_dict())
    batch = train.rows(np.arange(8))
    got, expected = (m.train().calculate_loss(batch).item() for m in (net, plain))
    assert got == pytest.approx(expected)


def ranking_loss(states, vectors, target, n_items):
    """Softmax cross entropy over the catalogue, target by target."""
    total = 0.0
    for p, t in enumerate(target.tolist()):
        total -= log_share([float(states[p] @ vectors[i]) for i in range(1, n_items)], t - 1)
    return total / len(target)


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_discos_losses(built, score):
    keys = {"sufficiency_weight": 0.7, "disentanglement_weight": 0.3, "chunks": 4, "score": score}
    net, train = built("DisCo", **keys)
    (tower,) = net.train().towers
    with torch.no_grad():
        tower.table.embedding.weight[1:].normal_()
        batch = train.rows(np.arange(10))
        recommendation, sufficiency, disentanglement = (float(part) for part in net.calculate_loss(batch))
        found = tower.training_states(batch)
        states, target, weight = found.interests[:, 0], found.target, float(net.batch_weight(batch))
        length = (lambda v: v / v.norm(dim=1, keepdim=True).clamp(min=1e-12)) if score == "cosine" else (lambda v: v)
        joined = length(tower.table.weight)
        assert recommendation == pytest.approx(weight * ranking_loss(states, joined, target, net.n_items), rel=1e-4)

        ids = tower.table.embedding.weight
        text = tower.table.projection(tower.table.text)
        # sufficiency: the target is found by ids alone, and by text alone
        each = [ranking_loss(states, length(side), target, net.n_items) for side in (ids, text)]
        assert sufficiency == pytest.approx(0.7 * weight * sum(each) / 2, rel=1e-4)

        # disentanglement: squared cosines of different chunks, to be made small
        squares = []
        for item in batch_items(batch, "item_id_list", "item_id").tolist():
            chunks = [*ids[item].split(4), *text[item].split(4)]
            assert len(chunks) == 8
            squares += [cosine(a, b) ** 2 for i, a in enumerate(chunks) for j, b in enumerate(chunks) if i != j]
        assert disentanglement == pytest.approx(0.3 * sum(squares) / len(squares), rel=1e-4)
        assert disentanglement > 0


@pytest.mark.parametrize("backbone", ["GRU4Rec", "Caser"])
def test_discos_chunks_divide_the_dimension_of_items_whatever_that_of_states(make_config, backbone):
    def checked(**sizes):
        config = make_config("DisCo", backbone=backbone, **sizes)
        config.model_class.check_configuration(config)

    checked(hidden_size=100, embedding_size=64, chunks=8)
    with pytest.raises(ConfigError, match=r"chunks=64: .*\(embedding_size=96\)"):
        checked(hidden_size=128, embedding_size=96, chunks=64)


def test_disco_turns_chunks_away_from_each_other(built):
    net, train = built("DisCo")
    (tower,) = net.train().towers
    items = torch.arange(1, net.n_items)
    before = net.disentanglement(items).item()
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    batch = train.rows(np.arange(10))
    for _ in range(5):
        optimiser.zero_grad()
        net.calculate_loss(batch)[2].backward()
        optimiser.step()
        tower.table.refresh()
    assert net.disentanglement(items).item() < before


def test_makes_loss_is_that_of_the_weighted_sum_of_both_experts_scores(built):
    net, train = built("MAKE", gate_start=[1.0, -0.5, 9.0], gate_total=2.0, score="dot")
    by_ids, by_text = net.train().towers
    assert (by_ids.kind, by_text.kind) == ("id", "text")
    opened = [1 / (1 + math.exp(-logit)) for logit in (1.0, -0.5)]
    weight = [2.0 * part / sum(opened) for part in opened]
    with torch.no_grad():
        by_ids.table.embedding.weight[1:].normal_()
        batch = train.rows(np.arange(10))
        got = float(net.calculate_loss(batch))
        states = [tower.training_states(batch) for tower in (by_ids, by_text)]
        target, vectors = states[0].target, [by_ids.table.weight, by_text.table.projected()]
        total = 0.0
        for p, t in enumerate(target.tolist()):
            score = [
                sum(w * float(s.interests[p, 0] @ v[i]) for w, s, v in zip(weight, states, vectors))
                for i in range(1, net.n_items)
            ]
            total -= log_share(score, t - 1)
    assert got == pytest.approx(float(net.batch_weight(batch)) * total / len(target), rel=1e-4)


def test_makes_text_expert_is_trained_as_morec_first(built):
    net, train = built("MAKE", pretrain="id")
    (phase,) = net.phases(train)
    assert phase.name == "pretrain-text"
    morec, _ = built("MoRec", text_projection="mlp")
    morec.towers[0].load_state_dict(phase.model.towers[0].state_dict())
    batch = train.rows(np.arange(10))
    got, expected = (m.train().calculate_loss(batch).item() for m in (phase.model, morec))
    assert got == pytest.approx(expected, rel=1e-5)
    assert [p.name for p in built("MAKE", pretrain="all")[0].phases(train)] == ["pretrain-id", "pretrain-text"]


def test_first_stages_have_the_keys_of_their_names(built):
    rates = {"pretrain_learning_rate": 0.1, "pretrain_epochs": 3, "align_learning_rate": 0.2, "align_epochs": 5}
    for model, wanted in (("CTRL", {"learning_rate": 0.2, "epochs": 5}), ("MAKE", {"learning_rate": 0.1, "epochs": 3})):
        net, train = built(model, **rates)
        assert [phase.keys for phase in net.phases(train)] == [wanted]
