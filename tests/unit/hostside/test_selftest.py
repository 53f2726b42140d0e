"""uplab/hostside/selftest.py: whether a tracer starts here; all tracers are stand-ins."""

from __future__ import annotations

import json
import os
import platform
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import selftest
from uplab.hostside.selftest import SelfTests
from uplab.hostside.spec import Cause, FileRef, ModeSpec, TracerAdapter
from uplab.hostside.store import Store

#: Notes each start, and that it was ended.
NOTED = 'echo start >> "$0.log"; trap "echo end >> $0.log; exit 1" TERM; '
STARTS = f"{NOTED} echo ready; while :; do sleep 0.05; done"
DIES = 'echo start >> "$0.log"; echo "libtrace: no BTF here"; echo "giving up" >&2; exit 7'


@dataclass
class Bench:
    """A store with one stand-in for a tracer."""

    folder: Path

    def __post_init__(self) -> None:
        self.program = self.folder / "tracer.sh"
        self.files = self.folder / "adapters" / "tracers" / "t"
        self.files.mkdir(parents=True)
        (self.files / "start.sh").write_text('exec sh "$@"\n')
        self.tracer = TracerAdapter(
            1,
            "tracer",
            "t",
            "",
            ("{program}",),
            modes={"tracer-only": ModeSpec()},
            programs={"program": FileRef(path=str(self.program))},
            files=("start.sh",),
            ready_line="^ready",
            attached_timeout_s=5,
            self_test=("sh", "{adapter}/start.sh", "{program}"),
        )

    def tests(self, *, start: bool = True) -> SelfTests:
        state = self.folder / "state"
        return SelfTests(Store(self.folder), state, lambda: self.folder / "adapters", start)

    def refusal(self, script: str | None = None, **changes: Any) -> str | None:
        """What is said of a tracer that is this script."""
        if script is not None:
            self.program.write_text(script)
        return self.tests().refusal(replace(self.tracer, **changes))

    @property
    def starts(self) -> list[str]:
        return Path(f"{self.program}.log").read_text().split()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_one_that_says_it_is_ready_starts_and_is_ended(bench: Bench) -> None:
    assert bench.refusal(STARTS) is None
    assert bench.starts == ["start", "end"]
    assert sorted(os.listdir(bench.folder / "state")) == [
        "self-tests-children.json",
        "self-tests.json",
        "self-tests.lock",
    ]


def test_it_is_started_once(bench: Bench) -> None:
    for _ in range(3):
        assert bench.refusal(STARTS) is None
    assert bench.starts.count("start") == 1


def test_one_that_dies_is_refused_with_its_last_line(bench: Bench) -> None:
    expected = "t does not start here: exit code 7, last line: giving up"
    assert bench.refusal(DIES) == expected
    assert bench.refusal() == expected
    assert bench.starts == ["start"]


def test_what_the_adapter_knows_of_the_cause_is_told(bench: Bench) -> None:
    causes = (Cause("cannot fly", "buy wings"), Cause("no BTF", "name a newer one"))
    said = bench.refusal(DIES, causes=causes)
    assert said == "t does not start here: exit code 7, last line: giving up (name a newer one)"


def test_a_refusal_is_not_believed_for_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.refusal(DIES)
    monkeypatch.setattr(selftest, "_REFUSAL_KEPT_S", 0.0)
    path = bench.folder / "state" / "self-tests.json"
    ((key, answer),) = json.loads(path.read_text()).items()
    path.write_text(json.dumps({key: {**answer, "monotonic_s": answer["monotonic_s"] - 301}}))
    bench.refusal()
    assert bench.starts == ["start", "start"]


def test_one_that_is_never_ready_is_refused_and_asked_again(bench: Bench) -> None:
    script = f"{NOTED} echo loading; while :; do sleep 0.05; done"
    said = bench.refusal(script, attached_timeout_s=0.3)
    assert said == "t does not start here: not ready within 0.3 s, last line: loading"
    bench.refusal(attached_timeout_s=0.3)
    assert bench.starts.count("start") == 2


def test_one_that_tries_itself_and_ends_well_starts(bench: Bench) -> None:
    assert bench.refusal("echo all is well") is None


def test_a_program_that_cannot_be_run_is_refused(bench: Bench) -> None:
    said = bench.refusal("", self_test=("/nothing/there",))
    assert said is not None
    assert "/nothing/there" in said


def changed(bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str) -> dict[str, Any]:
    """Change one thing that the answer depends on; out: changes of the adapter."""
    if what == "program":
        bench.program.write_text(f"{STARTS} #")
    elif what == "file":
        (bench.files / "start.sh").write_text('exec sh "$@" #\n')
    elif what == "kernel":
        monkeypatch.setattr(platform, "release", lambda: "7.0")
    elif what == "limit":
        monkeypatch.setattr(resource, "getrlimit", lambda _which: (1, 1))
    return {"env": {"A": "b"}} if what == "env" else {}


@pytest.mark.parametrize("what", ["program", "file", "kernel", "limit", "env"])
def test_what_the_answer_depends_on_asks_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    bench.refusal(STARTS)
    bench.refusal(**changed(bench, monkeypatch, what))
    assert bench.starts.count("start") == 2


def test_where_none_may_be_started_what_is_not_known_is_named(bench: Bench) -> None:
    bench.program.write_text(STARTS)
    tests = bench.tests(start=False)
    assert tests.refusal(bench.tracer) is None
    assert tests.untested == {"t"}
    bench.refusal()
    tests = bench.tests(start=False)
    assert (tests.refusal(bench.tracer), tests.untested) == (None, set())


def test_damaged_answers_are_none(bench: Bench) -> None:
    (bench.folder / "state").mkdir()
    for text in ("{", "[]"):
        (bench.folder / "state" / "self-tests.json").write_text(text)
        assert bench.refusal(STARTS) is None
    assert bench.starts.count("start") == 2


def test_one_without_a_test_is_not_started(bench: Bench) -> None:
    assert bench.refusal(STARTS, self_test=()) is None
    assert not Path(f"{bench.program}.log").exists()
