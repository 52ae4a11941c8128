"""The catalogue of keys: complete, and what is made of it."""

import dataclasses
import json
from pathlib import Path

import pytest
import recbole

from recbole_eimf.__main__ import main
from recbole_eimf.config.config import recbole_keys
from recbole_eimf.config.key import OF_MODEL, keys_of
from recbole_eimf.config.keys import ALL_SETTINGS, our_keys
from recbole_eimf.config.layers import properties_folder, recipes_of
from recbole_eimf.config.models import BACKBONES, MODELS
from recbole_eimf.config.recbole_keys import checked_recbole_keys
from recbole_eimf.config.same import known_keys
from recbole_eimf.config.same_experiment import differing_settings
from recbole_eimf.config.show import json_schema, markdown
from recbole_eimf.config.yaml_file import read_yaml
from recbole_eimf.core.errors import ConfigError
from tests.conftest import REPOSITORY

SHIPPED = sorted(
    path for kind in ("model", "backbone", "dataset", "recipe") for path in (properties_folder() / kind).glob("*.yaml")
)
RECBOLES = sorted((Path(recbole.__file__).parent / "properties" / "model").glob("*.yaml"))


def test_every_key_is_in_the_catalogue_once_with_all_there_is_to_say():
    every = [each for part in ALL_SETTINGS for each in keys_of(part)]
    twice = {each.name for each in every if sum(other.name == each.name for other in every) > 1}
    for name in twice:  # read by two parts: one meaning
        first, *others = [dataclasses.replace(each, section="") for each in every if each.name == name]
        assert others == [first], name
    assert not set(our_keys()) & set(checked_recbole_keys())
    for each in known_keys().values():
        assert each.help
        assert each.help[-1] != "."
        assert "|" not in each.name
        if each.default is not OF_MODEL:
            each.check(each.plain_default)


@pytest.mark.parametrize("path", [properties_folder() / "overall.yaml", *SHIPPED], ids=lambda path: path.stem)
def test_the_shipped_files_hold_known_keys_with_values_that_may_be(path):
    for name, value in read_yaml(path).items():
        if name == "base":
            assert value in recipes_of(path.stem.split("-")[0])
        elif name in known_keys():
            known_keys()[name].check(value)
        else:
            assert name in recbole_keys(), name


def test_recboles_own_values_may_be_given():
    for path in RECBOLES:
        for name, value in read_yaml(path).items():
            if name in checked_recbole_keys() and path.stem in ("SASRec", "GRU4Rec", "BERT4Rec", "Caser", "SINE"):
                checked_recbole_keys()[name].check(value)


def models_table() -> str:
    """The table of docs/models.md."""
    lines = ["| `--model=` | what it is | `--backbone=` |", "|---|---|---|"]
    for card in MODELS.values():
        chosen = () if card.fixed_backbone else card.backbones
        every = tuple(name for name, card in BACKBONES.items() if card.over is None)
        over = "any" if chosen == every else ", ".join(f"`{name}`" for name in chosen)
        what = f"counting floor: {card.help}" if card.floor else card.help
        lines.append(f"| `{card.name}` | {what} | {over} |")
    lines += [
        "| `SASRec`, `GRU4Rec`, `BERT4Rec`, `SINE`, `Pop`, ... | RecBole's own, as they are, on lazy sequences | |",
        "| `package.module:Class` | yours: subclass ours, or any RecBole sequential model | |",
    ]
    return "\n".join(lines)


def test_the_generated_documents_are_up_to_date():
    assert (REPOSITORY / "docs" / "keys.md").read_text(encoding="utf-8") == markdown() + "\n", (
        "write it anew: python -m recbole_eimf keys --markdown > docs/keys.md"
    )
    assert models_table() in (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8"), models_table()


def test_the_schema_says_what_the_catalogue_says():
    schema = json.loads(json.dumps(json_schema()))
    known = schema["properties"]
    assert set(known) == recbole_keys() | set(our_keys())
    assert known["tau"]["exclusiveMinimum"] == 0
    assert known["kernel"]["enum"] == ["gaussian", "laplacian", "linear", "cosine", "infonce"]
    assert None in known["item_text"]["enum"]  # a bare none in YAML
    assert known["topk"]["anyOf"][0] == {"type": "array", "items": {"type": "integer", "minimum": 1}}
    assert known["epochs"]["default"] == read_yaml(properties_folder() / "overall.yaml")["epochs"]


def test_keys_are_found_by_a_word(capsys):
    assert main(["keys", "temperature"]) == 0
    shown = capsys.readouterr().out
    assert "readout_temperature=1.0" in shown
    assert "above 0" in shown
    assert "gate_total" not in shown
    assert main(["keys", "temperatur_e"]) == 2
    assert main(["keys", "--json"]) == 2
    assert "--json-schema" in capsys.readouterr().err


def test_explain_names_value_layer_file_and_line(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text("# mine\ntau: 0.3\n")
    assert main(["explain", "gamma", "--model=PAD"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "gamma = 0.2"
    assert shown[2].startswith("  set by model PAD (")
    assert shown[2].endswith("0.2")
    where, line = shown[2].split("(")[1].split(")")[0].split(", line ")
    assert Path(where).read_text().splitlines()[int(line) - 1].startswith("gamma: 0.2")
    assert main(["explain", "tau", f"--config_files={mine}"]) == 0
    assert f"set by your file ({mine}, line 2): 0.3" in capsys.readouterr().out
    assert main(["explain", "learning_rate", "--model=PAD", "--recipe=summed", "--learning_rate=0.5"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("the command line: 0.5") < shown.index("recipe summed") < shown.index("recipe published")
    assert main(["explain", "gamm"]) == 2
    assert "Did you mean 'gamma'" in capsys.readouterr().err


def test_help_of_run_goes_by_sections(capsys):
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    for words in ("EIMF", "DecayedItemKNN", "ComiRecDR", "PAD: experts", "gate_buckets=10", "Training: RecBole's keys"):
        assert words in shown


def test_what_is_the_same_experiment():
    old = {"model": "EIMF", "epochs": 5, "esim": "paper", "use_gpu": True, "num_threads": 1, "gamma": 0.1}
    new = {"model": "EIMF", "epochs": 6, "recipe": "paper", "use_gpu": False, "num_threads": 4}
    assert differing_settings(old, new) == {"epochs": (5, 6)}
    assert differing_settings({"my_own": 1}, {"my_own": 2}, free=("my_own",)) == {}
    assert differing_settings({"interest_file": "ab12"}, {"interest_file": "cd34"}) == {
        "interest_file": ("ab12", "cd34")
    }
    for name in ("gpu_id", "show_progress", "output_dir", "llm_concurrency", "eval_batch_size", "semantic_cache"):
        assert differing_settings({name: "a"}, {name: "b"}) == {}, name


def test_a_name_of_the_key_in_place_of_the_name_of_its_variable_is_not_shown(make_config):
    with pytest.raises(ConfigError, match="llm_api_key_env=\\*\\*\\*.*NAME") as caught:
        make_config("EIMF", llm_api_key_env="sk-proj-secret")
    assert "secret" not in str(caught.value)
