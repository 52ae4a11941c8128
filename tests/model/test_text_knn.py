"""Floors of text against loops, their weight, and placebos of text and of order."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

import recbole_eimf
from recbole_eimf.config.models import MODELS
from recbole_eimf.experiment import assembly
from recbole_eimf.model.baselines.text_knn import _largest_is_one
from recbole_eimf.semantic.text_placebo import text_vectors
from recbole_eimf.study.rows import parse_model
from tests.model.test_counting import rows


def by_hand(train, sequence, decay):
    """[N] from the definition: centred, unit vectors; each step back counts ``decay`` times less."""
    text, known = train.side.item_text.double().numpy(), train.side.item_has_text.numpy()
    mean = text[known].mean(0)
    unit = [(v - mean) / np.linalg.norm(v - mean) if k else np.zeros_like(mean) for v, k in zip(text, known)]
    return [sum(decay**t * unit[item] @ unit[i] for t, item in enumerate(reversed(sequence))) for i in range(len(unit))]


def test_text_knn_sums_cosines_over_the_history(built):
    net, train = built("TextKNN", knn_decay=0.7)
    sequences = [[1, 5, 2], [3]]
    found = net._scores(rows(sequences))
    for sequence, scores in zip(sequences, found):
        assert scores.tolist() == pytest.approx(by_hand(train, sequence, 0.7), abs=1e-5)


def test_weighed_scores_are_each_divided_by_their_largest(built):
    net, train = built("ItemKNNText", knn_decay=0.7)
    sequences = [[1, 5, 2], [3]]
    net.set_weight(0.0)
    bought = net._scores(rows(sequences))
    net.set_weight(0.3)
    mixed = net._scores(rows(sequences))
    for sequence, one, two in zip(sequences, bought, mixed):
        text = np.array(by_hand(train, sequence, 0.7))
        assert two.tolist() == pytest.approx((0.7 * one.numpy() + 0.3 * text / text.max()).tolist(), abs=1e-5)
    assert bought.amax(1).tolist() == pytest.approx([1, 1])
    assert net.weights == pytest.approx([n / 10 for n in range(11)])


def test_the_largest_is_one_whatever_lies_below_zero():
    found = _largest_is_one(torch.tensor([[2.0, -8.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == [[1.0, -4.0, 0.5], [0.0, 0.0, 0.0]]


def test_validation_chooses_the_weight_and_a_saved_floor_keeps_it(planted, semantic_cache, tmp_path):
    keys = {"data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd",
            "topk": [1, 3, 5], "valid_metric": "NDCG@5", "state": "ERROR", "show_progress": False}  # fmt: skip
    result = recbole_eimf.run("ItemKNNText", "planted", output_dir=str(tmp_path / "out"), **keys)
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    history = history["epochs"] if isinstance(history, dict) else history
    scores = [epoch["valid"]["ndcg@5"] for epoch in history]
    assert len(scores) == 11
    assert scores[result.best_epoch] == max(scores)
    assert len(set(scores)) > 2, "the weight decides"
    _, net, _ = recbole_eimf.load(tmp_path / "out")
    assert net.weight.item() == pytest.approx(result.best_epoch / 10)
    assert recbole_eimf.evaluate(tmp_path / "out") == pytest.approx(result.test)


def test_shuffled_text_is_the_same_vectors_on_other_items():
    vectors = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    shuffled = text_vectors(vectors, "shuffled", 1)
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, vectors))
    assert (shuffled == vectors).all(1).mean() < 0.05
    assert not (text_vectors(vectors, "shuffled", 2) == shuffled).all()
    assert text_vectors(vectors, "real", 1) is vectors


def test_noise_has_mean_and_covariance_and_nothing_else():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(20000, 4)) @ rng.normal(size=(4, 4)) + [3, 0, -1, 2]).astype(np.float32)
    noise = text_vectors(vectors, "noise", 1)
    assert noise.mean(0) == pytest.approx(vectors.mean(0), abs=0.08)
    assert np.cov(noise.T) == pytest.approx(np.cov(vectors.T), abs=0.3)
    assert abs(np.corrcoef(noise[:, 0], vectors[:, 0])[0, 1]) < 0.03


def test_a_placebo_knows_as_little_of_later_items_as_the_real_text():
    """Under one time for all: texts are exchanged within an era, and noise is that of what training knows."""
    rng = np.random.default_rng(0)
    era = rng.integers(0, 3, 600)
    vectors = (rng.normal(size=(600, 3)) + 50 * era[:, None]).astype(np.float32)
    shuffled = text_vectors(vectors, "shuffled", 1, era)
    for one in range(3):
        assert sorted(map(tuple, shuffled[era == one])) == sorted(map(tuple, vectors[era == one]))
    assert (shuffled == vectors).all(1).mean() < 0.05
    assert np.abs(text_vectors(vectors, "noise", 1, era).mean(0)).max() < 0.5
    one_era = np.zeros(600, dtype=np.int64)
    for source in ("shuffled", "noise"):
        assert np.array_equal(text_vectors(vectors, source, 1), text_vectors(vectors, source, 1, one_era))


def test_the_placebo_takes_the_place_of_text_and_clusters_stay(make_config):
    sides = [assembly.datasets(make_config("EIMF", text_source=s))[1][0].side for s in ("real", "shuffled", "noise")]
    real, shuffled, noise = (side.item_text[side.item_has_text] for side in sides)
    assert sorted(map(tuple, real.tolist())) == sorted(map(tuple, shuffled.tolist()))
    assert not torch.equal(real, shuffled)
    assert not torch.equal(real, noise)
    assert torch.equal(sides[0].user_exemplar, sides[1].user_exemplar), "clusters stay those of the real text"
    assert torch.equal(sides[0].interests, sides[1].interests)


#: every way in which a model of ours reads text
READERS = [
    *((card.name, {}) for card in MODELS.values() if card.family in ("pad", "text floor")), ("LLMESR", {}),
    ("EIMF", {}), ("EIMF", {"use_interests": False}), ("LLM2BERT4Rec", {}), ("ItemKNNTextNext", {}),
    *(("IBIM", {"item_text": how, "code_pieces": 5}) for how in ("add", "concat", "null_space", "codes")),
    ("IBIM", {"item_text": "add", "text_adaptor": "moe"}), ("IBIM", {"item_init": "pca_text"}),
    ("IBIM", {"score_prior": "similar"}), ("PAD", {"score_prior": "similar"}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "keys"), READERS)
def test_every_reader_of_text_gets_the_placebo(built, model, keys):
    """What a model takes of text is another thing under a placebo: some tensor of it, or of its first phase."""

    def held(source):
        net, train = built(model, text_source=source, **keys)
        parts = [net, *(phase.model for phase in itertools.islice(net.phases(train), 1))] if net.in_phases else [net]
        tensors = {}
        for number, part in enumerate(parts):
            for name, module in part.named_modules():
                every = {**vars(module), **module._buffers, **module._parameters}
                tensors |= {
                    (number, name, key): value
                    for key, value in every.items()
                    if torch.is_tensor(value) and key != "_text"
                }
        return tensors

    real, *placebos = (held(source) for source in ("real", "shuffled", "noise"))
    for placebo in placebos:
        assert placebo.keys() == real.keys()
        assert any(not torch.equal(real[key], placebo[key]) for key in real)


def test_shuffled_history_moves_histories_and_no_target(make_config):
    parts = [assembly.datasets(make_config("IBIM", shuffled_history=flag))[1] for flag in (False, True)]
    moved = 0
    for plain, other in zip(*parts):
        assert (plain.spans.user == other.spans.user).all()
        for a, b, c in zip(plain.spans.start, plain.spans.middle, plain.spans.end):
            mine, theirs = plain.flat[a:c].tolist(), other.flat[a:c].tolist()
            assert mine[b - a :] == theirs[b - a :]
            assert sorted(mine) == sorted(theirs)
            moved += mine != theirs
    assert moved > 200
    train, source = parts[1][0], parts[0][0]
    for each in train.source_sequences():
        assert [h.tolist() for h in each] == [h.tolist() for h in source.sequences()[1]], "prompts keep the order"


def test_rows_of_placebos():
    row = parse_model("placebo[PAD]")
    assert (row.model, row.keys, row.against) == ("PAD", {"text_source": "shuffled"}, ("PAD",))
    row = parse_model("noise_text[EIMF[SASRec]]")
    assert (row.model, row.keys) == ("EIMF", {"backbone": "SASRec", "text_source": "noise"})
    row = parse_model("shuffled_history[SASRec]")
    assert (row.model, row.keys, row.against) == ("IBIM", {"backbone": "SASRec", "shuffled_history": True}, ("SASRec",))
    assert parse_model("ItemKNN+text").model == "ItemKNNText"
    assert parse_model("placebo[PAD[GRU4Rec]]").against == ("PAD[GRU4Rec]",)
    assert parse_model("placebo[SASRec]").keys["interest_source"] == "shuffled"
    for row, source in (("LLMESR", "text"), ("LLM2BERT4Rec", "text"), ("ItemKNN+text", "text"),
                        ("CTRL[GRU4Rec]", "text"), ("EIMF[REMI]", "interest"),
                        ("ProfileDistillation[REMI]", "interest"), ("ItemKNN+text+next", "knowledge")):  # fmt: skip
        placebo = parse_model(f"placebo[{row}]")
        assert placebo.keys == {**parse_model(row).keys, f"{source}_source": "shuffled"}
        assert (placebo.against, placebo.placebo) == ((row,), True)
