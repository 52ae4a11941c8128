"""``python -m recbole_eimf compare``: several models, several seeds, one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_eimf.cli.options import command_text, effort_of, parse_table_options, table_parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.yaml_file import values_placed
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.study.compare import Compared, carry_out, experiment_of
from recbole_eimf.study.rows import parse_models, read_rows

USAGE = """usage: python -m recbole_eimf compare --models SASRec,EIMF[SASRec],placebo[SASRec] --dataset NAME --out DIR
         [--protocol leave_one_out|user_split|global_time] [--seeds 5] [--parallel 2] [--config_files a.yaml ...]
         [--key=value ...]

Trains every model with every seed and writes DIR/table.md, table.csv, table.tex, results.json and index.html. Finished
runs are not made again and interrupted ones go on: stop it at any time and give the same command.

models    SASRec            a backbone of ours, trained as EIMF trains it
          EIMF[SASRec]      EIMF over it; placebo[SASRec]: with the interests of random exemplars
          RecBole[SASRec]   RecBole's own class; other names as --model takes them (package.module:Class too)
          placebo[PAD], shuffled_text[...], noise_text[...]: a row with texts of other items, or noise in their place
          shuffled_history[SASRec]: trained and tested on histories in an order of chance
          TextKNN, ItemKNN+text: floors for data with text; NextKNN, ItemKNN+text+next: with knowledge_source
          Popularity, Markov and DecayedItemKNN are always added
options   --models_file FILE.yaml   rows with name, model, backbone, keys, against
          --seeds 5 | 2020,2021     how many (from 2020 on), or which
          --metrics Recall@50,HR@50 what the tables show; the CSV and JSON files hold all
          --ties=source             the source's order inside one time, as the papers; tables shuffle it
          --mask_history=both       score every checkpoint with the history masked and not masked (auto: as the share
                                    of repeats says, alike for all rows)
          --tune-first N            the same search of N trials for every model on validation before the seeds
          --parallel N              runs at once, on Ray; 0: one after the other in this process
          --cpus-per-run 1, --ray_address ADDRESS
          --gpus-per-run N          on Ray; parts (0.5) are allowed (default: 1 where there is one, else 0)
          any configuration key as --key=value, for all rows; a row's own keys are stronger
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, or 1 if a run failed.

    Raises:
        UserError: bad names, keys, files or data, before any run.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    parser = table_parser("compare")
    parser.add_option("models")
    parser.add_option("models_file")
    options, shared = parse_table_options(parser, arguments)
    rows = parse_models(options.models or "") + (read_rows(options.models_file) if options.models_file else [])
    command, wanted = command_text("compare", arguments), {"metrics": options.metrics, "title": options.title}
    if not options.out:
        raise ConfigError("--out is missing: the folder for runs and tables, for example --out=results/office.")
    with values_placed(options.said_in):
        experiment = experiment_of(rows, options.dataset, shared, command, seeds=options.seeds or 5, **wanted)
        found = carry_out(experiment, Path(options.out), effort_of(options))
    return print_table(found)


def print_table(found: Compared) -> int:
    """Print a table and where it lies; the exit code: 1 if a run failed."""
    forms = "index.html, results.json, table.md, table.csv, table.tex, comparisons.csv, slices.csv"
    print(f"\n{found}\nwritten: {found.folder}/{forms}")
    if found.failed:
        where = f"error.txt under {found.folder}/runs"
        print(f"failed: {', '.join(found.failed)} ({where}); the same command tries them again")
    return 1 if found.failed else 0
