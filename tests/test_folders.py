"""A run, a table, a search and a model do not write between each other's files."""

import json

import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.folders import check_kind, kind_of

HOLDS = {
    "model": ["config.json", "items.parquet", "items.safetensors"],
    "data": ["mine.inter"],
    "run": ["config.json", "model.safetensors"],
    "search": ["search.json", "results.json"],
    "table": ["results.json"],
    "replies": ["meta.json", "interests.jsonl"],
}


def folder_with(path, names):
    path.mkdir()
    for name in names:
        (path / name).write_text("{}")
    return path


@pytest.mark.parametrize("kind", HOLDS)
def test_each_kind_of_folder_is_known_and_refused_by_the_others(tmp_path, kind):
    folder = folder_with(tmp_path / "there", HOLDS[kind])
    assert kind_of(folder) == kind
    for wanted in ("run", "table", "search"):
        if wanted == kind:
            check_kind(folder, wanted)
        else:
            with pytest.raises(ConfigError, match=f"^--out={folder}: is .*, and a {wanted} would be written"):
                check_kind(folder, wanted)


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["config.json"], ["result.txt"], ["meta.json"]])
def test_what_is_nothing_of_ours_may_be_written_into(tmp_path, names):
    folder = folder_with(tmp_path / "there", names)
    assert kind_of(folder) is None
    check_kind(folder, "run")
    check_kind(tmp_path / "not there", "run")


def test_commands_refuse_the_folder_of_something_else_and_leave_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind, names in HOLDS.items():
        folder_with(tmp_path / kind, names)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    small = ["--dataset=ml-100k", "--epochs=1", "--state=ERROR", "--show_progress=False"]
    commands = {
        "output_dir=model: is a model folder": ["run", "--model=Popularity", *small, "--output_dir=model"],
        "output_dir=data: is the folder of a data set": ["run", "--model=Popularity", *small, "--output_dir=data"],
        "output_dir=table: is the folder of a table": ["run", "--model=Pop", *small, "--output_dir=table"],
        "/run: is the output_dir of a run": ["compare", "--models=SASRec", *small[:3], "--parallel=0", "--out=run"],
        "/model: is a model folder": ["tune", "--model=IBIM", *small, "--out=model"],
        "run: not a table but the output_dir of a run": ["standings", "run"],
    }
    for said, command in commands.items():
        assert main(command) == 2, command
        assert said in " ".join(capsys.readouterr().err.split()), command
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {}
