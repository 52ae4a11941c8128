"""The digest of a file: the one that folders and caches on disk were written with, without the file in memory."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest

from recbole_eimf.config import same_experiment
from recbole_eimf.core.files import file_digest


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_a_file_has_the_digest_of_its_content(tmp_path, size):
    content = (b"user_id:token\n\0" * (size // 15 + 1))[:size]
    (tmp_path / "data.inter").write_bytes(content)
    wanted = hashlib.sha256(content).hexdigest()
    assert file_digest(tmp_path / "data.inter") == wanted
    assert same_experiment.digest(tmp_path / "data.inter") == wanted[:16]


def test_interactions_of_any_size_are_compared_without_being_in_memory(tmp_path):
    (tmp_path / "data.inter").write_bytes(b"0" * (32 << 20))
    tracemalloc.start()
    try:
        same_experiment.digest(tmp_path / "data.inter")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
