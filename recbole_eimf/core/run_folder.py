"""The names of the files that a run leaves in its folder, its ``output_dir``."""

from __future__ import annotations

#: what it found (written last), its epochs, where each target was ranked, the weights that a score prior was given
RESULT_FILE, HISTORY_FILE, RANKS_FILE, PRIOR_FILE = (
    "result.json", "history.json", "test_ranks.safetensors", "prior.json"
)  # fmt: skip
#: the model and what is known of it; RecBole's own file of it
MODEL_FILE, CONFIG_FILE, PTH_FILE = "model.safetensors", "config.json", "model.pth"
#: from where training goes on, while it is not over
STATE_FILE = "last.safetensors"
LOG_FILE = "run.log"
#: of a table or a search: what stopped the run
ERROR_FILE = "error.txt"
