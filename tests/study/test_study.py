"""study: the shipped files are what the paper's figures show, and a study is compare over its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_eimf.__main__ import main as command_line
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.study import runs, study
from recbole_eimf.study.rows import complete


@pytest.fixture
def keys(planted, semantic_cache):
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd", "epochs": 1, "valid_metric": "NDCG@5"}
    sizes = {"hidden_size": 8, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 8, "topk": [1, 5], "train_batch_size": 64}
    return {"data_path": str(planted), **text, **sizes}


def settings_of(name: str, keys: dict) -> dict[str, dict]:
    found = study.read_study(study.find_study(name))
    shared = {**found.keys, **keys}
    made = runs.plan(complete(found.rows, found.floors), "planted", (2020,), shared, Path("runs"))
    return {run.row.name: dict(run.settings) for run in made}


def test_every_shipped_study_is_runnable(keys):
    assert {"eimf_ablation", "eimf_preference", "eimf_exemplars"} <= set(study.shipped())
    for name in study.shipped():
        if name.startswith("eimf"):
            assert len(settings_of(name, keys)) > 4


FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "studies").glob("*.yaml"))
BENCHMARKS = [file for file in FILES if "title:" in file.read_text()]  # the others are rows of compare and spaces


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_the_studies_behind_the_committed_tables_can_be_made_again(file, keys, planted_knowledge):
    found = study.read_study(file)
    if "--knowledge_file" in file.read_text():
        keys = {**keys, "knowledge_source": "file", "knowledge_file": str(planted_knowledge)}
    shared = {**found.keys, **{key: value for key, value in keys.items() if key not in found.varied()}}
    made = runs.plan(complete(found.rows, found.floors), "planted", (2020,), shared, Path("runs"))
    assert {run.row.name for run in made} > {row.name for row in found.rows}  # the floors too


def test_the_ablation_differs_in_its_parts_alone(keys):
    made = settings_of("eimf_ablation", keys)
    whole = made["EIMF"]
    for row, key, value in (
        ("without alignment", "use_alignment", False),
        ("without prediction", "use_prediction", False),
        ("item text alone", "use_interests", False),
        ("placebo", "interest_source", "shuffled"),
    ):
        differ = {k for k in whole if made[row][k] != whole[k]} - {"shuffled_source"}
        assert differ == {key}
        assert made[row][key] == value
    assert made["backbone alone"]["model"] == "IBIM"
    assert {s["protocol"] for s in made.values()} == {"user_split"}
    assert whole["recipe"] == "paper"


def test_the_preference_study_goes_from_none_to_coarse(keys):
    made = settings_of("eimf_preference", keys)
    assert made["p = none"]["clustering"] == "none"
    preferences = [s["preference"] for name, s in made.items() if name.startswith("p = -")]
    assert preferences == [-2.0, -3.0, -4.0, -5.0, -7.0, -10.0]  # section 4.4
    shares = [
        (s["exemplar_ratio"], s["preference"]) for n, s in settings_of("eimf_exemplars", keys).items() if "=" in n
    ]
    assert shares == [(share, None) for share in (0.8, 0.5, 0.2, 0.05, 0.03)]  # not the recipe's p


def test_a_study_of_ones_own_is_run_as_compare_does(keys, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: Weights\nmodel: EIMF\nkeys: {backbone: REMI, epochs: 7}\nseeds: 3\nmetrics: [NDCG@5]\naxis: gamma\n"
        "columns: {exemplars: side_load.clusters}\nfloors: False\n"
        "rows: [{name: alone, model: IBIM}]\ngrid: {gamma: [0.0, 0.2]}\n"
    )
    given = [f"--{key}={str(value).replace(' ', '')}" for key, value in keys.items()]
    given = ["study", str(file), "--dataset=planted", "--seeds=1", "--parallel=0", "--backbone=SASRec", *given]
    assert command_line(given) == 0
    found = json.loads(Path("results/mine-planted/results.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["alone", "gamma=0.0", "gamma=0.2"]
    assert [row["settings"]["epochs"] for row in found["rows"]] == [1, 1, 1]  # the command line is stronger
    assert [row["settings"]["backbone"] for row in found["rows"]] == ["SASRec"] * 3
    assert [row["settings"].get("gamma") for row in found["rows"]][1:] == [0.0, 0.2]
    assert found["shown_metrics"] == ["ndcg@5"]
    page = Path("results/mine-planted/index.html").read_text()
    assert "Over gamma" in page
    assert page.count("<svg") == 2 + 2 + 2 + 2  # line, bars and slices at every k, loss and validation
    assert "| exemplars |" in Path("results/mine-planted/table.md").read_text()
    assert command_line([*given, "--gamma=0.3"]) == 2
    assert "--gamma=0.3: the rows of the study mine differ in it" in capsys.readouterr().err


def test_a_key_of_a_file_that_is_wrong_is_told_with_its_line(keys, tmp_path, capsys):
    base, mine, grid, models = (tmp_path / f"{name}.yaml" for name in ("base", "mine", "grid", "models"))
    base.write_text("title: B\nover: [SASRec]\nrows:\n  - {name: C, model: IBIM, over: True, keys: {gammma: 3}}\n")
    mine.write_text(f"base: {base}\nkeys:\n  n_layers: 1\n")
    grid.write_text("model: IBIM\ngrid:\n  gammma: [1, 2]\n")
    models.write_text("rows:\n- model: SASRec\n- name: A\n  model: SASRec\n  keys:\n    learning_rate: fast\n")
    given = ["--dataset=planted", "--parallel=0", "--out=out"]
    given += [f"--{key}={str(value).replace(' ', '')}" for key, value in keys.items()]
    assert command_line(["study", str(mine), *given]) == 2
    assert f"error: {base}, line 4, row 'C[SASRec]': unknown key 'gammma' (value 3)" in capsys.readouterr().err
    assert command_line(["study", str(grid), *given]) == 2
    assert f"error: {grid}, line 3, row 'gammma=1': unknown key 'gammma'" in capsys.readouterr().err
    assert command_line(["compare", f"--models_file={models}", *given]) == 2
    assert f"error: {models}, line 6, row 'A': learning_rate='fast'" in capsys.readouterr().err
    mine.write_text(f"base: {base}\nkeys:\n  epochss: 1\n")
    assert command_line(["study", str(mine), *given]) == 2  # a key of all rows: no row is to blame
    assert f"error: {mine}, line 3: unknown key 'epochss' (value 1)" in capsys.readouterr().err
    models.write_text("rows:\n- name: A\n  model: SASRec\n  keys:\n    seed: 3\n")  # it had no effect, unsaid
    assert command_line(["compare", f"--models_file={models}", *given]) == 2
    assert f"error: {models}, line 5, row 'A': seed=3: a table sets it for each run" in capsys.readouterr().err


@pytest.fixture
def two_studies(tmp_path, keys):
    """The start of a command line with two small studies."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(
            f"title: Study {name}\nfloors: False\nrows: [{{name: P, model: Popularity}}]\n"
        )
    files = [str(tmp_path / f"{name}.yaml") for name in ("one", "two")]
    given = [f"--{key}={str(value).replace(' ', '')}" for key, value in keys.items()]
    return ["study", *files, "--dataset=planted", "--seeds=1", "--parallel=0", *given]


@pytest.mark.usefixtures("undrawn")
def test_several_studies_run_one_after_the_other(two_studies, tmp_path, capsys):
    assert command_line([*two_studies, "--out=tables"]) == 0
    for name in ("one", "two"):
        found = json.loads(Path(f"tables/{name}/results.json").read_text())
        assert found["title"] == f"Study {name} (planted)"
        assert "one.yaml" in found["command"]
        assert "two.yaml" in found["command"]
    shown = capsys.readouterr().out
    assert shown.index("Study one (planted): tables/one") < shown.index("Study two (planted): tables/two")


def test_all_studies_are_looked_at_before_the_first_begins(two_studies, tmp_path, capsys):
    (tmp_path / "two.yaml").write_text("floors: False\nrows: [{name: P, model: Popularity, keys: {topkk: 3}}]\n")
    assert command_line([*two_studies, "--out=tables"]) == 2
    assert "topkk" in capsys.readouterr().err
    assert not Path("tables").exists()


def test_studies_of_one_name_would_share_a_folder(two_studies, capsys):
    assert command_line([two_studies[0], two_studies[1], *two_studies[1:]]) == 2
    assert "one: named twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "match"),
    [("modle: EIMF\nrows: [SASRec]", "unknown key 'modle'.*Did you mean 'model'"), ("title: nothing", "rows or grid"),
     ("model: EIMF\ngrid: {a: [1], b: [2]}", "holds 2 keys"), ("model: EIMF\ngrid: {gamma: 3}", "not a list"),
     ("rows: [{name: a}]", "'a': model is missing"), ("keys: 3\nrows: [SASRec]", "keys=3 is not a mapping")],
)  # fmt: skip
def test_a_wrong_study_names_file_and_key(tmp_path, text, match):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"wrong.yaml.*{match}"):
        study.read_study(file)


def test_what_rows_differ_in_cannot_be_set_but_the_source_of_interests_can():
    found = study.read_study(study.find_study("eimf_ablation"))
    assert found.varied() == {"use_alignment", "use_prediction", "use_interests"}


def test_no_seed_is_not_the_studys_own():
    for none in (0, []):
        with pytest.raises(ConfigError, match="a number of seeds"):
            study.experiment_of_study(
                study.read_study(study.find_study("eimf_ablation")), "planted", {}, "...", seeds=none
            )


def test_a_study_is_found_by_its_name():
    assert study.find_study("eimf_ablation").is_file()
    with pytest.raises(ConfigError, match="Did you mean 'eimf_ablation'"):
        study.find_study("eimf_ablatoin")


def test_a_row_with_a_comma_in_its_name_can_be_asked_for(tmp_path):
    """`--only=SASRec,PAD, ten times as fast` splits at every comma, also at those inside a name."""
    rows = "[{name: SASRec}, {name: PAD}, {name: 'PAD, ten times as fast'}, {name: 'a, b, c'}]"
    file = tmp_path / "own.yaml"
    file.write_text(f"model: PAD\nkeys: {{backbone: SASRec}}\nrows: {rows}\n")
    read = study.read_study(file)

    def named(*only):
        return [row.name for row in study.chosen(read, only)]

    assert named("SASRec", "PAD") == ["SASRec", "PAD"]
    assert named("PAD", "ten times as fast", "SASRec") == ["SASRec", "PAD, ten times as fast"]
    assert named("PAD", "PAD", "ten times as fast") == ["PAD", "PAD, ten times as fast"]
    assert named("a", "b", "c", "PAD") == ["PAD", "a, b, c"]
    assert named("a, b, c") == ["a, b, c"]
    # floors stand in every table, and may be named
    assert named("PAD", "Popularity", "Popularity", "recent") == ["PAD"]
    with pytest.raises(ConfigError, match="--only=Markv: no row of own. Did you mean 'Markov'"):
        named("PAD", "Markv")
    with pytest.raises(ConfigError, match="--only=b: no row of own"):
        named("PAD", "b", "c")
