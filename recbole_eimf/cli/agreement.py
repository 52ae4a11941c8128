"""``python -m recbole_eimf agreement RUN_A RUN_B``: do two models see the same items as near?"""

from __future__ import annotations

from collections.abc import Sequence

from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.yaml_file import parse_command_line
from recbole_eimf.core.errors import EMPTY, ConfigError, suggestion
from recbole_eimf.core.parts import require
from recbole_eimf.study.agreement import agree, text_table

USAGE = """usage: python -m recbole_eimf agreement RUN_A RUN_B [--out=DIR] [--pairs=20000] [--buckets=10] [--seed=0]

Do two runs see the same items as near each other? Compares the distances between item vectors: Kendall's tau by how
often the items are bought, and where the pairs that are nearest and farthest by ids lie among all distances. Writes
agreement.json and two figures to DIR.

  RUN_A RUN_B  output_dir of two runs on the same data
  --out        folder to write to (default agreement)
  --pairs      at most this many pairs of items in each frequency bucket
  --buckets    frequency buckets of items
  --seed       of the pairs that are drawn
  --model      package.module:Class of runs of a model of your own, which is imported
  --backbone   package.module:Class of runs over a backbone of your own, which is imported
"""
_OPTIONS = {"out": "agreement", "pairs": 20000, "buckets": 10, "seed": 0, "model": None, "backbone": None}


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments, runs that are not there or do not fit each other.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    require("matplotlib")
    runs = [argument for argument in arguments if not argument.startswith("--")]
    given = parse_command_line(argument for argument in arguments if argument.startswith("--"))
    for name, value in given.items():
        if name not in _OPTIONS:
            raise ConfigError(f"--{name}: no such option.{suggestion(name, _OPTIONS)} See agreement --help.")
        if value in (None, ""):
            raise ConfigError(f"--{name}=: {EMPTY}")
        least = 0 if name == "seed" else 1
        if name not in ("out", "model", "backbone") and (not isinstance(value, int) or value < least):
            raise ConfigError(f"--{name}={value}: a whole number from {least} on is needed.")
    if len(runs) != 2:
        raise ConfigError(f"agreement compares two runs, not {len(runs)}: agreement RUN_A RUN_B.")
    wanted = {**_OPTIONS, **given}
    out = str(wanted.pop("out"))
    found = agree(*runs, out, **wanted)
    print(text_table(found))
    print(f"written: {out}/agreement.json, agreement_tau.png, agreement_distances.png")
    return 0
