"""Model folders: what is in one, and what is said of those that are damaged, foreign, newer or half written."""

from __future__ import annotations

import json
import zipfile

import pytest

from recbole_eimf.core.errors import DataError
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.export import export
from recbole_eimf.serving.recommender import Recommender


@pytest.fixture
def folder(exported):
    return exported("IBIM", backbone="GRU4Rec")[1]


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_in_it_is_listed_and_no_pickle(folder):
    names = {file.name for file in folder.iterdir()}
    listed = json.loads((folder / "config.json").read_text())["files"]
    assert names == {*listed, "config.json"}
    assert names == {"config.json", "encoder.safetensors", "items.safetensors", "items.parquet", "users.parquet",
                     "README.md"}  # fmt: skip
    for file in folder.iterdir():
        assert not zipfile.is_zipfile(file)  # what torch.save writes
        assert not file.read_bytes()[:2].startswith(b"\x80")  # what pickle writes
    assert folder.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no such model folder.*export --run OUT"):
        Recommender.load(tmp_path / "none")


def test_a_place_that_holds_something_else_is_refused_before_a_run_is_loaded(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(DataError, match="mine: is there already and is no model folder"):
        export(tmp_path / "no-run", tmp_path / "mine")


def test_half_a_folder(folder):
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match="half of one: it has no config.json"):
        Recommender.load(folder)


def test_a_missing_file(folder):
    (folder / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"items.parquet: missing; config.json lists it"):
        Recommender.load(folder)


@pytest.mark.parametrize("name", ["encoder.safetensors", "items.safetensors", "items.parquet", "users.parquet"])
def test_cut_off_and_damaged_files(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{name}: \d+ bytes where config.json says {len(whole)}"):
        Recommender.load(folder)
    middle = len(whole) // 2
    (folder / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(DataError, match=rf"{name}: damaged"):
        Recommender.load(folder)


def test_a_newer_format(folder):
    change_config(folder, format_version=model_folder.VERSION + 1, made_by="9.9")
    with pytest.raises(DataError, match=r"format_version=2.*Update recbole_eimf \(the folder was made by 9.9\)"):
        Recommender.load(folder)


@pytest.mark.parametrize("version", ["1", None, 0])
def test_no_version(folder, version):
    change_config(folder, format_version=version)
    with pytest.raises(DataError, match="is no version"):
        Recommender.load(folder)


def test_foreign_folders(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="not of a model that recbole_eimf exported"):
        Recommender.load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "recbole_eimf model", "format_version": 1}')
    with pytest.raises(DataError, match="what a run wrote, no model folder yet.*export --run"):
        Recommender.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Recommender.load(tmp_path)


def test_files_outside_the_folder_are_refused(folder):
    change_config(folder, files={"../secret": {"bytes": 1, "sha256": "0"}})
    with pytest.raises(DataError, match="which is no plain file"):
        Recommender.load(folder)


def test_an_encoder_that_does_not_fit_its_parameters(folder):
    encoder = json.loads((folder / "config.json").read_text())["encoder"]
    change_config(folder, encoder={**encoder, "keys": {**encoder["keys"], "hidden_size": 8}})
    with pytest.raises(DataError, match="parameters do not fit GRU4Rec"):
        Recommender.load(folder)
    change_config(folder, encoder={**encoder, "towers": ["DNN"]})
    with pytest.raises(DataError, match=r"config.json: lacks 'hidden_dropout_prob'"):
        Recommender.load(folder)
    for broken in (5, {**encoder, "towers": 3}, {**encoder, "more": 1}):
        change_config(folder, encoder=broken)
        with pytest.raises(DataError, match=r"config.json: is not of a model"):
            Recommender.load(folder)


def test_a_kill_while_writing_leaves_the_old_folder(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def killed():
        with model_folder.new_folder(folder, {}) as new:
            (new / "items.parquet").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [other.name for other in folder.parent.iterdir() if other.name.startswith(".")] == []


def test_an_older_model_is_replaced_and_nothing_else(folder, tmp_path):
    with model_folder.new_folder(folder, {"model": "new"}) as new:
        (new / "a").write_text("a")
    assert {file.name for file in folder.iterdir()} == {"config.json", "a"}
    assert model_folder.read_config(folder)["model"] == "new"
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="is there already and is no model folder"), model_folder.new_folder(other, {}):
        pass
    assert (other / "thesis.tex").read_text() == "x"
