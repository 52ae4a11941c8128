"""RecBole's training epoch without a wait for the GPU at every step: losses are read now and then, not one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from recbole.utils import get_gpu_usage, set_color
from torch import Tensor
from torch.nn.utils.clip_grad import clip_grad_norm_

from recbole_eimf.core.bars import bar
from recbole_eimf.core.errors import UserError

#: steps after which a GPU is asked for their losses; a processor's are there at once
_STEPS_UNREAD = 64
#: torch 2.3 moved it
_SCALER = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler

Losses = Tensor | tuple[Tensor, ...]


_DIVERGED = (
    "the training loss is not a number: parameters have grown without bound. Lower learning_rate, give "
    "\"--clip_grad_norm={'max_norm': 1}\", or leave out enable_amp."
)
_NEVER_WAS = (
    "the loss of the first batch is not a number, before any step of training: a value in the data or in the model's "
    "own code makes it, not learning_rate. Look for NaN or infinity in a column of numbers that the model reads, and "
    "for a division by zero, or a log or root of zero or less, in calculate_loss; leave out enable_amp, if it is set."
)


class EpochLosses:
    """The sum of an epoch's losses, each part by itself, as RecBole adds them up.

    Args:
        device: that the losses are on; untrained: no step was made before this epoch, so that none can have spoilt the
            parameters.
    """

    def __init__(self, device: torch.device, untrained: bool = False) -> None:
        self.untrained = untrained
        self.unread: list[Tensor] = []
        self.most_unread = _STEPS_UNREAD if device.type == "cuda" else 1
        self.parts: list[float] | None = None
        self.single = True

    def add(self, losses: Losses) -> None:
        """Take in a step's losses. Raises UserError where one that was read is not a number."""
        self.single = not isinstance(losses, tuple)
        parts = (losses,) if self.single else losses
        # RecBole's Pop gives a loss of shape [1], which RecBole's epoch reads as a number too
        self.unread.append(torch.stack([part.detach().reshape(()) for part in parts]))
        if len(self.unread) >= self.most_unread:
            self._read()

    def _read(self) -> None:
        steps = torch.stack(self.unread).tolist()
        self.unread.clear()
        for step in steps:
            if math.isnan(sum(step)):
                raise UserError(_NEVER_WAS if self.untrained and self.parts is None else _DIVERGED)
            self.parts = step if self.parts is None else [a + b for a, b in zip(self.parts, step, strict=True)]

    def total(self) -> float | tuple[float, ...] | None:
        """The sums: a number, or one for each part; None where there was no step. Raises as :meth:`add` does."""
        if self.unread:
            self._read()
        if self.parts is None:
            return None
        return self.parts[0] if self.single else tuple(self.parts)


def scaler_of(trainer: Any) -> Any:
    """The scaler of a trainer's gradients, one for all epochs: a new one throws the first steps away until its scale
    fits (RecBole makes one an epoch)."""
    if getattr(trainer, "grad_scaler", None) is None:
        trainer.grad_scaler = _SCALER(enabled=trainer.enable_scaler)
    return trainer.grad_scaler


def _check(losses: Any, model: str) -> None:
    """Refuse what cannot be trained: torch's words would be about the step after. Raises UserError."""
    said = f"model={model}: calculate_loss gave"
    parts = losses if isinstance(losses, tuple) else (losses,)
    for part in parts:
        if not isinstance(part, Tensor) or part.numel() != 1:
            kind = f"a tensor of {list(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise UserError(
                f"{said} {kind}{' in a tuple' if isinstance(losses, tuple) else ''}; a tensor of one number is needed, "
                f"or a tuple of such."
            )
    if not parts:
        raise UserError(f"{said} an empty tuple: no parameter would be trained. Leave out what has no part in it.")


def _backward(loss: Tensor, model: str) -> None:
    """The gradient of a scaled loss. Raises UserError for a loss that has none, as one made under ``no_grad``."""
    try:
        loss.backward()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise UserError(
            f"model={model}: calculate_loss gave a loss without a gradient: no parameter would be trained. Was it made "
            f"under no_grad, or from .detach() or .item()?"
        ) from error


def train_epoch(trainer: Any, batches: Iterable, epoch: int, loss_of: Callable[[Any], Losses], shown: bool) -> Any:
    """One epoch of a trainer of RecBole's: its own ``_train_epoch`` but for when losses are read.

    Args:
        trainer: whose model, optimiser and settings; batches: a training loader; loss_of: a batch's loss, or losses
            whose sum is trained; shown: with a progress bar.

    Returns:
        What :meth:`EpochLosses.total` gives.

    Raises:
        UserError: a loss is not a number; on a GPU up to 64 steps later.
    """
    trainer.model.train()
    found = EpochLosses(trainer.device, untrained=epoch == 0)
    scaler = scaler_of(trainer)
    title = set_color(f"Train {epoch:>5}", "pink")
    shown_bar = bar(batches, total=len(batches), ncols=100, desc=title, leave=False) if shown else batches
    for batch in shown_bar:
        batch = batch.to(trainer.device)
        trainer.optimizer.zero_grad()
        with torch.autocast(device_type=trainer.device.type, enabled=trainer.enable_amp):
            losses = loss_of(batch)
        _check(losses, trainer.config["model"])
        found.add(losses)
        loss = sum(losses) if isinstance(losses, tuple) else losses
        _backward(scaler.scale(loss), trainer.config["model"])
        if trainer.clip_grad_norm:
            scaler.unscale_(trainer.optimizer)  # RecBole clips gradients that are still scaled
            clip_grad_norm_(trainer.model.parameters(), **trainer.clip_grad_norm)
        scaler.step(trainer.optimizer)
        scaler.update()
        if shown and trainer.gpu_available:
            shown_bar.set_postfix_str(set_color("GPU RAM: " + get_gpu_usage(trainer.device), "yellow"))
    return found.total()
