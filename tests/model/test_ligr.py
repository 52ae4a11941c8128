"""A LiGR layer against its formula, position by position."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recbole_eimf.model.backbones.ligr import LiGRBackbone, LiGRLayer


def test_a_layer_is_its_formula():
    torch.manual_seed(0)
    layer = LiGRLayer(4, 2, 6, 0.5, 0.5, 1e-12).double().eval()
    states = torch.randn(1, 5, 4, dtype=torch.float64)
    got = layer(states)[0]
    normed = F.layer_norm(states[0], (4,), eps=1e-12)
    query, key, value = layer.query_key_value(normed).chunk(3, -1)
    for t in range(5):
        heads = []
        for h in (slice(0, 2), slice(2, 4)):
            weight = torch.softmax(torch.stack([query[t, h] @ key[s, h] / 2**0.5 for s in range(t + 1)]), 0)
            heads.append(sum(w * value[s, h] for s, w in enumerate(weight)))
        x = states[0, t]
        x = x + torch.sigmoid(layer.gates[0](x)) * layer.dense(torch.cat(heads))
        n = F.layer_norm(x, (4,), eps=1e-12)
        gated = layer.swish(n) * torch.sigmoid(layer.swish(n)) * layer.linear(n)
        expected = x + torch.sigmoid(layer.gates[1](x)) * layer.out(gated)
        assert torch.allclose(got[t], expected)


@pytest.fixture
def backbone(make_config):
    torch.manual_seed(0)
    config = make_config("LiGR", n_layers=3, n_heads=2, hidden_dropout_prob=0.3, attn_dropout_prob=0.6)
    return LiGRBackbone(config, None, lambda width, extra_rows: nn.Embedding(11, width, padding_idx=0))


def test_a_backbone_is_items_and_places_through_its_layers_and_a_norm(backbone):
    sequence = torch.tensor([[4, 9, 4], [1, 2, 0]])
    backbone.eval()
    nn.init.normal_(backbone.norm.bias)
    for row, items in enumerate(sequence.tolist()):
        vectors, places = backbone.item_embedding.weight, backbone.position.weight
        states = torch.stack([vectors[item] + places[t] for t, item in enumerate(items)])
        for layer in backbone.layers:
            states = layer(states[None])[0]
        centred = states - states.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()
        expected = normed * backbone.norm.weight + backbone.norm.bias
        assert torch.allclose(backbone.positions(sequence)[row], expected, atol=1e-5)
    assert len(backbone.layers) == 3
    assert backbone.position.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_dropout_is_where_the_keys_say(backbone):
    """All dropped out: of the embedding nothing is left, of a layer what it was given, of attention its last bias."""
    backbone.train()
    states = torch.randn(2, 4, 16)
    for layer in backbone.layers:
        assert (layer.dropout.p, layer.attention_dropout) == (0.3, 0.6)
        layer.dropout.p = layer.attention_dropout = 1.0
        assert torch.equal(layer(states), states)
        unseen = layer.query_key_value.bias[32:] * 0
        assert torch.allclose(layer._attended(states), layer.dense(unseen).expand_as(states))
        layer.eval()
        assert not torch.allclose(layer._attended(states), layer.dense(unseen).expand_as(states))
        layer.train()
    assert backbone.dropout.p == 0.3
    backbone.dropout.p = 1.0
    assert torch.equal(backbone.positions(torch.tensor([[1, 2]])), backbone.norm(torch.zeros(1, 2, 16)))
