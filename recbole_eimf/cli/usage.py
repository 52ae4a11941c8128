"""What a command prints where it is asked for help, or for nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


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
