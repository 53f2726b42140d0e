r"""The tables of figures as LaTeX: one `table` a group, as wide as a column of text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from uplab.analysis import Group
from uplab.report import columns, sentences, text
from uplab.report.model import Report
from uplab.report.table import Table

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Alone they are other characters, and two of a kind a ligature, in TeX's old fonts.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "--": r"-{}-",
}
_SPECIAL = re.compile("--|[" + re.escape("".join(key for key in _ESCAPES if key != "--")) + "]")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
# A column of text is only so wide: intervals say how sure a figure is, the mode's name the rest.
_LEFT_OUT = (
    *("spread", "CPU spread"),
    *("evidence", "events lost", "placement", "loader", "runtime options"),
)
# A mode with its tracer and placement is long, and breaks; all others are figures.
_MODE = r">{\raggedright\arraybackslash}p{.31\linewidth}"
_FOREIGN = re.compile(r"[^\x20-\x7e]")


def render(report: Report) -> bytes:
    """A table of each group; pure ASCII, whatever the run says."""
    blocks = [
        f"% {_comment(sentences.title(report.run))}; run {_comment(report.run.run_id)}; "
        f"uplab {_comment(report.run.uplab_version)}",
        r"% needs \usepackage[T1]{fontenc} and \usepackage{array,booktabs,textcomp}",
        *(f"% {_comment(notice)}" for notice in report.notices),
        *("\n".join(_table(group, report)) for group in report.analysis.groups),
    ]
    return ("\n".join(blocks) + "\n").encode("ascii")


def _table(group: Group, report: Report) -> Iterator[str]:
    main = columns.main(group)
    yield r"\begin{table}"
    yield r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}"
    yield rf"  \caption{{What tracing costs: {escape(sentences.heading(group, report))}}}"
    if main.rows:
        yield from _tabular(main)
    else:
        yield "  Nothing was measured."
    yield r"\end{table}"


def _tabular(whole: Table) -> Iterator[str]:
    table = whole.only([i for i, name in enumerate(whole.headings) if name not in _LEFT_OUT])
    yield rf"  \begin{{tabular}}{{{_MODE}{'r' * (len(table.figures) - 1)}}}"
    yield r"    \toprule"
    yield f"    {_row(table.headings, table.figures)}"
    yield r"    \midrule"
    for row in table.rows:
        yield f"    {_row(row, table.figures)}"
    yield r"    \bottomrule"
    yield r"  \end{tabular}"


def _row(cells: tuple[str, ...], figures: tuple[bool, ...]) -> str:
    return " & ".join(map(_cell, cells, figures)) + r" \\"


def _cell(cell: str, is_figure: bool) -> str:
    if cell == text.MISSING:
        return "--"
    return _MINUS.sub("$-$", escape(cell)) if is_figure else escape(cell)


def escape(value: str) -> str:
    """Text as LaTeX prints it; a character beyond ASCII by its number, which any engine prints."""
    line = _FOREIGN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.plain(value))
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], line)


def _comment(value: str) -> str:
    return _FOREIGN.sub("?", text.plain(value))
