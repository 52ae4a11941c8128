"""Do side-loaded replies answer prompts of histories that the protocol allows?

A reply made of a user's whole sequence knows the items that leave-one-out holds out. Every line of a reply file holds
the digest of its prompt; here the prompts that today's *training* histories allow are built again and compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Literal, get_args

from recbole_eimf.core.errors import DataError
from recbole_eimf.semantic.llm.prompt import Exemplar, build_prompt

Answer = Literal["this_history", "shorter_history", "another_history", "no_digest"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)


@dataclass(frozen=True)
class PromptForm:
    """How prompts are written: the template, how many items, and the text of items by token, in one or several forms
    (all text columns, or only the first ones)."""

    template: str
    prompt_items: int
    item_texts: tuple[Mapping[str, str], ...]

    def answers(self, user: str, history: Sequence[str], digest: str) -> Answer:
        """What a reply with this digest was made of.

        A prompt over the user's first n items, for any n, knows nothing beyond the history: replies made for
        leave-one-out serve under a user split, and those of an earlier day later on.

        Args:
            user: its token; history: its items in the source's order, oldest first, only what the protocol allows.
            digest: the prompt's SHA-256 as the reply file has it, "" where it has none.
        """
        if not digest:
            return "no_digest"
        kept = self.answered(user, history, digest)
        if kept is None:
            return "another_history"
        return "this_history" if kept == len(history) else "shorter_history"

    def answered(self, user: str, history: Sequence[str], digest: str) -> int | None:
        """The n of the longest prompt over the first n items of a history that a reply with this digest answers."""
        lengths = range(len(history), 0, -1)
        return next((kept for kept in lengths if digest in self._prompts(user, history[:kept])), None)

    def prompt_of(self, user: str, history: Sequence[str], digest: str) -> str | None:
        """The prompt that a reply with this digest answers; None where no part of the history gives it."""
        kept = self.answered(user, history, digest)
        return None if kept is None else self._prompts(user, history[:kept])[digest]

    def _prompts(self, user: str, history: Sequence[str]) -> dict[str, str]:
        """Every form of the prompt over a history, by its digest."""
        asked = set()
        for text in self.item_texts:
            # ours leave items without text out; other programs list them as untitled
            for items in (history, [item for item in history if item in text]):
                latest = tuple(items[-self.prompt_items :])
                titles = tuple(text.get(item, "") for item in latest)
                asked |= {(latest, titles), (latest, tuple(map(_as_in_the_source, titles)))}
        exemplars = [Exemplar(user, titles, items) for items, titles in asked if items]
        asked_for = (build_prompt(exemplar, self.template, self.prompt_items) for exemplar in exemplars)
        return {request.sha256: request.prompt for request in asked_for}


def _as_in_the_source(title: str) -> str:
    """Undo what ``prepare`` does to a title that begins with a double quote; replies may have been asked before it.

    >>> _as_in_the_source("''The Best'' of")
    '"The Best" of'
    """
    return title.replace("''", '"') if title.startswith("''") else title


def knowing_replies(
    form: PromptForm,
    digests: Mapping[str, str],
    histories: Mapping[str, Sequence[str]],
    asked: Mapping[str, Sequence[str]],
) -> set[str]:
    """Users whose reply answers a prompt with an item that is not in their history today.

    Args:
        form, digests: as for :func:`checked_replies`; histories: user -> its training items today; asked: user -> those
            of ``ties=source``, which prompts were built of. A reply without a digest counts as one over all of them.
    """
    knowing = set()
    for user, digest in digests.items():
        today, then = histories[user], asked[user]
        if digest and form.answered(user, today, digest) is not None:
            continue
        kept = form.answered(user, then, digest) if digest else len(then)
        if kept is not None and not set(then[:kept]) <= set(today):
            knowing.add(user)
    return knowing


def checked_replies(
    form: PromptForm,
    digests: Mapping[str, str],
    histories: Mapping[str, Sequence[str]],
    source: str,
    allowed: bool,
    asked: Mapping[str, Sequence[str]] | None = None,
    proven: bool = False,
) -> dict[str, int]:
    """Of which histories replies were made, counted: ``replies_of_this_history``, ``..._shorter_history``,
    ``..._another_history`` and ``replies_unchecked``, which have no digest.

    Args:
        form: how prompts are written; digests: user -> digest of the prompt its reply answers; histories: user -> its
            items that the protocol allows, in the source's order; source: the file, for messages.
        allowed: use replies of other histories too (``allow_foreign_replies``), with a warning; asked: user -> the
            history that ``ties=source`` gives, which counts as this one (see :func:`knowing_replies`).
        proven: something better than digests tells that replies were made of ``histories`` (an export's fingerprint):
            one without a digest, or asked in other words than today's, is of this history too.

    Raises:
        DataError: there are such replies and they are not allowed.
    """
    kinds = {user: form.answers(user, histories[user], digest) for user, digest in digests.items()}
    for user in [user for user, kind in kinds.items() if kind == "another_history" and asked]:
        kinds[user] = form.answers(user, asked[user], digests[user])
    if proven:
        unproven = ("another_history", "no_digest")
        kinds = {user: "this_history" if kind in unproven else kind for user, kind in kinds.items()}
    foreign = [user for user, kind in kinds.items() if kind == "another_history"]
    if foreign:
        said = (
            f"{source}: {len(foreign)} of {len(kinds)} replies answer no prompt over their user's training history "
            f"(the first: user {foreign[0]!r}): they may have seen held-out items."
        )
        if not allowed:
            raise DataError(
                f"{said} Load them with the protocol, filters, text_fields, prompt_file and prompt_items they were "
                f"made with, ask again with `python -m recbole_eimf interests`, or go on with "
                f"--allow_foreign_replies=True; the result then says how many."
            )
        getLogger().warning(f"{said} Used because of allow_foreign_replies=True.")
    counts = Counter(kinds.values())
    if counts["no_digest"]:
        getLogger().warning(
            f"{source}: {counts['no_digest']} of {len(kinds)} replies have no prompt_sha256: nothing can tell whether "
            f"they were made of held-out items."
        )
    return {f"replies_of_{kind}" if kind != "no_digest" else "replies_unchecked": counts[kind] for kind in ANSWERS}
