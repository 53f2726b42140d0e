"""Sections on stdout: in a terminal, or as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from uplab.report import markdown, terminal
from uplab.report.section import Section


def show(sections: Iterable[Section], *, as_markdown: bool = False) -> None:
    """Print sections; as Markdown the same bytes whatever the locale's encoding is."""
    if as_markdown:
        sys.stdout.flush()
        sys.stdout.buffer.write(markdown.sections(sections).encode())
    else:
        terminal.show_sections(sections)
