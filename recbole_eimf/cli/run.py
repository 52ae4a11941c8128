"""``python -m recbole_eimf run``, the front door: a model trained on a data set and tested."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.yaml_file import model_and_dataset, named_files, parse_command_line
from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.run_folder import RESULT_FILE


def _usage() -> str:
    from recbole_eimf.config.show import run_help

    return run_help()


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: bad keys, files or data, before any long work.
    """
    if (code := usage_shown(arguments, _usage)) is not None:
        return code
    values = parse_command_line(arguments)
    files = named_files(values.pop("config_files", None))
    model, dataset = model_and_dataset(values.pop("model", None), values.pop("dataset", None), files)
    if not dataset:
        raise ConfigError("--dataset is missing, for example --dataset=ml-100k (ships with RecBole).")
    from recbole_eimf.experiment.result import summary
    from recbole_eimf.experiment.run import run

    result = run(model, dataset, files or None, **values)
    first = distributed.is_first()
    distributed.leave()
    if not first:
        return 0  # torchrun started several processes: the first one speaks
    if values.get("output_dir"):
        print(f"written: {values['output_dir']}/{RESULT_FILE}")
    print("\n" + summary(result))
    return 0
