"""Every sequential model of RecBole's through our door, on a piece of ml-100k (which ships in the recbole package)."""

from __future__ import annotations

import importlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import recbole
import torch

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.same_experiment import content_digests
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.experiment import assembly, plugin

ML_100K = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
TINY = {"epochs": 1, "show_progress": False, "state": "ERROR", "MAX_ITEM_LIST_LENGTH": 6, "topk": [5],
        "valid_metric": "NDCG@5", "hidden_size": 8, "embedding_size": 8, "inner_size": 8, "n_layers": 2,
        "mlp_hidden_size": [8, 8], "kg_embedding_size": 8, "prototype_size": 5, "interest_size": 2,
        "block_num": 1}  # fmt: skip
STAGE = {"pretrain_epochs": 1}  # of S3Rec
GRAPH = ("GRU4RecKG", "KSR")


def stock_models() -> list[str]:
    plugin.register_models()  # importing RecBole's models turns anomaly detection on
    package = importlib.import_module("recbole.model.sequential_recommender")
    return sorted(name for name, value in vars(package).items() if isinstance(value, type))


@pytest.fixture(scope="module")
def piece(tmp_path_factory) -> Path:
    """The first 12 ratings of 24 users of ml-100k, with the items' and users' features and the knowledge graph."""
    folder = tmp_path_factory.mktemp("piece") / "piece"
    folder.mkdir()
    tables = {suffix: [line.split("\t") for line in (ML_100K / f"ml-100k.{suffix}").read_text().splitlines()]
              for suffix in ("inter", "item", "user", "kg", "link")}  # fmt: skip
    rows: dict[str, list] = {}
    for row in sorted(tables["inter"][1:], key=lambda r: float(r[3])):
        rows.setdefault(row[0], []).append(row)
    kept = [row for user in sorted(rows)[:24] for row in rows[user][:12]]
    items = {row[1] for row in kept}
    links = [row for row in tables["link"][1:] if row[0] in items]
    entities = {row[1] for row in links}
    facts = [row for row in tables["kg"][1:] if row[0] in entities][:300]
    entities |= {row[2] for row in facts}
    vectors = np.random.default_rng(0)
    ent = [[name, " ".join(f"{x:.3f}" for x in vectors.normal(size=8))] for name in sorted(entities)]
    rel = [[name, " ".join(f"{x:.3f}" for x in vectors.normal(size=8))] for name in sorted({r[1] for r in facts})]
    written = {
        "inter": [tables["inter"][0], *kept], "item": tables["item"], "user": tables["user"],
        "kg": [tables["kg"][0], *facts], "link": [tables["link"][0], *links],
        "ent": [["ent_id:token", "ent_emb:float_seq"], *ent], "rel": [["rel_id:token", "rel_emb:float_seq"], *rel],
    }  # fmt: skip
    for suffix, lines in written.items():
        (folder / f"piece.{suffix}").write_text("\n".join("\t".join(line) for line in lines) + "\n")
    return folder.parent


def test_there_are_31():
    assert len(stock_models()) == 31


@pytest.mark.parametrize("model", stock_models())
def test_each_runs_with_its_defaults(model, piece):
    result = recbole_eimf.run(model, "piece", data_path=str(piece), **TINY, **(STAGE if model == "S3Rec" else {}))
    assert result.model == model
    assert 0 <= result.test["hit@5"] <= 1
    assert result.slices["warm"]["targets"] >= 0


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "MultiVAE", "EASE"])
def test_general_models_run_too(model, piece):
    result = recbole_eimf.run(model, "piece", data_path=str(piece), **TINY)
    assert result.model == model
    assert 0 <= result.test["hit@5"] <= 1


def test_a_general_model_whose_own_code_breaks_is_named(piece, monkeypatch):
    def broken(self, *_):
        raise AttributeError("'dok_matrix' object has no attribute '_update'\nin SciPy")

    monkeypatch.setattr("recbole.model.general_recommender.BPR.__init__", broken)
    with pytest.raises(ConfigError, match=r"model=BPR: RecBole's own code .*'_update'\)\. Take another model"):
        recbole_eimf.run("BPR", "piece", data_path=str(piece), **TINY)


def config_of(model, piece, **keys):
    return EIMFConfig(model, "piece", None, {**TINY, "data_path": str(piece), **keys})


def test_pairs_and_labels_get_negatives_and_a_softmax_none(piece):
    for model, distribution in (("FPMC", "uniform"), ("DIN", "uniform"), ("SASRec", "none"), ("BPR", "uniform"),
                                ("EASE", "none")):  # fmt: skip
        assert config_of(model, piece)["train_neg_sample_args"]["distribution"] == distribution
    assert config_of("SASRec", piece, loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"


def test_diens_negatives_run_beside_the_history(piece):
    config = config_of("DIEN", piece)
    _, (train, _, test) = assembly.datasets(config)
    for part in (train, test):
        rows = part.rows(np.arange(len(part)))
        history, others = rows["item_id_list"], rows["neg_item_id_list"]
        assert others.shape == history.shape
        assert ((others > 0) == (history > 0)).all()
        assert ((others != history) | (history == 0)).all()


def test_din_ranks_as_its_own_scores_do(piece):
    """Users are scored a few at a time: the same as every pair by itself."""
    config = config_of("DIN", piece)
    loaders = assembly.loaders(config)
    model = assembly.model(config, loaders[0]._dataset)
    trainer = assembly.trainer(config, model)
    model.eval()
    trainer.item_tensor = loaders[2]._dataset.get_item_feature()
    trainer.tot_item_num = loaders[2]._dataset.item_num
    batch = next(iter(loaders[2]))
    whole = type(trainer).__mro__[1]._full_sort_batch_eval(trainer, (batch[0], None, *batch[2:]))[1]
    import recbole_eimf.trainer.trainer as module

    before, module._PAIRS_AT_ONCE = module._PAIRS_AT_ONCE, 2 * trainer.tot_item_num
    try:
        found = trainer._full_sort_batch_eval(batch)[1]
    finally:
        module._PAIRS_AT_ONCE = before
    assert torch.allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "keys", "error", "words"),
    [
        ("SASRecF", {"selected_features": ["colour"]}, ConfigError, r"selected_features=\['colour'\].*release_year"),
        ("S3Rec", {"item_attribute": "colour"}, ConfigError, "item_attribute=colour"),
        ("FPMC", {"train_neg_sample_args": None}, ConfigError, "train_neg_sample_args"),
        ("S3Rec", {"train_stage": "finetune"}, ConfigError, "pre_model_path"),
        ("S3Rec", {"train_stage": "tune"}, ConfigError, "train_stage=tune"),
        ("FM", {}, ConfigError, "model=FM: RecBole's context models.*take a sequential or general model"),
        ("CFKG", {}, ConfigError, "model=CFKG: RecBole's knowledge models"),
        ("RaCT", {}, ConfigError, "model=RaCT: trained in stages"),
    ],
)
def test_what_cannot_run_is_refused_before_any_work(model, keys, error, words, piece):
    with pytest.raises(error, match=words):
        recbole_eimf.run(model, "piece", data_path=str(piece), **{**TINY, **keys})


@pytest.mark.parametrize("model", GRAPH)
def test_without_a_knowledge_graphs_vectors_the_files_are_named(model):
    with pytest.raises(DataError, match=r"ml-100k\.ent.*ent_emb"):
        recbole_eimf.run(model, "ml-100k", **TINY)


def test_a_run_over_another_knowledge_graph_is_another_run(piece, tmp_path):
    data = shutil.copytree(piece / "piece", tmp_path / "data" / "piece").parent
    keys = {**TINY, "data_path": str(data), "output_dir": str(tmp_path / "out")}
    recbole_eimf.run("KSR", "piece", **keys)
    vectors = data / "piece" / "piece.ent"
    vectors.write_text(vectors.read_text().replace("0.", "1."))
    with pytest.raises(ConfigError, match=r"data\.ent was a file of other content"):
        recbole_eimf.run("KSR", "piece", **keys)
    assert "data.ent" not in content_digests(config_of("SASRec", data)), "what a model does not read is no matter"


def test_s3rec_goes_on_from_its_first_stage(piece):
    recbole_eimf.run("S3Rec", "piece", data_path=str(piece), output_dir="first", **TINY, **STAGE)
    path = Path("first") / "S3Rec-piece-1.pth"
    keys = {"train_stage": "finetune", "pre_model_path": str(path)}
    result = recbole_eimf.run("S3Rec", "piece", data_path=str(piece), **TINY, **STAGE, **keys)
    assert result.valid


# ---------------------------------------------------------------------- a user's class
CLASS = (
    "from recbole.model.sequential_recommender.sasrec import SASRec as Theirs\n\n\nclass {name}(Theirs):\n    pass\n"
)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "mymod_a.py").write_text(CLASS.format(name="SASRec"))
    (tmp_path / "mymod_b.py").write_text(CLASS.format(name="Mine"))
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_subclass_inherits_its_parents_defaults(user_module, piece):
    few = {key: value for key, value in TINY.items() if key not in ("hidden_size", "inner_size", "n_layers")}
    config = EIMFConfig("mymod_b:Mine", "piece", None, {**few, "data_path": str(piece)})
    assert (config["n_heads"], config["inner_size"], config["loss_type"]) == (2, 256, "CE")
    assert recbole_eimf.run("mymod_b:Mine", "piece", data_path=str(piece), **TINY).model == "Mine"


def test_a_class_with_a_name_of_recboles_leaves_recboles_alone(user_module, piece):
    plugin.register()
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_model

    theirs = get_model("SASRec")
    result = recbole_eimf.run("mymod_a:SASRec", "piece", data_path=str(piece), output_dir="out", save_pth=True, **TINY)
    assert result.test
    assert get_model("SASRec") is theirs
    _, model, *_ = load_data_and_model("out/model.pth")
    assert type(model).__module__ == "mymod_a"
    assert get_model("SASRec") is theirs
    assert not hasattr(recbole.data.dataset, "SASRecDataset")


# ---------------------------------------------------------------------- RecBole's case study, word for word
@pytest.mark.parametrize("protocol", ["leave_one_out", "user_split"])
@pytest.mark.parametrize("model_name", ["SASRec", "IBIM"])
def test_recboles_case_study_answers_for_the_users_asked(model_name, protocol, piece):
    from recbole.utils.case_study import full_sort_scores, full_sort_topk

    keys = {"backbone": "SASRec"} if model_name == "IBIM" else {}
    config = config_of(model_name, piece, protocol=protocol, **keys)
    train_data, _, test_data = assembly.loaders(config)
    dataset = test_data._dataset
    model = config.model_class(config, train_data._dataset)
    model.eval()
    tokens = [dataset.id2token("user_id", int(user)) for user in dataset.spans.user[[-1, 0]]]
    uid_series = dataset.token2id("user_id", tokens)
    found = full_sort_scores(uid_series, model, test_data)
    assert found.shape == (2, dataset.item_num)
    for row, user in enumerate(uid_series):
        span = int(np.flatnonzero(dataset.spans.user == user)[0])
        start, middle = dataset.spans.start[span], dataset.spans.middle[span]
        history = dataset.flat[max(start, middle - 6) : middle]
        padded = torch.zeros(1, 6, dtype=torch.int64)
        padded[0, : len(history)] = history
        batch = {"item_id_list": padded, "item_length": torch.tensor([len(history)]), "user_id": torch.tensor([user])}
        with torch.no_grad():
            wanted = model.full_sort_predict(recbole.data.interaction.Interaction(batch)).view(-1)
        assert torch.allclose(found[row, 1:], wanted[1:], atol=1e-5)
    scores, items = full_sort_topk(uid_series, model, test_data, k=5)
    assert scores.shape == items.shape == (2, 5)


def test_the_case_study_refuses_users_without_a_row(piece):
    from recbole.utils.case_study import full_sort_topk

    config = config_of("SASRec", piece, protocol="user_split")
    train_data, _, test_data = assembly.loaders(config)
    model = config.model_class(config, train_data._dataset)
    stranger = [int(train_data._dataset.spans.user[0])]
    with pytest.raises(DataError, match="no row"):
        full_sort_topk(stranger, model, test_data, k=5)


def test_sampled_evaluation_asks_for_rows_by_number(piece):
    """RecBole's loader of samples looks a user's rows up in ``inter_feat`` too."""
    args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni50"}
    config = config_of("SASRec", piece, eval_args=args)
    _, _, test_data = assembly.loaders(config)
    for rows, _, _, positive in test_data:
        dataset = test_data._dataset
        target = dict(zip(dataset.spans.user.tolist(), dataset.flat[dataset.spans.middle].tolist()))
        of_users = rows["user_id"].view(-1, 51)[:, 0].tolist()
        assert positive.tolist() == [target[user] for user in of_users]


# ---------------------------------------------------------------------- the host program
def test_a_run_leaves_the_hosts_logging_alone(piece, tmp_path):
    root = logging.getLogger()
    theirs = [logging.FileHandler(tmp_path / "host.log"), logging.StreamHandler()]
    for handler in theirs:
        root.addHandler(handler)
    before, level = list(root.handlers), root.level
    try:
        recbole_eimf.run("FPMC", "piece", data_path=str(piece), **{**TINY, "state": "INFO"})
        assert root.handlers == before
        assert root.level == level
        root.error("still here")
    finally:
        for handler in theirs:
            root.removeHandler(handler)
            handler.close()
    text = (tmp_path / "host.log").read_text()
    assert "still here" in text
    assert "FPMC on piece" in text
    assert list(Path("log/FPMC").glob("*.log"))  # RecBole's file of the run


def test_register_leaves_the_users_anomaly_detection_as_it_was():
    code = (
        "import torch\nfrom recbole_eimf.experiment import plugin\ntorch.autograd.set_detect_anomaly(True, False)\n"
        "plugin.register_models()\nprint(torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())\n"
        "torch.autograd.set_detect_anomaly(False)\nplugin.register_models()\nprint(torch.is_anomaly_enabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split()[-3:] == ["True", "False", "False"], done.stderr[-2000:]


def test_registering_again_keeps_it_too():
    torch.autograd.set_detect_anomaly(True)
    try:
        plugin.register_models()
        assert torch.is_anomaly_enabled()
    finally:
        torch.autograd.set_detect_anomaly(False)


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [("FOSSIL", "alpha", 0.6), ("KSR", "gamma", 10.0), ("DIEN", "alpha", 1.0), ("S3Rec", "pretrain_epochs", 500)],
)
def test_a_setting_of_recboles_that_is_called_like_one_of_ours_keeps_its_default(model, key, value, piece):
    assert EIMFConfig(model, "piece", None, {**TINY, "data_path": str(piece)})[key] == value
    assert EIMFConfig(model, "piece", None, {**TINY, "data_path": str(piece), key: 3})[key] == 3


def test_explain_says_that_it_is_recboles(capsys):
    assert main(["explain", "alpha", "--model=FOSSIL"]) == 0
    shown = capsys.readouterr().out
    assert "alpha = 0.6" in shown
    assert "set by RecBole (" in shown
