"""``python -m recbole_eimf run``, the front door: a model trained on a data set and tested."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.yaml_file import model_and_dataset, named_files, parse_command_line, read_files
from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError, UserError, raised
from recbole_eimf.core.run_folder import RESULT_FILE


def _usage() -> str:
    from recbole_eimf.config.show import run_help

    return run_help()


@contextlib.contextmanager
def _own_code_named(model: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Inside, what a class of the user's own raises becomes a line that names the class and the place in its file.

    Raises:
        UserError: in place of an error that is none of ours; the run's log has its traceback.
    """
    own = {key: name for key, name in (("model", model), ("backbone", given.get("backbone"))) if ":" in str(name)}
    try:
        yield
    except (UserError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if not own:
            raise
        said = ", ".join(f"{key}={name}" for key, name in own.items())
        raise UserError(f"{said}: the run raised {raised(error)}. Its log has the traceback.") from error


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

    with _own_code_named(model, {**read_files(files), **values}):
        result = run(model, dataset, files or None, **values)
    first = distributed.is_first()
    distributed.leave()
    if not first:
        return 0  # torchrun started several processes: the first one speaks
    if values.get("output_dir"):
        print(f"written: {values['output_dir']}/{RESULT_FILE}")
    print("\n" + summary(result))
    return 0
