"""The GPU that is not there raises where a GPU does, and counts what a GPU makes the processor wait for."""

from __future__ import annotations

import pytest
import torch

from tests.pretend_gpu import GPU, DevicesMeet, PretendGPU, PretendTensor

MEET = {
    "sum": lambda x: x + torch.ones(3),
    "product": lambda x: x @ torch.ones(4, 2),
    "joined": lambda x: torch.cat([x, torch.ones(1, 4)]),
    "chosen": lambda x: torch.where(torch.ones(3, 4) > 0, x, 0.0),
    "gathered": lambda x: x.gather(1, torch.zeros(3, 1, dtype=torch.long)),
    "indexed by": lambda x: torch.ones(5)[x[0].long().clamp(0, 4)],
    "written": lambda x: torch.ones(3, 4).index_put_((torch.zeros(1).long(),), x[:1]),
    "in place": lambda x: torch.ones(3, 4).add_(x),
    "embedding": lambda x: torch.nn.functional.embedding(torch.zeros(2).long(), x),
    "linear": lambda x: torch.nn.Linear(4, 2)(x),
}
WAIT = {
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x.sum()),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "if": lambda x: 1 if (x > 100).any() else 0,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "to the device of": lambda x: x.to(torch.ones(1)),
    "copied out": lambda x: torch.empty(3, 4).copy_(x),
    "copied in": lambda x: torch.ones(3).to(GPU),
    "made there": lambda x: torch.tensor([1, 2], device=GPU),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "mask of rows": lambda x: x[(x > 0).any(1)],
    "written under a mask": lambda x: x.clone().index_put_((x[:, 0] > 9,), torch.zeros(4, device=GPU)),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "unique rows": lambda x: x.unique(dim=0),
    "unique_consecutive": lambda x: x.flatten().unique_consecutive(),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.long).to(GPU, non_blocking=True), 0),
    "bincount": lambda x: x.flatten().long().abs().bincount(),
    "equal": lambda x: torch.equal(x, x),
    "index of the processor": lambda x: x[torch.tensor([0, 2])],
}
QUIET = {
    "arithmetic": lambda x: (x * 2 - x.mean(0)) / 3.0 + torch.tensor(1.0),
    "fill": lambda x: x.clone().masked_fill_(x > 0, 0.0),
    "fill under a mask": lambda x: x.clone().__setitem__(x > 0, 0.0),
    "fill a column": lambda x: x.clone().__setitem__((slice(None), 0), -1.0),
    "index": lambda x: x[torch.arange(2, device=x.device)],
    "sorted": lambda x: x.topk(2).indices.argsort(),
    "scattered": lambda x: x.scatter(1, x.argmax(1, keepdim=True), 0.0),
    "sent without blocking": lambda x: torch.ones(3).to(x.device, non_blocking=True) + x[:, 0],
    "already there": lambda x: x.to("cuda").cuda().to(x),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.long, device=GPU), 0, output_size=3),
    "sizes": lambda x: len(x) + x.shape[1],
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
}


@pytest.fixture
def there():
    torch.manual_seed(0)
    with PretendGPU() as gpu:
        yield gpu, torch.randn(3, 4, device=GPU)


def test_a_tensor_is_on_the_gpu_and_holds_the_processors_numbers(there):
    _, x = there
    torch.manual_seed(0)
    expected = torch.randn(3, 4)
    assert isinstance(x, PretendTensor)
    assert (x.device, x.is_cuda, (x + 1).device) == (GPU, True, GPU)
    assert torch.equal((x @ x.T).cpu(), expected @ expected.T)
    assert type(x.cpu()) is torch.Tensor


@pytest.mark.parametrize("name", MEET)
def test_devices_do_not_meet(there, name):
    with pytest.raises(DevicesMeet, match="on cuda:0"):
        MEET[name](there[1])


@pytest.mark.parametrize("name", WAIT)
def test_what_waits_is_counted(there, name):
    gpu, x = there
    with gpu.counting() as waits:
        WAIT[name](x)
    assert sum(waits.values()) == 1
    assert next(iter(waits)).startswith("test_pretend_gpu.py:")


@pytest.mark.parametrize("name", QUIET)
def test_what_does_not_wait_is_not(there, name):
    gpu, x = there
    with gpu.counting() as waits:
        QUIET[name](x)
    assert not waits


def test_numpy_asks_for_the_processor_first(there):
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        there[1].numpy()


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_a_module_goes_there_with_all_its_parameters(there):
    gru = torch.nn.GRU(4, 5, batch_first=True)
    expected = gru(torch.ones(2, 3, 4))[0]
    found = gru.to(GPU)(torch.ones(2, 3, 4, device=GPU))[0]
    assert {type(p) for p in gru.parameters()} == {PretendTensor}
    assert torch.allclose(found.cpu(), expected)


def test_after_it_torch_is_as_before():
    before = (torch.tensor, torch.cuda._lazy_init, torch.is_grad_enabled())
    with PretendGPU():
        x = torch.ones(2, device=GPU)
    assert before == (torch.tensor, torch.cuda._lazy_init, torch.is_grad_enabled())
    layer = torch.nn.Linear(2, 2)
    assert layer.to("cpu").weight is layer.weight
    with pytest.raises(DevicesMeet, match="outside"):
        x + 1
