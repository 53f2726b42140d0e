"""A host as the controller sees it: it runs hostside, gives runs back, and knows no measuring."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from uplab.errors import HostError, UplabError

#: Whether a tracer starts on a host is found out by starting it, which takes some a minute or two.
_INSPECT_TIMEOUT_S = 300.0
_READ_BYTES = 1 << 18
_OLDEST_PYTHON = (3, 11)

#: What a host must have before hostside can work there. In: its Python, as $1.
PROBE = """
echo uplab-probe
version=$("$1" -I -c "import sys; print(sys.version.split()[0])" 2>/dev/null) || version=
if [ "$(id -u)" = 0 ]; then become=root
elif ! command -v sudo >/dev/null 2>&1; then become=no-sudo
elif [ -n "$version" ] && sudo -n -- "$1" -I -c pass >/dev/null 2>&1; then become=sudo
elif [ -z "$version" ] && sudo -n true >/dev/null 2>&1; then become=sudo
else become=sudo-refused
fi
echo "user $(id -un)"
echo "become $become"
echo "python $version"
"""

Become = Literal["root", "sudo", "no-sudo", "sudo-refused"]


@dataclass(frozen=True)
class Facts:
    """What a host offers before anything is installed.

    Args:
        key: kind and fingerprint of its SSH key; empty for this machine.
        user: who we are there.
        become: how that user is root, or why not.
        python: the version of its Python, None without one.
    """

    key: str
    user: str
    become: Become
    python: str | None


def parse_facts(text: str, key: str) -> Facts:
    """Read what PROBE printed; what a login shell printed before it does not matter.

    Raises:
        ValueError: it did not run.
    """
    _, found, answer = text.rpartition("uplab-probe\n")
    fields = dict(line.partition(" ")[::2] for line in answer.splitlines())
    if not found or not {"user", "become", "python"} <= set(fields):
        raise ValueError(f"the probe answered {text[-200:]!r}")
    known: dict[str, Become] = {
        "root": "root",
        "sudo": "sudo",
        "no-sudo": "no-sudo",
        "sudo-refused": "sudo-refused",
    }
    return Facts(key, fields["user"], known[fields["become"]], fields["python"] or None)


def against_python(facts: Facts, python: str) -> str | None:
    """Why hostside cannot run there, with what mends it; None where it can."""
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    if facts.python is None:
        return f"no Python at {python}. There, run: apt-get install python3"
    if tuple(int(part) for part in facts.python.split(".")[:2]) < _OLDEST_PYTHON:
        return (
            f"Python {facts.python} at {python}, wanted {wanted} or newer. "
            "Name a newer one in the host's variables: ansible_python_interpreter"
        )
    return None


def against_become(facts: Facts) -> str | None:
    """Why we are not root there, with what mends it; None where we are."""
    if facts.become == "no-sudo":
        return (
            f"user {facts.user} is not root, and there is no sudo. "
            "Log in as root (ansible_user: root), or there, run: apt-get install sudo"
        )
    if facts.become == "sudo-refused":
        return (
            f"sudo wants a password of user {facts.user}. There, run: visudo   "
            f"(and allow: {facts.user} ALL=(root) NOPASSWD: ALL)"
        )
    return None


def reason_against(facts: Facts, python: str, *, become: bool) -> str | None:
    """Why a host cannot be worked with; None where it can."""
    return against_python(facts, python) or (against_become(facts) if become else None)


class Running(Protocol):
    """A run that goes on while its events are read."""

    def events(self) -> Iterator[dict[str, Any]]:
        """The run's events as they come; ends with the run."""

    def interrupt(self) -> None:
        """Ask the run to stop; it cleans up and its events end."""

    def finish(self) -> tuple[int, str]:
        """Wait for the end; out: the exit code and what hostside said on stderr."""


class Host(Protocol):
    """What a campaign needs of a host."""

    @property
    def name(self) -> str:
        """Its name in the inventory."""

    @property
    def python(self) -> str:
        """The path of its Python."""

    def facts(self) -> Facts:
        """What it offers before anything is installed; HostError where it cannot be reached."""

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask hostside what is installed and what can run."""

    def ask(self, command: str, request: dict[str, Any], *, become: bool = True) -> dict[str, Any]:
        """Run a command of hostside that answers in JSON; without ``become`` not as root."""

    def receive(self, command: str, request: dict[str, Any], take: Callable[[bytes], None]) -> None:
        """Run a command of hostside, as root, and give away what it writes as it comes."""

    def start(self, plan: dict[str, Any]) -> Running:
        """Start a run."""

    def export(self, run_id: str) -> bytes:
        """The run as tar."""

    def forget(self, run_id: str) -> None:
        """Remove the run from the host."""


@dataclass
class LocalRun:
    """hostside as a child of the controller."""

    process: subprocess.Popen[bytes]

    def events(self) -> Iterator[dict[str, Any]]:
        """The events that hostside prints."""
        if self.process.stdout is None:
            raise AssertionError("stdout is a pipe")
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    def interrupt(self) -> None:
        """SIGINT; hostside ends everything within seconds and keeps the finished trials."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> tuple[int, str]:
        """Wait for hostside, whose events have all been read."""
        with self.process:
            # Its few lines fit into the pipe, so it never waits for us to read them.
            said = self.process.stderr.read() if self.process.stderr else b""
            code = self.process.wait()
        return code, said.decode(errors="replace").strip()


@dataclass(frozen=True)
class LocalHost:
    """The machine that uplab runs on, as root or through sudo.

    Args:
        name: in the inventory.
        zipapp: hostside.
        options: of hostside, before its command (``--root`` and the like).
        python: of the host.
    """

    name: str
    zipapp: Path
    options: tuple[str, ...] = ()
    python: str = "/usr/bin/python3"

    def _argv(self, *command: str, become: bool = True) -> list[str]:
        sudo = ["sudo", "-n"] if become and os.geteuid() != 0 else []
        return [*sudo, self.python, str(self.zipapp), *self.options, *command]

    def facts(self) -> Facts:
        """Look what is needed to work here; HostError where there is not even a shell."""
        argv = ["sh", "-c", PROBE, "uplab", self.python]
        said = _call(self.name, argv, b"").decode(errors="replace")
        try:
            return parse_facts(said, "")
        except ValueError as error:
            raise HostError(f"host {self.name}: {error}") from error

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run ``hostside inspect``.

        Raises:
            HostError: it failed, or did not answer.
        """
        return self.ask("inspect", request)

    def ask(self, command: str, request: dict[str, Any], *, become: bool = True) -> dict[str, Any]:
        """Run a command of hostside that answers in JSON.

        Raises:
            HostError: it failed, or did not answer.
        """
        argv = self._argv(command, become=become)
        done = _call(self.name, argv, json.dumps(request).encode())
        try:
            answer = json.loads(done)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise HostError(f"host {self.name}: hostside answered {done[:200]!r}")
        return answer

    def receive(self, command: str, request: dict[str, Any], take: Callable[[bytes], None]) -> None:
        """Run a command of hostside whose answer is long.

        Args:
            command: its name.
            request: JSON on its standard input.
            take: is called with each part of what it writes; what it raises ends the command.

        Raises:
            HostError: it cannot be run.
            UplabError: hostside refused, with its reason and exit code.
        """
        argv = self._argv(command)
        with tempfile.TemporaryFile() as errors:
            try:
                # At its end its pipe is closed, which ends hostside, and its end is waited for.
                with subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                ) as process:
                    if process.stdin is None or process.stdout is None:
                        raise AssertionError("both are pipes")
                    with suppress(BrokenPipeError), process.stdin:
                        process.stdin.write(json.dumps(request).encode())
                    while chunk := os.read(process.stdout.fileno(), _READ_BYTES):
                        take(chunk)
            except OSError as error:
                raise HostError(f"host {self.name}: {shlex.join(argv)}: {error}") from error
            errors.seek(0)
            _require_success(self.name, process.returncode, errors.read())

    def start(self, plan: dict[str, Any]) -> LocalRun:
        """Start ``hostside run`` in a session of its own: Ctrl-C reaches it only through us."""
        process = subprocess.Popen(
            self._argv("run"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if process.stdin is None:
            raise AssertionError("stdin is a pipe")
        # Where it ended before it read the plan, its exit code and stderr say why.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(plan).encode())
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None
        return LocalRun(process)

    def export(self, run_id: str) -> bytes:
        """The run as tar."""
        return _call(self.name, self._argv("export", run_id), b"")

    def forget(self, run_id: str) -> None:
        """Remove the run from this machine's spool."""
        _call(self.name, self._argv("forget", run_id), b"")


def _call(host: str, argv: Sequence[str], stdin: bytes) -> bytes:
    """Run one command of hostside to its end; out: its stdout."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, timeout=_INSPECT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"host {host}: {shlex.join(argv)}: {error}") from error
    _require_success(host, done.returncode, done.stderr)
    return done.stdout


def _require_success(host: str, code: int, stderr: bytes) -> None:
    """Raise UplabError with the last line that hostside said, where it failed."""
    if code != 0:
        said = stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"exit code {code}"
        raise UplabError(f"host {host}: {reason}", exit_code=exit_code(code))


def exit_code(code: int) -> int:
    """What to end with when hostside ended with ``code``: any but the project's is a lost host."""
    return code if code in (1, 2, 3, 4, 5, 130) else HostError.exit_code


def require_root(name: str) -> None:
    """Raise HostError where this machine's root cannot be had without a password."""
    if os.geteuid() == 0:
        return
    try:
        done = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        raise HostError(f"host {name}: measuring takes root, and there is no sudo") from None
    if done.returncode != 0:
        raise HostError(
            f"host {name}: measuring takes root (BPF, ports below 1024). "
            "Run it as root, or allow passwordless sudo"
        )
