"""A disk that is full, read-only or in the way: one line that names path and remedy, and nothing half-written.

The system's answers are planted at the lowest level, because root writes whatever the rights say.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from recbole_eimf.__main__ import main, run_command
from recbole_eimf.core import disk
from recbole_eimf.core.errors import DiskError
from recbole_eimf.core.files import append_jsonl, atomic_path, read_jsonl, write_json
from recbole_eimf.experiment import assembly

REFUSALS = [(errno.ENOSPC, "No space left", "Make room"), (errno.EROFS, "Read-only", "not read-only"),
            (errno.EACCES, "Permission denied", "may write"), (errno.EDQUOT, "quota", "quota")]  # fmt: skip


def refuse(monkeypatch, code: int, when=lambda path: True) -> None:
    """Let the system refuse every file that ``when`` says, as ``open`` and ``mkstemp`` do."""
    original = os.open

    def opened(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR) and when(os.fspath(path)):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return original(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize(("code", "said", "remedy"), REFUSALS)
def test_a_refusal_names_the_path_the_reason_and_the_remedy(monkeypatch, tmp_path, code, said, remedy):
    target = tmp_path / "result.json"
    write_json(target, {"old": 1})
    refuse(monkeypatch, code)
    with pytest.raises(DiskError, match=rf"result\.json: cannot be written \(.*{said}.*\)\..*{remedy}"):
        write_json(target, {"new": 2})
    assert json.loads(target.read_text()) == {"old": 1}
    with pytest.raises(DiskError, match=rf"output_dir=.*\(.*{said}.*\)\..*{remedy}"):
        disk.check_writable(tmp_path, "output_dir")


def full_after(monkeypatch, size: int) -> None:
    """A disk that takes the first bytes of every file and then is full, as write() finds it."""
    original = Path.write_text

    def written(path, text, *args, **kwargs):
        original(path, text[:size], *args, **kwargs)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", written)


def test_a_file_half_written_is_not_left_behind(monkeypatch, tmp_path):
    write_json(tmp_path / "result.json", {"old": 1})
    full_after(monkeypatch, 3)
    with pytest.raises(DiskError, match="No space left"):
        write_json(tmp_path / "result.json", {"new": 2})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert json.loads((tmp_path / "result.json").read_text()) == {"old": 1}


def test_a_full_device_stops_a_journal_with_its_lines_kept(tmp_path, monkeypatch):
    append_jsonl(tmp_path / "journal.jsonl", [{"user_id": "u1"}])
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(DiskError, match=r"journal\.jsonl: cannot be written \(No space left"):
        append_jsonl(tmp_path / "journal.jsonl", [{"user_id": "u2"}])
    assert [record["user_id"] for _, record in read_jsonl(tmp_path / "journal.jsonl")][0] == "u1"
    if Path("/dev/full").exists():
        with (
            pytest.raises(DiskError, match="/dev/full: cannot"),
            disk.writing("/dev/full"),
            open("/dev/full", "w") as f,
        ):
            f.write("x")


def test_errors_of_other_files_pass_through(tmp_path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "out" / "a.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/read.csv")
    with pytest.raises(FileNotFoundError), disk.writing(tmp_path / "a"):
        (tmp_path / "none").read_bytes()
    assert disk.refusal(OSError(errno.ECONNREFUSED, "refused", "x")) is None


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DiskError, match="A file stands where a folder is needed"):
            disk.check_writable(folder, "--out")
        with pytest.raises(DiskError, match="A file stands where a folder is needed"):
            disk.check_writable(folder, "--out", make=False)
        with pytest.raises(DiskError, match="A file stands where a folder is needed"):
            write_json(folder / "a.json", {})
    with pytest.raises(DiskError, match="shorter name"):
        write_json(tmp_path / ("x" * 300), {})


def test_where_no_folder_can_be_made_is_said(tmp_path, monkeypatch):
    def gone(*_, **__):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/proc/x")

    monkeypatch.setattr(tempfile, "TemporaryFile", gone)  # as below /proc
    with pytest.raises(DiskError, match="--out=.*cannot be made there. Name a folder"):
        disk.check_writable(tmp_path, "--out", make=False)


def test_a_probe_leaves_nothing(tmp_path):
    disk.check_writable(tmp_path / "a" / "b", "--out", make=False)
    assert not list(tmp_path.iterdir())
    disk.check_writable(tmp_path / "a" / "b", "--out")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_a_refused_folder_is_not_left_behind(tmp_path, monkeypatch):
    """A full disk takes folders, and no file; what was there stays."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    (tmp_path / "there").mkdir()
    for folder in ("there", "there/a/b"):
        with pytest.raises(DiskError, match="Make room"):
            disk.check_writable(tmp_path / folder, "output_dir")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


# ---------------------------------------------------------------------- commands
@pytest.fixture
def keys(planted, semantic_cache):
    return [f"--data_path={planted}", f"--semantic_cache={semantic_cache}", "--text_encoder=tfidf-svd", "--topk=[5]",
            "--valid_metric=NDCG@5", "--epochs=2", "--hidden_size=8", "--inner_size=8", "--MAX_ITEM_LIST_LENGTH=8",
            "--show_progress=False"]  # fmt: skip


def below(folder: Path):
    return lambda path: str(path).startswith(str(folder))


def test_commands_say_it_before_any_work(tmp_path, keys, planted, monkeypatch, capsys):
    (tmp_path / "read-only").mkdir()
    refuse(monkeypatch, errno.EROFS, below(tmp_path / "read-only"))
    monkeypatch.setattr(tempfile, "_os", os)
    out = tmp_path / "read-only" / "out"
    csv = tmp_path / "i.csv"
    csv.write_text("user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{i}\n" for u in range(3) for i in range(5)))
    monkeypatch.setattr(assembly, "loaders", lambda config: pytest.fail("this is work"))
    for key, command in {
        "output_dir": ["run", "--model=IBIM", "--dataset=planted", *keys, f"--output_dir={out}"],
        "checkpoint_dir": ["run", "--model=IBIM", "--dataset=planted", *keys, f"--checkpoint_dir={out}"],
        "--out": ["compare", "--models=Markov", "--dataset=planted", *keys, f"--out={out}"],
        " --out": ["tune", "--model=IBIM", "--dataset=planted", *keys, f"--out={out}"],
        "--out ": ["prepare", "csv", f"--interactions={csv}", "--name=a", f"--out={out}"],
        "  --out": ["agreement", str(tmp_path), str(tmp_path), f"--out={out}"],
    }.items():
        assert main(command) == 2, key
        error = capsys.readouterr().err
        assert f"error: {key.strip()}={out}" in error
        assert "Read-only file system" in error
        assert "Traceback" not in error
    assert not list((tmp_path / "read-only").rglob("*.*"))


def test_interests_say_it_before_anything_is_paid(tmp_path, keys, monkeypatch, capsys):
    refuse(monkeypatch, errno.ENOSPC, below(tmp_path / "full"))
    (tmp_path / "full").mkdir()
    command = ["interests", "--dataset=planted", "--interest_source=keywords", *keys]
    assert main([*command, f"--output_dir={tmp_path / 'full' / 'out'}"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert main([*command, f"--semantic_cache={tmp_path / 'full' / 'cache'}"]) == 2


def test_a_semantic_cache_that_takes_nothing_is_named_before_texts_are_encoded(tmp_path, keys, monkeypatch, capsys):
    refuse(monkeypatch, errno.EROFS, below(tmp_path / "full"))
    (tmp_path / "full").mkdir()
    given = [key for key in keys if "semantic_cache" not in key]
    arguments = [
        "--model=EIMF",
        "--dataset=planted",
        *given,
        "--compare_with=[]",
        f"--semantic_cache={tmp_path / 'full' / 'cache'}",
    ]
    assert run_command(arguments) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'full' / 'cache'}" in error
    assert "Traceback" not in error


def test_a_disk_that_fills_up_in_training_ends_it_with_a_line_and_it_goes_on_later(tmp_path, keys, monkeypatch, capsys):
    arguments = ["--model=IBIM", "--dataset=planted", *keys, f"--output_dir={tmp_path / 'out'}"]
    original, count = os.fsync, []

    def synced(handle):
        count.append(handle)
        if len(count) == 7:  # somewhere in the second epoch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(handle)

    monkeypatch.setattr(os, "fsync", synced)
    assert run_command(arguments) == 2
    error = capsys.readouterr().err
    assert f"error: {tmp_path / 'out'}" in error
    assert "cannot be written (No space left on device)" in error
    assert not list((tmp_path / "out").glob(".*.tmp"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run_command([*arguments, "--resume=True"]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["epochs"] == 2


def test_with_output_dir_nothing_is_written_where_the_program_stands(tmp_path, keys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for model in ("IBIM", "PAD"):
        arguments = [
            f"--model={model}",
            "--dataset=planted",
            *keys,
            *(["--finetune_epochs=1"] if model == "PAD" else []),
            f"--output_dir={tmp_path / model}",
        ]
        assert run_command(arguments) == 0
    assert not list((tmp_path / "here").iterdir())
    assert (tmp_path / "PAD" / "run.log").is_file()
    assert list((tmp_path / "PAD" / "log_tensorboard").iterdir())


def test_a_reader_that_has_had_enough_is_no_crash():
    """``... | head -1``"""
    command = [sys.executable, "-m", "recbole_eimf", "serve", "--help"]
    asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    asked.stdout.close()
    said = asked.stderr.read()
    assert asked.wait() == 141
    assert said == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [[], ["knn_shrink"]], ids=["more than is held back", "a line"])
def test_a_log_on_a_full_disk_is_named(monkeypatch, capsys, words):
    """``... > LOG``"""
    with open("/dev/full", "w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        assert main(["keys", *words]) == 2
    assert "error: the output: cannot be written (No space left on device)" in capsys.readouterr().err


def test_output_that_was_closed_is_no_fault_of_the_command(monkeypatch):
    """``... >&-``"""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["keys", "knn_shrink"]) == 0
