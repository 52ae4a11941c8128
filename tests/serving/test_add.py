"""``add``: new items of a CSV file in a model folder, and what is refused by file and line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.cli.add import read_items
from recbole_eimf.core.parts import require
from recbole_eimf.serving import new_items
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
    (folder / "new.csv").write_text(
        "item_id,title\nn1,thing&nbsp;number 7\ni3,known\nn2,thing number 8\n", encoding="utf-8"
    )
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
    assert main(["add", "--model", "grown", "--items", "new.csv", "--out", "another"]) == 0  # which is then served
    assert "0 items added, 3 known already" in capsys.readouterr().out
    assert len(Recommender.load(folder / "another")) == len(grown)


def test_ids_with_white_space_around_are_told(folder, capsys):
    (folder / "new.csv").write_text("item_id,title\ni3 ,thing number 3\nn1,thing number 8\n", encoding="utf-8")
    assert main(["add", "--model", "model", "--items", "new.csv", "--out", "grown"]) == 0
    assert "WARNING: 1 id added with white space around" in (said := capsys.readouterr().out)
    assert "(the first: 'i3 ')" in said


@pytest.mark.parametrize(
    ("model", "text", "said"),
    [
        ("model", "item_id,title\nn1,\n", "new.csv, line 2: title is empty"),
        ("model", "item_id,title\n,thing\n", "new.csv, line 2: item_id is empty"),
        ("model", "item_id,title\nn1,thing\nn1,thing\n", "new.csv, line 3: item_id n1 is there twice"),
        ("model", "item_id,title\nn1,thing\nitem_id,title\nn2,thing\n", "new.csv, line 3: the header once more"),
        ("model", "item_id,name\nn1,thing\n", "new.csv, line 1: expected 'item_id,title'"),
        ("model", "item_id,title,profile\nn1,thing,number 3\n", "placed by their titles alone"),
        ("model", "item_id,title\nn1,xyzzy\n", "knows no word of 'xyzzy'"),
        ("model", "item_id,title\n", "new.csv: names no item_id"),
        ("model", "item_id,title\n[PAD],thing\n", "item '[PAD]': the token is RecBole's name for no item"),
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


def test_profiles_are_found_under_a_quoted_header(tmp_path):
    for header in ("item_id,title,profile", '"item_id","title","profile"', '\ufeff"item_id",title,"profile"\r'):
        (tmp_path / "new.csv").write_text(f'{header}\n"n1","thing, red","for offices"\n', encoding="utf-8")
        assert read_items(str(tmp_path / "new.csv")) == ({"n1": "thing, red"}, {"n1": "for offices"})


@pytest.mark.parametrize("ends", ["\r", "\r\n", "\n"])
def test_a_file_may_have_the_line_ends_of_any_system(tmp_path, ends):
    lines = ["item_id,title,profile", "n1,red pen,for offices", "n2,blue pen,", ""]
    (tmp_path / "new.csv").write_bytes(ends.join(lines).encode())
    assert read_items(str(tmp_path / "new.csv")) == ({"n1": "red pen", "n2": "blue pen"}, {"n1": "for offices"})


def test_adding_items_needs_nothing_that_training_or_asking_an_llm_does(folder):
    """What the Dockerfile leaves out is not there."""
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("recbole", "json_repair", "openai", "ray", "httpx", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from recbole_eimf import Recommender
from recbole_eimf.semantic.encoders.build import build_encoder
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings
model = Recommender.load("model")
print(model.add_items({"new": "thing number 7"}), len(model.recommend([["new"]], k=3)))
print(build_encoder(EncoderSettings(name="openai:small", base_url="http://127.0.0.1:9/v1")).identity)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['new'] 3", "openai:small@127.0.0.1:9/v1:dimensions=None:unit=True",
    ]  # fmt: skip


def test_tokens_that_are_numbers_are_text_in_titles_and_profiles_alike(folder, monkeypatch):
    model, asked = Recommender.load(folder / "model"), []
    model.config["text"] = {**model.config["text"], "source": "title+profile"}
    monkeypatch.setattr(
        new_items, "encoded", lambda encoder, texts, *rest: asked.extend(texts) or np.ones((2, 7), dtype=np.float32)
    )
    monkeypatch.setattr(new_items, "with_rows", lambda parts, *rest: parts)
    assert model.add_items({1: "pen", 2: "ink"}, profiles={1: "for offices"}) == ["1", "2"]
    assert asked == ["pen. for offices", "ink"]


def test_items_are_added_to_a_model_whose_encoder_never_saw_the_titles_of_later_items(
    made_run, tmp_path, semantic_cache
):
    """``global_time``: tfidf-svd is fitted on what training saw."""
    (tmp_path / "timed").mkdir()
    rows = [f"u{u}\ti{(u + n) % 12}\t{100 * n + u}" for u in range(20) for n in range(8)]
    rows += [f"u{u}\tnew{u % 2}\t{5000 + u}" for u in range(9)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (tmp_path / "timed" / "timed.inter").write_text("\n".join([header, *rows]) + "\n")
    titles = [f"i{i}\tthing number {i} of word{i}" for i in range(12)] + ["new0\tan unknown noun", "new1\tanother verb"]
    (tmp_path / "timed" / "timed.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles]) + "\n")
    load = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    keys = {"dataset": "timed", "data_path": str(tmp_path), "protocol": "global_time", "load_col": load}
    run = made_run("IBIM", **keys, text_encoder="tfidf-svd", semantic_cache=str(semantic_cache))
    options = {"index": "auto", "onnx": False, "refit": False, "text": "yes", "histories": True}
    model = Recommender.load(write_run(run, tmp_path / "model", **options))
    assert model.add_items({"n1": "thing number 7 of word7"}) == ["n1"]
    assert model.similar_items(["n1"], k=1)["similar"].tolist() == ["i7"]


@pytest.mark.parametrize("there", [True, False])
def test_a_graph_beside_the_model_grows_with_it_or_is_said_to_be_left_out(folder, there, monkeypatch, caplog):
    def written(file, encoder):
        require(*(() if there else ("nothing_of_that_name",)))
        file.write_bytes(str(len(encoder.state_dict())).encode())

    monkeypatch.setattr("recbole_eimf.serving.onnx.write_onnx", written)
    model = Recommender.load(folder / "model")
    model.config["files"] = {**model.config["files"], "encoder.onnx": {}}
    model.add_items({"n1": "thing number 7"})
    model.save(folder / "grown")
    assert (folder / "grown" / "encoder.onnx").exists() == there
    assert ("encoder.onnx is left out" in caplog.text) != there
    Recommender.load(folder / "grown")
