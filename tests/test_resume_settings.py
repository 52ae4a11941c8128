"""What counts as the same run: resuming never puts one run's figures under the settings of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import recbole_eimf
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.keys import RunSettings
from recbole_eimf.config.same_experiment import differing_settings
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.experiment import assembly, one_run
from recbole_eimf.trainer.saving import KeepsBestModel
from recbole_eimf.trainer.state import read_state, write_state
from tests.held_folder import held_by_another

SMALL = {"topk": [1, 5], "valid_metric": "NDCG@5", "hidden_size": 8, "inner_size": 8, "n_layers": 1, "epochs": 2,
         "MAX_ITEM_LIST_LENGTH": 8, "show_progress": False, "state": "ERROR", "compare_with": []}  # fmt: skip


@pytest.fixture(scope="module")
def keys(planted, semantic_cache):
    return {**SMALL, "data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}


@pytest.fixture(scope="module")
def finished(keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "out"
    recbole_eimf.run("IBIM", "planted", output_dir=str(folder), **keys)
    return folder


@pytest.fixture
def out(finished, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def resumed(out: Path, keys: dict, **changed):
    return recbole_eimf.run("IBIM", "planted", output_dir=str(out), **{"resume": True, **keys, **changed})


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 99}, "seed was 2020, is 99"),
        ({"learning_rate": 0.5}, "learning_rate was .*, is 0.5"),
        ({"protocol": "user_split"}, "protocol was 'leave_one_out', is 'user_split'"),
        ({"split_seed": 7}, "split_seed was 2024, is 7"),
        ({"epochs": 1}, "epochs was 2, is 1"),
        ({"mask_history": True}, "mask_history was False, is True"),
        ({"backbone": "GRU4Rec"}, "backbone was 'SASRec', is 'GRU4Rec'"),
        ({"epochs": 4, "seed": 99}, "other settings: seed was 2020, is 99. Give"),
    ],
)
def test_a_finished_run_is_never_relabelled(out, keys, changed, said):
    before = contents(out)
    with pytest.raises(ConfigError, match=said):
        resumed(out, keys, **changed)
    if "epochs" not in changed:
        with pytest.raises(ConfigError, match="finished, and its figures are not"):
            resumed(out, keys, resume="force", **changed)
    assert contents(out) == before


def test_other_data_are_another_run(out, keys, tmp_path):
    shutil.copytree(Path(keys["data_path"]), tmp_path / "data")
    with open(tmp_path / "data" / "planted" / "planted.inter", "a", encoding="utf-8") as file:
        file.write("u0\ti0\t0\t99\n")
    with pytest.raises(ConfigError, match=r"data\.inter was a file of other content"):
        resumed(out, keys, data_path=str(tmp_path / "data"))


def test_keys_that_decide_no_figure_may_change(out, keys):
    changed = {"eval_batch_size": 7, "use_gpu": False, "worker": 0, "slice_bounds": [2], "save_pth": True}
    before = json.loads((out / "result.json").read_text())
    assert resumed(out, keys, **changed).test == before["test"]


def test_more_epochs_go_on_like_a_run_that_had_them_from_the_start(out, keys, tmp_path):
    whole = recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path / "whole"), **{**keys, "epochs": 4})
    more = resumed(out, keys, epochs=4)
    assert (more.epochs, more.valid, more.test) == (4, whole.valid, whole.test)
    for name in ("last.safetensors", "model.safetensors"):
        (one, _), (other, _) = (read_state(folder / name) for folder in (out, tmp_path / "whole"))
        assert all((one[key] == value).all() for key, value in other.items()), name
    held = json.loads((out / "config.json").read_text())
    assert held["settings"]["epochs"] == 4
    assert held["changed"] == ["epochs was 2, is 4"]
    assert held["metrics"]["test"] == whole.test
    with pytest.raises(ConfigError, match="epochs was 4, is 3"):
        resumed(out, keys, epochs=3)


def test_more_epochs_change_nothing_where_a_run_stopped_early(keys, tmp_path):
    early = {**keys, "epochs": 30, "stopping_step": 0, "learning_rate": 0.05}
    first = recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path), **early)
    assert first.epochs < 30
    assert resumed(tmp_path, early, epochs=60).test == first.test


def test_pad_goes_on_in_its_last_phase_only(keys, tmp_path):
    pad = {**keys, "output_dir": str(tmp_path), "phase_cache": False, "epochs": 1}
    recbole_eimf.run("PAD", "planted", **pad)
    with pytest.raises(ConfigError, match="epochs was 1, is 2"):  # which are those of every phase
        recbole_eimf.run("PAD", "planted", resume=True, **{**pad, "epochs": 2})
    recbole_eimf.run("PAD", "planted", resume=True, finetune_epochs=3, **pad)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == [-1, 0, 1, 2]


def unfinished(out: Path) -> None:
    """What a kill leaves: a state that is not finished, and no result."""
    tensors, values = read_state(out / "last.safetensors")
    write_state(out / "last.safetensors", tensors, {**values, "finished": False})
    (out / "result.json").unlink()


def test_force_goes_on_with_other_settings_and_says_so(out, keys, caplog):
    unfinished(out)
    with pytest.raises(ConfigError, match="resume=force"):
        resumed(out, keys, learning_rate=0.5)
    caplog.set_level("WARNING")
    resumed(out, keys, learning_rate=0.5, epochs=4, resume="force")
    assert "begun with other settings: learning_rate was" in caplog.text
    changed = json.loads((out / "config.json").read_text())["changed"]
    assert [line.split()[0] for line in changed] == ["epochs", "learning_rate"]
    _, values = read_state(out / "last.safetensors")
    assert {group["lr"] for group in values["groups"]} == {0.5}, "it is trained with them, too"


def test_a_state_of_unknown_settings_is_named(out, keys):
    (out / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"last\.safetensors: there is no config\.json.*--resume=force"):
        resumed(out, keys)
    assert resumed(out, keys, resume="force").test


def test_a_damaged_state_or_model_is_named(out, keys):
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"model\.safetensors: not a readable safetensors file.*damaged"):
        resumed(out, keys)
    (out / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        resumed(out, keys)
    (out / "model.safetensors").write_bytes(whole)
    (out / "last.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"last\.safetensors"):
        resumed(out, keys)


def test_another_runs_work_is_not_lost_without_a_word(out, keys):
    before = contents(out)
    for changed, advice in (({"learning_rate": 0.5}, "Use another"), ({"epochs": 3}, "--resume=True goes on with it")):
        with pytest.raises(ConfigError, match=rf"holds a run with other settings: .* was .*{advice}.*--overwrite=True"):
            resumed(out, keys, resume=False, **changed)
    with pytest.raises(ConfigError) as refused:
        resumed(out, keys, resume=False, epochs=3, learning_rate=0.5)
    assert "--resume" not in str(refused.value)  # which would refuse that too
    assert contents(out) == before
    assert resumed(out, keys, resume=False, state="CRITICAL", skip_test=True).epochs == 2  # of the same settings
    resumed(out, keys, resume=False)
    (out / "result.json").unlink()  # written last: the run was stopped
    before = contents(out)
    with pytest.raises(ConfigError, match="that was stopped. --resume=True goes on with it; --overwrite=True"):
        resumed(out, keys, resume=False)
    assert contents(out) == before
    assert resumed(out, keys, resume=False, overwrite=True, learning_rate=0.5).config["learning_rate"] == 0.5


def test_a_run_begun_anew_leaves_nothing_of_the_one_before(out, keys, monkeypatch):
    """Killed before its first epoch ended, it has nothing to go on from: least of all the other run's state."""
    for moment in ("experiment.assembly.loaders", "trainer.trainer.InterestTrainer._train_epoch"):
        monkeypatch.setattr(f"recbole_eimf.{moment}", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resumed(out, keys, resume=False, overwrite=True, learning_rate=0.5)
        monkeypatch.undo()
        monkeypatch.chdir(out.parent)
        left = {"last.safetensors", "model.safetensors", "result.json", "history.json"} & set(contents(out))
        assert not left
    shutil.copytree(out, out.with_name("again"))
    with pytest.raises(ConfigError, match="learning_rate was"):
        resumed(out, keys, learning_rate=0.4)
    assert resumed(out, keys, learning_rate=0.5).epochs == 2
    resumed(out.with_name("again"), keys, learning_rate=0.4, resume="force")
    held = json.loads((out.with_name("again") / "config.json").read_text())
    assert held["settings"]["learning_rate"] == 0.4


def test_files_of_somebody_else_are_left_alone(keys, tmp_path):
    for name in ("config.json", "result.json"):
        (tmp_path / name).write_text("{}")
    one_run._settle_folder(
        EIMFConfig("IBIM", "planted", None, {**keys, "output_dir": str(tmp_path)}),
        RunSettings(output_dir=str(tmp_path)),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "result.json"]


def test_a_model_with_recboles_own_phases_cannot_go_on(keys, tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "trainer", lambda config, model: object.__new__(KeepsBestModel))
    monkeypatch.setattr(KeepsBestModel, "config", {"model": "S3Rec"}, raising=False)
    with pytest.raises(ConfigError, match="S3Rec has a trainer of RecBole's own"):
        resumed(tmp_path, keys)


def test_a_second_process_in_an_output_dir_is_refused(out, keys):
    with held_by_another(out) as process:
        for resume in (True, False):
            with pytest.raises(ConfigError, match=rf"output_dir=.*another command works.*process {process.pid}\)"):
                resumed(out, keys, resume=resume)
    assert (out / "result.json").is_file()
    assert resumed(out, keys).test


def test_settings_are_compared_with_defaults_and_without_what_decides_nothing():
    old = {"epochs": 5, "gamma": 0.1, "worker": 2, "interest_file": "abc"}
    new = {"epochs": 5, "gamma": 0.1, "use_gpu": False, "interest_file": "abd", "visits_per_epoch": 1}
    assert differing_settings(old, new) == {"interest_file": ("abc", "abd")}
    assert differing_settings({**old, "visits_per_epoch": 2}, new) == {
        "interest_file": ("abc", "abd"), "visits_per_epoch": (2, 1)
    }  # fmt: skip
