"""One table's folder is one command's at a time; a lock whose holder was killed is no lock."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from recbole_eimf.errors import ConfigError
from recbole_eimf.study import compare, tune
from recbole_eimf.study.surroundings import folder_locked


def hold(folder: Path) -> None:
    with folder_locked(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_second_command_in_the_same_folder_is_refused_until_the_first_is_gone(tmp_path, planted):
    command = ["--models=Markov", "--dataset=planted", f"--data_path={planted}", f"--out={tmp_path / 'out'}",
               "--parallel=0", "--topk=[1,5]", "--valid_metric=NDCG@5"]  # fmt: skip
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "out",))
    process.start()
    while not (tmp_path / "out" / "held").exists():
        time.sleep(0.01)
    with pytest.raises(ConfigError, match=rf"--out=.*out: another command.*process {process.pid}\)"):
        compare.main(command)
    assert not (tmp_path / "out" / "runs").exists()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "out" / "lock").exists()
    assert compare.main(command) == 0
    assert compare.main(command) == 0


def test_a_search_has_its_folder_to_itself_too(tmp_path, planted):
    with folder_locked(tmp_path / "out"), pytest.raises(ConfigError, match="--out=.*out: another command"):
        tune.search("IBIM", "planted", tmp_path / "out", tune.Effort(samples=1), data_path=str(planted))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lock"]


def test_folders_are_locked_one_by_one(tmp_path):
    with folder_locked(tmp_path / "a"), folder_locked(tmp_path / "b"):
        pass
    with folder_locked(tmp_path / "a"):
        pass
