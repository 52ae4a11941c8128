"""Replies of an OpenAI-compatible endpoint, paid for only after the user agreed."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from recbole_eimf.core.errors import InterestSourceError
from recbole_eimf.core.parts import require
from recbole_eimf.semantic.journal import kept, of_use, read_journal, useless
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.llm.access import ASKERS, read_key
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.price import estimate_calls
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import Parser, Reply, parse_interests

#: key of a source -> (the command that asks, what the command is to be given beside it)
_COMMANDS = {
    "interest_source": ("interests", " (with this run's model, recipe and keys)"),
    "knowledge_source": ("knowledge", ""),
}


def check_askable(wanted: OpenAISettings, calls: int, journal: Path, source: str = "interest_source") -> None:
    """Check that calls can be made, once it is known how many are left.

    Raises:
        UserError: no client installed, no API key; says how many prompts need it.
    """
    if calls:
        require("openai")
        read_key(wanted, f"{ASKERS[source]}, and {journal} does not answer {calls} of the prompts")


def ask(
    requests: Sequence[PromptRequest],
    wanted: OpenAISettings,
    journal: Path,
    dataset: str,
    agreed: bool,
    again: bool = True,
    source: str = "interest_source",
    parse: Parser = parse_interests,
) -> dict[str, Reply]:
    """Replies by user: those that stand in the journal, and where ``agreed`` those of the calls that are left.

    Args:
        again: also ask those once more whose reply was of no use. A training run does not: the seeds of a table shall
            have the same interests, and pay for none of them twice.
        source: the key whose replies these are; parse: reads one.

    Raises:
        InterestSourceError: calls are left that nobody agreed to pay, or the endpoint cannot be used.
    """
    past = read_journal(journal, wanted.model)
    known = kept(requests, wanted.max_interests, past, parse)
    done, settled = of_use(known), {} if again else useless(known)
    left = [request for request in requests if request.user_id not in settled]
    estimate = estimate_calls(left, wanted, done)
    command, beside = _COMMANDS[source]
    if estimate.calls and not agreed:
        raise InterestSourceError(
            f"{source}=openai would make paid calls: {estimate}. Look at a prompt and agree with "
            f"`python -m recbole_eimf {command} --dataset={dataset} --{source}=openai ...`{beside}, or add --yes=True."
        )
    check_askable(wanted, estimate.calls, journal, source)
    if settled:
        getLogger().warning(
            f"{journal}: {len(settled)} replies are of no use and are not asked for again; "
            f"`python -m recbole_eimf {command}` does so."
        )
    if not estimate.calls:  # what is there was read a moment ago, and nothing is to be written
        client.say_reused(left, wanted, journal, past, done)
        return settled | {request.user_id: done[request.user_id] for request in left}
    return client.fetch_openai(requests, wanted, journal, parse=parse, what=command, again=again)
