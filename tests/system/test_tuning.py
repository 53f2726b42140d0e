"""Tuned runs with real programs on a tree of settings, and real settings that can be put back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.system.lab import ROOT, Lab
from tests.unit.hostside import kerneltree
from tests.unit.hostside.kerneltree import AFTER, ASLR, BEFORE, PORTS, THP, TUNED
from uplab.hostside import cpuplan, tuning
from uplab.hostside.cpuplan import CpuPlan, cpu_list
from uplab.hostside.knobs import Wish
from uplab.hostside.run import Run
from uplab.hostside.settings import Settings
from uplab.hostside.spec import Plan
from uplab.hostside.tuning import Tuning
from uplab.hostside.tuning_journal import Journal, journal_of

PLAIN = "server=http,mode=none"
TIMEOUT_S = 30.0
#: hostside's run as a process of its own, on a tree of settings; the plan on stdin.
PROGRAM = (
    "import json, sys\n"
    "from pathlib import Path\n"
    "from uplab.hostside.run import Run\n"
    "from uplab.hostside.decode import build\n"
    "from uplab.hostside.spec import Plan\n"
    "out, store, state, root, kernel = map(Path, sys.argv[1:])\n"
    "plan = build(Plan, json.loads(sys.stdin.read()))\n"
    "sys.exit(Run(plan, out, store, state, root, follow=True, kernel=kernel).run())\n"
)


def plan(lab: Lab, *settings: str, only: str = PLAIN, tune: bool = True) -> Plan:
    """A short tuned run."""
    _, made, _ = lab.plan(*settings, only=only)
    return replace(made, tune=tune)


def measure(lab: Lab, made: Plan, kernel: Path) -> tuple[int, Path]:
    """Run to the end in this process; out: the exit code and the run directory."""
    out = lab.runs / made.run_id
    return Run(made, out, lab.store, lab.state, ROOT, follow=False, kernel=kernel).run(), out


def started(lab: Lab, made: Plan, kernel: Path) -> subprocess.Popen[bytes]:
    """Run in a process of its own."""
    folders = (lab.runs / made.run_id, lab.store, lab.state, ROOT, kernel)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, folders)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(made)).encode())
    process.stdin.close()
    process.stdin = None
    return process


def wait_for_step(process: subprocess.Popen[bytes], step: str) -> None:
    """Read events until a trial is at a step."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "step" and event["step"] == step:
            return
    pytest.fail(f"no step {step}")


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def trials(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("trials/*/trial.json"))]


def run_json(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def is_as_before(lab: Lab, kernel: Path) -> None:
    """Every setting is back, and nothing is noted any more."""
    for name, value in kerneltree.values(kernel).items():
        assert value in (BEFORE[name], AFTER[name]), name
    assert not journal_of(lab.runs).exists()


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return kerneltree.make(tmp_path / "kernel")


# --- a tuned run ----------------------------------------------------------------------------------


def test_a_run_is_tuned_and_says_so_and_the_host_is_as_before(lab: Lab, kernel: Path) -> None:
    code, out = measure(lab, plan(lab), kernel)
    assert code == 0
    is_as_before(lab, kernel)
    record = run_json(out)["tuning"]
    changed = {each["path"]: each["new"] for each in record["changed"]}
    irqs = set(kerneltree.IRQS)
    assert {k: v for k, v in changed.items() if k not in irqs} == {
        name: value for name, value in TUNED.items() if name not in irqs
    }
    assert len(record["restored"]["put_back"]) == len(changed)
    assert (record["restored"]["left"], record["restored"]["failed"]) == ([], [])
    names = [event["event"] for event in events(out)]
    assert names.index("tuned") < names.index("trial-start")
    assert names.index("tuning-restored") > names.index("trial-end")
    (trial,) = trials(out)
    assert trial["verdict"]["reasons"] == []
    assert trial["tuning"]["file_limit"] == record["file_limit"]


def test_server_tracer_and_load_run_on_their_own_cpus(
    lab: Lab, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a plan for two CPUs where there are no four: what children get is real."""
    cpus = sorted(os.sched_getaffinity(0))
    shared = CpuPlan(frozenset(cpus[1:]), frozenset(cpus[:1]), frozenset(cpus[:1]))
    monkeypatch.setattr(cpuplan, "make", lambda *_: shared)
    seen: dict[str, set[str]] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            for name, pid in _children(lab):
                seen.setdefault(name, set()).update(_affinities(pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        code, out = measure(lab, plan(lab, only="server=http,mode=kernel-uprobe"), kernel)
    finally:
        done.set()
        looking.join()
    assert code == 0
    first, others = cpu_list({cpus[0]}), cpu_list(set(cpus[1:]))
    wanted = {"server": others, "tracer": first, "load": first}
    assert {name: seen[name] for name in wanted} == {name: {v} for name, v in wanted.items()}
    (trial,) = trials(out)
    assert trial["tuning"]["cpus"] == wanted
    assert sorted(os.sched_getaffinity(0)) == cpus


def _children(lab: Lab) -> list[tuple[str, int]]:
    try:
        noted = json.loads((lab.state / "children.json").read_text())
    except (OSError, ValueError):
        return []
    return [(entry["name"], entry["pid"]) for entry in noted]


def _affinities(pid: int) -> set[str]:
    """The CPUs of each thread of a process."""
    try:
        tasks = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
        return {cpu_list(os.sched_getaffinity(task)) for task in tasks}
    except OSError:
        return set()


def test_without_the_flag_nothing_is_touched(lab: Lab, kernel: Path) -> None:
    made = plan(lab, tune=False)
    code, out = measure(lab, made, kernel)
    assert code == 0
    assert kerneltree.values(kernel) == {name: text.strip() for name, text in BEFORE.items()}
    assert run_json(out)["tuning"] is None
    assert trials(out)[0]["tuning"] is None
    assert {"tuned", "tuning-restored"}.isdisjoint(event["event"] for event in events(out))


def test_a_signal_puts_it_back(lab: Lab, kernel: Path) -> None:
    with started(lab, plan(lab, "load.duration_s=20"), kernel) as process:
        wait_for_step(process, "measure")
        assert kerneltree.read(kernel, ASLR) == "0"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 130
    is_as_before(lab, kernel)


def test_after_sigkill_the_next_run_puts_it_back_first(lab: Lab, kernel: Path) -> None:
    first = plan(lab, "load.duration_s=20")
    with started(lab, first, kernel) as process:
        wait_for_step(process, "measure")
        process.kill()
    assert kerneltree.values(kernel)[ASLR] == "0"
    # Not a tuned one itself.
    made = replace(plan(lab, tune=False), run_id=f"{first.run_id}-next")
    code, out = measure(lab, made, kernel)
    assert code == 0
    is_as_before(lab, kernel)
    (event,) = [event for event in events(out) if event["event"] == "tuning-restored"]
    assert event["run_id"] == first.run_id
    assert ASLR in {entry["path"] for entry in event["put_back"]}


def test_a_damaged_journal_stops_the_next_run_before_anything(lab: Lab, kernel: Path) -> None:
    journal = journal_of(lab.runs)
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_text("{")
    journal.chmod(0o600)
    made = plan(lab)
    with pytest.raises(Exception, match="is damaged") as caught:
        measure(lab, made, kernel)
    assert f"mv {journal} {journal}.damaged" in str(caught.value)
    assert not (lab.runs / made.run_id).exists()
    assert journal.read_text() == "{"


# --- noise ----------------------------------------------------------------------------------------


def in_parallel(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


#: Of all limits that of the temperature alone, and what is over it is measured again twice.
AGAIN_WHERE_HOT = (
    "limits.over=invalid",
    "limits.steal_pct=100",
    "limits.foreign_pct=100",
    "repeat.per_block=2",
)


def test_a_hot_host_is_measured_again_up_to_the_cap_where_that_is_invalid(
    lab: Lab, kernel: Path
) -> None:
    zone = kernel / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("95000\n")
    (zone / "type").write_text("x86_pkg_temp\n")
    made = plan(
        lab,
        *AGAIN_WHERE_HOT,
        only="server=http,mode=none,mode=none-again",
        tune=False,
    )
    code, out = measure(lab, made, kernel)
    assert code == 0
    found = trials(out)
    # The whole block each time, not the noisy trial alone.
    assert [(trial["attempt"], trial["position"]) for trial in found] == [
        (attempt, position) for attempt in (1, 2, 3) for position in (1, 2)
    ]
    for trial in found:
        text = "95.0 degrees Celsius (x86_pkg_temp) > 90"
        assert trial["verdict"]["reasons"] == [{"code": "noise", "text": text}]
        assert trial["load"]["requests"] > 0
    again = [event["attempt"] for event in events(out) if event["event"] == "block-again"]
    assert again == [2, 3]


def test_a_block_in_which_the_host_was_throttled_once_is_measured_once_more(
    lab: Lab, kernel: Path
) -> None:
    count = kernel / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    count.parent.mkdir(parents=True)
    count.write_text("0\n")
    made = plan(
        lab,
        *AGAIN_WHERE_HOT,
        only="server=http,mode=none,mode=none-again",
        tune=False,
    )
    path = lab.runs / made.run_id / "events.jsonl"

    def throttle() -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            if path.exists() and '"step": "measure"' in path.read_text():
                count.write_text("1\n")
                return
            time.sleep(0.01)

    throttling = in_parallel(throttle)
    code, out = measure(lab, made, kernel)
    throttling.join()
    assert code == 0
    found = trials(out)
    assert [trial["attempt"] for trial in found] == [1, 1, 2, 2]
    assert [trial["verdict"]["valid"] for trial in found] == [False, True, True, True]
    assert found[0]["noise"]["throttle_events"] == 1
    assert found[0]["verdict"]["reasons"][0]["text"] == "CPU throttling events 1 > 0"


def test_the_same_is_only_a_flag_where_the_matrix_says_so(lab: Lab, kernel: Path) -> None:
    zone = kernel / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("95000\n")
    _, out = measure(lab, plan(lab, "repeat.per_block=2", tune=False), kernel)
    (trial,) = trials(out)
    assert trial["verdict"]["valid"]
    assert "95.0 degrees Celsius (thermal_zone0) > 90" in trial["verdict"]["flags"]
    # What the tree does not have is named, not 0.
    assert trial["noise"]["throttle_events"] is None
    assert "throttle_events" in trial["noise"]["missing"]


def test_every_second_of_a_measurement_is_in_its_record(lab: Lab) -> None:
    outcome = lab.measure("load.duration_s=3", only=PLAIN)
    (trial,) = outcome.trials
    series = trial["cpu"]["series"]
    columns = {name: text.split() for name, text in series.items() if name != "interval_s"}
    assert set(columns) == {"at_s", "steal_pct", "foreign_pct", "context_switches"}
    assert {len(column) for column in columns.values()} == {3}
    assert [round(float(end_s)) for end_s in columns["at_s"]] == [1, 2, 3]
    assert min(int(switches) for switches in columns["context_switches"]) > 0
    # All of it together is what the record says as a whole.
    assert sum(map(int, columns["context_switches"])) <= trial["cpu"]["context_switches"]["host"]
    assert trial["noise"]["oom_kills"] == 0 or trial["verdict"]["flags"]


def test_a_process_that_the_kernel_kills_for_memory_is_seen(not_measurable: Any) -> None:
    """A real one, in a control group of its own."""
    from uplab.hostside.noise import Watch

    folder = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes"
    if not folder.is_dir():
        folder, limit = Path("/sys/fs/cgroup"), "memory.max"
        if "memory" not in (folder / "cgroup.subtree_control").read_text().split():
            not_measurable("no memory controller that a control group of ours could use")
    group = folder / f"uplab-test-{os.getpid()}"
    group.mkdir()
    watch = Watch().begin()
    try:
        (group / limit).write_text(str(32 << 20))
        script = (
            f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -c 'x = b\"x\" * (1 << 28)'"
        )
        done = subprocess.run(["sh", "-c", script], check=False)
        record = watch.end()
    finally:
        watch.close()
        group.rmdir()
    assert done.returncode == -signal.SIGKILL
    assert record["oom_kills"] >= 1
    assert record["kernel"]["counts"]["oom"] >= 1
    assert "Killed process" in record["kernel"]["lines"]["oom"][0]


# --- real settings --------------------------------------------------------------------------------

NETNS = ["unshare", "--net", "--"]


def test_a_real_setting_survives_sigkill_and_is_put_back_by_the_command(tmp_path: Path) -> None:
    """The port range of a network namespace of our own; the machine's own stays as it is."""
    machine = Path(PORTS).read_text()
    runs, state = tmp_path / "lib/runs", tmp_path / "state"
    killed = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from uplab.hostside import tuning\n"
        "from uplab.hostside.knobs import Wish\n"
        "from uplab.hostside.settings import Settings\n"
        "from uplab.hostside.tuning_journal import Journal, journal_of\n"
        f"journal = Journal(journal_of(Path({str(runs)!r})))\n"
        f"wish = Wish('port-range', {PORTS!r}, '10000 65535')\n"
        "tuning.apply(Settings(), journal, 'r1', [wish])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-m", "uplab.hostside", "--state", str(state), "--runs", str(runs)]
    program = (
        "import json, subprocess, sys\n"
        "from pathlib import Path\n"
        "killed, command = json.loads(sys.stdin.read())\n"
        f"ports = Path({PORTS!r})\n"
        "ports.write_text('40000 50000')\n"
        "code = subprocess.run([sys.executable, '-c', killed]).returncode\n"
        "tuned = ports.read_text().split()\n"
        "done = subprocess.run([*command, 'restore'], input=b'', capture_output=True)\n"
        "print(json.dumps([code, tuned, json.loads(done.stdout), ports.read_text().split()]))\n"
    )
    done = subprocess.run(
        [*NETNS, sys.executable, "-c", program],
        input=json.dumps([killed, command]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, tuned, answer, after = json.loads(done.stdout)
    assert code == -signal.SIGKILL
    assert tuned == ["10000", "65535"]
    (entry,) = answer["put_back"]
    assert (entry["path"], entry["old"], answer["run_id"]) == (PORTS, "40000 50000", "r1")
    assert after == ["40000", "50000"]
    assert Path(PORTS).read_text() == machine
    assert not journal_of(runs).exists()


def test_the_command_leaves_a_run_that_goes_on_alone(lab: Lab, kernel: Path) -> None:
    options = ["--state", str(lab.state), "--runs", str(lab.runs)]
    command = [sys.executable, "-m", "uplab.hostside", *options, "restore"]
    with started(lab, plan(lab, "load.duration_s=20"), kernel) as process:
        wait_for_step(process, "measure")
        done = subprocess.run(command, input=b"", capture_output=True, check=False)
        assert done.returncode == 4
        assert b"this host is busy: run " in done.stderr
        assert kerneltree.read(kernel, ASLR) == "0"
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT_S)


def test_the_kernel_s_own_huge_pages_are_set_and_put_back(
    tmp_path: Path, not_measurable: Any
) -> None:
    if not os.access(THP, os.W_OK):
        not_measurable(f"{THP} is not writable here")
    before = Path(THP).read_text()
    settings, journal = Settings(), Journal(tmp_path / "tuning.json")
    other = "never" if "[never]" not in before else "madvise"
    try:
        applied = tuning.apply(settings, journal, "r1", [Wish("thp", THP, other)])
        assert [entry.new for entry in applied.changed] == [other]
        assert f"[{other}]" in Path(THP).read_text()
    finally:
        Tuning(settings, journal.path).restore()
    assert Path(THP).read_text() == before


def test_a_value_that_the_kernel_refuses_is_not_noted_for_long(tmp_path: Path) -> None:
    """In a namespace of our own: a range that is none, and a file that root may not write."""
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from uplab.hostside import tuning\n"
        "from uplab.hostside.knobs import Wish\n"
        "from uplab.hostside.settings import Settings\n"
        "from uplab.hostside.tuning_journal import Journal\n"
        f"wishes = [Wish('ports', {PORTS!r}, '60000 100')]\n"
        "wishes.append(Wish('os', '/proc/sys/kernel/ostype', 'x'))\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "applied = tuning.apply(Settings(), journal, 'r1', wishes)\n"
        "reasons = [each.reason for each in applied.not_tunable]\n"
        "print(json.dumps([reasons, journal.path.exists()]))\n"
    )
    argv = [*NETNS, sys.executable, "-c", program, str(tmp_path / "tuning.json")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reasons, noted = json.loads(done.stdout)
    assert reasons == [
        f"{PORTS}: Invalid argument",
        "/proc/sys/kernel/ostype: Permission denied",
    ]
    assert not noted


def test_this_machine_says_of_each_setting_whether_it_can_be_tuned() -> None:
    from uplab.hostside import knobs

    settings = Settings()
    wishes, lacking = knobs.wishes(settings, cpuplan.make(settings, frozenset({0, 1, 2, 3})))
    known = {wish.knob for wish in wishes} | {each.knob for each in lacking}
    assert known >= {"governor", "turbo", "thp", "nmi-watchdog", "aslr", "port-range"}
    assert all(each.reason for each in lacking)
    assert shutil.which("unshare")
