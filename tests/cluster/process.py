"""Knows a process again: its id together with when it started, since ids are given anew."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.command import ClusterError, wait_until

START_TIME_FIELD = 22  # of /proc/PID/stat, see proc(5)
KILL_SECONDS = 20


@dataclass(frozen=True)
class Process:
    """A process id, and its start time in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this id now; None when there is none, or only its unreaped remains."""
        fields = _stat(pid)
        return cls(pid, int(fields[START_TIME_FIELD - 3])) if fields and fields[0] not in ("Z", "X") else None

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """From "PID STARTED", as `record` and the node's launcher write it; None when it isn't that."""
        words = text.split()
        return cls(int(words[0]), int(words[1])) if len(words) == 2 and all(word.isdigit() for word in words) else None

    @classmethod
    def read(cls, path: Path) -> Process | None:
        """From a file that may not be there."""
        try:
            return cls.parse(path.read_text())
        except FileNotFoundError:
            return None

    def record(self) -> str:
        return f"{self.pid} {self.started}\n"

    def alive(self) -> bool:
        """Is it still this same process that has the id?"""
        return Process.of(self.pid) == self

    def children(self) -> list[Process]:
        """The processes whose parent it is."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))) and int(fields[1]) == self.pid:
                child = Process.of(int(entry.name))
                if child:
                    found.append(child)
        return found

    def kill(self) -> None:
        """SIGKILL, if it is still this process. Returns when it is gone; raises ClusterError when it doesn't go."""
        if self.alive():
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
        if not wait_until(lambda: not self.alive(), KILL_SECONDS):
            raise ClusterError(
                f"Process {self.pid} does not end, {KILL_SECONDS} s after SIGKILL; see `ps -fp {self.pid}`."
            )


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on: the second, the name, may itself hold spaces."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
