"""The templates of tables and pages, and what each of their languages cannot take as it is."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_LATEX_SYMBOLS = {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "−": "$-$"}
_LATEX_ESCAPES = {c: f"\\{c}" for c in "&%_#${}"} | {
    "\\": "/", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
#: LaTeX is full of braces and percent signs
_LATEX_TAGS = {
    "block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<", "variable_end_string": ">>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


def render(name: str, **values: Any) -> str:
    """The text of ``templates/<name>.j2``. A value that the template needs and does not get is an error."""
    return _environment(name.endswith(".tex")).get_template(f"{name}.j2").render(**values)


@cache
def _environment(of_latex: bool) -> Environment:
    made = Environment(
        loader=PackageLoader("recbole_eimf.study.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        **(_LATEX_TAGS if of_latex else {}),
    )
    made.filters |= {
        "cell": markdown_cell,
        "bold": bold,
        "breakable": breakable,
        "heading": heading,
        "tex": latex_text,
        "symbols": latex_symbols,
    }
    return made


def markdown_cell(text: str) -> str:
    """A text that may stand in a cell of Markdown."""
    return text.replace("|", r"\|")


def bold(text: str) -> Markup:
    """HTML of a text whose ``**words**`` are bold."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text))))


def breakable(name: str) -> Markup:
    """HTML of a row's name that a narrow column may break before the bracket."""
    return escape(name).replace("[", Markup("<wbr>["))


def heading(title: str) -> Markup:
    """HTML of a column's title: what stands in brackets on a line of its own, and no line ends in ``1-`` of ``1-5``."""
    name, bracket, rest = str(escape(title)).partition(" (")
    name = re.sub(r"\S*-\S*", r'<span class="whole">\g<0></span>', name)
    return Markup(name + ("<br>(" + rest if bracket else ""))


def latex_text(text: str) -> str:
    """A text that LaTeX prints as it is."""
    return latex_symbols("".join(_LATEX_ESCAPES.get(c, c) for c in text))


def latex_symbols(text: str) -> str:
    """LaTeX whose signs outside ASCII have become LaTeX too."""
    return "".join(_LATEX_SYMBOLS.get(c, c) for c in text)
