"""What every model of ours must do, whatever its backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_eimf.config.models import BACKBONES, MODELS, load_model_class
from recbole_eimf.data.dataset import TARGET_LIST
from recbole_eimf.experiment import assembly
from recbole_eimf.model.backbones.backbone import Backbone, backbone_class
from recbole_eimf.model.backbones.multi_interest import MultiInterestBackbone
from recbole_eimf.model.base import SequenceModel
from tests.conftest import write_atomic


def cases(*families):
    """(model, backbone) of every case that a card asks to have tested."""
    return [(card.name, name) for card in MODELS.values() if card.family in families for name in card.contract]


NEURAL, COUNTING = cases("eimf", "text"), cases("floor", "text floor", "knowledge floor")
TOWERS = cases("pad")
TEXT_KEYS = [{}, {"item_text": "add", "score": "cosine"}, {"item_text": "concat", "item_init": "pca_text"}]


def test_every_card_tells_the_truth_about_its_class():
    for card in MODELS.values():
        model_class = load_model_class(card.name)
        assert issubclass(model_class, SequenceModel)
        assert model_class.__name__ == card.name
        assert model_class.counting == card.family.endswith("floor")  # text floors count texts
        assert model_class.fixed_backbone == card.fixed_backbone
        assert model_class.takes_backbone == bool(card.backbones)
        assert card.help
        # a family whose cases are not tested above is IBIM with one backbone, which are
        assert (card.name, card.contract[0]) in NEURAL + COUNTING + TOWERS or card.fixed_backbone in BACKBONES
    for card in BACKBONES.values():
        assert issubclass(backbone_class(card.name), Backbone)
        assert backbone_class(card.name).fits_towers == card.towers


def test_a_model_without_its_three_methods_is_none(built):
    class Half(SequenceModel):
        def predict(self, interaction):
            return None

    with pytest.raises(TypeError, match="abstract.*calculate_loss.*full_sort_predict"):
        Half({}, None)


def fitting(model, keys):
    """The keys for a model: one of towers joins text by ``fusion``."""
    if model == "LLMESR":  # its views say how text joins ids
        return {key: value for key, value in keys.items() if key not in ("item_text", "item_init")}
    towers = (model in {name for name, _ in TOWERS}) and "item_text" in keys
    return {"fusion" if towers and key == "item_text" else key: value for key, value in keys.items()}


@pytest.fixture
def built(make_config):
    def make(model, backbone, **keys):
        torch.manual_seed(0)
        keys = fitting(model, keys)
        config = make_config(model, **({"backbone": backbone} if backbone else {}), **keys)
        loaders = assembly.loaders(config)
        return config, config.model_class(config, loaders[0]._dataset), loaders

    return make


@pytest.fixture(scope="module")
def asked():
    """The models of ``answering``, by model and backbone."""
    return {}


@pytest.fixture
def answering(built, asked):
    """``answering(model, backbone)``: a model that is asked and never trained, the same for every test."""

    def make(model, backbone):
        if (model, backbone) not in asked:
            asked[model, backbone] = built(model, backbone)[1].eval()
        return asked[model, backbone]

    return make


def rows(sequences, width=None):
    width = width or max(map(len, sequences))
    table = torch.zeros(len(sequences), width, dtype=torch.long)
    for r, sequence in enumerate(sequences):
        table[r, : len(sequence)] = torch.tensor(sequence)
    return Interaction(
        {"user_id": torch.ones(len(sequences), dtype=torch.long), "item_id_list": table,
         "item_length": torch.tensor([len(s) for s in sequences]), "item_id": torch.ones(len(sequences)).long()}
    )  # fmt: skip


SEQUENCES = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 1, 2], [3, 3]]


@pytest.mark.parametrize(("model", "backbone"), NEURAL + COUNTING + TOWERS)
class TestEveryModel:
    def test_scores_every_item_of_every_row(self, answering, model, backbone):
        net = answering(model, backbone)
        scores = net.full_sort_predict(rows(SEQUENCES))
        assert scores.shape == (4, net.n_items)
        assert torch.isfinite(scores).all()

    def test_predict_agrees_with_full_scores(self, answering, model, backbone):
        net = answering(model, backbone)
        batch = rows(SEQUENCES)
        scores = net.full_sort_predict(batch)
        for item in (1, 4, 10):
            batch.update(Interaction({"item_id": torch.full((4,), item)}))
            assert torch.allclose(net.predict(batch), scores[:, item], atol=1e-5)

    def test_one_row_alone_scores_as_in_a_batch_and_padding_changes_nothing(self, answering, model, backbone):
        net = answering(model, backbone)
        together = net.full_sort_predict(rows(SEQUENCES))
        for r, sequence in enumerate(SEQUENCES):
            assert torch.allclose(net.full_sort_predict(rows([sequence]))[0], together[r], atol=1e-5)
        assert torch.allclose(net.full_sort_predict(rows(SEQUENCES[:2], width=8)), together[:2], atol=1e-5)

    def test_inference_is_deterministic(self, answering, model, backbone):
        net = answering(model, backbone)
        assert torch.equal(net.full_sort_predict(rows(SEQUENCES)), net.full_sort_predict(rows(SEQUENCES)))


@pytest.mark.parametrize(("model", "backbone"), NEURAL + TOWERS)
class TestEveryTrainedModel:
    def test_interests_have_the_shape_of_the_contract(self, built, model, backbone):
        config, net, _ = built(model, backbone)
        many = issubclass(backbone_class(backbone), MultiInterestBackbone)
        batch = rows(SEQUENCES)
        interests = net.eval().interests(batch["item_id_list"], batch["item_length"])
        towers = 2 if model == "LLMESR" else len(getattr(net, "towers", "1"))  # side by side, as are two views
        assert interests.shape == (4, config["interest_num"] if many else 1, 16 * towers)

    def test_training_lowers_the_loss(self, built, model, backbone):
        _, net, (train, _, _) = built(model, backbone, train_batch_size=16, hidden_dropout_prob=0.0)
        net.train()
        # RecBole's post-norm BERT4Rec stands still at a higher rate
        optimiser = torch.optim.Adam(net.parameters(), lr=0.003 if backbone == "BERT4Rec" else 0.01)
        torch.manual_seed(0)

        def epoch():
            total = 0.0
            for batch in train:
                losses = net.calculate_loss(batch)
                loss = sum(losses) if isinstance(losses, tuple) else losses
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(loss.detach())
            return total / len(train)

        first = epoch()
        # a cloze task of ten items gives little to learn from per epoch; the first epoch that shows it is enough
        assert any(epoch() < first - 0.05 for _ in range(40 if backbone == "BERT4Rec" else 8))

    def test_every_parameter_learns(self, built, model, backbone):
        _, net, (train, _, _) = built(model, backbone, item_text="add")
        net.train()
        if model == "ProfileDistillation":  # its decoder learns in the first phase
            net.distilling = True
        losses = net.calculate_loss(next(iter(train)))
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
        idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert idle == []

    @pytest.mark.parametrize("keys", TEXT_KEYS)
    def test_a_checkpoint_scores_without_any_side_file(self, built, make_config, model, backbone, keys):
        _, net, (train, _, _) = built(model, backbone, **keys)
        net.train()
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        losses = net.calculate_loss(next(iter(train)))
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
        optimiser.step()  # untrained text projections would not show a wrong fold
        net.eval()
        expected = net.full_sort_predict(rows(SEQUENCES))
        state = {name: value.clone() for name, value in net.state_dict().items()}
        assert not any("item_text" in name or name.endswith(".text") or "esim.interests" in name for name in state)

        config = make_config(
            model, backbone=backbone, inference_only=True, text_fields=["nothing_there"], **fitting(model, keys)
        )
        bare_data = assembly.loaders(config)[0]._dataset
        assert bare_data.side is None
        served = config.model_class(config, bare_data)
        served.load_state_dict(state)
        assert torch.allclose(served.eval().full_sort_predict(rows(SEQUENCES)), expected, atol=1e-6)

    def test_a_saved_state_goes_back_into_a_training_model(self, built, model, backbone):
        _, net, _ = built(model, backbone, item_text="concat")
        state = net.state_dict()
        _, other, _ = built(model, backbone, item_text="concat", seed=1)
        other.load_state_dict(state)
        got, expected = (m.eval().full_sort_predict(rows(SEQUENCES)) for m in (other, net))
        assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec", "DNN", "LiGR", "DualSASRec", "DualGRU4Rec"])
def test_a_causal_backbone_sees_no_future(built, backbone):
    _, net, _ = built("IBIM", backbone)
    net.eval()
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 9, 7]])
    a, b = net.backbone.positions(one), net.backbone.positions(other)
    assert torch.allclose(a[:, :2], b[:, :2], atol=1e-6)
    assert not torch.allclose(a[:, 2:], b[:, 2:], atol=1e-3)


def test_wrapped_sasrec_is_recboles_sasrec(built, make_config):
    """The wrapper changes the rows and the table, not the network: same weights, same scores as RecBole's class."""
    from recbole.model.sequential_recommender.sasrec import SASRec

    config, net, (train, _, _) = built("IBIM", "SASRec", score="dot")
    torch.manual_seed(1)
    stock = SASRec(config, train._dataset)
    state = {k.removeprefix("backbone.net."): v for k, v in net.state_dict().items()}
    state["item_embedding.weight"] = state.pop("item_embedding.embedding.weight")
    stock.load_state_dict(state)
    batch = rows(SEQUENCES, width=8)
    assert torch.allclose(stock.eval().full_sort_predict(batch), net.eval().full_sort_predict(batch), atol=1e-5)


def test_wrapped_caser_is_recboles_caser_without_users(built):
    """Same weights, rows flush right and no user: the same scores as RecBole's class."""
    from recbole.model.sequential_recommender.caser import Caser

    config, net, (train, _, _) = built("IBIM", "Caser", score="dot")
    stock = Caser(config, train._dataset)
    state = {k.removeprefix("backbone.net."): v for k, v in net.state_dict().items()}
    state["item_embedding.weight"] = state.pop("item_embedding.embedding.weight")
    state["user_embedding.weight"] = torch.zeros_like(stock.user_embedding.weight)
    state["fc2.weight"] = torch.cat([state["fc2.weight"], torch.randn(16, 16)], 1)
    stock.load_state_dict(state)
    flush_right = rows([[0] * (8 - len(s)) + s for s in SEQUENCES])
    got = net.eval().full_sort_predict(rows(SEQUENCES))
    assert torch.allclose(stock.eval().full_sort_predict(flush_right), got, atol=1e-5)


def test_bert4rec_keeps_the_oldest_item_of_a_short_sequence(built):
    """RecBole's own evaluation drops the first item of every sequence to make room for the mask token."""
    _, net, _ = built("IBIM", "BERT4Rec")
    masked, position = net.backbone._append_mask(rows(SEQUENCES, width=8)["item_id_list"], torch.tensor([3, 1, 8, 2]))
    mask = net.backbone.mask_token
    assert masked[0, :4].tolist() == [1, 2, 3, mask]
    assert position.tolist() == [3, 1, 7, 2]
    assert masked[2].tolist() == [6, 7, 8, 9, 10, 1, 2, mask]


@pytest.mark.parametrize("backbone", ["ComiRecSA", "ComiRecDR", "MIND", "REMI"])
def test_multi_interest_model_ranks_both_planted_interests(built, tmp_path, backbone):
    """Users buy from two of six groups of items: items of both groups must be on top, not of one of them."""
    rng = np.random.default_rng(0)
    groups = np.arange(30).reshape(6, 5)
    sequences = []
    for _ in range(300):
        two = rng.permutation(6)[:2]
        sequences.append([int(rng.choice(groups[rng.choice(two)])) for _ in range(10)])
    write_atomic(tmp_path, "groups", sequences)
    torch.manual_seed(0)
    keys = {"interest_num": 2, "hidden_dropout_prob": 0.1, "visits_per_epoch": 4, "MAX_ITEM_LIST_LENGTH": 10}
    _, net, (train, _, _) = built("IBIM", backbone, dataset="groups", data_path=str(tmp_path), **keys)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    net.train()
    for _ in range(25):
        for batch in train:
            optimiser.zero_grad()
            net.calculate_loss(batch).backward()
            optimiser.step()
    net.eval()
    token = train._dataset.field2token_id["item_id"]
    shares = []
    for one in range(6):
        for other in range(one + 1, 6):
            history = [token[f"i{groups[g, j]}"] for j in range(2) for g in (one, other)]
            top = set(net.full_sort_predict(rows([history]))[0].topk(10).indices.tolist())
            found = [len({token[f"i{i}"] for i in groups[g]} & top) / 5 for g in (one, other)]
            shares.append(min(found))  # the interest that is served worse
    assert np.mean(shares) > 0.8


@pytest.mark.parametrize("model", ["IBIM", "PAD"])
def test_every_target_of_an_epoch_weighs_the_same(built, model):
    """Windows overlap, so that a row's targets are not its items; batches hold rows of like length, as in training."""
    _, net, (train, _, _) = built(model, "SASRec", MAX_ITEM_LIST_LENGTH=5)
    view = train._dataset.view
    assert (view.targets < view.size).any()
    order = np.argsort(view.size, kind="stable")
    batches = [train._dataset.rows(rows) for rows in np.array_split(order, 4)]
    targets = [int((batch[TARGET_LIST] != 0).sum()) for batch in batches]
    assert len(set(targets)) > 1
    of_a_target = [
        float(net.batch_weight(batch)) * len(batch) / count for batch, count in zip(batches, targets, strict=True)
    ]
    assert of_a_target == pytest.approx([len(view) / sum(targets)] * 4)


@pytest.mark.parametrize(("model", "backbone"), [("IBIM", "ComiRecSA"), ("IBIM", "SASRec"), ("PAD", "SASRec")])
def test_cosine_scores_are_scaled_cosines_in_training_and_serving(built, model, backbone):
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "fusion_dropout": 0.0}
    _, net, (train, _, _) = built(model, backbone, score="cosine", score_scale=7.0, **still)
    parts = [(part.backbone, part.backbone.item_embedding) for part in getattr(net, "towers", [net])]

    def cosines(states, table):  # [R, K, d], the closest of K interests
        unit = states / states.norm(dim=-1, keepdim=True)
        items = table.weight[1 : net.n_items]
        return (unit @ (items / items.norm(dim=-1, keepdim=True)).T).amax(1)

    def expected(states):  # the experts' sum, weighted by the candidate
        weight = net.gate()[1:].T if model == "PAD" else torch.ones(1, 1)
        each = [cosines(found, table) for found, (_, table) in zip(states, parts)]
        return 7.0 * sum(w * scores for w, scores in zip(weight, each))

    batch = rows(SEQUENCES)
    with torch.no_grad():
        net.eval()
        got = net.full_sort_predict(batch)[:, 1:]
        states = [backbone.interests(batch["item_id_list"], batch["item_length"]) for backbone, _ in parts]
        assert torch.allclose(got, expected(states), atol=1e-4)
        assert got.abs().max() > 1

        net.train()
        batch = train._dataset.rows(np.arange(10))
        asked = [backbone.training_states(batch) for backbone, _ in parts]
        if asked[0].interests.shape[1] > 1:  # a hard readout: the interest closest to the target
            items = parts[0][1].weight[asked[0].target]
            best = torch.einsum("pkd,pd->pk", torch.nn.functional.normalize(asked[0].interests, dim=-1), items).argmax(
                1
            )
            asked = [asked[0]._replace(interests=asked[0].interests[torch.arange(len(best)), best][:, None])]
        scores = expected([found.interests for found in asked])
        loss = torch.nn.functional.cross_entropy(scores, asked[0].target - 1) * net.batch_weight(batch)
        assert float(net.calculate_loss(batch)) == pytest.approx(float(loss), rel=1e-4)
