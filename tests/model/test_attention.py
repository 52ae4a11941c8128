"""FusedAttention is RecBole's attention: same weights, draws, outputs and gradients at every real position."""

import copy

import pytest
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.layers import TransformerEncoder

from recbole_eimf.model.backbones.attention import fuse_attention

LENGTHS = torch.tensor([7, 1, 4, 9])


class Network(torch.nn.Module):
    """What RecBole's SASRec and BERT4Rec do between the item vectors and the readout."""

    def __init__(self):
        super().__init__()
        self.trm_encoder = TransformerEncoder(2, 2, 16, 32, 0.2, 0.3, "gelu", 1e-12)

    get_attention_mask = SequentialRecommender.get_attention_mask

    def forward(self, states, item_seq, causal):
        return self.trm_encoder(states, self.get_attention_mask(item_seq, bidirectional=not causal))[-1]


@pytest.fixture
def networks():
    torch.manual_seed(0)
    stock = Network()
    for p in stock.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return stock, copy.deepcopy(stock)


def real_outputs(network, causal, seed):
    torch.manual_seed(1)
    item_seq = (torch.arange(10) < LENGTHS[:, None]).long()
    states = torch.randn(4, 10, 16, requires_grad=True)
    torch.manual_seed(seed)
    out = network(states, item_seq, causal)[item_seq.bool()]
    out.square().sum().backward()
    return out, states.grad, {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_recboles_attention(networks, causal, training):
    stock, fused = networks
    fuse_attention(fused, causal)
    expected, of_states, of_weights = real_outputs(stock.train(training), causal, 5)
    got, states_gradient, gradients = real_outputs(fused.train(training), causal, 5)
    assert torch.allclose(got, expected, atol=1e-4)
    assert torch.allclose(states_gradient, of_states, atol=1e-3, rtol=1e-3)
    assert gradients.keys() == of_weights.keys()  # the names of a checkpoint
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, of_weights[name], atol=1e-3, rtol=1e-3), name


def test_dropout_ends_with_training(networks):
    _, fused = networks
    fuse_attention(fused, True)
    one, other = (real_outputs(fused.train(), True, seed)[0] for seed in (1, 2))
    assert not torch.allclose(one, other, atol=1e-2)
    one, other = (real_outputs(fused.eval(), True, seed)[0] for seed in (1, 2))
    assert torch.equal(one, other)
