"""``python -m recbole_eimf differ A B``: do runs that were made apart differ, and where?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_eimf.cli.options import command_text
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.yaml_file import parse_command_line
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.core.files import write_json
from recbole_eimf.core.version import __version__
from recbole_eimf.study.compare import metric_names
from recbole_eimf.study.difference import differ, text_table

USAGE = """usage: python -m recbole_eimf differ A B [C ...] [--metrics=NDCG@10,Recall@50] [--slices=1-5,tied|all]
         [--mask_history=True|False] [--out=FILE.json]

Is A better than B (and than C, ...), on the users that all were tested on? Nothing is trained: every run keeps where
its targets were ranked. Paired tests over users, as a table makes them of its own rows; p raw and corrected over all
that is asked here.

  A B ...         each a run's output_dir; a table's row with all its seeds, results/beauty:EIMF[SASRec]; or a folder
                  of runs of several seeds, results/beauty/runs/SASRec
  --metrics       NDCG, Recall, HR, MRR at any k up to the largest topk (default NDCG@10,Recall@10)
  --slices        only targets that training saw 1-5 times, tied ones, ...; all: every slice (default: all targets)
  --mask_history  which ranking, of tables made with --mask_history=both (default: the one validated by)
  --out           a JSON file to write what was found to
"""
_OPTIONS = ("metrics", "slices", "mask_history", "out")


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments, sides that are not there or were asked other questions.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    sides = [argument for argument in arguments if not argument.startswith("--")]
    given = parse_command_line(argument for argument in arguments if argument.startswith("--"))
    if wrong := next((name for name in given if name not in _OPTIONS), None):
        raise ConfigError(f"--{wrong}: no such option.{suggestion(wrong, _OPTIONS)} See differ --help.")
    mask = given.get("mask_history")
    if mask not in (None, True, False):
        raise ConfigError(f"--mask_history={mask}: True or False is needed, of a table that was scored both ways.")
    out = given.get("out")
    if out is not None:
        check_writable(Path(str(out)).parent, "--out", make=False)
    slices = [name.strip() for name in str(given.get("slices") or "").strip("[] ").split(",") if name.strip()]
    found = differ(sides, metric_names(given.get("metrics")), slices, mask)
    print(text_table(found))
    if out is not None:
        written = {"command": command_text("differ", arguments), "version": __version__, **found.as_json()}
        write_json(Path(str(out)), written)
        print(f"written: {out}")
    return 0
