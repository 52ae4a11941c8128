"""Items added by their title: where they are placed, and that all else stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.model.placing import NEIGHBOURS, TEMPERATURE
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.serving.title_map import TitleMap


@pytest.fixture
def with_titles(made_run, tmp_path, semantic_cache):
    def make(model, **keys):
        options = {"index": "flat", "onnx": False, "refit": False, "text": "yes", "histories": True}
        run = made_run(model, **keys)
        return Recommender.load(write_run(run, tmp_path / "model", **options))

    return make


def test_a_row_is_the_weighed_mean_of_the_nearest_as_long_as_they_are():
    """The formula of the module, written out in NumPy for one title."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(60, 6))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    text = text.astype(np.float16).astype(float)
    table, bias = rng.normal(size=(60, 4)), rng.normal(size=60)
    trained = rng.random(60) < 0.8
    trained[0] = False
    titles = TitleMap(torch.from_numpy(text).half(), torch.from_numpy(trained), torch.ones(1))
    title = rng.normal(size=6)
    title = (title / np.linalg.norm(title)).astype(np.float16).astype(float)

    near = sorted(np.flatnonzero(trained), key=lambda j: -(text[j] @ title))[:NEIGHBOURS]
    weight = np.exp([text[j] @ title / TEMPERATURE for j in near])
    weight /= weight.sum()
    row = sum(w * table[j] for w, j in zip(weight, near))
    row *= sum(w * np.linalg.norm(table[j]) for w, j in zip(weight, near)) / np.linalg.norm(row)

    found = titles.neighbours(torch.from_numpy(title[None]).float())
    assert found.rows[0].tolist() == near
    assert np.allclose(found.place(torch.from_numpy(table).float())[0].numpy(), row, atol=1e-4)
    assert float(found.mean(torch.from_numpy(bias))) == pytest.approx(sum(w * bias[j] for w, j in zip(weight, near)))


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
