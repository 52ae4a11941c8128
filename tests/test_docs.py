"""README and docs as they are read: a table torn apart is shown as lines of bars, which no build notices."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_RULE = re.compile(r"\|[\s:|-]+\|")


def tables(text: str) -> list[list[str]]:
    """Runs of lines that begin with a bar, outside of code."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [match.group().splitlines() for match in re.finditer(r"(?:^\|.*\n?)+", prose, flags=re.M)]


def cells(line: str) -> int:
    return len(re.sub(r"\\\||`[^`]*`", "", line).strip().strip("|").split("|"))


def test_every_table_has_a_rule_and_rows_of_its_width():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
    torn = {}
    for page in pages:
        for lines in tables(page.read_text(encoding="utf-8")):
            if len(lines) < 2 or not _RULE.fullmatch(lines[1]) or len({cells(line) for line in lines}) > 1:
                torn[str(page.relative_to(ROOT))] = lines[0]
    assert len(pages) > 20
    assert torn == {}


def test_a_blank_line_in_a_table_is_found():
    whole = "| a | b |\n|---|---|\n| `x|y` | 2 |\n"
    assert [len(lines) for lines in tables(whole)] == [3]
    assert {cells(line) for line in tables(whole)[0]} == {2}
    assert not _RULE.fullmatch(tables(whole.replace("---|\n", "---|\n\n"))[1][-1])


def test_the_site_builds_without_a_warning_and_shows_the_examples(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra [docs])")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = re.sub("<[^>]+>", "", (tmp_path / "site/extend/index.html").read_text(encoding="utf-8"))
    for example in ROOT.glob("examples/[a-z]*.py"):
        name = re.search(r"^(?:class|def) \w+", example.read_text(encoding="utf-8"), flags=re.M).group()
        assert name in page, f"{example.name} is not shown"
