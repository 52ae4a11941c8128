"""``add``: new items of a CSV file in a model folder, and what is refused by file and line."""

from __future__ import annotations

import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.recommender import Recommender


@pytest.fixture
def folder(made_run, tmp_path, semantic_cache, monkeypatch):
    """The working folder, with the model folders ``model``, and ``bare``, which has no text."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("model", "yes"), ("bare", "no")):
        write_run(made_run("IBIM"), tmp_path / name, index="auto", onnx=False, refit=False, text=text, histories=True)
    return tmp_path


def test_items_of_a_file_are_in_the_new_folder_and_all_else_stays(folder, capsys):
    (folder / "new.csv").write_text("item_id,title\nn1,thing number 7\ni3,known\nn2,thing number 8\n", encoding="utf-8")
    assert main(["add", "--model", "model", "--items", "new.csv", "--out", "grown"]) == 0
    said = capsys.readouterr().out
    assert "n1 (thing number 7) is nearest to: thing number" in said
    assert "written: grown" in said
    assert "2 items added, 1 known already" in said
    first, grown = Recommender.load(folder / "model"), Recommender.load(folder / "grown")
    assert len(grown) == len(first) + 2
    assert first.add_items({"n1": "thing number 7", "n2": "thing number 8"}) == ["n1", "n2"]
    histories = [["n1", "i3"], ["i5", "i9"]]
    assert grown.recommend(histories, 20).equals(first.recommend(histories, 20))
    assert grown.users.tokens.equals(first.users.tokens)
    # in place, and once more: there is nothing to write
    assert main(["add", "--model", "grown", "--items", "new.csv", "--out", "grown"]) == 0
    assert "all 3 items are known already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "text", "said"),
    [
        ("model", "item_id,title\nn1,\n", "new.csv, line 2: title is empty"),
        ("model", "item_id,title\n,thing\n", "new.csv, line 2: item_id is empty"),
        ("model", "item_id,title\nn1,thing\nn1,thing\n", "new.csv, line 3: item_id n1 stands there twice"),
        ("model", "item_id,name\nn1,thing\n", "new.csv, line 1: expected 'item_id,title'"),
        ("model", "item_id,title,profile\nn1,thing,number 3\n", "placed by their titles alone"),
        ("model", "item_id,title\nn1,xyzzy\n", "knows no word of 'xyzzy'"),
        ("model", "item_id,title\n", "new.csv: names no item_id"),
        ("bare", "item_id,title\nn1,thing\n", "no map from titles to items was kept"),
        ("nowhere", "item_id,title\nn1,thing\n", "nowhere: "),
    ],
)
def test_a_wrong_file_or_model_is_one_line_and_nothing_is_written(folder, capsys, model, text, said):
    (folder / "new.csv").write_text(text, encoding="utf-8")
    assert main(["add", "--model", model, "--items", "new.csv", "--out", "grown"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (folder / "grown").exists()


def test_no_file_and_a_place_that_is_something_else(folder, capsys):
    assert main(["add", "--model", "model", "--items", "none.csv", "--out", "grown"]) == 2
    assert "none.csv" in capsys.readouterr().err
    (folder / "new.csv").write_text("item_id,title\nn1,thing number 7\n", encoding="utf-8")
    (folder / "mine").mkdir()
    (folder / "mine" / "letter.txt").write_text("dear")
    assert main(["add", "--model", "model", "--items", "new.csv", "--out", "mine"]) == 2
    assert "mine" in capsys.readouterr().err
    assert (folder / "mine" / "letter.txt").read_text() == "dear"


def test_the_nearest_item_without_a_title_is_named_by_its_token_and_all_items_are_counted(folder, capsys, monkeypatch):
    (folder / "new.csv").write_text("item_id,title\nn1,thing number 7\n", encoding="utf-8")
    real = Recommender.similar_items

    def untitled(model, items, k):
        return real(model, items, k).assign(title=[None, "a title"])

    monkeypatch.setattr(Recommender, "similar_items", untitled)
    assert main(["add", "--model", "model", "--items", "new.csv", "--out", "grown"]) == 0
    grown = Recommender.load(folder / "grown")
    nearest = real(grown, ["n1"], 1)["similar"][0]
    assert f"n1 (thing number 7) is nearest to: {nearest}; a title" in capsys.readouterr().out
    assert grown.config["data"]["items"] == len(grown) == len(Recommender.load(folder / "model")) + 1
    assert f"{len(grown):,} items; trained on" in (folder / "grown" / "README.md").read_text()
