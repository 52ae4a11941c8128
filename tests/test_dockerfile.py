"""The image's recipe against what it names: no Docker is needed to see that a line of it has gone stale."""

import configparser
import re

import pytest

from tests.conftest import REPOSITORY

#: build tools, which setup.cfg does not ask for
_BUILD = {"setuptools", "wheel"}


def _steps() -> list[tuple[str, str]]:
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [tuple(line.strip().split(None, 1)) for line in lines]


def _named(requirements: str) -> set[str]:
    found = (re.match(r"[A-Za-z0-9_.-]+", line.strip()) for line in requirements.splitlines())
    return {name[0].lower().replace("_", "-") for name in found if name}


def test_what_is_copied_exists():
    copied = [name for kind, rest in _steps() if kind == "COPY" for name in rest.split()[:-1]]
    assert copied
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []


def test_the_constraints_are_those_of_its_python():
    version = next(re.match(r"python:(\d+\.\d+)", rest)[1] for kind, rest in _steps() if kind == "FROM")
    assert any(f"constraints/py{version}.txt" in rest for kind, rest in _steps() if kind == "COPY")


def test_it_installs_what_setup_names_for_serving():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    known = _named(parser["options"]["install_requires"])
    extras = {name: _named(value) for name, value in parser["options.extras_require"].items()}
    installs = [rest for kind, rest in _steps() if kind == "RUN" and "pip install" in rest and "--no-deps" not in rest]
    words = " ".join(rest.split("pip install", 1)[1] for rest in installs)
    words = re.sub(r"-c \S+|\$\{[^}]*\}", "", words)
    installed = {word.lower().replace("_", "-") for word in words.split() if not word.startswith(("-", '"', "$"))}
    assert extras["serve"] <= installed, "the service's own parts"
    assert installed <= known | extras["serve"] | extras["minilm"] | _BUILD


@pytest.mark.parametrize("file", ["Dockerfile", "docs/service.md"])
def test_what_is_published_on_this_machine_alone_looks_at_the_names_it_is_asked_under(file):
    """In the container it listens on all addresses, and then it looks at no Host unless it is told names."""
    text = re.sub(r"\\\n#?", "", (REPOSITORY / file).read_text(encoding="utf-8"))
    shown = [line for line in text.splitlines() if "docker run" in line]
    assert shown
    assert [line for line in shown if "-p 127.0.0.1:" in line and "--allowed-hosts" not in line] == []


def test_it_starts_the_service():
    start = next(rest for kind, rest in _steps() if kind == "ENTRYPOINT")
    assert re.findall(r'"([^"]+)"', start)[:4] == ["python", "-m", "recbole_eimf", "serve"]
    port = re.search(r'"--port", "(\d+)"', start)[1]
    assert ("EXPOSE", port) in _steps()
    assert f"127.0.0.1:{port}/health" in next(rest for kind, rest in _steps() if kind == "HEALTHCHECK")
    assert ("USER", "served") in _steps(), "not as root"
