"""Shared data and helpers of the tests. Nothing here needs a network or files outside the repository."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# tensors of the tests are tiny: threads that wait for each other cost more than they bring, most of all on shared cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


#: the files that take longest, in that order: begun first, so that no process is left alone with one at the end
LONG = ("study/test_tune.py", "test_resume.py", "test_distributed.py", "semantic/test_clustering.py",
        "study/test_compare.py", "serving/test_onnx.py", "test_plugin.py", "model/test_devices.py",
        "model/test_contract.py", "serving/http/test_workers.py", "serving/test_commands.py",
        "semantic/test_text_encoder.py", "test_phases.py", "test_parts.py")  # fmt: skip


def pytest_collection_modifyitems(items):
    places = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def _registered():
    import torch

    from recbole_eimf.experiment import plugin

    plugin.register_models()
    # a test module that imports RecBole's models when it is collected turns it on (RecBole's sine.py)
    torch.autograd.set_detect_anomaly(False)


@pytest.fixture(scope="session", autouse=True)
def _keywords_once():
    """Hundreds of models are built over the same titles, whose keywords are always the same (test_keywords.py)."""
    from recbole_eimf.semantic.sources import keywords

    found: dict[str, dict] = {}
    original = keywords.keyword_replies

    def once(titles):
        told = json.dumps(titles)
        if told not in found:
            found[told] = original(titles)
        return dict(found[told])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keywords, "keyword_replies", once)
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """RecBole writes log/ and saved/ where it stands; each test stands in its own folder, its log in no other's."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = list(root.handlers)
    root.setLevel(logging.WARNING)  # as Python starts: a run that shows errors alone would silence the next test
    yield
    for handler in [h for h in root.handlers if h not in before]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def undrawn(monkeypatch):
    """Figures of tables' pages are laid out, but matplotlib writes none: a page is made anew after every run, and that
    takes longer than a small training. For tests of what a table says, not of how it looks."""
    for name in ("plot", "arena_plot"):
        module = pytest.importorskip(f"recbole_eimf.study.report.{name}")
        monkeypatch.setattr(module, "_svg", lambda figure: "<svg></svg>")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs real data in ../shared, which is not here")
    return SHARED


TITLES = ["red nail polish", "blue nail polish", "glitter nail polish", "nail file", "nail polish remover",
          "dry hair shampoo", "curly hair shampoo", "hair conditioner", "hair dryer", "hair brush"]  # fmt: skip


def write_atomic(folder: Path, name: str, sequences: list[list[int]], titles: list[str] | None = None) -> Path:
    """Write atomic files of ``sequences`` (item numbers from 0) as users u0, u1, ... and items i0, i1, ...

    Rows are shuffled and times are all equal: only the ``order`` column knows the order.
    """
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    rows = [f"u{u}\ti{i}\t0\t{n}" for u, sequence in enumerate(sequences) for n, i in enumerate(sequence)]
    np.random.default_rng(0).shuffle(rows)
    header = "user_id:token\titem_id:token\ttimestamp:float\torder:float"
    (target / f"{name}.inter").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if titles is not None:
        lines = [f"i{i}\t{title}" for i, title in enumerate(titles)]
        (target / f"{name}.item").write_text(
            "\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n", encoding="utf-8"
        )
    return folder


def planted_sequences(users: int = 120, seed: int = 0) -> list[list[int]]:
    """Users of two interests: items 0-4 and 5-9, each a cycle; a user alternates between cycles from random starts."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(users):
        nail, hair = rng.integers(5), rng.integers(5)
        length = int(rng.integers(6, 14))
        sequence = []
        for _ in range(length):
            if rng.random() < 0.5:
                sequence.append(int(nail))
                nail = (nail + 1) % 5
            else:
                sequence.append(5 + int(hair))
                hair = (hair + 1) % 5
        sequences.append(sequence)
    return sequences


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Path:
    """Folder with the data set ``planted``: two interests per user, titles that tell them apart."""
    return write_atomic(tmp_path_factory.mktemp("data"), "planted", planted_sequences(), TITLES)


@pytest.fixture(scope="session")
def wide(tmp_path_factory) -> Path:
    """Folder with the data set ``wide``: 60 items, so that nobody has them all."""
    rng = np.random.default_rng(1)
    sequences = [
        ((rng.integers(60) + np.cumsum(rng.integers(1, 4, rng.integers(5, 15)))) % 60).tolist() for _ in range(100)
    ]
    return write_atomic(tmp_path_factory.mktemp("wide"), "wide", sequences, [f"thing number {i}" for i in range(60)])


@pytest.fixture(scope="session")
def semantic_cache(tmp_path_factory) -> Path:
    """One cache of embeddings for the whole session."""
    return tmp_path_factory.mktemp("semantic")


@pytest.fixture(scope="session")
def planted_knowledge(tmp_path_factory) -> Path:
    """What an LLM would know of the items of ``planted``: of all but the last, what follows in its cycle."""
    path = tmp_path_factory.mktemp("knowledge") / "items.jsonl"
    lines = []
    for i in range(len(TITLES) - 1):
        follows = TITLES[i // 5 * 5 + (i + 1) % 5]
        lines.append(
            {"item_id": f"i{i}", "kind": f"kind {i}", "profile": f"goes with {follows}", "next": [follows, "a comb"]}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def on_terminal(monkeypatch):
    """Bars as on a terminal; in a file long work writes lines."""
    monkeypatch.setattr("recbole_eimf.core.bars.moves", lambda file: True)


@pytest.fixture
def make_config(planted, semantic_cache, planted_knowledge):
    """``make_config(model, dataset="planted", **keys)``: a configuration over small data, quiet and quick."""
    from recbole_eimf.config.config import EIMFConfig
    from recbole_eimf.config.layers import concerning
    from recbole_eimf.config.models import MODELS, load_model_class
    from recbole_eimf.config.reading import ignored

    def make(model, dataset="planted", **keys):
        small = {
            "data_path": str(planted),
            "semantic_cache": str(semantic_cache),
            "text_encoder": "tfidf-svd",
            "MAX_ITEM_LIST_LENGTH": 8,
            "hidden_size": 16,
            "embedding_size": 16,
            "inner_size": 32,
            "show_progress": False,
            "state": "ERROR",
            "topk": [1, 3, 5],
            "valid_metric": "NDCG@5",
            "compare_with": [],
        }
        if dataset == "ml-100k":
            small.pop("data_path")
        if model in MODELS and MODELS[model].family == "knowledge floor":
            small |= {"knowledge_source": "file", "knowledge_file": str(planted_knowledge)}
        given = {**concerning(model, small), **keys}  # each model gets what it reads of what a test gives to all
        unread = ignored(load_model_class(model) if isinstance(model, str) else model, given)
        return EIMFConfig(model, dataset, None, {key: given[key] for key in given if key not in unread})

    return make
