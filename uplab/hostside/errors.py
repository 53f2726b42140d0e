"""The errors that hostside reports, each with an exit code of the project's list."""

from __future__ import annotations

OK = 0
USAGE = 2
NOTHING_MEASURED = 3
HOST = 4
INTERRUPTED = 130


class HostError(Exception):
    """Something on the host stops the whole run; ``str()`` is the line for the user.

    Args:
        message: cause, place and the next command, in one line.
        exit_code: what hostside exits with (see "Exit codes" in the reference).
    """

    def __init__(self, message: str, exit_code: int = HOST) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrialError(Exception):
    """One trial cannot count; it becomes ``invalid`` and the run goes on.

    Args:
        code: the reason's stable name, such as ``server-died``.
        text: the reason in words, with the values seen.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; raised only where hostside waits, never at random places."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"signal {signal_number}")
        self.signal_number = signal_number
