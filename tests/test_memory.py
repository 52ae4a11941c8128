"""What is kept of freed memory, and that it does not grow for ever."""

import pytest
import torch

from recbole_eimf.trainer import memory


@pytest.mark.skipif(not memory.keep_freed_memory(), reason="glibc alone keeps freed memory")
def test_freed_blocks_are_kept_and_given_back():
    pins, blocks = [], []
    for _ in range(10):
        blocks.append(torch.ones(5_000_000))
        pins.append(torch.ones(1000))  # lie between them, as what outlives an epoch does
    full = memory.resident()
    del blocks
    kept = memory.resident()
    memory.give_back()
    assert full - kept < 50e6 < 150e6 < kept - memory.resident()
    assert all(float(pin.sum()) == 1000 for pin in pins)


def test_what_has_grown_far_beyond_an_epochs_need_is_given_back_and_measured_anew(monkeypatch):
    sizes, given = [], []
    monkeypatch.setattr(memory, "resident", lambda: sizes.pop(0))
    monkeypatch.setattr(memory, "give_back", lambda: given.append(len(sizes)))
    kept, giga = memory.Kept(), 2**30
    sizes += [giga, int(1.4 * giga), int(1.6 * giga), int(1.2 * giga), int(1.7 * giga), int(1.8 * giga)]
    for _ in range(6):
        kept.after_epoch()
    assert given == [3, 0], "at 1.6, and once the next epoch needed 1.2 not before 1.75"


def test_a_training_and_its_end_give_back(planted, monkeypatch):
    import recbole_eimf

    seen, ends = [], []
    monkeypatch.setattr(memory.Kept, "after_epoch", lambda self: seen.append(id(self)))
    monkeypatch.setattr("recbole_eimf.experiment.one_run.give_back", lambda: ends.append(len(seen)))
    keys = {"data_path": str(planted), "epochs": 3, "eval_step": 2, "show_progress": False, "state": "ERROR"}
    recbole_eimf.run("SASRec", "planted", None, compare_with=[], hidden_size=8, inner_size=8, **keys)
    assert len(seen) == 3
    assert ends == [3]
