# SPDX-License-Identifier: Apache-2.0
"""Ansible filter: what is wrong with a site's mirrors, before anything is fetched from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

#: Keys whose values are prefixes of addresses, each with what to use instead.
PREFIXES = ("apt", "git")
#: Keys whose values are one address.
ADDRESSES = ("archives", "crates", "python")

#: With a scheme, as ssh writes it, or a path on the host.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/\S*|[\w.-]+@[\w.-]+:\S*|/\S*")


def problems(mirrors: Any) -> list[str]:
    """Everything that is wrong with ``uplab_mirrors``; [] where nothing is.

    An address has a scheme (``https://...``), is one of ssh's (``git@host:path``), or an absolute
    path on the host.
    """
    if not isinstance(mirrors, Mapping):
        return [f"expected a mapping, not {mirrors!r}"]
    known = sorted([*PREFIXES, *ADDRESSES])
    found = [
        f"{key}: nothing reads this; there are {', '.join(known)}"
        for key in mirrors
        if key not in known
    ]
    for key, value in mirrors.items():
        if key in ADDRESSES:
            # Empty is as good as absent.
            found += [] if value in ("", None) else _against(key, value)
        elif key in PREFIXES:
            found += _against_prefixes(key, value)
    return found


def _against_prefixes(key: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{key}: expected prefixes of addresses with their mirrors, not {value!r}"]
    found = []
    for prefix, mirror in value.items():
        found += [*_against(f"{key}, prefix", prefix), *_against(f"{key}, {prefix}", mirror)]
    return found


def _against(what: str, value: Any) -> list[str]:
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        return []
    return [f"{what}: {value!r} is no address (https://..., file://... or an absolute path)"]


class FilterModule:
    """``uplab_mirror_problems``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"uplab_mirror_problems": problems}
