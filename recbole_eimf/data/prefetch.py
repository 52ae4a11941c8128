"""Batches made ahead, and copied from pinned memory: a GPU does not wait for the processor to gather the next rows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from recbole.data.interaction import Interaction

Batch = TypeVar("Batch")
_END = object()


def prefetched(batches: Iterable[Batch], ready: int = 2) -> Iterator[Batch]:
    """The same batches in the same order, drawn by a thread of its own that keeps ``ready`` of them waiting.

    What a batch draws is drawn in the same order, so results do not change. An error ends the iteration where it would
    have without the thread; iteration that is left early ends the thread.
    """
    waiting: queue.Queue = queue.Queue(ready)
    left = threading.Event()

    def put(item) -> bool:
        while not left.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def draw() -> None:
        try:
            for batch in batches:
                if not put((batch, None)):
                    return
            put((_END, None))
        except BaseException as error:  # it is raised where the batch is asked for
            put((_END, error))

    thread = threading.Thread(target=draw, name="recbole_eimf batches", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = waiting.get()
            if error is not None:
                raise error
            if batch is _END:
                return
            yield batch
    finally:
        left.set()
        thread.join()


def pinned(batch: Interaction, device: torch.device) -> Interaction:
    """The batch in page-locked memory, from which ``device`` copies by itself; as it is for a processor."""
    if device.type != "cuda":
        return batch
    if device.index is not None:  # or a thread of its own would open a context on the first GPU
        torch.cuda.set_device(device)
    return Interaction({field: values.pin_memory() for field, values in batch.interaction.items()})


class SentBatch(Interaction):
    """A batch on a GPU; ``origin`` is the one of the processor it was made from, which nobody has to wait for."""

    def __init__(self, fields: dict[str, torch.Tensor], origin: Interaction) -> None:
        super().__init__(fields)
        self.origin = origin

    def to(self, device, selected_field=None) -> Interaction:
        """This batch, where it is on ``device`` already."""
        device = torch.device(device)  # without a number it is the one in use, which these are on
        own = {values.device for values in self.interaction.values()}
        there = all(device.type == each.type and device.index in (None, each.index) for each in own)
        return self if there and selected_field is None else super().to(device, selected_field)


def sent(batch: Interaction, device: torch.device) -> SentBatch:
    """The batch on ``device``, without waiting for what the device is still doing."""
    fields = {field: values.to(device, non_blocking=True) for field, values in batch.interaction.items()}
    return SentBatch(fields, batch)
