"""A file of histories to a file of recommendations, in bounded memory; stopped in any way, it goes on.

Users are answered a piece at a time. A finished piece is a file of its own beside the output, under its name when it is
whole; a second start of the same command makes the pieces that are missing. At the end they are joined, and removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from tqdm import tqdm

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import atomic_path, fingerprint, write_json
from recbole_eimf.core.locks import folder_locked
from recbole_eimf.serving.histories import Histories
from recbole_eimf.serving.model_folder import digest
from recbole_eimf.serving.recommender import Recommender

#: users of a piece: what a stop may cost, and what is in memory
USERS_OF_A_PIECE = 10_000


@dataclass(frozen=True)
class Job:
    """One command over a file of histories.

    model: a model folder; histories: the file; out: the parquet file to write; k, exclude_seen, only, without, explain:
    see :meth:`Recommender.recommend`; separator: of histories written as text; piece: users of a piece.
    """

    model: str
    histories: str
    out: str
    k: int = 10
    exclude_seen: bool | None = None
    only: tuple[str, ...] | None = None
    without: tuple[str, ...] | None = None
    explain: bool = False
    separator: str = ","
    piece: int = USERS_OF_A_PIECE

    @property
    def parts(self) -> Path:
        """The folder of finished pieces."""
        return Path(f"{self.out}.parts")

    def part(self, number: int) -> Path:
        """The file of a piece."""
        return self.parts / f"{number:06d}.parquet"


@dataclass(frozen=True)
class Answered:
    """What a batch did: users, recommendations, users answered by popularity, tokens that the model does not know."""

    users: int
    recommendations: int
    empty_histories: int
    unknown_items: int


#: (job, numbers of pieces) -> numbers as they are finished, in any order
Spread = Callable[[Job, Sequence[int]], Iterable[int]]


def recommend_file(job: Job, spread: Spread | None = None, show_progress: bool = True) -> Answered:
    """Answer every user of ``job.histories`` and write ``job.out``.

    Args:
        spread: makes pieces elsewhere (:mod:`recbole_eimf.serving.on_ray`); None makes them here.

    Raises:
        UserError: files that are not there or broken, or an output begun by another command.
    """
    source = Histories.open(job.histories, job.separator)
    rows = len(source)
    pieces = -(-rows // job.piece)
    out = Path(job.out)
    if out.suffix != ".parquet":
        raise ConfigError(f"--out={job.out}: a .parquet file is written; name one.")
    with folder_locked(job.parts):
        _same_command(job)
        left = [number for number in range(pieces) if not job.part(number).is_file()]
        done = min((pieces - len(left)) * job.piece, rows)
        with tqdm(total=rows, initial=done, unit="user", desc="recommending", disable=not show_progress) as bar:
            for number in (spread or make_pieces)(job, left):
                bar.update(min(job.piece, rows - number * job.piece))
        answered = _join(job, pieces)
    shutil.rmtree(job.parts)
    return answered


def make_pieces(job: Job, numbers: Sequence[int], recommender: Recommender | None = None) -> Iterator[int]:
    """Make pieces, yielding the number of each as it is done."""
    if not numbers:
        return
    recommender = recommender or Recommender.load(job.model)
    source = Histories.open(job.histories, job.separator)
    wanted = set(numbers)
    first, last = min(wanted), max(wanted) + 1
    for number, (users, histories) in enumerate(source.pieces(job.piece, first, last), start=first):
        if number not in wanted:
            continue
        table = _answers(job, recommender, users, histories)
        with atomic_path(job.part(number)) as temporary:
            parquet.write_table(table, temporary, compression="zstd")
        yield number


def _answers(job: Job, recommender: Recommender, users: list[str], histories: list[list[str]]) -> pa.Table:
    options = {"users": users, "exclude_seen": job.exclude_seen, "only": job.only, "without": job.without}
    if job.explain:
        frame = recommender.recommend(histories, job.k, explain=True, **options)
        counts = {name: frame.attrs[name] for name in ("empty_histories", "unknown_items")}
        table = pa.Table.from_pandas(frame, preserve_index=False)
    else:
        found = recommender.rank(histories, job.k, **options)
        counts = {"empty_histories": int(found.empty.sum()), "unknown_items": int(found.unknown.sum())}
        table = recommender.table(found, users)
    return table.replace_schema_metadata({"answered": json.dumps({"users": len(users), **counts})})


def _same_command(job: Job) -> None:
    """Note what is being made, or check that what was begun is the same. Raises DataError."""
    model = Path(job.model) / "config.json"  # which holds the digests of the model's files
    seen = [digest(Path(job.histories)), model.read_text(encoding="utf-8") if model.is_file() else None]
    identity = fingerprint(
        {key: value for key, value in asdict(job).items() if key not in ("out", "model", "histories")}, seen
    )
    note = job.parts / "command.json"
    if note.is_file():
        if json.loads(note.read_text(encoding="utf-8"))["identity"] == identity:
            return
        raise DataError(
            f"{job.parts}: holds pieces of another command (other histories, model, k or options). Give that command "
            f"again to go on with it, remove the folder, or name another --out."
        )
    write_json(note, {"identity": identity, "command": _shown(job)})


def _shown(job: Job) -> dict[str, Any]:
    return {key: value for key, value in asdict(job).items() if key not in ("only", "without")}


def _join(job: Job, pieces: int) -> Answered:
    """Write ``job.out`` from all pieces, one in memory at a time."""
    sums = dict.fromkeys(("users", "recommendations", "empty_histories", "unknown_items"), 0)
    with atomic_path(job.out) as temporary:
        writer = None
        for number in range(pieces):
            table = parquet.read_table(job.part(number))
            counts = json.loads(table.schema.metadata[b"answered"])
            for name, value in {**counts, "recommendations": len(table)}.items():
                sums[name] += value
            table = table.replace_schema_metadata(None)
            writer = writer or parquet.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
        if writer is None:
            parquet.write_table(pa.table({"user": pa.array([], pa.string())}), temporary)
        else:
            writer.close()
    return Answered(**sums)
