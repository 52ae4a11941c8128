"""``encoder.onnx``: histories to interests in another stack's runtime (extra [onnx]).

Inputs ``item_seq`` int64 [B, L] (rows of ``items.parquet``, right-padded with 0) and ``item_seq_len`` int64 [B]; output
``interests`` float32 [B, K, D], whose greatest product over K with a row of ``items.safetensors`` (plus its bias) is
the score. B is free, and so is L up to the model's length; where a network needs full rows L is that length.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.parts import require
from recbole_eimf.serving.encoder import Encoder

#: how far a number may be off, of the greatest
_TOLERANCE = 1e-5


class _Graph(nn.Module):
    """The encoder without what no graph can hold: groups by length, and a backward pass of its own."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        spec, towers = self.encoder.spec, self.encoder.towers
        if spec.own:
            return towers[0](item_seq, item_seq_len)[:, None]
        each = [self._scored(tower.interests(item_seq, item_seq_len)) for tower in towers]
        joined = each[0] if len(each) == 1 else torch.cat([states[:, :1] for states in each], 2)
        return nn.functional.pad(joined, (0, 1), value=1.0) if spec.append_one else joined

    def _scored(self, states: Tensor) -> Tensor:
        spec = self.encoder.spec  # as scored_states, whose own gradient no exporter can trace
        return nn.functional.normalize(states, dim=-1) * spec.score_scale if spec.score == "cosine" else states


def check_onnx(counts: bool) -> None:
    """Raise what :func:`write_onnx` would of a model that ``counts``, or where a package is missing."""
    if counts:
        raise ConfigError("--onnx: a counting model has no encoder to write. Leave it out.")
    require("onnx", "onnxruntime", "onnxscript")


def write_onnx(file: Path, encoder: Encoder | None) -> None:
    """Write the graph, and check it against the encoder on histories of every length.

    Raises:
        MissingPartError: onnx or onnxruntime is not installed. ConfigError: a model that only counts, or a network that
            torch cannot write. DataError: the graph's numbers are not the encoder's.
    """
    check_onnx(encoder is None)
    assert encoder is not None
    sequence, length = _histories(encoder, 3)
    free = {"batch": torch.export.Dim("batch", min=1)}
    shapes = ({0: free["batch"]}, {0: free["batch"]})
    if encoder.width is None and encoder.max_length > 1:
        shapes[0][1] = torch.export.Dim("length", min=1, max=encoder.max_length)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                _Graph(encoder).eval(),
                (sequence, length),
                str(file),
                input_names=["item_seq", "item_seq_len"],
                output_names=["interests"],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has many kinds
        raise ConfigError(
            f"--onnx: torch {torch.__version__} cannot write the network {'+'.join(encoder.spec.towers)} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Leave it out."
        ) from error
    _check(file, encoder)


def _histories(encoder: Encoder, rows: int) -> tuple[Tensor, Tensor]:
    items = encoder.state_dict()[encoder.tables()[0]].shape[0] - 1
    generator = torch.Generator().manual_seed(rows)
    width = encoder.max_length
    length = torch.randint(1, width + 1, (rows,), generator=generator)
    length[0] = width
    sequence = torch.randint(1, max(items, 2), (rows, width), generator=generator)
    return sequence * (torch.arange(width) < length[:, None]), length


def _check(file: Path, encoder: Encoder) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for rows in (1, 7, 200):
        sequence, length = _histories(encoder, rows)
        if encoder.width is None and rows == 7:  # a shorter batch than the example
            length = length.clamp(max=max(encoder.max_length // 2, 1))
            sequence = sequence[:, : int(length.max())] * (torch.arange(int(length.max())) < length[:, None])
        (found,) = session.run(None, {"item_seq": sequence.numpy(), "item_seq_len": length.numpy()})
        with torch.inference_mode():
            expected = encoder(sequence, length).numpy()
        off = float(np.abs(found - expected).max())
        if off > _TOLERANCE * max(float(np.abs(expected).max()), 1.0):
            raise DataError(f"{file.name}: its interests are off by {off:.3g}; it was not written.")
