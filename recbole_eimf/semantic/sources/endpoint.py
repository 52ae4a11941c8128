"""Replies of an OpenAI-compatible endpoint, paid for only after the user agreed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_eimf.core.errors import InterestSourceError
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import Reply


def ask(
    requests: Sequence[PromptRequest], wanted: OpenAISettings, journal: Path, dataset: str, agreed: bool
) -> dict[str, Reply]:
    """Replies by user: those that stand in the journal, and where ``agreed`` those of the calls that are left.

    Raises:
        InterestSourceError: calls are left that nobody agreed to pay, or the endpoint cannot be used.
    """
    estimate = client.estimate(requests, wanted, client.answered_users(requests, wanted, journal))
    if estimate.calls and not agreed:
        raise InterestSourceError(
            f"interest_source=openai would make paid calls: {estimate}. Look at a prompt and agree with "
            f"`python -m recbole_eimf interests --dataset={dataset} --interest_source=openai ...` "
            f"(with this run's model, recipe and keys), or add --yes=True."
        )
    return client.fetch_openai(requests, wanted, journal)
