"""The house stands on its layers: a module imports from its own and those below it, and there are no circles."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import pytest

from recbole_eimf.core import folders, run_folder
from tests.conftest import REPOSITORY

#: ground floor first; rooms of one line are neighbours
LAYERS = (
    ("core",),
    ("config",),
    ("data",),
    ("semantic",),
    ("model",),
    ("evaluator",),
    ("trainer",),
    ("experiment",),
    ("serving",),
    ("study",),
    ("cli", "__main__"),
)
FLOOR = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
PACKAGE = REPOSITORY / "recbole_eimf"


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_name(path) for path in PACKAGE.rglob("*.py")}


def imported(path):
    """(module of ours, line) for every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "recbole_eimf":
            base = node.module.removeprefix("recbole_eimf").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield (inner if inner in MODULES else base), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "recbole_eimf":
                    yield alias.name.removeprefix("recbole_eimf").lstrip("."), node.lineno


GRAPH = {module_name(path): list(imported(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def test_every_room_has_its_floor():
    assert {name.split(".")[0] for name in GRAPH if name} <= set(FLOOR)


def test_nothing_imports_upwards():
    up = [
        f"{importer} (line {line}) imports {found or 'recbole_eimf'}"
        for importer, targets in GRAPH.items()
        if importer  # the package itself is the public face: it names everything
        for found, line in targets
        if FLOOR.get(found.split(".")[0], len(LAYERS)) > FLOOR[importer.split(".")[0]]
    ]
    assert up == []


#: files of other kinds are called so too: the folder of any encoder has a config.json
NOT_OURS_ALONE = {"config.json"}


def test_files_of_a_folder_are_named_in_one_place():
    """A literal that is such a name, or a path or pattern that ends in one; messages may name files."""
    homes = (run_folder, folders)
    names = {name for home in homes for key, name in vars(home).items() if key.endswith("_FILE")} - NOT_OURS_ALONE
    written = {
        (path.relative_to(PACKAGE).as_posix(), node.value.rpartition("/")[2])
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in ("core/run_folder.py", "core/folders.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.rpartition("/")[2] in names
    }
    assert {"result.json", "results.json", "history.json", "interests.jsonl"} <= names
    assert written == set()


def test_there_is_no_circle():
    edges = defaultdict(set)
    for importer, targets in GRAPH.items():
        edges[importer].update(found for found, _ in targets if found != importer)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
