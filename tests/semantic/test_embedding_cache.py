"""The embedding cache: what is encoded, what is kept, what is refused."""

import multiprocessing
import sqlite3
import types

import numpy as np
import pytest

from recbole_eimf.core.errors import DataError
from recbole_eimf.semantic.encoders import embedding_cache
from recbole_eimf.semantic.encoders.embedding_cache import EmbeddingCache


class LetterEncoder:
    """Vectors of letter counts; remembers what it was asked for, and breaks down at a given text."""

    def __init__(self, identity="letters", letters="abc", breaks_at=None, batch_size=1):
        self.identity, self.letters, self.breaks_at = identity, letters, breaks_at
        self.dimension, self.asked = len(letters), []
        self.settings = types.SimpleNamespace(batch_size=batch_size)

    def encode(self, texts, progress=False):
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for i, text in enumerate(texts):
            if text == self.breaks_at:
                raise RuntimeError("no more")
            rows[i] = [text.count(letter) for letter in self.letters]
        self.asked += texts
        return rows


TEXTS = ["abc", "", "aa", "abc", "cab b", " "]


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "deep" / "vectors.sqlite")


def test_each_text_is_encoded_once_ever(cache):
    encoder = LetterEncoder()
    expected = LetterEncoder().encode(TEXTS)
    np.testing.assert_array_equal(cache.encode(encoder, TEXTS), expected)
    assert sorted(encoder.asked) == ["aa", "abc", "cab b"]
    later = LetterEncoder()
    np.testing.assert_array_equal(EmbeddingCache(cache.path).encode(later, [*TEXTS, "new c"])[:-1], expected)
    assert later.asked == ["new c"]
    assert cache.encode(LetterEncoder(), ["aa", "abc"]).dtype == np.float32


def test_more_texts_than_one_query_asks_for_are_found(cache, monkeypatch):
    monkeypatch.setattr(embedding_cache, "_KEYS_PER_QUERY", 2)
    texts = ["a" * n for n in range(1, 6)]
    cache.encode(LetterEncoder(), texts)
    later = LetterEncoder()
    assert cache.encode(later, texts)[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert not later.asked


def test_two_encoders_do_not_mix(cache):
    cache.encode(LetterEncoder(), TEXTS)
    other = LetterEncoder(identity="other", letters="ba")
    np.testing.assert_array_equal(cache.encode(other, ["abb"]), [[2, 1]])
    np.testing.assert_array_equal(cache.encode(other, TEXTS), LetterEncoder(letters="ba").encode(TEXTS))
    np.testing.assert_array_equal(cache.encode(LetterEncoder(), ["abb"]), [[1, 2, 0]])


def test_an_interrupted_encoding_keeps_finished_batches(cache):
    texts = ["a" * (100 - i) for i in range(60)]
    broken = LetterEncoder(breaks_at=texts[30])
    with pytest.raises(RuntimeError, match="no more"):
        cache.encode(broken, texts)
    assert 0 < len(broken.asked) <= 30
    resumed = LetterEncoder()
    np.testing.assert_array_equal(cache.encode(resumed, texts, progress=True), LetterEncoder().encode(texts))
    assert set(resumed.asked) == set(texts) - set(broken.asked)


def _encode_and_die(path, texts):
    import os

    class Dying(LetterEncoder):
        def encode(self, texts, progress=False):
            if texts[0] == "a" * 80:
                os._exit(9)
            return super().encode(texts)

    EmbeddingCache(path).encode(Dying(), texts)


def test_a_killed_process_leaves_what_it_finished(cache):
    texts = ["a" * (100 - i) for i in range(40)]
    cache.path.parent.mkdir(parents=True)
    texts[20] = "a" * 80
    process = multiprocessing.get_context("fork").Process(target=_encode_and_die, args=(cache.path, texts))
    # batches of 8: the third begins at text 16, the fourth at 24; make the third begin with the deadly one
    texts[:] = ["a" * (96 - i) for i in range(40)]
    process.start()
    process.join()
    assert process.exitcode == 9
    resumed = LetterEncoder()
    cache.encode(resumed, texts)
    assert set(resumed.asked) == set(texts[16:])


def _encode_all(path, texts):
    EmbeddingCache(path).encode(LetterEncoder(), texts)


def test_several_processes_share_one_file(cache):
    texts = ["abc"[i % 3] * (i + 1) for i in range(200)]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_encode_all, args=(cache.path, texts[i * 20 :])) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    late = LetterEncoder()
    np.testing.assert_array_equal(cache.encode(late, texts), LetterEncoder().encode(texts))
    assert late.asked == []


def test_empty_texts_only(cache):
    assert cache.encode(LetterEncoder(), ["", " "]).shape == (2, 3)
    assert cache.encode(LetterEncoder(), []).shape == (0, 3)
    assert not cache.path.exists()


def test_neither_texts_nor_identity_are_in_the_file(cache):
    cache.encode(LetterEncoder(identity="very-secret-identity"), ["a very secret title"])
    blob = b"".join(file.read_bytes() for file in cache.path.parent.iterdir())
    assert b"secret" not in blob


@pytest.mark.parametrize("content", [b"this is no database, but long enough to look like a file" * 40, b"SQLite"])
def test_a_file_that_is_no_database(tmp_path, content):
    path = tmp_path / "vectors.sqlite"
    path.write_bytes(content)
    with pytest.raises(DataError, match="vectors.sqlite: not a readable embedding cache.*Delete the file"):
        EmbeddingCache(path).encode(LetterEncoder(), ["a"])
    assert path.read_bytes() == content


def test_a_damaged_database(cache):
    texts = ["a" * i for i in range(1, 400)]
    cache.encode(LetterEncoder(), texts)
    blob = bytearray(cache.path.read_bytes())
    blob[4096 : len(blob)] = b"\xff" * (len(blob) - 4096)
    cache.path.write_bytes(blob)
    with pytest.raises(DataError, match="vectors.sqlite: not a readable embedding cache"):
        cache.encode(LetterEncoder(), texts)


def test_a_vector_of_another_length(cache):
    cache.encode(LetterEncoder(), ["a", "b"])
    connection = sqlite3.connect(cache.path)
    connection.execute("UPDATE embedding SET vector = x'0000803f' WHERE rowid = 1")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match="vectors of different lengths"):
        cache.encode(LetterEncoder(), ["a", "b"])


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match="another program"):
        EmbeddingCache(path).encode(LetterEncoder(), ["a"])


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="cannot be used"):
        EmbeddingCache(tmp_path).encode(LetterEncoder(), ["a"])
