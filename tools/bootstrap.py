"""Makes the Python environment that ./invoke runs in. Standard library only; Python >= 3.11.

Where ``UPLAB_BUNDLE`` names a bundle, everything comes from it and no network is used.

Called by the shell script ``invoke`` as ``bootstrap.py ROOT LEVEL [TASK FLAG...]`` when its quick
comparison finds no fitting environment. LEVEL is ``runtime`` or ``dev``. It makes one, points the
link ``.venv`` at it and becomes ``python tasks.py TASK FLAG...``.

An environment is ``.uplab/venvs/<hash of what it is made from>/``. It counts as finished when
``uplab/place`` lies in it, which is written last; anything else in that directory was cut off and
is made anew. ``.venv`` changes in one step, and the environment before it is kept, so that a
process which still runs in it goes on.

Ends with 2 where this machine or checkout does not fit (old Python, no venv module, a foreign
``.venv``, no permission, a hash that differs), with 4 where something was out of reach or ran out
(network, package index, disk), with 130 when interrupted: one line each, nothing half made left.
"""

import errno
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from uplab.bundle.offline import Supplies

EXIT_USAGE = 2
EXIT_UNREACHABLE = 4
EXIT_INTERRUPTED = 130
LOG_TAIL_LINES = 400
STOP_TIMEOUT_S = 5.0
APT_LOCK_TIMEOUT_S = 300
LEVELS = {"runtime": ("runtime",), "dev": ("runtime", "dev")}

_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|Max retries exceeded|"
    r"Name or service not known|Temporary failure in name resolution|Network is unreachable|"
    r"Connection refused|Connection reset|connection broken|ProxyError|SSLError|Read timed out|"
    r"ConnectionError|IncompleteRead|Could not fetch URL",
    re.IGNORECASE,
)
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==", re.MULTILINE)


class BootstrapError(Exception):
    """What a person has to know, in one line, and the exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Checkout:
    """Where things lie in a checkout, and the command that brought us here."""

    root: Path
    command: str = "./invoke"

    @property
    def link(self) -> Path:
        """The name under which a person knows the environment."""
        return self.root / ".venv"

    @property
    def state(self) -> Path:
        """What is made here and ignored by git."""
        return self.root / ".uplab"

    @property
    def venvs(self) -> Path:
        """All environments, each in a directory named by its hash."""
        return self.state / "venvs"

    @property
    def log(self) -> Path:
        """What pip said the last time."""
        return self.state / "bootstrap.log"

    def lock_file(self, name: str) -> Path:
        """The lock file called ``name`` (runtime, dev)."""
        return self.root / "requirements" / f"{name}.lock"


@dataclass
class Reporter:
    """Progress on stderr: one line that is rewritten on a terminal, else plain lines."""

    rewrites: bool = field(default_factory=lambda: sys.stderr.isatty())
    _open_line: bool = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(f"invoke: {text}\n")

    def step(self, text: str) -> None:
        """A line that the next one replaces; only on a terminal."""
        if self.rewrites:
            self._write(f"invoke: {text}")
            self._open_line = True

    def _write(self, text: str) -> None:
        start = "\r\x1b[K" if self._open_line else ""
        self._open_line = False
        # A reader that has gone is no reason to leave the environment half made.
        with suppress(OSError):
            sys.stderr.write(start + text)
            sys.stderr.flush()


def main(argv: list[str]) -> int:
    """In: ROOT, LEVEL and the words for Invoke. Returns only when it fails, with the exit code."""
    root, level, words = Path(argv[0]), argv[1], argv[2:]
    checkout = Checkout(root, shlex.join(["./invoke", *words]))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    reporter = Reporter()
    try:
        venv = ensure(checkout, level, reporter)
    except BootstrapError as error:
        reporter.say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        reporter.say("interrupted; no half-made .venv is left")
        return EXIT_INTERRUPTED
    except OSError as error:
        reporter.say(_explain_os_error(error, checkout))
        return EXIT_UNREACHABLE if error.errno in _FULL else EXIT_USAGE
    return become(venv, root, words)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def become(venv: Path, root: Path, words: list[str]) -> NoReturn:
    """Replace this process by Invoke in ``venv``."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    python = str(venv / "bin" / "python")
    os.execv(python, [python, str(root / "tasks.py"), *words])


def ensure(checkout: Checkout, level: str, reporter: Reporter) -> Path:
    """Out: the path of a finished environment for ``level``, which ``.venv`` now points at.

    Raises BootstrapError, OSError and KeyboardInterrupt; nothing half made is left then.
    """
    refuse_foreign(checkout)
    checkout.venvs.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(checkout, interpreter(), level)
    with exclusive(checkout.state / "bootstrap.lock", reporter) as lock_fd:
        venv = find_finished(recipe)
        if venv is None:
            with supplies_for(recipe, reporter) as supplies:
                require_venv_modules(recipe.python, checkout, reporter, supplies)
                venv = build(recipe, reporter, lock_fd, supplies)
        point_link(checkout, venv)
    return venv


def refuse_foreign(checkout: Checkout) -> None:
    """Raise BootstrapError if ``.venv`` is something that we did not make."""
    link = checkout.link
    if not os.path.lexists(link):
        return
    if link.is_symlink() and (checkout.root / link.readlink()).parent == checkout.venvs:
        return
    raise BootstrapError(
        f"{link} was not made by ./invoke and is left alone. "
        f"Run: {shlex.join(['mv', str(link), f'{link}-mine'])} && {checkout.command}"
    )


def interpreter() -> Path:
    """Out: the real file of the Python that runs this, outside any virtual environment.

    Its name carries the version (``/usr/bin/python3.11``), so an environment made from it fails to
    start, rather than to import, once the distribution has moved on to another Python.
    """
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    return Path(base).resolve()


@contextmanager
def exclusive(path: Path, reporter: Reporter) -> Iterator[int]:
    """One at a time; the others wait, and find the work done. Out: the lock's descriptor.

    pip inherits the descriptor: should this process be killed alone, the next one still waits
    until that pip has ended, instead of deleting under its hands.
    """
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            reporter.say(f"waiting for another ./invoke (pid {holder}) that makes .venv")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


@dataclass(frozen=True)
class Recipe:
    """What an environment is made from, and so where it lies."""

    checkout: Checkout
    python: Path
    level: str

    @property
    def locks(self) -> list[Path]:
        """The lock files to install."""
        return [self.checkout.lock_file(name) for name in LEVELS[self.level]]

    @property
    def venv(self) -> Path:
        """The environment's directory, named by 12 hex digits over all that it is made from."""
        digest = hashlib.sha256()
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        for text in (str(self.checkout.root), str(self.python), version):
            digest.update(text.encode() + b"\0")
        for lock in self.locks:
            digest.update(lock.read_bytes() + b"\0")
        return self.checkout.venvs / digest.hexdigest()[:12]

    @property
    def packages(self) -> int:
        """How many packages the lock files name."""
        pins = (_PIN.finditer(lock.read_text(encoding="utf-8")) for lock in self.locks)
        return len({match["name"].lower() for matches in pins for match in matches})


def find_finished(recipe: Recipe) -> Path | None:
    """Out: a finished environment that has what the recipe's level needs (dev has it all)."""
    for level in ("runtime", "dev") if recipe.level == "runtime" else ("dev",):
        enough = replace(recipe, level=level)
        if all(lock.exists() for lock in enough.locks):
            venv = enough.venv
            if (venv / "uplab" / "place").exists() and (venv / "bin" / "python").exists():
                return venv
    return None


@contextmanager
def supplies_for(recipe: Recipe, reporter: Reporter) -> Iterator["Supplies | None"]:
    """What the bundle that UPLAB_BUNDLE names has for the recipe, checked; None without one.

    Raises BootstrapError where the bundle cannot be used.
    """
    named = os.environ.get("UPLAB_BUNDLE")
    if not named:
        yield None
        return
    root = recipe.checkout.root
    # The reading of bundles is uplab's own; it needs nothing that is not in Python.
    sys.path.insert(0, str(root))
    from uplab.bundle import offline
    from uplab.errors import UsageError

    bundle = Path(named).absolute()
    reporter.say(f"checking {bundle}, from which .venv is made")
    debs = not _has_venv_modules(recipe.python)
    try:
        levels = LEVELS[recipe.level]
        progress = ByteProgress(f"checking {bundle.name}", reporter)
        with offline.supplies(bundle, root, levels, debs=debs, progress=progress.show) as found:
            yield found
    except UsageError as error:
        raise BootstrapError(error.message) from error


@dataclass
class ByteProgress:
    """Says how much of something is done, and how long the rest takes."""

    what: str
    reporter: Reporter
    began_s: float = field(default_factory=time.monotonic)

    def show(self, done_bytes: int, all_bytes: int) -> None:
        """In: the bytes that are done, and those that there are."""
        spent_s = time.monotonic() - self.began_s
        left_s = spent_s * (all_bytes - done_bytes) / max(done_bytes, 1)
        done = f"{done_bytes >> 20} of {all_bytes >> 20} MiB"
        self.reporter.step(f"{self.what}: {done}, about {left_s:.0f} s left")


def build(
    recipe: Recipe, reporter: Reporter, lock_fd: int, supplies: "Supplies | None" = None
) -> Path:
    """Make the recipe's environment. Out: its path. Whatever fails, nothing is left of it."""
    venv, packages = recipe.venv, recipe.packages
    shutil.rmtree(venv, ignore_errors=True)
    started_s = time.monotonic()
    reporter.say(
        f"making .venv: Python {sys.version.split()[0]}, {packages} packages from "
        + " and ".join(f"requirements/{lock.name}" for lock in recipe.locks)
    )
    try:
        with recipe.checkout.log.open("w", encoding="utf-8") as log:
            runner = Runner(log=log.write, lock_fd=lock_fd)
            _install(recipe, runner, PipProgress(packages, reporter), supplies)
        _write_own_commands(venv, recipe.checkout.root)
        _finish(venv, recipe.checkout.root, recipe.locks)
    except BaseException:
        shutil.rmtree(venv, ignore_errors=True)
        raise
    reporter.say(f".venv is ready ({time.monotonic() - started_s:.0f} s)")
    return venv


def _install(
    recipe: Recipe, runner: "Runner", progress: "PipProgress", supplies: "Supplies | None"
) -> None:
    venv = recipe.venv
    code, output = runner.run([str(recipe.python), "-I", "-m", "venv", str(venv)])
    if code != 0:
        raise explain(output, recipe.checkout, "the module venv")
    wheels = supplies.wheels if supplies else None
    environment = pip_environment(offline=supplies is not None)
    code, output = runner.run(pip_command(venv, recipe.locks, wheels), progress.line, environment)
    if code != 0 and supplies and "No space left" not in output:
        errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR")]
        said = errors[-1] if errors else f"exit code {code}"
        raise BootstrapError(
            f"pip could not install what lies in {supplies.bundle}: {said} "
            f"(pip said more in {recipe.checkout.log}). Run: unset UPLAB_BUNDLE"
        )
    if code != 0:
        raise explain(output, recipe.checkout, "pip")


def pip_command(venv: Path, locks: list[Path], wheels: Path | None = None) -> list[str]:
    """Out: the argv that installs ``locks`` into ``venv``, and nothing whose hash is not there.

    In: ``wheels`` is the directory to take them from, and from nowhere else.

    Only wheels: building from source would fetch build tools that no lock file names.
    """
    command = [str(venv / "bin" / "python"), "-I", "-m", "pip", "install", "--require-hashes"]
    command += ["--only-binary", ":all:", "--progress-bar", "off", "--no-input"]
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels)]
    for lock in locks:
        command += ["--requirement", str(lock)]
    return command


def pip_environment(*, offline: bool = False) -> dict[str, str]:
    """Out: the user's environment with pip's variables, less those that install elsewhere.

    With ``offline`` less all of them: what pip is set to leads to a network.
    """
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    if offline:
        kept = {name: value for name, value in kept.items() if not name.startswith("PIP_")}
        kept["PIP_CONFIG_FILE"] = os.devnull
    return {**kept, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1"}


@dataclass
class Runner:
    """Runs one command after the other and keeps what they print."""

    log: Callable[[str], object]
    lock_fd: int | None = None

    def run(
        self,
        command: list[str],
        on_line: Callable[[str], None] = lambda _line: None,
        environment: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Out: exit code and the last lines of stdout and stderr together.

        Raises KeyboardInterrupt only after the command has ended.
        """
        inherited = () if self.lock_fd is None else (self.lock_fd,)
        tail: list[str] = []
        self._log(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=pip_environment() if environment is None else environment,
            encoding="utf-8",
            errors="replace",
            pass_fds=inherited,
        )
        try:
            for line in process.stdout or ():
                self._log(line)
                on_line(line)
                tail = [*tail[-LOG_TAIL_LINES:], line]
            return process.wait(), "".join(tail)
        except BaseException:
            _stop(process)
            raise

    def _log(self, text: str) -> None:
        # On a full disk the log is the least of it.
        with suppress(OSError):
            self.log(text)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class PipProgress:
    """Turns pip's lines into "fetched 7 of 30"."""

    packages: int
    reporter: Reporter
    fetched: int = 0

    def line(self, text: str) -> None:
        """In: one line of pip."""
        words = text.split()
        # "Processing" is what pip says of a file that is here already (a mirror, a wheel folder).
        if len(words) > 1 and words[0] in ("Collecting", "Processing"):
            self.fetched += 1
            name = Path(words[1]).name
            self.reporter.step(f"fetching {self.fetched} of {self.packages}: {name}")
        elif text.startswith("Installing collected packages"):
            self.reporter.say(f"fetched {self.fetched} packages, hashes agree; installing")


def explain(output: str, checkout: Checkout, who: str) -> BootstrapError:
    """In: what a failed venv or pip printed. Out: cause, place and next command in one line."""
    log = f"({who} said more in {checkout.log})"
    again = f"Run: {checkout.command}"
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return BootstrapError(
            f"the disk is full at {checkout.venvs}: .venv needs about 600 MB {log}. "
            f"Run: df -h {shlex.quote(str(checkout.root))}",
            EXIT_UNREACHABLE,
        )
    if "DO NOT MATCH THE HASHES" in output:
        named = re.search(
            r"DO NOT MATCH THE HASHES.*?\n\s+(\S+?)(?: from [^\n]*)?:?\n", output, re.S
        )
        return BootstrapError(
            f"{named[1] if named else 'a package'} is not the file that requirements/*.lock names: "
            f"its hash differs, and nothing was installed {log}. "
            "Run: git checkout requirements, and see that the package index is the right one"
        )
    if _NETWORK.search(output):
        return BootstrapError(
            f"the Python package index cannot be reached {log}. "
            f"{again} when the network is back, or set PIP_INDEX_URL or HTTPS_PROXY",
            EXIT_UNREACHABLE,
        )
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        # Without a retry pip does not say that it could not connect, only that it found nothing.
        why = "knows no version of it" if "(from versions: none)" in output else "has no such file"
        return BootstrapError(
            f"the configured Python package index {why}, or cannot be reached: {missing[1]} for "
            f"Python {sys.version.split()[0]} on {os.uname().machine} {log}. Run: pip config list",
            EXIT_UNREACHABLE,
        )
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
    return BootstrapError(f"{who} failed: {last.strip()} {log}. {again}")


_FULL = (errno.ENOSPC, errno.EDQUOT)


def _explain_os_error(error: OSError, checkout: Checkout) -> str:
    if error.errno in _FULL:
        return str(explain("No space left on device", checkout, "this"))
    if isinstance(error, PermissionError):
        owner = shlex.quote(str(checkout.root))
        return f"{error.filename} cannot be written by this user. Run: sudo chown -R $USER {owner}"
    return f"{error.strerror}: {error.filename}. Run: {checkout.command}"


def _write_own_commands(venv: Path, root: Path) -> None:
    """Let a plain ``invoke`` in an active environment be ./invoke: both behave the same."""
    for name in ("invoke", "inv"):
        path = venv / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(str(root / "invoke"))} "$@"\n')
        path.chmod(0o755)


def _finish(venv: Path, root: Path, locks: list[Path]) -> None:
    """Mark ``venv`` as finished: the lock files first, ``place`` last and in one step."""
    marks = venv / "uplab"
    marks.mkdir()
    for lock in locks:
        shutil.copyfile(lock, marks / lock.name)
    part = marks / "place.part"
    part.write_text(f"{root}\n")
    # After a power cut the mark must not be there without what it vouches for.
    os.sync()
    part.rename(marks / "place")


def point_link(checkout: Checkout, venv: Path) -> None:
    """Let ``.venv`` point at ``venv`` in one step, and drop what is older than the one before."""
    target = venv.relative_to(checkout.root)
    before = checkout.link.readlink() if checkout.link.is_symlink() else None
    if before == target:
        return
    part = checkout.state / "venv.part"
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    # The link lies one level higher than where it is made; its target is relative to there.
    part.replace(checkout.link)
    keep = {venv.name, before.name if before else venv.name}
    for other in checkout.venvs.iterdir():
        if other.name not in keep and not in_use(other):
            shutil.rmtree(other, ignore_errors=True)


def in_use(venv: Path) -> bool:
    """Out: whether a process was started from ``venv`` (its path is then in its command line)."""
    needle = f"{venv}/".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # Processes come and go while we look.
        with suppress(OSError):
            if needle in path.read_bytes():
                return True
    return False


def require_venv_modules(
    python: Path, checkout: Checkout, reporter: Reporter, supplies: "Supplies | None" = None
) -> None:
    """See that ``python`` can make environments; on Debian, install the package if we may.

    Raises BootstrapError where that is not possible.
    """
    if _has_venv_modules(python):
        return
    if not _belongs_to_dpkg(python):
        raise BootstrapError(
            f"{python} has no module venv or ensurepip, and no Debian package owns it. "
            f"Run: UPLAB_PYTHON=/usr/bin/python3 {checkout.command}"
        )
    package = venv_package(python)
    prefix = _root_prefix()
    if prefix is None:
        raise BootstrapError(
            f"the Debian package {package} is missing, and this user cannot install it. "
            f"Run: sudo apt-get install {package}"
        )
    reporter.say(f"installing the Debian package {package}, which {python} needs to make .venv")
    _apt_install(package, prefix, checkout, supplies)
    if not _has_venv_modules(python):
        raise BootstrapError(f"{python} still has no module ensurepip with {package} installed")


def venv_package(python: Path) -> str:
    """Out: the package that brings ensurepip for ``python``."""
    if python == Path("/usr/bin/python3").resolve():
        return "python3-venv"
    return f"python{sys.version_info.major}.{sys.version_info.minor}-venv"


def _has_venv_modules(python: Path) -> bool:
    return _succeeds([str(python), "-I", "-c", "import ensurepip, venv"])


def _belongs_to_dpkg(python: Path) -> bool:
    tools = shutil.which("apt-get") and shutil.which("dpkg-query")
    return bool(tools) and _succeeds(["dpkg-query", "--search", str(python)])


def _root_prefix() -> list[str] | None:
    """Out: what to put before a command that needs root; None if we cannot become root unasked."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and _succeeds(["sudo", "-n", "true"]):
        return ["sudo", "-n"]
    return None


def _apt_install(
    package: str, prefix: list[str], checkout: Checkout, supplies: "Supplies | None"
) -> None:
    """Install, and if that fails because the lists are missing or old: update and try again.

    With ``supplies`` from there and from nowhere else.
    """
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]
    apt += ["-o", f"DPkg::Lock::Timeout={APT_LOCK_TIMEOUT_S}"]
    apt += supplies.apt_options() if supplies else []
    install = [*apt, "install", "--yes", "--no-install-recommends", package]
    with checkout.log.open("w", encoding="utf-8") as log:
        runner = Runner(log=log.write)
        code, _ = runner.run(install)
        if code == 0:
            return
        runner.run([*apt, "update"])
        code, output = runner.run(install)
    if code != 0:
        errors = [line.strip() for line in output.splitlines() if line.startswith("E:")]
        raise BootstrapError(
            f"apt-get could not install {package}: {errors[0] if errors else f'exit code {code}'} "
            f"(more in {checkout.log}). Run: apt-get update && apt-get install {package}",
            EXIT_UNREACHABLE,
        )


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
