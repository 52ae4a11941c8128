"""Phases: what each one changes, going on after a stop in any of them, sharing of pre-trained experts."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import recbole_eimf
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.locks import made_once
from recbole_eimf.experiment import assembly
from recbole_eimf.model.baselines.text_baselines import ContrastiveStage
from recbole_eimf.model.pad.pad import Alignment
from recbole_eimf.model.pad.towers import TowerModel
from recbole_eimf.trainer import phases
from recbole_eimf.trainer.lazy_adamw import LazyAdamW
from recbole_eimf.trainer.phases import EarlierPhaseTrainer, PhaseTrainer
from recbole_eimf.trainer.state import read_state
from recbole_eimf.trainer.trainer import InterestTrainer


@pytest.fixture
def keys(planted, semantic_cache, tmp_path):
    sizes = {
        "hidden_size": 16,
        "inner_size": 16,
        "MAX_ITEM_LIST_LENGTH": 8,
        "train_batch_size": 40,
        "epochs": 2,
        "n_layers": 1,
    }
    quiet = {"show_progress": False, "state": "ERROR", "compare_with": [], "text_encoder": "tfidf-svd"}
    places = {"data_path": str(planted), "semantic_cache": str(tmp_path / "cache")}
    sizes |= {"align_epochs": 2, "pretrain": "id", "finetune_learning_rate": None}
    return {"topk": [1, 5], "valid_metric": "NDCG@5", **sizes, **quiet, **places}


def trained(keys, model="PAD", **more):
    """(phase name -> state before and after it, the trainer) of a run without a cache."""
    config = EIMFConfig(model, "planted", None, {**keys, "phase_cache": False, **more})
    train, valid, _ = assembly.loaders(config)
    net = config.model_class(config, train._dataset)
    trainer = PhaseTrainer(config, net)
    seen = {}

    def watched(dataset):
        for phase in type(net).phases(net, dataset):
            before = {k: v.clone() for k, v in phase.model.state_dict().items()}
            yield phase
            seen[phase.name] = before, {k: v.clone() for k, v in phase.model.state_dict().items()}

    net.phases = watched
    trainer.fit(train, valid, saved=True)
    return seen, trainer


def moved(before, after, part):
    names = [name for name in before if part in name and "position" not in name]
    assert names, part
    return any(not torch.equal(before[name], after[name]) for name in names)


def test_each_phase_trains_its_expert_and_hands_it_on(keys):
    seen, trainer = trained(keys)
    assert list(seen) == ["pretrain-id", "align-aligned"]
    pretrained, aligned = seen["pretrain-id"][1], seen["align-aligned"][0]
    for name, value in pretrained.items():
        assert torch.equal(value, aligned[name]), "the aligned expert starts from a copy of the pre-trained one"
    assert moved(*seen["align-aligned"], "item_embedding.embedding")
    assert moved(*seen["align-aligned"], "projection")
    earlier, last = ([(e["phase"], e["epoch"]) for e in found] for found in (trainer.earlier, trainer.history))
    assert earlier == [(phase, epoch) for phase in ("pretrain-id", "align-aligned") for epoch in (0, 1)]
    assert last == [("finetune", epoch) for epoch in (-1, 0, 1)]
    assert len(trainer.earlier[2]["losses"]) == 2


def test_alignments_freeze_and_train_what_they_say(keys):
    frozen = trained(keys, alignment="anchored_frozen")[0]["align-aligned"]
    assert not moved(*frozen, "item_embedding.embedding")
    assert moved(*frozen, "item_embedding.projection")
    assert moved(*frozen, "item_embedding.mix")
    assert moved(*frozen, "trm_encoder")
    free = trained(keys, alignment="non_anchored")[0]["align-aligned"]
    assert moved(*free, "item_embedding.embedding")
    assert not moved(*free, "trm_encoder")
    assert list(trained(keys, alignment="none")[0]) == list(trained(keys, model="SMEM")[0]) == ["pretrain-id"]


def test_an_aligned_expert_without_an_id_expert_has_pretrained_ids_all_the_same(keys):
    seen, trainer = trained(keys, experts="aligned+text")
    assert list(seen) == ["pretrain-id", "align-aligned"]
    assert [tower.kind for tower in trainer.model.towers] == ["aligned", "text"]
    assert torch.equal(seen["pretrain-id"][1]["towers.0.backbone.net.item_embedding.embedding.weight"],
                       seen["align-aligned"][0]["towers.0.backbone.net.item_embedding.embedding.weight"])  # fmt: skip


@pytest.mark.parametrize(
    ("model", "more", "names"),
    [
        ("MAKE", {}, ["pretrain-text"]),
        ("CTRL", {}, ["align"]),
        ("Hybrid", {}, []),
        ("PAD", {"recipe": "strong", "pretrain": "all"}, ["pretrain-hybrid", "pretrain-hybrid-2", "pretrain-text"]),
    ],
)
def test_phases_of_the_others(keys, model, more, names):
    seen, trainer = trained(keys, model, **more, hidden_size=16)
    assert list(seen) == names
    if model == "CTRL":
        assert moved(*seen["align"], "item_embedding")
        assert moved(*seen["align"], "trm_encoder")


def test_towers_that_are_not_fine_tuned_are_scored_as_they_were_pretrained(keys):
    seen, trainer = trained(keys, experts="id+id+text", pretrain="all", fine_tune=False, gate="none")
    assert trainer.best_epoch == -1
    state = trainer.model.state_dict()
    for place, name in enumerate(("pretrain-id", "pretrain-id-2", "pretrain-text")):
        for key, value in seen[name][1].items():
            assert torch.equal(value, state[key.replace("towers.0", f"towers.{place}")])
    assert trainer.best_valid_result["ndcg@5"] > 0


def test_fine_tuning_that_harms_is_not_kept(keys, monkeypatch):
    """Validation is told to fall with every epoch: what small models learn differs with the releases of libraries."""
    original, states = PhaseTrainer._valid_epoch, []

    def falls(self, *args, **kwargs):
        _, found = original(self, *args, **kwargs)
        states.append({key: value.clone() for key, value in self.model.state_dict().items()})
        score = 0.5 - 0.1 * len(states)
        self._epoch["valid"]["ndcg@5"] = score
        return score, {**found, "ndcg@5": score}

    with monkeypatch.context() as patch:
        patch.setattr(PhaseTrainer, "_valid_epoch", falls)
        _, trainer = trained(keys, experts="id+id+text", pretrain="all", finetune_learning_rate=0.1, epochs=4)
    assert trainer.best_epoch == -1
    assert len(states) > 2
    assert all(entry["valid"]["ndcg@5"] <= trainer.best_valid_score for entry in trainer.history[-4:])
    changed = [key for key, value in states[0].items() if not torch.equal(value, states[-1][key])]
    assert changed
    _, _, test = assembly.loaders(trainer.config)
    trainer.evaluate(test, load_best_model=True)
    assert all(torch.equal(value, trainer.model.state_dict()[key]) for key, value in states[0].items())


def test_phases_have_their_own_epochs_and_rates(keys):
    rates = {"pretrain_learning_rate": 0.01, "align_learning_rate": 0.02, "finetune_learning_rate": 0.03}
    seen = []
    original = EarlierPhaseTrainer.run

    def run(self, *args):
        seen.append((self.phase, self.epochs, self.optimizer.param_groups[0]["lr"]))
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EarlierPhaseTrainer, "run", run)
        _, trainer = trained({**keys, "align_epochs": 3}, pretrain_epochs=1, **rates)
        assert (trainer.epochs, trainer.optimizer.param_groups[0]["lr"]) == (2, 0.03)
        # what is not set for a phase is the run's, not the last phase's
        trained(keys, learning_rate=0.005, finetune_learning_rate=0.03, experts="id+aligned", fine_tune=False)
    assert seen[:2] == [("pretrain-id", 1, 0.01), ("align-aligned", 3, 0.02)]
    assert seen[2:] == [("pretrain-id", 2, 0.005), ("align-aligned", 2, 0.005)]


# ---------------------------------------------------------------------- stops and shared parts
class Stop(Exception):
    pass


@pytest.mark.parametrize("phase", ["pretrain-id", "align-aligned", "finetune"])
def test_a_run_stopped_in_any_phase_goes_on_to_the_same_result(keys, tmp_path, monkeypatch, phase):
    keys = {**keys, "epochs": 3, "align_epochs": 3, "phase_cache": False}
    whole = recbole_eimf.run("PAD", "planted", output_dir=str(tmp_path / "whole"), **keys)
    original = TowerModel.calculate_loss
    parts = {"align-aligned": Alignment, "finetune": EIMFConfig("PAD", "planted", None, keys).model_class}
    stopped_in, steps = parts.get(phase, TowerModel), [0]

    def fails(self, batch):
        steps[0] += type(self) is stopped_in
        if steps[0] == 8:  # in the third epoch of three batches
            raise Stop
        return original(self, batch)

    half = {**keys, "output_dir": str(tmp_path / "half")}
    with monkeypatch.context() as patch:
        patch.setattr(TowerModel, "calculate_loss", fails)
        with pytest.raises(Stop):
            recbole_eimf.run("PAD", "planted", **half)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "half").glob("*/best.safetensors")}
    gone_on = recbole_eimf.run("PAD", "planted", resume=True, **half)
    assert gone_on.test == whole.test
    assert gone_on.valid == whole.valid
    assert gone_on.epochs == whole.epochs == 9
    losses = [json.loads((tmp_path / n / "history.json").read_text()) for n in ("whole", "half")]
    assert [e["losses"] for e in losses[0]] == [e["losses"] for e in losses[1]]
    finished = {"pretrain-id": 0, "align-aligned": 1, "finetune": 2}[phase]
    untouched = [path for path, time in before.items() if path.stat().st_mtime_ns == time]
    assert len(untouched) >= finished, "a finished phase was trained again"
    assert recbole_eimf.run("PAD", "planted", resume=True, **half).test == whole.test, "a finished run is read again"


def test_a_sum_of_pretrained_towers_is_a_run_like_any_other(keys, tmp_path):
    """No last phase: the evaluation before it is the run's only one, also for a search and after a resume."""
    heard = []
    keys = {**keys, "pretrain": "all"}
    more = {"experts": "id+text", "fine_tune": False, "output_dir": str(tmp_path)}
    first = recbole_eimf.run("PAD", "planted", callback=lambda *args: heard.append(args), **keys, **more)
    assert heard == [(-1, first.valid["ndcg@5"])]
    assert (first.epochs, first.best_epoch) == (4, -1)
    (entry,) = json.loads((tmp_path / "history.json").read_text())
    assert entry["valid"] == pytest.approx(first.valid)
    again = recbole_eimf.run("PAD", "planted", resume=True, **keys, **more)
    assert (again.test, again.epochs) == (first.test, 4)
    assert recbole_eimf.evaluate(tmp_path) == pytest.approx(first.test)


@pytest.mark.parametrize("fine_tune", [True, False])
def test_one_tower_whose_vectors_are_its_table_is_saved_and_read(keys, tmp_path, fine_tune):
    """Dot products with ids: what is scored is the parameter itself, and must not become a second one."""
    more = {"experts": "id", "score": "dot", "fine_tune": fine_tune, "output_dir": str(tmp_path)}
    result = recbole_eimf.run("PAD", "planted", **keys, **more)
    assert recbole_eimf.evaluate(tmp_path) == pytest.approx(result.test)


def test_alignment_variants_share_one_pretraining(keys, tmp_path, monkeypatch):
    trained_phases = []
    original = EarlierPhaseTrainer.run
    monkeypatch.setattr(
        EarlierPhaseTrainer, "run", lambda self, *args: trained_phases.append(self.phase) or original(self, *args)
    )
    first = recbole_eimf.run("PAD", "planted", **keys)
    for variant in ({"alignment": "anchored_frozen"}, {"kernel": "infonce", "gamma": 0.5}, {"gate": "none"},
                    {"experts": "id+aligned", "text_whitening": "none"}, {"finetune_learning_rate": 0.1}):  # fmt: skip
        recbole_eimf.run("PAD", "planted", **{**keys, **variant})
    smem = recbole_eimf.run("SMEM", "planted", **keys)
    assert trained_phases.count("pretrain-id") == 1
    assert smem.epochs == 4
    assert smem.train_seconds > 0, "the seconds of a shared expert count"
    # what decides the expert makes another one
    for variant in ({"hidden_dropout_prob": 0.2}, {"loss": "bce"}, {"seed": 7}, {"pretrain_epochs": 1},
                    {"metric_decimal_place": 1}):  # fmt: skip
        recbole_eimf.run("SMEM", "planted", **{**keys, **variant})
    assert trained_phases.count("pretrain-id") == 6, "rounded metrics choose another epoch"
    again = recbole_eimf.run("PAD", "planted", **{**keys, "output_dir": str(tmp_path / "again")})
    history = json.loads((tmp_path / "again" / "pretrain-id" / "history.json").read_text())
    assert {epoch["phase"] for epoch in history} == {"pretrain-id"}, (
        "a run tells of its expert's training, whoever made it"
    )
    alone = recbole_eimf.run("PAD", "planted", **{**keys, "phase_cache": False})
    assert again.test == first.test == alone.test, "a shared expert changes nothing"


def test_a_run_waits_for_the_expert_that_another_run_is_training(keys, tmp_path, monkeypatch):
    first = recbole_eimf.run("PAD", "planted", **keys)
    (cache,) = (tmp_path / "cache" / "phases").glob("pretrain-id-*")
    kept = cache.rename(tmp_path / "kept")
    trained_phases, original = [], EarlierPhaseTrainer.run
    monkeypatch.setattr(
        EarlierPhaseTrainer, "run", lambda self, *args: trained_phases.append(self.phase) or original(self, *args)
    )
    holds, waits = threading.Event(), threading.Event()

    def other_run():
        with made_once(cache, print):
            holds.set()
            assert waits.wait(60)
            kept.rename(cache)

    monkeypatch.setattr(phases, "made_once", lambda path, say: made_once(path, lambda text: waits.set()))
    with ThreadPoolExecutor() as threads:
        other = threads.submit(other_run)
        assert holds.wait(60)
        second = recbole_eimf.run("PAD", "planted", **keys)
        other.result()
    assert trained_phases == ["align-aligned"]
    assert second.test == first.test


def test_a_broken_shared_expert_is_named(keys, tmp_path):
    recbole_eimf.run("SMEM", "planted", **keys)
    (path,) = (tmp_path / "cache" / "phases").glob("pretrain-id-*.safetensors")
    path.write_bytes(b"no")
    with pytest.raises(DataError, match="pretrain-id.*Delete"):
        recbole_eimf.run("SMEM", "planted", **keys)


def test_every_phase_leaves_a_checkpoint_and_shows_a_bar(keys, tmp_path, capsys, on_terminal):
    out = tmp_path / "out"
    recbole_eimf.run("PAD", "planted", output_dir=str(out), **{**keys, "show_progress": True})
    for name in ("pretrain-id", "align-aligned"):
        state, values = read_state(out / name / "best.safetensors")
        assert "towers.0.backbone.net.item_embedding.embedding.weight" in state
        assert len(json.loads((out / name / "history.json").read_text())) == 2
    assert (out / "model.safetensors").is_file()
    bars = capsys.readouterr().err
    for name in ("pretrain-id", "align-aligned", "finetune"):
        assert f"{name}: 100%" in bars
    assert "ndcg@5" in bars


def test_without_validation_the_last_epoch_is_kept_and_no_figure_is_anothers(keys, tmp_path):
    found = recbole_eimf.run("PAD", "planted", eval_step=0, output_dir=str(tmp_path / "out"), **keys)
    assert (found.valid, found.best_epoch) == ({}, 1)
    histories = [json.loads(file.read_text()) for file in sorted((tmp_path / "out").glob("**/history.json"))]
    assert len(histories) > 1
    assert all(epoch["phase"] for history in histories for epoch in history)  # the last one too


@pytest.mark.parametrize(("model", "phase"), [("IBIM", None), ("PAD", "pretrain-id"), ("PAD", "finetune")])
def test_a_kill_before_the_last_model_is_written_loses_no_epoch(keys, tmp_path, monkeypatch, model, phase):
    """Without validation the state is written first, and the model after it."""
    keys = {**keys, "eval_step": 0}
    if phase is None:
        keys = {
            key: value
            for key, value in keys.items()
            if key not in ("align_epochs", "pretrain", "finetune_learning_rate")
        }
    else:
        keys |= {"phase_cache": False}
    whole = recbole_eimf.run(model, "planted", output_dir=str(tmp_path / "whole"), **keys)

    def killed(self, epoch, verbose=True, **more):
        if (self.phase or None) == phase and epoch == 1:
            raise KeyboardInterrupt
        return originals[type(self)](self, epoch, verbose, **more)

    originals = {kind: kind._save_checkpoint for kind in (InterestTrainer, PhaseTrainer, EarlierPhaseTrainer)}
    with monkeypatch.context() as patched:
        for kind in originals:
            patched.setattr(kind, "_save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            recbole_eimf.run(model, "planted", output_dir=str(tmp_path / "half"), **keys)
    again = recbole_eimf.run(model, "planted", output_dir=str(tmp_path / "half"), resume=True, **keys)
    assert again.best_epoch == whole.best_epoch == 1
    (one, _), (other, _) = (read_state(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_phases_leave_no_model_beside_that_of_the_run(keys, tmp_path):
    for given in ({"output_dir": str(tmp_path / "out")}, {"checkpoint_dir": str(tmp_path / "saved")}):
        recbole_eimf.run("PAD", "planted", **{**keys, **given, "phase_cache": False})
    assert list((tmp_path / "out").rglob("model.safetensors")) == [tmp_path / "out" / "model.safetensors"]
    assert len(list((tmp_path / "saved").rglob("model.safetensors"))) == 1


def test_a_contrast_has_no_false_negatives_among_equal_rows(keys):
    from recbole_eimf.model.baselines.text_baselines import _equal_rows

    same = _equal_rows(torch.tensor([[1, 2, 0], [1, 2, 0], [2, 1, 0]]))
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert issubclass(ContrastiveStage, TowerModel)


# ---------------------------------------------------------------------- phases over one table
def test_rows_of_a_table_wait_for_the_optimiser_of_the_phase_that_reads_them(keys, tmp_path):
    """Two phases with drawn negatives share a table: the last one's look-ups caught up the first one's optimiser."""
    keys = {**keys, "num_negatives": 3, "profile_epochs": 2, "epochs": 6, "exemplar_ratio": 0.2, "stopping_step": 9}
    keys.pop("align_epochs")
    _, trainer = trained(keys, "ProfileDistillation")
    (table,) = [each for each in trainer.model.modules() if getattr(each, "before_lookup", None) is not None]
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LazyAdamW, "catch_up", lambda self, number, rows=None: caught.append(self))
        table.before_lookup(None)
    assert caught == [trainer.optimizer]

    run = recbole_eimf.run("ProfileDistillation", "planted", output_dir=str(tmp_path / "whole"), **keys)
    half = {**keys, "output_dir": str(tmp_path / "half")}
    recbole_eimf.run("ProfileDistillation", "planted", **{**half, "epochs": 3})
    again = recbole_eimf.run("ProfileDistillation", "planted", resume=True, **half)
    losses = [json.loads((tmp_path / n / "history.json").read_text()) for n in ("whole", "half")]
    assert [e["losses"] for e in losses[0]] == [e["losses"] for e in losses[1]]
    assert (again.valid, again.test) == (run.valid, run.test)


def test_a_phase_that_keeps_its_last_epoch_keeps_the_last(keys):
    """Whatever epochs validation looks at: CTRL's contrast does not rank."""
    kept = []
    original = EarlierPhaseTrainer._save_checkpoint

    def told(self, epoch, verbose=True, **more):
        kept.append((self.phase, epoch))
        return original(self, epoch, verbose, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EarlierPhaseTrainer, "_save_checkpoint", told)
        _, trainer = trained(keys, "CTRL", align_epochs=5, eval_step=2)
    assert [epoch["epoch"] for epoch in trainer.earlier] == [0, 1, 2, 3, 4]
    assert kept[-1][1] == 4


@pytest.mark.parametrize(("model", "told"), [("CTRL", "trains CTRL to recommend"), ("MAKE", "MAKE's id expert")])
def test_without_a_last_phase_what_nothing_trains_is_refused(keys, model, told):
    with pytest.raises(ConfigError, match=f"fine_tune=False.*{told}"):
        EIMFConfig(model, "planted", None, {**keys, "fine_tune": False})
    EIMFConfig("MAKE", "planted", None, {**keys, "fine_tune": False, "pretrain": "all"})


def test_lines_of_epochs_name_their_phase_and_no_epoch_before_the_first(keys, tmp_path, caplog):
    config = {**keys, "phase_cache": False, "state": "INFO", "align_epochs": 1, "epochs": 1}
    recbole_eimf.run("PAD", "planted", output_dir=str(tmp_path / "out"), **config)
    lines = [record.getMessage() for record in caplog.records]
    for phase in ("pretrain-id", "align-aligned", "finetune"):
        assert any(line.startswith(f"{phase}: epoch   0 of 1  ") for line in lines), phase
    assert sum(line.startswith("finetune: before its first epoch  valid ndcg@5 ") for line in lines) == 1
    assert not any("epoch  -1" in line or "OrderedDict" in line for line in lines)


def test_who_resumes_where_there_is_nothing_is_told_but_for_the_runs_of_a_table(keys, tmp_path, caplog):
    """The name of the folder was mistyped, mostly."""
    small = {key: value for key, value in keys.items() if key not in ("align_epochs", "pretrain", "epochs")}
    for number, shown in enumerate((True, False)):
        caplog.clear()
        config = {**small, "state": "WARNING", "show_progress": shown, "epochs": 1}
        recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path / f"{number}"), resume=True, **config)
        said = [record.getMessage() for record in caplog.records]
        assert any("holds nothing to go on from; the run begins" in line for line in said) == shown
