"""PAD's losses of recommendation and alignment against loops written from the paper."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_eimf.data.views import TARGET_LIST
from recbole_eimf.model.losses.binary_loss import HistoryNegatives, binary_loss, gbce_power
from recbole_eimf.model.losses.mmd import KERNELS, mmd
from recbole_eimf.model.pad.pad import Alignment, batch_items, text_alignment
from tests.model.pad.conftest import batch_of


# ---------------------------------------------------------------------- losses
def test_bce_and_gbce_against_their_formulas():
    draw = torch.Generator().manual_seed(0)
    positive = torch.randn(6, generator=draw, dtype=torch.float64)
    negative = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    n_items, calibration = 102, 0.75
    alpha = 4 / 100
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    assert gbce_power(4, n_items, calibration) == pytest.approx(beta)
    for power in (1.0, beta):
        offset = math.log(power / 4)
        total = 0.0
        for p, row in zip(positive.tolist(), negative.tolist()):
            total -= math.log(sigmoid(p + offset) ** power)
            total -= sum(math.log(1 - sigmoid(n + offset)) for n in row)
        assert float(binary_loss(positive, negative, power)) == pytest.approx(total / 6 / 5, abs=1e-10)
    one = binary_loss(positive, negative[:, :1])  # the published loss: no offset
    slow = sum(
        -math.log(sigmoid(p)) - math.log(1 - sigmoid(n)) for p, (n, *_) in zip(positive.tolist(), negative.tolist())
    )
    assert float(one) == pytest.approx(slow / 12, abs=1e-10)


def test_the_offset_is_where_a_blank_model_stands_best():
    scores = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for power in (1.0, 0.3):
        losses = [float(binary_loss(s[None], s.expand(1, 7), power)) for s in scores]
        assert scores[int(np.argmin(losses))].abs() < 1e-9


@pytest.mark.parametrize("on_gpu", [False, True])
def test_negatives_are_uniform_over_what_a_user_did_not_have(monkeypatch, on_gpu):
    if on_gpu:
        monkeypatch.setattr(HistoryNegatives, "forward", HistoryNegatives._drawn_outside)
    users, histories = np.array([1, 3]), [np.array([1, 2, 2]), np.array([4])]
    negatives = HistoryNegatives(users, histories, 6, torch.arange(1, 6))
    torch.manual_seed(0)
    drawn = negatives(torch.tensor([1, 3, 2]), 6000)
    assert [sorted(set(row.tolist())) for row in drawn] == [[3, 4, 5], [1, 2, 3, 5], [1, 2, 3, 4, 5]]
    for row in drawn:
        share = torch.bincount(row)[sorted(set(row.tolist()))] / 6000
        assert torch.allclose(share, torch.full_like(share, 1 / len(share)), atol=0.03)
    some = HistoryNegatives(users, histories, 6, torch.tensor([2, 3, 5]))
    assert set(some(torch.tensor([1]), 100)[0].tolist()) == {3, 5}
    everything = HistoryNegatives(np.array([1]), [np.arange(1, 6)], 6, torch.arange(1, 6))
    drawn = everything(torch.tensor([1]), 60)
    assert set(drawn[0].tolist()) == {1, 2, 3, 4, 5}, "a user who had all items ends the draw all the same"
    many, items = np.array([65_000], dtype=np.int32), 60_000  # their product needs 64 bits
    large = HistoryNegatives(many, [np.array([5], dtype=np.int32)], items, torch.arange(1, items))
    assert large.had(torch.tensor([65_000]), torch.tensor([[5, 6]])).tolist() == [[True, False]]


@pytest.mark.parametrize(("loss", "count"), [("bce", 1), ("bce", 3), ("gbce", 3), ("ce", 0), ("ce", 4)])
def test_recommendation_losses_of_a_batch(built, loss, count):
    """The trained loss from the model's own states and vectors, target by target."""
    net, train = built("Hybrid", loss=loss, num_negatives=count, hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
    net.train()
    batch = batch_of(train)
    torch.manual_seed(3)
    got = net.calculate_loss(batch).item()
    states, target, row, _ = net._training_states(batch)
    user = batch["user_id"][row]
    torch.manual_seed(3)
    drawn = net.negatives(user, count) if loss != "ce" else torch.randint(1, net.n_items, (max(count, 1),))
    vectors = net.item_vectors(torch.arange(net.n_items))
    total = 0.0
    for p in range(len(target)):
        score = (vectors @ states[p]).tolist()
        t = int(target[p])
        if loss == "ce":
            others = [math.exp(score[j]) for j in range(1, net.n_items) if j != t]
            if count:
                others = [math.exp(score[j]) * (net.n_items - 1) / count for j in drawn.tolist() if j != t]
            total -= math.log(math.exp(score[t]) / (math.exp(score[t]) + sum(others)))
        else:
            power = gbce_power(count, net.n_items, 0.75) if loss == "gbce" else 1.0
            history = set(train._dataset.sequences()[1][list(train._dataset.spans.user).index(int(user[p]))].tolist())
            assert not history & set(drawn[p].tolist()) or len(history) == 10
            offset = math.log(power / count)
            total += power * math.log(1 + math.exp(-score[t] - offset)) / (1 + count)
            total += sum(math.log(1 + math.exp(score[j] + offset)) for j in drawn[p].tolist()) / (1 + count)
    assert got == pytest.approx(total / len(target) * float(net.batch_weight(batch)), rel=1e-4)


@pytest.mark.parametrize(("loss", "count"), [("ce", 0), ("ce", 40), ("bce", 9)])
def test_items_that_training_never_saw_compete_where_the_keys_say_so(built, wide, loss, count):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide)}
    for candidates in ("all", "seen"):
        net, train = built("Hybrid", "wide", loss=loss, num_negatives=count, candidates=candidates, fusion="add", **few)
        net.train()
        net.calculate_loss(batch_of(train, 10)).backward()
        counts = torch.from_numpy(train._dataset.item_counts())
        moved = net.towers[0].table.embedding.weight.grad.abs().sum(1) > 0
        assert (counts[1:] == 0).sum() > 3
        assert moved[1:][counts[1:] == 0].any() == (candidates == "all")
        assert moved[counts > 0].float().mean() > 0.7


def test_a_softmax_over_seen_items_is_that_over_them(built, wide):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide)}
    net, train = built("Hybrid", "wide", candidates="seen", hidden_dropout_prob=0.0, attn_dropout_prob=0.0, **few)
    net.train()
    batch = batch_of(train, 10)
    got = (net.calculate_loss(batch) / net.batch_weight(batch)).item()
    states, target, _, _ = net._training_states(batch)
    scores = states @ net.item_vectors()[train._dataset.item_counts().nonzero()[0]].T
    positive = (states * net.item_vectors()[target]).sum(1)
    assert got == pytest.approx(float((scores.exp().sum(1).log() - positive).mean()), rel=1e-4)


def test_gbces_sampling_rate_is_of_the_items_that_are_drawn_from(built, wide):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide), "candidates": "seen"}
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    net, train = built(experts="id", dataset="wide", loss="gbce", num_negatives=4, **few, **still)
    batch, seen = batch_of(train, 6), int((train._dataset.item_counts() > 0).sum())
    assert seen < net.n_items - 4
    torch.manual_seed(3)
    got = (net.train().calculate_loss(batch) / net.batch_weight(batch)).item()
    torch.manual_seed(3)
    with torch.no_grad():
        states, target, row, _ = net._training_states(batch)
        vectors, drawn = net.item_vectors(), net.negatives(batch["user_id"][row], 4)
        positive = (states * vectors[target]).sum(1)
        negative = (states[:, None] * vectors[drawn]).sum(2)
        rate = 4 / (seen - 1)
        power = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
        assert got == pytest.approx(binary_loss(positive, negative, power).item(), rel=1e-5)


@pytest.mark.parametrize("keys", [{"loss": "bce"}, {"num_negatives": 3, "negative_sampling": "popularity"}])
def test_a_checkpoint_holds_no_training_data(built, keys):
    """Parameters, the table that is scored, and what scoring asks of an item: no histories, no text, no counts."""
    net, _ = built(**keys)
    kept = {name.rpartition(".")[2] for name in net.state_dict()} - {
        n.rpartition(".")[2] for n, _ in net.named_parameters()
    }
    assert kept == {"folded", "bucket", "seen"}


def test_an_expert_may_have_a_penalty_and_a_draw_may_be_by_popularity(built, monkeypatch):
    net, train = built(experts="id+text", num_negatives=3, negative_sampling="popularity")
    assert net.sampler.log_share.unique().numel() > 1
    batch, losses = batch_of(train), []
    for penalties in ((0.0, 0.0), (0.25, 0.5)):
        for tower, penalty in zip(net.eval().towers, penalties):
            original = type(tower.backbone).training_states
            monkeypatch.setattr(
                tower.backbone,
                "training_states",
                lambda rows, p=penalty, of=tower.backbone, f=original: f(of, rows)._replace(penalty=p),
            )
        torch.manual_seed(0)
        losses.append(float(net.calculate_loss(batch).detach()))
    assert losses[1] == pytest.approx(losses[0] + 0.75, abs=1e-5)


def test_a_loss_of_drawn_negatives_draws_one_at_least(built):
    losses = []
    for count in (0, 1):
        net, train = built(experts="id", loss="bce", num_negatives=count)
        torch.manual_seed(0)
        losses.append(float(net.eval().calculate_loss(batch_of(train)).detach()))
    assert losses[0] == losses[1]


def test_a_score_prior_is_added_to_the_experts_scores(built):
    net, train = built(experts="id+text", score_prior="similar")
    batch = batch_of(train, 4)
    asked = batch["item_id_list"], batch["item_length"]
    net.prior.weight.fill_(0.5)  # zero until it is fitted
    prior = net.eval().prior(*asked)
    assert prior.abs().max() > 0.01
    scores = net.full_sort_predict(batch)
    assert torch.allclose(scores, (net.interests(*asked) @ net.scored_vectors().T)[:, 0] + prior, atol=1e-5)
    batch["item_id"] = torch.tensor([3, 5, 1, 9])
    assert torch.allclose(net.predict(batch), scores[torch.arange(4), batch["item_id"]], atol=1e-5)


def test_to_save_a_tower_does_not_end_the_dropout_of_its_projection(built):
    net, _ = built("Hybrid")
    net.train()
    net.state_dict()
    assert [name for name, part in net.named_modules() if not part.training] == []
    net.eval()
    net.state_dict()
    assert [name for name, part in net.named_modules() if part.training] == []


def test_products_of_the_loss_have_the_precision_of_the_key(built):
    losses = []
    for dtype in ("float32", "bfloat16"):
        net, train = built("Hybrid", logits_dtype=dtype)
        losses.append(float(net.eval().calculate_loss(batch_of(train)).detach()))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


# ---------------------------------------------------------------------- alignment
def test_alignment_sees_each_item_once_no_padding_and_only_items_with_text(built):
    net, train = built()
    batch = batch_of(train)
    part = Alignment(net.config, train._dataset, [net.towers[2]])
    part.has_text = net.has_text.clone()
    part.has_text[4] = False
    items = batch_items(batch, "item_id_list", "item_id")
    seen = set(batch["item_id_list"].flatten().tolist()) | set(batch["target_item_list"].flatten().tolist())
    assert sorted(items.tolist()) == sorted(seen - {0})
    table = net.towers[2].table
    known = [i for i in sorted(seen) if i not in (0, 4)]
    text = torch.stack([table.projected(torch.tensor([i]))[0] for i in known])
    ids = torch.stack([table.embedding.weight[i] for i in known])
    assert float(part.alignment_loss(items)) == pytest.approx(float(mmd(text, ids)), abs=1e-6)


def test_items_of_a_batch_are_those_of_histories_and_targets():
    rows = {"past": torch.tensor([[3, 1, 0], [1, 7, 3]]), "next": torch.tensor([9, 4])}
    assert batch_items(rows, "past", "next").tolist() == [1, 3, 4, 7, 9]
    rows |= {TARGET_LIST: torch.tensor([[1, 9, 0], [7, 12, 4]])}
    assert batch_items(rows, "past", "next").tolist() == [1, 3, 4, 7, 9, 12]


def test_a_batch_whose_items_have_no_text_aligns_nothing(built):
    net, _ = built()
    found = text_alignment(net.towers[2], torch.empty(0, dtype=torch.long), net.wanted)
    found.backward()
    assert float(found.detach()) == 0


@pytest.mark.parametrize("kernel", [*KERNELS, "infonce"])
def test_every_kernel_trains_projection_and_ids_but_not_the_text(built, kernel):
    net, train = built(kernel=kernel)
    part = Alignment(net.config, train._dataset, [net.towers[2]])
    part.has_text = net.has_text
    table = net.towers[2].table
    part.alignment_loss(torch.arange(1, 11)).backward()
    assert table.projection[0].weight.grad.abs().sum() > 0
    assert table.embedding.weight.grad.abs().sum() > 0
    assert not table.text.requires_grad


def test_the_kernel_its_estimator_and_its_width_are_those_of_the_keys(built):
    net, train = built(kernel="gaussian")
    table, items = net.towers[2].table, torch.arange(1, 11)
    with torch.no_grad():
        torch.nn.init.normal_(table.embedding.weight[1:])
        text, ids = table.projected(items), table.ids(items)
        for estimator in ("biased", "unbiased"):
            for width in (1.0, 2.0):
                wanted = replace(net.wanted, mmd_estimator=estimator, mmd_width=width)
                expected = mmd(text, ids, "gaussian", estimator == "unbiased", width)
                assert text_alignment(net.towers[2], items, wanted) == expected
        wanted = replace(net.wanted, kernel="infonce", tau=0.3)
        cosine = torch.nn.functional.cosine_similarity(text[:, None], ids[None], dim=-1) / 0.3
        expected = torch.stack([-torch.log_softmax(cosine[k], 0)[k] for k in range(10)]).mean()  # text asks for its ids
        assert text_alignment(net.towers[2], items, wanted).item() == pytest.approx(expected.item(), abs=1e-5)
        asked, original = set(), table.projected
        table.projected = lambda items: asked.update(items.tolist()) or original(items)
        for _ in range(12):
            text_alignment(net.towers[2], items, replace(net.wanted, mmd_items=3))
        assert len(asked) > 6, "others are drawn every time"


def test_phases_have_the_keys_of_their_names(built):
    rates = {"pretrain_learning_rate": 0.1, "pretrain_epochs": 3, "align_learning_rate": 0.2, "align_epochs": 5}
    for alignment in ("anchored", "anchored_frozen", "non_anchored"):
        net, train = built(experts="id+text+hybrid+aligned", pretrain="all", alignment=alignment, **rates)
        net.has_text[4] = False
        found = []
        for phase in net.phases(train._dataset):
            assert "align" not in phase.name or torch.equal(phase.model.has_text, net.has_text)
            found.append((phase.name, phase.keys, phase.select, phase.cached))
            assert net.towers[3].table.frozen_ids == (alignment == "anchored_frozen" and "align" in phase.name)
        first = {"learning_rate": 0.1, "epochs": 3}
        assert found == [
            *((f"pretrain-{kind}", first, True, True) for kind in ("id", "text", "hybrid")),
            ("align-aligned", {"learning_rate": 0.2, "epochs": 5}, alignment != "non_anchored", False),
        ]
        assert not net.towers[3].table.frozen_ids
        pretrained, aligned = net.towers[0].state_dict(), net.towers[3].state_dict()
        for name in pretrained.keys() - {"backbone.net.item_embedding.folded"}:
            assert torch.equal(aligned[name], pretrained[name]), name


def test_the_losses_of_phase_two(built):
    net, train = built(hidden_dropout_prob=0.0, attn_dropout_prob=0.0, fusion_dropout=0.0, gamma=0.2)
    batch = batch_of(train)
    part = Alignment(net.config, train._dataset, [net.towers[2]])
    part.has_text = net.has_text
    anchor, aligned = part.train().calculate_loss(batch)
    items = batch_items(batch, "item_id_list", "item_id")
    assert float(aligned) == pytest.approx(0.2 * float(part.alignment_loss(items)), abs=1e-6)
    assert float(anchor) == pytest.approx(
        float(net.part([net.towers[2]], train._dataset).calculate_loss(batch)), abs=1e-6
    )
    object.__setattr__(part.wanted, "alignment", "non_anchored")
    (alone,) = part.calculate_loss(batch)
    assert float(alone) == pytest.approx(float(part.alignment_loss(items)), abs=1e-6)
    object.__setattr__(part.wanted, "mmd_items", 3)
    seen = []
    table = net.towers[2].table
    original, table.projected = table.projected, lambda items: seen.append(items) or original(items)
    part.alignment_loss(items)
    assert len(seen[0]) == 3
    assert set(seen[0].tolist()) <= set(items.tolist())
    object.__setattr__(part.wanted, "mmd_items", 0)  # no limit
    part.alignment_loss(items)
    assert seen[1].tolist() == items.tolist()
