"""tune, compare and study take every option in both spellings, and say in one line what they do not know."""

import os

import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.cli.options import check_spelling, command_text, parse_table_options, table_parser
from recbole_eimf.cli.paid import parsed
from recbole_eimf.cli.tune import _parser
from recbole_eimf.config.config import ELSEWHERE, recbole_keys
from recbole_eimf.config.same import known_keys
from recbole_eimf.config.yaml_file import parse_command_line
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.serving.on_ray import over_ray
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
        tune.SearchEffort(**{what: value})
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


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("prepare csv --interactions a.csv --interactions b.csv --name y --out z",
         "--interactions is given twice: a.csv and b.csv. Give all after one --interactions."),
        ("recommend --model m --history A --k 3 --k 4", "--k is given twice: 3 and 4. Keep one."),
        ("compare --models=A --models B --dataset=ml-100k", "--models is given twice: 'A' and 'B'. Keep one."),
        ("export --run x --run=y --out z", "--run is given twice: 'x' and 'y'. Keep one."),
        ("interests --dataset=d --export=a --export b", "--export is given twice: 'a' and 'b'. Keep one."),
    ],
)  # fmt: skip
def test_an_option_that_is_given_twice_is_an_error(command, said, capsys):
    """The last one would count, and a file or half of the events be missing, unsaid."""
    assert main(command.split()) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_same_twice_is_no_contradiction():
    assert _parser().parse_args(["--samples=3", "--samples", "3"]).samples == 3
    assert _parser().parse_args(["--samples=3"]) == _parser().parse_args(["--samples=3"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("prepare csv --interactions a.csv --nme y --out z", "--nme: no such option. Did you mean '--name'? See python "
         "-m recbole_eimf prepare csv --help."),
        ("export --rnu x", "--rnu: no such option. Did you mean '--run'?"),
        ("standings a --uot=x", "--uot: no such option. Did you mean '--out'?"),
        ("tune --dataset=ml-100k --sample=2", "--sample: no such option, and no key. Did you mean '--samples'?"),
        ("compare --dataset=ml-100k --models=SASRec --paralel=2", "--paralel: no such option, and no key. Did you mean "
         "'--parallel'?"),
        ("study --dataset=ml-100k --config_files a.yaml eimf_ablation", "no study is named. Name it before"),
        ("prepare --out da csv", "--out: name the kind of data first: prepare csv --out da ..."),
        ("prepare csv --interactions= --name y --out z", "--interactions=: no value"),
        ("prepare csv --interactions a.csv --name y --out=", "--out=: no value"),
        ("run --model= --dataset=ml-100k", "--model=: no value"),
        ("run --model=EIMF --dataset=ml-100k --recipe=", "--recipe=: no value"),
        ("interests --dataset=ml-100k --dry-run=maybe", "--dry-run=maybe: True or False is needed."),
    ],
)  # fmt: skip
def test_an_option_that_is_misspelt_misplaced_or_empty_is_named(command, said, capsys):
    assert main(command.split()) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_key_of_a_model_of_ones_own_may_look_like_an_option(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("allow_unknown_keys: True\ntitled: 3\n")
    start = ["--dataset=ml-100k", "--models=SASRec"]
    _, keys = parse_table_options(_with_models(), [*start, f"--config_files={file}", "--titled=4"])
    assert keys == {"allow_unknown_keys": True, "titled": 4}
    _, keys = parse_table_options(_with_models(), [*start, "--titled=4", "--allow_unknown_keys=True"])
    assert keys["titled"] == 4
    with pytest.raises(ConfigError, match="--titled: no such option, and no key. Did you mean '--title'"):
        parse_table_options(_with_models(), [*start, "--titled=4"])


def _with_models():
    parser = table_parser("compare")
    parser.add_option("models")
    return parser


@pytest.mark.parametrize("parser", [_parser(), table_parser("compare")])
def test_no_key_is_taken_for_a_misspelt_option(parser):
    check_spelling(parser, [f"--{key}=1" for key in {*recbole_keys(), *known_keys(), *ELSEWHERE}])


def test_prepares_options_have_both_spellings_and_a_title_may_begin_with_dashes(capsys):
    assert (
        main(
            [
                "prepare",
                "csv",
                "--interactions",
                "nix.csv",
                "--k_core",
                "5",
                "--min-user=3",
                "--out",
                "d",
                "--name",
                "n",
            ]
        )
        == 2
    )
    assert "nix.csv: no such file" in capsys.readouterr().err
    assert main(["standings", "--title", "--- best", "nix"]) == 2
    assert "nix: no such file or folder" in capsys.readouterr().err


def test_white_space_alone_is_no_unset_variable(capsys):
    assert main(["run", "--dataset=ml-100k", "--seq_separator= "]) == 2
    said = """--seq_separator=' ': white space alone. Write it in quotes of its own: --seq_separator="' '"."""
    assert said in " ".join(capsys.readouterr().err.split())
    assert parse_command_line(["--seq_separator=' '"]) == {"seq_separator": " "}


@pytest.mark.parametrize("word", ["--dry-run", "--dry_run", "--dry-run=True", "--dry_run=True"])
def test_a_dry_run_may_be_spelt_in_any_way(word):
    assert parsed(["--dataset=d", word]) == ({"dataset": "d"}, {"--dry-run"})
    assert parsed(["--dry-run=False", "--yes=True"]) == ({}, {"--yes"})


def test_ray_on_this_machine_is_not_the_cluster_of_the_environment(monkeypatch):
    """Ray would join it, and refuse to say how many processors it has."""
    ray, given = pytest.importorskip("ray"), []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", lambda **keys: given.append({**keys, "threads": os.environ["OMP_NUM_THREADS"]}))
    for running in (jobs.ray_running(2, 3), over_ray(1)):
        with running:
            pass
    assert [(keys["address"], keys["num_cpus"], keys["threads"]) for keys in given] == [
        ("local", 2, "3"),
        ("local", 2, "1"),
    ]


@pytest.mark.parametrize("error", [Exception("The node timed out.\nmore"), ValueError(), RuntimeError("busy")])
def test_a_ray_that_does_not_come_up_is_a_line_with_a_remedy(monkeypatch, error):
    ray = pytest.importorskip("ray")

    def never(**_):
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", never)
    for running in (jobs.ray_running(1, 1), over_ray(1)):
        said = str(error).splitlines()[0] if str(error) else "ValueError"
        with (
            pytest.raises(ConfigError, match=rf"^Ray did not start on this machine \({said}\): type the same"),
            running,
        ):
            pass
