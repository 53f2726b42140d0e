"""From a specification to a picture, offline: vl-convert runs Vega-Lite in its own V8.

The same specification gives the same SVG on every machine: the fonts that texts are measured with
come with vl-convert, and no chart shows a time or a date.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# That of the vl-convert which requirements/runtime.lock names.
_VEGA_LITE = "6.4"


def svg(spec: Mapping[str, Any]) -> str:
    """The picture of a specification. The first one takes about half a second: V8 starts."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(dict(spec), vl_version=_VEGA_LITE, allowed_base_urls=[]))


def pdf(picture: str) -> bytes:
    """An SVG as PDF. Its pages are equal, its bytes are not: it numbers its parts at random."""
    import vl_convert

    return bytes(vl_convert.svg_to_pdf(picture))


def get_ready() -> None:
    """Start V8 now, so that the next picture is made at once. For idle moments: it takes time."""
    svg({"mark": "point", "data": {"values": [{}]}})
