"""The errors a person is meant to see, and the exit code that each one means.

A message has one form: ``<cause, place>. Run: <next command>`` (the second sentence only where a
command helps). It names no exception class and carries no traceback; the command line puts the
task's name before it: ``bench.all: host r720 has no bpftime build. Run: invoke lab.setup``.
"""

EXIT_OK = 0
EXIT_GATE = 1
EXIT_USAGE = 2
EXIT_INVALID = 3
EXIT_HOST = 4
EXIT_UNDECIDED = 5
EXIT_BUG = 70
"""A fault of uplab itself: not one of the answers above (the number is sysexits' EX_SOFTWARE)."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""The reader of our output went away: what a shell reports for a program ended by SIGPIPE."""


class UplabError(Exception):
    """An error with a message for a person.

    In: ``message``, one line as described above; ``exit_code`` where the class's own does not fit.
    Out: ``str(error)`` is the message, ``error.exit_code`` what the command ends with.
    """

    exit_code: int = EXIT_GATE

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code

    @property
    def message(self) -> str:
        """The line for a person, without the task's name."""
        return str(self)


class GateError(UplabError):
    """A check or a gate failed (exit code 1)."""

    exit_code = EXIT_GATE


class UsageError(UplabError):
    """Wrong usage or bad input: a flag, a matrix, a file (exit code 2)."""

    exit_code = EXIT_USAGE


class InvalidError(UplabError):
    """Some available cell has no valid trial; with ``--strict``, any cell (exit code 3)."""

    exit_code = EXIT_INVALID


class HostError(UplabError):
    """A host cannot be reached, or was lost on the way (exit code 4)."""

    exit_code = EXIT_HOST


class Undecided(UplabError):
    """A gate that can say neither yes nor no with the trials at hand (exit code 5)."""

    exit_code = EXIT_UNDECIDED
