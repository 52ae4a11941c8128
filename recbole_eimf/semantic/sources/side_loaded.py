"""Replies that another program made: read, checked against the training histories, and given to the training users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import read_csv
from recbole_eimf.semantic.corpus import Corpus
from recbole_eimf.semantic.llm.prompt import load_template
from recbole_eimf.semantic.llm.reply import Reply
from recbole_eimf.semantic.reply_check import PromptForm, checked_replies, knowing_replies
from recbole_eimf.semantic.sources import batch


@dataclass(frozen=True)
class SideLoaded:
    """replies: all of the file, by user; usable: the training users whose reply is used; counts: for the report."""

    replies: dict[str, Reply]
    usable: list[str]
    counts: dict[str, int]


def load(corpus: Corpus, settings: SemanticSettings, name: str, proven: bool = False) -> SideLoaded:
    """Replies of ``interest_file``.

    Usable is a reply with interests whose prompt names no item that is held out for its user today: with ties
    shuffled that may be one that the source's order has in the history.

    Args:
        name: the data set's, for messages.
        proven: the replies are an export's that was made of the histories at hand: they know nothing else.

    Raises:
        DataError: the file is broken or of another data set, or replies answer prompts that the training histories
            do not give (held-out items may stand in them) and ``allow_foreign_replies`` is not set.
    """
    replies = batch.fetch_file(None, Path(settings.interest_file), settings.max_interests)
    if not replies:
        raise DataError(f"interest_file={settings.interest_file}: no reply in it. Was it copied whole?")
    training = set(corpus.users)
    exemplars = [user for user in replies if user in training]
    if not exemplars:
        example = next(iter(replies), None)
        raise DataError(
            f"{settings.interest_file}: none of its {len(replies)} users is a training user of {name} "
            f"(first one: {example!r}). Is it the file of another data set?"
        )
    usable = [user for user in exemplars if replies[user].status == "ok"]
    counts = {"exemplars_not_in_training": len(replies) - len(exemplars)}
    texts = (corpus.item_text, *corpus.shorter_text)
    form = PromptForm(load_template(settings.prompt_file), settings.prompt_items, texts)
    histories = dict(zip(corpus.users, corpus.histories))
    asked = dict(zip(corpus.users, corpus.asked_histories or corpus.histories))
    digests = {user: replies[user].prompt_sha256 for user in usable}
    path = f"{settings.interest_file} ({name})"
    unsure = corpus.asked_histories and not proven
    knowing = knowing_replies(form, digests, histories, asked) if unsure else set()
    if knowing:
        getLogger().warning(
            f"{path}: {len(knowing)} of {len(usable)} replies answer prompts that name an item held out for their "
            f"user under this order of ties: not used; their members move to the nearest exemplar."
        )
        counts["replies_that_know_held_out_items"] = len(knowing)
        usable = [user for user in usable if user not in knowing]
        digests = {user: digests[user] for user in usable}
        if not usable:
            raise DataError(
                f"{path}: all its replies know items that are held out under ties shuffled. Use --ties=source, or "
                f"ask again with `python -m recbole_eimf interests`."
            )
    checked = checked_replies(form, digests, histories, path, settings.allow_foreign_replies, asked, proven)
    return SideLoaded(replies, usable, counts | checked)


def assigned(
    users: Sequence[str], usable: Sequence[str], settings: SemanticSettings
) -> tuple[dict[str, int], list[str], dict[str, int]]:
    """Who has which exemplar by ``assignment_file``; without one, exemplars themselves alone have theirs.

    Returns:
        (user -> index into ``usable``, users whose exemplar is not usable, counts for the report).

    Raises:
        DataError: see :func:`read_assignment`.
    """
    index = {user: c for c, user in enumerate(usable)}
    if not settings.assignment_file:
        return dict(index), [user for user in users if user not in index], {}
    given = read_assignment(settings.assignment_file)
    exemplar_of = {user: given.get(user) for user in users}
    stranded = [user for user, exemplar in exemplar_of.items() if exemplar is not None and exemplar not in index]
    assignment = {user: index[exemplar] for user, exemplar in exemplar_of.items() if exemplar in index}
    return assignment, stranded, {"users_without_assignment": sum(e is None for e in exemplar_of.values())}


def read_assignment(path: str | Path) -> dict[str, str]:
    """Read ``user_id,exemplar_user_id`` rows from a CSV file (optionally .gz).

    Raises:
        DataError: no file, an unreadable one, other columns, a row of another width, a missing id, or a user with two
            exemplars; names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"assignment_file={path}: no such file.")
    assignment: dict[str, str] = {}
    first_line: dict[str, int] = {}
    for line, row in read_csv(path, ("user_id", "exemplar_user_id")):
        if not all(row):
            raise DataError(f"{path}, line {line}: expected two ids, found {row}. Mend or remove the line.")
        user, exemplar = row
        if assignment.setdefault(user, exemplar) != exemplar:
            raise DataError(
                f"{path}, line {line}: user {user!r} has another exemplar in line {first_line[user]}. Keep one."
            )
        first_line.setdefault(user, line)
    return assignment
