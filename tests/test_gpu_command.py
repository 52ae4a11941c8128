"""``make test-gpu`` is not green where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.gpu import __main__ as command


def test_without_a_gpu_it_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: pytest.fail("nothing is to be run"))
    assert command.main([]) == 2
    assert "No GPU was tested: torch" in capsys.readouterr().err


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([1, 0], 1), ([0, 3], 3)])
def test_with_one_it_runs_tests_and_benchmark_and_hands_failures_on(monkeypatch, codes, expected):
    asked = []

    class Ended:
        def __init__(self) -> None:
            self.returncode = codes[len(asked) - 1]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(command.subprocess, "run", lambda words, cwd: asked.append(words) or Ended())
    assert command.main(["--turns=1"]) == expected
    assert "tests/gpu" in asked[0]
    assert asked[1][1:] == ["benchmarks/gpu_epoch.py", "--turns=1"]
    assert all((REPOSITORY / path).exists() for path in (*command.TESTS, asked[1][1]))


def test_make_knows_it():
    assert "python -m tests.gpu" in (REPOSITORY / "Makefile").read_text()
