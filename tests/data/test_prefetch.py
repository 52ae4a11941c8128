"""Batches made ahead by a thread: the same ones, in order, with errors where they belong and no thread left over."""

import threading

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_eimf.data.prefetch import pinned, prefetched, sent
from recbole_eimf.data.views import host_side
from recbole_eimf.experiment import assembly
from tests.pretend_gpu import GPU, PretendGPU


def threads():
    return [t for t in threading.enumerate() if t.name == "recbole_eimf batches"]


def test_the_same_batches_in_order():
    assert list(prefetched(iter(range(50)))) == list(range(50))
    assert list(prefetched([])) == []
    assert not threads()


def test_no_more_are_made_than_may_wait():
    made = []
    waiting = threading.Event()

    def batches():
        for number in range(10):
            made.append(number)
            if number == 4:
                waiting.set()  # 0 was taken, 1 to 3 wait, 4 waits to be put
            yield number

    ahead = prefetched(batches(), ready=3)
    assert next(ahead) == 0
    assert waiting.wait(10)
    assert made == [0, 1, 2, 3, 4]
    assert list(ahead) == list(range(1, 10))


def test_an_error_comes_after_the_batches_before_it():
    def batches():
        yield 1
        yield 2
        raise KeyError("field")

    ahead = prefetched(batches())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="field"):
        next(ahead)
    assert not threads()


def test_leaving_early_ends_the_thread():
    ahead = prefetched(iter(range(1000)))
    assert next(ahead) == 0
    assert threads()
    ahead.close()
    assert not threads()


BPR = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}


@pytest.mark.parametrize(("model", "keys"), [("REMI", {}), ("SASRec", BPR)])
def test_loaders_make_the_same_batches_ahead(make_config, model, keys):
    """Random cuts, negatives that RecBole draws, and evaluation."""
    config = make_config(model, use_gpu=False, **keys)
    passes = []
    for ahead in (False, True):
        init_seed(1, True)
        train, valid, _ = assembly.loaders(config)
        train.ahead = valid.ahead = ahead
        batches = [batch.interaction for _ in range(2) for batch in train]
        passes.append((batches, [batch[0].interaction for batch in valid], [batch[2] for batch in valid]))
    (plain, asked, rows), (early, asked_early, rows_early) = passes
    assert len(plain) == len(early) > 2
    for one, other in zip(plain + asked, early + asked_early, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[field], other[field]) for field in one)
    assert all(torch.equal(one, other) for one, other in zip(rows, rows_early, strict=True))


def test_a_batch_is_sent_as_it_is():
    batch = Interaction({"item_id": torch.arange(5), "item_id_list": torch.ones(5, 3)})
    there = sent(pinned(batch, torch.device("cpu")), torch.device("cpu"))
    assert there.interaction.keys() == batch.interaction.keys()
    assert all(torch.equal(there[field], batch[field]) for field in batch.interaction)


def test_a_sent_batch_knows_what_it_was_made_from():
    batch = Interaction({"item_id": torch.arange(5), "user_id": torch.ones(5).long()})
    with PretendGPU() as gpu:
        with gpu.counting() as waits:
            there = sent(batch, GPU)
            assert there.to(GPU) is there
            assert there.to("cuda") is there
        assert not waits
        assert {values.device for values in there.interaction.values()} == {GPU}
        assert host_side(there) is batch
        assert len(there) == 5
        back = there.to("cpu")
    assert torch.equal(back["item_id"], batch["item_id"])
    assert host_side(back) is back
    assert host_side(batch) is batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here: pinned memory cannot be tried")
def test_pinned_memory():
    batch = pinned(Interaction({"item_id": torch.arange(5)}), torch.device("cuda", 0))
    assert batch["item_id"].is_pinned()
    assert sent(batch, torch.device("cuda"))["item_id"].tolist() == list(range(5))
