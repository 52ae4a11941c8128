"""What a command prints where it is asked for help, or for nothing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def usage_shown(arguments: Sequence[str], usage: str | Callable[[], str], bare: bool = False) -> int | None:
    """Print ``usage`` where that is all there is to do, and return the exit code; None where the command has work.

    Without arguments nothing was done, which a script with an empty variable must see: the standard error, code 2.

    Args:
        usage: the text, or what makes it; bare: whether the command has work without arguments too.

    >>> usage_shown(["--help"], "usage: tune ...")
    usage: tune ...
    0
    >>> usage_shown(["--model=EIMF"], "usage: tune ...")
    """
    asked = {"-h", "--help"} & {*arguments}
    if not asked and (arguments or bare):
        return None
    print(usage if isinstance(usage, str) else usage(), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def written_usage(command: str) -> str | None:
    """The help of a command as its module has it in ``USAGE``, read without importing what the command works with
    (torch and RecBole take seconds); None where the module makes it, or has no source to read.

    >>> written_usage("keys").splitlines()[0]
    'usage: python -m recbole_eimf keys [word] [--markdown | --json-schema]'
    """
    source = Path(__file__).with_name(f"{command}.py")
    if not source.is_file():
        return None
    for part in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(part, ast.Assign) and [ast.unparse(name) for name in part.targets] == ["USAGE"]:
            return part.value.value if isinstance(part.value, ast.Constant) else None
    return None
