"""Soft labels against loops over items, and their place in the recommendation loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recbole_eimf.config.keys import EIMFSettings
from recbole_eimf.experiment import assembly
from recbole_eimf.model.losses.soft_label import SoftLabels

N, C, M, D_TEXT, D, P = 14, 3, 4, 6, 5, 9


@pytest.fixture
def parts():
    torch.manual_seed(1)
    text, interests = torch.randn(N, D_TEXT).double(), torch.randn(C, M, D_TEXT).double()
    has_text = torch.ones(N, dtype=torch.bool)
    has_text[[0, 5]] = False
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    return text * has_text[:, None], has_text, interests, mask


def unit(vector):
    return vector / np.linalg.norm(vector)


def label_by_hand(parts, settings, target, exemplar):
    """The label of one target as N shares, from the formula in the module's docstring."""
    text, has_text, interests, mask = (part.numpy() for part in parts)
    known = np.flatnonzero(has_text).tolist()
    mean = np.mean([unit(text[i]) for i in known], axis=0)
    centred = {i: unit(unit(text[i]) - mean) for i in known}

    def spread(similar, count):
        best = sorted(similar, key=lambda i: -similar[i])[:count]
        total = sum(math.exp(similar[i] / settings.label_temperature) for i in best)
        return {i: math.exp(similar[i] / settings.label_temperature) / total for i in best}

    label = np.zeros(len(text))
    label[target] = 1.0
    if exemplar >= 0:
        wanted = [unit(unit(interests[exemplar, m]) - mean) for m in np.flatnonzero(mask[exemplar])]
        similar = {i: max(float(w @ centred[i]) for w in wanted) for i in known}
        label[target] -= settings.interest_labels
        for item, share in spread(similar, settings.label_items).items():
            label[item] += settings.interest_labels * share
    if has_text[target]:
        similar = {i: float(centred[target] @ centred[i]) for i in known if i != target}
        label[target] -= settings.text_labels
        for item, share in spread(similar, settings.text_label_items).items():
            label[item] += settings.text_labels * share
    return label


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.2), (0.3, 0.0), (0.0, 0.2)])
@pytest.mark.parametrize("items", [3, 500])
def test_scores_are_means_under_the_label(parts, a, b, items):
    settings = EIMFSettings(
        interest_labels=a, text_labels=b, label_items=items, text_label_items=2, label_temperature=0.3
    )
    labels = SoftLabels(*parts, settings)
    readout, table = torch.randn(P, D).double(), torch.randn(N, D).double()
    target = torch.tensor([1, 2, 3, 5, 5, 7, 8, 13, 2])
    exemplar = torch.tensor([0, 1, 2, -1, 1, -1, 0, 2, 0])
    got = labels((readout * table[target]).sum(-1), readout, table, target, exemplar)
    for p in range(P):
        label = label_by_hand(parts, settings, int(target[p]), int(exemplar[p]))
        assert abs(label.sum() - 1) < 1e-12
        assert float(got[p]) == pytest.approx(float(readout[p] @ (torch.from_numpy(label) @ table)), abs=1e-9)


def test_rows_taken_in_pieces_are_the_same(parts, monkeypatch):
    settings = EIMFSettings(interest_labels=0.3, text_labels=0.2, text_label_items=4)
    whole = SoftLabels(*parts, settings)
    monkeypatch.setattr("recbole_eimf.model.losses.soft_label._ROWS_AT_ONCE", 4)
    pieces = SoftLabels(*parts, settings)
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(buffer, dict(pieces.named_buffers())[name], msg=name)


@pytest.mark.parametrize("backbone", ["SASRec", "BERT4Rec", "REMI"])
@pytest.mark.parametrize("negatives", [0, 5])
def test_the_loss_is_the_cross_entropy_of_the_label(make_config, backbone, negatives):
    """Against the [P, N] table of labels, for plain softmax, item bias, REMI's weights and drawn negatives."""
    torch.manual_seed(0)
    keys = {
        "interest_labels": 0.3,
        "text_labels": 0.2,
        "gamma": 0.0,
        "hidden_dropout_prob": 0.0,
        "num_negatives": negatives,
    }
    config = make_config("EIMF", backbone=backbone, attn_dropout_prob=0.0, routing_weight=0.0, **keys)
    train, _, _ = assembly.loaders(config)
    net = config.model_class(config, train._dataset).double()
    batch = train._dataset.rows(np.arange(8))

    torch.manual_seed(3)
    got = float(net.calculate_loss(batch)[0])
    torch.manual_seed(3)
    with torch.no_grad():
        states, vectors, readout = net._forward(batch)
        bias = net.backbone.item_bias
        scores = readout @ vectors.T + (0 if bias is None else bias)
        esim = net.esim
        esim_parts = [part.double() if part.is_floating_point() else part
                      for part in (esim.item_text, esim.item_has_text, esim.interests, esim.interest_mask)]  # fmt: skip
        exemplar = esim.user_exemplar[batch["user_id"][states.row]]
        drawn = torch.randint(1, net.n_items, (negatives,)) if negatives else torch.arange(1, net.n_items)
        beta = net.backbone.hard_negative_beta or 0.0
        losses = []
        for p, target in enumerate(states.target.tolist()):
            others = [int(j) for j in drawn if j != target]
            correction = math.log((net.n_items - 1) / negatives) if negatives else 0.0
            raw = [float(scores[p, j]) + correction for j in others]
            weight = np.exp(beta * np.array(raw))
            weight = weight / weight.mean()
            if negatives and beta:  # the mean is one over all negatives, of which these are a sample
                weight *= (net.n_items - 2) / (len(others) * math.exp(correction))
            partition = math.exp(float(scores[p, target])) + float((weight * np.exp(raw)).sum())
            label = torch.from_numpy(label_by_hand(esim_parts, net.eimf, target, int(exemplar[p])))
            losses.append(math.log(partition) - float(scores[p].double() @ label))
        expected = np.mean(losses) * float(net.batch_weight(batch))
    assert got == pytest.approx(expected, rel=1e-6)


def test_shares_of_a_label_add_up(make_config, planted_knowledge):
    """What interests and texts give to other items, and what an LLM says is bought next, leave the target the rest."""
    known = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "next_labels": 0.3}
    config = make_config("EIMF", backbone="SASRec", interest_labels=0.2, text_labels=0.1, **known)
    train = assembly.loaders(config)[0]._dataset
    net = config.model_class(config, train).double().eval()
    batch = train.rows(np.arange(6))
    with torch.no_grad():
        states, vectors, readout = net._forward(batch)
        positive = (readout * vectors[states.target]).sum(1)
        given = (positive, states, vectors, readout, batch)
        both = net._labelled_score(*given)
        next_labels, net.next_labels = net.next_labels, None
        own = net._labelled_score(*given)
        net.next_labels, net.labels = next_labels, None
        told = net._labelled_score(*given)
    assert (own != positive).any()
    assert (told != positive).any()
    assert torch.allclose(both - positive, (own - positive) + (told - positive), atol=1e-9)


def test_labels_are_made_again_not_saved(parts):
    labels = SoftLabels(*parts, EIMFSettings(interest_labels=0.3, text_labels=0.2))
    assert dict(labels.named_buffers())
    assert not labels.state_dict()


def test_paper_form_has_plain_labels(make_config):
    config = make_config("EIMF", backbone="ComiRecSA", interest_labels=0.0, text_labels=0.0)
    train, _, _ = assembly.loaders(config)
    assert config.model_class(config, train._dataset).labels is None
