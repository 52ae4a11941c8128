"""Examples in docstrings are tests: each stands in a folder of its own, for what it writes."""

import pytest


@pytest.fixture(autouse=True)
def _examples_in_a_folder(request, tmp_path, monkeypatch):
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
