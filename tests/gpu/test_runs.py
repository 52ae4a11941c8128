"""Whole runs on a GPU: mixed precision, the compiler, two processes, and going on after a stop."""

from __future__ import annotations

import pytest
import torch

import recbole_eimf

NO_DROPOUT = {"hidden_dropout_prob": 0, "attn_dropout_prob": 0, "fusion_dropout": 0}


class Stop(Exception):
    pass


def stop_after_two(epoch: int, score: float) -> None:
    if epoch == 1:
        raise Stop


@pytest.mark.parametrize("more", [{}, {"amp_dtype": "float16", "enable_scaler": True}, {"logits_dtype": "bfloat16"}])
@pytest.mark.parametrize("model", ["IBIM", "EIMF", "PAD"])
def test_mixed_precision_finds_what_float32_finds(keys, on_gpu, model, more):
    if not on_gpu and "enable_scaler" in more:
        pytest.skip("gradients are scaled on a GPU alone")
    plain, narrow = (
        recbole_eimf.run(model, "planted", **{**keys, **NO_DROPOUT, "epochs": 8}, **given)
        for given in ({}, {"enable_amp": True, **more})
    )
    assert narrow.test["ndcg@5"] == pytest.approx(plain.test["ndcg@5"], abs=0.1)


@pytest.mark.parametrize("backbone", ["SASRec", "BERT4Rec"])
def test_a_compiled_encoder_trains(keys, on_gpu, backbone):
    if not on_gpu:
        pytest.skip("takes a compiler and a minute on a processor")
    given = {**keys, **NO_DROPOUT, "backbone": backbone}
    plain = recbole_eimf.run("IBIM", "planted", **given)
    compiled = recbole_eimf.run("IBIM", "planted", **given, torch_compile=True)
    assert compiled.test["ndcg@5"] == pytest.approx(plain.test["ndcg@5"], abs=0.1)


@pytest.mark.parametrize("model", ["IBIM", "EIMF", "PAD"])
def test_two_gpus_train_what_one_trains(keys, on_gpu, model):
    if not on_gpu or torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs: NCCL refuses to share one")
    more = {"auxiliary_targets": "all"} if model == "EIMF" else {}
    one = recbole_eimf.run(model, "planted", **{**keys, **NO_DROPOUT, **more})
    both = recbole_eimf.run(model, "planted", **{**keys, **NO_DROPOUT, **more}, nproc=2, gpu_id="0,1")
    assert both.test["ndcg@5"] == pytest.approx(one.test["ndcg@5"], abs=0.05)


@pytest.mark.parametrize(("begun", "resumed"), [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_where_it_can(keys, on_gpu, tmp_path, begun, resumed):
    """On the GPU that began it with the same random numbers; on a processor, or from one, with others."""
    given = {**keys, "output_dir": str(tmp_path / "out")}
    with pytest.raises(Stop):
        recbole_eimf.run("IBIM", "planted", **{**given, "use_gpu": on_gpu and begun}, callback=stop_after_two)
    found = recbole_eimf.run("IBIM", "planted", **{**given, "use_gpu": on_gpu and resumed}, resume=True)
    assert found.epochs == 3
    if begun and resumed:
        whole = recbole_eimf.run("IBIM", "planted", **{**keys, "output_dir": str(tmp_path / "whole")})
        assert found.test == pytest.approx(whole.test, abs=0.02)  # some of a GPU's sums have no fixed order
