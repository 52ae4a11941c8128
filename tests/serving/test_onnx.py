"""The encoder as an ONNX graph: every network, batches and lengths other than the exporter's example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.recommender import Recommender

pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")

# one of each kind of network; export compares whatever it writes
MODELS = [("EIMF", {"backbone": name}) for name in ("SASRec", "GRU4Rec", "MIND")]
MODELS += [("IBIM", {"backbone": "Caser"}), ("PAD", {"n_layers": 1}), ("BERT4Rec", {"n_layers": 1})]


@pytest.mark.parametrize(("model", "keys"), MODELS)
def test_the_graph_has_the_encoders_numbers(made_run, tmp_path, model, keys):
    run = made_run(model, **keys)
    options = {"index": "auto", "onnx": True, "refit": False, "text": "no", "histories": False}
    folder = write_run(run, tmp_path / "model", **options)  # which compares them
    assert (folder / "encoder.onnx").stat().st_size > 1000


def test_the_documented_lines_rank_as_the_model_does(made_run, tmp_path, monkeypatch):
    """docs/serving.md, "The encoder in ONNX", for whoever serves the graph without this package."""
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    lines = page.split("### The encoder in ONNX")[1].split("```python\n")[1].split("```")[0]
    options = {"index": "auto", "onnx": True, "refit": False, "text": "no", "histories": False}
    write_run(made_run("EIMF", backbone="MIND"), tmp_path / "model", **options)
    monkeypatch.chdir(tmp_path)
    model = Recommender.load("model")
    history = model.catalogue.tokens_of([3, 4, 5])
    found = {}
    exec(lines.replace('("204", "56")', repr(tuple(history))), found)
    best = model.recommend([history], 5, exclude_seen=False)
    assert len(found["interests"][0]) > 1
    assert model.catalogue.tokens_of(1 + np.argsort(-found["scores"][1:])[:5]) == best["item"].tolist()


def test_a_counting_model_has_none(made_run, tmp_path):
    options = {"index": "auto", "onnx": True, "refit": False, "text": "no", "histories": False}
    with pytest.raises(ConfigError, match="--onnx: a counting model has no encoder"):
        write_run(made_run("Popularity"), tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()
