"""Mutants are valid Python, change one thing each, and are named by what they change."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import REPOSITORY
from tests.mutants.__main__ import stale
from tests.mutants.changes import mutants_of


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = a + b", ["(a - b)", "(a)", "(b)"]),
        ("x = a & b", ["(a | b)", "(a)", "(b)"]),
        ("x = a <= 3", ["(a < 3)", "(4)", "(2)"]),
        ("x = a[: 1 << 4096]", ["(2)", "(0)"]),
        ("x = a is None", ["(a is not None)"]),
        ("x = a and not b", ["(a or not b)", "(not b)", "(a)", "(b)"]),
        ("x = f(True, 0.5)", ["(False)", "(2.0)", "(0.249)"]),
        ("x = min(a, b.detach())", ["(max(a, b.detach()))", "(b)"]),
        ("x = np.sqrt(a.sum(1))", ["(np.sqrt(a.mean(1)))"][1:] + ["(a.mean(1))", "(2)", "(0)"]),
        ("x = -a[:-1]", ["(a[:-1])", "(2)", "(0)"]),
        ("x = g(x)", ["pass"]),
        ("x += 1", ["pass", "(2)", "(0)"]),
        ("self.steps.add_(y)", ["pass"]),
        ("if flag: return", ["(not (flag))"]),
        ("raise ValueError('a' + 'b')", ["pass"]),
        ("logger.info('a %d', 1 + 1)", []),
        ("'a docstring'", []),
        ("y: list[1] = f'{a + b}'", []),
    ],
)
def test_changes_of_a_line(line, expected):
    source = f"def f(x):\n    {line}\n".encode()
    found = mutants_of("recbole_eimf/model/a.py", source)
    assert [mutant.after for mutant in found] == expected
    for mutant in found:
        changed = mutant.applied(source)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        assert mutant.line == 2
        assert mutant.key == f"a.py f: {changed.decode().splitlines()[1].strip()}"


def test_every_mutant_of_the_package_is_python():
    for path in sorted((REPOSITORY / "recbole_eimf" / "model").glob("*.py"))[:6]:
        source = path.read_bytes()
        for mutant in mutants_of(path.name, source):
            compile(mutant.applied(source), path.name, "exec")


def test_equivalent_mutants_have_a_reason():
    for line in (REPOSITORY / "tests" / "mutants" / "equivalent.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"\w+\.py [\w.]+: .+  ## .+", line), line


def test_what_is_listed_as_equivalent_and_no_mutant_any_more_is_told():
    found = mutants_of("recbole_eimf/model/a.py", b"def f(x):\n    return x + 1\n")
    listed = (
        "# why\na.py f: return (x)  ## there\na.py f: return (x) + y  ## changed since\nb.py f: pass  ## another's\n"
    )
    assert stale(listed, found, {"a.py"}) == ["a.py f: return (x) + y"]
