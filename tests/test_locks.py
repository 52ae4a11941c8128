"""One table's folder is one command's at a time, a shared file is made once; a lock whose holder was killed is none."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from recbole_eimf.cli import compare as compare_command
from recbole_eimf.core import locks
from recbole_eimf.core.errors import ConfigError, DiskError
from recbole_eimf.core.locks import folder_locked, made_once
from recbole_eimf.semantic.journal import exclusive
from recbole_eimf.study.search import tune
from tests.held_folder import held_by_another


def test_a_second_command_in_the_same_folder_is_refused_until_the_first_is_gone(tmp_path, planted):
    command = ["--models=Markov", "--dataset=planted", f"--data_path={planted}", f"--out={tmp_path / 'out'}",
               "--parallel=0", "--topk=[1,5]", "--valid_metric=NDCG@5"]  # fmt: skip
    with held_by_another(tmp_path / "out") as process:
        with pytest.raises(ConfigError, match=rf"--out=.*out: another command.*process {process.pid}\)"):
            compare_command.main(command)
        assert not (tmp_path / "out" / "runs").exists()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "out" / "lock").exists()
    assert compare_command.main(command) == 0
    assert compare_command.main(command) == 0


def test_a_search_has_its_folder_to_itself_too(tmp_path, planted):
    with folder_locked(tmp_path / "out"), pytest.raises(ConfigError, match="--out=.*out: another command"):
        tune.search("IBIM", "planted", tmp_path / "out", tune.SearchEffort(samples=1), data_path=str(planted))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lock"]


def test_folders_are_locked_one_by_one(tmp_path):
    with folder_locked(tmp_path / "a"), folder_locked(tmp_path / "b"):
        pass
    with folder_locked(tmp_path / "a"):
        pass


def start_making(path: Path, go_on: Path) -> None:
    with made_once(path, print):
        (path.parent / "begun").touch()
        while not go_on.exists():
            time.sleep(0.01)
        path.write_text("the first")


def begun(path: Path, go_on: Path):
    process = multiprocessing.get_context("fork").Process(target=start_making, args=(path, go_on))
    process.start()
    while not (path.parent / "begun").exists():
        time.sleep(0.01)
    return process


def test_a_file_that_another_process_makes_is_waited_for(tmp_path):
    path, said = tmp_path / "cache" / "expert", []
    process = begun(path, tmp_path / "go")

    def say(text):
        assert not path.exists()
        said.append(text)
        (tmp_path / "go").touch()

    with made_once(path, say):
        assert path.read_text() == "the first"
    process.join()
    assert said == [f"process {process.pid} is making {path}; waiting for it"]
    with made_once(path, say):
        assert path.is_file()
    assert len(said) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["begun", "expert"], "the lock goes when the file is there"


def test_a_file_whose_maker_was_killed_is_made_by_the_next(tmp_path):
    path = tmp_path / "expert"
    process = begun(path, tmp_path / "never")
    with made_once(path, lambda text: process.kill()):
        assert not path.exists()
        path.write_text("the second")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "expert.lock").exists()


def test_a_file_that_could_not_be_made_leaves_its_place_to_the_next(tmp_path):
    path, said = tmp_path / "expert", []
    with pytest.raises(KeyboardInterrupt), made_once(path, said.append):
        raise KeyboardInterrupt
    with made_once(path, said.append):
        path.touch()
    assert said == []


def fill(journal: Path, go_on: Path) -> None:
    with exclusive(journal):
        (go_on.parent / "begun").touch()
        while not go_on.exists():
            time.sleep(0.01)
        journal.write_text("paid")


def test_a_journal_that_another_process_fills_is_waited_for(tmp_path, monkeypatch):
    """Where the system has no fcntl, too: else two runs that start together would both pay."""
    monkeypatch.setitem(sys.modules, "fcntl", None)  # filelock has what it needs of the system since it was imported
    journal, go_on, said = tmp_path / "cache" / "j.jsonl", tmp_path / "go", []
    process = multiprocessing.get_context("fork").Process(target=fill, args=(journal, go_on))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)

    def say(text, *values):
        said.append(text % values)
        go_on.touch()

    monkeypatch.setattr(logging.getLogger("recbole_eimf.semantic.journal"), "warning", say)
    try:
        with exclusive(journal):
            assert journal.read_text() == "paid", "two runs hold one journal"
    finally:
        go_on.touch()
        process.join()
    assert said == [f"{journal}: another run (process {process.pid}) is filling this journal; waiting for it."]


def test_a_journal_that_cannot_be_written_is_not_held(tmp_path):
    """A system without locks lets everyone through; a call must not be paid for whose reply has no place."""
    with pytest.raises(OSError), exclusive(tmp_path):
        pytest.fail("a folder was taken for a journal")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_a_file_system_has_no_locks_everyone_is_let_through(tmp_path, monkeypatch, number):
    monkeypatch.setattr(locks.FileLock, "acquire", refused(number))
    with exclusive(tmp_path / "j.jsonl"), made_once(tmp_path / "expert", pytest.fail), folder_locked(tmp_path / "out"):
        pass


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "cannot be written .*Name a folder that you may write to"),
        (errno.ENOSPC, "cannot be written .*Make room"),
        (errno.EMFILE, "cannot be locked .*Try again, or name a folder on another disk"),
    ],
)
def test_a_lock_that_cannot_be_had_is_an_error_not_a_lock(tmp_path, monkeypatch, number, told):
    """Else two runs would fill one journal, and both would pay."""
    monkeypatch.setattr(locks.FileLock, "acquire", refused(number))
    with pytest.raises(DiskError, match=f"{tmp_path}/j.jsonl.lock: {told}"), exclusive(tmp_path / "j.jsonl"):
        pytest.fail("held without a lock")


def refused(number: int):
    def acquire(*_, **__):
        raise OSError(number, os.strerror(number))

    return acquire
