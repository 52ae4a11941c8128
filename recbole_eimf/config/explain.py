"""``python -m recbole_eimf explain KEY``: its value, what it may be, and which file or word set it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.layers import every_layer, setters
from recbole_eimf.config.same import known_keys
from recbole_eimf.config.yaml_file import parse_command_line
from recbole_eimf.core.errors import ConfigError, suggestion

USAGE = """usage: python -m recbole_eimf explain KEY [--model=EIMF] [--dataset=NAME] [--config_files=a.yaml] [--key=value ...]

The value of a key in the run that these arguments would make, what the key may be, and every file and line that sets it,
the one that decides first.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ConfigError: no key is named, or one that nobody knows; bad keys beside it.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    names = [word for word in arguments if not word.startswith("--")]
    if len(names) != 1:
        raise ConfigError(f"explain: name one key, not {len(names)}, for example: explain gamma --model=PAD.")
    values = parse_command_line([word for word in arguments if word.startswith("--")])
    files = str(values.pop("config_files", None) or "").split()
    print(explained(names[0], str(values.pop("model", "EIMF")), values.pop("dataset", None), files, values))
    return 0


def explained(key: str, model: str, dataset: str | None, files: list[str], words: dict[str, Any]) -> str:
    """What the command prints.

    Raises:
        ConfigError: a key that is neither in the catalogue nor set by anything.
    """
    # without a data set no file of a data set's counts; the name is looked up, nothing is loaded
    config = EIMFConfig(model, str(dataset or "no-data-set"), files, dict(words))
    layers = every_layer(config, files, words)
    about = known_keys().get(key)
    set_by = list(setters(layers, key))
    if about is None and not set_by:
        known = {*known_keys(), *config.final_config_dict}
        raise ConfigError(f"explain {key}: no such key.{suggestion(key, known)}")
    value = config[key] if set_by or key in config else "nothing"
    lines = [f"{key} = {value!r}" if value != "nothing" else f"{key} is not set"]
    if about is not None:
        lines.append(f"  {about.help}. Allowed: {about.allowed}. Affects: {about.affects}. {about.section}")
    if not set_by:
        lines.append("  set by nothing: this model does not read it, or takes a default of its own")
    for place, layer in enumerate(set_by):
        lines.append(f"  {'set by' if place == 0 else 'instead of'} {layer.where(key)}: {layer.values[key]!r}")
    return "\n".join(lines)
