"""Mixed precision (``enable_amp``): bfloat16 where autocast says so, and a loss that keeps its own precision."""

from __future__ import annotations

import math

import pytest
import torch

import recbole_eimf
from recbole_eimf.config.config import say_once
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.narrow import times_as_long
from recbole_eimf.experiment import one_run
from recbole_eimf.model.losses.loss import info_nce
from recbole_eimf.model.losses.mmd import mmd
from recbole_eimf.model.losses.partition import mean_hard_partition, mean_log_partition
from recbole_eimf.trainer.state import read_state


def partition_and_gradients(kind, states, vectors, amp: bool):
    states, vectors = states.clone().requires_grad_(), vectors.clone().requires_grad_()
    target = torch.arange(len(states))
    with torch.autocast("cpu", enabled=amp):
        if kind == "plain":
            found = mean_log_partition(states, vectors)
        else:
            positive = (states.float() * vectors[target]).sum(-1)
            found = mean_hard_partition(states, vectors, positive, target, beta=0.5)
    found.backward()
    return found, states.grad, vectors.grad


@pytest.mark.parametrize("kind", ["plain", "hard"])
def test_the_partition_sum_is_as_exact_under_autocast_as_without(kind):
    torch.manual_seed(0)
    states, vectors = torch.randn(7, 16), torch.randn(50, 16)
    for own, other in zip(*(partition_and_gradients(kind, states, vectors, amp) for amp in (False, True))):
        assert torch.equal(own, other)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear", "cosine"])
def test_the_distance_of_two_samples_is_as_exact_under_autocast_as_without(kernel):
    """Aligned samples differ by less than a bfloat16 can tell: the alignment would end where it is needed most."""
    torch.manual_seed(0)
    first = 3 + torch.randn(40, 16)
    second = (first + 0.01 * torch.randn(40, 16)).bfloat16()
    found = []
    for amp in (False, True):
        left = first.clone().requires_grad_()
        with torch.autocast("cpu", enabled=amp):
            distance = mmd(left, second if amp else second.float(), kernel)
        distance.backward()
        found.append((distance.detach(), left.grad))
    (whole, gradient), (narrow, narrow_gradient) = found
    assert narrow.dtype == torch.float32
    assert torch.equal(whole, narrow)
    assert torch.equal(gradient, narrow_gradient)
    assert gradient.any()


def test_the_contrast_of_rows_that_share_something_is_as_exact_under_autocast_as_without():
    torch.manual_seed(0)
    first, second = torch.randn(9, 16), torch.randn(9, 16)
    same = torch.eye(9, dtype=torch.bool)
    same[0, 3] = True
    with torch.autocast("cpu"):
        narrow = info_nce(first, second, 0.1, same)
    assert torch.equal(narrow, info_nce(first, second, 0.1, same))


def test_float16_without_a_scaler_is_refused(planted):
    with pytest.raises(ConfigError, match="amp_dtype=float16.*enable_scaler"):
        recbole_eimf.run("IBIM", "planted", data_path=str(planted), enable_amp=True, amp_dtype="float16")


@pytest.mark.parametrize("kind", ["plain", "hard"])
def test_narrow_states_give_a_wide_loss(kind):
    """What autocast's layers hand over is bfloat16; a loss of 3.9 in it would be one of a few steps of 0.016."""
    torch.manual_seed(0)
    states, vectors = torch.randn(7, 16).bfloat16(), torch.randn(50, 16)
    narrow = partition_and_gradients(kind, states, vectors, True)
    wide = partition_and_gradients(kind, states.float(), vectors, False)
    assert narrow[0].dtype == torch.float32
    assert torch.equal(narrow[0], wide[0])
    assert narrow[1].dtype == torch.bfloat16
    torch.testing.assert_close(narrow[1].float(), wide[1], rtol=0.01, atol=1e-4)
    torch.testing.assert_close(narrow[2], wide[2])


@pytest.mark.parametrize(
    ("model", "more"),
    [("EIMF", {"backbone": "SASRec", "item_text": "concat", "score": "cosine"}), ("PAD", {"score": "cosine"})],
)
def test_training_in_float16_on_a_processor_has_no_nan(planted, semantic_cache, model, more):
    """The row of padding is zero, and its length in float16 was divided by an epsilon that is zero there too."""
    result = recbole_eimf.run(
        model, "planted", data_path=str(planted), semantic_cache=str(semantic_cache), text_encoder="tfidf-svd",
        epochs=2, hidden_size=16, inner_size=16, n_layers=1, MAX_ITEM_LIST_LENGTH=8, train_batch_size=40, state="ERROR",
        topk=[1, 5], valid_metric="NDCG@5", show_progress=False, compare_with=[], phase_cache=False, enable_amp=True,
        amp_dtype="float16", enable_scaler=True, **more,
    )  # fmt: skip
    assert result.test["ndcg@5"] > 0


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("IBIM", {"backbone": "GRU4Rec"}),
        ("IBIM", {"vector_graph": "similar"}),
        ("IBIM", {"backbone": "SASRec", "logits_dtype": "bfloat16"}),
        ("REMI", {}),
        ("EIMF", {}),
        ("EIMF", {"item_text": "concat", "interest_labels": 0.2, "text_labels": 0.2, "backbone": "DNN"}),
        ("PAD", {"pretrain": "id", "epochs": 3}),
    ],
)
def test_training_in_bfloat16_finds_what_training_in_float32_finds(planted, semantic_cache, monkeypatch, model, more):
    keys = {
        "data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd", "epochs": 8,
        "hidden_size": 16, "inner_size": 16, "embedding_size": 16, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 8,
        "train_batch_size": 40, "learning_rate": 0.01, "hidden_dropout_prob": 0, "dropout_prob": 0, "state": "ERROR",
        "topk": [1, 5], "valid_metric": "NDCG@5", "show_progress": False, "compare_with": [], "phase_cache": False,
    }  # fmt: skip
    kinds = set()
    linear = torch.nn.functional.linear

    def watched(*args, **kwargs):
        found = linear(*args, **kwargs)
        if found.requires_grad:
            kinds.add(found.dtype)
        return found

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    results = []
    for amp in (False, True):
        kinds.clear()
        results.append(recbole_eimf.run(model, "planted", enable_amp=amp, output_dir=f"amp-{amp}", **{**keys, **more}))
        assert (torch.bfloat16 in kinds) == amp or model == "REMI"
    whole, narrow = results
    assert narrow.test["ndcg@5"] == pytest.approx(whole.test["ndcg@5"], abs=0.1)
    assert all(math.isfinite(value) for value in narrow.valid.values())
    tensors, _ = read_state("amp-True/last.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if name.startswith(("model.", "optimiser."))} <= {
        torch.float32, torch.int64, torch.bool,
    }  # fmt: skip


@pytest.mark.parametrize(("slower", "said"), [(22.4, True), (0.6, False)])
def test_a_processor_without_the_instructions_is_warned_of(planted, slower, said, monkeypatch, caplog):
    """It takes tens of times as long in bfloat16, which is there to halve the time."""
    say_once.cache_clear()
    monkeypatch.setattr(one_run, "times_as_long", lambda dtype: slower if dtype == torch.bfloat16 else 1.0)
    keys = {"data_path": str(planted), "backbone": "GRU4Rec", "epochs": 1, "skip_test": True}
    for given, key, switch in (
        ({"logits_dtype": "bfloat16"}, "logits_dtype", "logits_dtype"),
        ({"enable_amp": True}, "amp_dtype", "enable_amp"),
    ):
        caplog.clear()
        recbole_eimf.run("IBIM", "planted", **given, **keys)
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        expected = (
            f"{key}=bfloat16: this processor's products take 22 times as long in it as in float32 (measured just now). "
            f"Leave {switch} out."
        )
        assert [words for words in warned if "dtype" in words] == [expected] * said


def test_a_formats_cost_is_a_ratio_to_float32():
    threads = torch.get_num_threads()
    assert times_as_long(torch.float32) == pytest.approx(1, rel=0.9)
    assert times_as_long(torch.float64) > 0.5
    assert torch.get_num_threads() == threads
