"""``python -m recbole_eimf explain KEY``: its value, what it may be, and which file or word set it."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.explain import explained
from recbole_eimf.config.yaml_file import model_and_dataset, named_files, parse_command_line
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import plugin

USAGE = """usage: python -m recbole_eimf explain KEY [--model=EIMF] [--dataset=NAME] [--config_files=FILE] [--key=value]

The value of a key in the run that these arguments would make, what the key may be, and every file and line that sets
it, the one that decides first.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: no key is named, or one that nobody knows; bad keys beside it.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    plugin.adapt_recbole()
    names = [word for word in arguments if not word.startswith("--")]
    if len(names) != 1:
        raise ConfigError(f"explain: name one key, not {len(names)}, for example: explain gamma --model=PAD.")
    values = parse_command_line([word for word in arguments if word.startswith("--")])
    files = named_files(values.pop("config_files", None))
    model, dataset = model_and_dataset(values.pop("model", None), values.pop("dataset", None), files)
    print(explained(names[0], model, dataset, files, values))
    return 0
