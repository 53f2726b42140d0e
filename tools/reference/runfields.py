"""The fields of a run directory's JSON, found by letting the reader itself read.

A stand-in answers whatever `uplab.results` asks for and notes what that was: so the page names what
is read, no more and no less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from unittest import mock

from tools.reference.markdown import code, table
from uplab import results
from uplab.errors import UsageError

_HEAD = """# Fields that are read

What a report is made from: every field that uplab reads of a [run directory](run-directory.md), and
nothing else. `needed` fields must be there, or the run is refused with the field's name; any other
may be absent or `null`, which is a missing figure and never 0. `[]` stands for each of a list,
`NAME` for any name. Files may hold more than is read: evidence for people, and for later versions.

The form has a number, `schema`: another one is refused, never guessed at.
"""
T = TypeVar("T")
_TRIAL = "0001-cell-b01"
#: What the reader checks beyond its kind is answered so that it goes on.
_ANSWERS: Mapping[str, Any] = {
    "trial": _TRIAL,
    "half_width_pp": 2.0,
    "looks": [3],
    "uids": [0],
    "server": "0-1",
    "tracer": "0-1",
    "load": "0-1",
}


class Asked:
    """Stands in for `uplab.fields.Fields`: every method answers, and notes name and kind."""

    def __init__(self, notes: dict[str, tuple[str, bool]], place: str) -> None:
        self._notes = notes
        self._place = place

    def _note(self, key: str, kind: str, needed: bool) -> str:
        path = f"{self._place}{key}"
        self._notes.setdefault(path, (kind, needed))
        return path

    def _inside(self, key: str, kind: str, needed: bool, then: str) -> Asked:
        return Asked(self._notes, self._note(key, kind, needed) + then)

    def check_schema(self, known: int) -> None:
        """Fields.check_schema()."""
        self._note("schema", f"`{known}`", True)

    def text(self, key: str) -> str:
        """Fields.text()."""
        self._note(key, "text", True)
        return str(_ANSWERS.get(key, "text"))

    def optional_text(self, key: str) -> str | None:
        """Fields.optional_text()."""
        self._note(key, "text", False)
        return str(_ANSWERS.get(key, "text"))

    def boolean(self, key: str) -> bool:
        """Fields.boolean()."""
        self._note(key, "true or false", True)
        return True

    def whole(self, key: str, least: int) -> int:
        """Fields.whole()."""
        self._note(key, f"whole number of at least {least}", True)
        return least

    def optional_whole(self, key: str) -> int | None:
        """Fields.optional_whole()."""
        self._note(key, "whole number", False)
        return 1

    def figure(self, key: str) -> float | None:
        """Fields.figure()."""
        self._note(key, "number", False)
        return float(_ANSWERS.get(key, 1.0))

    def mapping(self, key: str) -> dict[str, Any]:
        """Fields.mapping()."""
        self._note(key, "object", False)
        return {}

    def figures(self, key: str) -> dict[str, float | None]:
        """Fields.figures()."""
        self._note(key, "object of numbers", False)
        return {}

    def counts(self, key: str) -> dict[str, int | None]:
        """Fields.counts()."""
        self._note(key, "object of whole numbers", False)
        return {}

    def texts(self, key: str) -> tuple[str, ...]:
        """Fields.texts()."""
        self._note(key, "list of texts", False)
        return ()

    def part(self, key: str) -> Asked | None:
        """Fields.part()."""
        return self._inside(key, "object", False, ".")

    def part_or_empty(self, key: str) -> Asked:
        """Fields.part_or_empty()."""
        return self._inside(key, "object", False, ".")

    def needed_part(self, key: str) -> Asked:
        """Fields.needed_part()."""
        return self._inside(key, "object", True, ".")

    def maybe(self, key: str, read: Callable[[Any], T]) -> T | None:
        """Fields.maybe()."""
        return read(self._inside(key, "object", False, "."))

    def parts(self, key: str) -> list[Asked]:
        """Fields.parts()."""
        return [self._inside(key, "list of objects", False, "[].")]

    def parts_by_name(self, key: str) -> dict[str, Asked]:
        """Fields.parts_by_name()."""
        return {"NAME": self._inside(key, "object of objects", False, ".NAME.")}

    def anything(self, key: str) -> Any:
        """Fields.anything()."""
        self._note(key, "anything", False)
        return _ANSWERS.get(key)

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        """Fields.one_of()."""
        self._note(key, " or ".join(map(code, allowed)), True)
        return allowed[0]

    def wrong(self, key: str, expected: str) -> UsageError:
        """Fields.wrong(): the reader did not like an answer."""
        return UsageError(f"{self._place}{key}: {expected}; give an answer for it in _ANSWERS")


def fields() -> dict[str, dict[str, tuple[str, bool]]]:
    """Kind and whether it is needed, by field, by file."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}

    def of_file(path: Path, _: Path) -> Asked:
        return Asked(found.setdefault(path.name, {}), "")

    def of_part(_: Any, place: str) -> Asked:
        return Asked(found["run.json"], f"{place.partition(', ')[2]}.")

    reader = mock.Mock(side_effect=of_part, of_file=of_file)
    with TemporaryDirectory() as folder, mock.patch.object(results, "Fields", reader):
        run_dir = Path(folder)
        trial = run_dir / "trials" / _TRIAL
        trial.mkdir(parents=True)
        for path in (run_dir / "run.json", run_dir / "host.json", trial / "trial.json"):
            path.touch()
        results.load(run_dir, strict=False)
    return found


def page() -> str:
    """The page: a section for each file."""
    parts = [_HEAD]
    for name, found in fields().items():
        rows = [
            (code(path), kind, "needed" if needed else "") for path, (kind, needed) in found.items()
        ]
        parts.append(f"## {name}\n\n{table(('field', 'kind', ''), rows)}")
    return "\n".join(parts)
