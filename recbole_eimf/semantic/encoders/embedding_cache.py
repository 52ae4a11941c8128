"""Text vectors on disk: no text is encoded twice by the same encoder.

One SQLite file holds the vectors of any number of encoders. It is keyed by a hash of the encoder's identity and the
text, so that no text, no path and no key of a service is in it. A kill loses at most the batches that were not yet
committed, and several processes may use one file.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from recbole_eimf.core.bars import bar
from recbole_eimf.core.disk import check_writable, writing
from recbole_eimf.core.errors import DataError
from recbole_eimf.semantic.encoders.text_encoder import TextEncoder

_APPLICATION_ID = 0x45494D46  # "EIMF": tells our file from any other SQLite file
_BATCHES_PER_COMMIT = 8
_KEYS_PER_QUERY = 500
_BUSY_SECONDS = 60.0


class EmbeddingCache:
    """Vectors by (encoder, text) in the SQLite file ``path``, which is made when first needed."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def encode(self, encoder: TextEncoder, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Return ``encoder.encode(texts)``, float32 [n, d_t], encoding only what was never encoded before.

        Finished batches are committed as they come: if the encoder raises or the process is killed, the next call goes
        on from there. Empty texts give zero rows, as they do in the encoder. Raises DataError, naming the file and the
        remedy, for a file that is damaged or not such a cache; whatever the encoder raises passes through.
        """
        texts = list(texts)
        position: dict[str, int] = {}
        for text in texts:
            if isinstance(text, str) and text.strip():
                position.setdefault(text, len(position))
        distinct = list(position)
        if not distinct or any(not isinstance(text, str) for text in texts):
            return encoder.encode(texts)  # nothing to store; or the encoder's own error for what is no text
        keys = [_key(encoder.identity, text) for text in distinct]
        with self._open() as connection:
            rows = self._lookup(connection, keys)
            # long texts first, and alike lengths together: the encoder's batches then pad little
            missing = sorted((i for i, row in enumerate(rows) if row is None), key=lambda i: -len(distinct[i]))
            step = _BATCHES_PER_COMMIT * encoder.settings.batch_size if hasattr(encoder, "settings") else 256
            step *= getattr(encoder, "processes", 1)
            if missing:
                check_writable(self.path.parent, "semantic_cache")
            with bar(
                total=len(missing), desc="encoding texts", unit="text", disable=not (progress and missing)
            ) as shown:
                for begin in range(0, len(missing), step):
                    part = missing[begin : begin + step]
                    vectors = np.ascontiguousarray(encoder.encode([distinct[i] for i in part]), dtype="<f4")
                    self._insert(connection, [keys[i] for i in part], vectors)
                    for i, vector in zip(part, vectors):
                        rows[i] = vector
                    shown.update(len(part))
        if len({len(row) for row in rows}) != 1 or not all(np.isfinite(row).all() for row in rows):
            raise self._damaged("vectors of different lengths, or numbers that are not finite")
        known = np.stack(rows).astype(np.float32, copy=False)
        if len(position) == len(texts):
            return known
        out = np.zeros((len(texts), known.shape[1]), dtype=np.float32)
        for i, text in enumerate(texts):
            if text in position:
                out[i] = known[position[text]]
        return out

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one call (a connection must not cross a fork), checking that it is ours."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            if _owner(connection) != _APPLICATION_ID:
                self._create(connection)
            # write-ahead log: readers never wait for the writer. The switch needs the file for itself; where another
            # process is at it, the old journal is as safe, and a later call switches
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            yield connection
        except sqlite3.OperationalError as error:
            raise DataError(
                f"{self.path}: the embedding cache cannot be used ({error}). Check that the folder is writable, the "
                "disk has room, and no other process holds the file for minutes."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        finally:
            if connection is not None:
                connection.close()

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the table in an empty file, in one transaction: of several processes the first does it."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _owner(connection) != _APPLICATION_ID:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise self._damaged("a SQLite file of another program")
                connection.execute("CREATE TABLE embedding (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _lookup(self, connection: sqlite3.Connection, keys: list[bytes]) -> list[np.ndarray | None]:
        """Return the stored vector of every key, or None."""
        found: dict[bytes, np.ndarray] = {}
        for begin in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[begin : begin + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            for key, blob in connection.execute(f"SELECT key, vector FROM embedding WHERE key IN ({marks})", part):
                if not isinstance(blob, bytes) or not blob or len(blob) % 4:
                    raise self._damaged("a vector that is not float32")
                found[key] = np.frombuffer(blob, dtype="<f4")
        return [found.get(key) for key in keys]

    def _insert(self, connection: sqlite3.Connection, keys: list[bytes], vectors: np.ndarray) -> None:
        """Store vectors in one transaction; what another process stored meanwhile stays."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR IGNORE INTO embedding VALUES (?, ?)", [(k, v.tobytes()) for k, v in zip(keys, vectors)]
            )
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"{self.path}: not a readable embedding cache ({why}). Delete the file (and {self.path.name}-wal, "
            f"{self.path.name}-shm beside it) to have the vectors made again."
        )


def _owner(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA application_id").fetchone()[0]


def _key(identity: str, text: str) -> bytes:
    return hashlib.sha256(f"{identity}\0{text}".encode("utf-8", "surrogatepass")).digest()
