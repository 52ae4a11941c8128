"""The training epoch is RecBole's, but for when losses are read; a run goes on on whichever GPU there is."""

from __future__ import annotations

import functools

import pytest
import torch
from recbole.trainer import Trainer
from recbole.utils import init_seed

from recbole_eimf.experiment import assembly
from recbole_eimf.trainer import epoch as epoch_module
from recbole_eimf.trainer.epoch import EpochLosses
from recbole_eimf.trainer.state import gpu_random_state, restore_gpu_random_state

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize("keys", [{}, {"clip_grad_norm": {"max_norm": 0.1}}, {"num_negatives": 5}])
@pytest.mark.parametrize("model", ["IBIM", "EIMF"])
def test_an_epoch_is_recboles(make_config, monkeypatch, model, keys):
    found = []
    for own in (True, False):
        init_seed(1, True)
        config = make_config(model, train_batch_size=40, use_gpu=False, **keys)
        train, _, _ = assembly.loaders(config)
        trainer = assembly.trainer(config, config.model_class(config, train._dataset))
        if not own:
            monkeypatch.setattr(
                "recbole_eimf.trainer.trainer.train_epoch",
                lambda trainer, *given: Trainer._train_epoch(trainer, *given),
            )
        losses = [trainer._train_epoch(train, epoch) for epoch in range(2)]
        found.append((losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}))
    (losses, weights), (expected_losses, expected_weights) = found
    assert losses == expected_losses
    for name, value in expected_weights.items():
        assert torch.equal(weights[name], value), name


def test_gradients_are_clipped_as_long_as_they_are_not_as_they_are_scaled(make_config, monkeypatch):
    """Scaled by 65536 every one of them would be over any limit."""
    monkeypatch.setattr(epoch_module, "_SCALER", functools.partial(torch.amp.GradScaler, "cpu"))
    found = []
    for scaled in (False, True):
        init_seed(1, True)
        keys = {"learner": "sgd", "learning_rate": 0.1, "clip_grad_norm": {"max_norm": 0.5}}
        config = make_config("IBIM", train_batch_size=40, use_gpu=False, hidden_dropout_prob=0.0, **keys)
        train, _, _ = assembly.loaders(config)
        trainer = assembly.trainer(config, config.model_class(config, train._dataset))
        trainer.enable_scaler = scaled
        trainer._train_epoch(train, 0)
        found.append(trainer.model.state_dict())
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, atol=1e-6), name


def test_gradients_have_one_scaler_for_all_epochs(make_config, monkeypatch, tmp_path):
    """A new one begins at 65536, and throws steps away until that fits."""
    made = functools.partial(torch.amp.GradScaler, "cpu", growth_interval=10_000)
    monkeypatch.setattr(epoch_module, "_SCALER", made)
    keys = {"train_batch_size": 40, "use_gpu": False, "enable_amp": True, "amp_dtype": "float16"}
    config = make_config("EIMF", enable_scaler=True, output_dir=str(tmp_path), backbone="SASRec", **keys)
    train, _, _ = assembly.loaders(config)

    def trainer():
        made = assembly.trainer(config, config.model_class(config, train._dataset))
        made.enable_scaler, made._loader = True, train
        return made

    first = trainer()
    scales, step = [], torch.amp.GradScaler.step
    monkeypatch.setattr(torch.amp.GradScaler, "step", lambda s, o: scales.append(s.get_scale()) or step(s, o))
    for epoch in range(3):
        first._train_epoch(train, epoch)
    scale = first.grad_scaler.get_scale()
    assert scales[0] == 65536 > scales[len(train)], "some steps were thrown away at the start"
    assert scales == sorted(scales, reverse=True), "and an epoch goes on with the scale that was found"
    first._save_state(2)
    again = trainer()
    assert again.resume(train)
    assert again.grad_scaler.get_scale() == scale


def test_an_epoch_with_a_bar_is_the_same(make_config, capsys, on_terminal):
    config = make_config("IBIM", train_batch_size=40, use_gpu=False)
    train, _, _ = assembly.loaders(config)
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    assert trainer._train_epoch(train, 3, show_progress=True) > 0
    assert "Train     3" in capsys.readouterr().err


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("parts", [1, 3])
def test_losses_are_added_up_part_by_part(device, parts):
    steps = torch.rand(150, parts)
    found = EpochLosses(device)
    assert found.total() is None
    for step in steps:
        found.add(tuple(step) if parts > 1 else step[0])
    expected = [sum(column) for column in zip(*steps.tolist())]
    assert found.total() == (tuple(expected) if parts > 1 else expected[0])
    assert found.total() == (tuple(expected) if parts > 1 else expected[0]), "nothing is counted twice"


@pytest.mark.parametrize(("device", "step"), [(CPU, 5), (GPU, 64)])
def test_a_loss_that_is_not_a_number_ends_the_epoch(device, step):
    """On a processor at its own step, on a GPU when losses are next read."""
    found = EpochLosses(device)
    for number in range(1, step):
        found.add((torch.tensor(1.0), torch.tensor(float("nan") if number >= 5 else 1.0)))
    with pytest.raises(ValueError, match="training loss is not a number"):
        found.add((torch.tensor(1.0), torch.tensor(float("nan"))))
    late = EpochLosses(GPU)
    late.add((torch.tensor(float("inf")), torch.tensor(-float("inf"))))
    with pytest.raises(ValueError, match=r"training loss is not a number.*leave out enable_amp\.$"):
        late.total()


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_first_loss_that_is_not_a_number_is_not_laid_to_training(device):
    """No step can have spoilt the parameters; on a GPU the first is told from the others that are read with it."""

    def read(untrained, *losses):
        found = EpochLosses(device, untrained)
        for loss in losses:
            found.add(torch.tensor(loss))
        found.total()

    nan = float("nan")
    for given, said in (((True, nan, 1.0), "before any step of training"), ((True, 1.0, nan), "grown without bound"),
                        ((False, nan), "grown without bound")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            read(*given)


def test_only_the_first_epoch_begins_without_a_step(make_config):
    config = make_config("IBIM", train_batch_size=40, use_gpu=False)
    train, _, _ = assembly.loaders(config)
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    trainer.model.calculate_loss = lambda batch: torch.tensor(float("nan"), requires_grad=True)
    for epoch, said in ((0, "before any step of training"), (1, "grown without bound")):
        with pytest.raises(ValueError, match=said):
            trainer._train_epoch(train, epoch)


def test_recboles_own_processes_have_recboles_epoch(make_config, monkeypatch):
    """They would train apart otherwise: it is there that their gradients are added up."""
    config = make_config("IBIM", train_batch_size=40, use_gpu=False)
    train, _, _ = assembly.loaders(config)
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    config.final_config_dict["single_spec"] = False
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *given: 7.0)
    assert trainer._train_epoch(train, 0) == 7.0


class TestRandomStateOfAGPU:
    @pytest.fixture
    def gpus(self, monkeypatch):
        """Random states by device, of GPUs that are not there."""
        states = {torch.device("cuda", number): torch.tensor([number]) for number in range(2)}
        monkeypatch.setattr(torch.cuda, "get_rng_state", states.__getitem__)
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(device, state))
        return states

    def test_a_run_takes_its_own_along_to_another_gpu(self, gpus):
        saved = gpu_random_state(GPU)
        assert saved["random.cuda"].tolist() == [1]
        restore_gpu_random_state(saved, torch.device("cuda", 0))
        assert gpus[torch.device("cuda", 0)].tolist() == [1]

    def test_an_older_state_of_more_gpus_than_there_are(self, gpus):
        older = {f"random.cuda.{number}": torch.tensor([10 + number]) for number in range(4)}
        restore_gpu_random_state(older, GPU)
        assert gpus[GPU].tolist() == [11]
        restore_gpu_random_state({"random.cuda.3": torch.tensor([13])}, GPU)
        assert gpus[GPU].tolist() == [13]

    def test_from_and_to_a_processor_nothing_is_carried(self, gpus):
        assert gpu_random_state(CPU) == {}
        restore_gpu_random_state({"random.cuda": torch.tensor([5])}, CPU)
        restore_gpu_random_state({"random.torch": torch.tensor([5])}, GPU)
        assert [state.tolist() for state in gpus.values()] == [[0], [1]]


def test_a_run_begun_on_four_gpus_goes_on_on_a_processor(make_config, tmp_path):
    from recbole_eimf.trainer.state import read_state, write_state

    config = make_config("IBIM", use_gpu=False, train_batch_size=40, output_dir=str(tmp_path), epochs=1)
    train, valid, _ = assembly.loaders(config)
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    trainer.fit(train, valid)
    tensors, values = read_state(tmp_path / "last.safetensors")
    write_state(
        tmp_path / "last.safetensors",
        {**tensors, **{f"random.cuda.{number}": torch.zeros(16, dtype=torch.uint8) for number in range(4)}},
        values,
    )
    again = assembly.trainer(config, config.model_class(config, train._dataset))
    assert again.resume(train)
    assert again.start_epoch == 1
