"""Invoke's own front end, with wrong usage as one line and exit code 2.

Invoke by itself ends wrong usage with code 1, and a word where a number belongs with a traceback.
"""

import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.parser.parser import ParseResult
from invoke.program import Program

from uplab import __version__
from uplab.cli.common import UplabTask, error_edge
from uplab.cli.words import Reader
from uplab.errors import EXIT_GATE, EXIT_INTERRUPTED, EXIT_USAGE

# Invoke's options about its own way to run shell commands: no task of uplab uses that, and a
# "--dry" that changes nothing would be worse than none.
_WITHOUT_EFFECT = frozenset(
    {
        "command-timeout",
        "config",
        "dry",
        "echo",
        "hide",
        "prompt-for-sudo-password",
        "pty",
        "warn-only",
    }
)


def run(tasks: Collection, argv: list[str] | None = None) -> None:
    """Run the tasks that ``argv`` (default: ``sys.argv``) names.

    Raises SystemExit with the exit code of ``uplab.errors``, unless all went well.
    """
    program = UplabProgram(
        name="uplab",
        version=__version__,
        namespace=tasks,
        binary="./invoke",
        binary_names=["invoke", "inv"],
    )
    try:
        with error_edge("invoke"):
            program.run(argv)
    except Exit as ended:
        sys.exit(ended.code)


class UplabProgram(Program):
    """Invoke's Program for the tasks of uplab."""

    def core_args(self) -> list[Argument]:
        """Invoke's options that hold for uplab's tasks."""
        return [arg for arg in super().core_args() if arg.name not in _WITHOUT_EFFECT]

    def update_config(self, merge: bool = True) -> None:
        """Nothing to take over from options that are not offered."""
        self.config.load_overrides({}, merge=merge)

    def parse_core(self, argv: list[str] | None) -> None:
        """As Program.parse_core, but Python goes on to keep its bytecode.

        Invoke turns that off for the whole process, and every module that a task imports later
        would be compiled anew each time.
        """
        writes_no_bytecode = sys.dont_write_bytecode
        with self._usage_errors():
            super().parse_core(argv)
        sys.dont_write_bytecode = writes_no_bytecode

    def parse_tasks(self) -> None:
        """As Program.parse_tasks, for the words as ``uplab.cli.words`` has read them."""
        with self._usage_errors():
            self.parser = self._make_parser()
            rest = {name: task.rest for name, task in self._tasks().items() if task.rest}
            core_flags = frozenset(self.initial_context.flags)
            words = Reader(self.parser.contexts, core_flags, rest).read(self.core.unparsed)
            if words.help_for is not None:
                self.core[0].args["help"].value = words.help_for
                self.tasks = ParseResult()
                return
            self.core.unparsed = words.tokens
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        """As Program.parse_cleanup."""
        with self._usage_errors():
            super().parse_cleanup()

    def task_list_opener(self, extra: str = "") -> str:
        """The heading of the list of tasks."""
        return f"Tasks ({extra})" if extra else "Tasks (./invoke TASK --help explains its flags)"

    def _tasks(self) -> dict[str, UplabTask]:
        # None yet while Invoke reads its own options.
        collection: Collection = getattr(self, "collection", Collection())
        return {name: collection[name] for name in collection.task_names}

    @contextmanager
    def _usage_errors(self) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            raise Exit(self._explain(error), EXIT_USAGE) from error
        except ValueError as error:
            raise Exit(self._explain_value(error), EXIT_USAGE) from error
        except KeyboardInterrupt as error:
            raise Exit("invoke: interrupted", EXIT_INTERRUPTED) from error
        except Exit as error:
            if error.code != EXIT_GATE:
                raise
            raise Exit(f"invoke: {error.message} Run: ./invoke --list", EXIT_USAGE) from error

    def _explain(self, error: ParseError) -> str:
        context: ParserContext | None = getattr(error, "context", None)
        task = context.name if context and context.name else ""
        help_command = f"./invoke {task} --help" if task else "./invoke --help"
        text = str(error)
        unknown = re.fullmatch(r"No idea what (['\"])(?P<word>.*)\1 is!", text, re.DOTALL)
        if unknown and not unknown["word"].startswith("-"):
            word, known = unknown["word"], sorted(self._tasks())
            return f"invoke: there is no task {word}.{_nearest(word, known)} Run: ./invoke --list"
        missing = re.search(r"Flag <Argument: (\S+).*> needed value", text)
        if unknown:
            word, known = unknown["word"], sorted(context.flags) if context else []
            text = f"there is no flag {word}.{_nearest(word, known)}"
        elif missing:
            text = f"the flag --{missing[1]} needs a value."
        else:
            text = f"{text}."
        return f"{task or 'invoke'}: {text} Run: {help_command}"

    def _explain_value(self, error: ValueError) -> str:
        """Name the flag whose value cannot be read: Invoke's error does not."""
        task = "invoke"
        flags: dict[str, Argument] = {}
        tokens = self.argv[1:]
        for position, token in enumerate(tokens):
            if token in self._tasks():
                task = token
                flags = dict(self.parser.contexts[token].flags)
            flag, _, value = token.partition("=")
            if not value and position + 1 < len(tokens):
                value = tokens[position + 1]
            argument = flags.get(flag)
            if argument is not None and not _reads(argument.kind, value):
                wanted = {int: "a whole number", float: "a number"}[argument.kind]
                return f"{task}: {flag} takes {wanted}, not {value!r}. Run: ./invoke {task} --help"
        return f"{task}: {error}. Run: ./invoke --help"


def _reads(kind: Any, value: str) -> bool:
    if kind not in (int, float):
        return True
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3)
    return f" Nearest: {', '.join(near)}." if near else ""
