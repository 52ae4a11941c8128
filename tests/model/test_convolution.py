"""Caser's convolutions say what RecBole's do: same outputs, gradients and names of weights."""

import copy

import pytest
import torch
from recbole.model.sequential_recommender.caser import Caser

from recbole_eimf.experiment import assembly
from recbole_eimf.model.backbones.convolution import flatten_convolutions


class Network(torch.nn.Module):
    """RecBole's Caser without a data set."""

    forward = Caser.forward

    def __init__(self, length, width=6, horizontal=3, vertical=2):
        super().__init__()
        nn = torch.nn
        self.n_h, self.n_v, self.fc1_dim_v = horizontal, vertical, vertical * width
        self.item_embedding = nn.Embedding(9, width, padding_idx=0)
        self.user_embedding = nn.Embedding(5, width)
        self.conv_v = nn.Conv2d(1, vertical, (length, 1))
        self.conv_h = nn.ModuleList(nn.Conv2d(1, horizontal, (h, width)) for h in range(1, length + 1))
        self.fc1 = nn.Linear(vertical * width + horizontal * length, width)
        self.fc2 = nn.Linear(2 * width, width)
        self.dropout, self.ac_conv, self.ac_fc = nn.Dropout(0.3), nn.ReLU(), nn.ReLU()


def outcome(network, item_seq):
    torch.manual_seed(3)  # the same dropout
    out = network(torch.arange(len(item_seq)), item_seq)
    (out * torch.arange(out.shape[1])).sum().backward()
    return out, {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("training", [True, False])
def test_they_are_recboles(length, training):
    torch.manual_seed(0)
    stock = Network(length).train(training)
    ours = copy.deepcopy(stock)
    flatten_convolutions(ours)
    item_seq = torch.tensor([[0, 0, 0, 0, 2], [1, 2, 2, 3, 1], [8, 7, 6, 5, 4], [0, 0, 3, 3, 3], [0, 1, 0, 0, 1]])
    expected, of_weights = outcome(stock, item_seq[:, -length:])
    got, gradients = outcome(ours, item_seq[:, -length:])
    assert expected.abs().sum() > 0
    assert torch.allclose(got, expected, atol=1e-6)
    assert gradients.keys() == of_weights.keys() == ours.state_dict().keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, of_weights[name], atol=1e-5), name


def test_the_backbone_has_them(make_config):
    config = make_config("IBIM", backbone="Caser")
    train, _, _ = assembly.loaders(config)
    net = config.model_class(config, train._dataset)
    assert not any(isinstance(module, torch.nn.Conv2d) for module in net.modules())
    assert {"backbone.net.conv_v.weight", "backbone.net.conv_h.0.bias"} <= net.state_dict().keys()
