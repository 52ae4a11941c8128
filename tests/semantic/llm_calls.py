"""What the tests of the LLM client share: a key, requests, a call of fetch_openai, answers of the loopback server."""

import json

from recbole_eimf.semantic.llm.client import OpenAISettings, fetch_openai
from recbole_eimf.semantic.llm.prompt import PromptRequest
from tests.semantic.llm_server import Answer

KEY = "sk-test-3f9a1c77d2e84b06"


def requests(n):
    return [PromptRequest(f"u{i}", f"prompt {i}") for i in range(n)]


def settings(server, **changes):
    return OpenAISettings(**{"model": "m", "base_url": server.url, "api_key_env": "TEST_LLM_KEY", **changes})


def fetch(server, tmp_path, n=1, ask=None, **changes):
    wanted = settings(server, **changes)
    more = {"ask": ask} if ask else {}
    return fetch_openai(requests(n), wanted, tmp_path / "journal.jsonl", progress=False, **more)


def journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def always(**answer):
    return lambda asked, n: Answer(**answer)


def once(then=None, **answer):
    return lambda asked, n: Answer(**answer) if n == 0 else (then or Answer())
