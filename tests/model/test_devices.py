"""Every model on a GPU that is not there (tests/pretend_gpu.py): nothing stays behind on the processor, the results are
the processor's, and a training step does not wait for the GPU."""

from __future__ import annotations

import pytest
import torch
from recbole.utils import init_seed

from recbole_eimf.data.prefetch import sent
from recbole_eimf.experiment import assembly
from tests.model.test_contract import COUNTING, NEURAL, TOWERS
from tests.pretend_gpu import GPU, DevicesMeet, PretendGPU

STEPS = 3
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0, "fusion_dropout": 0.0}
#: losses and item vectors that the defaults do not reach
FURTHER = [
    ("EIMF", "SASRec", {"esim": "paper"}),
    ("EIMF", "REMI", {"esim": "paper", "interest_labels": 0.2, "auxiliary_targets": "all"}),
    ("EIMF", "DNN", {"num_negatives": 5, "item_text": "concat"}),
    ("EIMF", "SASRec", {"use_interests": False, "logits_dtype": "bfloat16"}),
    ("IBIM", "ComiRecSA", {"num_negatives": 5, "negative_sampling": "popularity", "readout": "soft"}),
    ("IBIM", "SASRec", {"num_negatives": 5}),
    ("PAD", "SASRec", {"num_negatives": 5, "gate": "shared", "kernel": "infonce"}),
    ("PAD", "SASRec", {"loss": "bce", "unseen_ids": "text", "mmd_items": 4}),
    ("Hybrid", "GRU4Rec", {"loss": "gbce", "num_negatives": 3, "candidates": "seen", "fusion": "concat"}),
    ("MAKE", "SASRec", {"pretrain": "all", "alignment": "non_anchored"}),
]
ALL = [(model, backbone, {}) for model, backbone in NEURAL + TOWERS + COUNTING] + FURTHER
#: draws that are others on a GPU, where what is drawn must not depend on how many draws were refused
DRAWN_OTHERWISE = {"bce", "gbce"}


@pytest.fixture
def build(make_config):
    """(configuration, model and its earlier phases, loaders); the model on ``device``."""

    def made(model, backbone, device, **keys):
        keys = {"use_gpu": False, "train_batch_size": 40, **NO_DROPOUT, **keys}
        config = make_config(model, **({"backbone": backbone} if backbone else {}), **keys)
        init_seed(1, True)
        loaders = assembly.loaders(config)
        config.final_config_dict["device"] = torch.device(device)
        net = config.model_class(config, loaders[0]._dataset).to(device)
        phases = net.phases(loaders[0]._dataset) if hasattr(net, "phases") else ()
        return config, [phase.model.train() for phase in phases] + [net.train()], loaders

    return made


def losses_of(stages, batches) -> list[list[float]]:
    found = []
    for stage in stages:
        torch.manual_seed(0)
        for batch in batches:
            losses = stage.calculate_loss(batch)
            found.append([float(part) for part in (losses if isinstance(losses, tuple) else (losses,))])
    return found


def ranked(config, net, valid) -> tuple[dict, torch.Tensor]:
    """What the evaluator makes of a model, whole and in chunks, and its ``predict`` of a batch."""
    figures = []
    for chunk in (0, 4):
        trainer = assembly.trainer(config, net)
        trainer.eval_collector.chunk_items = chunk
        trainer.eval_collector.data_collect(valid)
        figures.append(dict(trainer.evaluate(valid, load_best_model=False)))
    assert figures[0] == figures[1]
    rows = next(iter(valid))[0].to(config["device"])
    return figures[0], net.predict(rows).cpu()


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.parametrize(("model", "backbone", "keys"), ALL)
def test_a_gpu_computes_what_a_processor_does_and_is_not_waited_for(build, model, backbone, keys):
    config, stages, (train, valid, _) = build(model, backbone, "cpu", **keys)
    batches = [batch for batch, _ in zip(train, range(STEPS))]
    with torch.no_grad():
        expected = losses_of(stages, batches)
        expected_figures, expected_scores = ranked(config, stages[-1].eval(), valid)

    with PretendGPU() as gpu:
        config, stages, (_, valid, _) = build(model, backbone, GPU, **keys)
        there = [sent(batch, GPU) for batch in batches]
        losses = losses_of(stages, there)
        for stage in stages:
            trainer = assembly.trainer(config, stage) if stage is stages[-1] else None
            with gpu.counting() as waits:
                if trainer is None:
                    stage.calculate_loss(there[0])
                else:
                    trainer._train_epoch(there, 0)
            # a cloze mask is drawn on the GPU: how many items it hides has to be asked for. And an epoch's losses are
            # read at its end
            allowed = STEPS if backbone == "BERT4Rec" else 0
            assert sum(waits.values()) <= allowed + (trainer is not None), dict(waits)
        figures, scores = ranked(config, stages[-1].eval(), valid)
    if keys.get("loss") not in DRAWN_OTHERWISE:
        for got, wanted in zip(losses, expected, strict=True):
            assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert figures == pytest.approx(expected_figures, abs=1e-4)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-5)


def test_counting_floors_copy_their_matrix_once(build):
    with PretendGPU() as gpu:
        _, (net,), (_, valid, _) = build("DecayedItemKNN", None, GPU)
        rows = sent(next(iter(valid))[0], GPU)
        counts = []
        for _ in range(3):
            with gpu.counting() as waits:
                net.full_sort_predict(rows)
            counts.append(sum(waits.values()))
    assert counts == [counts[1] + 3, counts[1], counts[1]]  # values, columns and row pointers


class TestPlantedBugs:
    """The same check, of models that are wrong."""

    def test_a_tensor_of_the_processor_in_a_loss(self, build, monkeypatch):
        with PretendGPU():
            _, (net,), (train, _, _) = build("IBIM", "SASRec", GPU)
            original = net._recommendation_loss
            monkeypatch.setattr(net, "_recommendation_loss", lambda *args: original(*args) + torch.ones(3).sum() * 0)
            net.calculate_loss(sent(next(iter(train)), GPU))  # a single number may come from anywhere, as on a GPU
            monkeypatch.setattr(net, "_recommendation_loss", lambda *args: (original(*args) * torch.ones(3)).sum())
            with pytest.raises(DevicesMeet, match="test_devices.py"):
                net.calculate_loss(sent(next(iter(train)), GPU))

    def test_a_buffer_that_was_not_registered(self, build):
        with PretendGPU():
            _, (net,), (_, valid, _) = build("IBIM", "REMI", GPU)
            net.offset = torch.zeros(net.n_items)
            rows = sent(next(iter(valid))[0], GPU)
            with pytest.raises(DevicesMeet):
                net.full_sort_predict(rows) + net.offset

    def test_a_hidden_item(self, build, monkeypatch):
        with PretendGPU() as gpu:
            _, (net,), (train, _, _) = build("IBIM", "SASRec", GPU)
            original = net._readout
            monkeypatch.setattr(net, "_readout", lambda *args: original(*args) * max(original(*args).norm().item(), 1))
            with gpu.counting() as waits:
                net.calculate_loss(sent(next(iter(train)), GPU))
        assert list(waits.values()) == [1]
        assert "test_devices.py" in next(iter(waits))
        assert "_local_scalar_dense" in next(iter(waits))
