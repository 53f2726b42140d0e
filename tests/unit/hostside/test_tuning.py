"""uplab/hostside/tuning.py: the transaction on a tree of files, cut off at every step."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hostside import kerneltree
from tests.unit.hostside.kerneltree import AFTER, ASLR, BEFORE, BOOT, NMI, PORTS, THP, TUNED
from uplab.hostside import cpuplan, tuning
from uplab.hostside.errors import HostError
from uplab.hostside.knobs import Wish
from uplab.hostside.settings import Settings
from uplab.hostside.tuning import Tuning
from uplab.hostside.tuning_journal import Entry, Journal, Noted

ROOT = Path(__file__).parents[3]
AS_NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
PLAIN = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
WISHES = [Wish("some", path, value) for path, value in TUNED.items()]
#: What a machine with four CPUs has.
PLAN = cpuplan.CpuPlan(frozenset({2, 3}), frozenset({1}), frozenset({0}))


class Host:
    """A tree of settings with its journal, and what a run's events say."""

    def __init__(self, folder: Path) -> None:
        self.root = kerneltree.make(folder / "root")
        self.journal = Journal(folder / "lib" / "tuning.json")
        self.events: list[tuple[str, dict[str, Any]]] = []

    @property
    def settings(self) -> Settings:
        return Settings(self.root)

    def tuning(self, settings: Settings | None = None) -> Tuning:
        return Tuning(settings or self.settings, self.journal.path)

    def emit(self, event: str, **details: Any) -> None:
        json.dumps(details)
        self.events.append((event, details))

    def values(self) -> dict[str, str]:
        return kerneltree.values(self.root)

    def set(self, name: str, value: str) -> None:
        self.settings.write(name, value)

    def crashed_tuned(self) -> None:
        """A run that tuned the host and was killed."""
        tuning.apply(self.settings, self.journal, "run-1", WISHES)

    def is_as_before(self) -> None:
        """Every value is back; one that was never written reads as the kernel decorates it."""
        for name, value in self.values().items():
            assert value in (BEFORE[name], AFTER[name]), name
        assert not self.journal.path.exists()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    def four(_settings: Settings, _cpus: frozenset[int]) -> cpuplan.CpuPlan:
        return PLAN

    def ours(_plan: cpuplan.CpuPlan | None, _role: str) -> Any:
        return on(None, "load")

    # The machine of the test may have fewer.
    on = cpuplan.on
    monkeypatch.setattr(cpuplan, "make", four)
    monkeypatch.setattr(cpuplan, "on", ours)
    # Nor may it raise its limits.
    monkeypatch.setattr(tuning, "FILE_LIMIT", 1)
    return Host(tmp_path)


class Failing(Settings):
    """Settings whose n-th write does something else."""

    def __init__(self, root: Path, number: int, error: BaseException) -> None:
        super().__init__(root)
        self.left = number
        self.error = error

    def write(self, name: str, value: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error
        super().write(name, value)


class Kernel(Settings):
    """Settings of a kernel that has a will of its own for one of them."""

    def __init__(self, root: Path, name: str, act: Callable[[str], str]) -> None:
        super().__init__(root)
        self.name = name
        self.act = act

    def write(self, name: str, value: str) -> None:
        super().write(name, self.act(value) if name == self.name else value)


def refuse(value: str) -> str:
    raise PermissionError(1, "Operation not permitted", value)


# --- a run that ends by itself --------------------------------------------------------------------


def test_a_host_is_tuned_for_the_time_of_a_run(host: Host) -> None:
    tuned = host.tuning()
    with tuned.hold("run-1", host.emit) as cpus:
        assert cpus == PLAN
        assert host.values() == TUNED
        noted = host.journal.load()
    assert noted.run_id == "run-1"
    assert {entry.path: (entry.old, entry.new) for entry in noted.entries} == {
        name: (AFTER[name], TUNED[name]) for name in BEFORE
    }
    assert {entry.boot_id for entry in noted.entries} == {kerneltree.BOOT_ID}
    host.is_as_before()
    assert [name for name, _ in host.events] == ["tuned", "tuning-restored"]
    assert tuned.record is not None
    assert len(tuned.record["changed"]) == len(BEFORE)
    assert tuned.record["not_tunable"] == []
    assert tuned.record["cpus"] == {"server": "2-3", "tracer": "1", "load": "0"}
    assert len(tuned.record["restored"]["put_back"]) == len(BEFORE)


def test_everything_is_noted_and_synced_before_the_first_value_is_written(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_sync, real_write = os.fsync, Settings.write

    def fsync(descriptor: int) -> None:
        order.append("sync")
        real_sync(descriptor)

    def write(self: Settings, name: str, value: str) -> None:
        order.append("write")
        real_write(self, name, value)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Settings, "write", write)
    host.crashed_tuned()
    assert order == ["sync", "sync"] + ["write"] * len(BEFORE)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), HostError("disk full"), OSError(5, "I/O")])
def test_it_is_put_back_whatever_ends_the_run(host: Host, error: BaseException) -> None:
    with pytest.raises(type(error)), host.tuning().hold("run-1", host.emit):
        raise error
    host.is_as_before()


def test_an_event_that_cannot_be_written_keeps_nothing_tuned(host: Host) -> None:
    def full(_event: str, **_details: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), host.tuning().hold("run-1", full):
        pass
    host.is_as_before()


def test_what_is_already_so_is_not_touched_and_not_put_back(host: Host) -> None:
    for name, value in TUNED.items():
        host.set(name, value)
    tuned = host.tuning()
    with tuned.hold("run-1", host.emit):
        assert not host.journal.path.exists()
        host.set(ASLR, "1")
    assert kerneltree.read(host.root, ASLR) == "1"
    assert tuned.record is not None
    # The interrupts are where the server is not, so nothing is wanted of them.
    assert {wish["path"] for wish in tuned.record["already"]} == {
        name for name in TUNED if "/irq/" not in name
    }
    assert [name for name, _ in host.events] == ["tuned"]


def test_files_may_be_opened_in_numbers_and_ours_are_limited_as_before(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = (before[1] - 2, before[1])
    monkeypatch.setattr(tuning, "FILE_LIMIT", before[1] - 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, lower)
    try:
        with host.tuning().hold("run-1", host.emit):
            inside = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == lower
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert inside == before[1] - 1
    assert host.events[0][1]["file_limit"] == inside


def test_a_hard_limit_that_may_not_be_raised_is_named() -> None:
    """Of an unprivileged process: root may raise it, where nothing forbids that."""
    program = (
        "import json, resource\n"
        "from uplab.hostside import tuning\n"
        "with tuning._file_limit() as (limit, against):\n"
        "    inside = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "after = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "print(json.dumps([limit, inside, after, [each.reason for each in against]]))\n"
    )
    limits = ["prlimit", "--nofile=1024:4096", "--"]
    done = subprocess.run(
        [*limits, *AS_NOBODY, sys.executable, "-c", program],
        cwd="/",
        env=PLAIN,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    why = "4096 files is this process's hard limit, and it may not raise it"
    assert json.loads(done.stdout) == [4096, [4096, 4096], [1024, 4096], [why]]


# --- what a host does not let be set --------------------------------------------------------------


def lacking(host: Host, name: str, settings: Settings) -> str:
    """Why one setting was not changed; all others were, and all are back."""
    tuned = host.tuning(settings)
    with tuned.hold("run-1", host.emit):
        inside = host.values()
    host.is_as_before()
    assert {key: value for key, value in inside.items() if key != name} == {
        key: value for key, value in TUNED.items() if key != name
    }
    assert tuned.record is not None
    (why,) = tuned.record["not_tunable"]
    assert name not in {entry["path"] for entry in tuned.record["changed"]}
    return str(why["reason"])


def test_a_value_that_is_read_only_is_named_and_the_others_are_set(host: Host) -> None:
    settings = Kernel(host.root, NMI, refuse)
    assert lacking(host, NMI, settings) == f"{NMI}: Operation not permitted"


def test_a_value_of_which_the_kernel_makes_another_one_is_put_back_at_once(host: Host) -> None:
    settings = Kernel(host.root, ASLR, lambda value: "1" if value == "0" else value)
    assert lacking(host, ASLR, settings) == f"{ASLR}: the kernel made 1 of 0"


def test_a_value_that_cannot_be_read_is_named(host: Host) -> None:
    (host.root / THP.lstrip("/")).unlink()
    (host.root / THP.lstrip("/")).mkdir()
    with host.tuning().hold("run-1", host.emit):
        pass
    (why,) = host.events[0][1]["not_tunable"]
    assert why == {"knob": "thp", "reason": f"{THP}: Is a directory"}


def test_a_value_that_moves_between_note_and_write_is_somebody_s(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Journal.save

    def save(self: Journal, noted: Noted) -> None:
        real(self, noted)
        if noted.entries:
            host.set(ASLR, "1")

    monkeypatch.setattr(Journal, "save", save)
    with host.tuning().hold("run-1", host.emit):
        assert kerneltree.read(host.root, ASLR) == "1"
    assert kerneltree.read(host.root, ASLR) == "1"
    (why,) = host.events[0][1]["not_tunable"]
    assert why["reason"] == f"{ASLR}: somebody else changes it now (2 became 1)"


@pytest.mark.parametrize("number", range(1, len(BEFORE) + 1))
def test_any_write_may_fail(host: Host, number: int) -> None:
    settings = Failing(host.root, number, OSError(5, "Input/output error"))
    with host.tuning(settings).hold("run-1", host.emit):
        assert sum(host.values()[name] == TUNED[name] for name in TUNED) == len(TUNED) - 1
    host.is_as_before()
    assert len(host.events[0][1]["not_tunable"]) == 1


@pytest.mark.parametrize("number", range(1, len(BEFORE) + 1))
def test_whatever_is_raised_at_any_write_is_undone(host: Host, number: int) -> None:
    settings = Failing(host.root, number, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), host.tuning(settings).hold("run-1", host.emit):
        pytest.fail("it is not tuned")
    host.is_as_before()


def test_without_a_journal_nothing_is_changed(tmp_path: Path, host: Host) -> None:
    (tmp_path / "lib").write_text("a file where its folder should be")
    with (
        pytest.raises(HostError, match=r"tuning.json is damaged|cannot be written"),
        host.tuning().hold("run-1", host.emit),
    ):
        pass
    assert host.values() == {name: text.strip() for name, text in BEFORE.items()}


# --- a run that did not end by itself -------------------------------------------------------------


def test_a_crash_between_note_and_write_leaves_nothing_to_do(host: Host) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuning.apply(Failing(host.root, 1, KeyboardInterrupt()), host.journal, "run-1", WISHES)
    assert len(host.journal.load().entries) == len(BEFORE)
    restored = host.tuning().restore()
    assert (restored.put_back, restored.left, restored.failed) == ([], [], [])
    host.is_as_before()


def test_a_crash_after_the_write_is_put_back_and_only_once(host: Host) -> None:
    host.crashed_tuned()
    restored = host.tuning().restore()
    assert restored.run_id == "run-1"
    assert not restored.after_reboot
    assert [entry.path for entry in restored.put_back] == list(reversed(TUNED))
    host.is_as_before()
    assert not host.tuning().restore().anything


def test_a_crash_after_the_last_value_and_before_the_journal_went_is_nothing(host: Host) -> None:
    host.crashed_tuned()
    noted = host.journal.load()
    host.tuning().restore()
    host.journal.save(noted)
    assert host.tuning().restore().put_back == []
    host.is_as_before()


KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from tests.unit.hostside import kerneltree
from uplab.hostside import cpuplan
from uplab.hostside.settings import Settings
from uplab.hostside.tuning import Tuning

folder = Path(sys.argv[1])
plan = cpuplan.CpuPlan(frozenset({2, 3}), frozenset({1}), frozenset({0}))
here = cpuplan.on
cpuplan.make = lambda *_: plan
cpuplan.on = lambda *_: here(None, "load")
kerneltree.make(folder / "fresh")

def run(case):
    tuning = Tuning(Settings(case / "root"), case / "lib" / "tuning.json")
    with tuning.hold("run-1", lambda *_, **__: None):
        (case / "inside").touch()

def kill_at(number, case):
    left = number
    def hook(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir"):
            if str(arguments[0]).startswith(str(case)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

number = 0
while True:
    number += 1
    case = folder / f"case-{number}"
    shutil.copytree(folder / "fresh", case / "root")
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        kill_at(number, case)
        run(case)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
print(number)
"""


def test_sigkill_before_any_access_to_a_file_is_put_back(host: Host, tmp_path: Path) -> None:
    """The whole run, from the first reading to the journal's end, killed at each step."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 8 * len(BEFORE)
    tuned_when_killed = 0
    for number in range(1, steps):
        case = tmp_path / "killed" / f"case-{number}"
        host.root, host.journal = case / "root", Journal(case / "lib" / "tuning.json")
        tuned_when_killed += any(host.values()[name] == TUNED[name] for name in TUNED)
        restored = host.tuning().restore()
        assert (restored.left, restored.failed) == ([], []), number
        host.is_as_before()
        # And a further run finds nothing in its way.
        with host.tuning().hold("run-2", host.emit):
            assert host.values() == TUNED
        host.is_as_before()
        shutil.rmtree(case)
    assert tuned_when_killed > 2 * len(BEFORE)


def test_a_run_that_is_killed_is_put_back_by_the_next_one(host: Host) -> None:
    program = (
        "import signal, sys, os\n"
        "from pathlib import Path\n"
        "from uplab.hostside.settings import Settings\n"
        "from uplab.hostside.tuning import Tuning\n"
        f"tuning = Tuning(Settings(Path({str(host.root)!r})), Path({str(host.journal.path)!r}))\n"
        "with tuning.hold('run-1', lambda *_, **__: None):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert kerneltree.read(host.root, ASLR) == "0"
    assert host.tuning().restore().run_id == "run-1"
    host.is_as_before()


# --- what somebody else changed -------------------------------------------------------------------


def test_a_value_that_somebody_else_changed_is_left_and_told(host: Host) -> None:
    with host.tuning().hold("run-1", host.emit):
        host.set(ASLR, "1")
    assert kerneltree.read(host.root, ASLR) == "1"
    _, details = host.events[-1]
    (left,) = details["left"]
    assert (left["entry"]["path"], left["found"]) == (ASLR, "1")
    noted = host.journal.load()
    assert noted.entries == ()
    assert [(each.entry.old, each.entry.new, each.found) for each in noted.left] == [
        ("2", "0", "1")
    ]
    # lab.restore says it again and does nothing.
    again = host.tuning().restore()
    assert not again.anything
    assert [each.found for each in again.earlier] == ["1"]
    assert kerneltree.read(host.root, ASLR) == "1"


def test_the_next_tuned_run_begins_a_report_of_its_own(host: Host) -> None:
    with host.tuning().hold("run-1", host.emit):
        host.set(ASLR, "1")
    with host.tuning().hold("run-2", host.emit):
        assert host.journal.load().left == ()
    assert kerneltree.read(host.root, ASLR) == "1"
    assert not host.journal.path.exists()


def test_a_value_that_somebody_else_put_back_is_nothing_to_tell(host: Host) -> None:
    with host.tuning().hold("run-1", host.emit):
        host.set(ASLR, "2")
    host.is_as_before()
    assert host.events[-1][1]["left"] == []


def test_a_journal_that_somebody_took_away_loses_nothing(host: Host) -> None:
    with host.tuning().hold("run-1", host.emit):
        host.journal.path.unlink()
    host.is_as_before()


def test_a_journal_that_was_damaged_meanwhile_loses_nothing(host: Host) -> None:
    with host.tuning().hold("run-1", host.emit):
        host.journal.path.write_text("{")
    host.is_as_before()


# --- a reboot -------------------------------------------------------------------------------------


def rebooted(host: Host, **values: str) -> tuning.Restored:
    """The host after a power loss: every value the boot's own, some another one."""
    host.crashed_tuned()
    for name, value in BEFORE.items():
        host.set(name, value)
    for name, value in values.items():
        host.set({"aslr": ASLR, "nmi": NMI}[name], value)
    host.set(BOOT, kerneltree.OTHER_BOOT_ID)
    return host.tuning().restore()


def test_after_a_power_loss_there_is_nothing_to_put_back(host: Host) -> None:
    restored = rebooted(host)
    assert restored.after_reboot
    assert (restored.put_back, restored.left, restored.failed) == ([], [], [])
    host.is_as_before()


def test_after_a_reboot_a_value_of_the_boot_is_its_own(host: Host) -> None:
    restored = rebooted(host, aslr="1")
    assert (restored.put_back, restored.left) == ([], [])
    assert kerneltree.read(host.root, ASLR) == "1"
    assert not host.journal.path.exists()


def test_after_a_reboot_a_value_that_is_still_ours_is_put_back(host: Host) -> None:
    restored = rebooted(host, aslr="0", nmi="0")
    assert [entry.path for entry in restored.put_back] == [ASLR, NMI]
    host.is_as_before()


# --- what cannot be put back ----------------------------------------------------------------------


def test_what_cannot_be_put_back_is_told_and_stays_noted(host: Host) -> None:
    settings = Kernel(host.root, ASLR, lambda value: value if value == "0" else refuse(value))
    with pytest.raises(HostError) as caught, host.tuning(settings).hold("run-1", host.emit):
        pass
    assert str(caught.value) == (
        f"this host is still tuned: {ASLR} could not be put back to 2 (Operation not permitted), "
        f"as {host.journal.path} says. Run: invoke lab.restore"
    )
    assert [entry.path for entry in host.journal.load().entries] == [ASLR]
    # The next run, tuned or not, tries again, and does not note our value as the old one.
    with pytest.raises(HostError), host.tuning(settings).hold("run-2", host.emit):
        (kept,) = [entry for entry in host.journal.load().entries if entry.path == ASLR]
    assert (kept.old, kept.new) == ("2", "0")
    restored = host.tuning().restore()
    assert [entry.path for entry in restored.put_back] == [ASLR]
    host.is_as_before()


@pytest.mark.parametrize("number", range(1, len(BEFORE) + 1))
def test_any_write_that_puts_back_may_fail_once(host: Host, number: int) -> None:
    host.crashed_tuned()
    settings = Failing(host.root, number, OSError(5, "Input/output error"))
    restored = host.tuning(settings).restore()
    assert len(restored.failed) == 1
    assert len(restored.put_back) == len(BEFORE) - 1
    assert len(host.tuning().restore().put_back) == 1
    host.is_as_before()


def test_a_setting_that_went_away_is_nothing_to_put_back(host: Host) -> None:
    host.crashed_tuned()
    (host.root / kerneltree.IRQS[0].lstrip("/")).unlink()
    restored = host.tuning().restore()
    assert restored.failed == []
    assert not host.journal.path.exists()
    assert not (host.root / kerneltree.IRQS[0].lstrip("/")).exists()


def test_a_damaged_journal_stops_the_run_and_changes_nothing(host: Host) -> None:
    host.crashed_tuned()
    host.journal.path.write_text('{"schema": 1')
    with pytest.raises(HostError, match="is damaged"):
        host.tuning().restore()
    with pytest.raises(HostError, match="is damaged"):
        tuning.apply(host.settings, host.journal, "run-2", WISHES)
    assert host.values() == TUNED
    assert host.journal.path.read_text() == '{"schema": 1'


def test_without_permission_each_value_is_named(host: Host, tmp_path: Path) -> None:
    """A real user who may write the journal and none of the settings."""
    lib = tmp_path / "nobody"
    lib.mkdir()
    os.chown(lib, 65534, 65534)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and str(path).startswith("/tmp/pytest"):
            path.chmod(0o755)
    for folder in (host.root, *(p for p in host.root.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from uplab.hostside import tuning\n"
        "from uplab.hostside.knobs import Wish\n"
        "from uplab.hostside.settings import Settings\n"
        "from uplab.hostside.tuning_journal import Journal\n"
        f"wishes = [Wish('some', p, v) for p, v in {TUNED!r}.items()]\n"
        f"settings, journal = Settings(Path({str(host.root)!r})), Journal(Path(sys.argv[1]))\n"
        "applied = tuning.apply(settings, journal, 'r', wishes)\n"
        "print(json.dumps([applied.as_json(), journal.path.exists()]))\n"
    )
    argv = [*AS_NOBODY, sys.executable, "-c", program, str(lib / "tuning.json")]
    done = subprocess.run(argv, cwd="/", env=PLAIN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    applied, journal_there = json.loads(done.stdout)
    assert applied["changed"] == []
    assert [each["reason"] for each in applied["not_tunable"]] == [
        f"{name}: Permission denied" for name in TUNED
    ]
    assert not journal_there
    assert host.values() == {name: text.strip() for name, text in BEFORE.items()}


def test_the_old_value_of_a_note_is_not_lost_where_one_is_pending(host: Host) -> None:
    host.crashed_tuned()
    (entry,) = [each for each in host.journal.load().entries if each.path == PORTS]
    host.journal.save(Noted("run-1", (replace(entry, old="40000 50000"),)))
    applied = tuning.apply(host.settings, host.journal, "run-2", WISHES)
    assert applied.changed == []
    assert isinstance(applied.noted.entries[0], Entry)
    assert host.journal.load().entries[0].old == "40000 50000"
