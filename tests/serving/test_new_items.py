"""Items added by their title: where they are placed, and that all else stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.serving.title_map import NEIGHBOURS, RIDGE, TitleMap


@pytest.fixture
def with_titles(made_run, tmp_path, semantic_cache):
    def make(model, **keys):
        options = {"index": "flat", "onnx": False, "refit": False, "text": "yes", "histories": True}
        run = made_run(model, **keys)
        return Recommender.load(write_run(run, tmp_path / "model", **options))

    return make


def test_a_row_is_the_regression_and_the_mean_of_what_it_misses_of_the_nearest():
    """The formula of the module, written out in NumPy for one title."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(40, 6))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    text = text.astype(np.float16).astype(float)
    table = rng.normal(size=(40, 4))
    trained = rng.random(40) < 0.8
    trained[0] = False
    tensors = torch.from_numpy(text).float(), torch.from_numpy(trained)
    titles = TitleMap.fitted(*tensors, [torch.from_numpy(table).float()], torch.ones(1))
    title = rng.normal(size=6)
    title /= np.linalg.norm(title)

    known = text[trained]
    mean, middle = known.mean(0), table[trained].mean(0)
    square = (known - mean).T @ (known - mean)
    square += RIDGE * np.trace(square) / 6 * np.eye(6)
    weight = np.linalg.inv(square) @ (known - mean).T @ (table[trained] - middle)
    near = sorted(np.flatnonzero(trained), key=lambda j: -(text[j] @ title))[:NEIGHBOURS]
    missed = np.mean([table[j] - ((text[j] - mean) @ weight + middle) for j in near], axis=0)
    row = (title - mean) @ weight + middle + missed
    row *= np.mean([np.linalg.norm(table[j]) for j in near]) / np.linalg.norm(row)

    asked = torch.from_numpy(title[None]).float()
    found = titles.neighbours(asked)
    assert set(found[0].tolist()) == set(near)
    made = titles.rows(asked, 0, torch.from_numpy(table).float(), found)
    assert np.allclose(made[0].numpy(), row, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "keys"),
    [("IBIM", {"backbone": "BERT4Rec"}), ("EIMF", {"backbone": "REMI"}), ("PAD", {}), ("BERT4Rec", {})],
)
def test_added_items_are_recommended_stand_in_histories_and_change_nothing_else(with_titles, tmp_path, model, keys):
    first = with_titles(model, **keys)
    histories = [["i1", "i2"], ["i3"], ["i59"]]
    before = first.recommend(histories, 60)
    assert first.add_items({"new": "thing number 7", "i1": "another title"}) == ["new"]
    assert len(first) == 61
    after = first.recommend(histories, 61)
    assert after[after["item"] == "new"]["title"].tolist() == ["thing number 7"] * 3
    kept = after[after["item"] != "new"].reset_index(drop=True)
    assert kept["item"].tolist() == before["item"].tolist()
    assert np.allclose(kept["score"], before["score"], rtol=1e-4, atol=1e-5)
    alone = first.recommend([["new"]], 5)
    assert set(alone["source"]) == {"model"}
    again = Recommender.load(first.save(tmp_path / "again"))
    assert again.recommend([["new"]], 5).equals(alone)


def test_titles_that_say_nothing_and_models_without_a_map(with_titles, exported):
    model = with_titles("IBIM")
    for title in ("", "  ", None, 3):
        with pytest.raises(DataError, match="item 'new': its title is"):
            model.add_items({"new": title})
    with pytest.raises(DataError, match="knows no word of 'xyzzy'"):
        model.add_items({"new": "xyzzy"})
    assert model.add_items({}) == []
    for other in ("IBIM", "Popularity"):
        with pytest.raises(ConfigError, match="no map from titles to items was kept"):
            exported(other)[2].add_items({"new": "thing"})
