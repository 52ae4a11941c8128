"""What processes of tests/test_distributed.py do: in a file of its own, which is imported in no time."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError


def meet_and_fail(folder: Path) -> None:
    """Write down who is there, then fail as a user's mistake does."""
    distributed.join(torch.device("cpu"))
    everybody = distributed.gathered(torch.full((distributed.rank() + 1, 2), distributed.rank()))
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(everybody.tolist()))
    distributed.wait_for_all()
    raise ConfigError("gpu_id=7: no such thing.")
