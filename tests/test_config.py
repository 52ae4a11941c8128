"""Keys: what is unknown, mistyped or out of range is an error that names key, value and remedy."""

import copy
import os
from pathlib import Path

import pytest
import yaml

from recbole_eimf.__main__ import main
from recbole_eimf.cli.options import parse_table_options, table_parser
from recbole_eimf.config import keys
from recbole_eimf.config.config import EIMFConfig, parse_command_line, parse_value, read_yaml
from recbole_eimf.config.same_experiment import deciding_settings, differing_settings
from recbole_eimf.config.yaml_file import read_shipped
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-4", 1e-4), ("true", True), ("False", False), ("None", None), ("[1,2]", [1, 2]), ("a,b", "a,b"),
     ("{'LS': 'valid_and_test'}", {"LS": "valid_and_test"}), ("http://x/v1?a=b", "http://x/v1?a=b"),
     ("2024-01-01", "2024-01-01"), ("__import__('os')", "__import__('os')"), ("[Recall,NDCG]", ["Recall", "NDCG"])],
)  # fmt: skip
def test_values_are_read_without_evaluating_them(text, value):
    assert parse_value(text) == value


TEXTS = {"output_dir": "20240105", "save_split": "123", "llm_model": "4.10", "semantic_cache": "2024_01",
         "checkpoint_dir": "007", "split_file": "0x1f", "text_encoder": "2014-03-07", "dataset": "007"}  # fmt: skip


def test_what_is_text_stays_as_it_is_written(tmp_path, make_config):
    typed = parse_command_line([*(f"--{key}={text}" for key, text in TEXTS.items()), "--gamma=4.10", "--epochs=007"])
    assert typed == {**TEXTS, "gamma": 4.1, "epochs": 7}
    lines = [*(f"{key}: {text}" for key, text in TEXTS.items()), "gamma: 4.10", "grid: {llm_model: [4.10, 5]}"]
    (tmp_path / "a.yaml").write_text("\n".join(lines), encoding="utf-8")
    read = read_yaml(tmp_path / "a.yaml")
    assert read == {**TEXTS, "gamma": 4.1, "grid": {"llm_model": ["4.10", "5"]}}
    given = {key: text for key, text in TEXTS.items() if key not in ("dataset", "save_split", "split_file")}
    config = make_config("EIMF", **given)
    assert {key: config[key] for key in given} == given
    # a number of a caller of ours, or of a file that was saved before
    config = make_config("EIMF", output_dir=20240105, checkpoint_dir=7, gamma=2)
    assert (config["output_dir"], config["checkpoint_dir"], config["gamma"]) == ("20240105", "7", 2)


def test_shipped_files_are_parsed_once_and_nobody_changes_what_the_next_reads(make_config, monkeypatch):
    first = make_config("EIMF", backbone="SASRec")
    kept = copy.deepcopy(first.final_config_dict)
    for value in [*first.internal_config_dict.values(), *first.final_config_dict.values()]:
        if isinstance(value, list | dict):
            value.update(changed=1) if isinstance(value, dict) else value.append("changed")

    def read(*args, **more):
        raise AssertionError("read again")

    plain = yaml.load
    monkeypatch.setattr("recbole_eimf.config.yaml_file.read_yaml", read)
    monkeypatch.setattr(yaml, "load", lambda text, Loader: read() if Loader is yaml.FullLoader else plain(text, Loader))
    assert make_config("EIMF", backbone="SASRec").final_config_dict == kept


def test_a_shipped_file_that_was_edited_is_parsed_again(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("gamma: 1\n", encoding="utf-8")
    assert read_shipped(file) == {"gamma": 1}
    file.write_text("gamma: 2\n", encoding="utf-8")
    os.utime(file, ns=(0, 1))
    assert read_shipped(file) == {"gamma": 2}


def test_dates_of_a_file_are_text(tmp_path):
    (tmp_path / "a.yaml").write_text("time_dates: [2014-03-07, 2014-05-13]\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"time_dates": ["2014-03-07", "2014-05-13"]}


@pytest.mark.parametrize(("text", "line", "key", "first"), [
    ("epochs: 1\n# more\nepochs: 2\n", 3, "epochs", 1),
    ("rows:\n  - {name: a, model: SASRec}\n  - name: b\n    keys:\n      gamma: 1\n      gamma: 1\n", 6, "gamma", 5),
    ("grid: {gamma: [1], gamma: [2]}\n", 1, "gamma", 1),
    ("\"2020\": a\n\"2020\": b\n", 2, "2020", 1),
])  # fmt: skip
def test_a_key_twice_in_a_file_is_an_error(tmp_path, text, line, key, first):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"a.yaml, line {line}: key '{key}' is given twice, first in line {first}"):
        read_yaml(path)


@pytest.mark.parametrize(("text", "said"), [
    ("epochs: 1\nno: 5\n", "line 2: key 'no' is read as bool"),
    ("keys:\n  5: 1\n", "line 2: key '5' is read as int"),
    ("rows: [{model: Pop, 1.5: 4}]\n", "line 1: key '1.5' is read as float"),
])  # fmt: skip
def test_a_key_that_is_no_text_is_an_error(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"a.yaml, {said}, and no key is that"):
        read_yaml(tmp_path / "a.yaml")
    assert parse_value("{no: 5}") == "{no: 5}", "a value that is typed is text then, and its key says what it wants"


def test_an_anchor_means_a_number_where_one_is_meant(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: &s 7\noutput_dir: *s\ngrid: {llm_model: [*s]}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"seed": 7, "output_dir": "7", "grid": {"llm_model": ["7"]}}


@pytest.mark.parametrize("text", ["{{}}", "{[1]: 2}"])
def test_a_template_that_was_not_filled_in_is_text(text):
    assert parse_value(text) == text
    with pytest.raises(ConfigError, match="epochs="):
        EIMFConfig("IBIM", "ml-100k", None, {"epochs": text})


@pytest.mark.parametrize("given", ["5,10", (5, 10), [5, 10]])
def test_lists_need_no_brackets(given):
    assert EIMFConfig("IBIM", "ml-100k", None, {"topk": given, "valid_metric": "NDCG@10"})["topk"] == [5, 10]


def test_one_column_is_not_user_and_item():
    with pytest.raises(ConfigError, match="USER_ID_FIELD=user_id, ITEM_ID_FIELD=user_id: one column"):
        EIMFConfig("IBIM", "ml-100k", None, {"ITEM_ID_FIELD": "user_id"})


def test_model_and_data_set_may_stand_in_a_file_and_are_weaker_there(tmp_path, monkeypatch, capsys):
    file = tmp_path / "a b.yaml"  # one path, though it has a blank
    file.write_text("model: PAD\ndataset: ml-100k\ngamma: 0.7\n", encoding="utf-8")
    seen = []

    def run(model, dataset, files, **values):
        seen.append((model, dataset, files))
        raise ConfigError("enough")

    monkeypatch.setattr("recbole_eimf.experiment.run.run", run)
    for words in ([], ["--model=IBIM"], ["--dataset=other"]):
        assert main(["run", f"--config_files={file}", *words]) == 2
    assert main(["run", f"--config_files={[str(file)]}"]) == 2
    files = [str(file)]
    assert seen == [
        ("PAD", "ml-100k", files),
        ("IBIM", "ml-100k", files),
        ("PAD", "other", files),
        ("PAD", "ml-100k", files),
    ]
    capsys.readouterr()
    assert main(["explain", "gamma", f"--config_files={file}"]) == 0
    assert "gamma = 0.7" in capsys.readouterr().out
    assert main(["explain", "model", f"--config_files={file}"]) == 0
    assert "model = 'PAD'" in capsys.readouterr().out
    assert main(["explain", "recipe", "--esim=paper"]) == 0
    assert "recipe = 'paper'" in (shown := capsys.readouterr().out)
    assert "set by the command line: 'paper'" in shown
    for command in ("interests", "knowledge", "tune"):
        assert main([command, "--config_files=none.yaml"]) == 2
        assert "none.yaml: no such configuration file" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["eimf", "sasrec"])
def test_another_case_is_a_near_miss(model):
    with pytest.raises(ConfigError, match=f"Did you mean '{dict(eimf='EIMF', sasrec='SASRec')[model]}'"):
        EIMFConfig(model, "ml-100k", None, {})


def test_a_key_twice_in_a_value_is_an_error_and_one_over_a_merge_is_none(tmp_path):
    with pytest.raises(ConfigError, match="key 'max_norm' is given twice. Keep one"):
        parse_value("{'max_norm': 1, 'max_norm': 2}")
    with pytest.raises(ConfigError, match="key 'a' is given twice"):
        parse_value("[{'b': {'a': 1, 'a': 1}}]")
    assert parse_value("{'a': {'b': 1}, 'b': {'b': 2}}") == {"a": {"b": 1}, "b": {"b": 2}}
    with pytest.raises(ConfigError, match="{max_norm: 1, max_norm: 2}: key 'max_norm' is given twice"):
        parse_command_line(["--clip_grad_norm={max_norm: 1, max_norm: 2}"])
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}
    path.write_text("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n", encoding="utf-8")
    assert read_yaml(path)["c"] == {"x": 1, "y": 2}


def test_command_line_takes_equals_signs_in_values_and_refuses_other_forms():
    assert parse_command_line(["--a=x=y", "--b=1"]) == {"a": "x=y", "b": 1}
    assert parse_command_line([]) == {}
    with pytest.raises(ConfigError, match="'model'.*--key=value"):
        parse_command_line(["model"])
    with pytest.raises(ConfigError, match="'--model': write --model=EIMF, without spaces"):
        parse_command_line(["--a=1", "--model", "EIMF"])
    with pytest.raises(ConfigError, match="'--yes': write --key=value"):
        parse_command_line(["--yes", "--a=1"])
    with pytest.raises(ConfigError, match="given twice"):
        parse_command_line(["--a=1", "--a=2"])


def test_a_mistyped_key_is_an_error_with_a_suggestion(make_config):
    with pytest.raises(ConfigError, match="'gama'.*Did you mean 'gamma'"):
        make_config("EIMF", gama=0.2)
    with pytest.raises(ConfigError, match="'learning_rat'.*Did you mean 'learning_rate'"):
        make_config("EIMF", learning_rat=0.2)
    assert make_config("EIMF", my_own_key=3, allow_unknown_keys=True)["my_own_key"] == 3


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [("item_text", "mul", "none or|none, add"), ("gamma", "big", "a number"), ("mask_history", 3, "True or False"),
     ("num_negatives", 2.5, "a whole number"), ("score", None, "dot or cosine"),
     ("text_fields", 3, r"a list of texts, such as \['title'\]"),
     ("time_quantiles", 0.8, r"a list of numbers, each above 0 and below 1, such as \[0.8, 0.9\]")],
)  # fmt: skip
def test_a_value_out_of_range_names_key_value_and_what_is_allowed(make_config, key, value, match):
    with pytest.raises(ConfigError, match=f"(?s){key}=.*({match})"):
        make_config("EIMF", **{key: value})


def test_words_that_yaml_reads_as_something_else_are_understood(make_config):
    config = make_config("EIMF", item_text=None, llm_structured=True)
    assert keys.read(keys.ItemSettings, config).item_text == "none"
    assert keys.read(keys.SemanticSettings, config).llm_structured == "on"


def test_strength_of_sources(tmp_path, make_config, planted):
    file = tmp_path / "mine.yaml"
    file.write_text("gamma: 0.7\ntau: 0.2\n")
    config = EIMFConfig("EIMF", "planted", [str(file)], {"data_path": str(planted), "tau": 0.5})
    assert (config["gamma"], config["tau"], config["alpha"]) == (0.7, 0.5, 0.4)
    assert config["n_layers"] == 2  # RecBole's SASRec.yaml: the backbone's
    assert config["score"] == "cosine"  # our backbone/SASRec.yaml
    assert EIMFConfig("EIMF", "planted", None, {"data_path": str(planted), "backbone": "REMI"})["routing_weight"] > 0


def test_a_broken_yaml_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("gamma: 0.7\ntau: [1,\n")
    with pytest.raises(ConfigError, match=r"bad.yaml, line \d"):
        EIMFConfig("EIMF", "planted", [str(file)], {})
    with pytest.raises(ConfigError, match="missing.yaml: no such"):
        EIMFConfig("EIMF", "planted", [str(tmp_path / "missing.yaml")], {})


def test_an_unknown_key_of_a_file_is_named_with_its_place(tmp_path, planted):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 3\ngama: 0.2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 2: unknown key 'gama'.*Did you mean 'gamma'"):
        EIMFConfig("EIMF", "planted", [str(path)], {"data_path": str(planted)})
    with pytest.raises(ConfigError, match=r"mine.yaml, line 2: unknown key 'gama'"):
        parse_table_options(table_parser("compare"), ["--dataset=planted", "--config_files", str(path)])


def test_unknown_models_and_backbones_get_suggestions(make_config):
    with pytest.raises(ConfigError, match="Did you mean 'EIMF'"):
        make_config("EIMFF")
    with pytest.raises(ConfigError, match="nowhere"):
        make_config("nowhere.module:Class")
    with pytest.raises(ConfigError, match="Did you mean 'SASRec'"):
        make_config("IBIM", backbone="SASrec")


def test_recbole_keys_pass(make_config):
    config = make_config("SASRec", clip_grad_norm={"max_norm": 5}, user_inter_num_interval="[3,inf)", loss_type="CE")
    assert config["user_inter_num_interval"] == "[3,inf)"


def test_the_form_of_eimf_is_chosen_by_name_and_a_key_of_the_user_is_stronger():
    paper = EIMFConfig("EIMF", "ml-100k", None, {"recipe": "paper"})
    strong = EIMFConfig("EIMF", "ml-100k", None, {})
    assert (paper["gamma"], paper["item_alignment"], paper["text_labels"]) == (0.1, "target", 0.0)
    assert strong["gamma"] != paper["gamma"]
    assert EIMFConfig("EIMF", "ml-100k", None, {"recipe": "paper", "gamma": 0.7})["gamma"] == 0.7
    with pytest.raises(ConfigError, match="recipe=papr.*Did you mean 'paper'.*strong"):
        EIMFConfig("EIMF", "ml-100k", None, {"recipe": "papr"})


#: EIMF section 4.1.2 and equations 6, 9, 12 to 14; item_alignment: the target pair alone
PAPER = {
    "train_batch_size": 128, "hidden_size": 64, "interest_num": 4, "learner": "adam", "learning_rate": 0.001,
    "weight_decay": 0.0, "readout": "soft", "readout_temperature": 1.0, "readout_power": 1.0, "score": "dot",
    "num_negatives": 0, "item_text": "none",
}  # fmt: skip
OF_EIMF = {
    "gamma": 0.1, "alpha": 0.4, "beta": 0.1, "semantic_score": "dot", "item_alignment": "target",
    "auxiliary_interval": 1, "text_labels": 0.0, "interest_labels": 0.0, "sequence_text": "joined",
    "preference": -10.0, "max_interests": 20,
}  # fmt: skip


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec", "BERT4Rec", "MIND", "ComiRecSA", "REMI"])
def test_the_papers_form_is_whole_over_every_backbone_and_its_baseline_is_trained_alike(backbone):
    given = {"recipe": "paper", "backbone": backbone}
    whole, alone = (EIMFConfig(model, "ml-100k", None, given) for model in ("EIMF", "IBIM"))
    assert {key: whole[key] for key in PAPER | OF_EIMF} == PAPER | OF_EIMF
    assert {key: alone[key] for key in PAPER} == PAPER
    differ = {key for key in alone.final_config_dict if whole[key] != alone[key]}
    assert differ <= {"model", "compare_with", "loss_decimal_place", *OF_EIMF}
    if backbone == "REMI":  # with its hard negatives; lambda 100 at B 128, d 64
        assert whole["remi_beta"] == alone["remi_beta"] > 0
        assert whole["routing_weight"] == 100 * 128 / 64**2
        fixed = EIMFConfig("REMI", "ml-100k", None, {"recipe": "paper"})
        assert {key: fixed[key] for key in PAPER} == PAPER
        assert fixed["remi_beta"] == whole["remi_beta"]


def test_another_papers_form_is_not_built_on_eimfs():
    """LLM-ESR derives from IBIM too, and its recipe=paper is another paper's."""
    other = EIMFConfig("LLMESR", "ml-100k", None, {"recipe": "paper"})
    plain = EIMFConfig("LLMESR", "ml-100k", None, {})
    assert (other["score"], other["learner"], other["n_heads"]) == ("dot", "adam", 1), "its own"
    for key in ("readout", "gamma", "interest_num"):
        assert other[key] == plain[key], key


_LEAVE_ONE_OUT = {"protocol": "leave_one_out", "mask_history": False, "valid_metric": "NDCG@10"}


@pytest.mark.parametrize(("model", "recipe", "wanted"), [
    ("LiGR", "esasrec", {"num_negatives": 256, "negatives_for": "target", "negative_correction": False, "score": "dot",
                         "learner": "adam", "learning_rate": 0.001, "train_batch_size": 128}),
    ("IBIM", "alphafuse", {"item_text": "null_space", "num_negatives": 64, "negatives_for": "target",
                           "negative_correction": False, "score": "cosine", "score_scale": 14.2857,
                           "hidden_size": 128, "inner_size": 128, "id_dimension": 64, "n_layers": 1, "n_heads": 1,
                           "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "weight_decay": 1e-6,
                           "protocol": "user_split", "mask_history": False, "valid_metric": "NDCG@20"}),
    ("IBIM", "unisrec", {"item_text": "add", "text_adaptor": "moe", "num_negatives": 0, **_LEAVE_ONE_OUT}),
    ("IBIM", "whitenrec", {"item_text": "add", "text_adaptor": "mlp", "text_whitening": "full", "score": "dot",
                           **_LEAVE_ONE_OUT}),
    ("IBIM", "vqrec", {"item_text": "codes", "code_pieces": 32, "code_centroids": 256, **_LEAVE_ONE_OUT}),
    # epochs before the eighth of thirty
    ("ProfileDistillation", "paper", {"profile_epochs": 7, "epochs": 23, "profile_weight": 0.65, "n_layers": 4,
                                      "hidden_dropout_prob": 0.3}),
    ("LLMESR", "paper", {"score": "dot", "n_heads": 1, "similar_users": 10, "similar_weight": 0.1, "inner_size": 64,
                         "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5,
                         "MAX_ITEM_LIST_LENGTH": 200, **_LEAVE_ONE_OUT, "mask_history": True}),
])  # fmt: skip
def test_another_methods_recipe_is_what_its_authors_do(model, recipe, wanted):
    config = EIMFConfig(model, "ml-1m", None, {"recipe": recipe, "data_path": "nowhere"})
    assert {key: config[key] for key in wanted} == wanted


def test_a_share_of_exemplars_of_the_users_takes_the_place_of_the_papers_preference():
    config = EIMFConfig("EIMF", "ml-100k", None, {"recipe": "paper", "exemplar_ratio": 0.05})
    assert (config["preference"], config["exemplar_ratio"]) == (None, 0.05)
    assert EIMFConfig("EIMF", "ml-100k", None, {"recipe": "paper", "preference": -3.0})["preference"] == -3.0


def test_the_old_name_of_a_recipe_keeps_working_with_a_note(caplog):
    old, new = (EIMFConfig("EIMF", "ml-100k", None, {name: "paper"}) for name in ("esim", "recipe"))
    assert old.final_config_dict == new.final_config_dict
    assert "--recipe=paper" in caplog.text
    with pytest.raises(ConfigError, match="esim=paper, recipe=published.*Give recipe alone"):
        EIMFConfig("EIMF", "ml-100k", None, {"esim": "paper", "recipe": "published"})


def test_a_recipe_builds_on_another():
    strong = EIMFConfig("EIMF", "ml-100k", None, {})
    published = EIMFConfig("EIMF", "ml-100k", None, {"recipe": "published"})
    assert (published["loss"], published["learning_rate"]) == ("ce", 0.0001)  # but for the loss, which EIMF has not
    for key in ("gamma", "item_alignment", "auxiliary_interval", "text_labels"):
        assert published[key] == strong[key], key


def test_a_subclass_starts_from_the_yaml_of_what_it_derives_from():
    from recbole_eimf.model.eimf import EIMF

    class MyEIMF(EIMF):
        pass

    mine, ours = (EIMFConfig(cls, "ml-100k", None, {}) for cls in (MyEIMF, "EIMF"))
    for key in ("backbone", "recipe", "gamma", "hidden_size", "interest_source"):
        assert mine[key] == ours[key], key


def test_own_ml_100k_is_read_before_that_of_the_recbole_package(tmp_path, planted, caplog):
    own = tmp_path / "ml-100k"
    own.mkdir()
    (own / "ml-100k.inter").write_bytes((planted / "planted" / "planted.inter").read_bytes())
    (own / "ml-100k.item").write_bytes((planted / "planted" / "planted.item").read_bytes())
    assert EIMFConfig("EIMF", "ml-100k", None, {"data_path": str(tmp_path)})["data_path"] == str(own)
    assert not caplog.records
    (tmp_path / "none").mkdir()
    bundled = EIMFConfig("EIMF", "ml-100k", None, {})["data_path"]
    assert (Path(bundled) / "ml-100k.inter").is_file()
    assert not caplog.records
    assert EIMFConfig("EIMF", "ml-100k", None, {"data_path": str(tmp_path / "none")})["data_path"] == bundled
    assert f"data_path={tmp_path / 'none'}: has no ml-100k" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"), [("llm_api_key", "hush-1234"), ("llm_key", "sk-hush-1234"), ("my_password", "hush-1234")]
)
def test_an_unknown_key_that_may_hold_a_secret_is_named_without_it(planted, key, value):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'") as refused:
        EIMFConfig("EIMF", "planted", None, {"data_path": str(planted), key: value})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("given", [{"use_gpu": False}, {"gpu_id": ""}, {"gpu_id": "-1"}, {"gpu_id": -1}])
def test_whoever_asks_for_a_processor_gets_one(given, planted, monkeypatch):
    """Beside a GPU; and what is seen of GPUs stays, for the next run of the process."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    keys = {"data_path": str(planted), "state": "ERROR"}
    config = EIMFConfig("IBIM", "planted", None, {**keys, **given, "enable_scaler": True})
    assert (config["device"].type, config["use_gpu"]) == ("cpu", False)
    train = assembly.loaders(config)[0]
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    assert (trainer.gpu_available, trainer.enable_scaler) == (False, False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert EIMFConfig("IBIM", "planted", None, keys)["device"].type == "cuda"


def test_the_gpu_is_the_environments_unless_one_is_named(planted, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f6a")
    keys = {"data_path": str(planted), "state": "ERROR"}
    config = EIMFConfig("IBIM", "planted", None, keys)
    assert (config["device"].type, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "GPU-8f6a")
    for gpu_id, seen in ((1, "1"), ("0,2", "0,2"), ((0, 2), "0,2"), ("MIG-1f/3/0", "MIG-1f/3/0")):
        config = EIMFConfig("IBIM", "planted", None, {**keys, "gpu_id": gpu_id})
        assert (config["device"].type, os.environ["CUDA_VISIBLE_DEVICES"], config["gpu_id"]) == ("cuda", seen, seen)


def test_another_encoding_of_the_files_is_another_run(planted):
    """The same bytes are other titles in it."""
    keys = {"data_path": str(planted), "state": "ERROR"}
    made = [EIMFConfig("Popularity", "planted", None, {**keys, "encoding": name}) for name in ("latin-1", "cp1252")]
    assert differing_settings(*map(deciding_settings, made)) == {"encoding": ("latin-1", "cp1252")}


@pytest.mark.parametrize(
    "given", [{"val_interval": {"rating": "[3,inf)"}}, {"normalize_field": ["rating"]}, {"threshold": {"rating": 3}}]
)
def test_a_column_that_is_not_loaded_cannot_be_filtered_by(given):
    load = {"inter": ["user_id", "item_id", "timestamp"]}
    with pytest.raises(ConfigError, match=r"rating is not read; add it to load_col"):
        EIMFConfig("Popularity", "ml-100k", None, {**given, "load_col": load, "state": "ERROR"})


def test_the_number_of_a_process_is_not_the_users_to_give():
    with pytest.raises(ConfigError, match="local_rank=0: the program sets it"):
        EIMFConfig("Popularity", "ml-100k", None, {"local_rank": 0, "state": "ERROR"})


@pytest.mark.parametrize(("model", "keys", "said"), [
    ("IBIM", {"backbone": "BERT4Rec", "training_view": "prefix"}, "training_view=prefix: BERT4Rec guesses"),
    ("EIMF", {"backbone": "BERT4Rec", "training_view": "random_cut"}, "training_view=random_cut: BERT4Rec guesses"),
    ("IBIM", {"diversity_lambda": 0.1, "eval_args": {"mode": "uni100"}},
     r"diversity_lambda=0.1: re-ranks the best of all.*uni100"),
])  # fmt: skip
def test_what_a_form_would_silently_leave_out_is_refused(model, keys, said):
    with pytest.raises(ConfigError, match=said):
        EIMFConfig(model, "ml-100k", None, keys)
