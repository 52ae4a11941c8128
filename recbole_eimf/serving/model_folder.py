"""The folder a model is served from: JSON, safetensors, parquet, an index; no pickle, nothing of RecBole.

``config.json`` is written last and lists every file with its size and digest, and the folder gets its name when it is
whole: a reader finds a model or a reason why not. Nothing in a folder is ever run.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from logging import getLogger
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import DataError, DiskError
from recbole_eimf.core.files import TwiceError, file_digest, json_of
from recbole_eimf.core.folders import ITEMS_FILE
from recbole_eimf.core.locks import alone, if_nobody_has
from recbole_eimf.core.run_folder import CONFIG_FILE, RESULT_FILE, result_file
from recbole_eimf.core.version import __version__

FORMAT = "recbole_eimf served model"
#: readers know this version and those before it
VERSION = 1
CONFIG, ITEMS = CONFIG_FILE, ITEMS_FILE
#: the model card: for people, who may write in it; nothing reads it
CARD = "README.md"
#: what the ``config.json`` of a run's output_dir calls itself
_FORMAT_OF_A_RUN = "recbole_eimf model"
#: how a folder ends that holds an older model while the new one takes its place; seconds that this never lasts
_ASIDE, _BETWEEN = ".old", 10.0
#: how a folder ends in which a new one is written, and what its writer holds in there for as long
_HALF, _LOCK = ".tmp", "lock"

logger = getLogger(__name__)


def check_place(path: str | os.PathLike) -> None:
    """Check that a model folder can be written as ``path``: nothing is there, or an older one, or an empty folder. An
    older one that a kill left aside is put back.

    Raises:
        DataError: something else is there (says what), or a folder that nothing can take the place of. DiskError: the
            disk refuses.
    """
    path = Path(path)
    _put_back(path)
    if path.is_dir() and (os.path.ismount(path) or Path.cwd().is_relative_to(path.resolve())):
        what = "a disk is mounted there" if os.path.ismount(path) else "the command works in there"
        raise DataError(
            f"{path}: cannot be replaced by a model folder, because {what}. Name a folder in it, such as "
            f"{path / 'model'}."
        )
    if (other := _what_else(path)) is not None:
        raise DataError(f"{path}: {other}")
    check_writable(path.parent, "out", make=False)


def _what_else(path: Path) -> str | None:
    """What lies where a model folder is to be written, and what to do; None where one may be written."""
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return None
    if is_model_folder(path):
        files = _said_by(path).get("files")
        if not isinstance(files, dict):  # damaged: it does not say what it is made of
            return None
        strange = sorted({entry.name for entry in path.iterdir()} - {CONFIG, *files})
        if not strange:
            return None
        return (
            f"holds {strange[0]!r} beside the model that is there, which would be lost with it. Move that, or name "
            f"another folder."
        )
    if not path.is_dir():
        kind = "a file" if path.exists() else "a link that leads nowhere"
        return f"{kind} is there already, and a model is a folder. Name a folder that does not exist yet."
    if _is_of_a_run(path):
        return (
            f"is the output_dir of a run, which would be lost with all that training wrote. Name another folder, such "
            f"as {path / 'model'}."
        )
    if (path / ITEMS).is_file():
        return (
            f"holds a part of a model folder: its {CONFIG} is missing or damaged, so it cannot be told whether "
            f"something else lies there too. Remove the folder if not, or name another one."
        )
    names = sorted(entry.name for entry in path.iterdir())
    return (
        f"is a folder of something else ({len(names):,} {'entry' if len(names) == 1 else 'entries'}, "
        f"{names[0]!r} among them), and no model that recbole_eimf exported: only such a one is replaced. Name another "
        f"folder, such as {path / 'model'}."
    )


def _is_of_a_run(path: Path) -> bool:
    """Whether a run has written there (its ``config.json`` is there from the beginning of training)."""
    return (path / RESULT_FILE).is_file() or str(_format_of(path)).startswith(_FORMAT_OF_A_RUN)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder to write files into; on success it becomes ``path``, with ``config`` as its ``config.json``.

    An older model folder of that name is replaced: moved aside, and removed once the new one stands in its place. In
    between, for a moment, there is none of that name. What writers that were killed have left beside it is removed.

    Raises:
        DataError: ``path`` is something else. DiskError: the disk refuses.
    """
    check_place(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_halves(path)
    with contextlib.ExitStack() as held:
        temporary = _half(held, path) / "model"
        temporary.mkdir()
        yield temporary
        files = {file.name: _described(file) for file in sorted(temporary.iterdir())}
        whole = {"format": FORMAT, "format_version": VERSION, "made_by": __version__, **config, "files": files}
        text = json.dumps(whole, indent=2, ensure_ascii=False, default=str) + "\n"
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        for file in (*temporary.iterdir(), temporary):
            _sync(file)
        _shared(temporary)
        _take_place(temporary, path)


def _half(held: contextlib.ExitStack, path: Path) -> Path:
    """A folder beside ``path`` that goes with ``held``. A kill leaves it, as large as a model, so whoever writes in it
    holds a lock of the operating system's, which ends with the process."""
    while True:
        half = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_HALF))
        held.callback(shutil.rmtree, half, ignore_errors=True)
        try:
            held.enter_context(alone(half / _LOCK))
        except (DiskError, OSError):
            if half.is_dir():
                raise
        if half.is_dir():  # another writer may have come between the file and its lock, and removed the folder
            return half


def _remove_halves(path: Path) -> None:
    for half in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}{_HALF}"):
        with if_nobody_has(half / _LOCK) as left:  # one without the file is of an earlier version, or about to be made
            if left and not half.is_symlink():
                shutil.rmtree(half, ignore_errors=True)


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs what may be written to
    except PermissionError:
        if path.is_dir():  # and opens no folder at all
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _shared(folder: Path) -> None:
    """mkdtemp and safetensors make what is private to the user; a model is shared like any other output."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)
    folder.chmod(0o777 & ~umask)


def _take_place(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_ASIDE))
    try:
        path.rename(old / "model")
        new.rename(path)
    except BaseException:  # Ctrl-C too: either of the two is left
        if not path.exists() and (old / "model").exists():
            (old / "model").rename(path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def _put_back(path: Path) -> None:
    """Give an older model folder its name again where a kill came between its two renames."""
    if not path.name or os.path.lexists(path):
        return
    for old in path.parent.glob(f".{glob.escape(path.name)}.*{_ASIDE}"):
        with contextlib.suppress(OSError):  # a disk that is read-only: then there is no model folder
            if is_model_folder(old / "model") and time.time() - old.stat().st_mtime > _BETWEEN:
                (old / "model").rename(path)
                old.rmdir()
                logger.warning(f"{path}: was being replaced when a kill came; the older model is back")
                return


def is_model_folder(path: str | os.PathLike) -> bool:
    """Whether ``path`` says that it is a model folder; it may still be damaged."""
    return _format_of(path) == FORMAT


def _format_of(path: str | os.PathLike) -> Any:
    """What the ``config.json`` in a folder says that it is of; None where it says nothing."""
    return _said_by(path).get("format")


def _said_by(path: str | os.PathLike) -> dict[str, Any]:
    """What the ``config.json`` in a folder holds; nothing where it cannot be read."""
    try:
        found = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_config(path: str | os.PathLike, verify: bool = True) -> dict[str, Any]:
    """The ``config.json`` of a model folder whose files are all there and, with ``verify``, undamaged; what stands in
    the card is its owner's business.

    Raises:
        DataError: no folder, not a model folder, written by a newer version, damaged, or not to be read; says which
            file and how.
    """
    path = Path(path)
    try:
        return _config_of(path, verify)
    except OSError as error:  # a name that is too long, a folder that others may not look into, a failing disk
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}). Name a model folder that is there and may be read."
        ) from error


def _config_of(path: Path, verify: bool) -> dict[str, Any]:
    _put_back(path)
    if not path.is_dir():
        raise DataError(
            f"{path}: no such model folder. `python -m recbole_eimf export --run OUT --out {quote(str(path))}` makes "
            f"one."
        )
    file = path / CONFIG
    if not file.is_file():
        raise DataError(f"{path}: not a model folder, or half of one: it has no {CONFIG}. Export or copy it again.")
    try:
        config = json_of(file.read_text(encoding="utf-8"))
    except TwiceError as error:
        raise DataError(f"{file}: {error}. Keep one.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error}). Export or copy the model again.") from error
    if isinstance(config, dict) and str(config.get("format")).startswith(_FORMAT_OF_A_RUN):
        finished = result_file(path).is_file()
        first = "" if finished else "Train with --output_dir=OUT (this run had none, or is not finished), then "
        raise DataError(
            f"{path}: what a run wrote, no model folder yet. {first}`python -m recbole_eimf export --run "
            f"{quote(str(path)) if finished else 'OUT'} --out MODEL` makes one."
        )
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise DataError(f"{file}: not of a model that recbole_eimf exported (no format {FORMAT!r}).")
    version = config.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise DataError(f"{file}: format_version={version!r} is not a version. Export the model again.")
    if version > VERSION:
        raise DataError(
            f"{file}: format_version={version}, and recbole_eimf {__version__} reads up to {VERSION}. Update "
            f"recbole_eimf (the folder was made by {config.get('made_by')})."
        )
    files = config.get("files")
    if not isinstance(files, dict):
        raise DataError(f"{file}: lists no files. Export the model again.")
    for name, wanted in files.items():
        _check_file(path, name, wanted, verify)
    return config


def _check_file(folder: Path, name: str, wanted: Any, verify: bool) -> None:
    if Path(name).name != name or not isinstance(wanted, dict):
        raise DataError(
            f"{folder / CONFIG}: files names {name!r}, which is not a plain file of the folder. Export the model again."
        )
    file = folder / name
    if not file.is_file():
        raise DataError(f"{file}: missing; {CONFIG} lists it. Export or copy the model again.")
    if name == CARD:
        return
    size = file.stat().st_size
    if size != wanted.get("bytes"):
        raise DataError(
            f"{file}: {size} bytes where {CONFIG} says {wanted.get('bytes')}: cut off or of another model. Export or "
            f"copy the model again."
        )
    if verify and file_digest(file) != wanted.get("sha256"):
        raise DataError(f"{file}: damaged (its SHA-256 is not the one in {CONFIG}). Export or copy the model again.")


# ---------------------------------------------------------------------- kinds of files
def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors. Raises OSError where the disk refuses."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:  # it hides the system's error in its words
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises DataError naming the file."""
    try:
        return load_file(file)
    except Exception as error:  # safetensors raises its own type for a broken header
        raise DataError(f"{file}: not a readable safetensors file ({error}). Export the model again.") from error


def write_table(file: Path, columns: Mapping[str, Any]) -> None:
    """Write named columns as parquet."""
    parquet.write_table(pa.table(dict(columns)), file, compression="zstd")


def read_table(file: Path, columns: tuple[str, ...]) -> pa.Table:
    """Read parquet with at least these columns. Raises DataError naming the file."""
    try:
        table = parquet.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not a readable parquet file ({error}). Export the model again.") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(f"{file}: has no column {', '.join(missing)}. Export the model again.")
    return table


def lists_of(flat: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    """``flat[offsets[r]:offsets[r + 1]]`` as row r of a column of lists."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat))
