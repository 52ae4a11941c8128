"""Users' histories in a model folder: all that they had, whatever of it a split asks for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_eimf.core.errors import DataError
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.recommender import Recommender


@pytest.fixture
def shop(tmp_path):
    """A data set with times, whose users u0, ... begin one after the other: token -> items, oldest first."""
    rng = np.random.default_rng(3)
    rows, had = ["user_id:token\titem_id:token\ttimestamp:float"], {}
    for user in range(60):
        times = user * 10 + np.cumsum(rng.integers(1, 30, int(rng.integers(1, 9))))
        items = [f"i{item}" for item in rng.integers(30, size=len(times))]
        rows += [f"u{user}\t{item}\t{time}" for item, time in zip(items, times)]
        had[f"u{user}"] = items
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "shop.inter").write_text("\n".join(rows) + "\n")
    return had


def split_file(shop, tmp_path):
    """Users of up to two events are nobody's target, and lie among those who train."""
    parts = ["train" if len(items) < 3 else ("train", "valid", "test")[n % 3] for n, items in enumerate(shop.values())]
    path = tmp_path / "split.csv"
    pd.DataFrame({"user_id": list(shop), "part": parts}).to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize(
    "keys",
    [
        {"protocol": "leave_one_out"},
        {"protocol": "global_time", "time_target": "first"},
        {"protocol": "global_time", "time_target": "last"},
        {"protocol": "global_time", "time_target": "successive"},
        {"protocol": "user_split"},
        {"protocol": "user_split", "split_file": split_file},
        {"train_share": 0.5},
    ],
    ids=["leave one out", "first", "last", "successive", "user split", "split file", "share"],
)
def test_a_history_is_all_that_the_user_had(made_run, shop, tmp_path, keys):
    keys = {name: value(shop, tmp_path) if callable(value) else value for name, value in keys.items()}
    run = made_run("Popularity", dataset="shop", data_path=str(tmp_path), **keys)
    write_run(run, tmp_path / "model", index="auto", onnx=False, refit=False, text="no", histories=True)
    model = Recommender.load(tmp_path / "model")
    found = {user: model.catalogue.tokens_of(model.users.history(user)) for user in model.users.row_of}
    assert found == shop
    most = max(shop, key=lambda user: len(shop[user]))
    answer = model.recommend([found[most]], 30, users=[most], exclude_seen=True)
    assert not set(answer["item"]) & set(shop[most])


def test_data_that_changed_meanwhile_are_named(made_run, shop, tmp_path):
    run = made_run("Popularity", dataset="shop", data_path=str(tmp_path))
    with open(tmp_path / "shop" / "shop.inter", "a") as stream:
        stream.write("u61\ti1\t5\n")
    options = {"index": "auto", "onnx": False, "refit": False, "text": "no"}
    with pytest.raises(DataError, match="column user_id holds other tokens.*--no-histories"):
        write_run(run, tmp_path / "model", histories=True, **options)
    write_run(run, tmp_path / "model", histories=False, **options)
    assert Recommender.load(tmp_path / "model").users is None
