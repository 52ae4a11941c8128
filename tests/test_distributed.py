"""Several processes against one: the same weights and metrics from the same global batches; gloo, on the CPU.

``torchrun`` runs this file as a script: two processes that make the runs of ``JOBS``, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import recbole_eimf
from recbole_eimf.config.layers import concerning
from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.trainer.trainer import InterestTrainer
from tests.conftest import REPOSITORY, planted_sequences
from tests.probe import meet_and_fail

SAME = {"hidden_dropout_prob": 0, "attn_dropout_prob": 0, "dropout_prob": 0, "fusion_dropout": 0}
SOON = {"epochs": 20, "stopping_step": 0, "valid_metric_bigger": False}  # stops at the first epoch that is better
#: name -> model and keys; 17 rows a batch: parts are uneven, and of the last batch, of one row, a process has nothing
JOBS = {
    "SASRec": ("IBIM", SAME),
    "masked": (
        "IBIM",
        {**SAME, "backbone": "GRU4Rec", "mask_history": True, **SOON},
    ),
    "REMI": ("REMI", SAME),
    "PAD": ("PAD", {**SAME, "alignment": "none", "epochs": 2}),
    "RecBole": ("GRU4Rec", {"dropout_prob": 0, "embedding_size": 16, "loss_type": "CE"}),
    "EIMF": ("EIMF", {**SAME, "auxiliary_targets": "all"}),
    "aligned": ("PAD", {"epochs": 1, "align_epochs": 2}),
    "graph": ("IBIM", {**SAME, "vector_graph": "similar", "epochs": 1}),
    "dropout": ("IBIM", {"hidden_dropout_prob": 0.3}),
}


class Stop(Exception):
    pass


def stop(epoch: int, score: float) -> None:
    if epoch == 1:
        raise Stop


def made(name: str, keys: dict, out: Path, **more) -> RunResult:
    """Make a run, and keep the weights at its end, of every process, in ``out/weights-RANK.safetensors``."""
    model, own = JOBS[name]
    original = InterestTrainer.fit

    def fit(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        save_file(weights, out / f"weights-{distributed.rank()}.safetensors")
        return found

    out.mkdir(parents=True, exist_ok=True)
    InterestTrainer.fit = fit
    try:
        return recbole_eimf.run(model, "planted", output_dir=str(out), **{**keys, **concerning(model, own), **more})
    finally:
        InterestTrainer.fit = original


def main(folder: Path) -> None:
    keys = json.loads((folder / "keys.json").read_text())
    for name in JOBS:
        result = made(name, keys, folder / name)
        (folder / name / f"test-{distributed.place().rank}.json").write_text(json.dumps(result.test))
    try:
        made("dropout", keys, folder / "stopped", callback=stop)
    except Stop:
        made("dropout", keys, folder / "stopped", resume=True)
    with contextlib.suppress(Stop):
        made("SASRec", keys, folder / "fewer", callback=stop)
    distributed.leave()


@pytest.fixture(scope="module")
def keys(planted, semantic_cache):
    sizes = {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 12, "train_batch_size": 17, "epochs": 3}
    sizes |= {"n_layers": 1, "eval_batch_size": 50}
    quiet = {"show_progress": False, "state": "ERROR", "compare_with": [], "phase_cache": False, "num_threads": 1}
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    return {"data_path": str(planted), "topk": [1, 5], "valid_metric": "NDCG@5", **text, **sizes, **quiet}


#: what torch's gloo says when a thread of its own outlives its owner: once in dozens of starts, none of it ours
_ABORTED = "terminate called without an active exception"


@pytest.fixture(scope="module")
def two(keys, tmp_path_factory) -> Path:
    """The folders of ``JOBS`` and ``stopped``, made by two processes that torchrun started."""
    folder, code, said = _started(keys, tmp_path_factory.mktemp("two"))
    if code and _ABORTED in said:
        folder, code, said = _started(keys, tmp_path_factory.mktemp("two"))
    assert code == 0, said[-4000:]
    return folder


def _started(keys, folder: Path) -> tuple[Path, int, str]:
    (folder / "keys.json").write_text(json.dumps(keys))
    command = [
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "tests.test_distributed",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _, said = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        started.terminate()  # torchrun then ends the processes, which may wait for each other for ever
        _, said = started.communicate()
    return folder, started.returncode, said


def weights(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"weights-{rank}.safetensors")


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("name", [*JOBS, "stopped"])
def test_all_processes_hold_the_same_model_and_figures(two, name):
    first, second = weights(two / name), weights(two / name, 1)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key
    if name != "stopped":
        tests = [json.loads((two / name / f"test-{rank}.json").read_text()) for rank in (0, 1)]
        assert tests[0] == tests[1] == result(two / name)["test"]


@pytest.mark.parametrize("name", ["SASRec", "masked", "REMI", "PAD", "RecBole"])
def test_two_processes_train_what_one_trains(two, keys, tmp_path, name):
    one = made(name, keys, tmp_path)
    both = result(two / name)
    assert both["config"]["world_size"] == 2
    assert one.epochs == both["epochs"]
    assert one.best_epoch == both["best_epoch"]
    for part in ("valid", "test", "slices"):
        assert both[part] == json.loads(json.dumps(getattr(one, part))), part
    first, second = weights(tmp_path), weights(two / name)
    for key in first:
        # the bias of attention's keys has no effect, so no gradient but rounding, which Adam blows up to full steps
        if not key.endswith("attention.key.bias"):
            torch.testing.assert_close(second[key], first[key], atol=1e-5, rtol=0, msg=key)
    losses = [json.loads((folder / "history.json").read_text()) for folder in (tmp_path, two / name)]
    for own, other in zip(*losses, strict=True):
        assert other["losses"] == pytest.approx(own["losses"], abs=1e-5)


def test_early_stopping_stops_all_processes(two):
    assert 1 < result(two / "masked")["epochs"] < 20


def test_losses_over_a_whole_batch_are_nearly_those_of_one_process(two, keys, tmp_path):
    """Contrasts see the rows of their own process: EIMF's come to fewer negatives, so to smaller losses."""
    made("EIMF", keys, tmp_path)
    losses = [json.loads((folder / "history.json").read_text()) for folder in (tmp_path, two / "EIMF")]
    for own, other in zip(*losses, strict=True):
        assert other["losses"][:2] == pytest.approx(own["losses"][:2], rel=0.05)
        assert 0 < other["losses"][2] < own["losses"][2]


def test_two_processes_go_on_after_a_stop_to_the_same_weights(two):
    """With dropout, so also with the same random numbers in both."""
    whole, stopped = weights(two / "dropout"), weights(two / "stopped")
    for key in whole:
        assert torch.equal(whole[key], stopped[key]), key
    assert result(two / "stopped")["test"] == result(two / "dropout")["test"]


def test_one_process_goes_on_where_two_were_stopped(two, keys, tmp_path):
    shutil.copytree(two / "fewer", tmp_path / "fewer")
    found = made("SASRec", keys, tmp_path / "fewer", resume=True)
    assert found.epochs == 3
    first, second = weights(two / "SASRec"), weights(tmp_path / "fewer")
    for key in first:
        if not key.endswith("attention.key.bias"):
            torch.testing.assert_close(second[key], first[key], atol=1e-5, rtol=0, msg=key)


def test_a_checkpoint_of_two_processes_is_one_like_any_other(two, planted):
    found = recbole_eimf.evaluate(two / "SASRec", data_path=str(planted))
    assert found == pytest.approx(result(two / "SASRec")["test"])
    assert not [path.name for path in (two / "SASRec").glob("*.tmp")]


def test_only_the_first_process_writes_logs(two):
    runs = len(JOBS) + 3  # the stopped run and how it went on, and the one that a single process goes on with
    assert len(list((two / "log").rglob("*.log"))) <= runs  # named by the second
    assert not list((two / "log_tensorboard").glob("model-*"))


def test_processes_start_meet_and_hand_a_users_error_on(tmp_path):
    two_here = distributed.asked({"nproc": 2})
    with pytest.raises(ConfigError, match="gpu_id=7: no such thing"):
        distributed.spawn(two_here, meet_and_fail, (tmp_path,), tmp_path)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [[0, 0], [1, 1], [1, 1]]
    assert "RANK" not in os.environ


def test_nproc_gives_every_process_the_run_and_brings_the_result_back(keys, monkeypatch):
    given = []

    def spawn(processes, work, arguments, folder):
        given.append((processes, arguments))
        monkeypatch.setattr(distributed, "place", lambda: distributed.Place(0, 2, 0, 2))
        monkeypatch.setattr(distributed, "join", lambda device: None)
        work(*arguments)

    monkeypatch.setattr(distributed, "spawn", spawn)
    found = recbole_eimf.run("IBIM", "planted", **{**keys, "compare_with": ["Popularity"]}, nproc=2, port=77)
    ((processes, (_, model, dataset, files, overrides)),) = given
    assert processes == distributed.Processes(2, 2, 0, "localhost", 77)
    assert (model, dataset, files) == ("IBIM", "planted", None)
    assert overrides["nproc"] == 1
    assert "port" not in overrides
    assert found.test["ndcg@5"] > 0
    assert found.config["world_size"] == 2
    assert [other.name for other in found.compared] == ["Popularity"]


# ---------------------------------------------------------------------- without processes
@pytest.fixture
def pretend(monkeypatch):
    def as_one_of(rank: int, size: int) -> None:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: size)

    return as_one_of


def test_other_processes_draw_numbers_of_their_own_again_after_a_stop(pretend, make_config):
    def drawn(rank, epoch):
        pretend(rank, 3)
        torch.manual_seed(0)
        InterestTrainer._seed_process(trainer, epoch)
        return float(torch.rand(()))

    config = make_config("Popularity")
    train, _, _ = assembly.loaders(config)
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    assert drawn(0, 1) == drawn(0, 2), "the first one's numbers go on"
    others = [drawn(rank, epoch) for rank in (1, 2) for epoch in (0, 1)]
    assert len({*others, drawn(0, 0)}) == 5
    assert others == [drawn(rank, epoch) for rank in (1, 2) for epoch in (0, 1)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 2, 6, 20])
def test_shares_are_disjoint_and_complete_and_weigh_what_they_are(pretend, size, rows):
    batch = np.arange(rows) * 10
    taken, weight, users = [], 0.0, []
    for rank in range(size):
        pretend(rank, size)
        part, share = distributed.batch_share(batch)
        assert len(batch[part]) > 0
        if share:
            taken += batch[part].tolist()
            assert share == pytest.approx(len(batch[part]) / rows * size)
        weight += share / size
        users += range(*distributed.rows_share(rows))
    assert sorted(taken) == batch.tolist()
    assert weight == pytest.approx(1)
    assert users == list(range(rows))


def test_batches_of_all_processes_are_those_of_one(pretend, make_config):
    def batches(rank, size):
        pretend(rank, size)
        train, _, _ = assembly.loaders(make_config("IBIM", train_batch_size=17, MAX_ITEM_LIST_LENGTH=12))
        return [(rows["user_id"].tolist(), rows["item_id_list"], train.share) for rows in train]

    whole, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    assert len(whole) == len(first) == len(second)
    for (users, _, _), (a, _, share_a), (b, _, share_b) in zip(whole, first, second):
        assert users[::2] == a
        assert users[1::2] == (b if share_b else [])
        assert share_a + share_b == pytest.approx(2)
    assert [share for *_, share in second].count(0.0) == 1


@pytest.mark.parametrize(
    ("keys", "said"),
    [({"nproc": 0}, "nproc"), ({"nproc": 2, "world_size": 1}, "world_size"), ({"nproc": "two"}, "nproc"),
     ({"nproc": 2, "world_size": 3, "group_offset": 2}, "at least 4"), ({"nproc": 2, "port": "x"}, "port")],
)  # fmt: skip
def test_numbers_of_processes_are_checked(keys, said):
    with pytest.raises(ConfigError, match=said):
        distributed.asked(keys)


@pytest.fixture
def placed(monkeypatch):
    """Give this process the place of one of three, as torchrun does."""

    def at(rank: int) -> None:
        values = {"RANK": rank, "WORLD_SIZE": 3, "LOCAL_RANK": rank, "MASTER_ADDR": "x", "MASTER_PORT": 1}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return at


def test_a_process_knows_its_place_and_only_the_first_speaks(placed, make_config):
    assert distributed.place() is None
    for rank, shown, state in ((0, True, "INFO"), (2, False, "error")):
        placed(rank)
        assert distributed.place() == distributed.Place(rank, 3, rank, 3)
        config = make_config("IBIM", show_progress=True, state="INFO")
        assert (config["show_progress"], config["state"], config["world_size"]) == (shown, state, 3)
    with pytest.raises(ConfigError, match="torchrun"):
        distributed.asked({"nproc": 2})


def test_recboles_own_processes_are_refused(make_config):
    config = make_config("IBIM")
    config["single_spec"] = False
    with pytest.raises(ConfigError, match="local_rank=0.*--nproc"):
        assembly.datasets(config)


def test_a_model_that_counts_is_refused(monkeypatch, make_config):
    config = make_config("Pop")
    train, _, _ = assembly.loaders(config)
    model = config.model_class(config, train._dataset)
    assembly.trainer(config, model)
    monkeypatch.setattr(distributed, "joined", lambda: True)
    with pytest.raises(ConfigError, match="model=Pop.*nproc=1"):
        assembly.trainer(config, model)


def test_what_several_processes_cannot_do_is_said(monkeypatch, keys):
    assert distributed.asked({"nproc": 1}) is None
    assert distributed.asked({"nproc": 2, "world_size": 4, "ip": "10.0.0.1"}).port == 5678
    with pytest.raises(ConfigError, match="callback"):
        recbole_eimf.run("IBIM", "planted", nproc=2, callback=print, **keys)
    monkeypatch.setattr(distributed, "joined", lambda: True)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    with pytest.raises(ConfigError, match="uni5"):
        recbole_eimf.run("IBIM", "planted", **keys, eval_args={"mode": {"valid": "full", "test": "uni5"}})


def test_planted_users_fill_no_batch_of_seventeen_exactly():
    assert len(planted_sequences()) % 17 == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
