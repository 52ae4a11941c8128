"""Replies of an OpenAI-compatible endpoint, paid for only after the user agreed."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from recbole_eimf.core.errors import InterestSourceError
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import Reply


def ask(
    requests: Sequence[PromptRequest],
    wanted: OpenAISettings,
    journal: Path,
    dataset: str,
    agreed: bool,
    again: bool = True,
) -> dict[str, Reply]:
    """Replies by user: those that stand in the journal, and where ``agreed`` those of the calls that are left.

    Args:
        again: also ask those once more whose reply was of no use. A training run does not: the seeds of a table shall
            have the same interests, and pay for none of them twice.

    Raises:
        InterestSourceError: calls are left that nobody agreed to pay, or the endpoint cannot be used.
    """
    useless = {} if again else client.failed_before(requests, wanted, journal)
    requests = [request for request in requests if request.user_id not in useless]
    estimate = client.estimate(requests, wanted, client.answered_users(requests, wanted, journal))
    if estimate.calls and not agreed:
        raise InterestSourceError(
            f"interest_source=openai would make paid calls: {estimate}. Look at a prompt and agree with "
            f"`python -m recbole_eimf interests --dataset={dataset} --interest_source=openai ...` "
            f"(with this run's model, recipe and keys), or add --yes=True."
        )
    if useless:
        getLogger().warning(
            f"{journal}: {len(useless)} replies hold no interests and are not asked for again; "
            f"`python -m recbole_eimf interests` does so."
        )
    return useless | client.fetch_openai(requests, wanted, journal)
