"""The names of the files that a run leaves in its folder, its ``output_dir``."""

from __future__ import annotations

import os
from pathlib import Path

#: what it found (written last), its epochs, where each target was ranked, the weights that a score prior was given
RESULT_FILE, HISTORY_FILE, RANKS_FILE, PRIOR_FILE = (
    "result.json", "history.json", "test_ranks.safetensors", "prior.json"
)  # fmt: skip
#: the model and what is known of it; RecBole's own file of it
MODEL_FILE, CONFIG_FILE, PTH_FILE = "model.safetensors", "config.json", "model.pth"
#: from where training goes on, while it is not over; the best epoch of a phase before the last
STATE_FILE, BEST_FILE = "last.safetensors", "best.safetensors"
LOG_FILE = "run.log"
#: with which the folders of ``compare_with`` begin, inside the run's; their results stand in its file
COMPARED = "compared-"
#: of a table: with what and how the run was made, its test metrics under another mask; of a search too: what stopped it
NOTES_FILE, METRICS_FILE, ERROR_FILE = "run.json", "metrics.json", "error.txt"


def result_file(output_dir: str | os.PathLike) -> Path:
    """Where the result of a run stands: its ``result.json``, or that of the run beside which it was made."""
    folder = Path(output_dir)
    own, of_both = folder / RESULT_FILE, folder.parent / RESULT_FILE
    return of_both if folder.name.startswith(COMPARED) and of_both.is_file() and not own.is_file() else own
