"""``python -m recbole_eimf tune``: a search for a model's settings on Ray Tune."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_eimf.cli.options import check_spelling
from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.yaml_file import (
    model_and_dataset,
    named_files,
    parse_command_line,
    read_files,
    read_yaml,
    values_placed,
)
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.study.search.tune import SearchEffort, search

USAGE = """usage: python -m recbole_eimf tune --dataset=NAME [--model=EIMF] [--samples=20] [--out=DIR] [--key=value ...]

Searches the space properties/tune/<Model>.yaml (with the backbone's) or --space=FILE on validation, with ASHA early
stopping; the test part is never looked at. The first trial is the configuration as it stands. Stopped in any way, or
asked for more --samples, the same command goes on: trials that are done are not run again.

  --samples=20           trials
  --max-epochs=N         of one trial (default: the configuration's epochs)
  --grace=N              epochs a trial has before ASHA may stop it (default: a quarter of max-epochs, at most 10)
  --begin-with=FILE      the second trial: what FILE, such as another search's best.yaml, says of the keys searched here
  --cpus-per-trial=1     what a trial takes, and its threads
  --gpus-per-trial=N     parts of a GPU (0.5) are allowed (default: 1 where there is one, else 0)
  --cpus=N               CPUs of this machine to use (default: all)
  --ray_address=ADDRESS  run on a Ray cluster; --out and the data must then be on storage that all its nodes see
  --out=DIR              default results/tune/<model>-<dataset>; holds best.yaml, trials.csv, results.json, search.png
  --config_files="a.yaml b.yaml", --key=value   the configuration; a key given as --key=value is not searched
"""

#: what search() takes under names that are no options: its Python names, typed as keys -> the options
_INSTEAD = {
    "space_file": "--space=FILE",
    "config_file_list": '--config_files="a.yaml b.yaml"',
    "effort": "--samples, --max-epochs, --grace, --cpus, --cpus-per-trial or --gpus-per-trial",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: bad options, keys, spaces or data, before any trial.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    parser = _parser()
    options, rest = parser.parse_known_args(list(arguments))
    values = parse_command_line(rest)
    for name, instead in _INSTEAD.items():
        if name in values:
            raise ConfigError(f"--{name}={values[name]}: tune has no such option or key. Write {instead}.")
    effort = SearchEffort(**{name: getattr(options, name) for name in SearchEffort.__dataclass_fields__})
    files = named_files(options.config_files)
    if not {**read_files(files), **values}.get("allow_unknown_keys"):
        check_spelling(parser, rest)
    model, dataset = model_and_dataset(options.model, options.dataset, files)
    if not dataset:
        raise ConfigError("--dataset is missing, for example --dataset=ml-100k (ships with RecBole).")
    said_in = {key: path for path in files for key in read_yaml(path) if key not in values}
    with values_placed(said_in):
        found = search(model, dataset, options.out, effort, options.space, files, options.begin_with, **values)
    print(found.summary())
    return 0


def _parser() -> Parser:
    parser = Parser("tune", others=True)
    for name in ("model", "dataset", "out", "space", "begin_with", "ray_address", "config_files"):
        parser.add_option(name)
    for name, kind in (("samples", int), ("max_epochs", int), ("grace", int), ("cpus", int),
                       ("cpus_per_trial", float), ("gpus_per_trial", float)):  # fmt: skip
        parser.add_option(name, type=kind, default=getattr(SearchEffort, name))
    return parser
