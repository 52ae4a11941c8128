"""What a run says, on the screen and in its own folder: RecBole's log, but not where the program happens to stand."""

from __future__ import annotations

import logging
from pathlib import Path

import colorlog
from recbole.utils.logger import RemoveColorFilter, log_colors_config

LOG_FILE, TENSORBOARD_FOLDER = "run.log", "log_tensorboard"


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
    file, screen = RunLog(folder), logging.StreamHandler()
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
