"""The folder of a service: gone with it, and where it was killed, with the next one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from recbole_eimf.core.errors import DiskError
from recbole_eimf.serving.http import held
from recbole_eimf.serving.http.held import shared_folder, worker_lives, worker_of


def serving(source: Path, said: Path) -> None:
    with shared_folder(source) as folder:
        (folder / "models").mkdir()
        said.write_text(str(folder))
        time.sleep(60)


def working(folder: Path, said: Path) -> None:
    with worker_of(folder):
        said.write_text("begun")
        time.sleep(60)


@pytest.fixture
def begun(tmp_path):
    """``begun(function, path)``: it runs in a process of its own, which is returned with what it said."""
    started = []

    def begin(function, path: Path):
        said = tmp_path / f"said{len(started)}"
        started.append(multiprocessing.get_context("fork").Process(target=function, args=(path, said)))
        started[-1].start()
        until = time.monotonic() + 30
        while not (said.exists() and said.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        return started[-1], said.read_text()

    yield begin
    for process in started:
        process.kill()
        process.join()


def killed(process) -> None:
    process.kill()
    process.join()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models" / "pantry[1]"
    folder.mkdir(parents=True)
    return folder


def folders(model: Path) -> set[str]:
    return {str(folder) for folder in model.parent.glob(".*.served")}


def test_what_a_killed_service_left_goes_with_the_next_and_no_living_one_s(model, begun):
    dead, left = begun(serving, model)
    _, alive = begun(serving, model)
    killed(dead)
    assert folders(model) == {left, alive}
    with shared_folder(model.with_name("pantry")):  # another model's service
        assert folders(model) >= {left, alive}
    with shared_folder(model) as own:
        assert folders(model) == {alive, str(own)}
    assert folders(model) == {alive}


def test_a_worker_that_outlives_its_service_keeps_the_folder(model, begun):
    service, left = begun(serving, model)
    worker, _ = begun(working, Path(left))
    killed(service)
    with shared_folder(model):
        assert left in folders(model)
    killed(worker)
    with shared_folder(model):
        assert left not in folders(model)


def test_a_worker_lives_as_long_as_it_holds_its_lock_whoever_has_its_number(model, begun, tmp_path):
    service, left = begun(serving, model)
    folder = Path(left)
    worker, _ = begun(working, folder)
    assert worker_lives(folder, worker.pid)
    killed(worker)
    # its lock's file stays, and its number is another process's by now
    another = begun(serving, tmp_path / "models" / "other")[0]
    (folder / "held" / f"{worker.pid}.lock").rename(folder / "held" / f"{another.pid}.lock")
    assert not worker_lives(folder, another.pid)
    (folder / "held" / f"{another.pid}.lock").unlink()
    assert not worker_lives(folder, another.pid)
    assert worker_lives(folder, os.getpid())
    # where there are no locks the number is all there is
    assert worker_lives(tmp_path, service.pid)
    killed(service)
    assert not worker_lives(tmp_path, service.pid)


def test_folders_of_which_nobody_can_tell_are_left_alone(model):
    earlier = model.parent / ".pantry[1].abcdefgh.served"
    (earlier / "models").mkdir(parents=True)  # of a version that held no lock
    elsewhere = model.parent / "elsewhere"
    (elsewhere / "held").mkdir(parents=True)
    (elsewhere / "held" / "service.lock").touch()
    (model.parent / ".pantry[1].ijklmnop.served").symlink_to(elsewhere)
    with shared_folder(model):
        assert earlier.is_dir()
        assert elsewhere.is_dir()


def test_a_folder_that_goes_before_it_is_locked_is_made_again(model, monkeypatch):
    made, real = [], held.alone

    @contextlib.contextmanager
    def late(file):
        made.append(file.parents[1])
        if len(made) == 1:  # another service has looked between the file and its lock
            shutil.rmtree(file.parents[1])
            raise DiskError(f"{file}: is gone")
        with real(file):
            yield

    monkeypatch.setattr(held, "alone", late)
    with shared_folder(model) as own:
        assert own == made[1] != made[0]
        assert own.is_dir()


def test_a_service_that_cannot_start_for_want_of_room_leaves_no_folder(model, monkeypatch):
    def full(file):
        raise DiskError(f"{file}: cannot be written")

    monkeypatch.setattr(held, "alone", full)
    with pytest.raises(DiskError, match="cannot be written"), shared_folder(model):
        pass
    assert [*model.parent.glob(".*")] == []


def test_where_nothing_can_be_written_beside_the_model(model, tmp_path, monkeypatch):
    monkeypatch.setattr(held.os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with shared_folder(model) as own:
        assert own.parent == tmp_path
    assert not own.exists()
