"""PAD's experts, gate, losses and alignment against loops written from the paper, on small real batches."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_eimf.config.config import read_yaml
from recbole_eimf.config.keys import ItemSettings, PADSettings
from recbole_eimf.config.layers import merged, properties_folder, recipe_layers
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.losses.binary_loss import HistoryNegatives, binary_loss, gbce_power
from recbole_eimf.model.losses.mmd import KERNELS, mmd
from recbole_eimf.model.pad.experts import ExpertTable, frequency_buckets
from recbole_eimf.model.pad.pad import Alignment, batch_items, text_alignment
from tests.conftest import TITLES, planted_sequences, write_atomic

ALL_FORMS = ["gelu", "concat", "add"]


@pytest.fixture
def built(make_config):
    def make(model="PAD", dataset="planted", **keys):
        torch.manual_seed(0)
        config = make_config(model, dataset, backbone=keys.pop("backbone", "SASRec"), **keys)
        train = assembly.loaders(config)[0]
        return config.model_class(config, train._dataset), train

    return make


def batch_of(train, count=12):
    return train._dataset.rows(np.arange(count))


# ---------------------------------------------------------------------- gate and scores
def test_scores_are_the_gated_sum_of_the_towers(built):
    """Eq. 8-11, item by item: sigmoids of the candidate's bucket, normalised over the experts."""
    net, train = built(score="dot", gate_start=[1.0, 0.0, -4.0], gate_total=1.0)
    torch.nn.init.normal_(net.gate.logit)
    net.eval()
    batch = batch_of(train, 5)
    scores = net.full_sort_predict(batch)
    bucket, logit = net.gate.bucket.tolist(), net.gate.logit.tolist()
    for row in range(5):
        for item in range(1, net.n_items):
            open_ = [1 / (1 + math.exp(-logit[e][bucket[item]])) for e in range(3)]
            expected = 0.0
            for e, tower in enumerate(net.towers):
                state = tower.states(batch["item_id_list"], batch["item_length"])[row]
                expected += open_[e] / sum(open_) * float((state @ tower.table.weight[item]).detach())
            assert scores[row, item].item() == pytest.approx(expected, abs=1e-5)


def test_the_gate_starts_where_the_keys_say(built):
    net, _ = built(gate_start=[1.0, 0.0, -4.0], gate_total=1.0)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (1.0, 0.0, -4.0)]
    expected = torch.tensor([s / sum(sigmoid) for s in sigmoid])
    assert torch.allclose(net.gate(torch.tensor([3])), expected, atol=1e-6)
    equal, _ = built(gate_total=3.0)
    assert torch.allclose(equal.gate(), torch.tensor(1.0))
    assert equal.gate.logit.shape == (3, 1 + 10), "an expert's weight for padding and for each bucket"
    assert built(gate="none")[0].gate is None
    shared, _ = built(gate="shared")
    assert shared.gate.bucket.tolist() == [0] + [1] * 10


def test_scoring_the_catalogue_is_at_most_three_products_and_one_gather(built, wide):
    net, train = built(dataset="wide", data_path=str(wide))
    net.eval()
    batch = batch_of(train, 7)
    products, gathers = [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            name = function.overloadpacket.__name__
            if isinstance(out, torch.Tensor) and net.n_items in out.shape:
                products.extend([name] * (name in ("mm", "addmm", "bmm", "matmul") and 7 in out.shape))
                gathers.extend([name] * (name in ("index", "gather", "index_select", "embedding")))
            return out

    for first in (True, False):
        products.clear()
        gathers.clear()
        with Watch(), torch.no_grad():
            net.full_sort_predict(batch)
        assert 1 <= len(products) <= 3
        assert len(gathers) == (1 if first else 0), "the weighted catalogue is kept between batches"


def test_frequency_buckets_hold_equal_interaction_mass():
    rng = np.random.default_rng(0)
    counts = np.concatenate([[0], rng.zipf(1.4, 3000).clip(max=400) - 1])
    buckets = frequency_buckets(counts, 10)
    assert buckets[0] == 0
    assert (buckets[1:][counts[1:] == 0] == 10).all()
    mass = np.bincount(buckets, weights=counts, minlength=11)[1:] / counts.sum()
    sizes = [counts[counts == f].sum() / counts.sum() for f in set(counts.tolist())]
    assert np.abs(mass - 0.1).max() <= max(sizes)  # items of one frequency are not torn apart
    order = np.argsort(-counts[1:], kind="stable")
    assert (np.diff(buckets[1:][order]) >= 0).all(), "hot items first"


@pytest.mark.parametrize("buckets", [1, 4, 10])
def test_an_items_bucket_is_where_the_middle_of_its_frequency_lies(buckets):
    """In a loop: of all interactions, hot items first, how many stand before the middle of those of its frequency."""
    counts = np.concatenate([[0], np.random.default_rng(0).zipf(1.5, 200).clip(max=60) - 1])
    found = frequency_buckets(counts, buckets)
    for item in range(1, len(counts)):
        hotter = sum(c for c in counts if c > counts[item])
        alike = sum(c for c in counts if c == counts[item])
        share = (hotter + alike / 2) / sum(counts)
        assert found[item] == min(int(share * buckets), buckets - 1) + 1


def test_prime_pantrys_buckets_hold_equal_interaction_mass(shared):
    path = shared / "datasets" / "amazon-prime-pantry" / "interactions.csv.gz"
    with gzip.open(path, "rt") as stream:
        header = stream.readline().strip().split(",")
        rows = [line.rstrip("\n").split(",") for line in stream]
    items, counts = np.unique([row[header.index("item_id")] for row in rows], return_counts=True)
    buckets = frequency_buckets(np.concatenate([[0], counts]), 10)
    mass = np.bincount(buckets[1:], weights=counts, minlength=11)[1:] / counts.sum()
    assert np.abs(mass - 0.1).max() < 0.02


# ---------------------------------------------------------------------- item vectors
@pytest.mark.parametrize("form", ALL_FORMS)
def test_item_vectors_join_ids_and_text_as_the_paper_says(built, form):
    net, _ = built("Hybrid", fusion=form, text_projection="mlp")
    table = net.eval().towers[0].table
    for item in (1, 7, 10):
        ids = table.embedding.weight[item]
        hidden = torch.nn.functional.gelu(table.projection[0].weight @ table.text[item])
        text = table.projection[2].weight @ hidden
        if form == "add":
            expected = ids + text
        else:
            expected = table.mix.weight @ torch.cat([ids, text])
            if form == "gelu":
                expected = expected + table.mix.bias
                expected = expected * 0.5 * (1 + torch.erf(expected / math.sqrt(2)))
        assert torch.allclose(table.weight[item], expected, atol=1e-6)
    assert (table.weight[0] == 0).all()


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize(("loss", "backbone"), [("bce", "SASRec"), ("ce", "Caser")])
def test_vectors_of_a_batch_are_those_of_the_whole_table(built, form, loss, backbone):
    """A loss with drawn negatives makes the vectors it needs only: same loss, same gradients."""
    found = []
    for whole in (True, False):
        dry = {"fusion_dropout": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
        net, train = built(backbone=backbone, fusion=form, loss=loss, num_negatives=3, visits_per_epoch=1, **dry)
        for tower in net.towers:
            assert tower.table.looked_up
            tower.table.looked_up = not whole
        net.train()
        torch.manual_seed(5)
        net.calculate_loss(batch_of(train)).backward()
        found.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-6), name
        assert not name.endswith("embedding.weight") or "position" in name or (gradient[0] == 0).all(), "padding moves"


def test_a_saved_table_has_no_dropout_in_it(built):
    net, _ = built("Hybrid", fusion="gelu", fusion_dropout=0.5)
    table = net.train().towers[0].table
    assert torch.allclose(table.state_dict()["folded"], net.eval().towers[0].table.weight, atol=1e-7)


def test_fusion_drops_ids_and_text_out_in_training_alone(built):
    table = built("Hybrid", fusion="gelu")[0].towers[0].table
    table.dropout = 1.0
    torch.nn.init.normal_(table.mix.bias)
    nothing = torch.nn.functional.gelu(table.mix.bias)
    assert torch.allclose(table.train().weight[1:], nothing.expand_as(table.weight[1:]))
    assert not torch.allclose(table.eval().weight[1:], nothing.expand_as(table.weight[1:]), atol=1e-3)


def test_every_step_makes_its_table_anew(built):
    """What the step before has learned counts, and its graph is gone."""
    net, train = built("Hybrid", hidden_dropout_prob=0.0, attn_dropout_prob=0.0, fusion_dropout=0.0)
    net.train()
    losses = []
    for _ in range(2):
        losses.append(net.calculate_loss(batch_of(train)))
        losses[-1].backward()
        with torch.no_grad():
            net.towers[0].table.embedding.weight[1:].mul_(3)
    assert float(losses[0].detach()) != float(losses[1].detach())


def test_a_table_with_further_rows_knows_their_ids_and_not_those_of_unseen_items():
    """A mask token stands after the items: no item that training could have seen."""
    text, has_text = torch.randn(6, 5), torch.arange(6) > 0
    text[0] = 0
    seen = torch.tensor([False, True, True, False, True, True])
    table = ExpertTable("add", 6, 4, ItemSettings(), PADSettings(), text, has_text, 1, False, False, seen)
    said = table.projection(text)
    assert torch.allclose(table.weight[:6][seen], table.embedding.weight[:6][seen] + said[seen])
    assert torch.equal(table.weight[3], said[3])
    assert torch.equal(table.weight[6], table.embedding.weight[6])
    table.frozen_ids = True
    assert not table.ids().requires_grad
    assert not table.ids(torch.tensor([2])).requires_grad


# ---------------------------------------------------------------------- as published
def test_the_published_gate_starts_by_bucket_from_hot_to_cold(built):
    net, _ = built(recipe="published")
    for bucket in range(1, 11):
        t = bucket / 10
        open_ = [1 / (1 + math.exp(-x)) for x in (1 - t, t, -4 - t)]  # id, text, aligned
        net.gate.bucket[3], total = bucket, sum(open_)
        item = torch.tensor([3])
        assert net.gate(item)[0].tolist() == pytest.approx([x / total for x in open_], abs=1e-6)
        if bucket in (1, 10):
            printed = {1: (0.568, 0.419), 10: (0.404, 0.591)}[bucket]
            assert net.gate(item)[0, :2].tolist() == pytest.approx(printed, abs=6e-4)
    shared, _ = built(recipe="published", gate="shared")
    assert shared.gate.logit[:, 1].tolist() == [1.0, 0.0, -4.0]


def test_the_published_projection_is_five_layers_with_a_gelu_after_each(built):
    net, _ = built(recipe="published", experts="text")
    table = net.eval().towers[0].table
    linear = [layer for layer in table.projection if isinstance(layer, torch.nn.Linear)]
    assert len(linear) == 1 + 4
    for layer in linear:
        assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx((2 / sum(layer.weight.shape)) ** 0.5, rel=0.25)
    for layer in linear:
        torch.nn.init.normal_(layer.bias)
    vectors = table.text.double()
    for layer in linear:
        vectors = vectors @ layer.weight.double().T + layer.bias.double()
        vectors = vectors * (1 + torch.erf(vectors / math.sqrt(2))) / 2
    known = net.has_text
    assert torch.allclose(table.weight[known].double(), vectors[known], atol=1e-5)
    assert not table.weight[~known].any(), "padding and items without text are the zero vector"
    assert not torch.equal(table.train().projected(), table.projected()), "dropout between layers"


def test_published_losses_are_sums_over_positive_and_negative(built):
    draw = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(6, generator=draw), torch.randn(6, 1, generator=draw)
    log = lambda x: math.log(1 / (1 + math.exp(-x)))  # noqa: E731
    slow = -sum(log(p) for p in positive.tolist()) / 6 - sum(log(-n) for n in negative[:, 0].tolist()) / 6
    assert float(binary_loss(positive, negative, reduction="sum")) == pytest.approx(slow, rel=1e-5)
    found = []
    for reduction in ("mean", "sum"):
        net, train = built(recipe="published", bce_reduction=reduction, experts="id")
        torch.manual_seed(1)
        found.append(float(net.eval().calculate_loss(batch_of(train)).detach()))
    assert found[1] == pytest.approx(2 * found[0], rel=1e-5)


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


def test_products_of_the_loss_have_the_precision_of_the_key(built):
    losses = []
    for dtype in ("float32", "bfloat16"):
        net, train = built("Hybrid", logits_dtype=dtype)
        losses.append(float(net.eval().calculate_loss(batch_of(train)).detach()))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


# ---------------------------------------------------------------------- what is kept between batches
def test_the_catalogue_is_made_again_when_parameters_change(built):
    net, train = built(experts="id+text")
    other, _ = built(experts="id+text", seed=7)
    batch = batch_of(train, 3)
    before = net.eval().full_sort_predict(batch)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(other.state_dict())
    moved = net.full_sort_predict(batch)
    assert torch.equal(moved, other.eval().full_sort_predict(batch))
    assert not torch.allclose(moved, before, atol=1e-3)
    assert net.double().full_sort_predict(batch).dtype == torch.float64
    net.float().load_state_dict(state)
    net.train()
    with torch.no_grad():
        net.towers[0].table.embedding.weight[1:].mul_(2)
    net.eval()
    assert not torch.allclose(net.full_sort_predict(batch), before, atol=1e-3)


def test_embeddings_are_those_of_each_expert_and_what_it_is_made_of(built):
    net, _ = built(experts="id+aligned")
    found = net.eval().embeddings()
    table = net.towers[1].table
    expected = {"titles": net.text, "id": net.towers[0].table.embedding.weight, "aligned": table.weight,
                "aligned.id": table.embedding.weight, "aligned.text": table.projected()}  # fmt: skip
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


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
        found = []
        for phase in net.phases(train._dataset):
            found.append((phase.name, phase.keys, phase.select, phase.cached))
            assert net.towers[3].table.frozen_ids == (alignment == "anchored_frozen" and "align" in phase.name)
        first = {"learning_rate": 0.1, "epochs": 3}
        assert found == [
            *((f"pretrain-{kind}", first, True, True) for kind in ("id", "text", "hybrid")),
            ("align-aligned", {"learning_rate": 0.2, "epochs": 5}, alignment != "non_anchored", False),
        ]
        assert not net.towers[3].table.frozen_ids
        assert torch.equal(net.towers[3].table.embedding.weight, net.towers[0].table.embedding.weight)


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


# ---------------------------------------------------------------------- text carries items nobody bought
def test_ids_of_unseen_items_count_nothing_where_the_keys_say_so(built, wide):
    net, train = built(dataset="wide", data_path=str(wide), unseen_ids="none", protocol="user_split", score="dot",
                       split_ratios=[0.1, 0.1, 0.8])  # fmt: skip
    unseen = (train._dataset.item_counts()[1:] == 0).nonzero()[0] + 1
    assert len(unseen) > 3
    net.eval()
    id_tower, text_tower, aligned = net.towers
    before = net.scored_vectors()[unseen].clone()
    with torch.no_grad():
        for tower in (id_tower, aligned):
            tower.table.embedding.weight[unseen] += 1
    net.train().eval()
    assert torch.equal(net.scored_vectors()[unseen], before)
    assert (before[:, :16] == 0).all(), "nothing of the id expert"
    with torch.no_grad():
        text_tower.table.text[unseen] += 1
    net.train().eval()
    assert not torch.equal(net.scored_vectors()[unseen], before)
    assert built(experts="id+id", unseen_ids="none")[0].seen is None, "without text there is nothing else to go by"


@pytest.mark.parametrize("gate", ["frequency", "none"])
def test_the_text_expert_stands_in_for_the_others_where_items_are_unseen(built, wide, gate):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide), "gate": gate}
    net, train = built(dataset="wide", unseen_ids="text", **few)
    as_learned, _ = built(dataset="wide", unseen_ids="learned", **few)
    unseen = torch.from_numpy(train._dataset.item_counts() == 0)
    unseen[0] = False
    batch = batch_of(train, 4)
    total = 3.0
    if gate == "frequency":
        with torch.no_grad():
            net.gate.logit.add_(torch.linspace(-1, 1, net.gate.logit.numel()).view_as(net.gate.logit))
            as_learned.gate.logit.copy_(net.gate.logit)
        total = net.gate(None)[unseen].sum(-1)
    ours, theirs = (m.eval().full_sort_predict(batch) for m in (net, as_learned))
    seen = ~unseen
    seen[0] = False
    assert torch.allclose(ours[:, seen], theirs[:, seen], atol=1e-5)
    text = net.towers[1]
    by_text = text.states(batch["item_id_list"], batch["item_length"]) @ text.vectors(None).T
    assert torch.allclose(ours[:, unseen], by_text[:, unseen] * total, atol=1e-4)
    assert not torch.allclose(ours[:, unseen], theirs[:, unseen], atol=0.1)
    batch["item_id"][:] = int(unseen.nonzero()[0])
    assert torch.allclose(net.predict(batch), ours[:, batch["item_id"][0]], atol=1e-5)


@pytest.mark.parametrize("unseen_ids", ["none", "text"])
@pytest.mark.parametrize("gate", ["frequency", "none"])
def test_what_each_expert_counts_of_an_item_that_training_never_saw(built, wide, unseen_ids, gate):
    """``none``: all but the id expert as the gate has them; ``text``: two text experts share what all three have."""
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide), "gate": gate}
    net, train = built(dataset="wide", experts="id+text+text", unseen_ids=unseen_ids, **few)
    if gate == "frequency":
        torch.nn.init.normal_(net.gate.logit)
    opened = net.gate() if gate == "frequency" else torch.ones(net.n_items, 3)
    found = net._weights(None)
    for item, count in enumerate(train._dataset.item_counts().tolist()):
        own = opened[item].tolist()
        if not count:
            half = sum(own) / 2
            own = [0, own[1], own[2]] if unseen_ids == "none" else [0, half, half]
        assert found[item].tolist() == pytest.approx(own, abs=1e-6)
    assert torch.equal(net._weights(torch.tensor([3, 9])), found[[3, 9]])


def test_without_a_text_expert_ids_of_unseen_items_stay_what_they_are(built, wide):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide), "experts": "id+aligned"}
    scores = []
    for choice in ("learned", "text"):
        net, train = built(dataset="wide", unseen_ids=choice, **few)
        scores.append(net.eval().full_sort_predict(batch_of(train, 4)))
    assert torch.equal(*scores)


def test_the_offset_of_unseen_items_is_in_the_inner_product(built, wide):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide)}
    scores = []
    for offset in (0.0, 1.5):
        net, train = built("Hybrid", "wide", unseen_offset=offset, **few)
        batch = batch_of(train, 4)
        scores.append(net.eval().full_sort_predict(batch)[:, 1:])
        batch["item_id"][:] = 7
        assert torch.allclose(net.predict(batch), scores[-1][:, 6], atol=1e-5)
    unseen = torch.from_numpy(train._dataset.item_counts()[1:] == 0)
    assert torch.allclose(scores[0][:, ~unseen], scores[1][:, ~unseen], atol=1e-6)
    assert torch.allclose(scores[0][:, unseen] - 1.5, scores[1][:, unseen], atol=1e-5)


@pytest.mark.parametrize("model", ["PAD", "MoRec"])
def test_an_item_without_training_interactions_is_ranked_by_its_text(make_config, tmp_path, model):
    """Item 10 has the words of the nail cycle, item 11 those of the hair cycle; nobody ever had either."""
    sequences = [[item for item in s if item < 5] * 2 for s in planted_sequences(150)]  # nail users only
    sequences += [[item for item in s if item >= 5] * 2 for s in planted_sequences(150, seed=1)]
    sequences = [s for s in sequences if len(s) >= 4]
    held_out = [[0, 1, 2, 3, 4, 0, 1, 10], [5, 6, 7, 8, 9, 5, 6, 11]]  # the test target of two users
    titles = [*TITLES, "nail polish", "hair shampoo"]
    write_atomic(tmp_path, "unseen", sequences + held_out, titles)
    keys = {"data_path": str(tmp_path), "backbone": "SASRec", "hidden_dropout_prob": 0.1, "text_whitening": "none"}
    keys["unseen_ids"] = "none"
    config = make_config(model, "unseen", **keys)
    train = assembly.loaders(config)[0]
    torch.manual_seed(0)
    net = config.model_class(config, train._dataset).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
    for _ in range(15):
        for batch in train:
            optimiser.zero_grad()
            net.calculate_loss(batch).backward()
            optimiser.step()
    net.eval()
    ids = train._dataset.field2token_id["item_id"]
    nail, hair = ids["i10"], ids["i11"]
    assert train._dataset.item_counts()[[nail, hair]].tolist() == [0, 0]
    text_tower = next(tower for tower in net.towers if tower.kind == "text")
    for history, near, far in (([0, 1, 2], nail, hair), ([5, 6, 7], hair, nail)):
        sequence = torch.tensor([[ids[f"i{i}"] for i in history]])
        length = torch.tensor([len(history)])
        states = net.interests(sequence, length)[0, 0]
        scores = net.scored_vectors() @ states
        assert scores[near] > scores[far]
        by_text = text_tower.vectors() @ text_tower.states(sequence, length)[0]
        assert by_text[near] > by_text[far]


# ---------------------------------------------------------------------- keys
def test_wrong_keys_are_refused_before_any_work(make_config, planted):
    def make(model, keys):
        config = make_config(model, **keys)
        config.model_class(config, assembly.loaders(config)[0]._dataset)

    def refuse(match, model="PAD", **keys):
        with pytest.raises(ConfigError, match=match):
            make(model, keys)

    refuse("experts=id\\+txt.*Did you mean 'text'", experts="id+txt")
    refuse("backbone='REMI'.*SASRec", backbone="REMI")
    refuse("item_text=add.*experts", item_text="add")
    refuse("kernel='gaus'", kernel="gaus")
    refuse("gate_start", gate_start=[1.0, 0.0])
    refuse("chunks=3", model="DisCo", chunks=3)
    untrained = {"fine_tune": False, "pretrain": "id"}
    refuse("nothing trains the text expert.*pretrain=all", experts="id+text", **untrained)
    refuse("nothing trains the aligned expert.*alignment=anchored", model="SMEM", fine_tune=False)
    refuse("recipe=stron.*Did you mean 'strong'", recipe="stron")


def test_a_recipe_lies_over_the_models_keys_and_under_the_users(make_config):
    plain, published = make_config("PAD"), make_config("PAD", recipe="published")
    assert (plain["loss"], published["loss"], published["n_layers"]) == ("ce", "bce", 5)
    assert make_config("PAD", recipe="published", loss="gbce")["loss"] == "gbce"
    assert make_config("MoRec", recipe="published")["loss"] == "bce"
    assert make_config("PAD", recipe="strong")["pretrain"] == "all"


def test_the_summed_recipe_is_the_published_one_but_for_how_experts_are_trained(built):
    folder = properties_folder() / "recipe"
    published = read_yaml(folder / "published.yaml")
    summed = merged(recipe_layers(["PAD"], "summed"))
    kept = {key: value for key, value in published.items() if not key.startswith(("gate_", "text_", "finetune_"))}
    others = {
        "learning_rate",
        "pretrain",
        "unseen_ids",
        "bce_reduction",
        "item_init",
        "initializer_range",
        "hidden_act",
    }
    others |= {"mmd_estimator", "mmd_width"}
    assert {k: v for k, v in kept.items() if k not in others} == {k: summed[k] for k in kept if k not in others}
    net, _ = built(recipe="summed")
    seen = net.seen.nonzero().squeeze(1)
    assert torch.allclose(net.gate(seen), torch.tensor([3.0, 12.0, 6.0]) / 7, atol=1e-3)


def test_experts_may_be_any_subset(built):
    for experts in ("id", "text", "aligned", "id+text", "id+aligned", "text+aligned", "id+id+id", "hybrid+text"):
        net, train = built(experts=experts)
        assert [tower.kind for tower in net.towers] == experts.split("+")
        assert (net.gate is None) == ("+" not in experts)
        net.calculate_loss(batch_of(train)).backward()
    first, second, third = built(experts="id+id+id")[0].towers
    assert not torch.equal(first.table.embedding.weight, second.table.embedding.weight)
    assert (third.name, third.index) == ("id-3", 2)


def test_towers_start_from_the_runs_seed_and_their_own_name_and_draw_from_nothing_else(built):
    start = {seed: built(experts="id+id", seed=seed)[0].towers for seed in (1, 2)}
    weights = [tower.table.embedding.weight for seed in (1, 2) for tower in start[seed]]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    net, train = built(experts="id")
    state = torch.get_rng_state()
    net.new_tower("id", 3, train._dataset)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("experts", ["id", "text+id", "aligned+id+text"])
def test_the_first_id_tower_starts_the_same_in_every_model(built, experts):
    reference, _ = built(experts="id+aligned")
    net, _ = built(experts=experts)
    net = next(tower for tower in net.towers if tower.kind == "id")
    for (name, value), other in zip(reference.towers[0].state_dict().items(), net.state_dict().values()):
        assert torch.equal(value, other), name
