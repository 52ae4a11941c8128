"""PAD's shipped studies: every row is what its name says and differs from the others in nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_eimf.study import runs, study
from recbole_eimf.study.rows import complete


@pytest.fixture
def settings_of(planted, semantic_cache):
    def made(name):
        found = study.read_study(study.find_study(name))
        text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
        shared = {**found.keys, **text, "data_path": str(planted)}
        planned = runs.plan(complete(found.rows, False), "planted", (2020,), shared, Path("runs"), False)
        return {run.row.name: dict(run.settings) for run in planned}

    return made


def differences(made, first, second):
    return {key: made[second][key] for key in made[first] if made[first][key] != made[second][key]}


def test_alignment(settings_of):
    made = settings_of("pad_alignment")
    rows = ["no alignment", "not anchored", "anchored", "anchored, ids frozen"]
    assert [made[row]["alignment"] for row in rows] == ["none", "non_anchored", "anchored", "anchored_frozen"]
    assert all(set(differences(made, "anchored", row)) <= {"alignment"} for row in rows)


def test_kernels(settings_of):
    made = settings_of("pad_kernels")
    for row in ("laplacian", "linear", "cosine", "infonce"):
        name = "InfoNCE" if row == "infonce" else row
        assert differences(made, "gaussian", name) == {"kernel": row}
    assert differences(made, "gaussian", "no alignment") == {"alignment": "none"}


def test_experts(settings_of):
    made = settings_of("pad_experts")
    assert made["PAD"]["experts"] == "id+text+aligned"
    for row, experts in (("without the id expert", "text+aligned"), ("aligned alone", "aligned"), ("id alone", "id")):
        assert differences(made, "PAD", row) == {"experts": experts}
    assert differences(made, "PAD", "no gate") == {"gate": "none"}
    assert differences(made, "PAD", "one weight for all items") == {"gate": "shared"}


def test_overall_and_backbones(settings_of):
    made = settings_of("pad_overall")
    models = ("Hybrid", "MoRec", "CTRL", "MAKE", "DisCo", "SMEM", "PAD")
    assert [made[name]["model"] for name in models] == list(models)
    assert {s["mask_history"] for s in made.values()} == {True}
    assert (made["three SASRec"]["experts"], made["SASRec"]["fine_tune"]) == ("id+id+id", False)
    made = settings_of("pad_backbones")
    assert differences(made, "GRU4Rec", "PAD[GRU4Rec]") == {"experts": "id+text+aligned", "fine_tune": True}
    assert {made[row]["backbone"] for row in ("Caser", "PAD[Caser]")} == {"Caser"}
    assert len(settings_of("pad_encoders")) == 3
