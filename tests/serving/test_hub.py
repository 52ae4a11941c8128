"""The hub over real HTTP: huggingface_hub's own client against a stand-in on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.serving import hub_stand_in

pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")

SCRIPT = """
import json, os, sys, urllib.request
from recbole_eimf import Recommender
from recbole_eimf.core.errors import UserError

def tried(what, *given, **options):
    try:
        found = what(*given, **options)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return found if isinstance(found, str) else found.recommend([["i1", "i2"]], 3)["item"].tolist()

for step in json.loads(sys.argv[1]):
    name, *given = step
    if name == "push":
        print(json.dumps(tried(Recommender.load(given[0]).push_to_hub, *given[1:])), flush=True)
    elif name == "get":
        print(json.dumps(tried(Recommender.from_pretrained, *given)), flush=True)
    elif name == "token":
        os.environ["HF_TOKEN"] = given[0]
    else:
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/stop").read()
"""


@pytest.fixture
def hub():
    with hub_stand_in.running() as running:
        yield running


@pytest.fixture
def told(hub, tmp_path):
    """``told(*steps)``: what a process of its own says of each step; its environment knows the hub and the token."""

    def run(*steps: list) -> list:
        off = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment = {**off, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
                       "HF_TOKEN": hub_stand_in.TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1",
                       "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
        command = [sys.executable, "-c", SCRIPT, json.dumps(steps)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert hub_stand_in.TOKEN not in done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_model_goes_to_the_hub_and_comes_back(hub, told, exported, tmp_path):
    _, folder, recommender = exported("IBIM", backbone="GRU4Rec")
    here = recommender.recommend([["i1", "i2"]], 3)["item"].tolist()
    files = sorted(path.name for path in folder.iterdir())
    address, back = told(["push", str(folder), "me/model"], ["get", "me/model"])
    assert address == f"{hub.address}/me/model"
    assert hub.private["me/model"] is True
    assert back == here
    sent = hub.commits["me/model"][hub.heads["me/model"]]
    assert sorted(sent) == [name for name in files if not name.startswith("users")]  # histories stay here
    assert all(hub_stand_in.TOKEN.encode() not in content for content in sent.values())

    first = hub.heads["me/model"]
    damaged = hub.commit("me/model", {"items.safetensors": sent["items.safetensors"][:-8]})
    hub.commits["me/foreign"] = {}
    hub.commit("me/foreign", {"README.md": b"# something else"})
    old, new, foreign, nowhere, unheard, unsent, unreachable, unreached = told(
        ["get", "me/model", first],
        ["get", "me/model", damaged],
        ["get", "me/foreign"],
        ["get", "me/nowhere"],
        ["get", "me/model", "v9"],
        ["token", "hf_" + "x" * 34],
        ["push", str(folder), "me/other"],
        ["stop"],
        ["get", "me/other"],
        ["push", str(folder), "me/model"],
    )
    assert old == here  # a revision of before stays what it was
    assert new.startswith("DataError") and "items.safetensors" in new  # noqa: PT018
    assert foreign.startswith("DataError") and "model folder" in foreign  # noqa: PT018
    for name, said in (("me/nowhere", nowhere), ("me/model", unheard), ("me/other", unreachable)):
        assert said.startswith(f"DataError: {name}: no folder here, and not fetched from the hub")
    for name, said in (("me/other", unsent), ("me/model", unreached)):
        assert said.startswith(f"DataError: {name}: not uploaded to the hub")
    assert "me/other" not in hub.commits
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert all(hub_stand_in.TOKEN.encode() not in path.read_bytes() for path in kept)
