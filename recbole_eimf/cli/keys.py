"""``python -m recbole_eimf keys``: every configuration key, and the documents made of the catalogue."""

from __future__ import annotations

import json
from collections.abc import Sequence

from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.show import json_schema, keys_with, listing, markdown
from recbole_eimf.core.errors import ConfigError, suggestion

USAGE = """usage: python -m recbole_eimf keys [word] [--markdown | --json-schema]

Every configuration key: name, default, what it may be, a line of help. With a word, the keys whose name, help or
section holds it. --markdown writes docs/keys.md, --json-schema a schema of configuration files for editors.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command ``keys``; returns the exit code.

    Raises:
        ConfigError: an unknown option, or a word that no key knows.
    """
    if (code := usage_shown(arguments, USAGE, bare=True)) is not None:
        return code
    words = [word for word in arguments if not word.startswith("--")]
    options = [word for word in arguments if word.startswith("--")]
    forms = {"--markdown": markdown, "--json-schema": lambda: json.dumps(json_schema(), indent=2)}
    for option in options:
        if option not in forms:
            raise ConfigError(f"{option}: no such option.{suggestion(option, forms)} There are: {', '.join(forms)}.")
    if options:
        print(forms[options[0]]())
        return 0
    print(listing(keys_with(words)))
    return 0
