"""``place_unseen=True``: what training never saw stands where its text puts it, in the tested model and in its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import sparse

import recbole_eimf
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly, unseen
from recbole_eimf.model.item_table import ItemTable
from recbole_eimf.model.placing import NEIGHBOURS, TEMPERATURE
from tests.data.test_ties import write
from tests.data.test_time_split import EVENTS

TABLE = "backbone.net.item_embedding."


@pytest.fixture
def keys(tmp_path, semantic_cache):
    return {
        "data_path": str(write(tmp_path / "data", EVENTS)), "semantic_cache": str(semantic_cache), "epochs": 3,
        "MAX_ITEM_LIST_LENGTH": 8, "hidden_size": 16, "inner_size": 32, "topk": [1, 5], "valid_metric": "NDCG@5",
        "protocol": "global_time", "text_encoder": "tfidf-svd", "compare_with": [], "show_progress": False,
        "state": "ERROR", "learning_rate": 0.01,
    }  # fmt: skip


def places_of(text: np.ndarray, counts: np.ndarray) -> dict[int, list[tuple[float, int]]]:
    """Unseen item -> (weight, trained item), by the formula."""
    text = text.astype(np.float16).astype(float)
    has = np.linalg.norm(text, axis=1) > 0
    known, found = np.flatnonzero(has & (counts > 0)), {}
    for item in np.flatnonzero(has & (counts == 0)):
        near = sorted(known, key=lambda j: -(text[j] @ text[item]))[:NEIGHBOURS]
        weight = np.exp([text[j] @ text[item] / TEMPERATURE for j in near])
        found[item] = list(zip(weight / weight.sum(), near))
    return found


def rows_of(table: np.ndarray, text: np.ndarray, counts: np.ndarray) -> dict[int, np.ndarray]:
    """Unseen item -> its row of a table."""
    found = {}
    for item, near in places_of(text, counts).items():
        row = sum(w * table[j] for w, j in near)
        found[item] = row * sum(w * np.linalg.norm(table[j]) for w, j in near) / np.linalg.norm(row)
    return found


@pytest.mark.parametrize("refit", [False, True])
def test_training_stays_and_the_file_holds_what_was_tested(keys, make_config, tmp_path, refit):
    given = {**keys, "refit": refit}
    plain = recbole_eimf.run("IBIM", "baskets", **given, output_dir=str(tmp_path / "plain"))
    found = recbole_eimf.run("IBIM", "baskets", **given, place_unseen=True, output_dir=str(tmp_path / "placed"))
    assert (found.valid, found.best_epoch) == (plain.valid, plain.best_epoch)
    assert plain.slices["unseen"]["targets"] == found.slices["unseen"]["targets"] > 0
    train = assembly.loaders(make_config("IBIM", **given, dataset="baskets", place_unseen=True))[0]._dataset
    train = train.before_test if refit else train
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "placed"))
    ids, folded = old[f"{TABLE}embedding.weight"], new[f"{TABLE}folded"]
    assert np.array_equal(new[f"{TABLE}embedding.weight"], ids)
    wanted = rows_of(ids, train.side.item_text.numpy(), train.item_counts())
    assert wanted
    for item, row in enumerate(folded):
        np.testing.assert_allclose(row, wanted.get(item, ids[item]), atol=1e-5)
    # without text, as it serves; and placed afterwards, in a run that was not
    for folder, more in (("placed", {}), ("plain", {"place_unseen": True}), ("placed", {"place_unseen": True})):
        again = recbole_eimf.evaluate(tmp_path / folder, state="ERROR", **more)
        assert again == pytest.approx(found.test, abs=1e-6)
    assert recbole_eimf.evaluate(tmp_path / "plain", state="ERROR") == pytest.approx(plain.test, abs=1e-6) != again


@pytest.mark.parametrize(
    ("model", "more"),
    [("IBIM", {"backbone": "BERT4Rec"}), ("PAD", {}), ("IBIM", {"item_text": "add"}), ("LLMESR", {})],
)
def test_every_table_and_the_bias_of_items_is_placed(make_config, keys, model, more):
    config = make_config(model, **{**keys, **more}, dataset="baskets", place_unseen=True)
    train = assembly.loaders(config)[0]._dataset
    net = assembly.model(config, train).eval()
    if net.item_bias is not None:
        with torch.no_grad():
            net.item_bias.normal_()
    tables = [module for module in net.modules() if isinstance(module, ItemTable)]
    before = [table.weight.detach().clone().double().numpy() for table in tables]
    bias = None if net.item_bias is None else net.item_bias.detach().clone().numpy()
    text, counts = train.side.item_text.numpy(), train.item_counts()
    assert unseen.place(net, train) == len(rows_of(before[0], text, counts)) > 0
    assert len(tables) == {"PAD": 3}.get(model, 1)
    for table, old in zip(tables, before):
        wanted = rows_of(old, text, counts)
        for item, row in enumerate(table.weight.detach().numpy()):
            np.testing.assert_allclose(row, wanted.get(item, old[item]), atol=1e-5)
    if bias is not None:
        wanted = {item: sum(w * bias[j] for w, j in near) for item, near in places_of(text, counts).items()}
        np.testing.assert_allclose(net.item_bias.detach(), [wanted.get(i, b) for i, b in enumerate(bias)], atol=1e-5)


def test_what_is_counted_of_the_neighbours_counts_for_what_is_placed(make_config, keys):
    config = make_config("IBIM", **keys, dataset="baskets", place_unseen=True, score_prior="similar+together")
    train = assembly.loaders(config)[0]._dataset
    net = assembly.model(config, train)
    old, text, counts = net.prior._matrix("together").toarray(), train.side.item_text.numpy(), train.item_counts()
    unseen.place(net, train)
    rows = {item: np.minimum(row, old.max(0)) for item, row in rows_of(old, text, counts).items()}
    wanted = np.array([rows.get(item, row) for item, row in enumerate(old)])
    columns = {item: np.minimum(row, wanted.max(1)) for item, row in rows_of(wanted.T, text, counts).items()}
    wanted = np.array([columns.get(item, column) for item, column in enumerate(wanted.T)]).T
    assert wanted.any(1).sum() > old.any(1).sum() > 0
    found = net.prior._matrix("together").toarray()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    unseen.place(net, train)  # a run that was placed is placed again by evaluate(run, place_unseen=True)
    assert np.array_equal(net.prior._matrix("together").toarray(), found)


@pytest.mark.parametrize("model", ["DecayedItemKNN", "Markov"])
def test_what_is_counted_anew_for_a_half_life_is_placed_anew(make_config, keys, model):
    found = []
    for half_life in ("chosen", 30.0):
        config = make_config(model, **keys, dataset="baskets", place_unseen=True, recency_half_life=half_life)
        train = assembly.loaders(config)[0]._dataset
        net = assembly.model(config, train)
        bare = net._matrix().toarray()
        unseen.place(net, train)
        if half_life == "chosen":
            net.set_weight(30.0)
        found.append(net._matrix().toarray())
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert (found[1] != bare).any()  # something is placed


@pytest.mark.parametrize("model", ["DecayedItemKNN", "ItemKNNText", "Markov"])
def test_counting_models_count_what_their_neighbours_have(keys, make_config, tmp_path, model):
    plain = recbole_eimf.run(model, "baskets", **keys, output_dir=str(tmp_path / "plain"))
    found = recbole_eimf.run(model, "baskets", **keys, place_unseen=True, output_dir=str(tmp_path / "placed"))
    assert plain.slices["unseen"]["targets"] > 0
    assert plain.valid != found.valid  # they are placed before a weight is chosen
    if model != "ItemKNNText":
        assert assembly.loaders(make_config(model, **keys, dataset="baskets"))[0]._dataset.side is None  # no need of it
    train = assembly.loaders(make_config(model, **keys, dataset="baskets", place_unseen=True))[0]._dataset
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "placed"))
    size = train.item_num
    old, new = (
        sparse.csr_matrix((each["value"], each["column"], each["row_pointer"]), shape=(size, size)).toarray()
        for each in (old, new)
    )
    counts = train.item_counts()
    placed = rows_of(old, train.side.item_text.numpy(), counts)
    seen = [item for item in range(size) if item not in placed]
    np.testing.assert_allclose(new[np.ix_(seen, seen)], old[np.ix_(seen, seen)])
    for item, row in placed.items():
        np.testing.assert_allclose(new[item, seen], np.minimum(row, old.max(0))[seen], atol=1e-6)
    assert sum(new[:, item].any() for item in placed) > 0
    assert recbole_eimf.evaluate(tmp_path / "placed", state="ERROR") == pytest.approx(found.test, abs=1e-6)


@pytest.mark.parametrize("model", ["DecayedItemKNN", "ItemKNNText"])
def test_counting_models_need_no_folder_for_it(keys, tmp_path, model):
    found = recbole_eimf.run(model, "baskets", **keys, place_unseen=True)
    kept = recbole_eimf.run(model, "baskets", **keys, place_unseen=True, output_dir=str(tmp_path / "placed"))
    assert found.test == kept.test


def test_where_training_saw_everything_nothing_moves(make_config, planted):
    config = make_config("IBIM", place_unseen=True)
    train = assembly.loaders(config)[0]._dataset
    net = assembly.model(config, train)
    assert unseen.place(net, train) == 0
    assert not any("folded" in name for name in net.state_dict())


def test_what_has_no_vectors_of_items_is_refused_before_it_trains(keys):
    with pytest.raises(ConfigError, match="place_unseen=True: Popularity has no vectors"):
        recbole_eimf.run("Popularity", "baskets", **keys, place_unseen=True)
