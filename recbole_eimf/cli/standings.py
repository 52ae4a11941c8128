"""``python -m recbole_eimf standings``: who stands where over tables that were made apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_eimf.cli.options import command_text
from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.parts import require

USAGE = """usage: python -m recbole_eimf standings TABLE ... [--out standings] [--metrics NDCG@10] [--title TEXT]

The arena's page over tables that were made already: on several machines, on several days, over one backbone each.
Nothing is trained. Tables of one data set and protocol become one where they asked the same users for the same targets.

  TABLE      a folder of study arena, study or compare; its results.json; or a file of several tables
  --out      where index.html and arena.json go
  --metrics  what rows are ranked by; the page shows it at every k that all tables have
  --title    of the page
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments; a table that is not there, damaged, or at odds with another; nothing to rank.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    parser = Parser("standings")
    parser.add_argument("tables", nargs="+", metavar="TABLE")
    for name, default in (("out", "standings"), ("metrics", "NDCG@10"), ("title", "Who stands where")):
        parser.add_option(name, default=default)
    given = parser.parse_args(list(arguments))
    require("jinja2")
    require("matplotlib")
    from recbole_eimf.study.arena import methods_over_backbones, standings_table, write_joined
    from recbole_eimf.study.compare import metric_names
    from recbole_eimf.study.joined import join_parts, read_parts

    metrics = metric_names(given.metrics)
    if len(metrics) != 1:
        raise ConfigError(f"--metrics={given.metrics}: rows are ranked by one metric, such as NDCG@10.")
    out = Path(given.out)
    check_writable(out, "out", make=False)
    joined = join_parts(read_parts([Path(path) for path in given.tables]))
    found = write_joined(joined, out, given.title, metrics[0], command_text("standings", arguments))
    print(standings_table(found))
    if methods := methods_over_backbones([part.content for part in joined], metrics[0]):
        print(f"\nmethods, whatever they stand over:\n{standings_table(methods, costs=False)}")
    print(f"\nwritten: {out}/index.html, arena.json")
    return 0
