"""Docstrings name code with Sphinx's roles (``:func:`run```), which mkdocstrings shows as text: names alone remain."""

import re

_ROLE = re.compile(r":(?:func|meth|class|mod|attr|data|exc):\s*(?=<code>)")
_SHORT = re.compile(r"<code>~(?:[\w.]+\.)?(\w+)</code>")


def on_page_content(html: str, **_: object) -> str:
    """MkDocs' hook for a page's HTML."""
    return _SHORT.sub(r"<code>\1</code>", _ROLE.sub("", html))
