"""Put back what a run left tuned on hosts: ``lab.restore``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab import adapters, provision
from uplab.checkup import clean
from uplab.errors import EXIT_GATE, EXIT_OK, UplabError


@dataclass(frozen=True)
class Restored:
    """What one host answered; see ``uplab/hostside/tuning.py``, and why where it did not."""

    host: str
    answer: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_code: int = EXIT_OK

    @property
    def exit_code(self) -> int:
        """That of the error; 1 where a value could not be put back; else 0."""
        return self.error_code or (EXIT_GATE if self.answer.get("failed") else EXIT_OK)


def run(project: Path, names: Sequence[str], chosen: Path | None = None) -> list[Restored]:
    """Put it back on each host; what one host refuses keeps it from no other.

    Args:
        project: the checkout.
        names: of the hosts in the inventory.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory.
    """
    registry = adapters.load([project])
    hosts = [provision.host_for(project, name, registry, chosen) for name in names]
    done = []
    for host in hosts:
        try:
            done.append(Restored(host.name, host.ask("restore", {})))
        except UplabError as error:
            message = error.message.removeprefix(f"host {host.name}: ")
            done.append(Restored(host.name, error=message, error_code=error.exit_code))
    return done


def as_json(done: Sequence[Restored]) -> str:
    """The answers for programs."""
    hosts = [{"host": e.host, "error": e.error, **e.answer, "exit_code": e.exit_code} for e in done]
    return json.dumps({"hosts": hosts}, indent=1, ensure_ascii=False)


def as_text(done: Sequence[Restored]) -> str:
    """The answers for a person."""
    return "\n".join(clean(line) for each in done for line in _lines(each))


def _lines(done: Restored) -> Iterator[str]:
    if done.error is not None:
        yield f"{done.host}: {done.error}"
        return
    answer = done.answer
    if not answer.get("run_id"):
        yield f"{done.host}: no run left it tuned"
    else:
        booted = ", before its last boot" if answer.get("after_reboot") else ""
        yield f"{done.host}: left tuned by run {answer['run_id']}{booted}"
    for entry in _objects(answer, "put_back"):
        yield f"  put back: {entry.get('path')} {entry.get('new')} -> {entry.get('old')}"
    for left in [*_objects(answer, "left"), *_objects(answer, "earlier")]:
        entry = _object(left.get("entry"))
        yield (
            f"  left: {entry.get('path')} is {left.get('found')}: somebody changed it after uplab "
            f"did ({entry.get('old')} -> {entry.get('new')})"
        )
    for failed in _objects(answer, "failed"):
        entry, why = _object(failed.get("entry")), failed.get("reason")
        yield f"  could not be put back: {entry.get('path')} to {entry.get('old')} ({why})"


def _object(data: Any) -> Mapping[str, Any]:
    """What should be one; a host's answer can be anything."""
    return data if isinstance(data, dict) else {}


def _objects(answer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = answer.get(name)
    return [_object(each) for each in found] if isinstance(found, list) else []
