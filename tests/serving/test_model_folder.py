"""Model folders: what is in one, and what is said of those that are damaged, foreign, newer or half written."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from recbole_eimf.__main__ import main
from recbole_eimf.core import files, parts
from recbole_eimf.core.errors import DataError
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.export import export, read_result
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.trainer import checkpoint


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
    with pytest.raises(DataError, match="no such model folder.*export --run OUT --out '.*/no ne'`"):
        Recommender.load(tmp_path / "no ne")


def test_a_place_that_holds_something_else_is_refused_before_a_run_is_loaded(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"mine: is a folder of something else \(1 entry, 'notes.txt' among them\)"):
        export(tmp_path / "no-run", tmp_path / "mine")


def test_what_is_in_the_way_of_a_model_is_named(toy, capsys):
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    for name in ("finished", "begun", "broken", "half", "empty"):
        Path(name).mkdir()
    Path("finished", "result.json").write_text("{}")
    Path("begun", "config.json").write_text(json.dumps({"format": checkpoint.FORMAT}))
    for name in ("broken", "half"):
        Path(name, "items.parquet").touch()
    Path("broken", "config.json").write_text("{")
    for name, said in (
        ("file", "a file is there already, and a model is a folder"),
        ("link", "a link that leads nowhere is there already"),
        ("finished", "is the output_dir of a run.*such as finished/model"),
        ("begun", "is the output_dir of a run.*such as begun/model"),
        ("broken", "holds a part of a model folder: its config.json is missing or damaged"),
        ("half", "holds a part of a model folder: its config.json is missing or damaged"),
    ):
        assert main(["export", "--run", "none", "--out", name]) == 2
        assert re.search(f"error: {name}: {said}", capsys.readouterr().err), name
    toy("model")
    for name in ("model", "empty", "nothing"):
        assert main(["export", "--run", "none", "--out", name]) == 2
        assert "error: none: no such folder" in capsys.readouterr().err  # it comes as far as the run


def test_an_earlier_model_is_replaced_and_that_is_said(toy, monkeypatch, capsys):
    monkeypatch.setattr("recbole_eimf.serving.export.export", lambda run, out, **_: toy(out))
    for place in ("", " in place of an earlier model"):
        assert main(["export", "--run", "run", "--out", "model"]) == 0
        assert f"MB){place}. Next: python -m recbole_eimf recommend --model model" in capsys.readouterr().out


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


def test_a_card_is_its_owners_to_write_in(folder):
    """A licence, a contact, what a hub puts at its top: nothing reads it, and the model is the same."""
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write("\nAsk the search team before you change this.\n")
    assert len(Recommender.load(folder).recommend([["i1"]], k=2)) == 2
    (folder / "README.md").unlink()
    with pytest.raises(DataError, match=r"README\.md: missing"):
        Recommender.load(folder)


def test_a_newer_format(folder):
    change_config(folder, format_version=model_folder.VERSION + 1, made_by="9.9")
    with pytest.raises(DataError, match=r"format_version=2.*Update recbole_eimf \(the folder was made by 9.9\)"):
        Recommender.load(folder)


@pytest.mark.parametrize("version", ["1", None, 0])
def test_no_version(folder, version):
    change_config(folder, format_version=version)
    with pytest.raises(DataError, match="is not a version"):
        Recommender.load(folder)


def test_the_model_that_a_run_without_output_dir_leaves_is_no_unfinished_run(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="a model alone, as a run without output_dir leaves it.*--output_dir=OUT"):
        read_result(tmp_path)
    (tmp_path / "history.json").touch()
    with pytest.raises(DataError, match="the run is not finished"):
        read_result(tmp_path)


def test_foreign_folders(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="not of a model that recbole_eimf exported"):
        Recommender.load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "recbole_eimf model", "format_version": 1}')
    with pytest.raises(DataError, match="what a run wrote, .* yet. Train with --output_dir=OUT.*export --run OUT"):
        Recommender.load(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(DataError, match=f"what a run wrote, no model folder yet. `.*export --run {tmp_path} --out"):
        Recommender.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Recommender.load(tmp_path)


@pytest.mark.parametrize("name", [
    "name", "encoder", "diversity", "text", "index", "data", "data.dataset", "evaluation.mask_history",
    "evaluation.eval_batch_size", "evaluation.eval_chunk_items", "keys", "model",
])  # fmt: skip
def test_a_key_that_was_removed_is_named(toy, name):
    file = toy("model") / "config.json"
    config = found = json.loads(file.read_text())
    *above, last = name.split(".")
    for key in above:
        found = found[key]
    del found[last]
    file.write_text(json.dumps(config))
    with pytest.raises(DataError, match=rf"^model/config\.json: lacks '{name}.*'\. Put it back, or export"):
        Recommender.load("model")


def test_an_index_of_no_kind_is_named_with_its_file(toy):
    change_config(toy("model"), index="fast")
    with pytest.raises(
        DataError, match=r"^model/config\.json: index='fast'; allowed are auto, flat, hnsw, none\. Put it"
    ):
        Recommender.load("model")


def test_a_card_that_cannot_be_written_names_the_key(toy, capsys):
    folder = toy("model")
    config = json.loads((folder / "config.json").read_text())
    del config["evaluation"]["protocol"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"other: cannot be written, because the config\.json .* lacks 'protocol'"):
        Recommender.load("model").save("other")
    assert not Path("other").exists()


def test_a_key_given_twice_is_refused(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"mask_history":', '"mask_history": false, "mask_history":', 1))
    with pytest.raises(DataError, match=r"config\.json: key 'mask_history' is given twice\. Keep one"):
        Recommender.load(folder)


def test_files_outside_the_folder_are_refused(folder):
    change_config(folder, files={"../secret": {"bytes": 1, "sha256": "0"}})
    with pytest.raises(DataError, match="which is not a plain file"):
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


def test_nothing_is_synced_in_a_way_that_windows_refuses(tmp_path, monkeypatch):
    """There a file must be open for writing (else EBADF), and a folder cannot be opened."""
    fcntl = pytest.importorskip("fcntl")
    opened, synced = os.open, os.fsync

    def open_no_folder(path, flags, *more, **keys):
        if not flags & os.O_CREAT and os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *more, **keys)

    def sync_what_may_be_written(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return synced(handle)

    monkeypatch.setattr(os, "fsync", sync_what_may_be_written)
    files.write_json(tmp_path / "result.json", {})
    with monkeypatch.context() as at_once, model_folder.new_folder(tmp_path / "model", {}) as new:
        at_once.setattr(os, "open", open_no_folder)
        (new / "README.md").write_text("a card")
    assert model_folder.is_model_folder(tmp_path / "model")


def test_what_lies_beside_a_model_is_not_lost_with_it(folder):
    """A batch's output, a repository: an older model is replaced, and nothing else."""
    model = Recommender.load(folder)
    model.save(folder)
    (folder / "recs.parquet").write_text("")
    with pytest.raises(DataError, match="holds 'recs.parquet' beside the model that is there.*Move that"):
        model.save(folder)
    assert (folder / "recs.parquet").exists()


@pytest.mark.parametrize(("key", "value"), [
    ("name", 5), ("evaluation.mask_history", "False"), ("evaluation.eval_batch_size", 0), ("encoder.score", "cos"),
    ("encoder.keys.MAX_ITEM_LIST_LENGTH", "50"),
])  # fmt: skip
def test_a_value_that_answers_are_made_with_is_of_its_kind(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    *above, last = key.split(".")
    place = config
    for name in above:
        place = place[name]
    place[last] = value
    change_config(folder, **config)
    with pytest.raises(DataError, match=f"config.json: {key} is {value!r}"):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that is killed is forked")
def test_what_a_killed_writer_left_goes_with_the_next_model(tmp_path):
    """A weekly export that is killed for want of memory would fill the disk with halves that nobody sees."""
    folder = tmp_path / "model"
    if not (writer := os.fork()):
        with model_folder.new_folder(folder, {}) as new:
            (new / "items.parquet").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGKILL
    (left,) = asides(folder)
    (foreign := tmp_path / ".model.backup.tmp").mkdir()
    with model_folder.new_folder(folder, {"model": "slow"}) as new:
        assert not left.exists()
        with model_folder.new_folder(folder, {"model": "quick"}) as other:  # of another command, which is at it
            assert other.is_dir()
        assert new.is_dir()
    assert model_folder.read_config(folder)["model"] == "slow"
    assert asides(folder) == [foreign]


def test_an_older_model_is_replaced_and_nothing_else(folder, tmp_path):
    with model_folder.new_folder(folder, {"model": "new"}) as new:
        (new / "a").write_text("a")
    assert {file.name for file in folder.iterdir()} == {"config.json", "a"}
    assert model_folder.read_config(folder)["model"] == "new"
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="is a folder of something else"), model_folder.new_folder(other, {}):
        pass
    assert (other / "thesis.tex").read_text() == "x"


# ---------------------------------------------------------------------- a folder in the place of an older one
def best(folder):
    return Recommender.load(folder).recommend([["unknown"]], k=1)["item"].tolist()


def asides(folder):
    return [path for path in folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("after", [False, True], ids=["before it moves", "after it moved"])
def test_a_stop_between_the_renames_leaves_a_model(toy, monkeypatch, error, after):
    """Ctrl-C comes between two lines, or while the system renames."""
    folder, real = toy("model").absolute(), Path.rename

    def rename(path, target):
        if after and Path(target).name == "model" and Path(target).parent.suffix == ".old":
            real(path, target)
            raise error
        if not after and Path(target).absolute() == folder and path.parent.suffix == ".tmp":
            raise error
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(error):
        toy(folder, (5, 4, 3, 2, 1))
    assert best(folder) == ["B5"]
    assert asides(folder) == []
    monkeypatch.undo()
    toy(folder, (5, 4, 3, 2, 1))
    assert best(folder) == ["B1"]


def test_the_only_model_is_not_removed_where_it_cannot_get_its_name_back(toy, monkeypatch):
    folder, real = toy("model").absolute(), Path.rename

    def rename(path, target):
        if Path(target).absolute() == folder:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        toy(folder, (5, 4, 3, 2, 1))
    (aside,) = asides(folder)
    assert best(aside / "model") == ["B5"]


@pytest.mark.parametrize("reads", [True, False])
def test_what_a_kill_left_aside_is_put_back(toy, reads):
    folder = toy("model").absolute()
    aside = folder.with_name(".model.ab12cd34.old")
    aside.mkdir()
    folder.rename(aside / "model")
    for _ in range(2):  # that old it is what another process moved aside a moment ago
        with pytest.raises(DataError, match="no such model folder"):
            model_folder.read_config(folder)
    os.utime(aside, (1, 1))
    if reads:
        assert best(folder) == ["B5"]
    else:
        toy(folder, (5, 4, 3, 2, 1))
        assert best(folder) == ["B1"]
    assert asides(folder) == []


@pytest.mark.parametrize("out", [".", "..", "{}", "{}/.."])
@pytest.mark.parametrize("command", [["export", "--run", "none"], ["add", "--model", "none", "--items", "new.csv"]])
def test_the_working_folder_is_refused_before_anything_is_loaded(toy, tmp_path, capsys, monkeypatch, out, command):
    toy("model")
    monkeypatch.chdir(tmp_path / "model")
    Path("new.csv").write_text("item_id,title\nn1,thing\n")
    out = out.format(tmp_path / "model")
    assert main([*command, "--out", out]) == 2
    assert (
        f"{Path(out)}: cannot be replaced by a model folder, because the command works in there"
        in capsys.readouterr().err
    )


def test_a_mounted_disk_is_refused(toy, tmp_path, monkeypatch):
    toy("model")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "model")
    with pytest.raises(DataError, match="model: cannot be replaced.*a disk is mounted there.*such as model/model"):
        model_folder.check_place("model")


def test_graphs_that_cannot_be_written_are_refused_before_anything_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recbole_eimf.serving.export.read_run", lambda *_: pytest.fail("the run is loaded"))
    (tmp_path / "result.json").write_text('{"model": "Popularity"}')
    options = ["--out", str(tmp_path / "model"), "--refit", "--onnx"]
    assert main(["export", "--run", str(tmp_path), *options]) == 2
    assert "--onnx: a counting model has no encoder to write" in capsys.readouterr().err
    (tmp_path / "result.json").write_text('{"model": "EIMF"}')
    real = parts._found
    monkeypatch.setattr(parts, "_found", lambda module: module != "onnx" and real(module))
    assert main(["export", "--run", str(tmp_path), *options]) == 2
    assert "onnx is needed here and not installed" in capsys.readouterr().err


def test_a_full_disk_under_tensors_is_the_systems_error(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model_folder, "save_file", full)
    with pytest.raises(OSError, match="No space left") as refused:
        model_folder.write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(1)})
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(tmp_path / "t.safetensors"))
