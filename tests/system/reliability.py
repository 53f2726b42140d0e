"""A fault strikes a remote run: what is looked at after each, and the table of what was lost.

Every test of a fault is named by its docstring, works through a :class:`Struck`, and at the end
goes through :meth:`Struck.conclude`. Its row is held against the one in ``docs/reliability.md``;
``UPLAB_UPDATE_GOLDEN=1`` writes it there instead.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.away import LIMIT_S, RUNS, Away, follow_until
from tests.system.lab import ROOT
from uplab import checksums, results, resume
from uplab.hostside.doctor import AVAILABLE

PAGE = ROOT / "docs" / "reliability.md"
#: The rows of the last run of each test, where whoever runs the tests may look.
OUTPUT = ROOT / ".uplab" / "reliability.md"
HEAD = """\
| fault | exit code | trials finished when it struck | lost | brought back by |
|---|---|---|---|---|
"""
_BEGIN, _END = "<!-- rows: begin -->\n", "<!-- rows: end -->\n"
_UPDATE = os.environ.get("UPLAB_UPDATE_GOLDEN") == "1"

#: A unit that has ended is not forgotten at once.
LEFT_LIMIT_S = 20.0

#: Names and digests of all files of finished trials, as sha256sum prints them.
_FINISHED = f"""
cd {RUNS} || exit
for run in *; do
  cd "$run" && find trials -name '.part-*' -prune -o -type f -exec sha256sum {{}} + && cd ..
done
"""
#: What can be waited for on a host before its run is held: wrk drives the server.
IN_THE_LOAD = "until pgrep -x wrk >/dev/null; do sleep 0.02; done"
_HOLD = "pkill -STOP -f [r]un-detached || :"
GO_ON = "pkill -CONT -f [r]un-detached || :"
#: A line for each thing of ours that is on a host, beside processes, units and runs.
_LEFT = """
ls -A /dev/shm
ls -A /var/lib/uplab | grep -vx runs
for notes in /run/uplab/children.json /run/uplab/leftovers.json; do
  [ ! -e "$notes" ] || [ "$(cat "$notes")" = '[]' ] || cat "$notes"
done
[ ! -e /run/uplab/lock ] || flock --nonblock /run/uplab/lock true || echo "the lock is held"
:
"""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        fault: its name.
        code: what the command that it struck ended with.
        struck_at: how many trials were finished then; another number each time.
        lost: how many of them are not in the run directory, byte for byte.
        back: what it took to bring the rest here, and to measure what was missing.
    """

    fault: str
    code: str
    struck_at: int
    lost: int
    back: str

    def __str__(self) -> str:
        columns = (self.fault, self.code, str(self.struck_at), str(self.lost), self.back)
        return f"| {' | '.join(columns)} |\n"

    def is_like(self, line: str) -> bool:
        """Whether a line of the page says the same; the figure that is chance aside."""
        columns = line.strip("|\n ").split(" | ")
        return (
            len(columns) == 5
            and columns[2].isdigit()
            and str(self)
            == str(Row(columns[0], columns[1], self.struck_at, int(columns[3]), columns[4]))
        )


def named(request: pytest.FixtureRequest) -> str:
    """The fault that a test is about: its docstring."""
    return (request.function.__doc__ or "").rstrip(".")


def rows(page: str) -> list[str]:
    """The table's lines, without its head."""
    between = page.partition(_BEGIN)[2].partition(_END)[0]
    return between.removeprefix(HEAD).splitlines(keepends=True)


def fault_of(line: str) -> str:
    """The fault that a line of the table is about."""
    return line.split("|")[1].strip()


def put(page: str, row: Row) -> str:
    """The page with a row in its place."""
    known = rows(page)
    names = [fault_of(line) for line in known]
    if row.fault in names:
        known[names.index(row.fault)] = str(row)
    else:
        known.append(str(row))
    before, _, rest = page.partition(_BEGIN)
    return f"{before}{_BEGIN}{HEAD}{''.join(known)}{_END}{rest.partition(_END)[2]}"


def report(row: Row) -> None:
    """Write a row down, and hold it against the page."""
    with suppress(FileExistsError):
        OUTPUT.parent.mkdir()
    so_far = OUTPUT.read_text() if OUTPUT.exists() else f"{_BEGIN}{HEAD}{_END}"
    OUTPUT.write_text(put(so_far, row))
    page = PAGE.read_text()
    if _UPDATE:
        PAGE.write_text(put(page, row))
        return
    of_it = [line for line in rows(page) if fault_of(line) == row.fault]
    assert [row.is_like(line) for line in of_it] == [True], (
        f"{PAGE} says {of_it}, seen was {row}; look at it, then run the test again with "
        "UPLAB_UPDATE_GOLDEN=1"
    )


@dataclass
class Struck:
    """A run on a host that a fault strikes.

    Args:
        fault: its name.
        away: the host.
    """

    fault: str
    away: Away
    code: str = ""
    finished: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    @contextmanager
    def measuring(self, *words: str, argv: list[str] | None = None) -> Iterator[Controller]:
        """A controller that measures here, for as long as a block runs."""
        # A run that was held for long has an invalid trial, whose block is measured again.
        words = ("--set=repeat.per_block=2", *words)
        command = argv or self.away.argv("bench.all", *self.away.all(*words))
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield Controller(process)
            finally:
                process.kill()

    def strikes(self, when: str = ":") -> None:
        """Hold the run, where it goes on, and note what is finished: none of it may be lost.

        Args:
            when: what is waited for on the host before.

        Held, it does not end before the fault has struck, however slow this machine is.
        """
        self.away.run("sh", "-c", f"{when}; {_HOLD}")
        said = self.away.run("sh", "-c", _FINISHED).splitlines()
        self.finished = {
            name: digest for digest, _, name in (line.partition("  ") for line in said)
        }
        assert self.trials, "no trial was finished yet"

    def goes_on(self) -> None:
        """Let a run go on that was held."""
        self.away.outside("sh", "-c", GO_ON)

    @property
    def trials(self) -> set[str]:
        """The names of the trials that were finished."""
        return {name.split("/")[1] for name in self.finished}

    def back(self, task: str, *words: str) -> str:
        """Run a task that brings something back; out: what it prints."""
        self.commands.append(task)
        if task == "bench.stop":
            return self.away.invoke(task, *words)
        if task != "bench.resume":
            return self.away.invoke(task, *words, "--results", self.away.results)
        return self.away.invoke_bare(task, *words, "--results", self.away.results)

    def conclude(self, run_dir: Path | None = None) -> Path:
        """Nothing was lost, the rest can be measured, and nothing of ours is left; the row."""
        found = run_dir or self.away.collected()
        lost = self._lost(found)
        assert checksums.differences(found) == []
        if lacking(found):
            self.back("bench.resume", str(found))
        assert lacking(found) == 0
        assert checksums.differences(found) == []
        assert self._lost(found) == lost
        assert [path for path in found.parent.iterdir() if path.name.startswith(".")] == []
        self._wait_until_nothing_is_left()
        back = ", then ".join(f"`{command}`" for command in self.commands)
        report(Row(self.fault, self.code, len(self.trials), len(lost), back or "itself"))
        assert lost == set()
        return found

    def _lost(self, run_dir: Path) -> set[str]:
        """The finished trials that are not there as they were."""
        return {
            name.split("/")[1]
            for name, digest in self.finished.items()
            if _sha256(run_dir / name) != digest
        }

    def _wait_until_nothing_is_left(self) -> None:
        deadline_s = time.monotonic() + LEFT_LIMIT_S
        while left := self._left():
            assert time.monotonic() < deadline_s, left

    def _left(self) -> set[str]:
        """What is left of us on the host."""
        return {*self.away.traces(), *self.away.run("sh", "-c", _LEFT).splitlines()}


@dataclass(frozen=True)
class Controller:
    """A bench.all that runs."""

    process: subprocess.Popen[str]

    def until(self, text: str) -> None:
        """Read what it prints until a line holds a text."""
        follow_until(self.process, text)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ends(self, code: int) -> str:
        """Wait for its end; out: the rest that it printed."""
        rest = self.process.communicate(timeout=LIMIT_S)[0]
        assert self.process.returncode == code, rest
        return rest


def lacking(run_dir: Path) -> int:
    """How many trials a run lacks before each block holds a valid one of each cell."""
    run = results.load(run_dir)
    cells = [planned for planned in run.cells if planned.status == AVAILABLE]
    assert cells
    return len(cells) * run.blocks - len(resume.earlier(run).skip)


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
