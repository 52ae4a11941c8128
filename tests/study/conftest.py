"""A table's runs."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_eimf.study.rows import complete, parse_models
from recbole_eimf.study.runs import Run
from recbole_eimf.study.table.summary import Experiment
from tests.study.made import COMMAND, DEPTH, SETTINGS, USERS, finish


@pytest.fixture
def made(tmp_path):
    """SASRec and the like with two seeds each, of random but different quality; Popularity never ran, Markov failed."""
    rng = np.random.default_rng(3)
    rows = complete(parse_models("SASRec,EIMF[SASRec],placebo[SASRec]"))
    runs, places = [], {}
    for seed in (2020, 2021):
        for row in rows:
            if row.counting and seed == 2021:
                continue
            source = row.keys.get("interest_source", "keywords")
            settings = {**SETTINGS, "backbone": row.keys.get("backbone"), "interest_source": source}
            runs.append(Run(row, "data_1", seed, tmp_path / row.name / str(seed), {}, settings))
            if row.name == "Markov":
                runs[-1].folder.mkdir(parents=True)
                (runs[-1].folder / "error.txt").write_text("MemoryError: 5 % of <it> & {more}\n\nTraceback ...")
            elif row.name != "Popularity":
                shift = 3 if row.name == "EIMF[SASRec]" else 0
                drawn = np.clip(rng.integers(-1 + shift, 8, USERS) - shift, -1, None)
                places[row.name, seed] = np.where(drawn >= DEPTH, -1, drawn)
                finish(runs[-1], places[row.name, seed], side_load={"llm_used": True, "clusters": 7})
    experiment = Experiment(
        "A title", "data_1", rows, (2020, 2021), {}, COMMAND, columns={"exemplars": "side_load.clusters"}
    )
    return experiment, runs, places
