"""Charts inside the page: the SVG of a file, without what a page says once for all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from uplab.report.charts import style
from uplab.report.charts.style import Chart
from uplab.report.table import Table

# What the page's style and the figure around it say: fonts, sizes, roles.
_REPEATED = re.compile(
    rf' font-family="{re.escape(style.FONT)}"| aria-roledescription="[^"]*"'
    r'| role="graphics-[a-z]+"| aria-hidden="true"| pointer-events="none"| class="[^"]*"'
    r'| opacity="1"| text-anchor="start"| xmlns:xlink="[^"]*"| stroke-miterlimit="10"'
)
_EMPTY = re.compile(r'<path d=""[^>]*/>|<g>(?:<path[^>]*d="M0,0h0v0h0Z"[^>]*/>)?</g>')
_SVG = re.compile(r'<svg [^>]*?width="(\d+)" height="(\d+)"[^>]*>')


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn chart, the explanation below it, and the tables behind it."""

    chart: Chart
    picture: Markup
    caption: str
    tables: tuple[tuple[str, Table], ...]


def inline(picture: str, says: str) -> Markup:
    """An SVG for the page: it scales with its column, and says what it shows.

    In: an SVG as drawn, whose texts are escaped; what it shows. Marks keep theirs as `data-say`.
    """
    opening = _SVG.search(picture)
    if opening is None:
        raise ValueError("the drawing is no SVG with a size")
    body = picture[opening.end() :]
    body = _REPEATED.sub("", body).replace(' aria-label="', ' data-say="')
    while (shorter := _EMPTY.sub("", body)) != body:
        body = shorter
    head = Markup('<svg viewBox="0 0 {} {}" role="img" tabindex="0" aria-label="{}">').format(
        opening[1], opening[2], says
    )
    return head + Markup(body)


def dark(colours: dict[str, str]) -> str:
    """The style that gives each colour of a chart another value."""
    rules = []
    for light, other in colours.items():
        rules.append(f'svg [fill="{light}"]{{fill:{other}}}')
        rules.append(f'svg [stroke="{light}"]{{stroke:{other}}}')
    return "".join(rules)
