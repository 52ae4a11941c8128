"""Drawn negatives: what is drawn, the sums they estimate, and steps that touch only the rows they read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.model.losses import loss
from recbole_eimf.model.losses.negatives import Drawn, NegativeSampler, drawn_scores, sampled_softmax_loss
from recbole_eimf.trainer.lazy_adamw import LazyAdamW, _MissedMomentum
from recbole_eimf.trainer.trainer import InterestTrainer

P, N, D = 6, 15, 4
COUNTS = np.array([0, 40, 0, 9, 0, 3, 3, 20, 1, 0, 5, 0, 2, 11, 1])


@pytest.fixture
def batch():
    """States, vectors, targets, biases: [P, d], [N, d], [P], [N], float64."""
    g = torch.Generator().manual_seed(0)
    states, vectors = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in (P, N))
    return states, vectors, torch.randint(1, N, (P,), generator=g), torch.randn(N, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("counts", [None, COUNTS])
def test_items_are_drawn_as_often_as_their_rate_says(counts):
    torch.manual_seed(0)
    candidates = torch.tensor([i for i in range(1, N) if i != 5])
    drawn = NegativeSampler(candidates, counts).draw(200_000, 3)
    found = torch.bincount(drawn.items, minlength=N)
    assert found[0] == found[5] == 0
    for item in candidates.tolist():
        rate = math.exp(drawn.log_rate[drawn.items == item][0])
        share = 1 / 13 if counts is None else (1 + counts[item]) / (1 + counts[candidates]).sum()
        assert rate == pytest.approx(200_000 * share, rel=1e-4)
        assert abs(found[item] - rate) < 5 * math.sqrt(rate)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_every_item_drawn_as_often_as_expected_gives_the_full_loss(batch, beta):
    states, vectors, target, bias = batch
    times = torch.arange(N - 1) % 4 + 1
    items = torch.arange(1, N).repeat_interleave(times)
    drawn = Drawn(items, times.double().log().repeat_interleave(times), N - 2)
    scores = states @ vectors[items].T + bias[items]
    positive = loss.target_score(states, vectors, target, bias)
    labelled = 0.7 * positive - 0.2  # the mean score under a soft label is another one
    got = sampled_softmax_loss(positive, labelled, target, drawn, scores, beta)
    full = loss.full_interest_aware_loss(states, vectors, positive, labelled, target, beta, bias, torch.float64)
    assert got.item() == pytest.approx(full.item(), abs=1e-9)
    plain = sampled_softmax_loss(positive, positive, target, drawn, scores, beta)
    assert plain.item() == pytest.approx((got + (labelled - positive).mean()).item(), abs=1e-9)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_row_whose_only_draw_is_its_target_has_no_negatives(batch, beta):
    """Its loss is that of the target alone, nothing; no gradient is a NaN."""
    states, vectors, target, _ = batch
    states = states[:2].clone().requires_grad_()
    target = torch.tensor([3, 4])
    items = torch.tensor([3])
    positive = loss.target_score(states, vectors, target)
    drawn = Drawn(items, torch.zeros(1, dtype=torch.float64), N - 2)
    got = sampled_softmax_loss(positive, positive, target, drawn, states @ vectors[items].T, beta)
    one = math.exp(float(states[1] @ vectors[3]) + (math.log(N - 2) if beta else 0))
    assert got.item() == pytest.approx(math.log(1 + one / math.exp(float(positive[1]))) / 2, abs=1e-9)
    got.backward()
    assert torch.isfinite(states.grad).all()
    assert not states.grad[0].any()
    assert states.grad[1].any()


@pytest.mark.parametrize("for_each", [False, True])
@pytest.mark.parametrize("counts", [None, COUNTS])
def test_the_estimated_sum_is_right_on_average(batch, counts, for_each):
    """exp(loss) of one row whose target scores 0 is 1 plus the estimated sum over the others."""
    states, vectors, _, _ = batch
    sampler = NegativeSampler(torch.arange(1, N), counts, for_each)
    states, target = states[:1], torch.tensor([3])
    zero = torch.zeros(1, dtype=torch.float64)
    torch.manual_seed(0)
    sums = []
    for _ in range(4000):
        drawn = sampler.draw(5, 1)
        of = drawn_scores(states, drawn.items, lambda items=None: vectors if items is None else vectors[items], N)
        found = sampled_softmax_loss(zero, zero, target, drawn, of)
        sums.append(math.exp(found) - 1)
    others = [i for i in range(1, N) if i != 3]
    expected = torch.exp(states @ vectors[others].T).sum().item()
    error = np.std(sums) / math.sqrt(len(sums))
    assert abs(np.mean(sums) - expected) < 4 * error
    assert error < 0.05 * expected


@pytest.mark.parametrize("counts", [None, COUNTS])
def test_each_target_has_draws_of_its_own(counts):
    torch.manual_seed(0)
    drawn = NegativeSampler(torch.arange(1, N), counts, for_each=True).draw(20_000, 3)
    assert drawn.items.shape == (3, 20_000)
    share = np.full(N - 1, 1 / (N - 1)) if counts is None else (1 + counts[1:]) / (1 + counts[1:]).sum()
    for row in drawn.items:
        found = torch.bincount(row, minlength=N)[1:].numpy() / 20_000
        assert np.abs(found - share).max() < 0.02
    assert (drawn.items[0] == drawn.items[1]).double().mean() < 2 * (share**2).sum(), "drawn anew for each"


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_without_the_correction_a_target_competes_with_what_was_drawn(batch, beta):
    """A cross entropy over the target and its own draws, as eSASRec was released; with beta REMI's over M negatives."""
    states, vectors, target, _ = batch
    torch.manual_seed(0)
    drawn = NegativeSampler(torch.arange(1, N), None, for_each=True, corrected=False).draw(5, P)
    scores = drawn_scores(states, drawn.items, lambda items=None: vectors if items is None else vectors[items], N)
    positive = loss.target_score(states, vectors, target)
    expected = []
    for p in range(P):
        negatives = [float(states[p] @ vectors[i]) for i in drawn.items[p] if i != target[p]]
        weights = [math.exp(beta * s) for s in negatives]
        weights = [w * 5 / sum(weights) for w in weights] if beta else weights
        against = sum(w * math.exp(s) for w, s in zip(weights, negatives))
        expected.append(math.log(1 + against / math.exp(float(positive[p]))))
    got = sampled_softmax_loss(positive, positive, target, drawn, scores, beta)
    assert got.item() == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("n_items", [N, 10_000])
def test_scores_of_drawn_items_are_products_however_they_are_made(batch, n_items):
    states, vectors, _, _ = batch
    items = torch.arange(P * 3).reshape(P, 3) % N
    scores = drawn_scores(states, items, lambda items=None: vectors if items is None else vectors[items], n_items)
    for p in range(P):
        for m in range(3):
            assert scores[p, m].item() == pytest.approx(float(states[p] @ vectors[items[p, m]]))


class Table(nn.Module):
    """As much of an ItemTable as the optimiser knows of."""

    def __init__(self, rows):
        super().__init__()
        self.embedding = nn.Embedding(rows, 3, dtype=torch.float64)
        self.before_lookup = None


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_rows_that_wait_end_where_adamw_takes_them(weight_decay):
    """Rare and frequent rows, long gaps, a second parameter, a stop in the middle: the weights of torch's AdamW."""
    rows, steps = 40, 900
    torch.manual_seed(0)
    table, dense = Table(rows), nn.Embedding(rows, 3, dtype=torch.float64)
    dense.load_state_dict(table.embedding.state_dict())
    sides = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    lazy = LazyAdamW([*table.parameters(), sides[0]], [table], 0.01, weight_decay)
    plain = torch.optim.AdamW([*dense.parameters(), sides[1]], lr=0.01, weight_decay=weight_decay)
    for step in range(steps):
        ids = (torch.rand(5) ** 4 * (rows - 2)).long()
        if step % 150 == 7:
            ids[0] = rows - 2  # every 150 steps; the last row never
        wish = torch.randn(5, 3, dtype=torch.float64)
        table.before_lookup(ids)
        assert torch.allclose(table.embedding.weight[ids], dense.weight[ids], atol=1e-5)
        for weight, side, optimiser, sparse in ((table.embedding.weight, sides[0], lazy, True),
                                                (dense.weight, sides[1], plain, False)):  # fmt: skip
            optimiser.zero_grad()
            (F.embedding(ids, weight, sparse=sparse) * side - wish).square().mean().backward()
            optimiser.step()
        if step == steps // 2:
            state = lazy.state_dict()
            lazy = LazyAdamW([*table.parameters(), sides[0]], [table], 0.01, weight_decay)
            lazy.load_state_dict(state)
    assert not torch.allclose(table.embedding.weight, dense.weight, atol=1e-3), "some rows wait"
    lazy.catch_up_all()
    assert torch.allclose(table.embedding.weight, dense.weight, atol=1e-5)
    assert torch.allclose(sides[0], sides[1], atol=1e-5)
    for name in ("exp_avg", "exp_avg_sq"):
        found = lazy.state[table.embedding.weight][name]
        assert torch.allclose(found, plain.state[dense.weight][name], rtol=1e-5, atol=1e-12), name


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_momentum_is_known_however_long_a_run_is(weight_decay):
    """Sums over the missed steps, by a loop's formula; what is kept of them ends where nothing changes any more."""
    b1, b2, lr = 0.9, 0.999, 0.01
    missed = _MissedMomentum(lr, weight_decay, (b1, b2))
    assert len(missed._carried) < 45_000
    since, step = [3, 39_990, 44_000, 59_990, 60_000], 60_000
    expected = []
    for s in since:
        j = np.arange(1, step - s + 1)
        kept = (1 - lr * weight_decay) ** (step - s - j)
        expected.append((kept * (b1 / b2**0.5) ** j * (1 - b2 ** (s + j)) ** 0.5 / (1 - b1 ** (s + j))).sum())
    assert missed.after(torch.tensor(since), step).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def trained(make_config, model, **keys):
    """A model after two epochs in float64, and its optimiser."""
    config = make_config(model, num_negatives=6, learning_rate=0.01, train_batch_size=16, **keys)
    torch.manual_seed(0)
    train, _, _ = assembly.loaders(config)
    net = config.model_class(config, train._dataset).double()
    trainer = InterestTrainer(config, net)
    torch.manual_seed(1)
    trainer._train_epoch(train, 0)
    trainer._train_epoch(train, 1)
    return net, trainer.optimizer


@pytest.mark.parametrize(("model", "keys"), [
    ("IBIM", {"backbone": "SASRec"}),
    ("IBIM", {"backbone": "BERT4Rec", "negative_sampling": "popularity"}),
    ("IBIM", {"backbone": "REMI"}),  # with decay
    ("EIMF", {"backbone": "GRU4Rec", "recipe": "paper"}),
])  # fmt: skip
def test_a_model_trains_the_same_with_rows_that_wait(make_config, monkeypatch, model, keys):
    lazy, optimiser = trained(make_config, model, **keys)
    assert isinstance(optimiser, LazyAdamW)
    monkeypatch.setattr("recbole_eimf.trainer.trainer.lazy_optimiser", lambda *_: None)
    plain, optimiser = trained(make_config, model, **keys)
    assert type(optimiser) in (torch.optim.AdamW, torch.optim.Adam)  # the paper's, and there is no decay
    for (name, a), b in zip(lazy.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


@pytest.mark.parametrize(("model", "keys"), [
    ("IBIM", {"learner": "sgd"}),
    ("IBIM", {"learner": "adam", "weight_decay": 0.1}),  # couples the decay to the gradient
    ("IBIM", {"learner": "adamw", "weight_decay": 5.5}),  # by a learning rate of 0.01, outruns momentum
    ("IBIM", {"item_text": "add"}),  # every row depends on the projection
    ("IBIM", {"negatives_for": "target"}),  # reads most rows
    ("EIMF", {"recipe": "strong"}),  # soft labels
    ("IBIM", {"clip_grad_norm": {"max_norm": 1}}),
])  # fmt: skip
def test_gradients_stay_dense_where_rows_cannot_wait(make_config, model, keys):
    net, optimiser = trained(make_config, model, backbone="SASRec", **keys)
    assert not isinstance(optimiser, LazyAdamW)
    assert net.looks_up == (not set(keys) & {"item_text", "recipe", "negatives_for"})


def test_drawn_negatives_make_no_table_of_scores(make_config):
    """A step over a catalogue reads the rows of its batch and its draw, and gives no other row a gradient."""
    config = make_config("IBIM", backbone="SASRec", num_negatives=2)
    train, _, _ = assembly.loaders(config)
    net = config.model_class(config, train._dataset)
    InterestTrainer(config, net)
    net.train()
    net.calculate_loss(train._dataset.rows(np.arange(1))).backward()
    gradient = net.backbone.item_embedding.embedding.weight.grad
    assert gradient.is_sparse
    batch = train._dataset.rows(np.arange(1))
    read = set(batch["item_id_list"][0].tolist()) | set(batch["target_item_list"][0].tolist())
    assert len(set(gradient.coalesce().indices()[0].tolist()) - read) <= 2


@pytest.mark.parametrize("name", ["IBIM", "BERT4Rec", "PAD", "MoRec"])  # items with a bias; towers; a baseline
@pytest.mark.parametrize("beside", [{}, {"negatives_for": "target"}])
def test_all_other_items_drawn_once_are_the_full_softmax(make_config, monkeypatch, name, beside):
    """The keys reach the loss of every family: without a correction, against every item, it is the catalogue's."""
    model = "IBIM" if name == "BERT4Rec" else name
    keys = {"num_negatives": 5, "negative_correction": False, **beside}
    keys |= {"IBIM": {"backbone": "SASRec"}, "BERT4Rec": {"backbone": "BERT4Rec"}, "PAD": {"experts": "id"}}.get(
        name, {}
    )

    def made(**own):
        torch.manual_seed(0)
        config = make_config(model, **keys | own)
        train, _, _ = assembly.loaders(config)
        net = config.model_class(config, train._dataset).double().train()
        for part in net.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        return net, train._dataset.rows(np.arange(4))

    drawn, batch = made()
    sampler = drawn.negatives if model == "IBIM" else drawn.sampler
    assert (sampler.for_each, sampler.corrected) == (bool(beside), False)

    def everything(count, rows):
        assert count == 5
        items = sampler.candidates
        return Drawn(items.expand(rows, -1) if beside else items, torch.zeros(len(items)), len(items) - 1)

    monkeypatch.setattr(sampler, "draw", everything)
    full, _ = made(num_negatives=0)
    full.load_state_dict(drawn.state_dict())

    def total(net):
        torch.manual_seed(1)  # what BERT4Rec masks, and where dropout is a function
        found = net.calculate_loss(batch)
        return sum(found) if isinstance(found, tuple) else found

    assert total(drawn).item() == pytest.approx(total(full).item(), abs=1e-5)


def test_popularity_is_for_the_corrected_loss(make_config):
    config = make_config("PAD", experts="id", loss="bce", num_negatives=3, negative_sampling="popularity")
    with pytest.raises(ConfigError, match="negative_sampling=popularity"):
        config.model_class(config, assembly.loaders(config)[0]._dataset)
