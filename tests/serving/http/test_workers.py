"""The command, with several processes: one is killed, items are added, another model comes, and the end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.cli import serve
from recbole_eimf.core import parts
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.locks import if_nobody_has
from recbole_eimf.serving.http.run import _listening
from recbole_eimf.serving.http.settings import MAX_CONNECTIONS, TOKEN_VARIABLE, Settings
from recbole_eimf.serving.http.workers import on_hangup
from tests.conftest import REPOSITORY
from tests.forked import Forked, command_line
from tests.serving.http.conftest import AUTHORIZED, TOKEN, ask, expected, given

HISTORY = ["i1", "i5", "i9"]


ENVIRONMENT = {TOKEN_VARIABLE: TOKEN, "OMP_NUM_THREADS": "1"}


def bare(command):
    """The command as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "recbole_eimf", *command], cwd=REPOSITORY, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip


def forked(command):
    """With everything imported."""
    return Forked(command_line, *command, cwd=REPOSITORY, together=True, environment=ENVIRONMENT)


@contextlib.contextmanager
def served(model, *arguments, how=forked):
    """The command in a process of its own: (process, address)."""
    process = how(["serve", str(model), "--port", "0", *arguments])
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+:\d+", line)
        assert found, line + process.stdout.read()
        yield process, found[0]
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        process.stdout.close()


def workers_of(models) -> set[int]:
    """Processes that have said what they serve."""
    (board,) = models.glob(".first.*.served")
    return {int(file.name) for file in (board / "workers").iterdir() if file.name.isdigit()}


def _free(lock) -> bool:
    with if_nobody_has(lock) as free:
        return free


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_workers_live_change_die_and_end(models, first, second):
    with served(models / "first", "--workers", "2", how=bare) as (process, url):
        until(lambda: len(workers_of(models)) == 2)
        old = workers_of(models)
        assert given(ask(url, HISTORY)) == expected(first, [HISTORY])
        added = httpx.post(
            f"{url}/items", json={"items": {"new": "thing number 7"}}, headers=AUTHORIZED, timeout=60, trust_env=False
        )
        assert (added.json()["workers"], added.json()["behind"]) == (2, 0), added.text
        first.add_items({"new": "thing number 7"})
        right = {2: expected(first, [["new", "i3"]], k=61)}
        seen, broken, stop = [], [], threading.Event()

        def client() -> None:
            while not stop.wait(0.05) and len(broken) < 20:  # starting a worker needs the processors too
                try:
                    answer = ask(url, ["new", "i3"], k=61)  # a connection each, so both workers are asked
                except httpx.TransportError as error:
                    broken.append(error)
                else:
                    seen.append((answer.json()["model"]["generation"], given(answer)))

        threads = [threading.Thread(target=client) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(seen) > 5)
            os.kill(min(old), signal.SIGKILL)
            until(lambda: len(workers_of(models) - {min(old)}) == 2)
            (fresh,) = workers_of(models) - old
            reload = httpx.post(
                f"{url}/reload", json={"folder": "second"}, headers=AUTHORIZED, timeout=60, trust_env=False
            )
            assert reload.status_code == 200, reload.text
            assert (reload.json()["workers"], reload.json()["behind"], reload.json()["items_kept"]) == (2, 0, 1)
            begun = len(seen)
            until(lambda: len(seen) > begun + 5)
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        second.add_items({"new": "thing number 7"})
        right[3] = expected(second, [["new", "i3"]], k=61)
        assert [generation for generation, found in seen if found != right[generation]] == []
        assert {generation for generation, _ in seen[begun + 3 :]} == {3}
        assert len(broken) <= 2  # those that the killed worker had under way

        # the new worker alone answers as the others do
        os.kill(max(old), signal.SIGSTOP)
        try:
            assert given(ask(url, ["new", "i3"], k=61)) == right[3]
        finally:
            os.kill(max(old), signal.SIGCONT)
        text = httpx.get(f"{url}/metrics", trust_env=False, timeout=30).text
        counted = re.search(r'requests_total\{path="/recommend",status="200"\} (\d+)', text)
        assert len(seen) - 1 <= int(counted[1]) <= len(seen) + 4
        assert "recbole_eimf_generation 3.0" in text

        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert fresh
        assert list(models.glob(".*")) == []  # nothing is left behind
        assert "Traceback" not in process.stdout.read()


def test_a_worker_that_cannot_load_is_a_line_and_tried_less_and_less_often(models, first):
    """The model was overwritten while it was served, and then a worker died."""
    with served(models / "first", "--workers", "2") as (process, url):
        until(lambda: len(workers_of(models)) == 2)
        (board,) = models.glob(".first.*.served")
        (encoder,) = board.glob("models/*/encoder.safetensors")
        encoder.unlink()
        one, other = workers_of(models)
        os.kill(one, signal.SIGKILL)
        said = []
        while sum("takes its place" in line for line in said) < 4:
            said.append(process.stdout.readline())
        assert "in " not in said[0].partition("another")[2] or "in 1 s" in said[0]
        pauses = [found[1] for line in said[1:] if (found := re.search(r"takes its place in (\d+) s", line))]
        assert pauses[:3] == (["1", "2", "4"] if "in 1 s" not in said[0] else ["2", "4", "8"])
        causes = [line for line in said if "encoder.safetensors: missing" in line]
        assert len(causes) >= 3
        assert "Traceback" not in "".join(said)
        assert given(ask(url, HISTORY)) == expected(first, [HISTORY])  # of the worker that lives
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert other


@pytest.fixture
def _in_a_terminal():
    """As a shell starts a command: tests that are themselves run under ``nohup`` have SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL) if hasattr(signal, "SIGHUP") else None
    yield
    if before is not None:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_in_a_terminal")
@pytest.mark.parametrize(("name", "workers"), [("SIGTERM", 1), ("SIGHUP", 1), ("SIGHUP", 2)])
def test_it_ends_by_a_signal_with_nothing_left_behind(models, first, name, workers):
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} here")
    with served(models / "first", "--workers", str(workers), how=bare) as (process, url):
        until(lambda: len(workers_of(models)) == workers)
        assert given(ask(url, HISTORY)) == expected(first, [HISTORY])
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == 0
        assert list(models.glob(".*")) == []


def test_under_nohup_the_end_of_a_terminal_is_none(monkeypatch):
    set_to = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_to.append((number, handler)))
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    on_hangup(print)
    assert set_to == []
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    on_hangup(print)
    assert set_to == ([(signal.SIGHUP, print)] if hasattr(signal, "SIGHUP") else [])


def test_what_a_killed_service_leaves_goes_with_the_next(models, first):
    with served(models / "first", "--workers", "2") as (process, _):
        until(lambda: len(workers_of(models)) == 2)
        (left,) = models.glob(".first.*.served")
        locks = {file.name for file in (left / "held").glob("*.lock")}
        assert locks == {"service.lock", *(f"{worker}.lock" for worker in workers_of(models))}
        process.kill()
        process.wait(30)
        assert left.is_dir()
        until(lambda: all(map(_free, (left / "held").glob("*.lock"))), 60)
    with served(models / "first") as (process, url):
        assert not left.exists()
        assert given(ask(url, HISTORY)) == expected(first, [HISTORY])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert list(models.glob(".*")) == []


def test_more_idle_connections_than_there_may_be_keep_nobody_from_asking(models, first):
    """uvicorn's own limit answers 503 as long as they are open, to whoever asks how the service is, too."""
    with served(models / "first") as (_, url), contextlib.ExitStack() as opened:
        port = int(url.rpartition(":")[2])
        for _ in range(MAX_CONNECTIONS + 5):
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        assert given(ask(url, HISTORY)) == expected(first, [HISTORY])


def test_wrong_arguments_are_one_line(models, tmp_path, capsys, live):
    taken = live().port
    for arguments, said in (
        (["nothing"], "no such model folder"),
        ([str(models / "first"), "--port", str(taken)], f"--port={taken}: cannot be listened on"),
        ([str(models / "first"), "--port", "70000"], "--port=70000"),
        ([str(models / "first"), "--workers", "0"], "--workers=0"),
        ([str(models / "first"), "--capacity", "0"], "--capacity=0"),
        ([str(models / "first"), "--capcity", "3"], "no such option"),
        ([str(models / "first"), "--allowed-hosts", "a.example,https://b"], "'https://b' is not a host name"),
        ([str(models / "first"), "--allowed-hosts", "a.example:80"], "'a.example:80' is not a host name"),
    ):
        assert main(["serve", *arguments]) == 2
        found = capsys.readouterr().err.splitlines()
        assert len(found) == 1
        assert said in found[0]
    assert list(models.glob(".*")) == []


def test_a_name_with_the_root_s_dot_is_the_name(models, monkeypatch):
    asked = []
    monkeypatch.setattr("recbole_eimf.serving.http.run.serve", lambda *given: asked.append(given[-1]))
    assert main(["serve", str(models / "first"), "--allowed-hosts", "Items.Example., b.example,[::1]"]) == 0
    assert asked == [("items.example", "b.example", "[::1]")]
    settings = Settings("shared", allowed_hosts=asked[0])
    assert all(settings.answers_to(host) for host in ("items.example", "items.example.", "ITEMS.example.:443"))
    assert not any(settings.answers_to(host) for host in ("items.example..", ".", "evil.example."))


def test_a_missing_part_is_one_line(models, monkeypatch, capsys):
    real = parts._found
    monkeypatch.setattr(parts, "_found", lambda module: module != "fastapi" and real(module))
    assert main(["serve", str(models / "first")]) == 2
    assert 'pip install "fastapi>=' in capsys.readouterr().err


def test_help_and_a_token_too_short(models, monkeypatch, capsys):
    assert main(["serve", "--help"]) == 0
    assert "--workers" in capsys.readouterr().out
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
        serve.main([str(models / "first")])


def test_an_answer_does_not_wait_for_an_acknowledgement():
    """Head and body of an answer are two packets; without TCP_NODELAY the second waits 40 ms for the client."""
    with _listening("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as client:
        accepted, _ = listening.accept()
        with accepted:
            assert client.getpeername() == accepted.getsockname()
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_host_that_is_not_this_machine_is_no_matter_of_the_port(monkeypatch):
    said = "--host=192.0.2.1: no name or .* Give another --host"  # an address for documentation, which no machine has
    with pytest.raises(ConfigError, match=said), _listening("192.0.2.1", 0):
        pass

    def unknown(*given, **more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = r"--host=nosuch.invalid: .*\(Name or service not known\)"
    with pytest.raises(ConfigError, match=said) as caught, _listening("nosuch.invalid", 0):
        pass
    assert "--port" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0..1", ".localhost", "x" * 64 + ".de"])
def test_a_mistyped_host_is_named(host):
    with pytest.raises(ConfigError, match=f"--host={re.escape(host)}: not a host name"), _listening(host, 0):
        pass
