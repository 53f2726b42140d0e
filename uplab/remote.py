"""A host as the controller sees it: it runs hostside, gives runs back, and knows no measuring."""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from uplab.errors import HostError, UplabError

#: Whether a tracer starts on a host is found out by starting it, which takes some a minute or two.
_INSPECT_TIMEOUT_S = 300.0
_READ_BYTES = 1 << 18
_OLDEST_PYTHON = (3, 11)

#: What a command of hostside is asked for; JSON on its standard input.
Query = dict[str, Any]
#: Is called with each part of what a command writes; what it raises ends the command.
Take = Callable[[bytes], None]

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


class Host(Protocol):
    """What a campaign needs of a host."""

    @property
    def name(self) -> str:
        """Its name in the inventory."""

    @property
    def python(self) -> str:
        """The path of its Python."""

    @property
    def chosen(self) -> Path | None:
        """The inventory that it is named in, where that is somebody's own."""

    def facts(self) -> Facts:
        """What it offers before anything is installed; HostError where it cannot be reached."""

    def held(self) -> AbstractContextManager[None]:
        """Inside, a connection is kept from one command to the next."""

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask hostside what is installed and what can run."""

    def ask(self, command: str, request: Query, *, become: bool = True) -> dict[str, Any]:
        """Run a command of hostside that answers in JSON; without ``become`` not as root."""

    def receive(
        self, command: str, request: Query, take: Take, *, silence_s: float | None = None
    ) -> None:
        """Run a command of hostside, as root, and give away what it writes as it comes.

        Where it is silent for ``silence_s`` (None: a default), the connection counts as lost.
        """


@dataclass(frozen=True)
class LocalHost:
    """The machine that uplab runs on, as root or through sudo.

    Args:
        name: in the inventory.
        zipapp: hostside.
        options: of hostside, before its command (``--root`` and the like).
        python: of the host.
        chosen: the inventory that it is named in, where that is somebody's own.
    """

    name: str
    zipapp: Path
    options: tuple[str, ...] = ()
    python: str = "/usr/bin/python3"
    chosen: Path | None = None

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

    def held(self) -> AbstractContextManager[None]:
        """Nothing is kept: there is no connection."""
        return nullcontext()

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run ``hostside inspect``.

        Raises:
            HostError: it failed, or did not answer.
        """
        return self.ask("inspect", request)

    def ask(self, command: str, request: Query, *, become: bool = True) -> dict[str, Any]:
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

    def receive(
        self, command: str, request: Query, take: Take, *, silence_s: float | None = None
    ) -> None:
        """Run a command of hostside whose answer is long.

        Args:
            command: its name.
            request: JSON on its standard input.
            take: is called with each part of what it writes; what it raises ends the command.
            silence_s: how long nothing may come before hostside counts as lost; None: any time.

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
                    try:
                        _exchange(process, json.dumps(request).encode(), take, silence_s)
                    except BaseException:
                        # It would notice only at its next line that nobody reads any more.
                        process.terminate()
                        raise
            except OSError as error:
                raise HostError(f"host {self.name}: {shlex.join(argv)}: {error}") from error
            errors.seek(0)
            _require_success(self.name, process.returncode, errors.read())


def _exchange(
    process: subprocess.Popen[bytes],
    stdin: bytes,
    take: Take,
    silence_s: float | None,
) -> None:
    """Give a command its input, and away what it writes; TimeoutError where it is silent."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(stdin)
    while True:
        ready, _, _ = select.select([process.stdout], [], [], silence_s)
        if not ready:
            raise TimeoutError(f"it said nothing within {silence_s:g} s")
        chunk = os.read(process.stdout.fileno(), _READ_BYTES)
        if not chunk:
            return
        take(chunk)


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
