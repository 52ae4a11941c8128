"""EIMF's joint training against loops written from the paper's equations, on a real batch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model import selection
from recbole_eimf.model.eimf import ExplicitInterests
from recbole_eimf.model.item_table import TextTransform
from recbole_eimf.semantic.side_load import SideInformation
from tests.model.by_formula import cosine, softmax


@pytest.fixture
def built(make_config):
    def make(**keys):
        torch.manual_seed(0)
        given = {"recipe": "paper", "auxiliary_targets": "all", "hidden_dropout_prob": 0.0, "exemplar_ratio": 0.03}
        given = {**given, "backbone": "ComiRecSA", "train_batch_size": 256, **keys}
        config = make_config("EIMF", **given)
        train, _, _ = assembly.loaders(config)
        net = config.model_class(config, train._dataset).double()
        net.train()
        return net, train

    return make


def explicit_by_hand(net, user, target):
    """Eq. 7 and 8 for one user and one target."""
    esim = net.esim
    exemplar = int(esim.user_exemplar[user])
    real = [m for m in range(esim.interest_mask.shape[1]) if esim.interest_mask[exemplar, m]]
    h = [esim.projection.weight @ esim.interests[exemplar, m].double() for m in real]
    d = len(h[0])
    att = esim.attention
    attended = []
    for x in h:
        weight = softmax([float((att.query.weight @ x) @ (att.key.weight @ y)) / math.sqrt(d) for y in h])
        attended.append(x + sum(w * (att.value.weight @ y) for w, y in zip(weight, h)))
    query = esim.projection.weight @ esim.item_text[target].double()
    weight = softmax([float(query @ x) / math.sqrt(d) for x in attended])
    return sum(w * x for w, x in zip(weight, attended))


@pytest.mark.parametrize("form", ["printed", "ours"])
def test_losses_follow_the_equations(built, form):
    """``printed``: recipe=paper as it stands; ``ours``: hard readout, cosines in eq. 9."""
    net, train = built(**({} if form == "printed" else {"readout": "hard", "semantic_score": "cosine"}))
    batch = train._dataset.rows(torch.arange(12).numpy())
    exemplars, width = net.esim.interest_mask.shape
    assert width > 1
    for exemplar in range(exemplars):  # as many interests as an LLM named; what fills the rows up is not nothing here
        net.esim.interest_mask[exemplar, 1 + exemplar % width :] = False
    net.esim.interests[~net.esim.interest_mask] = 3.0
    met = net.esim.user_exemplar[batch["user_id"]]
    assert not net.esim.interest_mask[met].all()
    with torch.no_grad():
        recommendation, semantic, alignment = net.calculate_loss(batch)
        states, vectors, readout = net._forward(batch)
        users, targets = batch["user_id"], batch["item_id"]
        size, table, esim = len(users), vectors, net.esim

        # eq. 6; eq. 13-14
        expected = 0.0
        for r in range(size):
            interests, likeness = states.interests[r], [float(h @ table[targets[r]]) for h in states.interests[r]]
            best = sum(w * h for w, h in zip(softmax(likeness), interests))
            if form == "ours":
                best = interests[likeness.index(max(likeness))]
            assert torch.allclose(best, readout[r])
            logits = [float(best @ table[i]) for i in range(1, net.n_items)]
            expected -= math.log(softmax(logits)[int(targets[r]) - 1])
        assert float(recommendation) == pytest.approx(expected / size, abs=1e-6)

        # eq. 7-9
        explicit = [explicit_by_hand(net, int(u), int(t)) for u, t in zip(users, targets)]
        text = [esim.projection.weight @ row.double() for row in esim.item_text]
        expected = 0.0
        for r in range(size):
            if form == "printed":
                logits = [float(explicit[r] @ text[i]) for i in range(1, net.n_items)]
            else:
                logits = [net.item_settings.score_scale * cosine(explicit[r], text[i]) for i in range(1, net.n_items)]
            expected -= math.log(softmax(logits)[int(targets[r]) - 1])
        assert float(semantic) == pytest.approx(net.eimf.gamma * expected / size, abs=1e-6)

        # eq. 10-12: the user pair, then the item pair over distinct targets
        tau, alpha, beta = net.eimf.tau, net.eimf.alpha, net.eimf.beta
        exemplar = esim.user_exemplar[users]
        contrast = distance = 0.0
        for k in range(size):
            alone = [
                j for j in range(size)
                if j == k or not (targets[j] == targets[k] and exemplar[j] == exemplar[k])
            ]  # fmt: skip
            logits = [cosine(explicit[k], readout[j]) / tau for j in alone]
            contrast -= math.log(softmax(logits)[alone.index(k)])
            distance += 1 - cosine(explicit[k], readout[k])
        total = alpha * contrast / size + beta * distance / size
        items = sorted(set(targets.tolist()))
        ids = net.backbone.item_embedding.embedding.weight
        contrast = distance = 0.0
        for k in items:
            logits = [cosine(text[k], ids[j]) / tau for j in items]
            contrast -= math.log(softmax(logits)[items.index(k)])
            distance += 1 - cosine(text[k], ids[k])
        total += alpha * contrast / len(items) + beta * distance / len(items)
        assert float(alignment) == pytest.approx(net.eimf.gamma * total, abs=1e-6)
    assert len(items) < size, "the batch must repeat a target for the masks to matter"


def test_ablations_switch_their_losses_off(built):
    batch_of = lambda train: train._dataset.rows(torch.arange(12).numpy())  # noqa: E731
    net, train = built(use_prediction=False)
    assert [x.item() == 0 for x in net.calculate_loss(batch_of(train))] == [False, True, False]
    net, train = built(use_alignment=False)
    assert [x.item() == 0 for x in net.calculate_loss(batch_of(train))] == [False, False, True]


@pytest.mark.parametrize("interval", [2, 3])
def test_every_nth_batch_has_the_auxiliary_losses_n_times_as_heavy(built, interval):
    always, train = built(dropout_prob=0.0)
    sometimes, _ = built(dropout_prob=0.0, auxiliary_interval=interval)
    batches = [train._dataset.rows(torch.arange(8 * i, 8 * i + 8).numpy()) for i in range(5)]
    with torch.no_grad():
        for i, batch in enumerate(batches):
            recommendation, semantic, alignment = sometimes.calculate_loss(batch)
            every = always.calculate_loss(batch)
            weight = interval if i % interval == 0 else 0
            assert float(recommendation) == pytest.approx(float(every[0]))
            assert float(semantic) == pytest.approx(weight * float(every[1]))
            assert float(alignment) == pytest.approx(weight * float(every[2]))
        assert float(every[1]) > 0
        resumed, _ = built(dropout_prob=0.0, auxiliary_interval=interval)
        resumed.load_state_dict(sometimes.state_dict())
        taken = [float(resumed.calculate_loss(batch)[1]) > 0 for batch in batches]
    assert taken == [batch % interval == 0 for batch in range(5, 10)]  # of the run


def test_an_interval_below_one_is_refused(make_config):
    with pytest.raises(ConfigError, match="auxiliary_interval=0.*1"):
        make_config("EIMF", auxiliary_interval=0)


def test_batch_items_align_more_items_than_targets(built):
    net, train = built(item_alignment="batch_items")
    batch = train._dataset.rows(torch.arange(3).numpy())
    seen = []
    net._aligned = lambda first, second, **_: seen.append(len(first)) or first.sum() * 0
    net._item_alignment(batch, batch["item_id"])
    items = set(batch["item_id_list"].flatten().tolist()) | set(batch["item_id"].tolist())
    assert seen == [len(items - {0})]
    assert seen[0] > len(set(batch["item_id"].tolist()))


def test_users_and_items_without_side_information_take_no_part(built):
    net, train = built()
    batch = train._dataset.rows(torch.arange(12).numpy())
    before = net.calculate_loss(batch)
    stranger = int(batch["user_id"][0])
    net.esim.user_exemplar[stranger] = -1
    after = net.calculate_loss(batch)
    assert after[0].item() == pytest.approx(before[0].item())
    keep = batch["user_id"] != stranger
    alone = net.calculate_loss(batch[keep])
    assert after[1].item() == pytest.approx(alone[1].item(), abs=1e-7)
    users = [  # what is left of the alignment without the pair of items, which needs no user
        found[2].item() - net.eimf.gamma * net._item_alignment(rows, rows["item_id"]).item()
        for found, rows in ((after, batch), (alone, batch[keep]))
    ]
    assert 0 < users[0] == pytest.approx(users[1], abs=1e-7)
    net.esim.user_exemplar[:] = -1
    _, semantic, alignment = net.calculate_loss(batch)
    assert float(semantic) == 0
    assert alignment.item() > 0  # the item pair needs no user


def test_a_sampled_semantic_loss_is_a_mean_over_those_who_have_interests_too(built):
    net, train = built(semantic_negatives=5)
    batch, losses = train._dataset.rows(torch.arange(12).numpy()), []
    stranger = int(batch["user_id"][0])
    net.esim.user_exemplar[stranger] = -1
    for rows in (batch, batch[batch["user_id"] != stranger]):
        torch.manual_seed(4)  # the same items drawn
        losses.append(net.calculate_loss(rows)[1].item())
    assert 0 < losses[0] == pytest.approx(losses[1], abs=1e-7)


@pytest.mark.parametrize("form", ["target", "batch_items"])
def test_items_without_text_are_neither_matched_nor_aligned(built, form):
    net, train = built(item_alignment=form)
    net.logits_dtype = torch.float64
    batch = train._dataset.rows(torch.arange(12).numpy())
    blank = int(batch["item_id"][2])
    net._has_text[blank] = False
    keep = batch["item_id"] != blank
    assert 0 < keep.sum() < 12
    with torch.no_grad():
        net.esim.absent = torch.zeros(net.n_items).masked_fill(~net._has_text, -torch.inf)
        users, targets = batch["user_id"][keep], batch["item_id"][keep]
        logits = net.esim(users, targets) @ net.esim.projection(net.esim.item_text.double()).T
        known = net._has_text.nonzero()[:, 0]
        expected = (torch.logsumexp(logits[:, known], 1) - logits.gather(1, targets[:, None])[:, 0]).mean()
        semantic = net.calculate_loss(batch)[1].item()
        assert semantic == pytest.approx(net.eimf.gamma * expected.item(), abs=1e-9)
        items = set(batch["item_id"].tolist()) - {0, blank}
        items |= set(batch["item_id_list"].flatten().tolist()) - {0, blank} if form == "batch_items" else set()
        items = torch.tensor(sorted(items))
        text, ids = net.esim.projection(net.esim.item_text[items].double()), net.backbone.item_embedding(items)
        likeness = torch.cosine_similarity(text[:, None], ids[None], dim=-1)
        contrast = torch.nn.functional.cross_entropy(likeness / net.eimf.tau, torch.arange(len(items)))
        expected = net.eimf.alpha * contrast + net.eimf.beta * (1 - likeness.diagonal()).mean()
        assert net._item_alignment(batch, batch["item_id"]).item() == pytest.approx(expected.item(), abs=1e-9)


def test_what_is_aligned_learns_on_both_sides(built):
    """Eq. 12 by autograd from its formula: text's projection and attention, the routing and the id vectors move."""
    net, train = built()
    net.logits_dtype = torch.float64
    batch, eimf, esim = train._dataset.rows(torch.arange(12).numpy()), net.eimf, net.esim
    asked = [(name, p) for name, p in net.named_parameters() if p.requires_grad]

    def aligned(first, second, apart):
        likeness = torch.cosine_similarity(first[:, None], second[None], dim=-1)
        logits = (likeness / eimf.tau).masked_fill(~apart, -torch.inf)
        contrast = (torch.logsumexp(logits, 1) - logits.diagonal()).mean()
        return eimf.alpha * contrast + eimf.beta * (1 - likeness.diagonal()).mean()

    def gradients(loss):
        return torch.autograd.grad(loss, [p for _, p in asked], allow_unused=True, retain_graph=True)

    states, _, readout = net._forward(batch)
    users, targets = batch["user_id"], batch["item_id"]
    same = (targets[:, None] == targets) & (esim.user_exemplar[users][:, None] == esim.user_exemplar[users])
    items = targets.unique()
    ids = net.backbone.item_embedding.embedding.weight[items]
    text = esim.item_text[items].double() @ esim.projection.weight.T
    user_pair = aligned(esim(users, targets), readout, ~same | torch.eye(12, dtype=torch.bool))
    expected = gradients(user_pair + aligned(text, ids, torch.ones(len(items), len(items), dtype=torch.bool)))
    found = gradients(net._auxiliary_losses(batch, states, readout)[1])
    for (name, _), got, wanted in zip(asked, found, expected, strict=True):
        assert (got is None) == (wanted is None), name
        assert got is None or torch.allclose(got, wanted, atol=1e-9), name
    moved = {name for (name, _), gradient in zip(asked, found) if gradient is not None and gradient.any()}
    assert {"esim.projection.weight", "esim.attention.query.weight", "backbone.routing.heads.weight"} <= moved
    assert any(name.startswith("backbone.item_embedding") for name in moved)


def test_what_predicts_a_target_s_text_learns_through_the_attention_over_interests(built):
    """Eq. 9 by autograd from its formula: not the candidates' side alone moves."""
    net, train = built()
    net.logits_dtype = torch.float64
    batch, esim = train._dataset.rows(np.arange(12)), net.esim
    states, _, readout = net._forward(batch)
    candidates = esim.item_has_text.nonzero()[:, 0]
    text = esim.item_text[candidates].double() @ esim.projection.weight.T
    logits = esim(batch["user_id"], batch["item_id"]) @ text.T
    expected = torch.nn.functional.cross_entropy(logits, torch.searchsorted(candidates, batch["item_id"]))
    found = net._auxiliary_losses(batch, states, readout)[0]
    asked = dict(esim.named_parameters())
    for name, wanted, got in zip(
        asked, *(torch.autograd.grad(loss, list(asked.values())) for loss in (expected, found)), strict=True
    ):
        assert wanted.abs().max() > 1e-6, name
        assert torch.allclose(got, wanted, atol=1e-9), name


def test_the_one_target_of_a_row_meets_its_own_user_and_state(built, monkeypatch):
    net, train = built(backbone="SASRec", auxiliary_targets="one", attn_dropout_prob=0.0)
    batch = train._dataset.rows(np.arange(5))
    states, _, readout = net._forward(batch)
    chosen = torch.tensor([int((states.row == row).nonzero()[1 + row % 2]) for row in range(5)])
    monkeypatch.setattr(net, "_auxiliary_rows", lambda row, rows: chosen)
    asked, pairs, forward = [], [], net.esim.forward
    monkeypatch.setattr(net.esim, "forward", lambda *given: asked.extend(given) or forward(*given))
    monkeypatch.setattr(net, "_aligned", lambda first, second, *_, **__: pairs.append(second) or first.sum() * 0)
    net._auxiliary_losses(batch, states, readout)
    assert asked[0].tolist() == batch["user_id"].tolist()
    assert asked[1].tolist() == states.target[chosen].tolist() != batch["item_id"].tolist()
    assert torch.equal(pairs[0], readout[chosen])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_trains_alone_reads_transformed_texts_of_items_that_training_knows(dtype):
    draw = torch.Generator().manual_seed(0)
    text, other, interests = (torch.randn(*shape, 5, generator=draw) for shape in ((6,), (6,), (2, 3)))
    has_text, seen = torch.tensor([0, 1, 1, 0, 1, 1]).bool(), torch.tensor([0, 1, 1, 1, 0, 1]).bool()
    exemplar, mask = torch.tensor([-1, 0, 1, -1]), torch.ones(2, 3, dtype=torch.bool)
    side = SideInformation(text, has_text, interests, mask, exemplar, {}, seen, match_text=other)
    transform = TextTransform(text, side.fitted, ItemSettings(text_whitening="center"))
    esim = ExplicitInterests(side, transform, 4, 4, dtype)
    assert torch.equal(esim.item_text, transform(text))
    assert torch.equal(esim.match_text, transform(other))
    assert torch.equal(esim.interests, transform(interests))
    assert esim.items_with_text.tolist() == [1, 2, 5]
    assert esim.absent.tolist() == [-math.inf, 0, 0, -math.inf, -math.inf, 0]
    user, target = torch.tensor([1, 2, 3, 1, 1]), torch.tensor([1, 5, 1, 3, 4])
    assert esim.known(user, target).tolist() == [True, True, False, False, False]
    items = torch.tensor([5, 2])
    for found, read in ((esim.projected(items), text), (esim.matched(items), other)):
        assert found.dtype == torch.float32
        assert torch.allclose(found, transform(read)[items] @ esim.projection.weight.T, atol=0.05)
    alone = ExplicitInterests(replace(side, match_text=None), transform, 4, 4, dtype)
    assert torch.equal(alone.match_text, alone.item_text)
    alone.projection.load_state_dict(esim.projection.state_dict())
    assert torch.equal(alone.matched(items), esim.projected(items))


def test_one_auxiliary_target_per_row_is_drawn_evenly(make_config):
    torch.manual_seed(0)
    config = make_config("EIMF", backbone="SASRec")
    train, _, _ = assembly.loaders(config)
    net = config.model_class(config, train._dataset)
    row = torch.tensor([0, 0, 0, 1, 2, 2])
    counts = torch.zeros(6)
    for _ in range(3000):
        chosen = net._auxiliary_rows(row, 3)
        assert row[chosen].tolist() == [0, 1, 2]
        counts[chosen] += 1
    assert torch.allclose(counts / 3000, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1, 0.5, 0.5]), atol=0.05)


def test_drawn_semantic_negatives_estimate_the_full_loss(built):
    net, train = built()
    batch = train._dataset.rows(torch.arange(12).numpy())
    with torch.no_grad():
        full = float(net.calculate_loss(batch)[1])
        net.semantic_negatives = 5000
        drawn = float(net.calculate_loss(batch)[1])
    assert drawn == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, 0), ({"num_negatives": 7}, 7), ({"num_negatives": 7, "semantic_negatives": 0}, 0),
     ({"semantic_negatives": 5}, 5)],
)  # fmt: skip
def test_a_sampled_recommendation_loss_has_a_sampled_semantic_one(built, monkeypatch, keys, expected):
    net, train = built(**keys)
    asked, original = [], type(net)._text_vectors
    monkeypatch.setattr(type(net), "_text_vectors", lambda self, items: asked.append(items) or original(self, items))
    net.calculate_loss(train._dataset.rows(torch.arange(12).numpy()))
    drawn = [len(items) for items in asked if isinstance(items, torch.Tensor)]
    assert (slice(None) in asked) == (not expected)
    assert drawn[1:] == ([expected] if expected else [])


def test_fewer_than_no_semantic_negatives_are_refused(make_config):
    with pytest.raises(ConfigError, match="semantic_negatives=-1.*0"):
        make_config("EIMF", semantic_negatives=-1)


def test_targets_weigh_the_same_whatever_their_batch(make_config):
    """One epoch's weighted losses sum to the plain mean over all targets, for any batching."""
    totals = []
    for size in (8, 200):
        torch.manual_seed(0)
        config = make_config(
            "IBIM", backbone="SASRec", train_batch_size=size, hidden_dropout_prob=0.0, attn_dropout_prob=0.0
        )
        train, _, _ = assembly.loaders(config)
        net = config.model_class(config, train._dataset).train()
        with torch.no_grad():
            losses, rows = zip(*((float(net.calculate_loss(b)), len(b["item_id"])) for b in train))
        totals.append(sum(x * n for x, n in zip(losses, rows)) / sum(rows))
    assert totals[0] == pytest.approx(totals[1], abs=1e-5)


def test_without_interests_only_item_text_is_left(built):
    net, train = built(use_interests=False)
    batch = train._dataset.rows(torch.arange(12).numpy())
    _, semantic, alignment = net.calculate_loss(batch)
    assert semantic.item() == 0
    items = net._item_alignment(batch, batch["item_id"])
    assert items.item() > 0
    assert alignment.item() == pytest.approx(net.eimf.gamma * items.item())


def test_labels_from_interests_need_interests(make_config):
    with pytest.raises(ConfigError, match="interest_labels=0.1.*use_interests"):
        make_config("EIMF", use_interests=False, interest_labels=0.1)


def test_shares_of_one_label_leave_something_to_the_target(make_config):
    with pytest.raises(ConfigError, match="text_labels=0.8, interest_labels=0.3: shares of one label"):
        make_config("EIMF", text_labels=0.8, interest_labels=0.3)
    make_config("EIMF", text_labels=0.7, interest_labels=0.3)


def losses_and_gradients(net, batch):
    torch.manual_seed(0)
    net.zero_grad()
    losses = net.calculate_loss(batch)
    sum(losses).backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    return torch.stack(losses).detach(), gradients


@pytest.mark.parametrize("keys", [{}, {"recipe": "paper"}, {"interest_labels": 0.2, "item_alignment": "target"}])
def test_what_a_gpu_computes_under_masks_has_the_same_gradients(built, monkeypatch, keys):
    """Also with users without interests, and an exemplar that has none."""
    net, train = built(hidden_dropout_prob=0.0, attn_dropout_prob=0.0, **keys)
    esim = net.esim
    esim.user_exemplar[esim.user_exemplar == 0] = -1
    esim.user_exemplar[::3] = -1
    esim.interest_mask[0] = False
    batch = train._dataset.rows(np.arange(40))
    losses, gradients = losses_and_gradients(net, batch)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for module in ("eimf", "losses.soft_label"):
        monkeypatch.setattr(f"recbole_eimf.model.{module}.shared_rows", selection._rows_unasked)
    monkeypatch.setattr("recbole_eimf.model.eimf.distinct_values", selection._distinct_in_place)
    esim._counted = 0
    masked_losses, masked_gradients = losses_and_gradients(net, batch)
    torch.testing.assert_close(masked_losses, losses)
    assert masked_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(masked_gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("lacks", ["everything", "interests"])
def test_a_data_set_without_interests_is_refused(make_config, lacks):
    config = make_config("EIMF")
    train = assembly.loaders(config)[0]._dataset
    train.side = None if lacks == "everything" else replace(train.side, interests=None)
    with pytest.raises(ConfigError, match="side-loaded interests.*inference_only=True"):
        config.model_class(config, train)


def test_text_lies_on_a_gpu_once(built):
    """Two names of one buffer become two tensors on their way there."""
    for keys, buffers in (({}, {"item_text"}), ({"logits_dtype": "bfloat16"}, {"item_text", "narrow_text"})):
        net = built(**keys)[0]
        shape = net.esim.item_text.shape
        assert {name for name, buffer in net.esim.named_buffers() if buffer.shape == shape} == buffers
        assert net.to("meta").esim.match_text is net.esim.item_text
