"""A LiGR layer against its formula, position by position."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_eimf.model.backbones.ligr import LiGRLayer


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
