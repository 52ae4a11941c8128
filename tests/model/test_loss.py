"""Every loss against a loop written from its formula, in float64."""

import math

import pytest
import torch

from recbole_eimf.model.losses import loss, partition

torch.manual_seed(0)
P, N, D, M = 7, 12, 5, 6


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return doubles(P, D), doubles(N, D), torch.randint(1, N, (P,)), doubles(N)


def score(h, v, i, bias=None):
    return sum(float(h[j]) * float(v[i, j]) for j in range(D)) + (float(bias[i]) if bias is not None else 0.0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_full_softmax_is_cross_entropy_over_items_without_padding(batch, with_bias):
    h, v, target, bias = batch
    bias = bias if with_bias else None
    total = 0.0
    for p in range(P):
        exps = [math.exp(score(h[p], v, i, bias)) for i in range(1, N)]
        total -= math.log(math.exp(score(h[p], v, int(target[p]), bias)) / sum(exps))
    got = loss.full_softmax_loss(h, v, loss.target_score(h, v, target, bias), bias, torch.float64)
    assert got.item() == pytest.approx(total / P, abs=1e-9)


def plain_logits(h, v, bias=None):
    """[P, N - 1]: the whole matrix of scores, which the losses never make."""
    return (h @ v.T + (0 if bias is None else bias))[:, 1:]


def plain_hard_loss(h, v, target, beta, bias):
    positive = loss.target_score(h, v, target, bias)
    negative = plain_logits(h, v, bias).scatter(1, target[:, None] - 1, -math.inf)
    return loss.interest_aware_loss(positive, negative, beta)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.5])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_blocks_of_the_partition_sum_have_the_value_and_gradient_of_the_whole(
    batch, with_bias, beta, rows, monkeypatch
):
    monkeypatch.setitem(partition._BLOCK, "cpu", rows * (N - 1))
    monkeypatch.setattr(partition, "_FEWEST_ROWS", 1)
    h, v, target, bias = batch
    leaves = [h, v] + ([bias] if with_bias else [])
    for leaf in leaves:
        leaf.requires_grad_()
    bias = bias if with_bias else None
    positive = loss.target_score(h, v, target, bias)
    got = loss.full_interest_aware_loss(h, v, positive, positive, target, beta, bias, torch.float64)
    whole = plain_hard_loss(h, v, target, beta, bias)
    assert got.item() == pytest.approx(whole.item(), abs=1e-12)
    for a, b in zip(torch.autograd.grad(3 * got, leaves), torch.autograd.grad(3 * whole, leaves), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_items_of_bias_minus_infinity_are_left_out(batch):
    h, v, _, _ = batch
    left = torch.zeros(N, dtype=torch.float64)
    left[[2, 5]] = -math.inf
    v.requires_grad_()
    got = partition.mean_log_partition(h, v[1:], left[1:], torch.float64)
    kept = [i for i in range(1, N) if i not in (2, 5)]
    assert got.item() == pytest.approx(torch.logsumexp(h @ v[kept].T, 1).mean().item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(got, v)
    assert not gradient[[0, 2, 5]].any()
    assert gradient[kept].any(1).all()


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_bfloat16_products_are_close(batch, beta):
    h, v, target, _ = (x.float() if x.is_floating_point() else x for x in batch)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = h.clone().requires_grad_()
        positive = loss.target_score(leaf, v, target)
        value = loss.full_interest_aware_loss(leaf, v, positive, positive, target, beta, dtype=dtype)
        assert value.dtype == torch.float32
        value.backward()
        grads.append((value.item(), leaf.grad))
    assert grads[0][0] == pytest.approx(grads[1][0], abs=0.05)
    assert (grads[0][1] - grads[1][1]).norm() < 0.03 * grads[0][1].norm()
    assert not torch.equal(grads[0][1], grads[1][1])


@pytest.mark.parametrize("beta", [0.0, 0.7, 2.0])
def test_interest_aware_loss_weights_have_mean_one(beta):
    positive, negative = doubles(P), doubles(P, M)
    negative[2, 4] = -math.inf  # an absent negative
    total = 0.0
    for p in range(P):
        present = [float(n) for n in negative[p] if math.isfinite(n)]
        raw = [math.exp(beta * n) for n in present]
        mean = sum(raw) / len(raw)
        weights = [r / mean for r in raw]
        assert sum(weights) / len(weights) == pytest.approx(1)
        mass = sum(w * math.exp(n) for w, n in zip(weights, present))
        e = math.exp(float(positive[p]))
        total -= math.log(e / (e + mass))
    assert loss.interest_aware_loss(positive, negative, beta).item() == pytest.approx(total / P, abs=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_a_row_without_negatives_costs_nothing_and_has_no_gradient(beta):
    positive, negative = doubles(P).requires_grad_(), doubles(P, M)
    negative[2] = -math.inf
    negative.requires_grad_()
    found = loss.interest_aware_loss(positive, negative, beta)
    others = [p for p in range(P) if p != 2]
    rest = loss.interest_aware_loss(positive[others], negative[others], beta)
    assert found.item() == pytest.approx(rest.item() * (P - 1) / P, abs=1e-9)
    found.backward()
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(negative.grad[others]).all()
    assert not positive.grad[2]


def test_a_mean_over_some_rows_is_that_of_these_rows_alone():
    states, candidates = doubles(P, D).requires_grad_(), doubles(N, D)
    counts = torch.tensor([row % 3 != 1 for row in range(P)])
    some = partition.mean_log_partition(states, candidates, dtype=torch.float64, counts=counts)
    (mine,) = torch.autograd.grad(some, states)
    alone = partition.mean_log_partition(states[counts], candidates, dtype=torch.float64)
    (theirs,) = torch.autograd.grad(alone, states)
    assert some.item() == pytest.approx(alone.item(), abs=1e-12)
    assert torch.allclose(mine, theirs, atol=1e-12)


def test_where_no_item_competes_the_hard_partition_sum_is_the_target_alone():
    states, candidates = doubles(P, D).requires_grad_(), doubles(2, D).requires_grad_()
    positive = doubles(P).requires_grad_()
    absent = torch.tensor([0.0, -math.inf], dtype=torch.float64)
    rows = torch.zeros(P, dtype=torch.long)  # the target is the first, and the second is left out
    found = partition.mean_hard_partition(states, candidates, positive, rows, 0.7, absent, torch.float64)
    assert found.item() == pytest.approx(positive.mean().item(), abs=1e-12)
    found.backward()
    assert positive.grad.tolist() == pytest.approx([1 / P] * P)
    assert not states.grad.any()
    assert not candidates.grad.any()


def test_interest_aware_loss_without_hardness_is_the_sampled_softmax():
    positive, negative = doubles(P), doubles(P, M)
    plain = torch.nn.functional.cross_entropy(torch.cat([positive[:, None], negative], 1), torch.zeros(P).long())
    assert loss.interest_aware_loss(positive, negative, 0.0).item() == pytest.approx(plain.item(), abs=1e-9)


def test_info_nce_masks_rows_that_share_what_they_hold():
    rows, tau = D + 1, 0.3  # not as many as dimensions: a mean over the wrong ones would be the same
    a, b = doubles(rows, D), doubles(rows, D)
    same = torch.zeros(rows, rows, dtype=torch.bool)
    same[0, 3] = same[3, 0] = same[1, 1] = True

    def cosine(x, y):
        return float((x * y).sum() / (x.norm() * y.norm()))

    total = 0.0
    for k in range(rows):
        terms = [math.exp(cosine(a[k], b[j]) / tau) for j in range(rows) if j == k or not same[k, j]]
        total -= math.log(math.exp(cosine(a[k], b[k]) / tau) / sum(terms))
    assert loss.info_nce(a, b, tau, same).item() == pytest.approx(total / rows, abs=1e-9)
    assert loss.info_nce(a, b, tau).item() > loss.info_nce(a, b, tau, same).item()
    apart = torch.zeros(rows, rows, dtype=torch.bool)
    blocked = loss.info_nce(a, b, tau, dtype=torch.float64).item()
    assert blocked == pytest.approx(loss.info_nce(a, b, tau, apart).item(), abs=1e-12)


def test_cosine_distance_is_the_mean_of_one_minus_cosine():
    a, b = doubles(4, D), doubles(4, D)
    expected = sum(1 - float((x * y).sum() / (x.norm() * y.norm())) for x, y in zip(a, b)) / 4
    assert loss.cosine_distance(a, b).item() == pytest.approx(expected, abs=1e-9)


def test_remis_lambda_is_lambda_b_over_d_squared_here():
    """REMI's code: the covariance over d, the squared norm of its diagonal, summed over the batch, times lambda."""
    users, interests, length, d, lamb = 3, 2, 4, 8, 100.0
    attention = torch.softmax(doubles(users, interests, length), -1)
    total = 0.0
    for b in range(users):
        centred = attention[b] - attention[b].mean(1, keepdim=True)
        total += sum(float(centred[k] @ centred[k] / d) ** 2 for k in range(interests))
    found = loss.routing_penalty(attention, torch.ones(users, length, dtype=torch.bool)).item()
    assert lamb * users / d**2 * found == pytest.approx(lamb * total, rel=1e-9)


def test_routing_penalty_ignores_padding_and_is_a_batch_mean():
    attention = torch.softmax(doubles(2, 3, 4), -1)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    attention[1] = torch.softmax(doubles(3, 4).masked_fill(~mask[1], -math.inf), -1)
    total = 0.0
    for b in range(2):
        real = [j for j in range(4) if mask[b, j]]
        for k in range(3):
            values = [float(attention[b, k, j]) for j in real]
            mean = sum(values) / len(values)
            total += sum((v - mean) ** 2 for v in values) ** 2
    assert loss.routing_penalty(attention, mask).item() == pytest.approx(total / 2, abs=1e-12)
    # the fault of counting padding: it would see the zeros of row 1 as attention
    everything = torch.ones_like(mask)
    assert loss.routing_penalty(attention, everything).item() != pytest.approx(total / 2, abs=1e-6)
    # attention to the one item there is cannot be spread: nothing to punish
    single = torch.tensor([[True, False, False, False]])
    assert loss.routing_penalty(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), single).item() == 0
    collapsed = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    even = torch.full((1, 1, 4), 0.25)
    one = torch.ones(1, 4, dtype=torch.bool)
    assert loss.routing_penalty(collapsed, one) > loss.routing_penalty(even, one)
