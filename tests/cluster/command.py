"""Runs other programs, with errors made for people, and holds what every module here needs: folders and file locks."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
TAIL_LINES = 20


class ClusterError(Exception):
    """Something about the test cluster went wrong; the message says what, where, and what to do."""


def cache_folder() -> Path:
    """Where built tools and images are kept between runs: $AGENTOS_CACHE, else ~/.cache/agentos."""
    return Path(os.environ.get("AGENTOS_CACHE") or Path.home() / ".cache" / "agentos").resolve()


def clusters_folder() -> Path:
    """Where each running cluster has its folder: below $AGENTOS_STATE, else ~/.local/state/agentos."""
    root = Path(os.environ.get("AGENTOS_STATE") or Path.home() / ".local" / "state" / "agentos")
    return root.resolve() / "clusters"


def run(
    argv: Sequence[str | Path],
    *,
    input: str | None = None,
    stdin: Path | None = None,
    check: bool = True,
    timeout: float = 120,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. `timeout` is in seconds; `env` is added to this process's own.

    With `log`, output goes to that file instead of the result. Raises ClusterError when the program is missing,
    takes too long, or (with `check`) fails; the error ends with the last lines of what it printed.
    """
    words = [str(word) for word in argv]
    shown = shlex.join(words)
    source = open(stdin, "rb") if stdin else None  # noqa: SIM115 - closed below
    target = open(log, "ab") if log else None  # noqa: SIM115 - closed below
    try:
        process = subprocess.Popen(
            words,
            stdin=source or (subprocess.PIPE if input is not None else subprocess.DEVNULL),
            stdout=target or subprocess.PIPE,
            stderr=subprocess.STDOUT if target else subprocess.PIPE,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
        )
        try:
            out, err = process.communicate(input.encode() if input is not None else None, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise ClusterError(f"{shown}: not finished after {timeout:.0f} s; stopped it") from None
        except BaseException:
            process.kill()
            process.wait()
            raise
    except FileNotFoundError:
        raise ClusterError(f"{words[0]}: no such program; is it installed and on PATH?") from None
    finally:
        for stream in (source, target):
            if stream:
                stream.close()
    done = subprocess.CompletedProcess(
        words, process.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace")
    )
    if check and done.returncode != 0:
        printed = log.read_text(errors="replace") if log else done.stderr or done.stdout
        tail = "\n".join(f"    {line}" for line in printed.strip().splitlines()[-TAIL_LINES:])
        where = f" (all of it: {log})" if log else ""
        raise ClusterError(f"{shown}\n  ended with status {done.returncode}{where}:\n{tail}")
    return done


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Call `condition` until it is true or `seconds` have passed; says which of the two."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on an existing folder; the kernel frees it when the process ends in any way."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """Hold the lock `name` of the cache, so that two runs don't build the same thing twice."""
    folder = cache_folder() / "locks" / name
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        yield


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a whole file so that a reader sees the old or the new text, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
