"""The preflight: every check of this host, each as one line, also when the first one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from uplab.hostside import check_kernel, check_lab, check_machine
from uplab.hostside.check_lab import Places, Request
from uplab.hostside.system import Line, System

Check = Callable[[], Iterator[Line]]


def checks(system: System, places: Places, request: Request) -> dict[str, Check]:
    """All checks by name, in the order of their lines."""
    found: dict[str, Check] = {
        check.__name__: partial(check, system)
        for check in (*check_kernel.CHECKS, *check_machine.CHECKS)
    }
    found["disk"] = partial(check_machine.disk, system, places.root, places.runs)
    found["apt_sources"] = partial(check_lab.apt_sources, system, request)
    found["ports"] = partial(check_lab.ports, system, request)
    found["leftovers"] = partial(check_lab.leftovers, system, places, request)
    found["stored"] = partial(check_lab.stored, system, places, request)
    found["modes"] = partial(check_lab.modes, system, places, request)
    return found


def run(system: System, places: Places, request: Request) -> list[dict[str, Any]]:
    """Every line of every check, as JSON; a check that fails itself becomes a line."""
    lines: list[Line] = []
    for name, check in checks(system, places, request).items():
        lines += _lines(name, check)
    return [asdict(line) for line in lines]


def _lines(name: str, check: Check) -> list[Line]:
    try:
        return list(check())
    except Exception as error:
        seen = f"the check itself failed: {type(error).__name__}: {error}"
        mend = "Report it with this line"
        return [Line(name.replace("_", "-"), "fail", seen, "an answer", mend)]
