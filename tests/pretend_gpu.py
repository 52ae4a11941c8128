"""A GPU that is not there: tensors that say they are on ``cuda:0`` and compute on the processor.

:class:`PretendGPU` is a dispatch mode. Inside it, whatever is made on or sent to a CUDA device becomes a
:class:`PretendTensor`; an operation between one of them and a tensor of the processor raises :class:`DevicesMeet`, as
on a GPU, and what makes the processor wait for a GPU (a size that depends on values, a value that is read, a copy that
is not ``non_blocking``) is written down with the line it stands on. Gradients are not followed: ``backward`` does
nothing. What torch's kernels wait for inside of themselves is not seen.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import recbole
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda:0")
_HERE = Path(__file__).name
#: the project's code and RecBole's, wherever the checkout is and whatever it is called: an environment may lie in it
_ROOT = Path(__file__).parents[1]
_PLACES = (_ROOT / "recbole_eimf", _ROOT / "tests", Path(recbole.__file__).parent)

#: operations that tell the processor something of the values: it has to wait for them
WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.nonzero_numpy.default, aten.masked_select.default,
    aten._unique.default, aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default,
    aten.unique_dim_consecutive.default, aten.repeat_interleave.Tensor, aten.bincount.default, aten.equal.default,
    aten.is_nonzero.default, aten.item.default, aten.argwhere.default, aten._coalesce.default, aten.histc.default,
    aten.linalg_eigh.default, aten._linalg_eigh.default, aten.allclose.default,
}  # fmt: skip
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default,
            aten._unsafe_index.Tensor}  # fmt: skip
_COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}


class DevicesMeet(RuntimeError):
    """What a GPU answers to: expected all tensors to be on the same device."""


class PretendTensor(torch.Tensor):
    """A tensor that says it is on ``cuda:0``; ``numbers`` holds them, on the processor.

    To torch's own C++ it is one of the processor's, so that torch need not have been built for CUDA; what is
    written in Python, and the dispatch mode, see the other device.
    """

    device = GPU
    is_cuda = True
    is_cpu = False

    @staticmethod
    def __new__(cls, numbers: torch.Tensor):
        strides, offset = numbers.stride(), numbers.storage_offset()
        return torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=strides, storage_offset=offset, dtype=numbers.dtype
        )

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def backward(self, *_args, **_kwargs) -> None: ...

    def cpu(self, *_args, **_kwargs):
        return self.to("cpu")

    def cuda(self, *_args, **_kwargs):
        return self

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], torch.Tensor):  # as another tensor is
            kwargs = {"device": args[0].device, "dtype": args[0].dtype, **kwargs}
            args = args[1:]
        elif args and isinstance(args[0], torch.dtype):
            kwargs["dtype"], args = args[0], args[1:]
        for name, value in zip(("device", "dtype", "non_blocking", "copy"), args):
            kwargs.setdefault(name, value)
        device = torch.device(kwargs.pop("device", None) or GPU)
        dtype, copy = kwargs.pop("dtype", None) or self.dtype, kwargs.pop("copy", False)
        if device.type == "cuda" and dtype == self.dtype and not copy:
            return self
        kwargs.pop("memory_format", None)
        return aten._to_copy.default(self, dtype=dtype, device=device, **kwargs)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False):
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")  # torch's own words
        return self.cpu().numpy()

    def __repr__(self) -> str:
        return f"PretendTensor({self.numbers})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:  # makes its mask where C++ thinks the tensors are
            return _attention(*args, **(kwargs or {}))
        if func.__name__ == "gru" and len(args) == 9 and args[-1]:  # turns its result round in place
            states, last = func(args[0].transpose(0, 1), *args[1:-1], False)
            return states.transpose(0, 1), last
        with torch._C.DisableTorchFunctionSubclass():  # what comes back to the processor is to be a plain tensor
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise DevicesMeet(f"{func}: a pretended tensor is used outside PretendGPU")


def _made_here(make):
    def made(data, *args, device=None, **kwargs):
        found = make(data, *args, **kwargs)
        return found if device is None else found.to(device)

    return made


def _line() -> str:
    """Where in the project (or in RecBole) the running operation was asked for."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.name != _HERE and any(path.is_relative_to(place) for place in _PLACES):
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class PretendGPU(TorchDispatchMode):
    """See the file. ``waits`` counts the host's waits by line, as ``"eimf.py:192 nonzero"``."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._context = contextlib.ExitStack()

    def __enter__(self):
        # no CUDA is started for a device that is only named
        self._context.enter_context(mock.patch.object(torch.cuda, "_lazy_init"))
        self._context.enter_context(torch.no_grad())
        for name in ("tensor", "as_tensor"):  # they look for CUDA's memory before they ask a dispatch mode
            self._context.enter_context(mock.patch.object(torch, name, _made_here(getattr(torch, name))))
        # nn.Module.to() is to put new parameters in the place of the old ones
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._context.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._context.close()

    @contextlib.contextmanager
    def counting(self):
        """Yield a counter of the waits inside."""
        before = Counter(self.waits)
        found: Counter[str] = Counter()
        yield found
        found.update(self.waits - before)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        pretended = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        named = kwargs.get("device")
        here = bool(pretended) if named is None else torch.device(named).type == "cuda"
        if not pretended and not here:
            return func(*args, **kwargs)
        if func is aten._pin_memory.default or func is aten.is_pinned.default:
            return args[0] if func is aten._pin_memory.default else False
        self._check(func, args, kwargs, tensors, pretended, here)
        if named is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        plain = tree_map(lambda leaf: leaf.numbers if isinstance(leaf, PretendTensor) else leaf, (args, kwargs))
        found = func(*plain[0], **plain[1])
        if func is aten.copy_.default:
            return args[0]
        if func is aten._local_scalar_dense.default:
            return found
        known = {id(tensor.numbers): tensor for tensor in pretended}
        return tree_map(lambda leaf: self._wrapped(leaf, known, here), found)

    @staticmethod
    def _wrapped(leaf, known, here):
        if not isinstance(leaf, torch.Tensor) or not here:
            return leaf
        return known[id(leaf)] if id(leaf) in known else PretendTensor(leaf)

    def _check(self, func, args, kwargs, tensors, pretended, here) -> None:
        strangers = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
        if func in _COPIES:
            target = args[0] if func is not aten._to_copy.default else None
            to_gpu = isinstance(target, PretendTensor) if target is not None else here
            source = args[0] if target is None else args[1]
            from_gpu = isinstance(source, PretendTensor)
            blocking = not (kwargs.get("non_blocking") or (target is not None and len(args) > 2 and args[2]))
            if from_gpu and not to_gpu:  # even a copy that does not block is of no use before it has been waited for
                self._waited(func, "to the processor")
            elif to_gpu and not from_gpu and blocking and source.dim():  # a number is an argument of what runs there
                self._waited(func, "from the processor")
            return
        if func in _INDEXED:
            indices = [index for index in args[1] if index is not None]
            outside = [tensor for tensor in strangers if not any(tensor is index for index in indices)]
            if not isinstance(args[0], PretendTensor) or any(tensor.dim() for tensor in outside):
                raise DevicesMeet(f"{func} at {_line()}: {_described(tensors)}")
            if any(not isinstance(index, PretendTensor) for index in indices):
                self._waited(func, "with an index from the processor")
            fills = func is not aten.index.Tensor and args[2].numel() == 1  # is a fill under a mask, on a GPU too
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
                self._waited(func, "with a mask")
            return
        if pretended and any(tensor.dim() for tensor in strangers):
            raise DevicesMeet(f"{func} at {_line()}: {_described(tensors)}")
        if func in WAITS and not (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None):
            self._waited(func)

    def _waited(self, func, how: str = "") -> None:
        name = func.overloadpacket.__name__
        self.waits[f"{_line()} {name} {how}".rstrip()] += 1


def _described(tensors) -> str:
    return ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False):
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return torch.nn.functional.dropout(torch.softmax(scores, -1), dropout_p) @ value
