"""What ``interests`` and ``knowledge`` do alike: their arguments, the price before anything is spent, the Batch API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_eimf.config.yaml_file import parse_command_line
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError, InterestSourceError
from recbole_eimf.semantic.llm.client import Estimate
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest
from recbole_eimf.semantic.sources import batch
from recbole_eimf.semantic.trial import ask_terminal

_FLAGS = ("--yes", "--dry-run", "-h", "--help")


def parsed(arguments: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """(keys, flags such as ``--yes``); a key ``yes`` is a flag too. Raises ConfigError for anything else."""
    flags = {argument for argument in arguments if argument in _FLAGS}
    values = parse_command_line([argument for argument in arguments if argument not in flags])
    return values, flags | ({"--yes"} if values.pop("yes", False) else set())


def what_and_where(values: dict[str, Any], parent: str) -> tuple[str, list[str] | None, Path]:
    """(data set, configuration files, folder to write to), the first two taken out of ``values``.

    Args:
        values: keys of the command; parent: of the folder where ``output_dir`` names none.

    Raises:
        UserError: no data set, or a folder that nothing can be written to: before anything is paid for.
    """
    if not values.get("dataset"):
        raise ConfigError("--dataset is missing, for example --dataset=ml-100k (ships with RecBole).")
    dataset, files = str(values.pop("dataset")), values.pop("config_files", None)
    folder = Path(values.get("output_dir") or Path(parent) / dataset)
    check_writable(folder, "output_dir", make=False)
    return dataset, str(files).split() if files else None, folder


def agreed_to(introduction: str, prompt: str, wanted: OpenAISettings, estimate: Estimate, flags: set[str]) -> bool:
    """Show a prompt and the price; whether to go on.

    Raises:
        InterestSourceError: nobody is there to answer.
    """
    print(f"{introduction}\n\n{prompt}")
    print(f"\nmodel {wanted.model} at {wanted.base_url or 'the default endpoint'}: {estimate}")
    if "--dry-run" in flags:
        return False
    if not estimate.calls or "--yes" in flags:
        return True
    answer = ask_terminal("Make these calls?")
    if answer is None:
        raise InterestSourceError("nobody is there to answer (no terminal): add --yes to make these calls.")
    return answer


def write_batch(requests: Sequence[PromptRequest], wanted: OpenAISettings, folder: Path) -> int:
    """Write the requests of the Batch API and say how to go on; the exit code."""
    path = folder / "batch_requests.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    batch.write_batch(requests, wanted, path)
    print(
        f"written: {path}, {len(requests)} requests for the OpenAI Batch API. Upload it, then run this command again "
        f"with --batch_file=ANSWERS.jsonl."
    )
    return 0
