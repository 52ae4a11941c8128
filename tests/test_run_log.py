"""What a run shows: one line an epoch and the table last; settings, model and RecBole's lines stand in the log file."""

import re

import pytest

from recbole_eimf.__main__ import run_command


@pytest.fixture
def words(planted, tmp_path):
    small = ("hidden_size=8", "inner_size=8", "n_layers=1", "epochs=2", "valid_metric=NDCG@10", "compare_with=[]")
    return ["--model=IBIM", "--dataset=planted", f"--data_path={planted}", f"--output_dir={tmp_path / 'out'}",
            *(f"--{word}" for word in small)]  # fmt: skip


def test_an_epoch_is_a_line_and_the_table_comes_last(words, tmp_path, capfd):
    assert run_command(words) == 0
    seen = capfd.readouterr()
    epochs = re.findall(r"epoch +\d of 2 .*loss [\d.]+ .*valid ndcg@10 [\d.]+ %.*best", seen.err)
    assert len(epochs) == 2
    for detail in ("Trainable parameters", "train_batch_size", "valid result", "The number of users"):
        assert detail not in seen.err
    assert seen.out.rstrip().splitlines()[-1].startswith("SASRec")
    log = (tmp_path / "out" / "run.log").read_text()
    for detail in ("Trainable parameters", "train_batch_size", "valid result", "The number of users", "epoch   1 of 2"):
        assert detail in log


def test_verbose_shows_all_of_it(words, capfd):
    assert run_command([*words, "--verbose=True"]) == 0
    shown = capfd.readouterr().err
    assert all(detail in shown for detail in ("Trainable parameters", "train_batch_size", "The number of users"))
