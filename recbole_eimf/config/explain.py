"""What a key is in a run, and which file or word set it."""

from __future__ import annotations

from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.key import AFFECTS
from recbole_eimf.config.layers import every_layer, setters
from recbole_eimf.config.old_names import OLD_NAMES
from recbole_eimf.config.same import known_keys
from recbole_eimf.core.errors import ConfigError, suggestion


def explained(key: str, model: str, dataset: str | None, files: list[str], words: dict[str, Any]) -> str:
    """What the command prints.

    Raises:
        ConfigError: a key that is neither in the catalogue nor set by anything.
    """
    if key in ("model", "dataset"):
        said = {"model": model, "dataset": dataset}[key]
        return f"{key} = {said!r}\n  of the command: --{key}=NAME, or {key}: NAME in one of --config_files"
    key = OLD_NAMES.get(key, key)
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
        lines.append(f"  {about.help}. Allowed: {about.allowed}. Affects {AFFECTS[about.affects]}. {about.section}")
    if not set_by:
        lines.append("  set by nothing: this model does not read it, or takes a default of its own")
    for place, layer in enumerate(set_by):
        lines.append(f"  {'set by' if place == 0 else 'instead of'} {layer.where(key)}: {layer.values[key]!r}")
    return "\n".join(lines)
