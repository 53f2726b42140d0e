"""How every task of uplab is declared, and the edge where an error becomes a line and a code.

Loaded by ``./invoke --list``, so it imports Invoke, the standard library and ``uplab.errors`` only.
"""

import functools
import inspect
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, NoReturn

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.tasks import Task

from uplab import __version__
from uplab.errors import EXIT_BROKEN_PIPE, EXIT_BUG, EXIT_INTERRUPTED, UplabError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The checkout: where ``tasks.py``, ``invoke`` and ``.uplab/`` lie."""

STATE_DIR = PROJECT_ROOT / ".uplab"
"""What uplab keeps beside the checkout and git ignores: environments, caches, crash logs."""

_UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_us": "microseconds",
    "_ns": "nanoseconds",
    "_bytes": "bytes",
    "_pct": "percent",
}
_KINDS: dict[str, type] = {"int | None": int, "float | None": float}
_NO_DEFAULT = inspect.Parameter.empty


class UplabTask(Task[Any]):
    """A task whose flags of type ``int | None`` and ``float | None`` are read as numbers.

    ``flag_texts`` is the help of its parameters; ``rest`` the name of its list parameter that takes
    the bare words (``report.parse FILE...``), or None.
    """

    flag_texts: Mapping[str, str] = MappingProxyType({})
    rest: str | None = None

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        """Invoke's description of one flag, with what Invoke misses.

        It cannot see the type behind a default of None, and it uses up its help texts.
        """
        options = super().arg_opts(name, default, taken_names)
        options["help"] = self.flag_texts[name]
        parameter = self.argspec(self.body).parameters[name]
        kind = _KINDS.get(str(parameter.annotation))
        if kind is not None and default is None:
            options["kind"] = kind
        return options


def command(
    namespace: Collection,
    *,
    flags: Mapping[str, str],
    name: str | None = None,
    iterable: tuple[str, ...] = (),
    rest: str | None = None,
) -> Callable[[Callable[..., None]], UplabTask]:
    """Declare a function as the task ``<namespace>.<name>``: the one way to make a task.

    In: ``namespace`` the module's ``ns`` (no name: a task of the root); ``flags`` the help text of
    every parameter but the first (the Invoke context), without default and unit, which are added
    here from the signature (``duration_s: int = 10`` becomes "(default: 10 seconds)"); a parameter
    whose default is None must say in its text what the default means. ``name`` where the
    function's own does not fit, ``iterable`` the flags that may be repeated, ``rest`` the one
    parameter that takes all bare words. The function's docstring is the task's help; its first
    line is shown by ``./invoke --list``.
    Out: the task, added to ``namespace``, its errors handled by ``error_edge``.
    Raises TypeError where a text is missing or names no parameter.
    """

    def declare(body: Callable[..., None]) -> UplabTask:
        task_name = name or body.__name__.strip("_").replace("_", "-")
        full_name = f"{namespace.name}.{task_name}" if namespace.name else task_name
        if not (body.__doc__ or "").strip():
            raise TypeError(f"task {full_name} has no docstring")

        @functools.wraps(body)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with error_edge(full_name):
                body(*args, **kwargs)

        repeated = (*iterable, rest) if rest else iterable
        made = UplabTask(
            guarded,
            name=task_name,
            iterable=repeated,
            positional=_positionals(body, repeated),
            auto_shortflags=False,
        )
        made.flag_texts = _help_texts(full_name, body, flags, iterable, rest)
        made.rest = rest
        namespace.add_task(made)
        return made

    return declare


def _parameters(body: Callable[..., None]) -> dict[str, inspect.Parameter]:
    """Out: the parameters that are flags: all but the first, which is Invoke's context."""
    return dict(list(inspect.signature(body).parameters.items())[1:])


def _positionals(body: Callable[..., None], repeated: tuple[str, ...]) -> list[str]:
    """Out: those that may be given without their flag: no default, and one value only."""
    return [
        parameter.name
        for parameter in _parameters(body).values()
        if parameter.default is _NO_DEFAULT and parameter.name not in repeated
    ]


def _help_texts(
    task: str,
    body: Callable[..., None],
    flags: Mapping[str, str],
    iterable: tuple[str, ...],
    rest: str | None,
) -> dict[str, str]:
    parameters = _parameters(body)
    unknown = sorted(set(flags) - set(parameters))
    if unknown:
        raise TypeError(f"task {task}: help for parameters that do not exist: {unknown}")
    texts = {}
    for parameter in parameters.values():
        text = flags.get(parameter.name, "").strip()
        if not text:
            raise TypeError(f"task {task}: no help for its parameter {parameter.name}")
        repeated = parameter.name in iterable or parameter.name == rest
        if parameter.default is None and not repeated and "default" not in text:
            raise TypeError(
                f"task {task}: the help of {parameter.name} must say what the default means"
            )
        note = "may be repeated" if repeated else _default_note(parameter)
        if parameter.name == rest:
            note = "any number of them; the flag itself may be left out"
        texts[parameter.name] = f"{text} ({note})" if note else text
    return texts


def _default_note(parameter: inspect.Parameter) -> str:
    unit = next((unit for end, unit in _UNITS.items() if parameter.name.endswith(end)), "")
    default = parameter.default
    if default is _NO_DEFAULT:
        return f"in {unit}, required" if unit else "required"
    if default is None:
        return f"in {unit}" if unit else ""
    if default is True:
        return f"default: on; off with --no-{parameter.name.replace('_', '-')}"
    if default is False:
        return "default: off"
    return f"default: {default} {unit}".rstrip()


@contextmanager
def error_edge(name: str) -> Iterator[None]:
    """Turn what goes wrong inside into one line on stderr and an exit code.

    In: ``name``, the task's full name, which begins the line.
    Raises ``invoke.Exit`` with the code of ``uplab.errors``; Exit and SystemExit pass through.
    SIGTERM and SIGHUP are handled like Ctrl-C, so that whatever cleans up after one cleans up
    after all of them.
    """
    try:
        with _signals_interrupt():
            yield
            # A reader that has gone shows itself only here when the output was short.
            sys.stdout.flush()
    except (Exit, SystemExit):
        raise
    except UplabError as error:
        _say(f"{name}: {error.message}")
        raise Exit(code=error.exit_code) from error
    except KeyboardInterrupt as error:
        _say(f"{name}: interrupted")
        raise Exit(code=EXIT_INTERRUPTED) from error
    except BrokenPipeError as error:
        if _stdout_has_no_reader():
            _discard_stdout()
            raise Exit(code=EXIT_BROKEN_PIPE) from error
        _fail_by_bug(name, error)
    except Exception as error:
        _fail_by_bug(name, error)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, unless somebody else has already said what."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ours = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, interrupt)
                ours.append(number)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _say(line: str) -> None:
    # What the task had printed belongs before its error, also where both go into one file.
    if not _stdout_has_no_reader():
        sys.stdout.flush()
    # Much of it was said by a host: nothing of that may move the cursor.
    clean = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in line)
    print(clean, file=sys.stderr, flush=True)


def _stdout_has_no_reader() -> bool:
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_stdout() -> None:
    """Keep the interpreter from complaining, at its end, about text that nobody will read."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


def _fail_by_bug(name: str, error: Exception) -> NoReturn:
    where = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
    kept = _write_crash_log(name, error)
    _say(
        f"{name}: unexpected {what} ({Path(where.filename).name}:{where.lineno}). {kept}. "
        "This is a fault in uplab: please report it with that traceback"
    )
    raise Exit(code=EXIT_BUG) from error


def _write_crash_log(name: str, error: Exception) -> str:
    """Keep the traceback in ``.uplab/crash-<UTC>.log``; out: a clause that says where it is."""
    now = datetime.now(UTC)
    path = STATE_DIR / f"crash-{now:%Y%m%dT%H%M%S.%fZ}.log"
    text = "".join(
        [
            f"uplab {__version__}, task {name}, {now.isoformat(timespec='seconds')}\n",
            f"arguments: {sys.argv!r}\npython: {sys.version}\n\n",
            *traceback.format_exception(error),
        ]
    )
    try:
        STATE_DIR.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        return f"Its traceback could not be written to {path} ({problem.strerror})"
    return f"Its traceback is in {path}"
