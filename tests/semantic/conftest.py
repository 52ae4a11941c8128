"""Fixtures of more than one file."""

import pytest

from recbole_eimf.semantic.llm import endpoint
from tests.semantic.llm_calls import KEY


@pytest.fixture
def quick_endpoint(monkeypatch):
    """A key, no proxy before the loopback interface, and no waiting for long."""
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(endpoint, "LONGEST_BACKOFF_SECONDS", 0.05)
