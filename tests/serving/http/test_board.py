"""The models that a service keeps while it serves them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import file_digest
from recbole_eimf.serving.http.board import Board, State
from recbole_eimf.serving.http.metrics import Metrics
from recbole_eimf.serving.http.service import loaded


@pytest.fixture
def kept(toy, tmp_path):
    """(board, state of the model folder ``served``), beside which lies ``other``."""
    toy("served")
    toy("other", (5, 4, 3, 2, 1))
    board = Board(tmp_path / "board")
    return board, State(1, "served", board.keep("served"))


def overwrite(folder, name=""):
    """What ``cp -r other/. served/`` does: the files stay, with another content."""
    for file in folder.parent.joinpath("other").iterdir():
        if name in file.name:
            (folder / file.name).write_bytes(file.read_bytes())


def best(model):
    return model.recommend([["unknown"]], k=1)["item"].tolist()


def test_a_folder_that_is_replaced_or_removed_is_served_as_it_was(kept, toy):
    board, state = kept
    toy("served", (5, 4, 3, 2, 1))
    assert best(loaded(board, state)) == ["B5"]


def test_a_folder_that_is_overwritten_in_place_is_not_another_model_under_the_old_name(kept, tmp_path):
    board, state = kept
    overwrite(tmp_path / "served")
    with pytest.raises(DataError, match="^served: was overwritten file by file.*/reload"):
        loaded(board, state)
    assert board.keep("served") != state.version
    assert best(loaded(board, State(2, "served", board.keep("served")))) == ["B1"]


def test_half_overwritten_is_damaged_and_the_same_model_is_kept_anew(kept, toy, tmp_path):
    board, state = kept
    overwrite(tmp_path / "served", "counts")
    with pytest.raises(DataError, match="served/counts.safetensors: damaged"):
        loaded(board, state)
    toy("served")
    assert file_digest(tmp_path / "served" / "config.json").startswith(state.version)
    assert board.keep("served") == state.version
    assert best(loaded(board, state)) == ["B5"]


def test_a_scrape_leaves_the_figures_of_a_worker_that_is_still_loading(tmp_path):
    """It serves nothing yet; the files of one that has ended go."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f"gauge_livesum_{os.getpid()}.db", f"gauge_livemax_{os.getppid()}.db", f"gauge_livesum_{ended.pid}.db"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(4096))  # no figure yet
    metrics = Metrics.__new__(Metrics)
    metrics._folder = tmp_path
    metrics.text()
    assert {path.name for path in tmp_path.glob("*.db")} == set(names[:2])
