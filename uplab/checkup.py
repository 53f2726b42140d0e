"""The preflight: what the controller sees of a host, and what the host sees of itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uplab import adapters, inventory, matrix, plan, provision, remote
from uplab.errors import EXIT_GATE, EXIT_HOST, EXIT_OK, UplabError

#: The cells whose parts, ports and modes are looked at: every part once.
MATRIX = "seed"

_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
_PLAIN_MARKS = {"ok": "ok", "warn": "!", "fail": "x"}
_FIELDS = ("check", "state", "seen", "wanted", "mend")


@dataclass(frozen=True)
class Line:
    """One line of the preflight; see ``uplab/hostside/system.py`` for its fields."""

    check: str
    state: str
    seen: str
    wanted: str
    mend: str = ""


@dataclass(frozen=True)
class Checkup:
    """All lines of a host, and whether it could answer itself."""

    host: str
    lines: tuple[Line, ...]
    answered: bool

    @property
    def exit_code(self) -> int:
        """4 where the host could not be asked, 1 where a line failed, else 0."""
        if not self.answered:
            return EXIT_HOST
        return EXIT_GATE if any(line.state == "fail" for line in self.lines) else EXIT_OK


def run(project: Path, name: str, chosen: Path | None = None) -> Checkup:
    """Check a host, set up or not.

    Args:
        project: the checkout.
        name: of the host in the inventory.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory.
    """
    variables = inventory.host(project, name, chosen)
    lines: list[Line] = []
    try:
        host = provision.host_for(project, name, adapters.load([project]), chosen)
        facts = host.facts()
    except UplabError as error:
        lines.append(_failed("ssh", error.message, name, "the host lets us in"))
        return Checkup(name, tuple(lines), answered=False)
    lines += controller_lines(facts, host.python)
    if remote.against_python(facts, host.python):
        return Checkup(name, tuple(lines), answered=False)
    try:
        # Also where root cannot be had: what does not need it is worth knowing.
        become = remote.against_become(facts) is None
        answer = host.ask("checkup", request(project, name, variables), become=become)
        lines += [line for entry in answer["lines"] if (line := _read(entry))]
    except UplabError as error:
        lines.append(_failed("hostside", error.message, name, "an answer"))
        return Checkup(name, tuple(lines), answered=False)
    return Checkup(name, tuple(lines), answered=True)


def request(project: Path, name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What hostside is asked: a matrix's cells, and the components that it is to have."""
    experiment = matrix.load(MATRIX, project)
    asked = plan.inspect_request(experiment)
    return {
        "host": name,
        **asked,
        "components": sorted(variables.get("uplab_components", [])),
        "no_subscription": bool(variables.get("base_pve_no_subscription", False)),
    }


def controller_lines(facts: remote.Facts, python: str) -> list[Line]:
    """SSH, root and Python, which hostside stands on."""
    seen = f"as {facts.user}, its key {facts.key}" if facts.key else "this machine, no SSH"
    lines = [Line("ssh", "ok", seen, "the host lets us in, its key is known")]
    checks = (
        ("become", remote.against_become(facts), f"{facts.user} ({facts.become})"),
        ("python", remote.against_python(facts, python), f"{facts.python} at {python}"),
    )
    wanted = {"become": "root, or sudo without a password", "python": "3.11 or newer"}
    for check, against, seen in checks:
        if against is None:
            lines.append(Line(check, "ok", seen, wanted[check]))
        else:
            lines.append(_split(check, against, wanted[check]))
    return lines


def _failed(check: str, message: str, name: str, wanted: str) -> Line:
    return _split(check, message.removeprefix(f"host {name}: "), wanted)


def _split(check: str, message: str, wanted: str) -> Line:
    """A line from ``<cause>. <what mends it>``."""
    cause, _, mend = message.partition(". ")
    return Line(check, "fail", cause, wanted, mend)


def _read(entry: Any) -> Line | None:
    """A line that came back from a host, which is not trusted to have sent one."""
    if not isinstance(entry, dict) or entry.get("state") not in _MARKS:
        return None
    texts = {name: clean(str(entry.get(name, ""))) for name in _FIELDS}
    return Line(**texts)


def clean(text: str) -> str:
    """A host's text for a terminal: what is not printable cannot move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def as_json(checkup: Checkup) -> str:
    """The lines for programs."""
    return json.dumps(
        {
            "host": checkup.host,
            "answered": checkup.answered,
            "exit_code": checkup.exit_code,
            "lines": [asdict(line) for line in checkup.lines],
        },
        indent=1,
        ensure_ascii=False,
    )


def as_text(checkup: Checkup, encoding: str | None = None) -> str:
    """The lines for a person: mark, check, value seen, value wanted, what mends it."""
    encoding = encoding or sys.stdout.encoding or "ascii"
    unicode = encoding.lower().replace("-", "").startswith("utf")
    marks = _MARKS if unicode else _PLAIN_MARKS
    width = max(len(line.check) for line in checkup.lines)
    mark_width = max(map(len, marks.values()))
    rows = []
    for line in checkup.lines:
        row = f"{marks[line.state]:<{mark_width}} {line.check:<{width}}  {line.seen}"
        if line.wanted not in ("", line.seen):
            row += f"; wanted: {line.wanted}"
        if line.mend:
            row += f". {_command(line.mend)}"
        rows.append(row if unicode else row.encode("ascii", "replace").decode())
    counts = {state: sum(line.state == state for line in checkup.lines) for state in _MARKS}
    rows.append(
        f"{checkup.host}: {counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed"
    )
    return "\n".join(rows)


def _command(mend: str) -> str:
    """What mends, as a sentence: most are commands for the host."""
    if mend[0].isupper():
        return mend
    return f"Run: {mend}" if mend.startswith("invoke ") else f"There, run: {mend}"
