"""``python -m recbole_eimf explore``: the LLM's part of a run as one page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.parts import require

USAGE = """usage: python -m recbole_eimf explore --run OUT [--against OUT2 ...] [--out explore.html] [--json FILE]
         [--k 10] [--points 4000] [--map tsne|pca] [--no-honesty]

One page, offline and in one file, of what an LLM had to do with an EIMF run: a map of users by the text of what they
bought; each cluster's exemplar, prompt, raw reply, interests and their nearest titles; its hit rate and NDCG beside
those of other runs, and which clusters gain and lose; replies that failed; interests far from every title. The same
stands as JSON beside it. Nobody is asked or paid.

  --run         the output_dir of a run of EIMF: with an LLM's replies, keywords, or their placebo
  --against     the output_dir of a run on the same users: its backbone alone (--model=IBIM), its placebo; repeatable.
                By default those that --compare_with=[backbone,placebo] made beside the run
  --out         where the page goes (default explore.html)
  --json        where the JSON goes; by default beside the page
  --k           of hit@k and ndcg@k; by default that of the run's valid_metric
  --points      users on the map at most;  --map: t-SNE, or PCA, which is quicker and shows less
  --no-honesty  do not measure whether the sentences mean more than a placebo's
  --data_path, --semantic_cache, --interest_file, --assignment_file, --batch_file, --prompt_file
                where the files of the run are now, if they have moved
  --interest_source=package.module:function   import it, where the interests came from a function of your own
  --model=package.module:Class                import it, where the run's model is a class of your own
  --backbone=package.module:Class             import it, where its backbone is
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments, a run that has no LLM part, keeps no values per user, or whose files are gone.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    from recbole_eimf.study.explore.explore import PLACES, ExploreOptions, explore
    from recbole_eimf.study.explore.page import write
    from recbole_eimf.study.explore.words import explored_in_words

    parser = Parser("explore")
    parser.add_option("run", required=True)
    parser.add_option("against", action="append", default=[])
    parser.add_option("out", default="explore.html")
    for name in ("json", "interest_source", "model", "backbone", *PLACES):
        parser.add_option(name)
    parser.add_option("k", type=int)
    parser.add_option("points", type=int, default=4000)
    parser.add_option("map", default="tsne")
    parser.add_option("no_honesty", action="store_true")
    given = parser.parse_args(list(arguments))
    require("jinja2")
    out = Path(given.out)
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out={out}: an .html file is written; name one.")
    json_out = Path(given.json) if given.json else out.with_suffix(".json")
    if json_out == out:
        raise ConfigError(f"--json={json_out}: this is the page itself. Name another file.")
    for option, path in (("--out", out), ("--json", json_out)):
        if path.is_dir():
            raise ConfigError(f"{option}={path}: is a folder. Name a file in it.")
        check_writable(path.parent, option.strip("-"), make=False)
    question = ExploreOptions(
        against=tuple(given.against),
        k=given.k,
        points=given.points,
        chart=given.map,
        honesty=not given.no_honesty,
        trusted=given.interest_source,
        model=given.model,
        backbone=given.backbone,
        places={name: value for name in PLACES if (value := getattr(given, name)) is not None},
    )
    document = explore(given.run, question, say=lambda text: print(text, file=sys.stderr, flush=True))
    write(document, out, json_out)
    print(explored_in_words(document))
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB), {json_out}")
    return 0
