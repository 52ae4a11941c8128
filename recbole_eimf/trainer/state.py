"""The state of a running training as one safetensors file: tensors by name, everything else as JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from recbole_eimf.core.files import atomic_path


def write_state(path: str | os.PathLike, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and JSON values atomically: a kill leaves the previous file."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(plain, metadata={"values": json.dumps(values)}))


def read_state(path: str | os.PathLike, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_state` wrote. Raises safetensors' and JSON's errors for a file that is something else."""
    with safe_open(Path(path), framework="pt", device=device) as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
        return tensors, json.loads(stored.metadata()["values"])


def read_values(path: str | os.PathLike) -> dict[str, Any]:
    """The JSON values of what :func:`write_state` wrote, without its tensors."""
    with safe_open(Path(path), framework="pt") as stored:
        return json.loads(stored.metadata()["values"])


def optimiser_parts(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimiser's state: tensors called ``optimiser.<parameter>.<name>``, and its groups as plain values."""
    state = optimiser.state_dict()
    tensors = {
        f"optimiser.{index}.{name}": torch.as_tensor(value)
        for index, entries in state["state"].items()
        for name, value in entries.items()
    }
    return tensors, state["param_groups"]


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Put back what :func:`optimiser_parts` took; the learning rate and the like are those it was built with now."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    built = optimiser.state_dict()["param_groups"]
    if len(built) == len(groups):  # else it refuses them
        groups = [{**now, "params": then["params"]} for now, then in zip(built, groups)]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def gpu_random_state(device: torch.device) -> dict[str, Tensor]:
    """The random state of the GPU a run trains on, as ``random.cuda``; nothing where it trains on a processor."""
    return {"random.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}


def restore_gpu_random_state(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`gpu_random_state` took, whatever the number of the GPU and however many there are now.

    Older states hold those of all GPUs, as ``random.cuda.<number>``: the one of this number is taken, or the first. A
    run that was begun on a processor draws on a GPU from its seed on.
    """
    if device.type != "cuda":
        return
    first = next((key for key in sorted(tensors) if key.startswith("random.cuda.")), None)
    for key in ("random.cuda", f"random.cuda.{device.index or 0}", first):
        if key in tensors:
            torch.cuda.set_rng_state(tensors[key], device)
            return
