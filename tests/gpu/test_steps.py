"""Training steps and ranking of every model on a GPU; how often it is waited for, as CUDA itself says."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from tests.model.test_devices import ALL, NO_DROPOUT


def waits_of(work) -> list[str]:
    """What ``work()`` makes the processor wait for, by CUDA's own account."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{warning.filename}:{warning.lineno}" for warning in said if "synchroniz" in str(warning.message)]


@pytest.mark.parametrize(("model", "backbone", "keys"), ALL)
def test_an_epoch_is_trained_and_ranked(build, model, backbone, keys):
    trainer, net, (train, valid, _) = build(model, backbone, **keys)
    for phase in net.phases(train._dataset) if hasattr(net, "phases") else ():
        losses = phase.model.train().calculate_loss(next(iter(train)).to(trainer.device))
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
    trainer.eval_collector.data_collect(train)
    losses = trainer._train_epoch(train, 0)
    assert all(math.isfinite(part) for part in (losses if isinstance(losses, tuple) else (losses,)))
    figures = trainer.evaluate(valid, load_best_model=False)
    assert 0 <= figures["ndcg@5"] <= 1


@pytest.mark.parametrize(("model", "backbone", "keys"), ALL)
def test_a_step_is_waited_for_at_most_once(build, on_gpu, model, backbone, keys):
    if not on_gpu:
        pytest.skip("CUDA alone counts")
    trainer, _, (train, _, _) = build(model, backbone, **keys)
    steps = list(train)
    trainer._train_epoch(steps, 0)  # the first one makes an optimiser's state
    waits = waits_of(lambda: trainer._train_epoch(steps, 1))
    assert len(waits) <= len(steps) + 1, waits  # the losses are read at the end


@pytest.mark.parametrize("model", ["IBIM", "EIMF", "PAD", "DecayedItemKNN"])
def test_a_gpu_ranks_as_a_processor_does(build, model):
    figures = []
    for use_gpu in (False, True):
        trainer, _, (train, valid, _) = build(model, use_gpu=use_gpu and torch.cuda.is_available(), **NO_DROPOUT)
        trainer.eval_collector.data_collect(train)
        figures.append(dict(trainer.evaluate(valid, load_best_model=False)))
    assert figures[0] == pytest.approx(figures[1], abs=0.02)  # sums have another order: near ties


def test_batches_made_ahead_are_the_same(build):
    losses = []
    for ahead in (True, False):
        trainer, _, (train, _, _) = build("IBIM", "GRU4Rec", **NO_DROPOUT)
        train.ahead = ahead and train.ahead
        losses.append([trainer._train_epoch(train, epoch) for epoch in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
