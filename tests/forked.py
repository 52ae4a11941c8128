"""Commands in processes of their own that begin with everything imported.

A bare process takes five seconds of a processor to import torch, RecBole and the rest. These are forked from a server
that has done it once: real processes all the same, to be killed as one likes. That a bare process finds its imports is
for tests that use ``subprocess``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# not modules of the tests: the server does not stand in the repository
_CONTEXT.set_forkserver_preload(["recbole_eimf.experiment.run", "recbole_eimf.experiment.interests",
                                 "recbole_eimf.model.baselines.text_baselines", "torch._dynamo",
                                 "recbole_eimf.model.eimf", "recbole_eimf.semantic.side_load", "openai",
                                 "recbole_eimf.semantic.llm.client", "sklearn.decomposition",
                                 "recbole.model.sequential_recommender", "ray.tune", "recbole_eimf.cli.tune",
                                 "recbole_eimf.study.search.tune", "recbole_eimf.serving.http.run"])  # fmt: skip


def process_of(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """A started process of ``target``, which a module must hold."""
    process = _CONTEXT.Process(target=_call, args=(target, *arguments))
    process.start()
    return process


def _call(target: Callable[..., None], *arguments: Any) -> None:
    import torch

    # the server has imported RecBole's sine.py, which turns it on for the process: twice the time of all training
    torch.autograd.set_detect_anomaly(False)
    target(*arguments)


def command_line(*arguments: str) -> int:
    """``python -m recbole_eimf`` with these arguments, for :class:`Forked`."""
    from recbole_eimf.__main__ import main

    return main(list(arguments))


class Forked:
    """What ``subprocess.Popen`` is to a command, of a function; text goes through ``stdout`` and ``stderr``.

    Args:
        work: its result is the exit code; a module must hold it.
        arguments: of ``work``.
        cwd: where it stands.
        together: whether ``stderr`` goes into ``stdout``.
        environment: beside that of this process.
    """

    def __init__(
        self,
        work: Callable[..., int | None],
        *arguments: Any,
        cwd: Path,
        together: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        environment = {**os.environ, **(environment or {})}
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(1 if together else 2)]
        senders = [sender for _, sender in pipes]
        self._process = process_of(_begin, senders, str(cwd), environment, work, arguments)
        for sender in senders:
            sender.close()
        streams = [os.fdopen(os.dup(receiver.fileno()), encoding="utf-8") for receiver, _ in pipes]
        for receiver, _ in pipes:
            receiver.close()
        self.stdout, self.stderr = streams[0], None if together else streams[1]
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it says until its end."""
        said = {}

        def read(name: str) -> None:
            said[name] = getattr(self, name).read()

        names = [name for name in ("stdout", "stderr") if getattr(self, name)]
        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in names]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return said["stdout"], said.get("stderr", "")

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: Any) -> None:
        for stream in filter(None, (self.stdout, self.stderr)):
            stream.close()
        self.wait(60)


def _begin(senders: list, folder: str, environment: dict[str, str], work: Callable, arguments: tuple) -> None:
    """Stand where and as a process that ``subprocess`` starts would."""
    for number, sender in zip((1, 2), (senders[0], senders[-1])):
        os.dup2(sender.fileno(), number)
    for sender in senders:
        sender.close()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children start with SIGINT ignored
    code = work(*arguments)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(code)
