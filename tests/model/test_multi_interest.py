"""The backbones of our own: what a network alone does not show. Routing is in test_layer.py."""

from __future__ import annotations

import math

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_eimf.experiment import assembly
from recbole_eimf.model.layer import target_attention
from recbole_eimf.model.losses.loss import routing_penalty

SHORT, LONG = [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7, 8]  # K' = 2 and 3 of 4
ROWS = torch.tensor([SHORT + [0] * 3, LONG])
LENGTHS = torch.tensor([len(SHORT), len(LONG)])


def batch(sequences=ROWS, lengths=LENGTHS):
    ones = torch.ones(len(lengths), dtype=torch.long)
    return Interaction(
        {"user_id": ones, "item_id_list": sequences, "item_length": lengths, "item_id": torch.tensor([6, 9])}
    )


@pytest.fixture
def built(make_config):
    def make(model, seed=0, **keys):
        torch.manual_seed(seed)
        config = make_config(model, **keys)
        train, *_ = assembly.loaders(config)
        torch.manual_seed(seed)
        return config.model_class(config, train._dataset)

    return make


# ---------------------------------------------------------------------- MIND
def test_mind_routing_logits_are_drawn_once_and_saved(built):
    """The reference draws them at every forward: the same user gets other recommendations at every call."""
    net = built("MIND").eval()
    state = torch.get_rng_state()
    first = net.full_sort_predict(batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net.full_sort_predict(batch()), first)
    other = built("MIND", seed=1).eval()
    assert not torch.allclose(other.backbone.routing.initial, net.backbone.routing.initial)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.full_sort_predict(batch()), first)


def test_interests_a_user_lacks_are_not_served(built):
    """Scores are the maximum over K' interests; an empty slot would serve 0 to items that all score below it."""
    net = built("MIND", score="dot").eval()
    backbone = net.backbone
    backbone.item_embedding.embedding.weight.data[1:] += 0.2
    backbone.mlp[2].bias.data -= 5  # every score is negative
    scores = net.full_sort_predict(batch())
    assert (scores[:, 1:] < 0).all()
    interests = net.interests(ROWS, LENGTHS)
    for b, count in enumerate((2, 3)):
        assert torch.allclose(scores[b], (interests[b, :count] @ net.scored_vectors().T).amax(0), atol=1e-6)
        assert torch.equal(interests[b, count:], interests[b, :1].expand(4 - count, -1))
        assert len(interests[b].unique(dim=0)) == count


def test_interests_a_user_lacks_are_not_trained(built):
    net = built("MIND", readout="soft", hidden_dropout_prob=0.0).train()
    readout = net._forward(batch())[2]
    net.backbone.routing.initial[3] += 3  # nobody here has a fourth interest
    assert torch.equal(net._forward(batch())[2], readout)
    net.backbone.routing.initial[2] += 3  # the long row has a third
    changed = net._forward(batch())[2]
    assert torch.equal(changed[0], readout[0])
    assert not torch.allclose(changed[1], readout[1], atol=1e-4)


def test_label_aware_attention_with_power_p_over_the_interests_a_user_has(built):
    """MIND eq. 8 with p = 3, over a temperature; copies that fill missing slots must not count twice."""
    keys = {"readout": "soft", "readout_power": 3.0, "readout_temperature": 0.01, "score": "dot"}
    net = built("MIND", hidden_dropout_prob=0.0, **keys).train()
    states, vectors, readout = net._forward(batch())
    assert states.mask.sum(1).tolist() == [2, 3]
    for b, count in enumerate((2, 3)):
        own, label = states.interests[b, :count], vectors[states.target[b]]
        weight = torch.stack([torch.exp((interest @ label) ** 3 / 0.01) for interest in own])
        expected = sum(w / weight.sum() * interest for w, interest in zip(weight, own))
        assert torch.allclose(readout[b], expected, atol=1e-6)
    skewed = target_attention(vectors[states.target], states.interests, scale=100, power=3)
    assert not torch.allclose(readout, skewed, atol=1e-7)


@pytest.mark.parametrize("model", ["MIND", "ComiRecDR"])
def test_what_the_routing_softmax_runs_over_is_a_key(model, built):
    plain, asked, other = (built(model, **keys).eval() for keys in (
        {}, {"routing_softmax": "interests"}, {"routing_softmax": "positions"}))  # fmt: skip
    scores = [net.full_sort_predict(batch()) for net in (plain, asked, other)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2], atol=1e-6)
    weight = other.backbone._extract(ROWS)[1]
    assert weight.sum(2)[0, 0].item() == pytest.approx(1, abs=1e-6)


# ---------------------------------------------------------------------- REMI
def test_remi_penalty_does_not_count_padding(built):
    """In the reference padding enters the centring, so that the penalty depends on a batch's longest row."""
    net = built("REMI", hidden_dropout_prob=0.0).train()
    narrow = batch(torch.tensor([SHORT, SHORT[::-1]]), torch.tensor([5, 5]))
    wide = batch(torch.tensor([SHORT + [0] * 3, SHORT[::-1] + [0] * 3]), torch.tensor([5, 5]))
    first, second = (net.backbone.training_states(rows).penalty for rows in (narrow, wide))
    assert first.item() > 0
    assert second.item() == pytest.approx(first.item(), rel=1e-5)


@pytest.mark.parametrize("drawn", [0, 6])
@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_remis_loss_of_a_batch(built, beta, drawn):
    """In a loop: the interest closest to the target, negatives weighed by exp(beta s), and the penalty beside it.

    Of drawn negatives each stands for as many as there are to one that is drawn.
    """
    keys = {"readout": "hard", "score": "dot", "remi_beta": beta, "routing_weight": 0.4, "hidden_dropout_prob": 0.0}
    net = built("REMI", num_negatives=drawn, **keys).train()
    with torch.no_grad():
        torch.nn.init.normal_(net.backbone.item_embedding.embedding.weight[1:])
        torch.nn.init.normal_(net.backbone.routing.heads.weight)  # attention that sits on few items
    torch.manual_seed(3)
    got = float(net.calculate_loss(batch()).detach())
    torch.manual_seed(3)
    negatives, each = list(range(1, net.n_items)), 1.0
    if drawn:
        negatives, each = net.negatives.draw(drawn, 1).items.tolist(), (net.n_items - 1) / drawn
    with torch.no_grad():
        interests, attention = net.backbone._extract(ROWS)
        penalty = float(routing_penalty(attention, ROWS != 0))
        vectors = net.backbone.item_embedding.weight
        total = 0.0
        for b, target in enumerate((6, 9)):
            closest = max(interests[b], key=lambda h: float(h @ vectors[target]))  # noqa: B023
            others = [float(closest @ vectors[i]) for i in negatives if i != target]
            mean = each * sum(math.exp(beta * s) for s in others) / (net.n_items - 2)
            mass = sum(each * math.exp(beta * s) / (mean if beta else 1) * math.exp(s) for s in others)
            own = math.exp(float(closest @ vectors[target]))
            total -= math.log(own / (own + mass)) / 2
    assert penalty > 0.01
    assert got == pytest.approx(total + 0.4 * penalty, rel=1e-4)
    plain = built("ComiRecSA", **keys).train()
    plain.load_state_dict(net.state_dict())
    assert plain.backbone.training_states(batch()).penalty == 0.0
    assert plain.backbone.hard_negative_beta is None


def test_a_penalty_is_added_as_it_is_however_much_a_batch_weighs(built, monkeypatch):
    net = built("REMI", routing_weight=100.0, hidden_dropout_prob=0.0).train()
    torch.nn.init.normal_(net.backbone.item_embedding.embedding.weight[1:])
    torch.nn.init.normal_(net.backbone.routing.heads.weight)
    found = []
    for weight in (1.0, 3.0):
        monkeypatch.setattr(net, "batch_weight", lambda rows, weight=weight: weight)
        found.append(float(net.calculate_loss(batch()).detach()))
    penalty = float(net.backbone.training_states(batch()).penalty.detach())
    assert found[0] - (found[1] - found[0]) / 2 == pytest.approx(penalty, rel=1e-4)
    assert penalty > 1


# ---------------------------------------------------------------------- all of them
@pytest.mark.parametrize("name", ["ComiRecSA", "ComiRecDR", "MIND"])
def test_items_are_dropped_out_in_training_and_their_states_say_what_stood_before(built, name):
    net = built(name, hidden_dropout_prob=0.5)
    first, second = (net.train().backbone._extract(ROWS)[0] for _ in range(2))
    assert not torch.allclose(first, second)
    first, second = (net.eval().backbone._extract(ROWS)[0] for _ in range(2))
    assert torch.equal(first, second)
    states = net.backbone.training_states(batch())
    assert (states.before.tolist(), states.target.tolist(), states.row.tolist()) == ([5, 8], [6, 9], [0, 1])


# ---------------------------------------------------------------------- DNN
def test_dnn_state_is_an_mlp_of_the_mean_of_the_items_so_far(built):
    backbone = built("DNN").eval().backbone
    states = backbone.positions(ROWS)
    for b, length in enumerate(LENGTHS.tolist()):
        for j in range(length):
            mean = sum(backbone.item_embedding.weight[ROWS[b, i]] for i in range(j + 1)) / (j + 1)
            assert torch.allclose(states[b, j], backbone.mlp(mean), atol=1e-6)
        assert torch.equal(backbone.interests(ROWS, LENGTHS)[b, 0], states[b, length - 1])


# ---------------------------------------------------------------------- biases
def test_drawn_negatives_have_their_biases(built):
    net = built("IBIM", backbone="BERT4Rec", num_negatives=5, score="dot").train()
    with torch.no_grad():
        net.item_bias.normal_()
        states, target, vectors = torch.randn(2, 16), torch.tensor([6, 9]), net.scored_vectors()
        positive = (states * vectors[target]).sum(1) + net.item_bias[target]
        torch.manual_seed(3)
        got = net._softmax_loss(states, target, vectors, positive, positive).item()
        torch.manual_seed(3)
        items = net.negatives.draw(5, 1).items
        total = 0.0
        for state, own, p in zip(states, target.tolist(), positive.tolist()):
            others = [float(state @ vectors[i] + net.item_bias[i]) for i in items.tolist() if i != own]
            mass = sum(math.exp(s) for s in others) * (net.n_items - 1) / 5
            total += math.log(math.exp(p) + mass) - p
    assert got == pytest.approx(total / 2, rel=1e-4)


# ---------------------------------------------------------------------- names
@pytest.mark.parametrize("name", ["ComiRecSA", "ComiRecDR", "MIND", "REMI", "DNN"])
def test_a_name_of_its_own_is_ibim_with_that_backbone(built, name):
    one, other = built(name), built("IBIM", backbone=name)
    assert torch.equal(one.eval().full_sort_predict(batch()), other.eval().full_sort_predict(batch()))


def test_llm2bert4rec_is_bert4rec_that_starts_from_item_text(built):
    net, plain = built("LLM2BERT4Rec"), built("IBIM", backbone="BERT4Rec")
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    text = net._text[1:] - net._text[1:].mean(0)
    started = net.scored_vectors().detach()[1:]
    width = min(started.shape[1], torch.linalg.matrix_rank(text).item())
    # principal components keep the distances between texts, up to scale
    expected, got = torch.cdist(text, text), torch.cdist(started[:, :width], started[:, :width])
    assert torch.corrcoef(torch.stack([expected.flatten(), got.flatten()]))[0, 1] > 0.99
    random = plain.scored_vectors().detach()[1:]
    assert torch.corrcoef(torch.stack([expected.flatten(), torch.cdist(random, random).flatten()]))[0, 1] < 0.9
