"""Weights of a score prior that are fitted to validation, against loops."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from scipy import optimize

import recbole_eimf
from recbole_eimf.experiment import assembly
from recbole_eimf.model.score_prior import FREQUENCIES, PARTS, WEIGHTS, ScorePrior
from recbole_eimf.trainer import prior_fit, weighing
from recbole_eimf.trainer.prior_fit import Evidence, _minimise, evidence, fit, negative_log_likelihood
from tests.model.test_counting import rows
from tests.model.test_next_knn import SEQUENCES, by_hand, prior_keys  # noqa: F401 (fixtures)

USERS, ITEMS, COUNTS = 400, 30, np.array([0, 3, 0, 9, 400, 25, 5, 6, 100, 101, 1, 20, 21, 2, 60])


def test_buckets_begin_where_frequencies_say():
    assert np.digitize(COUNTS, FREQUENCIES).tolist() == [0, 1, 0, 2, 4, 3, 1, 2, 3, 4, 1, 2, 3, 1, 3]


@pytest.fixture(scope="module")
def seen():
    """Users who choose by 0.5 model + 1.5 (items below 15) or 3 (others) times the first part, not by the second."""
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(3, USERS, ITEMS, generator=draw)
    absent = torch.rand(USERS, ITEMS, generator=draw) < 0.2
    weight = torch.where(torch.arange(ITEMS) < 15, 1.5, 3.0)
    utility = (0.5 * scores[0] + weight * scores[1]).masked_fill(absent, -torch.inf)
    row = torch.arange(USERS)
    target = torch.multinomial(utility.softmax(1), 1, generator=draw)[:, 0]
    absent[row, target] = True
    return Evidence(scores, absent, scores[:, row, target], row, torch.arange(ITEMS), target)


def loss_by_hand(seen, scale, weights, bucket):
    total = 0.0
    for user, target in enumerate(seen.target.tolist()):
        utility = [scale * seen.of_items[0, user, i].item() + sum(
            weights[part][bucket[i]] * seen.of_items[part + 1, user, i].item() for part in (0, 1)
        ) for i in range(ITEMS)]  # fmt: skip
        there = [i for i in range(ITEMS) if i == target or not seen.absent[user, i]]
        total -= utility[target] - math.log(sum(math.exp(utility[i]) for i in there))
    return total / USERS


def test_the_likelihood_is_the_softmax_of_each_target(seen):
    bucket = torch.arange(ITEMS) % 2
    weights = [[0.3, -0.4], [1.1, 0.7]]
    found = negative_log_likelihood(
        seen, torch.tensor(0.8), torch.tensor(weights), bucket[seen.item], bucket[seen.target]
    )
    assert found.item() == pytest.approx(loss_by_hand(seen, 0.8, weights, bucket.tolist()), abs=1e-5)


def test_what_the_users_chose_by_is_found(seen):
    both, nothing = fit(seen, None).tolist()
    assert both == pytest.approx(2.25 / 0.5, rel=0.25), "between the two kinds of items, over the model's 0.5"
    assert nothing < 0.5
    low, high = fit(seen, torch.where(torch.arange(ITEMS) < 15, 1, 3))[0, [1, 3]].tolist()
    assert low == pytest.approx(1.5 / 0.5, rel=0.25)
    assert high == pytest.approx(3.0 / 0.5, rel=0.25)


def test_a_bucket_moves_from_the_weight_of_all_by_the_evidence_of_ten_targets(seen):
    """Both fits again by another optimiser: of all items, then of buckets with the penalty that begins there."""
    few = Evidence(seen.of_items[:, :120], seen.absent[:120], seen.of_target[:, :120], seen.row[:120], seen.item,
                   seen.target[:120])  # fmt: skip
    scores, own = few.of_items.double().numpy(), few.of_target.double().numpy()
    bucket = torch.arange(ITEMS) % 5
    there = ~few.absent.numpy()

    def loss(scale, weights, of_item, of_target):
        utility = scale * scores[0] + weights[0][of_item] * scores[1] + weights[1][of_item] * scores[2]
        chosen = scale * own[0] + weights[0][of_target] * own[1] + weights[1][of_target] * own[2]
        return (np.log((np.exp(utility) * there).sum(1) + np.exp(chosen)) - chosen).mean()

    none = np.zeros(ITEMS, dtype=int), np.zeros(120, dtype=int)
    of_all = optimize.minimize(lambda x: loss(x[0], x[1:].reshape(2, 1), *none), [1.0, 0.0, 0.0]).x
    start = of_all[1:].repeat(5)
    each = bucket.numpy(), bucket[few.target].numpy()

    def penalised(x):
        return loss(x[0], x[1:].reshape(2, 5), *each) + 10 / 120 * np.square(x[1:] - start).sum()

    best = optimize.minimize(penalised, [of_all[0], *start]).x
    assert np.abs(best[1:] - start).max() > 0.05
    wanted = np.maximum(best[1:] / best[0], 0).reshape(2, 5)
    assert fit(few, bucket).numpy() == pytest.approx(wanted, abs=0.02)


def test_no_weight_is_below_zero(seen):
    against = seen._replace(of_items=seen.of_items * torch.tensor([1.0, -1.0, 1.0])[:, None, None])
    against = against._replace(of_target=seen.of_target * torch.tensor([1.0, -1.0, 1.0])[:, None])
    assert fit(against, None)[0] == 0


def correlated(seed, parts=3):
    """150 users and parts that are nearly the same, of which unbounded weights would be of both signs."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(150, ITEMS, generator=draw)
    noise = torch.randn(parts + 1, 150, ITEMS, generator=draw)
    scores = torch.stack([noise[0], *(common + 0.5 * each for each in noise[1:])])
    utility = 0.6 * scores[0] + scores[1] - 0.7 * scores[2] + (0.2 * scores[3] if parts > 2 else 0)
    absent = torch.rand(150, ITEMS, generator=draw) < 0.2
    row = torch.arange(150)
    target = torch.multinomial(utility.masked_fill(absent, -torch.inf).softmax(1), 1, generator=draw)[:, 0]
    absent[row, target] = True
    return Evidence(scores, absent, scores[:, row, target], row, torch.arange(ITEMS), target)


def bounded(seen, of_item, of_target, begin, shrinkage=0.0):
    """(weights over the model's, loss) by another optimiser, that keeps to bounds; ``begin``: [1 + parts x buckets]."""
    scores, own = seen.of_items.double().numpy(), seen.of_target.double().numpy()
    there, parts = ~seen.absent.numpy(), len(scores) - 1

    def loss(x):
        weights = x[1:].reshape(parts, -1)
        utility = x[0] * scores[0] + sum(weights[n][of_item] * scores[n + 1] for n in range(parts))
        chosen = x[0] * own[0] + sum(weights[n][of_target] * own[n + 1] for n in range(parts))
        told = (np.log((np.exp(utility) * there).sum(1) + np.exp(chosen)) - chosen).mean()
        return told + shrinkage / len(chosen) * np.square(x[1:] - begin[1:]).sum()

    limits = [(1e-3, None), *[(0, None)] * (len(begin) - 1)]
    return optimize.minimize(loss, begin, method="L-BFGS-B", bounds=limits, options={"ftol": 1e-14, "gtol": 1e-8}).x


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [2, 3])
def test_where_a_weight_would_be_negative_the_others_are_the_likeliest_without_it(seed, parts):
    """To cut a negative weight off leaves the others as heavy as they were against it."""
    seen = correlated(seed, parts)
    none = torch.zeros_like(seen.item), torch.zeros_like(seen.target)
    free, unbounded = _minimise(seen, torch.ones(()), torch.zeros(parts, 1), none)
    assert (unbounded < 0).any()
    of_all = bounded(seen, *(each.numpy() for each in none), np.array([1.0] + [0.0] * parts))
    found = fit(seen, None).numpy()
    assert found == pytest.approx(of_all[1:] / of_all[0], abs=0.01)
    cut = (unbounded[:, 0] / free).clamp(min=0).numpy()
    assert np.abs(cut - found).max() > 0.05

    bucket = torch.arange(ITEMS) % 5
    begin = np.array([of_all[0], *of_all[1:].repeat(5)])
    each = bounded(seen, bucket.numpy(), bucket[seen.target].numpy(), begin, shrinkage=10.0)
    assert fit(seen, bucket).numpy() == pytest.approx((each[1:] / each[0]).reshape(parts, 5), abs=0.02)


def test_a_part_that_was_left_out_comes_back_where_it_helps_beside_those_that_stayed():
    """Each of many draws ends where no slope says otherwise: zero where a weight is above zero, else not downwards."""
    for seed in range(12):
        seen = correlated(seed)
        bucket = torch.arange(ITEMS) % 5
        of = bucket[seen.item], bucket[seen.target]
        start = torch.tensor([0.3, 0.2, 0.0])[:, None].repeat(1, 5)
        scale, weights = prior_fit._least_of_positive(seen, torch.ones(()), start, of, 10.0)
        slope = prior_fit._slope(seen, scale, weights, start, of, 10.0)
        assert (weights >= 0).all()
        assert (weights == 0).any()
        assert slope[weights > 0].abs().max() < 2e-3
        assert slope[weights == 0].min() > -2e-3


def test_without_a_target_nothing_weighs(seen):
    none = seen._replace(of_target=seen.of_target[:, :0], row=seen.row[:0], target=seen.target[:0])
    assert not fit(none, None).any()
    assert fit(none, torch.zeros(len(seen.item) + 1, dtype=torch.int64)).shape == (*fit(none, None).shape, 5)


def test_beside_a_model_that_misleads_the_prior_counts_alone(seen):
    turned = torch.tensor([-1.0, 1.0, 1.0])
    misled = seen._replace(of_items=seen.of_items * turned[:, None, None], of_target=seen.of_target * turned[:, None])
    assert fit(misled, None)[0] > 100


@pytest.mark.parametrize("shrinkage", [0.0, 40.0])
def test_the_fit_is_the_least_of_the_penalised_loss(seen, shrinkage):
    """Its slopes are zero, by the loop's differences; the penalty draws each weight to where it started."""
    bucket = torch.arange(ITEMS) % 2
    start = torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    given = (seen, torch.ones(()), start, (bucket[seen.item], bucket[seen.target]), shrinkage)
    scale, weights = (part.double().numpy() for part in _minimise(*given))
    scores = seen.of_items.double().numpy()
    there = ~seen.absent.numpy()
    there[range(USERS), seen.target] = True

    def penalised(flat):
        utility = flat[0] * scores[0] + sum(flat[1:].reshape(2, 2)[p][bucket.numpy()] * scores[p + 1] for p in (0, 1))
        chance = np.exp(utility) * there
        own = utility[range(USERS), seen.target]
        fit_of = np.log(chance.sum(1)) - own
        return fit_of.mean() + shrinkage / USERS * np.square(flat[1:] - start.numpy().ravel()).sum()

    flat = np.concatenate([[scale], weights.ravel()])
    slopes = [(penalised(flat + step) - penalised(flat - step)) / 2e-4 for step in 1e-4 * np.eye(5)]
    assert np.abs(slopes).max() < 1e-3
    moved = np.abs(weights - start.numpy()).sum()
    assert moved > 0.1


class Judged:
    """A trainer whose metric of validation is said by the prior's weights."""

    model_folder, valid_metric = None, "NDCG@5"

    def __init__(self, how, prior, value, bigger):
        self.config = {"prior_weights": how, "score_prior": "both", "resume": False}
        self.prior, self.value, self.valid_metric_bigger = prior, value, bigger
        self.logger, self.tried, self.read = logging.getLogger(), [], 0

    def read_best(self):
        """A model whose prior was weighed before."""
        self.read += 1
        self.prior.set_weight("similar", 7.0)

    def evaluate(self, valid_data, load_best_model):
        assert not load_best_model
        self.tried.append(tuple(self.prior.weight.tolist()[:2]))  # of similar and next
        value = self.value(*self.tried[-1])
        return {"ndcg@5": value if self.valid_metric_bigger else -value}


#: metric by weight; what is left out is 0. Three in a row that are no better end the search; as good is no better
BY_SIMILAR = {0.0: 1.0, 0.25: 1.0, 0.5: 0.9, 1.0: 1.2, 1.5: 1.2, 2.0: 1.1, 3.0: 1.3, 16.0: 9.0}
BY_NEXT = {0.0: 1.0, 0.25: 1.0, 0.5: 1.0, 1.0: 0.5, 1.5: 9.0}


@pytest.mark.parametrize("bigger", [True, False])
def test_the_grid_is_climbed_part_by_part(bigger):
    prior = ScorePrior("both", 0.5, None, 4)
    trainer = Judged("grid", prior, lambda s, n: BY_SIMILAR.get(s, 0.0) + BY_NEXT.get(n, 0.0), bigger)
    found = weighing.choose_prior(trainer, prior, None)
    similar = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]
    assert trainer.tried == [(s, 0.0) for s in similar] + [(3.0, n) for n in (0.25, 0.5, 1.0)]
    assert prior.weight.tolist() == [3.0, 0.0, 0.0, 0.0], "what was tried last does not stay"
    assert found == trainer.best_valid_result == {"ndcg@5": pytest.approx(2.3 if bigger else -2.3)}


def test_weights_are_chosen_for_the_best_model_and_kept_with_it(tmp_path):
    prior, written = ScorePrior("similar", 0.5, None, 4), []
    trainer = Judged("grid", prior, lambda s, n: s, True)
    trainer.model_folder, trainer.model, trainer.best_epoch = tmp_path, object(), 3
    trainer.write = lambda epoch: written.append((epoch, prior.weight[0].item()))
    weighing.choose_prior(trainer, prior, None)
    assert trainer.read == 1, "the model of the last epoch is not the best"
    assert trainer.tried[0] == (0.0, 0.0), "the model alone"
    assert written == [(3, WEIGHTS[-1])]


@pytest.mark.parametrize("other", [{}, {"best_epoch": 4}, {"prior_weights": "grid"}, {"score_prior": "similar"}])
def test_weights_chosen_before_a_stop_stay_with_the_model_they_were_chosen_for(monkeypatch, tmp_path, other):
    monkeypatch.setattr(weighing, "evidence", lambda *given: given)
    monkeypatch.setattr(weighing, "fit", lambda seen, bucket: torch.tensor([2.0, 5.0]))
    prior = ScorePrior("both", 0.5, None, 4)
    trainer = Judged("learned", prior, lambda s, n: s + n, True)
    trainer.model_folder, trainer.model, trainer.best_epoch = tmp_path, object(), 3
    trainer.write = lambda epoch: None
    trainer.config["resume"] = True
    found = weighing.choose_prior(trainer, prior, None)
    prior.weight.zero_()
    trainer.tried.clear()
    trainer.best_epoch = other.get("best_epoch", 3)
    trainer.config |= {key: value for key, value in other.items() if key in trainer.config}
    again = weighing.choose_prior(trainer, prior, None)
    assert bool(trainer.tried) == bool(other), "chosen again for what is another model"
    if not other:
        assert again == found == {"ndcg@5": 7.0}
        assert prior.weight.tolist() == [2.0, 5.0, 0.0, 0.0]


@pytest.mark.parametrize("bigger", [True, False])
@pytest.mark.parametrize(("kind", "weights"), [("both", [2.0, 5.0]), ("next", [0.0, 5.0])])
@pytest.mark.parametrize("gain", [0.1, 0.0, -0.1])
def test_fitted_weights_stay_where_validation_is_better_for_them(monkeypatch, kind, weights, gain, bigger):
    prior = ScorePrior(kind, 0.5, None, 4)
    trainer = Judged("learned", prior, lambda s, n: 1.0 + gain * ([s, n] == weights), bigger)
    monkeypatch.setattr(weighing, "evidence", lambda *given: given)
    monkeypatch.setattr(weighing, "fit", lambda seen, bucket: torch.tensor(weights[-len(prior.parts) :]))
    found = weighing.choose_prior(trainer, prior, None)
    assert prior.weight.tolist() == [*(weights if gain >= 0 else [0.0, 0.0]), 0.0, 0.0]
    assert abs(found["ndcg@5"]) == pytest.approx(1.0 + max(gain, 0.0))


@pytest.mark.parametrize("bucket", [None, torch.tensor([0, 1, 1, 4])])
def test_weights_are_fitted_to_the_buckets_that_a_prior_has(monkeypatch, bucket):
    prior, asked = ScorePrior("similar", 0.5, None, 4, bucket), []
    found = torch.tensor([[2.0]]) if bucket is None else torch.arange(1.0, 6.0)[None]
    monkeypatch.setattr(weighing, "evidence", lambda *given: given)
    monkeypatch.setattr(weighing, "fit", lambda seen, of_items: asked.append(of_items) or found)
    weighing.choose_prior(Judged("by_frequency", prior, lambda *weights: len(asked), True), prior, None)
    assert asked == [None] if bucket is None else torch.equal(asked[0], bucket)
    assert prior.weight[0].tolist() == (2.0 if bucket is None else found[0].tolist())


def test_a_target_counts_by_the_weight_of_its_frequency(built, planted_knowledge):  # noqa: F811
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "backbone": "SASRec"}
    net, train = built("IBIM", score_prior="next", prior_weights="by_frequency", prior_decay=0.5, **keys)
    net.eval()
    alone = net.full_sort_predict(rows(SEQUENCES))
    net.prior.set_weight("next", torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    graph = train.side.next_items.toarray()
    graph = graph / np.maximum(graph.max(1, keepdims=True), 1e-9)
    weight = [1 + sum(count >= begin for begin in (1, 6, 21, 101)) for count in train.item_counts().tolist()]
    assert len(set(weight)) > 1
    for sequence, one, both in zip(SEQUENCES, alone, net.full_sort_predict(rows(SEQUENCES))):
        assert (both - one).tolist() == pytest.approx((weight * by_hand(graph, sequence, 0.5)).tolist(), abs=1e-4)


def test_they_are_fitted_saved_and_loaded(prior_keys, tmp_path):  # noqa: F811
    plain = recbole_eimf.run("IBIM", "planted", **{**prior_keys, "score_prior": "none"})
    out = tmp_path / "out"
    found = recbole_eimf.run("IBIM", "planted", output_dir=str(out), prior_weights="by_frequency", **prior_keys)
    assert found.valid["ndcg@5"] > plain.valid["ndcg@5"]
    _, net, loaders = recbole_eimf.load(out)
    assert net.prior.weight.shape == (len(PARTS), len(FREQUENCIES) + 1)
    assert net.prior.weight[1].max() > 0, "in the planted data an item is followed by the next of its cycle"
    assert recbole_eimf.evaluate(out) == pytest.approx(found.test)
    _check_evidence(net, loaders[1])


def _check_evidence(net, valid, items=None):
    """Against what the model and each part say of every batch; absent is who is a target or in a masked history."""
    net.prior.weight.zero_()
    net.train()
    trainer = type("Trained", (), {"model": net, "device": torch.device("cpu")})
    seen = evidence(trainer, net.prior, valid)
    assert not net.training, "dropout would say something else each time"
    assert seen.item.tolist() == sorted(set(seen.item.tolist()))
    assert len(seen.item) == (items or net.n_items - 1)
    assert set(seen.item.tolist()) <= set(range(1, net.n_items))
    user = pair = 0
    for batch, history, row, target in valid:
        given = batch[net.ITEM_SEQ], batch[net.ITEM_SEQ_LEN]
        each = [net.full_sort_predict(batch), *(net.prior.part(part, *given) for part in net.prior.parts)]
        taken = {(r, i) for r, i in zip(row.tolist(), target.tolist())}
        if history is not None:
            masked = set(zip(history[0].tolist(), history[1].tolist()))
            kept = [pair not in masked for pair in zip(row.tolist(), target.tolist())]
            row, target, taken = row[kept], target[kept], taken | masked
        users, pairs = slice(user, user + len(batch)), slice(pair, pair + len(row))
        assert seen.row[pairs].tolist() == (row + user).tolist()
        assert seen.target[pairs].tolist() == target.tolist()
        for feature, scores in enumerate(each):
            torch.testing.assert_close(seen.of_target[feature, pairs], scores[row, target], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(seen.of_items[feature, users], scores[:, seen.item], atol=1e-5, rtol=1e-5)
        absent = {(r, seen.item[i].item()) for r, i in seen.absent[users].nonzero().tolist()}
        assert absent == {(r, i) for r, i in taken if i in seen.item}
        user, pair = users.stop, pairs.stop
    assert (seen.of_items.shape[1], len(seen.absent), len(seen.target)) == (user, user, pair)
    return seen


@pytest.mark.parametrize("masked", [False, True])
def test_evidence_is_of_the_users_and_items_that_are_looked_at(make_config, planted_knowledge, monkeypatch, masked):
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "mask_history": masked}
    config = make_config("IBIM", score_prior="both", backbone="SASRec", eval_batch_size=50, **keys)
    train, valid, _ = assembly.loaders(config)
    torch.manual_seed(0)
    net = config.model_class(config, train._dataset)
    assert (next(iter(valid))[1] is not None) is masked
    monkeypatch.setattr(prior_fit, "_MOST_ITEMS", 6)
    _check_evidence(net, valid, items=6)
    trainer = type("Trained", (), {"model": net, "device": torch.device("cpu")})
    every = evidence(trainer, net.prior, valid)
    monkeypatch.setattr(prior_fit, "_MOST_ROWS", 40)
    some = evidence(trainer, net.prior, valid)
    assert torch.equal(some.item, every.item)
    # scores of 40 users: which these are is told by their scores
    mine, whole = (each.of_items.transpose(0, 1).flatten(1) for each in (some, every))
    apart = (mine[:, None] - whole).abs().amax(2)
    assert apart.min(1).values.max() < 1e-4
    rows = apart.argmin(1).tolist()
    assert rows == sorted(set(rows))
    assert max(rows) > 60, "users from all over the file"
    assert torch.equal(some.absent, every.absent[rows])
    pairs = [i for i, row in enumerate(every.row.tolist()) if row in rows]
    assert some.target.tolist() == every.target[pairs].tolist()
    assert [rows[i] for i in some.row.tolist()] == every.row[pairs].tolist()
    torch.testing.assert_close(some.of_target, every.of_target[:, pairs], atol=1e-5, rtol=1e-5)


def test_a_prior_saved_before_there_were_buckets_and_all_parts_is_read(built, planted_knowledge):  # noqa: F811
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "backbone": "SASRec"}
    net, _ = built("IBIM", score_prior="both", **keys)
    net.prior.set_weight("similar", 2.0)
    older = {key: value for key, value in net.prior.state_dict().items() if key != "bucket"}
    older["weight"] = older["weight"][:2]  # there was no previous, and nothing bought together
    older = {key: value for key, value in older.items() if not key.startswith("together")}
    other, _ = built("IBIM", score_prior="both", **keys)
    other.prior.load_state_dict(older)
    assert other.prior.weight.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert not other.prior.part("together", torch.tensor([[1, 5]]), torch.tensor([2])).any()


def test_they_are_fitted_to_whole_rankings_where_validation_ranks_drawn_items(prior_keys, monkeypatch):  # noqa: F811
    """RecBole's loader has a row for each pair there, which would be taken for users."""
    fitted = []
    monkeypatch.setattr(weighing, "fit", lambda seen, bucket: fitted.append(seen) or fit(seen, bucket))
    for mode in ("full", "uni3"):
        args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode}
        recbole_eimf.run("IBIM", "planted", prior_weights="learned", eval_args=args, **prior_keys)
    whole, drawn = fitted
    assert whole.row.tolist() == drawn.row.tolist() == list(range(120))
    assert torch.equal(whole.target, drawn.target)
    assert torch.equal(whole.of_target[1:], drawn.of_target[1:]), "of the parts, which nothing trains"


def test_a_prior_is_weighed_without_a_validation_of_epochs(prior_keys, tmp_path):  # noqa: F811
    recbole_eimf.run("IBIM", "planted", eval_step=0, output_dir=str(tmp_path / "out"), **prior_keys)
    held = json.loads((tmp_path / "out" / "prior.json").read_text())
    assert max(np.ravel(held["weights"])) > 0
    assert held["valid"]["ndcg@5"] > 0


def test_weights_are_fitted_to_scores_not_to_picks_by_category(make_config, planted_knowledge):
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "interest_num": 2}
    keys |= {"category_field": "title"}
    found = []
    for diversity in (0.0, 0.05):
        config = make_config("IBIM", score_prior="both", backbone="ComiRecSA", diversity_lambda=diversity, **keys)
        train, valid, _ = assembly.loaders(config)
        torch.manual_seed(0)
        net = config.model_class(config, train._dataset)
        net.prior.weight.zero_()
        before = net.diversity
        assert (before is not None) == bool(diversity)
        trainer = type("Trained", (), {"model": net, "device": torch.device("cpu")})
        found.append(evidence(trainer, net.prior, valid).of_items)
        assert net.diversity is before
    assert torch.equal(*found)
