"""The last lines of the logs of trials that do not count: why is read where it is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uplab.report import columns, text
from uplab.report.model import Report
from uplab.results import trial_directory

_TRIALS, _LINES, _LINE_LENGTH = 40, 12, 300
_TAIL_BYTES = 6000
_TEXTS = (".log", ".txt")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A trial, why it is invalid, and the ends of its logs by file name."""

    trial: str
    why: str
    logs: tuple[tuple[str, str], ...]


def excerpts(report: Report) -> Iterator[Excerpt]:
    """Of the first invalid trials the end of each log, as harmless lines."""
    for trial in report.invalid[:_TRIALS]:
        folder = trial_directory(report.run, trial)
        found = []
        for path in sorted(folder.iterdir()):
            if path.suffix in _TEXTS and path.is_file() and not path.is_symlink():
                lines = _last_lines(path)
                if lines:
                    found.append((path.name, lines))
        yield Excerpt(trial.name, columns.reasons(trial), tuple(found))


def _last_lines(path: Path) -> str:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read(_TAIL_BYTES).decode("utf-8", "replace")
    # Of a file that is longer, the first line may be a part of one.
    lines = tail.split("\n")[1 if size > _TAIL_BYTES else 0 :]
    shown = [text.plain(line, _LINE_LENGTH) for line in lines if line.strip()]
    return "\n".join(shown[-_LINES:])
