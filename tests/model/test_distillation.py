"""LLM-ESR and profile distillation, against loops over their formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.backbones.backbone import TrainingStates
from recbole_eimf.model.backbones.dual_view import CrossView
from recbole_eimf.model.baselines import llm_esr
from recbole_eimf.model.baselines.llm_esr import TwoViewTable, similar_users
from recbole_eimf.model.baselines.profile_distillation import user_profiles
from recbole_eimf.model.item_table import principal_components

STILL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


# ---------------------------------------------------------------------- LLM-ESR
def test_a_view_is_attended_by_the_other_one():
    """In a loop: position t asks with its own view among the other view's items up to t."""
    torch.manual_seed(0)
    cross = CrossView(4).double()
    asking, other = torch.randn(2, 1, 5, 4, dtype=torch.float64)
    got = cross(asking, other)[0]
    for t in range(5):
        query = cross.query.weight @ asking[0, t]
        weight = torch.softmax(torch.stack([query @ (cross.key.weight @ other[0, s]) / 2 for s in range(t + 1)]), 0)
        assert torch.allclose(got[t], sum(w * (cross.value.weight @ other[0, s]) for s, w in enumerate(weight)))


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec"])
def test_both_views_go_through_one_network(built, backbone):
    net, _ = built("LLMESR", backbone=backbone, dropout_prob=0.0, **STILL)
    net.eval()
    sequence = torch.tensor([[1, 2, 3, 4]])
    dual = net.backbone
    ids, text = dual.item_embedding(sequence).chunk(2, -1)
    with torch.no_grad():
        views = [dual.of_ids(text, ids), dual.of_text(ids, text)]
        alone = []
        for view in views:
            dual.net.item_embedding.vectors = view
            alone.append(dual.net.forward(sequence, torch.tensor([4])))
        assert torch.allclose(dual.positions(sequence), torch.cat(alone, -1), atol=1e-6)
        changed = dual.positions(torch.tensor([[1, 2, 9, 7]]))
        assert torch.allclose(dual.positions(sequence)[:, :2], changed[:, :2], atol=1e-6), "no future is seen"


def test_the_views_are_principal_components_and_adapted_text(built):
    net, train = built("LLMESR")
    table = net.backbone.item_embedding
    assert table.weight.shape == (net.n_items, 32)
    first, second = table.projection
    for item in range(1, net.n_items):
        text = table.text[item]
        adapted = second.weight @ (first.weight @ text + first.bias) + second.bias
        assert torch.allclose(table.weight[item], torch.cat([table.embedding.weight[item], adapted]), atol=1e-6)
    assert not table.weight[0].any()
    known = net._text[1:].double()
    left, values, _ = torch.linalg.svd(known - known.mean(0), full_matrices=False)
    start = table.embedding.weight.detach()[1:, 0].double()
    assert abs(torch.corrcoef(torch.stack([start, left[:, 0] * values[0]]))[0, 1]) > 0.999


@pytest.mark.parametrize("states_of", ["step", "epoch"])
def test_a_user_learns_from_those_of_like_text(built, states_of):
    """In a loop: the squared distance to the mean of the similar users' states, which are no students."""
    net, train = built("LLMESR", similar_users=3, similar_states=states_of, **STILL)
    net.train()
    batch = train.rows(np.arange(6))
    users, histories = train.sequences()
    row_of = {int(user): row for row, user in enumerate(users)}
    states = net.backbone.training_states(batch)
    expected = []
    with torch.no_grad():
        for r in range(6):
            mine = states.interests[(states.row == r).nonzero()[-1, 0], 0]
            near = net.similar[row_of[int(batch["user_id"][r])]].tolist()
            teachers = []
            for other in near:
                items = torch.as_tensor(histories[other][-8:])[None]
                teachers.append(net.backbone.interests(items, torch.tensor([items.shape[1]]))[0, 0])
            expected.append((mine - torch.stack(teachers).mean(0)).square().mean())
    net.backbone.item_embedding.refresh()
    recommendation, distilled = net.calculate_loss(batch)
    assert distilled.item() == pytest.approx(0.1 * torch.stack(expected).mean().item(), rel=1e-4)
    assert float(recommendation) > 0
    with torch.no_grad():  # within an epoch the teachers learn, or stay what they were; in the next they have learned
        before = net._states_of(torch.tensor([0]))
        net.backbone.item_embedding.embedding.weight.mul_(2)
        net.backbone.item_embedding.refresh()
        assert torch.equal(before, net._states_of(torch.tensor([0]))) == (states_of == "epoch")
        net.train()
        assert not torch.equal(before, net._states_of(torch.tensor([0])))


def test_similar_users_have_like_text():
    text = torch.tensor([[0.0, 0], [1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0, 0]])
    found = similar_users([[1, 1], [3], [2], [4, 3], [5]], text, 2)
    assert found[:, 0].tolist() == [2, 3, 0, 1, -1]  # the last has no text, and is nobody's
    assert (found[4] == -1).all()
    assert 4 not in found
    assert all(row not in near for row, near in enumerate(found.tolist()))


@pytest.mark.parametrize(("count", "together"), [(3, 2), (50, 100)])
def test_similar_users_are_those_of_the_largest_cosines(monkeypatch, count, together):
    """In a loop over users, some of whom point away from each other, have text of part of their items, or have none."""
    monkeypatch.setattr(llm_esr, "_LIKENESSES", together * 12)
    text = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 21)[:, None] ** 2
    text[[0, 5, 6]] = 0
    draw = np.random.default_rng(0)
    histories = [draw.integers(1, 20, size=4).tolist() for _ in range(10)] + [[5, 6], [6]]
    assert any({5, 6} & set(history) for history in histories[:10])

    def direction(history):
        """The mean of texts at length one: a long text says no more than a short one."""
        return sum(text[item] / text[item].norm() for item in history if text[item].any())

    mean = [direction(history) for history in histories[:10]]
    found = similar_users(histories, text, count).tolist()
    for user in range(10):
        others = [v for v in range(10) if v != user]
        others.sort(key=lambda v: -float(torch.cosine_similarity(mean[user], mean[v], 0)))  # noqa: B023
        wanted = (others + [-1] * 12)[: min(count, 11)]
        assert found[user] == wanted
    assert found[10:] == [[-1] * min(count, 11)] * 2


def test_only_users_who_have_teachers_are_taught_and_teachers_are_not(built):
    net, train = built("LLMESR", similar_users=3, **STILL)
    net.train()
    assert net.similar.shape == (len(train.sequences()[0]), 3)
    user = torch.as_tensor(train.sequences()[0][:5])
    net.similar[0] = -1
    net.similar[1] = torch.tensor([7, -1, -1])
    row = torch.tensor([0, 1, 1, 3, 4, 4])  # the third of the batch has no state
    interests = torch.randn(6, 1, 32, requires_grad=True)
    got = net._distilled(user, TrainingStates(interests, row, row, 0.0))
    states = net._teachers
    taught = [(2, states[7]), (3, states[net.similar[3]].mean(0)), (5, states[net.similar[4]].mean(0))]
    expected = sum((interests[place, 0] - teacher).square().mean() for place, teacher in taught) / 3
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    got.backward()
    assert interests.grad[:, 0].any(1).nonzero().squeeze(1).tolist() == [2, 3, 5]
    assert all(parameter.grad is None for parameter in net.parameters())
    net.similar[:] = -1
    nobody = net._distilled(user, TrainingStates(interests, row, row, 0.0))
    assert nobody == 0, "not 0 / 0, where no row of a batch has a teacher"
    alone, _ = built("LLMESR", similar_weight=0.0)
    assert not hasattr(alone, "similar"), "nobody is looked for"
    assert alone.train().calculate_loss(train.rows(np.arange(3)))[1] == 0


def test_teachers_of_an_epoch_are_made_without_dropout_and_draw_nothing(built):
    net, _ = built("LLMESR", hidden_dropout_prob=0.5, attn_dropout_prob=0.5)
    net.train()
    before = torch.get_rng_state()
    rows = torch.arange(4)
    with torch.no_grad():
        made = net._states_of(rows)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in net.modules())
    histories = net.histories[rows]
    net.eval()
    assert torch.allclose(made, net._latest_states(histories), atol=1e-6)


def test_the_table_of_two_views_is_fitted_on_the_items_it_is_told(built):
    draw = torch.Generator().manual_seed(0)
    text, has_text = torch.randn(30, 6, generator=draw), torch.arange(30) > 0
    text[0] = 0
    fitted = has_text & (torch.arange(30) % 3 > 0)
    table = TwoViewTable(30, 8, ItemSettings(), text, has_text, fitted)
    expected = principal_components(text, has_text, 4, ItemSettings().item_init_std, fitted=fitted)
    assert torch.allclose(table.embedding.weight[has_text], expected[has_text], atol=1e-7)
    assert [layer.weight.shape for layer in table.projection] == [(3, 6), (4, 3)]  # d_t / 2 between, as published


def test_llmesr_refuses_what_it_cannot_be(make_config):
    with pytest.raises(ConfigError, match="backbone='Caser'.*SASRec, GRU4Rec"):
        make_config("LLMESR", backbone="Caser")
    with pytest.raises(ConfigError, match="item_text=add: LLMESR"):
        make_config("LLMESR", item_text="add")


# ---------------------------------------------------------------------- profiles
def test_profiles_are_the_mean_interests_of_an_exemplar():
    interests = torch.tensor([[[3.0, 0], [0, 4]], [[1, 1], [9, 9]], [[5, 5], [5, 5]]])
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    assert torch.allclose(user_profiles(interests, mask), torch.tensor([[0.6, 0.8], [0.5**0.5] * 2, [0.0, 0]]))


@pytest.mark.parametrize("lacks", ["everything", "interests"])
def test_profiles_need_interests(make_config, lacks):
    config = make_config("ProfileDistillation")
    train = assembly.loaders(config)[0]._dataset
    train.side = None if lacks == "everything" else dataclasses.replace(train.side, interests=None)
    with pytest.raises(ConfigError, match="learns from users' interests"):
        config.model_class(config, train)


def test_the_first_phase_learns_profiles_and_the_last_one_does_not(built):
    net, train = built("ProfileDistillation", profile_weight=0.25, profile_epochs=2, **STILL)
    net.train()
    batch = train.rows(np.arange(8))
    alone = float(net.calculate_loss(batch))
    stages = net.phases(train)
    phase = next(stages)
    assert phase.model is net
    assert phase.keys == {"epochs": 2}
    assert not phase.select
    recommendation, distilled = net.calculate_loss(batch)
    assert float(recommendation) == pytest.approx(0.75 * alone, rel=1e-4)
    assert float(distilled) == pytest.approx(0.25 * alone, rel=1e-4), "as large as the other, then weighed"
    assert next(stages, None) is None
    assert float(net.calculate_loss(batch)) == pytest.approx(alone, rel=1e-4)
    states = net.backbone.training_states(batch)
    net.user_exemplar[batch["user_id"][2]] = -1
    each = []
    for state, row in zip(states.interests[:, 0], states.row.tolist()):
        exemplar = int(net.user_exemplar[batch["user_id"][row]])
        if exemplar >= 0:
            told = net.decoder.weight @ state + net.decoder.bias
            each.append((told - net.profiles[exemplar]).square().mean())
    assert len(each) < len(states.row)
    got = net.profile_loss(batch["user_id"], states)
    assert float(got) == pytest.approx(float(torch.stack(each).mean()), rel=1e-4)


def test_the_scale_of_the_profiles_loss_is_a_constant(built):
    """A scale that learned would undo the loss: what is divided by itself has no gradient."""
    net, train = built("ProfileDistillation", profile_weight=0.25, **STILL)
    net.train().distilling = True
    batch = train.rows(np.arange(8))
    recommendation, distilled = net.calculate_loss(batch)
    (found,) = torch.autograd.grad(distilled, net.decoder.weight)
    plain = net.profile_loss(batch["user_id"], net.backbone.training_states(batch))
    (expected,) = torch.autograd.grad(plain, net.decoder.weight)
    assert torch.allclose(found, 0.25 * float(recommendation) / 0.75 / plain.detach() * expected, atol=1e-6)
    assert found.any()


def test_a_state_of_several_interests_is_their_mean_and_empty_profiles_teach_nothing(built):
    net, train = built("ProfileDistillation", backbone="ComiRecSA", text_whitening="full", text_dimension=4)
    side, batch = train.side, train.rows(np.arange(6))
    moved = user_profiles(net.transform(side.interests), side.interest_mask)
    assert torch.allclose(net.profiles, moved)
    assert net.profiles.shape[1] == 4, "profiles are transformed as the items' text is"
    states = net.backbone.training_states(batch)
    exemplar = net.user_exemplar[batch["user_id"]]
    net.profiles[:, 0] = 0  # a number that is zero makes no empty profile
    net.profiles[exemplar[2]] = 0
    each = [
        (net.decoder(state.mean(0)) - net.profiles[e]).square().mean()
        for state, e in zip(states.interests, exemplar[states.row].tolist())
        if e >= 0 and net.profiles[e].any()
    ]
    assert 0 < len(each) < len(states.row)
    assert float(net.profile_loss(batch["user_id"], states)) == pytest.approx(float(sum(each) / len(each)), rel=1e-4)


def test_a_batch_in_which_nobody_has_a_profile_teaches_nothing(built):
    net, train = built("ProfileDistillation", profile_weight=0.25, **STILL)
    net.train()
    batch = train.rows(np.arange(4))
    alone = float(net.calculate_loss(batch))
    net.distilling = True
    net.user_exemplar[:] = -1
    recommendation, distilled = net.calculate_loss(batch)
    assert float(recommendation) == pytest.approx(0.75 * alone, rel=1e-4)
    assert float(distilled) == 0, "not 0 times infinity"
