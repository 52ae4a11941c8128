"""Attention layers against loops written from the papers' formulas, in float64."""

import math

import pytest
import torch

from recbole_eimf.model.layer import MaskedSelfAttention, SelfAttentiveRouting, hard_readout, target_attention


def softmax(values):
    top = max(values)
    exps = [math.exp(v - top) for v in values]
    return [e / sum(exps) for e in exps]


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
            weight = softmax([float(logit[k]) for logit in logits])
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
