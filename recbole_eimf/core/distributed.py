"""Several processes that train one model: how they start, which one this is, and the few words they exchange.

A group is started by ``--nproc`` (:func:`spawn`) or by ``torchrun``; both tell a process its place through torch's
environment variables. Every process builds the same data and model; gradients are averaged by DistributedDataParallel
(:mod:`recbole_eimf.trainer.trainer`), rows are shared by the loaders (:mod:`recbole_eimf.data.loader`), what was ranked
is gathered by the collector (:mod:`recbole_eimf.evaluator.collector`). Process 0 is the one that writes and speaks.

RecBole's own processes (its Config joins a group when it finds ``local_rank``) are not used: they need a GPU each,
repeat users in evaluation to make the parts even, and average metrics by batches instead of users. Their gradients are
averaged only because a sum over all parameters, times zero, is added to every loss.
"""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recbole_eimf.core import errors
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.files import read_json, write_json

#: RecBole's keys for processes, which say nothing to a run itself
KEYS = ("nproc", "world_size", "group_offset", "ip", "port")
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_ERROR_FILE = "error.json"
# others wait while process 0 encodes text or asks an LLM; whoever started the processes ends them all when one fails
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Place:
    """Which of ``world_size`` processes this is, and which of the ``local_world_size`` on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


@dataclass(frozen=True)
class Processes:
    """What ``--nproc`` and the keys beside it ask for: ``nproc`` processes here of ``world_size`` on all machines, the
    first of them the ``group_offset``-th; the machine of process 0 is ``ip``."""

    nproc: int
    world_size: int
    group_offset: int
    ip: str
    port: int


# ---------------------------------------------------------------------- this process
def place() -> Place | None:
    """The place that ``torchrun`` or :func:`spawn` gave this process; None where it works alone."""
    if any(name not in os.environ for name in _VARIABLES) or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    rank, world_size, local_rank = (int(os.environ[name]) for name in _VARIABLES[:3])
    return Place(rank, world_size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))


def join(device: torch.device) -> None:
    """Meet the other processes, once: later runs of the same processes find them met. One that is alone goes on."""
    if place() is None or joined():
        return
    # the name that takes its place is newer than the torch that setup.cfg allows
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated", category=FutureWarning)
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=_PATIENCE)


def leave() -> None:
    """Part from the others, at the end of a process; not after an error, when they may never answer."""
    if joined():
        dist.destroy_process_group()


def joined() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process, 0 where it is alone."""
    return dist.get_rank() if joined() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if joined() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return rank() == 0


# ---------------------------------------------------------------------- words between processes
def wait_for_all() -> None:
    """Return when every process has come here."""
    if joined():
        dist.all_reduce(torch.zeros(1))


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Process 0 does the work inside first, the others afterwards: they find its downloads and artefacts."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def agreed(decision: bool) -> bool:
    """What process 0 decided: files come and go, and processes that part ways wait for each other for ever."""
    if not joined():
        return decision
    word = torch.tensor(int(decision))
    dist.broadcast(word, 0)
    return bool(word)


def mean(values: tuple[float, ...]) -> tuple[float, ...]:
    """The mean of each value over the processes."""
    if not joined():
        return values
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return tuple((total / world_size()).tolist())


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, those of process 0 first: [n_r, ...] -> [sum of n_r, ...], on the CPU."""
    rows = rows.cpu()
    if not joined():
        return rows
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)]))
    longest = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts)])


def copy_from_first(model: torch.nn.Module) -> None:
    """Give every process the parameters and buffers of process 0; not sparse ones, which cannot be sent and which each
    has made of the same files."""
    if joined():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.layout == torch.strided:
                dist.broadcast(tensor.data, 0)


# ---------------------------------------------------------------------- shares of the data
def batch_share(batch: np.ndarray) -> tuple[slice, float]:
    """(this process's rows of a batch, the weight of its mean loss).

    Every ``world_size``-th row, so that a batch sorted by length is shared evenly. DistributedDataParallel averages
    gradients over processes; with the weight, a loss that is a mean over rows has the gradient of the whole batch. A
    process without a row takes one that does not count: all processes make the same number of steps.
    """
    mine = slice(rank(), None, world_size())
    count = len(range(*mine.indices(len(batch))))
    return (mine, count * world_size() / len(batch)) if count else (slice(1), 0.0)


def rows_share(count: int) -> tuple[int, int]:
    """[first, end) of this process's rows of ``count``: parts that follow each other and differ by at most one."""
    return count * rank() // world_size(), count * (rank() + 1) // world_size()


# ---------------------------------------------------------------------- starting processes
def asked(keys: Mapping[str, Any]) -> Processes | None:
    """The processes that keys ask for; None where this one is to work by itself, or was started as one of several.

    Raises:
        ConfigError: numbers that make no sense, or ``nproc`` under ``torchrun``.
    """
    nproc = _whole("nproc", keys.get("nproc", 1), 1)
    offset = _whole("group_offset", keys.get("group_offset", 0), 0)
    total = keys.get("world_size")
    total = nproc if total in (None, -1) else _whole("world_size", total, nproc + offset)
    if max(nproc, total) == 1:
        return None
    if place() is not None:
        raise ConfigError(f"nproc={nproc}, world_size={total}: torchrun has started the processes; leave both out.")
    port = _whole("port", keys.get("port", 5678 if total > nproc else _free_port()), 1)
    return Processes(nproc, total, offset, str(keys.get("ip", "localhost")), port)


def _whole(key: str, value: Any, least: int) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if type(value) is not int or value < least:
        raise ConfigError(f"{key}={value!r}: a whole number, at least {least}.")
    return value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def spawn(processes: Processes, work: Callable[..., None], arguments: tuple, folder: Path) -> None:
    """Call ``work(*arguments)`` in every new process and wait for their end.

    Args:
        work: a function of a module, so that a bare process finds it.
        folder: an empty one, for what goes wrong.

    Raises:
        UserError: what one of them raised.
        RuntimeError: another failure, with its traceback.
    """
    from torch.multiprocessing import spawn as start
    from torch.multiprocessing.spawn import ProcessException

    # torch writes a line at the first step if every part of a model was used in it; ours may be used in turns
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        start(_enter, (processes, work, arguments, folder), nprocs=processes.nproc, join=True)
    except ProcessException as error:
        for path in folder.glob(f"*-{_ERROR_FILE}"):
            found = read_json(path)
            raise getattr(errors, found["kind"])(found["message"]) from None
        raise RuntimeError(f"one of {processes.nproc} processes failed: {error}") from error


def _enter(local_rank: int, processes: Processes, work: Callable[..., None], arguments: tuple, folder: Path) -> None:
    values = {
        "RANK": processes.group_offset + local_rank, "WORLD_SIZE": processes.world_size, "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": processes.nproc, "MASTER_ADDR": processes.ip, "MASTER_PORT": processes.port,
    }  # fmt: skip
    os.environ.update({name: str(value) for name, value in values.items()})
    if "OMP_NUM_THREADS" not in os.environ:  # processes that each take all cores stand in each other's way
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes.nproc))
    try:
        work(*arguments)
        leave()
    except errors.UserError as error:
        write_json(folder / f"{local_rank}-{_ERROR_FILE}", {"kind": type(error).__name__, "message": str(error)})
        raise
