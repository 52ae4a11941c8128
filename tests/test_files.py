"""The digest of a file: the one that folders and caches on disk were written with, without the file in memory."""

from __future__ import annotations

import hashlib
import time
import tracemalloc

import pytest

from recbole_eimf.config import same_experiment
from recbole_eimf.core.files import TwiceError, file_digest, json_of


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_a_file_has_the_digest_of_its_content(tmp_path, size):
    content = (b"user_id:token\n\0" * (size // 15 + 1))[:size]
    (tmp_path / "data.inter").write_bytes(content)
    wanted = hashlib.sha256(content).hexdigest()
    assert file_digest(tmp_path / "data.inter") == wanted
    assert same_experiment.digest(tmp_path / "data.inter") == wanted[:16]


def test_a_key_that_stands_twice_is_found_at_once():
    """Half a million names compared with one another would hold a service for minutes."""
    names = ", ".join(f'"{number}": 0' for number in (*range(100_000), 99_999))
    begin = time.process_time()
    with pytest.raises(TwiceError, match=r"key '99999' is given twice"):
        json_of(f'{{"items": {{{names}}}}}')
    assert time.process_time() - begin < 5


def test_interactions_of_any_size_are_compared_without_being_in_memory(tmp_path):
    (tmp_path / "data.inter").write_bytes(b"0" * (32 << 20))
    tracemalloc.start()
    try:
        same_experiment.digest(tmp_path / "data.inter")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
