"""What a run says, on the screen and in its own folder: RecBole's log, but not where the program happens to stand."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import colorlog
import recbole
from recbole.utils import init_logger
from recbole.utils.logger import RemoveColorFilter, log_colors_config
from tqdm.auto import tqdm

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.core import distributed
from recbole_eimf.core.bars import moves, without_colour
from recbole_eimf.core.disk import writing
from recbole_eimf.core.run_folder import LOG_FILE
from recbole_eimf.core.version import __version__

TENSORBOARD_FOLDER = "log_tensorboard"
#: ``logger.info(..., extra=DETAIL)``: for the log file; the screen shows it with ``verbose=True``
DETAIL = {"detail": True}
_RECBOLE = os.path.dirname(recbole.__file__) + os.sep


class ForPeople(logging.Filter):
    """What a screen shows of a run: no details, and of RecBole and faiss warnings alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is shown."""
        if record.levelno > logging.INFO:
            return True
        theirs = record.name.startswith("faiss") or record.pathname.startswith(_RECBOLE)
        return not (theirs or getattr(record, "detail", False))


class Screen(logging.StreamHandler):
    """Lines above a progress bar that moves, not through it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, in colour where that can be seen."""
        line = super().format(record)
        return line if moves(self.stream) else without_colour(line)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class RunLog(logging.FileHandler):
    """``run.log`` in a run's folder, gone on with when the run is; a full disk does not spoil the screen as well."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LOG_FILE, encoding="utf-8")
        self.folder = folder
        self.setFormatter(logging.Formatter("%(asctime)-15s %(levelname)s  %(message)s", "%a %d %b %Y %H:%M:%S"))
        self.addFilter(RemoveColorFilter())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Say nothing: what cannot be logged is no reason to stop, and files that matter report the disk."""


def start(folder: Path, state: str | None) -> None:
    """Log to ``<folder>/run.log`` and, in RecBole's form, to the screen.

    Args:
        state: RecBole's key, the least level that is shown (``INFO``, ``WARNING``, ...).
    """
    level = getattr(logging, str(state or "INFO").upper(), logging.INFO)
    folder.mkdir(parents=True, exist_ok=True)  # a run beside another has a folder of its own
    file, screen = RunLog(folder), Screen()
    screen.setFormatter(
        colorlog.ColoredFormatter(
            "%(log_color)s%(asctime)-15s %(levelname)s  %(message)s", "%d %b %H:%M", log_colors=log_colors_config
        )
    )
    logging.basicConfig(level=level, handlers=[screen])
    for handler in (file, screen):
        handler.setLevel(level)
    logging.getLogger().addHandler(file)


def tensorboard_folder(logger: logging.Logger) -> Path | None:
    """Where a run that logs to its own folder keeps what TensorBoard reads; None for any other."""
    folders = [handler.folder for handler in logger.handlers if isinstance(handler, RunLog)]
    return folders[0] / TENSORBOARD_FOLDER if folders else None


@contextlib.contextmanager
def logged(config: EIMFConfig) -> Iterator[None]:
    """Log as RecBole does, to the console and a file, while a run lasts; what the host program has set up stays.

    A host that already writes to the console gets our lines through its own handlers.
    """
    root = logging.getLogger()
    level, theirs = root.level, list(root.handlers)
    root.handlers = []  # RecBole adds none where there is one
    try:
        if not distributed.is_first():
            root.setLevel(logging.ERROR)
        elif config["output_dir"]:
            start(Path(config["output_dir"]), config["state"])
        else:
            with writing("log"):  # RecBole's place, and its name for the file
                init_logger(config)
    finally:
        ours, root.handlers = [_above_bars(handler) for handler in root.handlers], theirs
    consoles = (sys.stdout, sys.stderr)
    doubled = any(getattr(handler, "stream", None) in consoles for handler in theirs)
    for handler in ours:
        in_file = isinstance(handler, logging.FileHandler)
        if not (in_file or config["verbose"]):
            handler.addFilter(ForPeople())
        if in_file or not doubled:
            root.addHandler(handler)
    try:
        files = [handler.baseFilename for handler in ours if isinstance(handler, logging.FileHandler)]
        root.info(f"recbole_eimf {__version__}: {config['model']} on {config['dataset']}")
        if files:
            root.info(f"all settings, the model and RecBole's lines: {os.path.relpath(files[0])} (or --verbose=True)")
        yield
    finally:
        for handler in ours:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)


def _above_bars(handler: logging.Handler) -> logging.Handler:
    """RecBole's handler for the screen as one that minds progress bars; any other as it is."""
    if type(handler) is not logging.StreamHandler:
        return handler
    screen = Screen(handler.stream)
    screen.setFormatter(handler.formatter)
    screen.setLevel(handler.level)
    return screen
