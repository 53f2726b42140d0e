"""uplab/certify.py: an adapter's life for real, and the step that fails with what to change."""

import re
import shutil
import socket
from pathlib import Path

import pytest

from uplab import certify, hostzip, provision
from uplab.adapters import Registry
from uplab.errors import EXIT_GATE, EXIT_USAGE, GateError, UsageError
from uplab.hostside.reasons import REASONS
from uplab.remote import LocalHost

ADAPTERS = Path(__file__).parents[1] / "data" / "adapters"
ECHO = "servers/echo/adapter.yml"
MUTE = "tracers/mute/adapter.yml"
FETCH = "loads/fetch/adapter.yml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose adapters are the examples, and a host with its own store and state."""
    project = Path(shutil.copytree(ADAPTERS, tmp_path / "project"))

    def connect(
        _project: Path, name: str, registry: Registry, _chosen: Path | None = None
    ) -> LocalHost:
        options = tuple(f"--{part}={tmp_path / part}" for part in ("root", "runs", "state"))
        return LocalHost(name, hostzip.write(registry, tmp_path / "zips"), options)

    monkeypatch.setattr(provision, "connect", connect)
    # A port that nobody has now: tests of several checkouts may run side by side.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    replace_in(project / ECHO, "default: 18473", f"default: {port}")
    return project


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def certified(project: Path, adapter: str, server: str | None = None) -> str:
    return certify.certify(project, adapter, "local", server, None)


def failure(project: Path, adapter: str, server: str | None = None) -> str:
    with pytest.raises(GateError) as caught:
        certified(project, adapter, server)
    assert caught.value.exit_code == EXIT_GATE
    assert caught.value.message.startswith(f"{adapter} is not certified on local\n")
    return caught.value.message


def refusal(project: Path, adapter: str, server: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        certified(project, adapter, server)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value.message


def steps_of(account: str) -> list[str]:
    return [line.split()[0] for line in account.splitlines() if line.endswith(" s")]


def test_a_good_server_is_certified_with_all_its_steps(project: Path, tmp_path: Path) -> None:
    account = certified(project, "server/echo")
    assert account.splitlines()[0] == "echo-none-12B"
    assert account.splitlines()[-1] == "server/echo is certified on local"
    assert steps_of(account) == [
        "fence",
        "start",
        "ready",
        "attest",
        "warm-up",
        "measure",
        "check",
        "stop",
        "fence",
    ]
    assert list((tmp_path / "runs").iterdir()) == [], "the host still keeps the run"


def test_a_good_tracer_is_certified_in_each_of_its_modes(project: Path) -> None:
    account = certified(project, "tracer/mute", "echo")
    assert account.splitlines()[0] == "echo-tracer-only-mute-12B"
    assert {"attach", "attached"} <= set(steps_of(account))


def test_a_further_folder_of_adapters_is_read(project: Path, tmp_path: Path) -> None:
    more = tmp_path / "more" / "servers" / "mine"
    shutil.copytree(project / "servers" / "echo", more)
    replace_in(more / "adapter.yml", "name: echo", "name: mine")
    account = certify.certify(project, "server/mine", "local", None, str(tmp_path / "more"))
    assert account.startswith("mine-none-12B")


@pytest.mark.parametrize(
    ("adapter", "file", "old", "new", "code", "words"),
    [
        (
            "server/echo",
            ECHO,
            'ready_line: "^ready "',
            'ready_line: "^ready now "\nready_timeout_s: 0.3',
            "server-not-ready",
            "server was not ready within 0.3 s",
        ),
        (
            "server/echo",
            ECHO,
            'b"x" * int(sys.argv[2])',
            'b"x" * 7',
            "wrong-answer",
            "'body_bytes': 7}, wanted ",
        ),
        (
            "server/echo",
            ECHO,
            'print("ready", server.server_port)',
            'sys.exit("no port for you")',
            "server-died",
            "exit code 1, last line: no port for you",
        ),
        (
            "tracer/mute",
            MUTE,
            'say("attached", ',
            'say("hello", ',
            "tracer-not-ready",
            "tracer was not attached within 0.3 s",
        ),
        (
            "tracer/mute",
            MUTE,
            '"lost": 0',
            '"lost": time.monotonic_ns()',
            "events-lost",
            "events lost: ",
        ),
        (
            "load/fetch",
            FETCH,
            "requests: {default: 20",
            "requests: {default: 0",
            "load",
            "no requests",
        ),
    ],
)
def test_the_step_that_fails_is_told_with_what_to_change(
    project: Path, adapter: str, file: str, old: str, new: str, code: str, words: str
) -> None:
    replace_in(project / file, old, new)
    if adapter.startswith("tracer"):
        replace_in(project / file, "modes:", "attached_timeout_s: 0.3\nmodes:")
    if "time." in new:
        # Counters that grow between two readings.
        replace_in(project / file, "import json,", "import time, json,")
        text = (project / file).read_text().replace("**counters", "**counters()")
        (project / file).write_text(text.replace("counters = {", "counters = lambda: {"))
    account = failure(project, adapter, "echo")
    (failed,) = {line for line in account.splitlines() if "failed: " in line}
    assert words in failed
    assert f"look at: {REASONS[code].look_at}" in account


def test_a_server_that_does_not_end_is_told(project: Path) -> None:
    replace_in(project / ECHO, "lambda *_: os._exit(0)", "signal.SIG_IGN")
    replace_in(project / ECHO, "ready_line:", "stop_timeout_s: 0.2\nready_line:")
    account = certified(project, "server/echo")
    # It is killed, which costs time and no trial.
    assert "server/echo is certified" in account


def test_a_part_that_is_not_there_is_no_certificate(project: Path) -> None:
    replace_in(project / ECHO, "{path: /usr/bin/python3}", "{component: thing, file: bin/x}")
    account = failure(project, "server/echo")
    assert "echo-none-12B\n  - not available here: thing is not installed" in account


def test_a_port_in_use_is_no_certificate(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        text = (project / ECHO).read_text()
        (project / ECHO).write_text(re.sub(r"default: \d+", f"default: {port}", text))
        assert f"port {port} is in use by " in failure(project, "server/echo")


def test_a_server_without_the_tracer_s_traits_is_no_certificate(project: Path) -> None:
    replace_in(project / MUTE, "needs_traits: [python]", "needs_traits: [cobol]")
    assert "not applicable: mute needs a server that is cobol" in failure(project, "tracer/mute")


# --- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["echo", "server/", "/echo", "role/echo", ""])
def test_what_is_no_adapter_s_name(project: Path, adapter: str) -> None:
    said = refusal(project, adapter)
    assert said == f"{adapter}: expected KIND/NAME with one of server, tracer, load"


def test_an_unknown_adapter_is_told_with_the_nearest(project: Path) -> None:
    said = refusal(project, "tracer/mutt")
    assert said == "no tracer 'mutt'; did you mean mute? There are bpftrace, mute"
    assert refusal(project, "load/zzz") == "no load 'zzz'. There are fetch, h2load, h2load-closed"


def test_an_unknown_server_is_told_with_the_nearest(project: Path) -> None:
    said = refusal(project, "tracer/mute", "ecco")
    assert said == "no server 'ecco'; did you mean echo? There are echo, nginx"


def test_a_server_is_certified_with_itself(project: Path) -> None:
    other = project / "servers" / "other"
    shutil.copytree(project / "servers" / "echo", other)
    replace_in(other / "adapter.yml", "name: echo", "name: other")
    said = refusal(project, "server/echo", "other")
    assert said == "server/echo is certified with itself, not with --server other"


def test_a_tracer_without_modes_cannot_be_certified(project: Path) -> None:
    replace_in(project / MUTE, "modes:\n  tracer-only: {}", "modes: {}")
    assert "modes" in refusal(project, "tracer/mute")


def test_a_project_without_any_load_or_server_is_told(project: Path) -> None:
    shutil.rmtree(project / "loads")
    assert "load" in refusal(project, "server/echo")
