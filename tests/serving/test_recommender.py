"""What one may ask a Recommender, and what odd questions get."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest

from recbole_eimf.core.errors import ConfigError, DataError


@pytest.fixture
def sasrec(exported):
    return exported("IBIM", backbone="SASRec")[2]


def test_importing_loads_neither_recbole_nor_ray_nor_transformers(exported):
    _, folder, _ = exported("EIMF", backbone="SASRec", index="flat")
    code = f"""
import sys
from recbole_eimf import Recommender
model = Recommender.load({str(folder)!r})
assert len(model.recommend([["i1", "i2"]], 3)) == 3
print([name for name in ("recbole", "ray", "transformers", "faiss", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_frame_of_tokens(sasrec):
    frame = sasrec.recommend([["i1", "i2"], ["i3"]], k=4, users=["anna", "ünïcode ☃"])
    assert list(frame.columns) == ["user", "rank", "item", "score", "title", "source"]
    assert frame["user"].tolist() == ["anna"] * 4 + ["ünïcode ☃"] * 4
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 2
    assert (frame.groupby("user")["score"].diff().dropna() <= 0).all()
    assert frame["title"].tolist() == [f"thing number {item[1:]}" for item in frame["item"]]
    assert set(frame["source"]) == {"model"}
    assert frame.attrs["proved"]


def test_users_may_come_as_a_column_of_a_table(sasrec):
    histories, users = [["i1", "i2"], ["i3"]], ["anna", "berta"]
    expected = sasrec.recommend(histories, k=3, users=users)
    table = pd.DataFrame({"user": users, "history": histories})
    assert sasrec.recommend(table["history"], k=3, users=table["user"]).equals(expected)
    assert sasrec.recommend(histories, k=3, users=np.array(users)).equals(expected)


def test_seen_items_are_left_out_on_demand_and_by_default_as_evaluated(exported, tmp_path):
    history = [f"i{n}" for n in range(30)]  # longer than what the model reads
    _, _, open_model = exported("IBIM", mask_history=False)
    everything = open_model.recommend([history], 60)["item"]
    assert len(everything) == 60
    hidden = open_model.recommend([history], 60, exclude_seen=True)["item"]
    assert set(hidden) == {f"i{n}" for n in range(30, 60)}
    _, _, masked = exported("IBIM", mask_history=True)
    assert set(masked.recommend([history], 60)["item"]) == set(hidden)


def test_only_and_without(sasrec):
    frame = sasrec.recommend([["i1"]], 10, only=["i5", "i6", "i7", "nothing"], without=["i6", "never"])
    assert set(frame["item"]) == {"i5", "i7"}
    order = [item for item in sasrec.recommend([["i1"]], 60)["item"] if item in ("i5", "i7")]
    assert frame["item"].tolist() == order
    with pytest.raises(DataError, match="only: not one of these items"):
        sasrec.recommend([["i1"]], only=["x", "y"])
    with pytest.raises(ConfigError, match="only='i5': a list"):
        sasrec.recommend([["i1"]], only="i5")


def test_unknown_tokens_are_passed_over_and_counted(sasrec):
    mixed = sasrec.recommend([["never", "i1", "nor this", "i2"]], 5)
    assert mixed.attrs["unknown_items"] == 2
    assert mixed["item"].tolist() == sasrec.recommend([["i1", "i2"]], 5)["item"].tolist()


def test_items_that_are_no_tokens_are_refused(sasrec):
    """A number is no token: it banned nothing, and a history of numbers was answered by popularity."""
    with pytest.raises(DataError, match="item 50 is not text; items are named by their tokens, such as '50'"):
        sasrec.recommend([["i1"]], 3, without=[50])
    with pytest.raises(DataError, match="item 204 is not text"):
        sasrec.recommend([[204, 56]], 3)
    with pytest.raises(ConfigError, match=r"items='i11': a list of item tokens is needed; write \['i11'\]"):
        sasrec.similar_items("i11")
    assert sasrec.recommend([["i1", None]], 3).attrs["unknown_items"] == 1  # of a column with gaps


@pytest.mark.parametrize("history", [[], ["never", "nor this"]])
def test_an_empty_history_gets_popularity_and_says_so(exported, history):
    run, _, model = exported("IBIM")
    frame = model.recommend([history, ["i1"]], 60)
    popular, scored = frame[frame["user"] == 0], frame[frame["user"] == 1]
    assert set(popular["source"]) == {"popularity"}
    assert set(scored["source"]) == {"model"}
    assert frame.attrs["empty_histories"] == 1
    counts = run.loaders[0]._dataset.item_counts()
    expected = sorted(counts[1:], reverse=True)
    assert popular["score"].tolist() == expected
    assert (model.interests([history]) == 0).all()


def test_histories_of_ten_thousand_and_repeats(sasrec):
    long = [f"i{n % 60}" for n in range(10_000)]
    assert sasrec.recommend([long], 5)["item"].tolist() == sasrec.recommend([long[-8:]], 5)["item"].tolist()
    assert len(sasrec.recommend([["i1"] * 100], 5)) == 5


def test_k_of_nothing_and_of_more_than_there_is(sasrec):
    assert len(sasrec.recommend([["i1"]], 0)) == 0
    assert len(sasrec.recommend([["i1"]], 10**9)) == 60
    assert len(sasrec.recommend([["i1"]], 10**9, exclude_seen=True)) == 59
    assert sasrec.rank([["i1"]], 10**9).rows.shape == (1, 60)
    assert len(sasrec.recommend([], 5)) == 0
    for k in (-1, 2.5, True, "3", None):
        with pytest.raises(ConfigError, match="k="):
            sasrec.recommend([["i1"]], k)


def test_one_history_is_no_list_of_histories(sasrec):
    with pytest.raises(ConfigError, match="a list of histories"):
        sasrec.recommend(["i1", "i2"])
    with pytest.raises(ConfigError, match="users: 1 for 2 histories"):
        sasrec.recommend([["i1"], ["i2"]], users=["a"])


def test_what_is_no_list_of_lists_is_refused_and_not_used_up(sasrec):
    for wrong in (iter([["i1"]]), 5, [None], [5], ["i1"], [b"i1"], {"u": ["i1"]}):
        with pytest.raises(ConfigError, match="histories: a list of histories is needed"):
            sasrec.recommend(wrong, 3)
    tokens = np.array([["i1", "i2"]])
    assert sasrec.recommend(tokens, 3).equals(sasrec.recommend([["i1", "i2"]], 3))


def test_similar_items_are_the_nearest_by_cosine(sasrec):
    frame = sasrec.similar_items(["i3", "i9"], 4)
    assert list(frame.columns) == ["item", "rank", "similar", "score", "title"]
    vectors = sasrec._parts.vectors.numpy().astype(float)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    row_of = sasrec.catalogue.row_of
    for item in ("i3", "i9"):
        cosine = unit @ unit[row_of[item]]
        cosine[[0, row_of[item]]] = -9
        best = np.argsort(-cosine)[:4]
        assert [row_of[other] for other in frame[frame["item"] == item]["similar"]] == best.tolist()
    every = sasrec.similar_items([f"i{n}" for n in range(60)], 10**9)
    assert len(every) == 60 * 59
    assert (every["similar"] != every["item"]).all()
    with pytest.raises(DataError, match=r"item 'i61': not in this model's catalogue of 60 items. Did you mean"):
        sasrec.similar_items(["i61"])


def test_counting_models_have_neighbours_but_no_interests(exported):
    _, _, model = exported("DecayedItemKNN")
    assert len(model.similar_items(["i3"], 5)) == 5
    with pytest.raises(ConfigError, match="only counts"):
        model.interests([["i1"]])


def test_saved_again_it_answers_the_same(exported, tmp_path):
    for model in ("IBIM", "Markov"):
        _, folder, first = exported(model)
        again = type(first).load(first.save(tmp_path / "copy", histories=False))
        histories = [["i1", "i2"], ["i5"], []]
        assert again.recommend(histories, 9).equals(first.recommend(histories, 9))
        assert again.users is None
        assert first.users is not None
        assert (tmp_path / "copy" / "README.md").read_text() == (folder / "README.md").read_text()


def test_threads_may_ask_at_once(exported):
    _, _, model = exported("EIMF", backbone="REMI", index="flat")
    histories = [[f"i{n}", f"i{n + 1}"] for n in range(40)]
    expected = [model.recommend([history], 5)["item"].tolist() for history in histories]
    found: dict[int, list] = {}

    def ask(n):
        found[n] = model.recommend([histories[n]], 5)["item"].tolist()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(40)] == expected


def test_tokens_that_are_no_text_are_an_error_wherever_they_stand(sasrec):
    with pytest.raises(ConfigError, match="users: 7 is not text"):
        sasrec.recommend([["i1"]], users=[7])
    with pytest.raises(DataError, match="a history is a list of item tokens"):
        sasrec.recommend([[["i1"]]])
    for items in (5, "i1", {"i1": 1}):
        with pytest.raises(ConfigError, match="items=.*a list of item tokens is needed"):
            sasrec.similar_items(items)
    with pytest.raises(ConfigError, match="only=5: a list"):
        sasrec.recommend([["i1"]], only=5)
    assert set(sasrec.similar_items({"i1", "i2"}, 3)["item"]) == {"i1", "i2"}
    assert sasrec.similar_items((i for i in ["i1", "i2"]), 3).equals(sasrec.similar_items(["i1", "i2"], 3))
