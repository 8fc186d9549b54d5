"""Running the ``agentos`` command, for tests."""

import contextlib
import fcntl
import io
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

from agentos.__main__ import main

COMMAND = Path(sys.executable).with_name("agentos")

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


class Command:
    """The command in a folder, with an environment of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.folder = folder
        self.environment = dict(environment)

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Done:
        """Run it to its end, in this process: starting Python takes longer than most commands."""
        output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, self.environment | environment, clear=True),
            mock.patch.object(sys, "argv", [COMMAND.name, *arguments]),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            try:
                main()
                code = 0
            except SystemExit as ending:
                code = int(ending.code or 0)
        said, told = (stream.buffer.getvalue().decode() for stream in (output, errors))  # type: ignore[attr-defined]
        return Done(arguments, code, said, told)

    def process(self, *arguments: str, seconds: float = 60, **environment: str) -> Done:
        """Run it to its end, as a process."""
        done = subprocess.run(
            [COMMAND, *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start it as a process, with pipes for what it writes."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [COMMAND, *arguments], env=self.environment, cwd=self.folder, stdout=pipe, stderr=pipe, text=True
        )

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """Run it while something else happens; then Ctrl-C, which must end it at once with 130 and no traceback."""
        with self.start(*arguments) as process:
            try:
                yield process
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=15)
                assert process.returncode == 130, said
                assert "Traceback" not in said
            finally:
                process.kill()

    def on_terminal(self, *arguments: str, columns: int = 100, **environment: str) -> str:
        """Run it on a terminal so many columns wide; return what it wrote there."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {**self.environment, "TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}
        environment.pop("COLUMNS", None)
        process = subprocess.Popen([COMMAND, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        written = bytearray()
        with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # how a terminal ends
            while piece := terminal.read(65536):
                written += piece
        assert process.wait(30) == 0, written
        return written.decode().replace("\r\n", "\n")

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "", **environment: str) -> str:
        """Run it, and return what it wrote to stdout, or to stderr when it has to end with another ``code`` than 0."""
        done = self.run(*arguments, stdin=stdin, **environment)
        assert done.returncode == code, done
        if code == 0:
            return done.stdout
        assert done.stdout == ""
        return done.stderr
