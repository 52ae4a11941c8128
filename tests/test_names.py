"""Names of files and data sets that cannot be, configuration files that cannot be read: a line before any work."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.config.config import read_yaml
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import write_json
from recbole_eimf.core.locks import folder_locked
from recbole_eimf.study.runs import folder_name, read_of_run
from recbole_eimf.study.search.trial import read_trial


@pytest.mark.parametrize("name", ["../planted", "a/b", "..", ".hidden", "/etc", "x" * 300, "é" * 100, "a\\b"])
@pytest.mark.parametrize("command", ["run", "tune", "interests", "compare"])
def test_a_data_set_has_a_plain_name(tmp_path, planted, capsys, name, command):
    arguments = [command, f"--dataset={name}", f"--data_path={planted}"]
    arguments += ["--models=Markov", f"--out={tmp_path / 'out'}"] if command == "compare" else []
    arguments += ["--interest_source=keywords"] if command == "interests" else []
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"dataset={name[:40]}" in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("out", "lock")] == []


def test_prepare_writes_no_name_that_is_too_long(tmp_path, capsys):
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\nu,i,1\n")
    assert main(["prepare", "csv", f"--interactions={tmp_path / 'i.csv'}", f"--name={'x' * 300}", "--out=out"]) == 2
    assert "has 300 bytes; a name has at most 150" in capsys.readouterr().err


def test_folders_of_rows_have_names_that_disks_take():
    names = {folder_name(f"{'long name ' * 30}{number}") for number in range(3)}
    assert len(names) == 3
    assert all(len(name) < 80 for name in names)
    assert folder_name("EIMF[SASRec]") == "EIMF-SASRec"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nname: \xe9t\xe9\n", r"line 2: not UTF-8 text. Save the file as UTF-8"),
        (b"\xff\xfea\x00", r"line 1: not UTF-8"),
        (b"a: [1\n", r"line \d: not YAML"),
        (None, "no such configuration file"),
    ],
)
def test_configuration_files_that_cannot_be_read(tmp_path, capsys, content, said):
    path = tmp_path / "keys.yaml"
    if content is not None:
        path.write_bytes(content)
    for command in ("run", "tune"):
        assert main([command, "--model=IBIM", "--dataset=ml-100k", f"--config_files={path}"]) == 2
        error = capsys.readouterr().err
        assert str(path) in error
        assert re.search(said, error)
    with pytest.raises(ConfigError, match="not a readable configuration file"):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    (tmp_path / "keys.yaml").write_bytes(b"\xef\xbb\xbfgamma: 0.5\n")
    assert read_yaml(tmp_path / "keys.yaml") == {"gamma": 0.5}


def test_half_files_of_a_kill_are_cleared_by_who_has_the_folder_next(tmp_path):
    write_json(tmp_path / "result.json", {})
    for name in (".index.html.k3j_2x9a.tmp", ".results.json.abcdefgh.tmp", ".mine.tmp"):
        (tmp_path / name).touch()
    with folder_locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "lock", "lock.pid", "result.json"]


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"result\.json: damaged"):
        read_of_run(tmp_path / "result.json")
    assert read_of_run(tmp_path / "none.json") is None


@pytest.mark.parametrize("content", [b'{"status": ', b"\xff", b"[" * 100_000])
def test_a_damaged_trial_is_named(tmp_path, content):
    job = SimpleNamespace(folder=lambda number: tmp_path)
    (tmp_path / "trial.json").write_bytes(content)
    with pytest.raises(DataError, match=r"trial\.json: damaged .*Remove the folder"):
        read_trial(job, 0)


def test_prepare_says_when_items_have_no_title(tmp_path, capsys):
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"u,i{n},{n}\n" for n in range(3)))
    (tmp_path / "t.csv").write_text("item_id,name,colour\n" + "".join(f"i{n},thing {n},red\n" for n in range(3)))
    command = ["prepare", "csv", f"--interactions={tmp_path / 'i.csv'}", f"--items={tmp_path / 't.csv'}"]
    assert main([*command, "--name=a", "--out=out"]) == 0
    shown = capsys.readouterr().out
    assert "without a title column: ids only" in shown
    assert "columns that are there: name, colour. Name the title's with --title-column" in shown
    assert main([*command, "--name=b", "--out=out", "--title-column=name"]) == 0
    assert "without a title column" not in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_escaped(tmp_path, monkeypatch, encoding):
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\nu, 日本,1\n", encoding="utf-8")
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    given = ["--interactions", str(tmp_path / "i.csv"), "--name=n", "--out", str(tmp_path / "out")]
    assert main(["prepare", "csv", *given]) == 0
    assert rb"\u65e5\u672c" in screen.buffer.getvalue()
