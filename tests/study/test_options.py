"""tune, compare and study take every option in both spellings, and say in one line what they do not know."""

import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.cli.options import command_text, table_parser
from recbole_eimf.cli.tune import _parser
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.study import compare, jobs, study
from recbole_eimf.study.search import tune


@pytest.mark.parametrize("parser", [_parser(), table_parser("compare"), table_parser("study")])
def test_every_option_has_both_spellings(parser):
    long = {action.dest: set(action.option_strings) for action in parser._actions if "_" in action.dest}
    assert {"ray_address", "config_files"} <= set(long)
    for name, spellings in long.items():
        assert spellings == {f"--{name}", f"--{name.replace('_', '-')}"}, name


def test_a_value_of_another_type_is_a_line_that_names_the_option():
    for word in ("--max-epochs=many", "--max_epochs=many"):
        with pytest.raises(ConfigError, match="max-epochs.*many.*recbole_eimf tune --help"):
            _parser().parse_args([word])


def test_a_job_takes_a_gpu_where_there_is_one_and_sees_those_that_it_was_lent(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert compare.Effort().workers.gpus == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert compare.Effort().workers.gpus == 1
    assert compare.Effort(gpus_per_run=0).workers.gpus == 0
    assert jobs.on_lent_gpus({"epochs": 1, "gpu_id": "1"}, True) == {"epochs": 1}, "what Ray shows, by whatever name"
    assert jobs.on_lent_gpus({"epochs": 1}, False) == {"epochs": 1, "gpu_id": "-1"}


@pytest.mark.parametrize("word", ["--seeds=", "--metrics=", "--only=", "--out="])
def test_an_option_without_a_value_is_an_error(word, capsys):
    """An unset variable of the shell would train what nobody asked for."""
    command = ["study", "eimf_ablation"] if word == "--only=" else ["compare", "--models=SASRec"]
    assert main([*command, "--dataset=ml-100k", word]) == 2
    assert f"{word}: no value" in capsys.readouterr().err


def test_a_password_of_a_key_of_ones_own_is_not_written_into_a_table():
    text = command_text("compare", ["--my_api_key=abc", "--llm_api_key_env=KEY", "--gamma=1", "--words=sk-12"])
    assert text == "python -m recbole_eimf compare '--my_api_key=***' --llm_api_key_env=KEY --gamma=1 '--words=***'"


def test_a_metric_that_is_named_twice_is_one():
    """It would be tested twice, and its p corrected for it."""
    assert compare.metric_names("HR@50,Hit@50,NDCG@50,ndcg@50") == ("hit@50", "ndcg@50")


@pytest.mark.parametrize(("what", "value"), [("cpus_per_trial", float("nan")), ("gpus_per_trial", float("inf"))])
def test_effort_is_a_number(what, value):
    with pytest.raises(ConfigError, match=what.replace("_", "-")):
        tune.Effort(**{what: value})
    with pytest.raises(ConfigError, match="gpus_per_run"):
        compare.Effort(gpus_per_run=value)


@pytest.mark.parametrize(("text", "said"), [
    ("columns: {found: 5}\nrows: [Pop]\n", "columns: found=5; a path"),
    ("axis: [x, y]\nrows: [Pop]\n", "axis=.*is not text"),
    ("metrics: 5\nrows: [Pop]\n", "metrics=5 is not a list"),
    ("seeds: 2.5\nrows: [Pop]\n", "seeds=2.5"),
    ("over: [SASRec]\nrows: [{name: [1], over: True, model: IBIM}]\n", "its name is not text"),
])  # fmt: skip
def test_a_study_with_odd_values_is_refused_before_a_run(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"a.yaml.*{said}"):
        study.read_study(tmp_path / "a.yaml")


def test_what_a_study_leaves_blank_is_not_given(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "seeds:\nmetrics:\nrows:\ngrid: {topk: [[5], [10]]}\nmodel: Pop\n", encoding="utf-8"
    )
    (tmp_path / "b.yaml").write_text(
        f'base: {tmp_path}/a.yaml\nrows: [{{name: "a\\nb", model: Pop}}]\n', encoding="utf-8"
    )
    found = study.read_study(tmp_path / "a.yaml")
    assert (found.seeds, found.metrics, len(found.rows)) == (5, (), 2)
    assert "a b" in [row.name for row in study.read_study(tmp_path / "b.yaml").rows], "a name is one line"
