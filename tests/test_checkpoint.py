"""A trained model on disk: no pickle, no code from the folder, and never over another data set."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import recbole_eimf
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.serving.export import export
from recbole_eimf.trainer import checkpoint
from tests.conftest import planted_sequences, write_atomic

SMALL = {"topk": [1, 5], "valid_metric": "NDCG@5", "hidden_size": 16, "inner_size": 16, "n_layers": 1, "epochs": 1,
         "MAX_ITEM_LIST_LENGTH": 8, "show_progress": False, "state": "ERROR", "compare_with": []}  # fmt: skip


@pytest.fixture(scope="module")
def keys(planted, semantic_cache):
    return {**SMALL, "data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}


@pytest.fixture(scope="module")
def trained(keys, tmp_path_factory):
    """(result, folder) of one run that wrote RecBole's checkpoint too."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    result = recbole_eimf.run("IBIM", "planted", output_dir=str(folder), save_pth=True, learning_rate=0.02, **keys)
    return result, folder


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the folder that a test may spoil."""
    shutil.copytree(trained[1], tmp_path / "copied")
    return tmp_path / "copied"


def rewritten(folder: Path, **values) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def test_what_was_trained_before_a_setting_was_refused_is_still_evaluated(planted, tmp_path):
    """A loss that IBIM ignored, an address with a password in it: neither matters to a saved model."""
    keys = {"data_path": str(planted), "epochs": 1, "show_progress": False, "state": "ERROR", "hidden_size": 8,
            "inner_size": 8, "n_layers": 1, "compare_with": []}  # fmt: skip
    found = recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path / "out"), **keys)
    path = tmp_path / "out" / "config.json"
    held = json.loads(path.read_text())
    held["settings"] |= {"loss": "bce", "llm_base_url": "https://me:secret@host/v1"}
    path.write_text(json.dumps(held))
    assert recbole_eimf.evaluate(tmp_path / "out", state="ERROR") == pytest.approx(found.test)


def test_config_json_says_what_the_model_is_and_how_good(trained):
    result, folder = trained
    held = json.loads((folder / "config.json").read_text())
    assert (held["format"], held["format_version"]) == ("recbole_eimf model", 1)
    assert (held["model"], held["backbone"], held["model_import"]) == ("IBIM", "SASRec", None)
    assert held["given"]["hidden_size"] == 16
    assert held["settings"]["n_heads"] == 2, "a default that builds the net"
    assert held["data"] | {"user_tokens": "", "item_tokens": ""} == {
        "users": 120, "items": 10, "user_tokens": "", "item_tokens": ""
    }  # fmt: skip
    assert held["metrics"]["test"] == result.test
    assert held["metrics"]["protocol"] == "leave_one_out"
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".pth", ".log", ""}
    names = load_file(folder / "model.safetensors")
    assert set(names) == set(torch.load(folder / "model.pth", weights_only=False)["state_dict"])


def test_a_model_is_read_by_its_folder_or_its_file_whatever_defaults_become(trained, monkeypatch):
    from recbole_eimf.config import config

    result, folder = trained
    assert recbole_eimf.evaluate(folder) == result.test
    original = config.plugin_defaults
    monkeypatch.setattr(config, "plugin_defaults", lambda *given: {**original(*given), "n_heads": 1, "score": "dot"})
    assert recbole_eimf.evaluate(folder / "model.safetensors") == result.test


def test_without_save_pth_nothing_is_pickled_and_saved_says_what_a_model_is(keys, tmp_path):
    keys = {**keys, "hidden_size": 8, "inner_size": 8}
    for source in ("keywords", "shuffled"):
        recbole_eimf.run("EIMF", "planted", interest_source=source, **keys)
    recbole_eimf.run("Hybrid", "planted", text_source="shuffled", **keys)
    folders = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert folders[0].startswith("EIMF-SASRec-placebo-planted-")
    assert folders[1].startswith("EIMF-SASRec-planted-")
    assert folders[2].startswith("Hybrid-SASRec-placebo-planted-")
    assert not list(tmp_path.rglob("*.pth"))
    for name in folders:
        assert recbole_eimf.evaluate(tmp_path / "saved" / name)


def test_runs_of_one_second_have_folders_of_their_own(keys, tmp_path, monkeypatch):
    from recbole_eimf.trainer import saving

    monkeypatch.setattr(saving, "get_local_time", lambda: "now")
    for _ in range(2):
        recbole_eimf.run("IBIM", "planted", **keys)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "IBIM-SASRec-planted-now", "IBIM-SASRec-planted-now-2"
    ]  # fmt: skip


def test_recboles_counting_model_keeps_what_is_no_parameter(keys, tmp_path):
    result = recbole_eimf.run("Pop", "planted", output_dir=str(tmp_path / "out"), **keys)
    assert recbole_eimf.evaluate(tmp_path / "out") == result.test


def test_other_data_are_refused(trained, tmp_path):
    sequences = planted_sequences()
    write_atomic(tmp_path / "more", "planted", [*sequences, [10, 11, 3, 4]])
    with pytest.raises(DataError, match="trained on planted with 10 items; here are 12"):
        recbole_eimf.evaluate(trained[1], data_path=str(tmp_path / "more"))
    renumbered = [[9 - item for item in sequence] for sequence in sequences]
    write_atomic(tmp_path / "swapped", "planted", renumbered)
    with pytest.raises(DataError, match=r"10 items; here are as many, but others \(renamed\?\) or in another order"):
        recbole_eimf.evaluate(trained[1], data_path=str(tmp_path / "swapped"))


def test_further_interactions_of_the_same_users_and_items_are_told(keys, tmp_path, caplog):
    data, out, model = (tmp_path / name for name in ("data", "out", "model"))
    shutil.copytree(keys["data_path"], data)
    recbole_eimf.run("Popularity", "planted", output_dir=str(out), **{**keys, "data_path": str(data)})
    export(out, model)
    assert "has other interactions" not in caplog.text
    assert "have changed" not in (model / "README.md").read_text()
    with open(data / "planted" / "planted.inter", "a", encoding="utf-8") as file:
        file.write("u0\ti0\t0\t1000\n")
    recbole_eimf.evaluate(out, data_path=str(data))  # who names other data means them
    assert "has other interactions" not in caplog.text
    export(out, model)
    assert f"{out}: planted.inter in {data}/planted has other interactions than when the run was" in caplog.text
    assert "have changed between training and this export" in (model / "README.md").read_text()


def test_a_run_whose_data_lie_below_another_working_folder_says_where_to_go(keys, tmp_path, monkeypatch):
    made = tmp_path / "made"
    shutil.copytree(keys["data_path"], made / "data")
    monkeypatch.chdir(made)
    recbole_eimf.run("Popularity", "planted", output_dir="out", **{**keys, "data_path": "data"})
    assert recbole_eimf.evaluate("out")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="was trained on data/planted/planted.inter.*Give the command in the folder"):
        recbole_eimf.evaluate("made/out")
    assert recbole_eimf.evaluate("made/out", data_path="made/data")


def test_other_users_are_welcome_where_they_have_no_vectors(keys, trained, tmp_path):
    with open(keys["data_path"] + "/planted/planted.inter", encoding="utf-8") as file:
        text = file.read()
    (tmp_path / "planted").mkdir()
    rows = "".join(f"new\ti{item}\t0\t{place}\n" for place, item in enumerate([3, 4, 0, 1, 2]))
    (tmp_path / "planted" / "planted.inter").write_text(text + rows, encoding="utf-8")
    assert recbole_eimf.evaluate(trained[1], data_path=str(tmp_path))


# ---------------------------------------------------------------------- no code from the folder
MODULE = """
from pathlib import Path
from recbole_eimf.model.ibim import IBIM
Path({mark!r}).touch()
class Mine(IBIM):
    pass
"""


def test_a_users_class_is_imported_only_if_the_caller_names_it(keys, tmp_path, monkeypatch):
    mark = tmp_path / "imported"
    (tmp_path / "their_models.py").write_text(MODULE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    result = recbole_eimf.run("their_models:Mine", "planted", output_dir=str(out), **keys)
    assert json.loads((out / "config.json").read_text())["model_import"] == "their_models:Mine"
    assert recbole_eimf.evaluate(out) == result.test  # its module is in use already
    del sys.modules["their_models"]
    mark.unlink()
    with pytest.raises(ConfigError, match="their_models:Mine, which is neither.*model=their_models:Mine"):
        recbole_eimf.evaluate(out)
    assert not mark.exists()
    with pytest.raises(ConfigError, match="is of their_models:Mine"):
        recbole_eimf.evaluate(out, model="os:system")
    assert recbole_eimf.evaluate(out, model="their_models:Mine") == result.test
    assert mark.exists()


@pytest.mark.parametrize("named", ["subprocess:Popen", "os:nothing"])
def test_a_folder_cannot_name_what_is_no_model(copied, named):
    with pytest.raises(ConfigError, match=named):
        recbole_eimf.load(rewritten(copied, model_import=named))
    with pytest.raises(ConfigError, match="no such model"):
        recbole_eimf.load(rewritten(copied, model_import=None, model=named))


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_pickles_that_recbole_would_read_stay_unread(trained, copied, keys, tmp_path):
    with open("bomb", "wb") as file:
        pickle.dump(Bomb(), file)
    for name in ("planted-LazySequenceDataset.pth", "planted-for-IBIM-dataloader.pth", "model.pth"):
        shutil.copy("bomb", copied / name)
    (tmp_path / "saved").mkdir()
    shutil.copy("bomb", tmp_path / "saved" / "planted-LazySequenceDataset.pth")
    given = json.loads((copied / "config.json").read_text())["given"]
    unwanted = {key: str(tmp_path / "bomb") for key in ("dataset_save_path", "dataloaders_save_path")}
    rewritten(copied, given={**given, **unwanted, "checkpoint_dir": str(copied)})
    assert recbole_eimf.evaluate(copied) == trained[0].test
    recbole_eimf.run("IBIM", "planted", output_dir=str(copied), resume=True, save_pth=True, learning_rate=0.02, **keys)
    assert not Path("exploded").exists()


# ---------------------------------------------------------------------- folders that are something else
def test_an_older_runs_pickle_is_named_with_the_way_to_convert_it(trained, copied):
    for name in ("model.safetensors", "config.json"):
        (copied / name).unlink()
    for path in (copied, copied / "model.pth"):
        with pytest.raises(DataError, match="a pickle, which no command reads.*convert"):
            recbole_eimf.evaluate(path)
    assert checkpoint.convert(copied / "model.pth") == copied
    assert recbole_eimf.evaluate(copied) == trained[0].test


def test_converting_runs_nothing_that_a_pickle_names(copied):
    saved = torch.load(copied / "model.pth", weights_only=False)
    torch.save({**saved, "more": Bomb()}, copied / "model.pth")
    checkpoint.convert(copied / "model.pth")
    torch.save({**saved, "state_dict": {"a": Bomb()}}, copied / "model.pth")
    with pytest.raises(DataError, match="more than tensors"):
        checkpoint.convert(copied / "model.pth")
    (copied / "model.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"model\.pth: not a checkpoint"):
        checkpoint.convert(copied / "model.pth")
    assert not Path("exploded").exists()


def test_folders_without_a_model_are_named(copied, tmp_path):
    for path in (tmp_path / "none", tmp_path / "none" / "model.safetensors"):
        with pytest.raises(DataError, match="none"):
            recbole_eimf.load(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no model.safetensors and config.json in it"):
        recbole_eimf.load(tmp_path / "empty")
    (tmp_path / "empty" / "SASRec-1.pth").touch()
    with pytest.raises(DataError, match="load_data_and_model"):
        recbole_eimf.load(tmp_path / "empty" / "SASRec-1.pth")
    with pytest.raises(DataError, match="version 2.*reads version 1"):
        recbole_eimf.load(rewritten(copied, format_version=2))
    for text in ("{", "[]", "{}", '{"format": "recbole_eimf model"}'):
        (copied / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"config.json: not a model's description"):
            recbole_eimf.load(copied)


def test_a_damaged_model_is_named(copied):
    whole = (copied / "model.safetensors").read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"\x80\x04" + whole):
        (copied / "model.safetensors").write_bytes(damaged)
        with pytest.raises(DataError, match=r"model.safetensors: not a readable safetensors file"):
            recbole_eimf.load(copied)
    (copied / "model.safetensors").write_bytes(whole)
    with pytest.raises(DataError, match=r"model.safetensors: does not fit"):
        recbole_eimf.load(copied, hidden_size=8)
