"""Two models over the same items, and the service over one of them: in this thread, or over a real socket."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time

import httpx
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient

from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.http.app import create_app
from recbole_eimf.serving.http.board import Board, State
from recbole_eimf.serving.http.connection import PatientProtocol
from recbole_eimf.serving.http.settings import TOKEN_VARIABLE, Settings
from recbole_eimf.serving.recommender import Recommender

TOKEN = "a token that nobody guesses"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="session")
def _models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def models(made_run, _models, tmp_path):
    """A folder of one's own with the model folders ``first`` and ``second``, which rank otherwise."""
    if not (_models / "second").exists():
        for seed, name in enumerate(("first", "second")):

            def change(net, seed=seed):
                torch.manual_seed(seed)
                for parameter in net.parameters():
                    parameter.normal_(0, 0.3)

            run = made_run("IBIM", change, backbone="SASRec")
            write_run(run, _models / name, index="auto", onnx=False, refit=False, text="yes", histories=True)
    folder = tmp_path / "models"
    shutil.copytree(_models, folder)
    return folder


@pytest.fixture
def first(models):
    return Recommender.load(models / "first")


@pytest.fixture
def second(models):
    return Recommender.load(models / "second")


def board_of(model, folder) -> Board:
    """A board that says ``model`` is served."""
    board = Board(folder)
    board.publish(State(1, str(model), board.keep(model)))
    return board


@pytest.fixture
def client(models, tmp_path, monkeypatch):
    """``client(token=None, **settings)``: asks an application in this process."""
    with contextlib.ExitStack() as opened:

        def make(token=None, model="first", **settings):
            monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
            if token is not None:
                monkeypatch.setenv(TOKEN_VARIABLE, token)
            board = board_of(models / model, tmp_path / f"board{time.monotonic_ns()}")
            app = create_app(Settings(str(board.folder), **settings))
            # a fault is to be seen as what a client gets
            return opened.enter_context(TestClient(app, base_url="http://localhost", raise_server_exceptions=False))

        yield make


class Live:
    """An application behind a real socket, in a thread."""

    def __init__(self, app, protocol) -> None:
        self.app = app
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="on", log_level="error", timeout_graceful_shutdown=20
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def end(self) -> None:
        """What SIGTERM does."""
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.socket.close()

    def connect(self) -> socket.socket:
        """A bare connection, for clients that misbehave."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture
def live(models, tmp_path, monkeypatch):
    """``live(**settings)``: a service over HTTP."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    started = []

    def make(protocol=PatientProtocol, **settings):
        board = board_of(models / "first", tmp_path / "board")
        started.append(Live(create_app(Settings(str(board.folder), **settings)), protocol))
        return started[-1]

    yield make
    for service in started:
        if service.thread.is_alive():
            service.end()


def expected(model: Recommender, histories, **options) -> list[list[tuple[str, float]]]:
    """(item, score) of every history, as Recommender says."""
    frame = model.recommend(histories, **options)
    found: list[list[tuple[str, float]]] = [[] for _ in histories]
    for user, item, score in zip(frame["user"], frame["item"], frame["score"]):
        found[user].append((item, float(score)))
    return found


def given(answer) -> list[list[tuple[str, float]]]:
    """The same of an answer of POST /recommend."""
    assert answer.status_code == 200, answer.text
    return [[(item["item"], item["score"]) for item in result["items"]] for result in answer.json()["results"]]


def ask(url: str, history, **options) -> httpx.Response:
    # verify: certificates take longer to read than the request takes
    body = {"history": history, **options}
    return httpx.post(f"{url}/recommend", json=body, timeout=30, trust_env=False, verify=False)
