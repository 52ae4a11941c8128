"""What PAD makes of items that training never saw."""

from __future__ import annotations

import pytest
import torch

from recbole_eimf.experiment import assembly
from tests.conftest import TITLES, planted_sequences, write_atomic
from tests.model.pad.conftest import batch_of


# ---------------------------------------------------------------------- text carries items nobody bought
def test_ids_of_unseen_items_count_nothing_where_the_keys_say_so(built, wide):
    net, train = built(dataset="wide", data_path=str(wide), unseen_ids="none", protocol="user_split", score="dot",
                       split_ratios=[0.1, 0.1, 0.8])  # fmt: skip
    unseen = (train._dataset.item_counts()[1:] == 0).nonzero()[0] + 1
    assert len(unseen) > 3
    net.eval()
    id_tower, text_tower, aligned = net.towers
    before = net.scored_vectors()[unseen].clone()
    with torch.no_grad():
        for tower in (id_tower, aligned):
            tower.table.embedding.weight[unseen] += 1
    net.train().eval()
    assert torch.equal(net.scored_vectors()[unseen], before)
    assert (before[:, :16] == 0).all(), "nothing of the id expert"
    with torch.no_grad():
        text_tower.table.text[unseen] += 1
    net.train().eval()
    assert not torch.equal(net.scored_vectors()[unseen], before)
    assert built(experts="id+id", unseen_ids="none")[0].seen is None, "without text there is nothing else to go by"


@pytest.mark.parametrize("gate", ["frequency", "none"])
def test_the_text_expert_stands_in_for_the_others_where_items_are_unseen(built, wide, gate):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide), "gate": gate}
    net, train = built(dataset="wide", unseen_ids="text", **few)
    as_learned, _ = built(dataset="wide", unseen_ids="learned", **few)
    unseen = torch.from_numpy(train._dataset.item_counts() == 0)
    unseen[0] = False
    batch = batch_of(train, 4)
    total = 3.0
    if gate == "frequency":
        with torch.no_grad():
            net.gate.logit.add_(torch.linspace(-1, 1, net.gate.logit.numel()).view_as(net.gate.logit))
            as_learned.gate.logit.copy_(net.gate.logit)
        total = net.gate(None)[unseen].sum(-1)
    ours, theirs = (m.eval().full_sort_predict(batch) for m in (net, as_learned))
    seen = ~unseen
    seen[0] = False
    assert torch.allclose(ours[:, seen], theirs[:, seen], atol=1e-5)
    text = net.towers[1]
    by_text = text.states(batch["item_id_list"], batch["item_length"]) @ text.vectors(None).T
    assert torch.allclose(ours[:, unseen], by_text[:, unseen] * total, atol=1e-4)
    assert not torch.allclose(ours[:, unseen], theirs[:, unseen], atol=0.1)
    batch["item_id"][:] = int(unseen.nonzero()[0])
    assert torch.allclose(net.predict(batch), ours[:, batch["item_id"][0]], atol=1e-5)


@pytest.mark.parametrize("unseen_ids", ["none", "text"])
@pytest.mark.parametrize("gate", ["frequency", "none"])
def test_what_each_expert_counts_of_an_item_that_training_never_saw(built, wide, unseen_ids, gate):
    """``none``: all but the id expert as the gate has them; ``text``: two text experts share what all three have."""
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide), "gate": gate}
    net, train = built(dataset="wide", experts="id+text+text", unseen_ids=unseen_ids, **few)
    if gate == "frequency":
        torch.nn.init.normal_(net.gate.logit)
    opened = net.gate() if gate == "frequency" else torch.ones(net.n_items, 3)
    found = net._weights(None)
    for item, count in enumerate(train._dataset.item_counts().tolist()):
        own = opened[item].tolist()
        if not count:
            half = sum(own) / 2
            own = [0, own[1], own[2]] if unseen_ids == "none" else [0, half, half]
        assert found[item].tolist() == pytest.approx(own, abs=1e-6)
    assert torch.equal(net._weights(torch.tensor([3, 9])), found[[3, 9]])


def test_without_a_text_expert_ids_of_unseen_items_stay_what_they_are(built, wide):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide), "experts": "id+aligned"}
    scores = []
    for choice in ("learned", "text"):
        net, train = built(dataset="wide", unseen_ids=choice, **few)
        scores.append(net.eval().full_sort_predict(batch_of(train, 4)))
    assert torch.equal(*scores)


def test_the_offset_of_unseen_items_is_in_the_inner_product(built, wide):
    few = {"protocol": "user_split", "split_ratios": [0.1, 0.1, 0.8], "data_path": str(wide)}
    scores = []
    for offset in (0.0, 1.5):
        net, train = built("Hybrid", "wide", unseen_offset=offset, **few)
        batch = batch_of(train, 4)
        scores.append(net.eval().full_sort_predict(batch)[:, 1:])
        batch["item_id"][:] = 7
        assert torch.allclose(net.predict(batch), scores[-1][:, 6], atol=1e-5)
    unseen = torch.from_numpy(train._dataset.item_counts()[1:] == 0)
    assert torch.allclose(scores[0][:, ~unseen], scores[1][:, ~unseen], atol=1e-6)
    assert torch.allclose(scores[0][:, unseen] - 1.5, scores[1][:, unseen], atol=1e-5)


@pytest.mark.parametrize("model", ["PAD", "MoRec"])
def test_an_item_without_training_interactions_is_ranked_by_its_text(make_config, tmp_path, model):
    """Item 10 has the words of the nail cycle, item 11 those of the hair cycle; nobody ever had either."""
    sequences = [[item for item in s if item < 5] * 2 for s in planted_sequences(150)]  # nail users only
    sequences += [[item for item in s if item >= 5] * 2 for s in planted_sequences(150, seed=1)]
    sequences = [s for s in sequences if len(s) >= 4]
    held_out = [[0, 1, 2, 3, 4, 0, 1, 10], [5, 6, 7, 8, 9, 5, 6, 11]]  # the test target of two users
    titles = [*TITLES, "nail polish", "hair shampoo"]
    write_atomic(tmp_path, "unseen", sequences + held_out, titles)
    keys = {"data_path": str(tmp_path), "backbone": "SASRec", "hidden_dropout_prob": 0.1, "text_whitening": "none"}
    keys["unseen_ids"] = "none"
    config = make_config(model, "unseen", **keys)
    train = assembly.loaders(config)[0]
    torch.manual_seed(0)
    net = config.model_class(config, train._dataset).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
    for _ in range(15):
        for batch in train:
            optimiser.zero_grad()
            net.calculate_loss(batch).backward()
            optimiser.step()
    net.eval()
    ids = train._dataset.field2token_id["item_id"]
    nail, hair = ids["i10"], ids["i11"]
    assert train._dataset.item_counts()[[nail, hair]].tolist() == [0, 0]
    text_tower = next(tower for tower in net.towers if tower.kind == "text")
    for history, near, far in (([0, 1, 2], nail, hair), ([5, 6, 7], hair, nail)):
        sequence = torch.tensor([[ids[f"i{i}"] for i in history]])
        length = torch.tensor([len(history)])
        states = net.interests(sequence, length)[0, 0]
        scores = net.scored_vectors() @ states
        assert scores[near] > scores[far]
        by_text = text_tower.vectors() @ text_tower.states(sequence, length)[0]
        assert by_text[near] > by_text[far]
