"""Attention layers against loops written from the papers' formulas, in float64."""

import math

import pytest
import torch

from recbole_eimf.model.layer import (
    BehaviourToInterestRouting,
    MaskedSelfAttention,
    PositionalRouting,
    SelfAttentiveRouting,
    dynamic_routing,
    encoded_by_length,
    first_rows,
    hard_readout,
    squash,
    target_attention,
    unit_rows,
)
from recbole_eimf.model.losses.loss import cosine_distance
from recbole_eimf.model.losses.mmd import kernel_matrix
from tests.model.by_formula import softmax


def test_target_attention_is_a_masked_softmax_over_interests():
    torch.manual_seed(1)
    query, interests = torch.randn(3, 4).double(), torch.randn(3, 5, 4).double()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()
    got = target_attention(query, interests, mask, scale=0.7)
    for r in range(3):
        real = [k for k in range(5) if mask[r, k]]
        weight = softmax([0.7 * float(query[r] @ interests[r, k]) for k in real])
        expected = sum(w * interests[r, k] for w, k in zip(weight, real))
        assert torch.allclose(got[r], expected, atol=1e-9)


@pytest.mark.parametrize("rows", [1, 128, 129, 300])  # 128 are encoded at a time
def test_rows_of_like_length_are_encoded_together_and_come_back_in_their_places(rows):
    draw, seen = torch.Generator().manual_seed(rows), []
    length = torch.randint(1, 9, (rows,), generator=draw)
    items = torch.randint(1, 50, (rows, 8), generator=draw) * (torch.arange(8) < length[:, None])

    def encode(item_seq, item_seq_len):
        seen.append((item_seq.shape[1], item_seq_len))
        return torch.stack([(item_seq * torch.arange(1, item_seq.shape[1] + 1)).sum(1), item_seq_len], 1)

    found = encoded_by_length(encode, items, length)
    for row, of_row in enumerate(items.tolist()):
        assert found[row].tolist() == [sum(place * item for place, item in enumerate(of_row, 1)), length[row]]
    assert sum(len(together) for _, together in seen) == rows
    if rows > 128:
        assert all(len(together) <= 128 and width == together.max() for width, together in seen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_rows_stay_zero_whatever_the_precision(dtype):
    """In float16 torch's 1e-12 is zero: 0 / 0."""
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.03, 0.04]], dtype=dtype, requires_grad=True)
    unit = unit_rows(vectors)
    assert unit.dtype == dtype
    torch.testing.assert_close(unit.float(), torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.6, 0.8]]), rtol=0, atol=0.005)
    (1000 * unit.float()).sum().backward()
    assert vectors.grad.isfinite().all()
    torch.testing.assert_close(vectors.grad[1].float(), torch.tensor([32.0, -24.0]), rtol=0.05, atol=0)
    assert vectors.grad[0].float().tolist() == [0, 0] or dtype != torch.float16
    zero, other = torch.zeros(2, 4, dtype=dtype), torch.ones(2, 4, dtype=dtype)
    assert cosine_distance(zero, other) == cosine_distance(zero, zero) == 1
    assert cosine_distance(other, other).abs() < 0.01
    assert kernel_matrix(torch.cat([zero, other]), "cosine")[:2].tolist() == [[0] * 4] * 2


def test_unit_rows_and_their_gradient_are_those_of_torch():
    vectors = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors[1, 2] = 0
    weight = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight[1, 2] = 0  # where nothing is scored, nothing comes back
    found = []
    for unit in (unit_rows, lambda x: torch.nn.functional.normalize(x, dim=-1)):
        leaf = vectors.clone().requires_grad_()
        made = unit(leaf)
        (made * weight).sum().backward()
        found.append((made.detach(), leaf.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    assert not found[0][0][1, 2].any()
    assert torch.autograd.gradcheck(unit_rows, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


def test_first_rows_are_a_slice_with_its_gradient():
    table = torch.randn(4, 2, requires_grad=True)
    assert first_rows(table, 4) is table
    first_rows(table, 3).sum().backward()
    assert table.grad.tolist() == [[1, 1]] * 3 + [[0, 0]]


def test_hard_readout_takes_the_closest_interest():
    torch.manual_seed(2)
    query, interests = torch.randn(6, 4), torch.randn(6, 3, 4)
    for r, got in enumerate(hard_readout(query, interests)):
        best = max(range(3), key=lambda k: float(query[r] @ interests[r, k]))  # noqa: B023
        assert torch.equal(got, interests[r, best])


def test_self_attention_ignores_masked_interests():
    torch.manual_seed(3)
    layer = MaskedSelfAttention(4).double()
    interests = torch.randn(2, 3, 4).double()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    got = layer(interests, mask).detach()
    for r in range(2):
        real = [m for m in range(3) if mask[r, m]]
        for m in real:
            q = layer.query.weight.detach() @ interests[r, m]
            weight = softmax(
                [float(q @ (layer.key.weight.detach() @ interests[r, n])) / 2.0 for n in real]
            )  # sqrt(4) = 2
            mixed = sum(w * (layer.value.weight.detach() @ interests[r, n]) for w, n in zip(weight, real))
            assert torch.allclose(got[r, m], interests[r, m] + mixed, atol=1e-9)
    changed = interests.clone()
    changed[1, 2] = 100.0
    assert torch.allclose(layer(changed, mask)[1, :2], got[1, :2])


def test_self_attentive_routing_is_softmax_over_positions():
    torch.manual_seed(4)
    layer = SelfAttentiveRouting(4, 3, 6).double()
    items = torch.randn(2, 5, 4).double()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    interests, attention = layer(items, mask)
    for b in range(2):
        length = int(mask[b].sum())
        keyed = [items[b, j] + layer.position.weight[length - 1 - j] for j in range(length)]
        logits = [layer.heads.weight @ torch.tanh(layer.hidden.weight @ x) for x in keyed]
        for k in range(3):
            weight = softmax([logit[k].item() for logit in logits])
            assert attention[b, k, :length].tolist() == pytest.approx(weight, abs=1e-9)
            assert attention[b, k, length:].abs().sum() == 0
            assert torch.allclose(interests[b, k], sum(w * items[b, j] for j, w in enumerate(weight)), atol=1e-9)


def test_positions_mean_recency_so_padding_width_changes_nothing():
    torch.manual_seed(5)
    layer = SelfAttentiveRouting(4, 2, 8)
    items = torch.randn(1, 3, 4)
    narrow, _ = layer(items, torch.ones(1, 3).bool())
    wide, _ = layer(torch.cat([items, torch.randn(1, 4, 4)], 1), torch.tensor([[1, 1, 1, 0, 0, 0, 0]]).bool())
    assert torch.allclose(narrow, wide, atol=1e-6)


@pytest.mark.parametrize("power", [0.5, 2.0, 3.0])
def test_label_aware_attention_raises_products_to_a_power(power):
    """MIND eq. 8, softmax(pow(interest · label, p)); where a product is negative the sign stays."""
    torch.manual_seed(1)
    query, interests = torch.randn(4, 3).double(), torch.randn(4, 5, 3).double().requires_grad_()
    products = torch.einsum("rd,rkd->rk", query, interests).detach()
    assert (products < 0).any()
    assert (products > 0).any()
    got = target_attention(query, interests, power=power)
    for r in range(4):
        raised = [math.copysign(math.pow(abs(float(x)), power), float(x)) for x in products[r]]
        if power == 3:
            assert raised == pytest.approx([float(x) ** 3 for x in products[r]])  # the power as it is printed
        expected = sum(w * interests[r, k] for k, w in enumerate(softmax(raised)))
        assert torch.allclose(got[r], expected, atol=1e-9)
    interests.data[0, 0] = 0  # a product of 0 has a gradient
    target_attention(query, interests, power=power).sum().backward()
    assert torch.isfinite(interests.grad).all()


def squashed(z):
    square = float(z @ z)
    return z * square / (1 + square) / math.sqrt(square)


def routed(votes, logits, real, live, iterations=3, over="interests"):
    """MIND algorithm 1 and ComiRec-DR algorithm 1 as printed: votes[k][j], logits[k][j], for one user.

    ``over="positions"`` is what their released code does instead, among real items.
    """
    logits = {(k, j): float(logits[k][j]) for k in live for j in real}
    for _ in range(iterations):
        weight = {}
        if over == "interests":
            for j in real:
                for k, w in zip(live, softmax([logits[k, j] for k in live])):
                    weight[k, j] = w
        else:
            for k in live:
                for j, w in zip(real, softmax([logits[k, j] for j in real])):
                    weight[k, j] = w
        interests = {k: squashed(sum(weight[k, j] * votes[k][j] for j in real)) for k in live}
        for k in live:
            for j in real:
                logits[k, j] += float(interests[k] @ votes[k][j])
    return interests, weight


def test_squash_keeps_direction_and_bends_length_and_has_a_gradient_at_zero():
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    got = squash(z)
    assert got[0].tolist() == pytest.approx([3 / 5 * 25 / 26, 4 / 5 * 25 / 26], abs=1e-12)
    assert got[1].tolist() == [0, 0]
    got.sum().backward()
    assert torch.isfinite(z.grad).all()


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize("over", ["interests", "positions"])
def test_mind_routing_is_algorithm_1_with_one_map_and_fixed_logits(over):
    torch.manual_seed(6)
    layer = BehaviourToInterestRouting(4, 3, 6, over).double()
    items = torch.randn(3, 5, 4).double()
    interests, weight = layer(items, MASK)
    for b, (length, count) in enumerate([(5, 2), (3, 1), (1, 1)]):  # K' = floor(log2 n), at least 1
        real, live = range(length), range(count)
        said = [[layer.map.weight.detach() @ items[b, j] for j in real] for _ in live]
        logits = [[layer.initial[k, length - 1 - j] for j in real] for k in live]
        expected, expected_weight = routed(said, logits, real, live, over=over)
        for k in live:
            assert torch.allclose(interests[b, k], expected[k], atol=1e-6)
            assert weight[b, k, :length].tolist() == pytest.approx([expected_weight[k, j] for j in real], abs=1e-6)
        assert interests[b, count:].abs().sum() == 0
        assert weight[b, count:].abs().sum() == 0


def test_mind_interest_count_follows_the_history_length():
    layer = BehaviourToInterestRouting(4, 4, 40)
    for n in range(1, 41):
        mask = torch.arange(40)[None] < n
        expected = max(1, min(4, math.floor(math.log2(n))))
        assert layer.live(mask)[0].tolist() == [k < expected for k in range(4)]


@pytest.mark.parametrize("over", ["interests", "positions"])
def test_comirec_dr_routing_is_algorithm_1_with_a_map_per_recency_and_logits_from_zero(over):
    torch.manual_seed(7)
    layer = PositionalRouting(4, 3, 6, over).double()
    items = torch.randn(3, 5, 4).double()
    interests, weight = layer(items, MASK)
    for b, length in enumerate((5, 3, 1)):
        real, live = range(length), range(3)
        maps = layer.maps.detach()
        said = [[maps[length - 1 - j, k] @ items[b, j] for j in real] for k in live]
        expected, expected_weight = routed(said, [[0.0] * length] * 3, real, live, over=over)
        for k in live:
            assert torch.allclose(interests[b, k], expected[k], atol=1e-6)
            assert weight[b, k, :length].tolist() == pytest.approx([expected_weight[k, j] for j in real], abs=1e-6)


@pytest.mark.parametrize("routing", [BehaviourToInterestRouting, PositionalRouting])
@pytest.mark.parametrize("over", ["interests", "positions"])
def test_routing_weights_are_a_softmax_and_padding_gets_none(routing, over):
    """The reference takes the softmax over positions before the mask: real items lose what padding takes."""
    torch.manual_seed(8)
    layer = routing(4, 3, 8, over)
    items = torch.randn(3, 5, 4)
    interests, weight = layer(items, MASK)
    if over == "interests":
        assert torch.allclose(weight.sum(1), MASK.float(), atol=1e-6)
    else:
        live = layer.live(MASK) if routing is BehaviourToInterestRouting else torch.ones(3, 3)
        assert torch.allclose(weight.sum(2), live.float(), atol=1e-6)
        assert not weight.masked_select(~MASK[:, None]).any()
    wider = torch.cat([items, torch.randn(3, 3, 4)], 1)
    again, _ = layer(wider, torch.nn.functional.pad(MASK, (0, 3)))
    assert torch.allclose(again, interests, atol=1e-6)


def test_routing_gradient_flows_through_the_last_iteration_only():
    torch.manual_seed(9)
    votes = torch.randn(2, 3, 5, 4).double().requires_grad_()
    mask = MASK[:2]
    interests, weight = dynamic_routing(votes, torch.randn(2, 3, 5).double(), mask)
    (got,) = torch.autograd.grad(interests.square().sum(), votes)
    last = squash(torch.einsum("bkl,bkld->bkd", weight.detach(), votes))  # the weights are constants to it
    (expected,) = torch.autograd.grad(last.square().sum(), votes)
    assert torch.allclose(got, expected, atol=1e-12)
    assert not weight.requires_grad


def test_what_is_drawn_at_the_start_has_the_deviation_it_should():
    """Small where it only breaks ties; of maps, so that a vector keeps its length on average."""
    torch.manual_seed(0)
    assert SelfAttentiveRouting(32, 4, 50).position.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert BehaviourToInterestRouting(32, 8, 200).initial.std().item() == pytest.approx(0.1, rel=0.1)
    maps = PositionalRouting(32, 4, 5).maps
    said = maps.detach() @ torch.nn.functional.normalize(torch.randn(32), dim=0)
    assert said.norm(dim=-1).mean().item() == pytest.approx(1, rel=0.1)
