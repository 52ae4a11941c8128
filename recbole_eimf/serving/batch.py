"""A file of histories to a file of recommendations, in bounded memory; stopped in any way, it goes on.

Users are answered a piece at a time. A finished piece is a file of its own beside the output, under its name when it is
whole; a second start of the same command makes the pieces that are missing. At the end they are joined, and removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from recbole_eimf.core.bars import bar
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError, DataError, counted
from recbole_eimf.core.files import atomic_path, file_digest, fingerprint, write_json
from recbole_eimf.core.locks import folder_until_done
from recbole_eimf.core.run_folder import result_file
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.histories import Histories
from recbole_eimf.serving.recommender import Recommender

#: users whose items are looked at before anybody is answered
_LOOKED_AT = 1000
#: users of a piece: what a stop may cost, and what is in memory
USERS_OF_A_PIECE = 10_000
#: the columns of recommendations with reasons, as :meth:`Recommender.recommend` names them
_EXPLAINED = {
    "user": pa.string(),
    "rank": pa.int64(),
    "item": pa.string(),
    "score": pa.float32(),
    "title": pa.string(),
    "source": pa.string(),
    "interest": pa.int64(),
    "because": pa.list_(pa.string()),
    "added": pa.string(),
    "sentence": pa.string(),
    "sentence_weight": pa.float64(),
}

logger = getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One command over a file of histories.

    model: a model folder; histories: the file; out: the parquet file to write; k, exclude_seen, only, without, explain:
    see :meth:`Recommender.recommend`; separator: of histories written as text; piece: users of a piece; run: the
    ``output_dir`` of a finished run, which is exported into ``model`` first, unless an earlier start of the command has
    done that; None: ``model`` is there.
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
    run: str | None = None

    @property
    def parts(self) -> Path:
        """The folder of finished pieces."""
        return Path(f"{self.out}.parts")

    @property
    def note(self) -> Path:
        """The file that says whose pieces these are."""
        return self.parts / "command.json"

    @property
    def lists(self) -> bool:
        """Whether candidates were named."""
        return self.only is not None or self.without is not None

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


def recommend_file(
    job: Job, spread: Spread | None = None, show_progress: bool = True, say: Callable[[str], None] = logger.warning
) -> Answered:
    """Answer every user of ``job.histories`` and write ``job.out``.

    Args:
        spread: makes pieces elsewhere (:mod:`recbole_eimf.serving.on_ray`); None makes them here.
        say: told, before the first user is answered, of users who stand in several rows, and of ``only`` and
            ``without`` that name unknown items.

    Raises:
        UserError: files that are not there, broken or without a row, an output that cannot be written or is the input,
            or one begun by another command.
    """
    source = Histories.open(job.histories, job.separator)
    check_out(job.out, histories=job.histories)
    rows = len(source)
    if not rows:  # an empty output looks like an answer, and what reads it fails on its columns
        raise DataError(
            f"--histories={job.histories}: has a header and no row, so there is nobody to answer. A file of histories "
            f"has a row for each user."
        )
    repeated = source.repeated()  # reads every user: what is wrong there is found before anything is begun
    pieces = -(-rows // job.piece)
    with folder_until_done(job.parts):
        if job.run is not None:
            _export(job, job.run)
        model_folder.read_config(job.model, verify=False)  # who answers verifies it
        _same_command(job)
        known = _items(Path(job.model))
        told = (repeated and f"--histories={repeated}", _strange(source, known))
        for line in (*filter(None, told), *unknown_candidates(job.only, job.without, known)):
            say(line)
        left = [number for number in range(pieces) if not job.part(number).is_file()]
        done = min((pieces - len(left)) * job.piece, rows)
        with bar(total=rows, initial=done, unit="user", desc="recommending", disable=not show_progress) as shown:
            for number in (spread or make_pieces)(job, left):
                shown.update(min(job.piece, rows - number * job.piece))
        return _join(job, pieces)


def check_out(out: str | Path, kinds: Sequence[str] = ("parquet",), histories: str | None = None) -> None:
    """Check that ``out`` can be written: a file of one of ``kinds``, and not the ``histories`` that are read.

    Raises:
        ConfigError: another kind of file, a folder, or the histories themselves. DiskError: the disk refuses.
    """
    path = Path(out)
    if path.suffix.removeprefix(".") not in kinds:
        what = "a .parquet, .csv or .json file" if len(kinds) > 1 else "a .parquet file is written"
        raise ConfigError(f"--out={out}: {what}; name one.")
    if path.is_dir():
        raise ConfigError(f"--out={out}: is a folder. Name a file, such as {path / path.name}.")
    if histories is not None and _same_file(path, Path(histories)):
        raise ConfigError(f"--out={out}: is the file of --histories, which would be lost. Name another file.")
    check_writable(path.parent, "--out", make=False)


def _same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def unknown_candidates(
    only: Sequence[str] | None, without: Sequence[str] | None, known: Container[str]
) -> Iterator[str]:
    """A line for each of ``--only`` and ``--without`` that names items which are not among the ``known``."""
    for option, tokens in (("only", only), ("without", without)):
        strange = [token for token in tokens or () if token not in known]
        if strange:
            yield (
                f"--{option}: the model does not know {len(strange):,} of the {len(tokens or ()):,} items, which are "
                f"ignored; the first is {strange[0]!r}"
            )


def _strange(source: Histories, known: Container[str]) -> str | None:
    """What to say where the model knows no item of the first users: they may have been read otherwise than meant."""
    _, histories = next(source.pieces(_LOOKED_AT, 0, 1))
    tokens = [token for history in histories for token in history]
    if not tokens or any(token in known for token in tokens):
        return None
    return (
        f"--histories={source.path}: the model knows none of the first {counted(len(tokens), 'item')}; the first is "
        f"{tokens[0]!r}. They should be the model's item ids, with {source.separator!r} (--separator) between them "
        f"where a history is text."
    )


def _items(model: Path) -> frozenset[str]:
    return frozenset(model_folder.read_table(model / model_folder.ITEMS, ("item",))["item"].to_pylist()[1:])


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
        table = pa.Table.from_pandas(frame, _explained(frame.columns), preserve_index=False)
    else:
        found = recommender.rank(histories, job.k, **options)
        counts = {"empty_histories": int(found.empty.sum()), "unknown_items": int(found.unknown.sum())}
        table = recommender.table(found, users)
    return table.replace_schema_metadata({"answered": json.dumps({"users": len(users), **counts})})


def _explained(columns: Iterable[str]) -> pa.Schema:
    """As told, for pandas knows no kind of a column that is empty in one piece: of users without a known item."""
    return pa.schema([(name, _EXPLAINED[name]) for name in columns])


def _export(job: Job, run: str) -> None:
    """Make ``job.model`` of a run, unless that is what lies there. Raises DataError for pieces of another run."""
    # here, for it reads RecBole, which serving does not need
    from recbole_eimf.serving.export import export, read_result

    read_result(run)
    origin = {"run": str(Path(run).resolve()), "result": file_digest(result_file(run))}
    note, model = job.parts / "exported_from.json", Path(job.model)
    whole = model_folder.is_model_folder(model)  # it gets its name when it is
    if (whole or job.note.is_file()) and not note.is_file():
        raise DataError(
            f"{job.parts}: begun by an earlier version, which did not note of which run. Remove the folder to "
            f"begin again."
        )
    if (whole or job.note.is_file()) and (json.loads(note.read_text(encoding="utf-8")) != origin):
        raise _of_another(job)
    if not whole:
        write_json(note, origin)
        export(run, model)


def _of_another(job: Job) -> DataError:
    return DataError(
        f"{job.parts}: holds pieces of another command (other histories, model or run, k or options). Give that "
        f"command again to go on with it, remove the folder, or name another --out."
    )


def _same_command(job: Job) -> None:
    """Note what is being made, or check that what was begun is the same. Raises DataError."""
    model = Path(job.model) / model_folder.CONFIG  # which holds the digests of the model's files
    seen = [file_digest(Path(job.histories)), model.read_text(encoding="utf-8")]
    places = ("out", "model", "run", "histories")  # what lies there tells, not where
    identity = fingerprint({key: value for key, value in asdict(job).items() if key not in places}, seen)
    if job.note.is_file():
        if json.loads(job.note.read_text(encoding="utf-8"))["identity"] == identity:
            return
        if any(job.parts.glob("*.parquet")):  # else that command made nothing
            raise _of_another(job)
    write_json(job.note, {"identity": identity, "command": _shown(job)})


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
            schema = _explained(table.column_names) if job.explain else table.schema  # older pieces may lack a kind
            writer = writer or parquet.ParquetWriter(temporary, schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
        writer.close()
    return Answered(**sums)
