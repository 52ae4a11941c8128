"""What a figure was made with: versions, and the commit where the package is a checkout."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import torch

from recbole_eimf.core import version
from recbole_eimf.core.version import made_with


def git(folder, *arguments):
    settings = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


def test_versions_are_those_that_compute():
    found = made_with()
    assert (found["recbole_eimf"], found["recbole"]) == (version.__version__, "1.2.1")
    assert found["numpy"] == np.__version__
    assert torch.__version__.startswith(found["torch"].split("+")[0])


def test_the_commit_of_a_checkout_says_whether_its_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "_CHECKOUT", tmp_path)
    assert version._commit() is None  # installed
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "a")
    git(tmp_path, "tag", "v1")  # a tag's name is no commit
    clean = version._commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "file").write_text("b")
    assert version._commit() == f"{clean}-dirty"
