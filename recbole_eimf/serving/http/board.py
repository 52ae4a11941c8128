"""What the workers of one service agree on: which model is served, and the items added to it since.

A folder holds ``state.json``, whose generation grows with every change, the models (hard links where the file system
has them, so that a model folder may be replaced or deleted while a worker that was killed is replaced by one that must
load the very same), and a file per worker that says which generation it serves. Changes are made one at a time, under
a lock of the operating system's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_eimf.core.disk import is_full
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import atomic_path, file_digest
from recbole_eimf.core.locks import alone
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.http.held import worker_lives


@dataclass(frozen=True)
class State:
    """What is served.

    generation: grows with every change; source: the model folder as it was named; version: of the model, from the
    digest of its ``config.json``; added: token -> title, or title and an LLM's words on the item, a dictionary for each
    request, in their order.
    """

    generation: int
    source: str
    version: str
    added: tuple[dict[str, list[str]], ...] = ()


class Board:
    """The folder that workers share; in ``metrics`` lie prometheus_client's files."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._state = self.folder / "state.json"
        self._models, self._workers, self.metrics = (self.folder / name for name in ("models", "workers", "metrics"))
        for folder in (self._models, self._workers, self.metrics):
            folder.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------ what is served
    def read(self) -> State:
        """The state now."""
        found = json.loads(self._state.read_text(encoding="utf-8"))
        return State(**{**found, "added": tuple(found["added"])})

    def stamp(self) -> tuple[int, int]:
        """Changes when the state does; costs next to nothing."""
        status = self._state.stat()
        return status.st_ino, status.st_mtime_ns

    def publish(self, state: State) -> None:
        """Make this the state; every worker takes it over."""
        with atomic_path(self._state) as temporary:
            temporary.write_text(json.dumps(asdict(state), ensure_ascii=False), encoding="utf-8")

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Be the only one that changes the state."""
        with alone(self.folder / "lock"):
            yield

    # ------------------------------------------------------------------ models
    def keep(self, source: str | os.PathLike) -> str:
        """Keep a model folder for as long as it is served; returns its version.

        Raises:
            DataError: it is no whole model folder, see :func:`model_folder.read_config`. OSError: the board's disk
                refuses; nothing of it is kept.
        """
        source = Path(source)
        config = model_folder.read_config(source)
        try:
            return self._kept(source, config)
        except OSError as error:
            if not is_full(error):
                model_folder.read_config(source)  # says what is wrong where the folder was replaced meanwhile
            raise

    def _kept(self, source: Path, config: dict[str, Any]) -> str:
        version = file_digest(source / model_folder.CONFIG)[:12]
        if self.model(version).is_dir():
            if self._is_kept(version):
                return version
            shutil.rmtree(self.model(version))
        temporary = self._models / f".{version}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            for name in (*config["files"], model_folder.CONFIG):
                _link(source / name, temporary / name)
            model_folder.read_config(temporary)  # the folder may have been replaced meanwhile
            version = file_digest(temporary / model_folder.CONFIG)[:12]
            if not self.model(version).is_dir():
                temporary.rename(self.model(version))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # half a model would fill the disk further
        return version

    def check(self, version: str) -> None:
        """Check that a model that is kept is still the one it was: what writes into a file of the folder that it was
        linked from, as ``cp -r`` does, writes into it too.

        Raises:
            DataError: it is damaged, or another model.
        """
        folder = self.model(version)
        model_folder.read_config(folder)
        if not file_digest(folder / model_folder.CONFIG).startswith(version):
            raise DataError(
                f"{folder}: was overwritten file by file while it was served, so the model that is served cannot be "
                f"loaded again. Name the folder to /reload, or start the service again; `export`, and renaming a whole "
                f"folder, do no harm."
            )

    def _is_kept(self, version: str) -> bool:
        try:
            self.check(version)
        except DataError:
            return False
        return True

    def model(self, version: str) -> Path:
        """Where a model that is kept lies."""
        return self._models / version

    def forget(self, but: str) -> None:
        """Remove the models that nobody serves any more."""
        for folder in (self._models).iterdir():
            if folder.name != but:
                shutil.rmtree(folder, ignore_errors=True)

    # ------------------------------------------------------------------ workers
    def say(self, generation: int) -> None:
        """This process serves a generation now."""
        with atomic_path(self._workers / str(os.getpid())) as temporary:
            temporary.write_text(str(generation), encoding="utf-8")

    def serving(self) -> dict[int, int]:
        """Process -> generation, of those alive."""
        found = {}
        for file in self._workers.iterdir():
            if not file.name.isdigit():
                continue  # half written
            if not worker_lives(self.folder, int(file.name)):
                file.unlink(missing_ok=True)
                continue
            with contextlib.suppress(OSError, ValueError):
                found[int(file.name)] = int(file.read_text(encoding="utf-8"))
        return found

    def behind(self, generation: int) -> int:
        """How many workers still serve an earlier generation."""
        return sum(theirs < generation for theirs in self.serving().values())


def _link(source: Path, target: Path) -> None:
    real = os.path.realpath(source)  # a hub's folder holds symbolic links
    try:
        os.link(real, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(real, target)
