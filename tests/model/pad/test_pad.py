"""PAD's experts, gate and item vectors against loops written from the paper, on small real batches; its keys."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_eimf.config.config import EIMFConfig, read_yaml
from recbole_eimf.config.keys import ItemSettings, PADSettings
from recbole_eimf.config.layers import merged, properties_folder, recipe_layers
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.losses.binary_loss import binary_loss
from recbole_eimf.model.pad.experts import ExpertTable, frequency_buckets
from tests.model.pad.conftest import batch_of

ALL_FORMS = ["gelu", "concat", "add"]


# ---------------------------------------------------------------------- gate and scores
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_scores_are_the_gated_sum_of_the_towers(built, score):
    """Eq. 8-11, item by item: sigmoids of the candidate's bucket, normalised over the experts."""
    net, train = built(score=score, gate_start=[1.0, 0.0, -4.0], gate_total=1.0)
    torch.nn.init.normal_(net.gate.logit)
    net.eval()
    batch = batch_of(train, 5)
    scores = net.full_sort_predict(batch)
    bucket, logit = net.gate.bucket.tolist(), net.gate.logit.tolist()
    asked = batch["item_id_list"], batch["item_length"]
    states = [tower.backbone.interests(*asked)[:, 0].detach() for tower in net.towers]
    for row in range(5):
        for item in range(1, net.n_items):
            open_ = [1 / (1 + math.exp(-logit[e][bucket[item]])) for e in range(3)]
            expected = 0.0
            for e, tower in enumerate(net.towers):
                vector, own = tower.table.weight[item].detach(), states[e][row]
                product = float(own @ vector)
                if score == "cosine":
                    product *= net.item_settings.score_scale / float(own.norm() * vector.norm())
                expected += open_[e] / sum(open_) * product
            assert scores[row, item].item() == pytest.approx(expected, abs=1e-5)


def test_the_gate_starts_where_the_keys_say(built):
    net, _ = built(gate_start=[1.0, 0.0, -4.0], gate_total=1.0)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (1.0, 0.0, -4.0)]
    expected = torch.tensor([s / sum(sigmoid) for s in sigmoid])
    assert torch.allclose(net.gate(torch.tensor([3])), expected, atol=1e-6)
    equal, _ = built(gate_total=3.0)
    assert torch.allclose(equal.gate(), torch.tensor(1.0))
    assert equal.gate.logit.shape == (3, 1 + 10), "an expert's weight for padding and for each bucket"
    both, _ = built(experts="text+hybrid", gate_start=[1.0, 0.0, -4.0])
    assert both.gate.logit[:, 1].tolist() == [0.0, -4.0], "an expert of both has the place of the aligned one"
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


def test_items_may_come_in_any_shape():
    """Several drawn negatives of each row are a table of items (DisCo)."""
    text = torch.randn(6, 5)
    wanted = PADSettings(text_projection="gelu")
    table = ExpertTable("add", 6, 4, ItemSettings(), wanted, text, torch.arange(6) > 1, 0, False, False).eval()
    items = torch.tensor([[1, 2, 3], [4, 5, 0]])
    with torch.no_grad():
        found = table.projected(items)
        assert torch.equal(found, table.projected(items.flatten()).view(2, 3, 4))
    assert found.abs().sum(2).bool().tolist() == [[False, True, True], [True, True, False]]


@pytest.mark.parametrize("projection", ["mlp", "gelu"])
def test_a_table_with_further_rows_knows_their_ids_and_not_those_of_unseen_items(projection):
    """A mask token stands after the items: no item that training could have seen."""
    text, has_text = torch.randn(6, 5), torch.arange(6) > 0
    text[0] = 0
    seen = torch.tensor([False, True, True, False, True, True])
    wanted = PADSettings(text_projection=projection)
    table = ExpertTable("add", 6, 4, ItemSettings(), wanted, text, has_text, 1, False, False, seen).eval()
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
        deviation = (2 / sum(layer.weight.shape)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.25)
        assert layer.weight.abs().max() > 2 * deviation, "normal: uniform numbers end at 3^0.5"
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


def test_the_published_form_is_whole(make_config):
    """Paper and released code, as docs/pad.md says where each line comes from."""
    wanted = {
        "loss": "bce", "num_negatives": 1, "bce_reduction": "sum", "score": "dot", "item_init": "xavier",
        "kernel": "gaussian", "mmd_estimator": "unbiased", "mmd_width": 2, "text_projection": "gelu",
        "projection_layers": 4, "n_layers": 5, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 20, "pretrain": "id",
        "gate_start": (1.0, 0.0, -4.0), "gate_end": (0.0, 1.0, -5.0), "gate_total": 1.0, "unseen_ids": "learned",
        "learner": "adamw", "weight_decay": 0.1, "mask_history": True, "valid_metric": "Hit@10",
    }  # fmt: skip
    published = EIMFConfig("PAD", "ml-100k", None, {"recipe": "published"})
    assert {key: tuple(v) if isinstance(v := published[key], list) else v for key in wanted} == wanted
    assert published["finetune_learning_rate"] == pytest.approx(10 * published["learning_rate"])


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
