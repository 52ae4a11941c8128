"""mask_history=auto goes by the share of repeats, and an unmasked run without repeats is warned of."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from recbole_eimf.data.history_mask import decide, masks_history, repeat_share
from recbole_eimf.evaluator.ranks import collected_ranks
from recbole_eimf.experiment import assembly
from recbole_eimf.experiment.run import run
from recbole_eimf.study.jobs import make_text_once
from tests.conftest import write_atomic

ONCE = [[(u + n) % 30 for n in range(5 + u % 4)] for u in range(30)]
AGAIN = [[u % 7, 1, u % 7, 2, 1, u % 7] for u in range(30)]


@pytest.fixture
def built(make_config, tmp_path):
    def make(sequences, **keys):
        config = make_config("IBIM", "x", data_path=str(write_atomic(tmp_path, "x", sequences)), **keys)
        return config, assembly.loaders(config)

    return make


@pytest.mark.parametrize(("sequences", "masks"), [(ONCE, True), (AGAIN, False)])
def test_auto_masks_where_nobody_buys_twice(built, sequences, masks, caplog):
    caplog.set_level("INFO")
    config, (train, valid, test) = built(sequences, mask_history="auto")
    assert "mask_history=auto: the history " + ("is masked" if masks else "stays") in caplog.text
    assert masks_history(config) == test.mask_history == valid.mask_history == masks
    events = [s[:-2] for s in sequences]
    share = sum(len(s) - len(set(s)) for s in events) / sum(len(s) - 1 for s in events)
    assert repeat_share(train._dataset) == pytest.approx(share)


def test_the_share_of_repeats_is_of_events_that_have_a_before_and_one_in_a_hundred_is_not_few():
    for later, few in ((100, False), (101, True)):
        part = SimpleNamespace(sequences=lambda n=later: (None, [np.append(np.arange(n), 0), np.array([5])]))
        assert repeat_share(part) == 1 / later
        config = type("Config", (), {"__getitem__": lambda self, key: "auto"})()
        assert masks_history(config), "until the data have been looked at"
        decide(config, part)
        assert masks_history(config) == few
        warned = decide({"mask_history": False}, part)
        assert (warned is not None) == few
        assert decide({"mask_history": True}, part) is None


def test_a_mask_that_does_not_fit_is_warned_of(built, caplog):
    built(ONCE, mask_history=False)
    assert "mask_history=False: 0.00 %" in caplog.text
    caplog.clear()
    built(ONCE, mask_history=True)
    built(AGAIN, mask_history=False)
    assert "mask_history" not in caplog.text


def test_a_table_is_warned_once_for_all_its_rows(make_config, tmp_path, caplog):
    titles = [f"{'abcdefghij'[item % 10] * 3} {'klm'[item // 10] * 4}" for item in range(30)]
    folder = str(write_atomic(tmp_path, "x", ONCE, titles))

    def configs():
        rows = [("IBIM", {"backbone": "SASRec"}), ("EIMF", {}), ("Popularity", {})]
        return [make_config(model, "x", data_path=folder, **keys) for model, keys in rows]

    for told, warned in ((False, 1), (True, 0)):
        caplog.clear()
        make_text_once(configs(), told)
        assert caplog.text.count("mask_history=False: ") == warned


@pytest.mark.parametrize("wanted", [False, "auto"])
def test_models_beside_another_do_not_say_it_again(make_config, tmp_path, capfd, wanted):
    folder = str(write_atomic(tmp_path, "x", ONCE))
    keys = {**make_config("Popularity").external_config_dict, "data_path": folder, "state": "INFO"}
    keys |= {"mask_history": wanted, "compare_with": ["Markov"], "output_dir": str(tmp_path / "out")}
    result = run("Popularity", "x", **keys)
    assert result.tested == {"users": 30, "targets": 30}
    assert "test of 30 users with 30 targets, %, seed 2020; *: best of its column, one training each" in str(result)
    assert str(result).splitlines()[0].endswith("; 0.0 % of the targets are repeats")
    shown = capfd.readouterr()
    said = f"mask_history={wanted}: "
    assert (shown.out + shown.err).count(said) == 1
    for log in (tmp_path / "out" / "run.log", tmp_path / "out" / "compared-Markov" / "run.log"):
        assert log.read_text().count(said) == 1


def test_repeats_are_a_slice(built):
    _, (train, _, test) = built(AGAIN)
    part = test._dataset
    ranks = collected_ranks(np.zeros((len(part.spans), 5), dtype=np.int64), part, train._dataset)
    assert ranks.by_slice([5])["repeat"]["targets"] == sum(s[-1] in s[:-1] for s in AGAIN)
