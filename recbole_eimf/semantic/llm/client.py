"""Asking a language model for interests (EIMF eq. 3) over any OpenAI-compatible endpoint.

Every reply is paid for, so it is on disk (the journal) before anything else happens to it, and a later run asks only
what the journal does not answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from recbole_eimf.core.errors import DataError
from recbole_eimf.semantic.journal import Past, exclusive, kept, made_otherwise, of_use, read_journal, reusable, useless
from recbole_eimf.semantic.llm.calls import Calls, run_in_thread
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.price import estimate_calls
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import Parser, Reply, parse_interests
from recbole_eimf.semantic.trial import NO_ANSWER, ask_terminal, name_failures

logger = logging.getLogger(__name__)


def answered_users(
    requests: Sequence[PromptRequest], settings: OpenAISettings, journal: Path, parse: Parser = parse_interests
) -> set[str]:
    """Return the users whose request the journal already answers: same prompt, same model, status ok.

    Other settings of a reply (temperature, ...) do not count; :func:`fetch_openai` says where they were others.
    """
    return set(reusable(requests, settings.max_interests, read_journal(journal, settings.model), parse))


def fetch_openai(
    requests: Sequence[PromptRequest],
    settings: OpenAISettings,
    journal: Path,
    *,
    progress: bool = True,
    parse: Parser = parse_interests,
    ask: Callable[[str], bool | None] = ask_terminal,
    what: str = "interests",
    again: bool = True,
) -> dict[str, Reply]:
    """Return a Reply per request, by user id; only what ``journal`` does not answer is asked (eq. 3).

    At most ``concurrency`` calls are in flight. 408, 409, 425, 429, 5xx, time-outs and lost connections are tried
    again up to ``max_retries`` times, honouring Retry-After; a prompt that still has no answer is a failed reply, as
    are refusals and replies that cannot be parsed even after one complaint to the model. Each reply is in the journal
    before the same worker makes another call, so a kill loses at most the ``concurrency`` calls in flight. On Ctrl-C no
    new call starts, replies under way are kept, and KeyboardInterrupt is raised.

    ``parse`` reads a reply's text; :func:`~recbole_eimf.semantic.llm.item_reply.parse_item` where prompts ask about
    items, whose token is then the ``user_id``; ``what`` is asked for, as the progress bar says.

    If the journal answers nothing and not one of the first ``check_first`` replies holds an interest, ``ask`` is asked
    whether to go on; it returns None if nobody is there. Without ``again`` a reply of no use that stands in the journal
    is not asked for once more, even where another process has just written it.

    Raises InterestSourceError, naming endpoint, model and where the key comes from, if the endpoint rejects the key
    (401, 403), the model (404) or the request (other 4xx), is out of credit, answers with something else than chat
    completions, answers nothing at all, or sends nothing of use and nobody wants to go on. Raises DataError for a
    broken journal or two prompts for one user.
    """
    requests = _one_per_user(requests)
    journal = Path(journal)
    with exclusive(journal):
        past = read_journal(journal, settings.model)
        known = kept(requests, settings.max_interests, past, parse)
        replies, settled = of_use(known), {} if again else useless(known)
        asked = [request for request in requests if request.user_id not in settled]
        say_reused(asked, settings, journal, past, replies)
        replies |= settled
        check_first = 0 if replies else settings.check_first
        while pending := [request for request in requests if request.user_id not in replies]:
            answered = any(reply.status == "ok" for reply in replies.values())
            run = Calls(pending, settings, journal, past, progress, check_first, parse, answered, what)
            try:
                run_in_thread(run)
            finally:  # Ctrl-C and an endpoint that gives up do not make free what has come
                if run.replies:
                    logger.info("Replies from %s: %s", settings.model, run.summary())
            replies.update(run.replies)
            if run.trial.failed:
                _ask_to_go_on(run, ask)
            check_first = 0
    _say_failed([replies[request.user_id] for request in requests], journal)
    return {request.user_id: replies[request.user_id] for request in requests}


def _say_failed(replies: Sequence[Reply], journal: Path) -> None:
    failed = [reply for reply in replies if reply.failure]
    if failed:
        kinds = name_failures(Counter(reply.failure for reply in failed))
        logger.warning(
            "%s: %d of %d prompts are without a reply of use (%s); %s, for one: %s",
            journal, len(failed), len(replies), kinds, failed[0].user_id, failed[0].error,
        )  # fmt: skip


def say_reused(
    requests: Sequence[PromptRequest],
    settings: OpenAISettings,
    journal: Path,
    past: Mapping[tuple[str, str], Past],
    done: Collection[str],
) -> None:
    """Say how many calls are left, and with which other settings replies of the users in ``done`` were made."""
    say_made_otherwise([request for request in requests if request.user_id in done], settings, journal, past)
    logger.info("Replies from %s: %s", settings.model, estimate_calls(requests, settings, done))


def say_made_otherwise(
    answered: Sequence[PromptRequest], settings: OpenAISettings, journal: Path, past: Mapping[tuple[str, str], Past]
) -> None:
    """Warn where replies that are used again were made with other settings: this run's configuration will not say so.

    They are not asked for again: what was paid for is not thrown away without a word of the user's.
    """
    others = made_otherwise([past[request.user_id, request.sha256].ok or {} for request in answered], settings)
    if others:
        logger.warning(
            "%s: of %d replies that are used again from it, %s. To have them made anew, give another "
            "semantic_cache, or remove their lines.", journal, len(answered), ", ".join(others),
        )  # fmt: skip


#: what is asked for -> (what of it a reply of use holds, the key of the prompt's file)
_HELD = {
    "interests": ("an interest", "prompt_file"),
    "knowledge": ("knowledge of an item", "knowledge_prompt_file"),
}


def _ask_to_go_on(run: Calls, ask: Callable[[str], bool | None]) -> None:
    """Raise InterestSourceError unless somebody wants to pay for more replies from an endpoint of no use so far."""
    trial, last = run.trial, next(reply for reply in reversed(run.replies.values()) if reply.error)
    prompts = sum(reply.failure != NO_ANSWER for reply in run.replies.values())
    to = f" (to {prompts} prompts, some asked twice)" if prompts < trial.limit else ""
    held, template = _HELD.get(run.what, _HELD["interests"])
    problem = (
        f"not one of the first {trial.limit} replies{to} holds {held} ({name_failures(trial.failures)}); "
        f"{last.user_id}, for one: {last.error}"
    )
    answer = ask(f"{run.settings.model} at {run.endpoint.base_url}: {problem}\nGo on and pay for the other prompts?")
    if not answer:
        raise run.endpoint.error(
            f"stopped, because {problem}",
            f"The raw replies are in {run.journal}. Try another llm_model, llm_base_url or {template}, or "
            f"--llm_structured=off. To go on all the same: --llm_check_first=0.",
        )


def _one_per_user(requests: Sequence[PromptRequest]) -> list[PromptRequest]:
    by_user: dict[str, PromptRequest] = {}
    for request in requests:
        if by_user.setdefault(request.user_id, request) != request:
            raise DataError(f"user {request.user_id}: two different prompts were asked for. Ask for one per user.")
    return list(by_user.values())
