"""A run killed at any moment and resumed ends like one that was never killed: the same metrics, bit for bit the same
weights, moments and random states. Real processes, really killed (SIGKILL)."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

import recbole_eimf
from recbole_eimf.trainer.state import read_state
from tests.forked import process_of

RUNS = {
    "EIMF": ("EIMF", {"epochs": 20, "stopping_step": 1, "learning_rate": 0.02}),
    "PAD": ("PAD", {"epochs": 2, "align_epochs": 2}),
    "sampled": ("IBIM", {"num_negatives": 5, "epochs": 20, "stopping_step": 1, "learning_rate": 0.02}),
    "drawn by RecBole": ("SASRec", {"loss_type": "BPR", "epochs": 3, "train_neg_sample_args":
                                    {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False}}),
}  # fmt: skip
PATIENCE = 300  # seconds for a process: a machine may be busy, and no test asks how fast it is
#: a step of the first epoch, of the second, and both sides of every file of an epoch and a half
MOMENTS = [("step", 2), ("written", 2), ("write", 3), ("step", 5), ("written", 3), ("write", 4), ("written", 4)]


def child(name: str, keys: dict, folder: str, moment: tuple[str, int] | None) -> None:
    """A process that makes or resumes a run, and kills itself at a moment: ``("write", n)`` before its n-th file
    appears under its name, ``("written", n)`` after it, ``("step", n)`` at its n-th training step."""
    os.chdir(folder)
    torch.set_num_threads(1)
    model, own = RUNS[name]
    counted = {"files": 0, "steps": 0}
    replace, step = os.replace, torch.optim.Optimizer.zero_grad

    def count(what: str, kinds: tuple[str, ...]) -> None:
        counted[what] += kinds[0] != "written"
        if moment and moment[0] in kinds and counted[what] == moment[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    def replaced(source, target):
        count("files", ("write",))
        replace(source, target)
        count("files", ("written",))

    def stepped(*args, **kwargs):
        count("steps", ("step",))
        return step(*args, **kwargs)

    os.replace, torch.optim.Optimizer.zero_grad = replaced, stepped
    recbole_eimf.run(model, "planted", output_dir=str(Path(folder) / "out"), resume=True, **{**keys, **own})
    (Path(folder) / "files").write_text(str(counted["files"]))


@pytest.fixture(scope="module")
def start():
    """Start ``child`` with everything imported; returns the process."""
    return functools.partial(process_of, child)


@pytest.fixture
def keys(planted, semantic_cache):
    sizes = {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 40, "n_layers": 1}
    quiet = {"show_progress": False, "state": "ERROR", "compare_with": [], "phase_cache": False}
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    return {"data_path": str(planted), "topk": [1, 5], "valid_metric": "NDCG@5", **text, **sizes, **quiet}


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def ended(folder: Path) -> tuple[dict, dict]:
    """What a run leaves: its figures, and every number of its model and of the state it could go on from."""
    figures = {key: result(folder)[key] for key in ("valid", "test", "slices", "epochs", "best_epoch")}
    tensors, state = read_state(folder / "last.safetensors")
    figures["losses"] = [epoch["losses"] for epoch in json.loads((folder / "history.json").read_text())]
    figures["state"] = {key: state[key] for key in ("python", "numpy", "epoch", "best_valid_score", "cur_step")}
    best, _ = read_state(folder / "model.safetensors")
    return figures, tensors | {f"best.{name}": value for name, value in best.items()}


def assert_same(first: Path, second: Path) -> None:
    (figures, tensors), (other_figures, other_tensors) = ended(first), ended(second)
    assert figures == other_figures
    assert tensors.keys() == other_tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(value, other_tensors[name]), name
    assert not list(second.rglob(".*.tmp")), "half a file of a kill is cleared away"


def whole(start, name: str, keys: dict, folder: Path) -> Path:
    folder.mkdir()
    process = start(name, keys, str(folder), None)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert result(folder / "out")["epochs"] < 20, "some are to stop early"
    return folder / "out"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_again_and_again_ends_like_one_that_never_was(start, keys, tmp_path, name):
    """Each process gets a little further than the one before, and dies at another kind of moment."""
    expected = whole(start, name, keys, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    deaths = 0
    for attempt in range(60):
        process = start(name, keys, str(folder), MOMENTS[attempt % len(MOMENTS)])
        process.join(PATIENCE)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        deaths += 1
    assert process.exitcode == 0
    assert deaths >= 3
    assert_same(expected, folder / "out")


def test_a_run_killed_after_it_stopped_early_is_not_trained_on(start, keys, tmp_path):
    expected = whole(start, "sampled", keys, tmp_path / "whole")
    files = int((tmp_path / "whole" / "files").read_text())
    for number in range(files - 4, files + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        for moment in (("written", number), None):
            process = start("sampled", keys, str(folder), moment)
            process.join(PATIENCE)
            assert process.exitcode == (-signal.SIGKILL if moment else 0)
        assert_same(expected, folder / "out")


@pytest.mark.parametrize("name", ["PAD"])  # the run of most phases; the moments above are EIMF's too
def test_a_run_killed_from_outside_ends_like_one_that_never_was(start, keys, tmp_path, name):
    expected = whole(start, name, keys, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    for delay in (0.0, 0.03, 0.01):
        before = histories(folder)
        process = start(name, keys, str(folder), None)
        while histories(folder) == before and process.is_alive():
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        process.join(PATIENCE)
    process = start(name, keys, str(folder), None)
    process.join(PATIENCE)
    assert_same(expected, folder / "out")


def histories(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in folder.rglob("history.json")]
