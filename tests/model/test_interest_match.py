"""Interests of users that are matched to item profiles while titles stay the text of items."""

from __future__ import annotations

import pytest
import torch

from recbole_eimf.experiment import assembly
from tests.model.test_eimf import explicit_by_hand


@pytest.fixture
def built(make_config, planted_knowledge):
    def make(**keys):
        torch.manual_seed(0)
        told = {"recipe": "paper", "exemplar_ratio": 0.03, "knowledge_source": "file"}
        config = make_config("EIMF", backbone="SASRec", knowledge_file=str(planted_knowledge), **{**told, **keys})
        train = assembly.loaders(config)[0]._dataset
        return config.model_class(config, train).double(), train.side

    return make


def test_profiles_are_matched_and_titles_aligned(built):
    net, side = built(interest_match="profile")
    _, profiles = built(item_text_source="profile")
    _, titles = built()
    assert torch.equal(side.match_text, profiles.item_text)
    assert torch.equal(side.item_text, titles.item_text)
    assert titles.match_text is None
    assert not torch.equal(side.match_text, side.item_text)
    user, target = torch.tensor([3, 5, 9]), torch.tensor([2, 7, 4])
    found = net.esim(user, target)
    net.esim.item_text = net.esim.match_text  # the loop reads the matched text from there
    for row, (u, t) in enumerate(zip(user.tolist(), target.tolist())):
        torch.testing.assert_close(found[row], explicit_by_hand(net, u, t))


def test_the_semantic_prediction_is_of_profiles_and_the_alignment_of_titles(built):
    net, side = built(interest_match="profile")
    weight = net.esim.projection.weight
    torch.testing.assert_close(net._text_vectors(slice(None)), side.match_text.double() @ weight.T)
    items, aligned = torch.tensor([2, 4, 7]), []
    net._aligned = lambda first, second, **_: aligned.append(first) or first.sum()
    net._item_alignment(None, items)
    torch.testing.assert_close(aligned[0], side.item_text[items].double() @ weight.T)


def test_the_placebo_matches_profiles_of_other_items(built):
    _, real = built(interest_match="profile")
    _, other = built(interest_match="profile", knowledge_source="shuffled")
    assert torch.equal(real.item_text, other.item_text)
    assert not torch.equal(real.match_text, other.match_text)
