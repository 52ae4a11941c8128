"""What ``interests`` and ``knowledge`` do alike: their arguments, the price before anything is spent, the Batch API."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from recbole_eimf.config.yaml_file import model_and_dataset, named_files, parse_command_line
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import EMPTY, ConfigError, InterestSourceError
from recbole_eimf.semantic.export import check_export_folder
from recbole_eimf.semantic.llm.client import answered_users
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.price import Estimate, estimate_calls
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.llm.reply import Parser, parse_interests
from recbole_eimf.semantic.sources import batch, endpoint
from recbole_eimf.semantic.trial import ask_terminal

_FLAGS = ("--yes", "--dry-run", "-h", "--help")


def parsed(arguments: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """(keys, flags such as ``--yes``); a key ``yes`` is a flag too. Raises ConfigError for anything else."""
    typed = ["--dry-run" + argument.removeprefix("--dry_run") if argument.startswith("--dry_run") else argument
             for argument in arguments]  # fmt: skip
    flags = {argument for argument in typed if argument in _FLAGS}
    values = parse_command_line([argument for argument in typed if argument not in flags])
    for name, does in (("yes", "agree"), ("dry-run", "see the price alone")):
        agreed = values.pop(name, False)
        if not isinstance(agreed, bool):  # paid calls are made of what this says
            raise ConfigError(f"--{name}={agreed}: True or False is needed. Write --{name} to {does}, or leave it out.")
        flags |= {f"--{name}"} if agreed else set()
    return values, flags


def export_options(arguments: list[str], kind: str) -> tuple[str | None, str | None]:
    """Take ``--export`` and ``--licence`` out of the arguments; kind: of the export. Raises UserError where nothing can
    be written there."""
    out, licence = _take_option(arguments, "export"), _take_option(arguments, "licence")
    if out:
        check_export_folder(Path(out), kind)
    elif licence:
        raise ConfigError(f"--licence={licence}: is for the replies that --export=DIR writes. Give that too.")
    return out, licence


def check_export(out: str, folder: Path) -> None:
    """Raise ConfigError where an export would mix with what the command itself writes: before anything is paid for."""
    if Path(out).absolute().resolve() == folder.absolute().resolve():
        raise ConfigError(
            f"--export={out}: this is output_dir, where the command writes its own files. Name another folder."
        )


def _take_option(arguments: list[str], name: str) -> str | None:
    """Take ``--name VALUE`` or ``--name=VALUE`` out of the arguments; None where it is not there, ConfigError where it
    has no value."""
    for at, argument in enumerate(arguments):
        if argument == f"--{name}":
            if at + 1 == len(arguments) or arguments[at + 1].startswith("--"):
                raise ConfigError(f"--{name} is given without a value.")
            del arguments[at]
            value = arguments.pop(at)
        elif argument.startswith(f"--{name}="):
            value = arguments.pop(at).partition("=")[2]
        else:
            continue
        if not value:
            raise ConfigError(f"--{name}=: {EMPTY}")
        if (other := _take_option(arguments, name)) not in (None, value):
            raise ConfigError(f"--{name} is given twice: {value!r} and {other!r}. Keep one.")
        return value
    return None


def what_and_where(values: dict[str, Any], parent: str, ending: str = "") -> tuple[str, list[str] | None, Path]:
    """(data set, configuration files, folder to write to), the first two taken out of ``values``.

    Args:
        values: keys of the command; parent: of the folder where ``output_dir`` names none; ending: of its name.

    Raises:
        UserError: no data set, or a folder that nothing can be written to: before anything is paid for.
    """
    files = named_files(values.pop("config_files", None))
    dataset = model_and_dataset(None, values.pop("dataset", None), files)[1]
    if not dataset:
        raise ConfigError("--dataset is missing, for example --dataset=ml-100k (ships with RecBole).")
    folder = Path(values.get("output_dir") or Path(parent) / f"{dataset}{ending}")
    check_writable(folder, "output_dir", make=False)
    return dataset, files or None, folder


def agreed_to(
    introduction: str,
    prompt: str,
    wanted: OpenAISettings,
    price: Estimate,
    flags: set[str],
    journal: Path,
    source: str = "interest_source",
) -> bool:
    """Show a prompt and the price; whether to go on.

    Args:
        journal: of which the price is what it does not answer; source: the key whose replies these are.

    Raises:
        UserError: calls are left that cannot be made, or nobody is there to answer.
    """
    print(f"{introduction}\n\n{prompt}")
    print(f"\nmodel {wanted.model} at {wanted.base_url or 'the default endpoint'}: {price}")
    if "--dry-run" in flags:
        return False
    endpoint.check_askable(wanted, price.calls, journal, source)
    if not price.calls or "--yes" in flags:
        return True
    answer = ask_terminal("Make these calls?")
    if answer is None:
        raise InterestSourceError("nobody is there to answer (no terminal): add --yes to make these calls.")
    return answer


def offer_batch(
    introduction: str,
    requests: Sequence[PromptRequest],
    wanted: OpenAISettings,
    folder: Path,
    journal: Path,
    flags: set[str],
    parse: Parser = parse_interests,
) -> int:
    """Write the requests of the Batch API that the journal does not answer, and say how to go on; the exit code.

    Raises:
        InterestSourceError: the journal answers them all.
    """
    done = answered_users(requests, wanted, journal, parse)
    print(f"{introduction}\n\n{requests[0].prompt}")
    print(f"\nmodel {wanted.model} in the OpenAI Batch API: {estimate_calls(requests, wanted, done, most=1)}")
    if "--dry-run" in flags:
        return 0
    if len(done) == len(requests):
        raise InterestSourceError(
            f"{journal} answers all {len(done)} prompts: there is no request to write. The source openai in place of "
            f"batch reads it and asks nobody."
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = batch.write_batch(requests, wanted, folder / "batch_requests.jsonl", done)
    print(
        f"written: {', '.join(map(str, paths))}, {len(requests) - len(done)} requests for the OpenAI Batch API. Upload "
        + ("it" if len(paths) == 1 else "each of them as a batch of its own")
        + ", then run this command again with --batch_file=ANSWERS.jsonl"
        + (" (several files of answers: --batch_file=FOLDER)." if len(paths) > 1 else ".")
    )
    return 0


def write_left(requests: Sequence[PromptRequest], wanted: OpenAISettings, folder: Path, done: Collection[str]) -> None:
    """After a batch was read: write the requests without a reply of use as a further one, and say so."""
    path = folder / "batch_left.jsonl"
    if all(request.user_id in done for request in requests):
        batch.remove_batch(path)
        return
    paths = batch.write_batch(requests, wanted, path, done)
    print(
        f"{', '.join(map(str, paths))}: the requests without a reply of use, for a further batch once none is under "
        f"way. Put its answers into one folder with the others: --batch_file=FOLDER"
    )
