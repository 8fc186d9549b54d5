"""Every command of docs/first-ten-minutes.md, run as it stands in one shell session."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.command import PROJECT_ROOT, cache_folder
from tests.docs.console_blocks import Step, fits, steps_of

PAGE = PROJECT_ROOT / "docs" / "first-ten-minutes.md"
SECONDS = 240
"""For one command; the longest installs all wheels."""
MARK = "---- exit code"


class Terminal:
    """One shell session. What runs in the foreground on the page, such as ``agentos up``, has a log of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        own = str(PROJECT_ROOT / ".venv")
        environment = {
            **os.environ,  # how packages are reached, among others
            "PATH": os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if not each.startswith(own)),
            "HOME": str(home),
            "AGENTOS_CACHE": str(cache_folder()),
            "PIP_CACHE_DIR": str(cache_folder() / "pip"),
        }
        self._log = home / "up.log"
        self._ports: dict[str, str] = {}
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[str, int]:
        """Run a command; returns what it printed, and its exit code."""
        for port, chosen in self._ports.items():
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{chosen}")
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command} </dev/null\ncode=$?; echo; echo '{MARK}' $code\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(MARK):
                printed = "".join(lines)
                return printed.removesuffix("\n"), int(line.split()[-1])
            lines.append(line)
        raise AssertionError(f"the shell ended: {''.join(lines)}")

    def start(self, step: Step) -> str:
        """Start what runs until Ctrl-C, on free ports, and return what it printed once that is what the page shows."""
        flags = " ".join(f"--{name}port=0" for name in ("", "http-", "stream-", "admin-", "console-"))
        self.run(f"{step.command} {flags} > {self._log} 2>&1 & echo $! > {self._log}.pid")
        deadline = time.monotonic() + 60
        printed = ""
        while time.monotonic() < deadline:
            printed = self._log.read_text() if self._log.exists() else ""
            for usual, pattern in (
                ("3111", r"HTTP http://127\.0\.0\.1:(\d+)"),
                ("3113", r"page http://127\.0\.0\.1:(\d+)"),
            ):
                if match := re.search(pattern, printed):
                    self._ports[usual] = match[1]
            if fits(tuple(re.sub(r":\d{4,5}\b", ":…", line) for line in step.output), printed):
                self.run(f"export AGENTOS_CONSOLE_URL=http://127.0.0.1:{self._ports['3113']}")
                return printed
            time.sleep(0.1)
        raise AssertionError(f"line {step.line}: {step.command} printed\n{printed}")

    def close(self) -> None:
        """End what runs, and the shell."""
        if self._log.exists():
            self.run(f"kill -INT $(cat {self._log}.pid); wait")
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(30)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A session in a folder that has what a clone has, this tree's ``.venv`` too, which must not be made anew from there."""
    fresh = subprocess.run(["make", "--question", "setup"], cwd=PROJECT_ROOT, check=False).returncode == 0
    assert fresh, "run `make setup` first: .venv is older than the lock files"
    folder, home = tmp_path / "clone", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    for entry in PROJECT_ROOT.iterdir():
        if entry.name not in (".git", "dist"):
            (folder / entry.name).symlink_to(entry)
    session = Terminal(folder, home)
    try:
        yield session
    finally:
        session.close()


@pytest.mark.timeout(900)
def test_every_command_of_the_page_does_what_it_shows(terminal: Terminal) -> None:
    steps = steps_of(PAGE)
    assert len(steps) > 15
    for step in steps:
        if step.command == "agentos up":
            terminal.start(step)
            continue
        printed, code = terminal.run(step.command)
        # What is edited while `agentos up` runs is there a moment later.
        deadline = time.monotonic() + 15
        while step.output and not fits(step.output, printed) and time.monotonic() < deadline and code == step.code:
            time.sleep(0.2)
            printed, code = terminal.run(step.command)
        assert (code, fits(step.output, printed) or not step.output) == (step.code, True), (
            f"{PAGE.name} line {step.line}: {step.command}\nexit code {code}\n{printed}"
        )
