"""What RecBole's networks are asked to predict, where a network alone does not show it."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from recbole_eimf.experiment import assembly


@pytest.mark.parametrize("length", [3, 5, 8])
def test_bert4rec_asks_for_every_item_of_a_user_in_one_window_only(make_config, length):
    """Windows overlap: an item that is context in one and a target in another would otherwise count twice."""
    config = make_config("IBIM", backbone="BERT4Rec", MAX_ITEM_LIST_LENGTH=length, mask_ratio=1.0)
    train = assembly.loaders(config)[0]._dataset
    net = config.model_class(config, train).train()
    asked = defaultdict(Counter)
    for place in range(len(train)):
        batch = train.rows(np.array([place]))
        states = net.backbone.training_states(batch)
        asked[int(batch["user_id"][0])].update(states.target.tolist())
    users, histories = train.sequences()
    assert max(map(len, histories)) > length
    for user, history in zip(users.tolist(), histories):
        # the first item has nothing before it, and may have given its place to the mask token
        assert Counter(history[1:].tolist()) <= asked[user] <= Counter(history.tolist())


def test_bert4rec_hides_what_it_asks_for_and_nothing_else(make_config):
    """Cloze (Sun et al. 2019, eq. 7): the targets' inputs are the mask token, all others are the items themselves."""
    config = make_config("IBIM", backbone="BERT4Rec", mask_ratio=0.4)
    train = assembly.loaders(config)[0]._dataset
    net = config.model_class(config, train).train()
    backbone, seen = net.backbone, []
    forward = backbone.net.forward
    backbone.net.forward = lambda sequence: seen.append(sequence) or forward(sequence)
    torch.manual_seed(0)
    batch = train.rows(np.arange(60))
    states = backbone.training_states(batch)
    (shown,) = seen
    hidden = shown == backbone.mask_token
    assert (hidden.sum(1) >= 1).all(), "every row predicts something"
    assert states.row.tolist() == hidden.nonzero()[:, 0].tolist()
    users, histories = train.sequences()
    history_of = dict(zip(users.tolist(), histories))
    for r in range(60):
        length = int((shown[r] != 0).sum())
        filled = shown[r, :length].clone()
        filled[hidden[r, :length]] = states.target[states.row == r]
        whole = history_of[int(batch["user_id"][r])].tolist()
        windows = [whole[i : i + length] for i in range(len(whole) - length + 1)]
        assert filled.tolist() in windows
    assert 0.3 < hidden.sum() / (shown != 0).sum() < 0.5
    last = (shown != 0).sum(1) - 1
    others = hidden.clone()
    others[torch.arange(60), last] = False
    drawn = others.any(1)  # the last item is hidden of itself only where the draw hid nothing
    assert 0.1 < hidden[torch.arange(60), last][drawn].double().mean() < 0.7
