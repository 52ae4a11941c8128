"""``refit=True``: the model that is tested knows all before the test, and was chosen without it."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import recbole_eimf
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly, one_run
from recbole_eimf.experiment.refit import FOLDER, train_again
from recbole_eimf.model.baselines.counting import HALF_LIVES
from recbole_eimf.serving.export import export
from recbole_eimf.trainer.trainer import InterestTrainer
from tests.data.test_ties import write
from tests.data.test_time_split import EVENTS, T_TEST, T_VAL


@pytest.fixture
def keys(tmp_path, semantic_cache):
    return {
        "data_path": str(write(tmp_path / "data", EVENTS)), "semantic_cache": str(semantic_cache), "epochs": 4,
        "MAX_ITEM_LIST_LENGTH": 8, "hidden_size": 16, "inner_size": 32, "topk": [1, 5], "valid_metric": "NDCG@5",
        "protocol": "global_time", "text_encoder": "tfidf-svd", "compare_with": [], "show_progress": False,
        "state": "ERROR", "learning_rate": 0.01,
    }  # fmt: skip


def test_the_tested_model_is_one_trained_up_to_the_test_for_the_chosen_epochs(keys, tmp_path):
    out = tmp_path / "out"
    found = recbole_eimf.run("IBIM", "baskets", **keys, refit=True, output_dir=str(out))
    plain = recbole_eimf.run("IBIM", "baskets", **keys, output_dir=str(tmp_path / "plain"))
    assert (found.valid, found.best_epoch, found.epochs) == (plain.valid, plain.best_epoch, plain.epochs)
    # the slow way: the same training with the border where the test begins, and nothing that chooses an epoch
    later = {**keys, "time_dates": [str(T_TEST), str(T_TEST + 1)], "epochs": found.best_epoch + 1, "eval_step": 99}
    recbole_eimf.run("IBIM", "baskets", **later, output_dir=str(tmp_path / "slow"))
    mine, slow = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "slow"))
    assert mine.keys() == slow.keys()
    assert all(np.array_equal(mine[name], slow[name]) for name in mine)
    times = [t for events in EVENTS.values() for _, t in events]
    told = json.loads((out / "result.json").read_text())["refit"]
    assert told["epochs"] == found.best_epoch + 1
    assert told["interactions"] == sum(t <= T_TEST for t in times)
    assert told["interactions_added"] == sum(T_VAL < t <= T_TEST for t in times)
    assert plain.refit is None
    assert "trained again for" in str(found)
    dates = [datetime.fromtimestamp(t, timezone.utc).strftime("%Y-%m-%d %H:%M:%S") for t in (T_VAL, T_TEST)]
    parted = f"training up to {dates[0]}, test after {dates[1]}".replace(" 00:00:00", "")
    assert f"time_target=successive (every later item, from all before it), {parted}, trained again" in str(found)
    assert f"{parted}, not trained again before the test (refit=False)" in str(plain)
    # slices count what the tested model was trained on
    seen = {i for events in EVENTS.values() for i, t in events if t <= T_TEST}
    wanted = [i for events in EVENTS.values() for n, (i, t) in enumerate(events) if n and t > T_TEST]
    assert found.slices["unseen"]["targets"] == sum(i not in seen for i in wanted)
    assert recbole_eimf.evaluate(out, state="ERROR") == pytest.approx(found.test, abs=1e-6)


def test_a_stop_while_it_trains_again_loses_nothing(keys, tmp_path, monkeypatch):
    given = {**keys, "stopping_step": 99, "refit": True}
    whole = recbole_eimf.run("IBIM", "baskets", **given, output_dir=str(tmp_path / "a"))
    assert whole.best_epoch > 0, "else there is no second epoch to stop in"
    train, trained, stops = InterestTrainer._train_epoch, [], [(FOLDER, 1)]

    def watched(self, data, epoch, *rest, **more):
        trained.append((self.folder.name, epoch))
        if trained[-1] in stops:
            stops.clear()
            raise KeyboardInterrupt
        return train(self, data, epoch, *rest, **more)

    monkeypatch.setattr(InterestTrainer, "_train_epoch", watched)
    with pytest.raises(KeyboardInterrupt):
        recbole_eimf.run("IBIM", "baskets", **given, output_dir=str(tmp_path / "b"))
    trained.clear()
    found = recbole_eimf.run("IBIM", "baskets", **given, output_dir=str(tmp_path / "b"), resume=True)
    assert trained == [(FOLDER, epoch) for epoch in range(1, whole.best_epoch + 1)]
    assert found.test == whole.test
    mine, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(np.array_equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("earlier", [(3, 2), (2, 3), (2, 1)])
def test_a_model_of_phases_is_begun_again_where_another_choice_cannot_be_gone_on_from(
    keys, make_config, tmp_path, earlier
):
    """Some phase was trained longer than is chosen now, or an earlier one less, on which the last was built."""
    config = make_config("PAD", **keys, dataset="baskets", refit=True, pretrain="id")
    before = assembly.datasets(config)[1][0].before_test

    def trained(last, first, folder=None, resume=False):
        of_phases = {"pretrain-id": first, "align-aligned": 1}
        net, trainer, _ = train_again(config, before, last, folder, resume, of_phases)
        return net.state_dict(), trainer.history

    weights, _ = trained(2, 2)
    trained(*earlier, tmp_path / "refit")
    found, history = trained(2, 2, tmp_path / "refit", resume=True)
    assert [epoch["epoch"] for epoch in history] == [0, 1]
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    _, again = trained(2, 2, tmp_path / "refit", resume=True)
    seconds, seconds_again = ([epoch["train_seconds"] for epoch in epochs] for epochs in (history, again))
    assert seconds == seconds_again, "what was trained for as long as is chosen was trained anew"


def test_clusters_and_interests_are_those_before_validation(keys, make_config):
    config = make_config("EIMF", **keys, dataset="baskets", refit=True, interest_source="keywords")
    train, _, _ = assembly.datasets(config)[1]
    before = train.before_test
    names, items = before.field2id_token["user_id"], before.field2id_token["item_id"]
    told = {names[u]: [items[i] for i in sequence] for u, sequence in zip(*before.sequences())}
    expected = {u: [f"i{i}" for i, t in events if t <= T_TEST] for u, events in EVENTS.items()}
    assert told == {u: events for u, events in expected.items() if events}
    for name in ("interests", "interest_mask", "user_exemplar", "item_text"):
        assert getattr(before.side, name) is getattr(train.side, name)
    new = sorted(set(before.spans.user) - set(train.spans.user))
    assert new
    assert (before.side.user_exemplar[new] == -1).all()
    assert before.side.fitted.tolist() == [bool(n) for n in before.item_counts()]


def test_an_item_that_came_between_validation_and_test_is_known_when_it_is_trained_again(keys, make_config, tmp_path):
    between = int((T_VAL + T_TEST) / 2)
    events = EVENTS | {"late": [(0, int(T_VAL) - 5), (9, between), (1, between + 1)]}
    events = {u: [(8 if i == 9 and t <= T_VAL else i, t) for i, t in each] for u, each in events.items()}
    given = {**keys, "data_path": str(write(tmp_path / "between", events)), "time_dates": [str(T_VAL), str(T_TEST)]}
    config = make_config("IBIM", **given, dataset="baskets", refit=True, item_text="add")
    train, _, _ = assembly.datasets(config)[1]
    new = train.field2token_id["item_id"]["i9"]
    assert not train.side.fitted[new]
    assert train.before_test.side.fitted[new]


@pytest.mark.parametrize(("model", "more"), [
    ("EIMF", {"epochs": 1, "interest_source": "keywords"}), ("Markov", {}), ("ItemKNNText", {}),
    ("SMEM", {"epochs": 1, "n_layers": 1, "phase_cache": False}),
])  # fmt: skip
def test_other_models_are_trained_again_too(keys, tmp_path, model, more):
    out = tmp_path / "out"
    found = recbole_eimf.run(model, "baskets", **{**keys, **more}, refit=True, output_dir=str(out))
    assert found.refit["epochs"] == found.best_epoch + 1
    assert recbole_eimf.evaluate(out, state="ERROR") == pytest.approx(found.test, abs=1e-6)


def test_what_cannot_be_trained_again_is_refused(make_config, keys):
    keys = {**keys, "dataset": "baskets"}
    with pytest.raises(ConfigError, match="refit=True: protocol=leave_one_out.*export --refit"):
        make_config("IBIM", **{**keys, "protocol": "leave_one_out"}, refit=True)
    keys.pop("dataset")
    with pytest.raises(ConfigError, match="refit=True: FPMC trains with RecBole's drawn negatives"):
        recbole_eimf.run("FPMC", "baskets", **keys, refit=True)


@pytest.mark.parametrize("model", ["DecayedItemKNN"])
def test_a_floor_is_counted_again_with_the_half_life_that_validation_chose(keys, tmp_path, model):
    out = tmp_path / "out"
    found = recbole_eimf.run(model, "baskets", **keys, refit=True, recency_half_life="chosen", output_dir=str(out))
    scores = [epoch["valid"]["ndcg@5"] for epoch in json.loads((out / "history.json").read_text())]
    assert len(scores) == len(HALF_LIVES)
    assert len(set(scores)) > 1, "the half-life decides"
    assert found.best_epoch == max(range(len(scores)), key=lambda n: (scores[n], n))
    assert found.chosen == {"recency_half_life": HALF_LIVES[found.best_epoch]}
    assert "chosen on validation" in str(found)
    fixed = recbole_eimf.run(model, "baskets", **keys, refit=True, recency_half_life=HALF_LIVES[found.best_epoch])
    assert (found.test, fixed.chosen) == (pytest.approx(fixed.test), None)
    assert recbole_eimf.evaluate(out, state="ERROR") == pytest.approx(found.test, abs=1e-6)
    export(out, tmp_path / "model")
    told = json.loads((tmp_path / "model" / "config.json").read_text())["keys"]
    assert told["recency_half_life"] == HALF_LIVES[found.best_epoch]


def test_a_refit_that_goes_on_has_the_weights_that_validation_chose(keys, tmp_path):
    """The folder's model has been trained on the validation targets since: it chooses nothing any more."""
    out = tmp_path / "out"
    given = {**keys, "epochs": 2, "refit": True, "score_prior": "together", "output_dir": str(out)}
    found = recbole_eimf.run("IBIM", "baskets", **given)
    weights = recbole_eimf.load(out)[1].prior.weight
    again = recbole_eimf.run("IBIM", "baskets", **given, resume=True)
    assert (again.valid, again.test) == (found.valid, found.test)
    assert torch.equal(recbole_eimf.load(out)[1].prior.weight, weights)


def test_a_prior_weighs_what_validation_chose_in_the_model_trained_again(keys, tmp_path, monkeypatch):
    def chosen(trainer, prior, valid_data):
        prior.set_weight("similar", 2.5)
        return trainer.best_valid_result

    monkeypatch.setattr(one_run, "choose_prior", chosen)
    out = tmp_path / "out"
    found = recbole_eimf.run("IBIM", "baskets", **keys, refit=True, score_prior="similar", output_dir=str(out))
    _, net, _ = recbole_eimf.load(out)
    assert net.prior.weight.tolist() == [2.5, 0.0, 0.0, 0.0]
    assert recbole_eimf.evaluate(out, state="ERROR") == pytest.approx(found.test, abs=1e-6)
