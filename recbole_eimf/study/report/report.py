"""The HTML page of a comparison: one file, tables and figures inside, nothing fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from itertools import count
from pathlib import Path

from recbole_eimf.core.files import atomic_path
from recbole_eimf.core.version import __version__
from recbole_eimf.study.table import table
from recbole_eimf.study.table.summary import Summary, View, pretty

HTML = table.Form("<b>{}</b>", "<u>{}</u>", ("<sup>*</sup>", "<sup>†</sup>"))
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: #1f2933; background: #fff;
  max-width: 1160px; margin: 2.5rem auto 4rem; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .5rem; padding-top: 1rem; border-top: 1px solid #e4e7eb; }
p.facts { color: #52606d; margin: .3rem 0 .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .34rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eef1f4; }
th { color: #52606d; font-weight: 600; border-bottom: 2px solid #9aa5b1; vertical-align: bottom;
  white-space: normal; }
th:first-child, td:first-child { text-align: left; }
td:first-child { font-weight: 500; }
tr.floor td { color: #7b8794; } tr.last-floor td { border-bottom: 1px solid #9aa5b1; }
tr.failed td { color: #b42318; } td.reason { text-align: left; white-space: normal; }
small { display: block; } .sure { font-weight: 600; } .not-sure { color: #7b8794; }
ul.notes { font-size: .87rem; color: #52606d; padding-left: 1.1rem; } u { text-underline-offset: 3px; }
pre { background: #f5f7fa; border: 1px solid #e4e7eb; border-radius: 6px; padding: .8rem 1rem; overflow-x: auto;
  font-size: .82rem; white-space: pre-wrap; }
svg { max-width: 100%; height: auto; } details { font-size: .87rem; margin: .3rem 0; } footer { color: #7b8794; }
"""


def write(summary: Summary, folder: Path) -> None:
    """Write ``index.html``, atomically."""
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(page(summary), encoding="utf-8")


def page(summary: Summary) -> str:
    """The whole page."""
    from recbole_eimf.study.report import plot  # late: without matplotlib the command line still answers

    title = escape(summary.experiment.title)
    parts = [f"<h1>{title}</h1>"]
    for view in summary.views:
        parts += [f'<p class="facts">{escape(table.facts(summary, view))}.</p>', _main(summary, view)]
    notes = (re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(note)) for note in table.notes(summary, _PLAIN))
    parts.append('<ul class="notes">' + "".join(f"<li>{note}</li>" for note in notes) + "</ul>")
    figures = _Figures()
    for view in summary.views:
        suffix = _which(summary, view)
        if summary.experiment.axis:
            parts += _section(f"Over {summary.experiment.axis}{suffix}", figures(plot.line_over_axis(summary, view)))
        parts += _section(f"Test metrics{suffix}", figures(plot.bars(summary, view)))
        if view.comparisons:
            parts += _section(f"Differences{suffix}", _comparisons(summary, view))
    if summary.slices and table.slice_names(summary):
        name = f"{pretty(table.slice_metric(summary))} by training frequency of the target"
        parts += _section(name + _which(summary, summary.views[0]), figures(plot.slices(summary)) + _slices(summary))
    parts += _section("Training", figures(plot.curves(summary)))
    parts += _section("How it was made", f"<pre>{escape(summary.experiment.command)}</pre>" + _settings(summary))
    parts.append(f"<footer>recbole_eimf {__version__}</footer>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


_PLAIN = table.Form("", "", ("*", "†"))


class _Figures:
    """Puts SVG texts into one page: their ids, which matplotlib counts anew in each, must not meet."""

    def __init__(self) -> None:
        self.numbers = count(1)

    def __call__(self, svg: str | None) -> str:
        if svg is None:
            return ""
        prefix = f"f{next(self.numbers)}-"
        svg = re.sub(r'\bid="', f'id="{prefix}', svg)
        return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)


def _section(title: str, content: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", f'<div class="scroll">{content}</div>'] if content else []


def _which(summary: Summary, view: View) -> str:
    return "" if len(summary.views) == 1 else f", history {'masked' if view.mask_history else 'not masked'}"


def _grid(titles: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(cells: Sequence[str], kind: str = "") -> str:
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _main(summary: Summary, view: View) -> str:
    titles, rows = table.head(summary), []
    floors = sum(line.row.floor for line in summary.lines)
    for index, line in enumerate(summary.lines):
        kind = ("floor last-floor" if index == floors - 1 else "floor") if line.row.floor else ""
        reason = table.why_empty(line)
        if reason:
            kind += " failed" if line.errors else " floor"
            cell = f'<td class="reason" colspan="{len(titles) - 1}">{escape(reason)}</td>'
            rows.append(f'<tr class="{kind}"><td>{escape(line.row.name)}</td>{cell}</tr>')
        else:
            rows.append(_row([escape(line.row.name), *table.cells(summary, view, line, HTML)], kind))
    return _grid(titles, rows)


def _comparisons(summary: Summary, view: View) -> str:
    rows = []
    for row, other in table.pairs(view):
        cells = [escape(f"{row} − {other}")]
        for metric in summary.metrics:
            found = view.found(row, other, metric)
            kind = "sure" if found and found.significant else "not-sure"
            difference, _, p = table.comparison_cell(found).partition(", ")
            cells.append(f'<span class="{kind}">{escape(difference)}<small>{escape(p)}</small></span>')
        rows.append(_row(cells))
    return _grid(["points (relative), corrected p", *map(pretty, summary.metrics)], rows)


def _slices(summary: Summary) -> str:
    names, metric = table.slice_names(summary), table.slice_metric(summary)
    rows = [
        _row([escape(row), *(f"{values[n][metric]:.2f}" if metric in values.get(n, {}) else "–" for n, _ in names)])
        for row, values in summary.slices.items()
    ]
    return _grid(["model", *(f"{name} ({targets:,})" for name, targets in names)], rows)


def _settings(summary: Summary) -> str:
    """Every row's settings, folded: what differs between rows first."""
    every = [line.runs[0].settings for line in summary.lines]
    differ = {key for settings in every for key in settings if any(o.get(key) != settings[key] for o in every)}
    parts = []
    for line, settings in zip(summary.lines, every):
        own = {key: settings[key] for key in sorted(settings) if key in differ}
        parts.append(_folded(f"{line.row.name}: settings that are not the same in all rows", own))
    shared = {key: value for key, value in sorted(every[0].items()) if key not in differ}
    return "".join([*parts, _folded("settings of all rows", shared)])


def _folded(title: str, values: dict) -> str:
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items())
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
