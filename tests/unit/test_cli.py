"""How tasks are declared, listed and run, and how their errors end."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.context import Context

from tests.tasks import run as run_tasks
from uplab import errors
from uplab.cli import common, program
from uplab.cli.common import command

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "ansible",
    "fabric",
    "jinja2",
    "mitogen",
    "numpy",
    "paramiko",
    "pydantic",
    "rich",
    "scipy",
)


def task_names(collection: dict[str, Any], prefix: str = "") -> list[str]:
    """The full names in what ``--list --list-format=json`` prints."""
    names = [prefix + task["name"] for task in collection["tasks"]]
    for inner in collection["collections"]:
        names += task_names(inner, f"{prefix}{inner['name']}.")
    return names


@pytest.fixture(scope="module")
def tasks_of_uplab() -> list[str]:
    return task_names(json.loads(run_tasks("--list", "--list-format=json").stdout))


def test_listing_the_tasks_loads_nothing_heavy() -> None:
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['tasks.py', '--list']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'tasks.py')!r}, run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        "print('LOADED', *sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split("LOADED ", 1)[1].split())
    assert "invoke" in loaded
    # Not "yaml": Invoke's own copy of PyYAML loads the C part of an installed one.
    assert sorted(loaded.intersection(HEAVY)) == []
    ours = {name for name in loaded if name.split(".")[0] == "uplab"}
    assert {name for name in ours if not name.startswith("uplab.cli")} == {"uplab", "uplab.errors"}


def test_the_list_shows_every_task_with_one_line(tasks_of_uplab: list[str]) -> None:
    promised = {"test", "build.lock", "lab.setup", "bench.all", "bench.plan", "report.show"}
    assert promised <= set(tasks_of_uplab)
    lines = [line for line in run_tasks("--list").stdout.splitlines()[1:] if line]
    shown = {line.split()[0]: line for line in lines}
    # On 80 columns, too; a help text that is too long goes on in a line of its own.
    assert sorted(shown) == sorted(tasks_of_uplab)
    assert max(len(line) for line in lines) <= 80


def test_every_flag_is_explained_with_its_default(tasks_of_uplab: list[str]) -> None:
    for task in tasks_of_uplab:
        done = run_tasks(task, "--help")
        assert done.returncode == 0, done.stderr
        options = done.stdout.split("Options:\n", 1)[1]
        for entry in re.split(r"^  (?=-)", options, flags=re.MULTILINE)[1:]:
            text = " ".join(entry.split())
            assert re.search(
                r"default: |by default|\(required\)|required\)|repeated\)|left out\)", text
            ), text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tset"], "invoke: there is no task tset. Nearest: test. Run: ./invoke --list"),
        (
            ["test", "--onyl", "unit"],
            "test: there is no flag --onyl. Nearest: --only. Run: ./invoke test --help",
        ),
        (["test", "--only"], "test: the flag --only needs a value. Run: ./invoke test --help"),
        (["--help", "nope"], "invoke: there is no task nope. Run: ./invoke --list"),
        (
            ["--list", "nope"],
            "invoke: Sub-collection 'nope' not found! Run: ./invoke --list",
        ),
        (["--dry", "test"], "invoke: there is no flag --dry. Run: ./invoke --help"),
        (
            ["--list-depth", "x"],
            "invoke: invalid literal for int() with base 10: 'x'. Run: ./invoke --help",
        ),
        (["test", "--only", "unti"], "test: --only names unti; known are lint,unit,roles,system"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(words: list[str], expected: str) -> None:
    done = run_tasks(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected + "\n")


@pytest.mark.parametrize(
    "task", ["all", "plan", "follow", "status", "stop", "collect", "resume", "certify"]
)
def test_an_inventory_of_ones_own_is_asked_and_no_other(task: str, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text("uplab:\n  hosts:\n    theirs:\n      ansible_connection: local\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"host": "local"}')
    words = {"resume": [f"{tmp_path}/run"], "certify": ["load/wrk", "--host", "local"]}
    chosen = words.get(task, ["--host", "local"])
    done = run_tasks(f"bench.{task}", *chosen, "--inventory", str(hosts))
    assert (done.returncode, done.stdout) == (2, "")
    said = f"bench.{task}: no host 'local' in group uplab of the inventory. There are theirs\n"
    assert done.stderr == said


def test_the_version_is_uplabs() -> None:
    from uplab import __version__

    assert run_tasks("--version").stdout == f"uplab {__version__}\n"


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as output:
        done = subprocess.run(
            [sys.executable, str(ROOT / "tasks.py"), "--list"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_bytecode_of_modules_that_tasks_import_is_kept(tmp_path: Path) -> None:
    (tmp_path / "later_module.py").write_text("VALUE = 1\n")
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from invoke.collection import Collection\n"
        "from uplab.cli import common, program\n"
        "ns = Collection('some')\n"
        "def task(c):\n"
        "    'Some task.'\n"
        "    import later_module\n"
        "common.command(ns, flags={})(task)\n"
        "program.run(Collection(ns), ['invoke', 'some.task'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert list((tmp_path / "__pycache__").glob("later_module.*.pyc"))


class Tasks:
    """A namespace ``some`` with a task ``task`` that does what a test says."""

    def __init__(self) -> None:
        self.ns = Collection("some")
        self.seen: list[object] = []

    def declare(self, body: Callable[[], None]) -> None:
        @command(self.ns, name="task", flags={})
        def task(c: Context) -> None:
            """Some task."""
            body()

    def run(self, *words: str) -> int:
        """Out: the exit code; 0 also where Invoke just returns."""
        try:
            program.run(Collection(self.ns), ["invoke", *words])
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
        assert isinstance(code, int)
        return code


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tasks:
    monkeypatch.setattr(common, "STATE_DIR", tmp_path / "state")
    return Tasks()


def fail_with(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.GateError("x is y"), 1),
        (errors.UsageError("x is y"), 2),
        (errors.InvalidError("x is y"), 3),
        (errors.HostError("x is y"), 4),
        (errors.Undecided("x is y"), 5),
        (errors.UplabError("x is y"), 1),
        (errors.UplabError("x is y", exit_code=4), 4),
    ],
)
def test_an_error_is_one_line_with_the_tasks_name(
    tasks: Tasks, capsys: pytest.CaptureFixture[str], error: errors.UplabError, code: int
) -> None:
    tasks.declare(fail_with(error))
    assert tasks.run("some.task") == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "some.task: x is y\n")


def test_an_interrupt_ends_with_130(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.declare(fail_with(KeyboardInterrupt()))
    assert tasks.run("some.task") == 130
    assert capsys.readouterr().err == "some.task: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_task_clean_up(tasks: Tasks, number: signal.Signals) -> None:
    def body() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            tasks.seen.append("cleaned up")

    before = signal.getsignal(number)
    tasks.declare(body)
    assert tasks.run("some.task") == 130
    assert tasks.seen == ["cleaned up"]
    assert signal.getsignal(number) is before


def test_a_fault_of_ours_names_the_file_with_its_traceback(
    tasks: Tasks, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tasks.declare(fail_with(KeyError("no such\nthing")))
    assert tasks.run("some.task") == 70
    logs = list((tmp_path / "state").glob("crash-*.log"))
    assert len(logs) == 1
    line = capsys.readouterr().err
    assert line.startswith("some.task: unexpected KeyError: ")
    assert line.count("\n") == 1
    assert str(logs[0]) in line
    text = logs[0].read_text()
    assert "Traceback (most recent call last)" in text
    assert "task some.task" in text


def test_a_crash_log_that_cannot_be_written_is_still_one_line(
    tasks: Tasks,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(common, "STATE_DIR", tmp_path / "file" / "state")
    tasks.declare(fail_with(ValueError("odd")))
    assert tasks.run("some.task") == 70
    line = capsys.readouterr().err
    assert "could not be written to" in line
    assert line.count("\n") == 1


def test_a_broken_pipe_that_is_not_stdout_is_a_fault(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.declare(fail_with(BrokenPipeError(errno.EPIPE, "some other pipe")))
    assert tasks.run("some.task") == 70
    assert "unexpected BrokenPipeError" in capsys.readouterr().err


def test_an_exit_of_the_task_itself_passes(tasks: Tasks) -> None:
    tasks.declare(fail_with(SystemExit(3)))
    assert tasks.run("some.task") == 3


def test_flags_are_read_by_type_and_bare_words_by_rest(tasks: Tasks) -> None:
    @command(
        tasks.ns,
        flags={
            "kind": "some kind",
            "set": "settings",
            "duration_s": "how long",
            "blocks": "how many; default: as the matrix says",
            "share": "some share; default: none",
            "strict": "be strict",
            "files": "the files",
        },
        iterable=("set",),
        rest="files",
    )
    def task(
        c: Context,
        kind: str,
        set: list[str],
        files: list[str],
        duration_s: int = 10,
        blocks: int | None = None,
        share: float | None = None,
        strict: bool = False,
    ) -> None:
        """Some task."""
        tasks.seen = [kind, set, files, duration_s, blocks, share, strict]

    assert tasks.run("some.task", "--kind", "k") == 0
    assert tasks.seen == ["k", [], [], 10, None, None, False]
    words = ["a", "--set", "x=1", "-", "--blocks=3", "--share", "0.5", "--strict", "c"]
    assert tasks.run("some.task", "--kind", "k", *words, "--set=y=2", "--duration-s", "7") == 0
    assert tasks.seen == ["k", ["x=1", "y=2"], ["a", "-", "c"], 7, 3, 0.5, True]


def test_a_word_where_a_number_belongs_names_the_flag(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    @command(tasks.ns, flags={"blocks": "how many", "share": "which share"})
    def task(c: Context, blocks: int = 6, share: float = 0.5) -> None:
        """Some task."""

    assert tasks.run("some.task", "--blocks", "many") == 2
    assert capsys.readouterr().err == (
        "some.task: --blocks takes a whole number, not 'many'. Run: ./invoke some.task --help\n"
    )
    assert tasks.run("some.task", "--blocks=3", "--share=half") == 2
    assert "--share takes a number, not 'half'" in capsys.readouterr().err


def test_help_carries_default_and_unit(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    @command(
        tasks.ns,
        flags={
            "name": "its name",
            "duration_s": "how long",
            "limit_pct": "at most; default: no limit",
            "setup": "set up first",
            "strict": "be strict",
            "set": "a setting",
        },
        iterable=("set",),
    )
    def task(
        c: Context,
        name: str,
        set: list[str],
        duration_s: int = 10,
        limit_pct: float | None = None,
        setup: bool = True,
        strict: bool = False,
    ) -> None:
        """Some task."""

    assert tasks.run("some.task", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "--name=STRING its name (required)",
        "--duration-s=INT how long (default: 10 seconds)",
        "--limit-pct at most; default: no limit (in percent)",
        "set up first (default: on; off with --no-setup)",
        "--strict be strict (default: off)",
        "--set a setting (may be repeated)",
    ):
        assert expected in text
    # Short flags would differ from task to task: only Invoke's own exist.
    assert " -d" not in text


def test_help_and_wrong_flags_are_no_values_of_required_arguments(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    @command(tasks.ns, flags={"name": "its name", "host": "which host"})
    def task(c: Context, name: str, host: str = "local") -> None:
        """Some task."""
        tasks.seen = [name, host]

    for words in (["--help"], ["--host", "x", "--help"], ["-h"], ["a", "--help"]):
        assert tasks.run("some.task", *words) == 0
        assert "--name=STRING   its name (required)" in capsys.readouterr().out
    assert tasks.run("some.task", "--hots", "x") == 2
    assert capsys.readouterr().err == (
        "some.task: there is no flag --hots. Nearest: --host. Run: ./invoke some.task --help\n"
    )
    assert tasks.run("some.task") == 2
    assert "did not receive required positional arguments: 'name'" in capsys.readouterr().err
    assert tasks.seen == []
    # A value may look like a flag or like a task.
    assert tasks.run("some.task", "some.task", "--host", "--help") == 0
    assert tasks.seen == ["some.task", "--help"]


def test_several_tasks_run_one_after_the_other(tasks: Tasks) -> None:
    tasks.declare(lambda: tasks.seen.append("task"))

    @command(tasks.ns, flags={"host": "which host"})
    def other(c: Context, host: str = "local") -> None:
        """Some other task."""
        tasks.seen.append(host)

    assert tasks.run("some.other", "--host", "h", "some.task") == 0
    assert tasks.seen == ["h", "task"]


def no_docstring(c: Context) -> None:
    pass


def flag_without_help(c: Context, host: str = "local") -> None:
    """Some task."""


def unclear_default(c: Context, host: str | None = None) -> None:
    """Some task."""


@pytest.mark.parametrize(
    ("body", "flags", "expected"),
    [
        (no_docstring, {}, "has no docstring"),
        (flag_without_help, {}, "no help for its parameter host"),
        (flag_without_help, {"host": "a host", "hots": "x"}, r"do not exist: \['hots'\]"),
        (unclear_default, {"host": "a host"}, "must say what the default means"),
    ],
)
def test_a_task_that_is_not_explained_cannot_be_declared(
    body: Callable[..., None], flags: dict[str, str], expected: str
) -> None:
    with pytest.raises(TypeError, match=expected):
        command(Collection("some"), flags=flags)(body)
