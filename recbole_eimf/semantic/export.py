"""Replies as data: a folder that others can load, with what is needed to tell whether it fits their data.

``interests.jsonl`` (``user_id``, ``response``, ``prompt_sha256``, ``source``, ``raw``), ``assignment.csv.gz``
(``user_id``, ``exemplar_user_id``), ``meta.json`` (data, protocol, model, prompt, licence) and a card, ``README.md``.
``interest_file=FOLDER`` loads it.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from recbole_eimf.config.keys import SemanticSettings, our_keys
from recbole_eimf.config.maker import is_marked, made_by, marked, unmarked
from recbole_eimf.config.training_data import TrainingKeys, as_words, training_data_in_words
from recbole_eimf.core.disk import check_not_read, check_writable
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import atomic_path, encodable, file_digest, write_json
from recbole_eimf.core.folders import META_FILE, REPLIES_FILE

KIND, KNOWLEDGE = "users' interests", "knowledge of items"
ASSIGNMENT, CARD = "assignment.csv.gz", "README.md"
_FILES = (REPLIES_FILE, ASSIGNMENT)
#: of what meta.json says and the files hold; one more where this version would misread what a later one writes
FORMAT = 1
NO_LICENCE = (
    "None named by whoever made this. The terms of the model's provider and of the data set decide what may be done "
    "with the replies; read both before passing them on."
)


@dataclass(frozen=True)
class Origin:
    """What replies were made from.

    Attributes:
        dataset: its name; protocol: of the split.
        data: the fingerprint of the training sequences (:func:`fingerprint_of`).
        model: the LLM; None where there was none, or nobody knows.
        prompt: the template; prompt_items: how many of a user's items stand in it.
        made_from: the settings that decide the training data.
        text_fields: the columns that make an item's text.
        licence: what the export that was read says of its licence; None where none was.
    """

    dataset: str
    protocol: str
    data: str
    model: str | None
    prompt: str
    prompt_items: int
    made_from: TrainingKeys = TrainingKeys()
    text_fields: tuple[str, ...] = ("title",)
    licence: str | None = None


def fingerprint_of(users: Sequence[str], histories: Sequence[Sequence[str]]) -> str:
    """Return a digest (16 hex characters) of training sequences as tokens, whatever the order of the users."""
    digest = hashlib.sha256()
    for user, history in sorted(zip(users, histories)):
        digest.update(json.dumps([str(user), [str(item) for item in history]]).encode())
    return digest.hexdigest()[:16]


def write_replies(folder: Path, found: Any) -> int:
    """Write replies and assignment as the file source reads them; return how many exemplars have interests.

    ``response`` holds the interests that were found in a reply, ``raw`` what the model answered where that reads
    otherwise: for whoever wants to see it, or to read it in another way.

    Args:
        folder: where to.
        found: :class:`~recbole_eimf.semantic.pipeline.Interests`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        {"user_id": user, "response": _as_response(texts), "source": _maker(found, user)}
        | ({"prompt_sha256": digest} if digest else {})
        | _raw(found, user, texts)
        for user, texts, digest in zip(found.exemplars, found.texts, found.digests)
        if texts
    ]
    with atomic_path(folder / REPLIES_FILE) as temporary:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        temporary.write_text(lines, encoding="utf-8")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["user_id", "exemplar_user_id"])
    writer.writerows((user, found.exemplars[c]) for user, c in found.assignment.items())
    with atomic_path(folder / ASSIGNMENT) as temporary:
        temporary.write_bytes(gzip.compress(table.getvalue().encode(), mtime=0))
    return len(records)


def _raw(found: Any, user: str, texts: Sequence[str]) -> dict[str, str]:
    """What the model answered, where it is known and not what is written anyway."""
    reply = found.replies.get(user)
    said = reply and (reply.raw or reply.response)
    return {"raw": encodable(said)} if said and said != _as_response(texts) else {}


def _maker(found: Any, user: str) -> str:
    """Who made a reply; one of a file is what the file says of it, however often it is written anew."""
    of_file = unmarked(found.source) == "file" and user in found.replies
    made = unmarked(found.replies[user].source if of_file else found.source)
    return marked(made) if is_marked(found.source) else made


def check_export_folder(folder: Path, kind: str = KIND) -> None:
    """Raise ConfigError if an export would mix with something else that is in the folder, an export of another kind
    included."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and export_kind(folder) != kind)):
        raise ConfigError(
            f"--export={folder}: holds something else than an export of {kind}. Name a new or an empty folder."
        )
    check_writable(folder, "--export", make=False)


def export_kind(folder: Path) -> str | None:
    """What a folder is an export of, None where it is none; earlier versions wrote no kind but this one."""
    try:
        meta = json.loads((folder / META_FILE).read_bytes())
        return str(meta.get("kind", KIND))
    except (OSError, ValueError, RecursionError, AttributeError):
        return None


def check_not_over(folder: Path, settings: SemanticSettings, key: str) -> None:
    """Raise ConfigError where :func:`write_replies` would write over the replies that are read."""
    read = {name: getattr(settings, name) for name in ("interest_file", "assignment_file")}
    check_not_read([folder / name for name in _FILES], read, f"{key}={folder}")


def write_export(folder: Path, found: Any, origin: Origin, licence: str | None) -> None:
    """Write a whole export; ``meta.json`` comes last, so that half an export is none.

    Args:
        folder: where to; new, empty, or an earlier export.
        found: :class:`~recbole_eimf.semantic.pipeline.Interests`.
        origin: what the replies were made from.
        licence: a note on what others may do with the replies.
    """
    check_export_folder(folder)
    exemplars = write_replies(folder, found)
    meta = {
        "format": FORMAT,
        "kind": KIND,
        "dataset": origin.dataset,
        "protocol": origin.protocol,
        "training_data": origin.data,
        "training_keys": origin.made_from.recorded(),
        "source": found.source,
        "llm_used": found.llm_used,
        "made_by": found.made_by,
        "model": origin.model,
        "prompt": origin.prompt,
        "prompt_sha256": hashlib.sha256(origin.prompt.encode()).hexdigest(),
        "prompt_items": origin.prompt_items,
        "exemplars": exemplars,
        "users": len(found.assignment),
        "interests": found.report["interests"],
        "unchecked": _unchecked(found),
        "files": {name: file_digest(folder / name) for name in _FILES},
        "licence": licence or origin.licence or NO_LICENCE,
        "recbole_eimf": metadata.version("recbole_eimf"),
    }
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(_card(meta, _command(folder, origin)), encoding="utf-8")
    write_json(folder / META_FILE, meta)


def _unchecked(found: Any) -> int:
    """Replies and assigned users of which nobody knows from what histories they come: a file's that proved nothing.

    The fingerprint of an export of these says what data were loaded beside them, not what they were made of.
    """
    counts = ("replies_unchecked", "replies_of_another_history", "users_of_unchecked_assignment")
    return sum(found.report.get(count, 0) for count in counts)


def read_meta(folder: Path) -> dict[str, Any]:
    """What an export says of itself. Raises DataError where the folder is none, or one of something else."""
    if export_kind(folder) == KNOWLEDGE:
        raise DataError(
            f"interest_file={folder}: an export of {KNOWLEDGE}, not of {KIND}. Give it as --knowledge_file={folder}."
        )
    try:
        meta = json.loads((folder / META_FILE).read_bytes())
        meta["protocol"], meta["training_data"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(
            f"interest_file={folder}: a folder without a readable {META_FILE} ({type(error).__name__}): not an export "
            f"of `python -m recbole_eimf interests --export`. Name the JSONL file of replies itself."
        ) from error
    check_format(meta, f"interest_file={folder}")
    return meta


def check_format(meta: Mapping[str, Any], said: str) -> None:
    """Raise DataError where an export, ``said`` so in messages, is of a later format than this version can read."""
    written = meta.get("format", FORMAT)
    if not isinstance(written, int) or written > FORMAT:
        raise DataError(
            f"{said}: {META_FILE} has format {written!r}, and this version of recbole_eimf reads up to {FORMAT}. The "
            f"export was written by recbole_eimf {meta.get('recbole_eimf', 'of a later version')}: install that or a "
            f"later one."
        )


@dataclass(frozen=True)
class Opened:
    """An export that may be used: ``settings`` with its files; ``proven``: it was made of the very histories at hand,
    so that its replies know nothing else, whether or not they have a digest; ``meta``: what it says of itself."""

    settings: SemanticSettings
    proven: bool
    meta: Mapping[str, Any]


def open_interests(
    settings: SemanticSettings,
    data: str,
    protocol: str | None,
    other: str | None = None,
    made_from: TrainingKeys | None = None,
) -> Opened:
    """Return ``settings`` with the files of an export, ``interest_file`` being such a folder, and what it proves.

    Args:
        settings: keys of the stage; ``assignment_file`` stays if it is set.
        data: :func:`fingerprint_of` the training sequences at hand.
        protocol: of the split at hand; None where there is none.
        other: as ``data``, of the sequences that ``ties=source`` gives, where these are others.
        made_from: the settings that decide the training data at hand; an error names those that differ.

    Raises:
        DataError: the folder is no export, was made from other training data or under another protocol, or one of its
            files is not the one that was exported.
    """
    folder = Path(settings.interest_file)
    meta = read_meta(folder)
    made_under, fingerprint = meta["protocol"], meta["training_data"]
    if protocol is not None and made_under != protocol:
        raise DataError(
            f"interest_file={folder}: its replies were made under protocol={made_under}, this run has "
            f"protocol={protocol}: they may know items that are held out here. Run with --protocol={made_under}, or "
            f"make replies for this protocol."
        )
    if fingerprint not in (data, other):
        raise DataError(
            f"interest_file={folder}: made from other training data of {meta.get('dataset')} (fingerprint "
            f"{fingerprint}, here {data}){_why(meta, made_from or TrainingKeys())} To name the file itself, "
            f"interest_file={folder / REPLIES_FILE}, gives up this check: what of its replies has no prompt_sha256 is "
            f"used even where it knows items that are held out here, and the result counts it as unchecked."
        )
    maker = made_by(meta)
    if fingerprint != data and maker != "llm":
        what, again = {
            "keywords": ("keywords of the titles", "interest_source=keywords they are made anew, without an LLM"),
            "own": (
                "made by a function that knew the titles",
                "interest_source=package.module:function it is asked anew",
            ),
        }[maker]
        raise DataError(
            f"interest_file={folder}: {what} that each cluster bought in the source's order of equal "
            f"times, and some of these items are held out here. Leave interest_file out: with {again}. Or take "
            f"ties=source."
        )
    wanted = [REPLIES_FILE] if settings.assignment_file else [REPLIES_FILE, ASSIGNMENT]
    _check_files(folder, wanted, meta.get("files"))
    files = replace(
        settings,
        interest_file=str(folder / REPLIES_FILE),
        assignment_file=settings.assignment_file or str(folder / ASSIGNMENT),
    )
    return Opened(files, fingerprint == data and _proves(meta), meta)


def _why(meta: Mapping[str, Any], made_from: TrainingKeys) -> str:
    """What differs from the settings that an export records, and what to do; exports of earlier versions hold none."""
    recorded = meta.get("training_keys")
    if not isinstance(recorded, Mapping):
        return ". Take the same data set, filters, ties and split_seed, or make replies for these data."
    differing = made_from.differing(recorded)
    if not differing:
        return (
            ", though all settings that it records are the same: the data's files, or what made them, must be others. "
            "Take the same data set and filters, or make replies for these data."
        )
    words = " ".join(as_words({key: there for key, (there, _) in differing.items()}))
    return f": {training_data_in_words(differing)}. Run with {words}, or make replies for these data."


def _proves(meta: Mapping[str, Any]) -> bool:
    """Whether the recorded data are what the replies were made of: files that cannot have changed, and none of them
    loaded from a file that proved nothing (exports of earlier versions do not tell)."""
    of_file = unmarked(str(meta.get("source", "file"))) == "file"
    return isinstance(meta.get("files"), Mapping) and meta.get("unchecked", 1 if of_file else 0) == 0


def _check_files(folder: Path, names: Sequence[str], digests: Any) -> None:
    """Raise DataError for a file that is not there or has changed; exports of earlier versions hold no digests."""
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"interest_file={folder}: {name} is missing, and {META_FILE} says that it was exported. Copy it too."
            )
        if isinstance(digests, Mapping) and digests.get(name) != file_digest(path):
            key = "interest_file" if name == REPLIES_FILE else "assignment_file"
            raise DataError(
                f"{path}: not the file that was exported: its digest differs from {META_FILE}'s, so that nobody can "
                f"say from what data it was made. Get the folder anew, or export it again; to use the file as it is, "
                f"name it: {key}={path}."
            )


def _as_response(texts: Sequence[str]) -> str:
    """Interests in the form the prompt asks for, so that the file source reads them as it reads an LLM's reply."""
    return json.dumps({str(n): text for n, text in enumerate(texts, start=1)}, ensure_ascii=False)


def _command(folder: Path, origin: Origin) -> str:
    """The command that trains with an export, to be copied where its folder lies under its own name."""
    given = {"protocol": origin.protocol, **origin.made_from.to_give()}
    if origin.text_fields != our_keys()["text_fields"].default:  # a data set without titles has no other text
        given["text_fields"] = list(origin.text_fields)
    words = ["--model=EIMF", shlex.quote(f"--dataset={origin.dataset}"), *as_words(given)]
    where = shlex.quote(f"--interest_file={folder.resolve().name}")
    return " \\\n    ".join(
        [f"python -m recbole_eimf run {' '.join(words[:2])}", *words[2:], f"--interest_source=file {where}"]
    )


def _card(meta: dict[str, Any], command: str) -> str:
    said = {
        "llm": meta["model"] or "a model that is not recorded",
        "own": "a function of the maker's own",
        "keywords": "no LLM: keywords of titles",
    }[meta["made_by"]]
    if is_marked(meta["source"]):
        said += ", given to users by chance: **a placebo**"
    asked = meta["llm_used"]
    digest = ", `prompt_sha256` of its prompt" if asked else ""
    raw = ", `raw` (what the model answered, where that reads otherwise)" if asked else ""
    return f"""# Interests of exemplar users of {meta["dataset"]}

{meta["interests"]} interests of {meta["exemplars"]} exemplar users, who stand for {meta["users"]} training users.

- made by: {said} (source `{meta["source"]}`), with recbole_eimf {meta["recbole_eimf"]}
- protocol: `{meta["protocol"]}`; only training interactions {"stand in the prompts" if asked else "were read"}
- training data: fingerprint `{meta["training_data"]}`, checked on loading, as are the digests of the files
- licence: {meta["licence"]}

| file | what |
|---|---|
| `{REPLIES_FILE}` | `user_id` of the exemplar, `response` (its interests as JSON){digest}{raw} |
| `{ASSIGNMENT}` | `user_id`, `exemplar_user_id` |
| `{META_FILE}` | all of the above for programs{", with the prompt's template" if asked else ""} |

Beside this folder:

```bash
{command}
```
{_split_file(meta)}{_prompt_said(meta) if asked else ""}"""


def _split_file(meta: dict[str, Any]) -> str:
    """Of a file that decides the split a digest is known, and no path."""
    digest = meta["training_keys"].get("split_file")
    return f"`SPLIT_FILE`: the CSV of user_id, part whose SHA-256 begins with `{digest}`.\n" if digest else ""


def _prompt_said(meta: dict[str, Any]) -> str:
    return f"""
The prompt, over each exemplar's latest {meta["prompt_items"]} items that have text:

```text
{meta["prompt"]}
```
"""
