"""A model that waits in the middle of its training where a test says so, which then kills it there, not by luck."""

from __future__ import annotations

import json
import time
from pathlib import Path

from recbole_eimf.model.ibim import IBIM

#: epochs that it has trained when it waits
EPOCHS = 3


class Held(IBIM):
    """IBIM; the trial whose folder the file ``hold`` names, beside the search's folder, waits after ``EPOCHS``.

    The file ``held-`` and its name says that it does; all that there is to write of these epochs is written then. By
    name, because the worker of a killed search lives on for a moment, and would speak for the next one's trial.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self._trial = Path(config["output_dir"] or ".").absolute()

    def calculate_loss(self, interaction):
        hold, history = self._trial.parents[2] / "hold", self._trial / "history.json"
        while hold.is_file() and hold.read_text() == self._trial.name and history.is_file():
            if len(json.loads(history.read_text())) < EPOCHS:
                break
            hold.with_name(f"held-{self._trial.name}").touch()
            time.sleep(0.01)
        return super().calculate_loss(interaction)
