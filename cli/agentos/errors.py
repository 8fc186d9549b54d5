"""How a command ends: exit codes, and the one exception that carries a message for the person at the terminal."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit code of every command means; ``docs/cli.md`` has the same table."""

    OK = 0
    FAILED = 1
    """The thing asked for did not work: errors were found, the function failed, a test or a build failed."""
    USAGE = 2
    """A wrong flag or argument, or a file that cannot be read."""
    UNREACHABLE = 3
    """No engine answers."""
    NOT_FOUND = 4
    """There is no such function, worker, trace, value, queue or realm."""
    TIMEOUT = 5
    """No answer in time."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandError(Exception):
    """A command cannot do what it was asked; the message is one line that says what is wrong and what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
