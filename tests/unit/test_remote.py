"""uplab/remote.py: a real hostside as a child, with a store and a state of its own."""

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.foreground import ForegroundHost, LocalRun
from uplab import adapters, hostzip, matrix, plan, remote
from uplab.errors import EXIT_HOST, HostError, UplabError
from uplab.hostside.spec import Plan
from uplab.matrix import Experiment, Matrix
from uplab.remote import Facts, Host, LocalHost, exit_code

ADAPTERS = Path(__file__).parents[1] / "data" / "adapters"
REGISTRY = adapters.load([ADAPTERS])
NOW = datetime(2026, 11, 22, 13, 17, 51, tzinfo=UTC)


def free_port() -> int:
    """A port that nobody has now: tests of several checkouts may run side by side."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def experiment(**changes: Any) -> Experiment:
    data: dict[str, Any] = {
        "schema": 1,
        "name": "mini",
        "factors": {"server": ["echo"], "tracer": ["mute"], "mode": ["none", "tracer-only"]},
        "load": {"name": "fetch"},
        "servers": {"echo": {"port": free_port()}},
        "warm_up_s": 0,
        "blocks": 1,
        "limits": {"steal_pct": 100, "foreign_pct": 100},
        **changes,
    }
    model = Matrix.model_validate(data)
    content = model.model_dump(mode="json", by_alias=True)
    return Experiment(model, REGISTRY, tuple(matrix.expand(model, REGISTRY)), "m", "", content)


@pytest.fixture
def host(tmp_path: Path) -> ForegroundHost:
    options = [f"--{name}={tmp_path / name}" for name in ("root", "runs", "state")]
    return ForegroundHost("local", hostzip.write(REGISTRY, tmp_path / "zips"), tuple(options))


def planned(host: Host, wanted: Experiment) -> Plan:
    made, judged = plan.make(wanted, host.name, host.inspect(plan.inspect_request(wanted)), NOW)
    assert [entry.reason for entry in judged if entry.reason] == []
    return made


def leaves_nothing(tmp_path: Path) -> bool:
    """Whether no process names this test's folder any more (the zipapp's, and what it started)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(tmp_path).encode() in (entry / "cmdline").read_bytes():
                    return False
            except OSError:
                continue
    return True


def test_a_run_from_start_to_finish(host: ForegroundHost, tmp_path: Path) -> None:
    made = planned(host, experiment())
    running = host.start(asdict(made))
    events = list(running.events())
    assert running.finish() == (0, "")
    names = [event["event"] for event in events]
    assert names.count("trial-end") == 2
    assert names[-1] == "run-end"
    assert events[-1]["outcome"] == "complete"
    ends = [event for event in events if event["event"] == "trial-end"]
    assert all(event["verdict"]["valid"] for event in ends), ends
    run_dir = tmp_path / "runs" / made.run_id
    assert len(list(run_dir.glob("trials/*/trial.json"))) == 2
    host.ask("forget-run", {"run_id": made.run_id})
    with pytest.raises(UplabError, match=f"no run {made.run_id}"):
        host.ask("describe", {"run_id": made.run_id})
    assert leaves_nothing(tmp_path)


def test_an_interrupted_run_stops_and_keeps_what_is_finished(
    host: ForegroundHost, tmp_path: Path
) -> None:
    made = planned(host, experiment(blocks=500))
    running = host.start(asdict(made))
    events = running.events()
    for event in events:
        if event["event"] == "trial-end":
            running.interrupt()
            break
    rest = list(events)
    code, said = running.finish()
    assert code == 130
    assert "Traceback" not in said
    assert rest[-1]["event"] == "run-end"
    assert rest[-1]["outcome"] == "interrupted"
    run_dir = tmp_path / "runs" / made.run_id
    assert len(list(run_dir.glob("trials/*/trial.json"))) >= 1
    assert json.loads((run_dir / "run.json").read_text())["outcome"] == "interrupted"
    assert leaves_nothing(tmp_path)


def test_a_run_whose_hostside_is_killed_leaves_no_process(host: ForegroundHost) -> None:
    made = planned(host, experiment(blocks=500))
    running = host.start(asdict(made))
    for event in running.events():
        if event["event"] == "trial-end":
            break
    running.process.send_signal(signal.SIGKILL)
    list(running.events())
    code, said = running.finish()
    assert (code, said) == (-signal.SIGKILL, "")
    assert exit_code(code) == EXIT_HOST
    # And the next run can start, though the lock's file is there.
    again = planned(host, experiment(factors={"server": ["echo"], "mode": ["none"]}))
    host.ask("forget-run", {"run_id": made.run_id})
    running = host.start(asdict(again))
    assert list(running.events())[-1]["outcome"] == "complete"
    assert running.finish()[0] == 0


def test_a_second_run_is_refused_by_name(host: ForegroundHost) -> None:
    made = planned(host, experiment(blocks=500))
    first = host.start(asdict(made))
    events = first.events()
    assert next(events)
    second = host.start({**asdict(made), "run_id": "the-second"})
    assert list(second.events()) == []
    code, said = second.finish()
    first.interrupt()
    list(events)
    first.finish()
    assert code == EXIT_HOST
    assert f"run {made.run_id} (pid " in said.splitlines()[-1]


def test_what_is_no_event_is_passed_over() -> None:
    script = """printf 'text\\n[1]\\n{"event": "a"}\\n{"cut\\n\\377\\n{"event": "b"}'"""
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running = LocalRun(process)
    assert list(running.events()) == [{"event": "a"}, {"event": "b"}]
    assert running.finish() == (0, "")


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda host: host.ask("describe", {"run_id": "no-such-run"}), "no run no-such-run in"),
        (lambda host: host.ask("stop", {"run_id": "../x"}), "'../x' is not the name of a run"),
    ],
)
def test_what_hostside_refuses_is_told_with_its_exit_code(
    host: LocalHost, call: Callable[[LocalHost], object], words: str
) -> None:
    with pytest.raises(UplabError) as caught:
        call(host)
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith("host local: ")
    assert words in caught.value.message


def test_a_host_without_python(tmp_path: Path) -> None:
    host = LocalHost("local", tmp_path / "z.pyz", python="/no/python")
    with pytest.raises(HostError, match=r"^host local: .*No such file or directory: '/no/python'$"):
        host.inspect({})


def test_a_zipapp_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UplabError) as caught:
        LocalHost("local", tmp_path / "z.pyz").inspect({})
    assert "z.pyz" in caught.value.message


def test_a_host_that_does_not_answer_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_INSPECT_TIMEOUT_S", 0.1)
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    with pytest.raises(HostError, match=r"^host local: .*timed out after 0\.1 seconds"):
        LocalHost("local", tmp_path / "slow.py").inspect({})


@pytest.mark.parametrize("text", ["print('hello')", "pass", "print('[1]')"])
def test_an_answer_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.py").write_text(text)
    with pytest.raises(HostError, match=r"^host local: "):
        LocalHost("local", tmp_path / "odd.py").inspect({})


def test_a_hostside_that_ends_before_it_reads_the_plan(tmp_path: Path) -> None:
    (tmp_path / "dead.py").write_text("import sys; sys.exit('a reason')")
    running = ForegroundHost("local", tmp_path / "dead.py").start({"padding": "x" * 1_000_000})
    assert list(running.events()) == []
    assert running.finish() == (1, "a reason")


def test_a_plan_of_another_version_is_refused_by_hostside(host: ForegroundHost) -> None:
    running = host.start({"schema": 99, "colour": "red"})
    assert list(running.events()) == []
    code, said = running.finish()
    assert code == EXIT_HOST
    assert "Plan: unknown field colour" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (130, 130), (0, 4), (7, 4), (-9, 4), (255, 4)],
)
def test_exit_codes_of_hostside_are_the_project_s(code: int, meaning: int) -> None:
    assert exit_code(code) == meaning


# --- root -----------------------------------------------------------------------------------------


def test_root_is_root() -> None:
    if os.geteuid() == 0:
        remote.require_root("local")


def require_root_as_nobody(path: str) -> str:
    """What require_root says to a user who is nobody, with a `sudo` of our choice in PATH."""
    program = (
        "import os, sys\n"
        "from uplab import remote\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: remote.require_root('local')\n"
        "except remote.HostError as error: print(error.exit_code, error)\n"
        "else: print('fine')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PATH": path},
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("exit 0", "fine"),
        ("exit 1", "4 host local: measuring takes root (BPF, ports below 1024). "),
        (None, "4 host local: measuring takes root, and there is no sudo"),
    ],
)
def test_without_root_sudo_must_do(answer: str | None, said: str) -> None:
    # pytest's own folders are closed to anybody else.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        if answer is not None:
            sudo = Path(folder, "sudo")
            sudo.write_text(f"#!/bin/sh\n{answer}\n")
            sudo.chmod(0o755)
        assert require_root_as_nobody(folder).startswith(said)


# --- what a host offers ---------------------------------------------------------------------------


def test_this_machine_offers_python_and_says_who_we_are(host: ForegroundHost) -> None:
    facts = host.facts()
    assert (facts.key, facts.user) == ("", pwd.getpwuid(os.geteuid()).pw_name)
    assert facts.python is not None
    assert remote.against_python(facts, host.python) is None
    if os.geteuid() == 0:
        assert facts.become == "root"


def test_this_machine_without_a_python_says_so(tmp_path: Path) -> None:
    facts = LocalHost("local", tmp_path / "z.pyz", python="/no/python").facts()
    assert facts.python is None
    assert remote.against_python(facts, "/no/python") == (
        "no Python at /no/python. There, run: apt-get install python3"
    )


@pytest.mark.parametrize(
    ("become", "words"),
    [
        ("root", None),
        ("sudo", None),
        ("no-sudo", "user lab is not root, and there is no sudo. "),
        ("sudo-refused", "sudo wants a password of user lab. "),
    ],
)
def test_how_we_become_root(become: str, words: str | None) -> None:
    text = f"Welcome\nuplab-probe\nuser lab\nbecome {become}\npython 3.11.2\n"
    facts = remote.parse_facts(text, "k")
    against = remote.reason_against(facts, "/usr/bin/python3", become=True)
    assert against is None if words is None else (against or "").startswith(words)
    assert remote.reason_against(facts, "/usr/bin/python3", become=False) is None


@pytest.mark.parametrize(
    ("version", "good"), [("3.11.0", True), ("3.13.1", True), ("4.0", True), ("3.9.2", False)]
)
def test_the_oldest_python_that_will_do(version: str, good: bool) -> None:
    facts = Facts("", "root", "root", version)
    assert (remote.against_python(facts, "/usr/bin/python3") is None) == good


@pytest.mark.parametrize("text", ["", "Welcome\n", "uplab-probe\nuser x\n"])
def test_a_probe_that_did_not_run_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="the probe answered"):
        remote.parse_facts(text, "")


def test_this_machine_is_asked_for_its_state(host: ForegroundHost) -> None:
    assert host.ask("status", {})["set_up"] is False
    lines = host.ask("checkup", {"host": "local"})["lines"]
    assert {"btf", "memory", "store", "left-runs"} <= {line["check"] for line in lines}
