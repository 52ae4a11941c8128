"""The service over real connections: clients that are too many, too slow or broken, another model, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.http import answers, door
from recbole_eimf.serving.http import service as service_module
from recbole_eimf.serving.http.connection import PatientProtocol
from recbole_eimf.serving.http.settings import MAX_CHANGES
from tests.serving.http.conftest import AUTHORIZED, ask, board_of, expected, given
from tests.serving.test_exactness import told

HISTORY = ["i1", "i5", "i9"]


@pytest.fixture
def held(monkeypatch):
    """Answers wait until ``held.set()``; ``held.begun`` counts those that have begun."""
    release = threading.Event()
    release.begun = threading.Semaphore(0)
    real = answers.recommended

    def waiting(served, asked):
        release.begun.release()
        assert release.wait(20)
        return real(served, asked)

    monkeypatch.setattr(answers, "recommended", waiting)
    yield release
    release.set()


def dropped(service) -> dict[str, float]:
    """Why connections were dropped -> how many, as Prometheus reads it."""
    text = httpx.get(f"{service.url}/metrics", trust_env=False).text
    found = re.findall(r'^recbole_eimf_dropped_connections_total\{why="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {why: float(number) for why, number in found}


def test_above_capacity_is_told_at_once_and_nothing_waits_without_end(live, held, first):
    service = live(capacity=2)
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask, service.url, HISTORY) for _ in range(2)]
        assert held.begun.acquire(timeout=20)
        while service.app.state.capacity.taken < 2:
            time.sleep(0.01)
        refused = list(clients.map(lambda _: ask(service.url, HISTORY), range(6)))
        # a body that nobody will read is not waited for
        with service.connect() as client:
            client.sendall(b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 1000\r\n\r\n")  # fmt: skip
            assert client.recv(1000).startswith(b"HTTP/1.1 503")
        health = httpx.get(f"{service.url}/health", trust_env=False)
        assert {answer.status_code for answer in refused} == {503}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert health.status_code == 200
        held.set()
        assert [given(answer.result()) for answer in asked] == [expected(first, [HISTORY])] * 2
    assert given(ask(service.url, HISTORY)) == expected(first, [HISTORY])
    assert "recbole_eimf_over_capacity_total 7.0" in httpx.get(f"{service.url}/metrics", trust_env=False).text


def test_changes_above_their_limit_are_told_at_once(live, monkeypatch):
    service, release, begun = live(), threading.Event(), threading.Event()
    real = service_module.with_items

    def waiting(model, items):
        begun.set()
        assert release.wait(20)
        return real(model, items)

    monkeypatch.setattr(service_module, "with_items", waiting)

    def change(name: str) -> httpx.Response:
        address, body = ("reload", {}) if name == "reload" else ("items", {"items": {name: "thing number 3"}})
        url = f"{service.url}/{address}"
        return httpx.post(url, json=body, headers=AUTHORIZED, timeout=30, trust_env=False, verify=False)

    with ThreadPoolExecutor(8) as clients:
        taken = [clients.submit(change, "first")]
        assert begun.wait(20)
        taken += [clients.submit(change, f"n{number}") for number in range(MAX_CHANGES - 1)]
        until = time.monotonic() + 20
        while service.app.state.service._taken < MAX_CHANGES and time.monotonic() < until:
            time.sleep(0.01)
        refused = [change(name) for name in ("one more", "reload")]
        assert [answer.status_code for answer in refused] == [503, 503]
        assert {answer.headers["retry-after"] for answer in refused} == {"5"}
        assert "more changes than" in refused[0].json()["detail"]
        assert ask(service.url, HISTORY).status_code == 200  # who asks does not wait for those who change
        release.set()
        assert [answer.result().status_code for answer in taken] == [200] * MAX_CHANGES
    assert change("one more").json()["added"] == ["one more"]
    assert change("reload").json()["items_kept"] == MAX_CHANGES + 1


def test_bodies_that_are_too_large_or_too_slow_end(live, first, monkeypatch):
    monkeypatch.setattr(door, "BODY_SECONDS", 0.3)
    service = live()
    head = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with service.connect() as client:  # says so
        client.sendall(head + b"Content-Length: 1048577\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
        assert b"" in iter(lambda: client.recv(1000), None)  # and is closed
    with service.connect() as client:  # does not say so, and never ends
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 1 << 26:
                client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
        assert sent < 1 << 25
    with service.connect() as client:  # a byte now and then
        client.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 408")
    assert given(ask(service.url, HISTORY)) == expected(first, [HISTORY])


def test_a_client_that_goes_in_the_middle_of_its_body_is_no_fault_of_the_service(live):
    service = live()
    with service.connect() as client:
        client.sendall(
            b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9\r\n\r\n{"
        )
    wanted = 'recbole_eimf_requests_total{path="/recommend",status="499"} 1.0'
    until = time.monotonic() + 20
    while wanted not in (shown := httpx.get(f"{service.url}/metrics", trust_env=False).text):
        assert time.monotonic() < until, shown
        time.sleep(0.05)
    assert 'status="500"' not in shown


def test_connections_that_ask_nothing_are_closed_however_they_drip(live):
    class Hasty(PatientProtocol):
        idle_seconds = 0.4

    service = live(protocol=Hasty)
    with service.connect() as silent, service.connect() as dripping:
        dripping.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert dripping.recv(4000).startswith(b"HTTP/1.1 200")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 200:
                dripping.sendall(b"G")
                sent += 1
                time.sleep(0.1)
        assert sent < 200
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
    assert dropped(service) == {"idle": 2.0, "room": 0.0, "untaken": 0.0}


def test_connections_that_ask_nothing_make_room_and_keep_nobody_from_asking(live, held, first):
    class Few(PatientProtocol):
        most = 5

    service = live(protocol=Few)
    with contextlib.ExitStack() as opened, ThreadPoolExecutor(1) as clients:
        asked = clients.submit(ask, service.url, HISTORY)
        assert held.begun.acquire(timeout=20)
        kept = opened.enter_context(httpx.Client(trust_env=False))
        assert kept.get(f"{service.url}/health").status_code == 200
        silent = [opened.enter_context(service.connect()) for _ in range(12)]
        for _ in range(3):  # each over a connection of its own
            health = httpx.get(f"{service.url}/health", trust_env=False)
            assert health.status_code == 200, health.text
        for client in silent[:7]:  # those that came first have made room
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        assert len(service.server.server_state.connections) <= 5
        assert kept.get(f"{service.url}/health").status_code == 200  # was closed too, and is opened again
        held.set()
        assert given(asked.result()) == expected(first, [HISTORY])  # whoever asks stays
    assert "over_capacity_total 0.0" in httpx.get(f"{service.url}/metrics", trust_env=False).text
    assert dropped(service)["room"] >= 8  # of 12 silent ones and one that was kept, with one that asks


def test_where_all_connections_ask_the_new_one_is_closed(live, held, first):
    class One(PatientProtocol):
        most = 1

    service = live(protocol=One)
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(ask, service.url, HISTORY)
        assert held.begun.acquire(timeout=20)
        with service.connect() as client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        held.set()
        assert given(asked.result()) == expected(first, [HISTORY])
    assert given(ask(service.url, HISTORY)) == expected(first, [HISTORY])


def test_bodies_that_are_coming_have_a_limit_and_questions_without_one_do_not(live, first, monkeypatch):
    monkeypatch.setattr(door, "MAX_READING", 2)
    service = live()
    head = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with service.connect() as one, service.connect() as other:
        for client in (one, other):
            client.sendall(head + b"Content-Length: 100\r\n\r\n{")
        until = time.monotonic() + 20
        while (refused := ask(service.url, HISTORY)).status_code != 503 and time.monotonic() < until:
            time.sleep(0.05)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "more requests than" in refused.json()["detail"]
        assert httpx.get(f"{service.url}/health", trust_env=False).status_code == 200
    answer = ask(service.url, HISTORY)
    while answer.status_code == 503 and time.monotonic() < until:  # that they went is read a moment later
        time.sleep(0.05)
        answer = ask(service.url, HISTORY)
    assert given(answer) == expected(first, [HISTORY])


def test_a_client_that_does_not_take_its_answer_is_dropped(live, first):
    class Hasty(PatientProtocol):
        taking_seconds = 0.3

    service = live(protocol=Hasty)
    body = json.dumps({"histories": [HISTORY] * 64, "k": 60}).encode()
    request = (
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    ) + body
    with service.connect() as client:
        client.settimeout(0.5)
        try:
            for _ in range(100):
                client.sendall(request)
        except OSError:
            pass  # no longer read
        until = time.monotonic() + 90
        while dropped(service)["untaken"] < 1 and time.monotonic() < until:
            time.sleep(0.1)
        assert dropped(service) == {"idle": 0.0, "room": 0.0, "untaken": 1.0}
        client.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(1 << 20):
                pass  # what was under way; then the end
    assert given(ask(service.url, HISTORY)) == expected(first, [HISTORY])


def test_broken_clients_leave_nothing_behind(live, first):
    service = live(capacity=2)
    body = json.dumps({"history": HISTORY}).encode()
    head = (
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    whole = head % len(body) + body
    broken = [b"", b"\x16\x03\x01\x00", b"GARBAGE\r\n\r\n", head % 500 + b"{", whole[:-3], whole, b"X" * 200_000]
    for sent in broken * 3:
        with service.connect() as client:
            client.sendall(sent)
    until = time.monotonic() + 90
    while service.app.state.capacity.taken and time.monotonic() < until:
        time.sleep(0.01)
    assert service.app.state.capacity.taken == 0
    answer = ask(service.url, HISTORY)
    while answer.status_code == 503 and time.monotonic() < until:  # what was sent last may be read only now
        time.sleep(0.05)
        answer = ask(service.url, HISTORY)
    assert given(answer) == expected(first, [HISTORY])


def test_another_model_is_taken_over_without_dropping_a_request(live, first, second, tmp_path):
    """Every answer is the whole answer of the model it says it comes from."""
    service = live()
    histories = [[f"i{n}", f"i{(7 * n) % 60}"] for n in range(6)]
    right = {name: [expected(model, [history]) for history in histories] for name, model in
             (("first", first), ("second", second))}  # fmt: skip
    versions, stop, wrong, asked = {}, threading.Event(), [], [0] * 4

    def client(number: int) -> None:
        with httpx.Client(trust_env=False, timeout=30) as session:
            while not stop.is_set():
                place = asked[number] % len(histories)
                answer = session.post(f"{service.url}/recommend", json={"history": histories[place]})
                asked[number] += 1
                seen.append((place, answer.status_code, answer.json().get("model"), given(answer)))

    seen: list[tuple] = []
    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    generations = {1: "first"}

    def until_answered_by(generation: int) -> None:
        """Until a client had an answer of it: on a busy machine none may have come by before the next reload."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and all(model["generation"] != generation for _, _, model, _ in [*seen]):
            time.sleep(0.02)

    until_answered_by(1)
    for name in ("second", "first", "second"):
        answer = httpx.post(
            f"{service.url}/reload", json={"folder": name}, headers=AUTHORIZED, timeout=60, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        generations[answer.json()["generation"]] = name
        versions[name] = answer.json()["version"]
        until_answered_by(answer.json()["generation"])
    stop.set()
    for thread in threads:
        thread.join(30)
    for place, status, model, found in seen:
        name = generations[model["generation"]]
        if status != 200 or found != right[name][place] or model["version"] != versions[name]:
            wrong.append((place, status, model))
    assert wrong == []
    assert sum(asked) == len(seen) > 20
    assert {model["generation"] for _, _, model, _ in seen} == {1, 2, 3, 4}
    assert len(list((tmp_path / "board" / "models").iterdir())) == 1  # what nobody serves is removed


def test_the_end_waits_for_requests_under_way_and_takes_no_more(live, held, first):
    service = live()
    with ThreadPoolExecutor(2) as clients, service.connect() as half:
        asked = clients.submit(ask, service.url, HISTORY)
        assert held.begun.acquire(timeout=20)
        half.sendall(
            b"POST /similar HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n"
        )
        while len(service.server.server_state.tasks) < 2:  # its head was read
            time.sleep(0.01)
        ending = clients.submit(service.end)
        while service.server.servers and service.server.servers[0].is_serving():
            time.sleep(0.01)
        half.sendall(b'{"items": ["i1"], "k": 5  }')
        held.set()
        assert given(asked.result(30)) == expected(first, [HISTORY])
        assert half.recv(100).startswith(b"HTTP/1.1 200")
        ending.result(30)
    with pytest.raises(OSError):  # noqa: PT011
        service.connect()


# ---------------------------------------------------------------------- several workers, without their processes
def test_workers_follow_what_another_publishes(models, tmp_path, first, second):
    board = board_of(models / "first", tmp_path / "board")
    one, other = service_module.Service(board), service_module.Service(board)
    one.start()
    other.start()
    one._add({"new": ["thing number 7"]})
    assert other._follow()
    assert not other._follow()
    first.add_items({"new": "thing number 7"})
    histories = [["new", "i3"]]
    before = other.now
    for service in (one, other):
        assert service.now.model.rank(histories, 61).rows.tolist() == first.rank(histories, 61).rows.tolist()
    other._take_over(str(models / "second"))
    assert one._follow()
    second.add_items({"new": "thing number 7"})
    for service in (one, other):
        assert service.now.state == board.read()
        assert service.now.model.rank(histories, 61).rows.tolist() == second.rank(histories, 61).rows.tolist()
    # what was served stays as it was, for those that still ask it
    assert before.model.rank(histories, 61).rows.tolist() == first.rank(histories, 61).rows.tolist()


def test_a_model_that_cannot_be_followed_is_said_once_and_tried_ever_more_seldom(models, tmp_path, monkeypatch, caplog):
    board = board_of(models / "first", tmp_path / "board")
    one, other = service_module.Service(board), service_module.Service(board)
    one.start()
    other.start()
    tried, real = [], other._follow

    def follow():
        tried.append(len(times))
        if board.read().generation < 4:
            raise DataError("model.safetensors: is damaged.")
        return real()

    times = []

    async def passed(seconds):
        times.append(seconds)
        if len(times) in (100, 200):  # another model, which cannot be followed either, and one that can
            one._take_over(str(models / ("first" if len(times) == 100 else "second")))
        if len(times) == 210:
            raise asyncio.CancelledError

    monkeypatch.setattr(other, "_follow", follow)
    own = types.SimpleNamespace(sleep=passed, get_running_loop=asyncio.get_running_loop)
    monkeypatch.setattr(service_module, "asyncio", own)
    monkeypatch.setattr(service_module, "time", types.SimpleNamespace(monotonic=lambda: 0.25 * len(times)))
    one._take_over(str(models / "second"))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(other.watch())
    said = [record for record in caplog.records if "cannot be taken over" in record.message]
    assert len(said) == 2, "once for each that was published"
    assert "generation 1 is served on" in said[0].message
    assert "model.safetensors: is damaged." in said[0].message
    assert said[0].exc_info is None
    assert tried[:5] == [1, 2, 4, 8, 15]
    assert {100, 200} <= set(tried), "something newer is tried at once"
    assert len(tried) < 20
    assert other.now.state.generation == 4


def test_what_was_added_comes_into_another_model_in_one_batch(models, tmp_path, second, monkeypatch):
    """An addition copies every table: one by one, four hundred items took twenty seconds, in every worker."""
    board = board_of(models / "first", tmp_path / "board")
    one, other = service_module.Service(board), service_module.Service(board)
    one.start()
    other.start()
    titles = {f"n{number}": f"thing number {number}" for number in range(9)}
    for token, title in titles.items():
        one._add({token: [title]})
    other._follow()
    batches, real = [], service_module.with_items
    monkeypatch.setattr(
        service_module, "with_items", lambda model, items: batches.append(list(items)) or real(model, items)
    )
    said = one._take_over(str(models / "second"))
    assert (said["items_kept"], said["items_lost"]) == (9, 0)
    assert other._follow()
    assert batches == [list(titles)] * 2  # of the one, and of the other
    second.add_items(titles)
    for service in (one, other):
        found = service.now.model.rank([HISTORY, ["n3"]], 69)
        assert found.rows.tolist() == second.rank([HISTORY, ["n3"]], 69).rows.tolist()
        assert found.scores.tolist() == second.rank([HISTORY, ["n3"]], 69).scores.tolist()


def test_a_worker_that_comes_later_adds_what_was_added_in_one_batch(models, tmp_path, first, monkeypatch):
    board = board_of(models / "first", tmp_path / "board")
    old = service_module.Service(board)
    old.start()
    titles = {f"n{number}": f"thing number {number}" for number in range(9)}
    for token, title in titles.items():
        old._add({token: [title]})
    batches, real = [], service_module.with_items
    monkeypatch.setattr(
        service_module, "with_items", lambda model, items: batches.append(list(items)) or real(model, items)
    )
    late = service_module.Service(board)
    late.start()
    assert batches == [list(titles)]
    first.add_items(titles)
    assert late.now.state == old.now.state
    for service in (old, late):
        found = service.now.model.rank([HISTORY, ["n3"]], 69)
        assert found.rows.tolist() == first.rank([HISTORY, ["n3"]], 69).rows.tolist()


@pytest.mark.parametrize("kind", ["all", "similar"])
def test_a_worker_that_comes_later_ranks_as_the_others_do_with_a_score_prior(made_run, tmp_path, kind):
    """In a graph the place of an item depends on what was added before it."""
    run = made_run("IBIM", told if kind == "all" else None, backbone="SASRec", score_prior=kind)
    write_run(run, tmp_path / "model", index="auto", onnx=False, refit=False, text="yes", histories=False)
    board = board_of(tmp_path / "model", tmp_path / "board")
    old, late = service_module.Service(board), service_module.Service(board)
    old.start()
    for number in range(20):
        old._add({f"n{number}": [f"thing number {number}"]})
    late.start()
    histories = [HISTORY, ["n3"], ["i9", "n7"]]
    assert late.now.model.places_each_alone is (kind == "similar")
    assert late.now.model.rank(histories, 80).rows.tolist() == old.now.model.rank(histories, 80).rows.tolist()


def test_what_another_model_cannot_read_is_lost_and_nothing_beside_it(models, tmp_path, second, monkeypatch):
    board = board_of(models / "first", tmp_path / "board")
    service = service_module.Service(board)
    service.start()
    for number in range(9):
        service._add({f"n{number}": [f"thing number {number}"], f"m{number}": [f"thing {number}"]})
    real = service_module.with_items

    def refusing(model, items):
        if {"n2", "n7"} & set(items):
            raise DataError("the text encoder knows no word of it")
        return real(model, items)

    monkeypatch.setattr(service_module, "with_items", refusing)
    said = service._take_over(str(models / "second"))
    assert (said["items_kept"], said["items_lost"]) == (14, 4)  # a request is added whole, or not
    monkeypatch.undo()
    late = service_module.Service(board)
    late.start()
    for each in (service, late):
        known = each.now.model.catalogue.row_of
        assert [f"n{number}" in known for number in range(9)] == [number not in (2, 7) for number in range(9)]
        assert each.now.model.catalogue.tokens.to_pylist() == service.now.model.catalogue.tokens.to_pylist()


def test_a_worker_that_comes_later_serves_what_the_others_do_whatever_became_of_the_folder(models, tmp_path, second):
    board = board_of(models / "first", tmp_path / "board")
    old = service_module.Service(board)
    old.start()
    old._take_over(str(models / "second"))
    for file in (models / "second").iterdir():
        file.unlink()
    late = service_module.Service(board)
    late.start()
    assert late.now.state == old.now.state
    assert late.now.model.rank([HISTORY], 9).rows.tolist() == second.rank([HISTORY], 9).rows.tolist()
    with pytest.raises(DataError, match="second"):
        old._take_over(str(models / "second"))


def test_a_state_that_changes_while_a_worker_starts_is_followed(models, tmp_path, monkeypatch):
    board = board_of(models / "first", tmp_path / "board")
    other = service_module.Service(board)
    other.start()
    real = service_module.loaded

    def interrupted(board, state):
        if state.generation == 1:
            monkeypatch.setattr(service_module, "loaded", real)
            other._take_over(str(models / "second"))
            board.forget(but=board.read().version)
        return real(board, state)

    late = service_module.Service(board)
    monkeypatch.setattr(service_module, "loaded", interrupted)
    late.start()
    assert late.now.state == other.now.state


def test_words_on_an_item_place_it_beside_its_title_where_the_model_reads_them(models, tmp_path, first, second):
    board = board_of(models / "first", tmp_path / "board")
    one, other = service_module.Service(board), service_module.Service(board)
    one.start()
    other.start()
    for model in (one.now.model, other.now.model, first):
        model.config["text"] = {**model.config["text"], "source": "title+profile"}
    added = asyncio.run(one.add({"new": "thing", "plain": "thing 5"}, {"new": "number 7"}))
    assert added["added"] == ["new", "plain"]
    assert other._follow()
    first.add_items({"new": "thing", "plain": "thing 5"}, {"new": "number 7"})
    histories = [["new", "i3"], ["plain"]]
    for service in (one, other):
        assert service.now.model.rank(histories, 62).rows.tolist() == first.rank(histories, 62).rows.tolist()
    second.add_items({"new": "thing", "plain": "thing 5"})  # reads titles alone: what is added stays, by its title
    assert one._take_over(str(models / "second"))["items_lost"] == 0
    assert one.now.model.rank(histories, 62).rows.tolist() == second.rank(histories, 62).rows.tolist()
    with pytest.raises(ConfigError, match="placed by their titles alone"):
        asyncio.run(one.add({"more": "thing 3"}, {"more": "number 4"}))
    with pytest.raises(DataError, match="profiles: 'stray' is not in items"):
        asyncio.run(one.add({"more": "thing 3"}, {"stray": "number 4"}))
