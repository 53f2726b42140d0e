"""Templates of adapters: text with ``{name}`` in it."""

from __future__ import annotations

import re
from collections.abc import Mapping

Scalar = int | float | str

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


def fill(template: str, values: Mapping[str, Scalar]) -> str:
    """Replace each ``{name}`` of a template by its value.

    Args:
        template: text of an adapter, such as ``https://127.0.0.1:{port}/``.
        values: what may be named.

    Returns:
        the text with all placeholders replaced; other braces stay as they are.

    Raises:
        ValueError: a placeholder has no value; the message lists the ones that exist.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            raise ValueError(f"{{{name}}} has no value here; there are {', '.join(sorted(values))}")
        return str(values[name])

    return _PLACEHOLDER.sub(value, template)


def fill_argv(
    argv: tuple[str, ...], values: Mapping[str, Scalar], splice: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Fill an argv template; an argument that is exactly ``{name}`` of ``splice`` becomes many."""
    out: list[str] = []
    for argument in argv:
        match = _PLACEHOLDER.fullmatch(argument)
        if match and match.group(1) in splice:
            out.extend(fill(part, values) for part in splice[match.group(1)])
        else:
            out.append(fill(argument, values))
    return out


def placeholders(template: str) -> set[str]:
    """The names that a template asks for."""
    return set(_PLACEHOLDER.findall(template))
