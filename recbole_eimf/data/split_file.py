"""Which users train, validate and test, as a file: two programs that read it are compared on the same users.

A CSV (``.csv``, or ``.csv.gz``) with the columns ``user_id`` and ``part`` (train, valid or test), one line per user.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np

from recbole_eimf.core.errors import ConfigError, DataError, suggestion
from recbole_eimf.core.files import atomic_path, read_csv, unpacked
from recbole_eimf.data.protocol import PARTS, Split, split_of_users

_HEADER = ["user_id", "part"]


def write_split(path: str | Path, split: Split, tokens: np.ndarray) -> None:
    """Write the users of a split, atomically; the same split gives the same bytes.

    Args:
        path: where to; gzip where the name ends in ``.gz``.
        split: of :func:`recbole_eimf.data.protocol.user_split`.
        tokens: user id -> token.

    Raises:
        ConfigError: the file exists and holds something else: it may be what earlier results rest on.
    """
    path = Path(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for part in PARTS:
        writer.writerows((tokens[user], part) for user in getattr(split, part).user)
    content = text.getvalue().encode()
    if path.exists():
        if unpacked(path) != content:
            raise ConfigError(f"save_split={path}: exists and holds another split. Name another file, or delete it.")
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_split(path: str | Path, tokens: np.ndarray, offsets: np.ndarray) -> Split:
    """Read the users of each part.

    Args:
        path: the file.
        tokens: user id -> token; id 0 is padding.
        offsets: int64 [U + 1] of the users' sequences.

    Raises:
        ConfigError: no such file.
        DataError: naming file and line: broken CSV, a user who is unknown, named twice or, held out, has too few
            interactions, a part that does not exist; naming the file: users of the data who are missing, a part
            without users.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"split_file={path}: no such file. Write one with --save_split={path}.")
    ids = {token: user for user, token in enumerate(tokens) if user}
    length = np.diff(offsets)
    users: dict[str, list[int]] = {part: [] for part in PARTS}
    first_line: dict[int, int] = {}
    for line, (token, part) in read_csv(path, _HEADER):
        if part not in users:
            raise DataError(f"{path}, line {line}: part {part!r} is not train, valid or test.{suggestion(part, PARTS)}")
        if token not in ids:
            raise DataError(
                f"{path}, line {line}: user {token!r} is not in the data. Is the file of another data set, or do "
                f"filters (user_inter_num_interval, ...) drop the user? Remove the line if so."
            )
        user = ids[token]
        if user in first_line:
            raise DataError(f"{path}, line {line}: user {token!r} is in line {first_line[user]} too. Keep one.")
        if part != "train" and length[user] < 2:
            raise DataError(
                f"{path}, line {line}: user {token!r} has {length[user]} interaction, {part} needs an input and a "
                f"target. Remove the line."
            )
        first_line[user] = line
        users[part].append(user)
    missing = [user for user in np.flatnonzero(length >= 2) if user not in first_line]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} users of the data are in no line, for example "
            f"{str(tokens[missing[0]])!r}. Add them, or leave them out of the data."
        )
    for part, members in users.items():
        if not members:
            raise DataError(f"{path}: no user has part {part}. Each of train, valid and test needs one.")
    return split_of_users(offsets, *(np.array(users[part], dtype=np.int64) for part in PARTS))
