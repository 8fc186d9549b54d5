"""``agentos test``: a worker's own tests, with the worker on a private engine whose clock only the tests move."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentos_engine.clock import SteppedClock

from agentos.author.scratch import Log, Scratch, running
from agentos.errors import CommandError, ExitCode
from agentos.local.fleet import LocalWorker
from agentos.local.process import child_environment

WORKER_VARIABLE = "AGENTOS_TEST_WORKER"
HTTP_VARIABLE = "AGENTOS_HTTP_URL"
END_SECONDS = 5.0
"""Seconds for the tests to end after they were told to."""

_MAX_PACKAGE = 1024 * 1024


def test_command(worker: LocalWorker) -> list[str]:
    """Return the command that runs the tests of a worker's folder. Raises CommandError when that is not known."""
    folder = worker.folder
    language = worker.resource["spec"]["manifest"].get("language")
    if worker.target is not None or language == "python":
        return _python(folder)
    if (folder / "package.json").is_file():
        return _node(folder / "package.json")
    if (folder / "Cargo.toml").is_file():
        return ["cargo", "test"]
    if any(folder.glob("*.py")):
        return _python(folder)
    raise CommandError(
        f"it is not known how the tests of {folder} are run; say it: agentos test {folder} -- COMMAND", ExitCode.USAGE
    )


async def run_tests(worker: LocalWorker, command: Sequence[str], log: Log, seconds: float) -> ExitCode:
    """Run a worker and the command that tests it; return OK when that ends with exit code 0, else FAILED.

    The command's output is the terminal's. Raises CommandError when the worker or the command cannot be started, or
    the command takes longer than so many seconds.
    """
    if WORKER_VARIABLE in os.environ:
        raise CommandError("agentos test runs already, and would start itself for ever; give the command after --")
    async with running(worker, log, clock=SteppedClock()) as scratch:
        code = await _ended(command, worker.folder, environment_of(scratch), seconds)
    if code != 0:
        log.show()
    return ExitCode.OK if code == 0 else ExitCode.FAILED


def environment_of(scratch: Scratch) -> Mapping[str, str]:
    """Return the environment of the tests: the person's, and where the engine and the worker are."""
    return {
        **child_environment(os.environ),
        "III_URL": scratch.engine.url,
        HTTP_VARIABLE: scratch.engine.http_url,
        WORKER_VARIABLE: scratch.worker.effective.name,
    }


async def _ended(command: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float) -> int:
    try:
        # A session of its own, so that it ends with all that it started. It may read from the terminal all the same.
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=dict(environment), start_new_session=True
        )
    except FileNotFoundError:
        raise CommandError(f"{command[0]} is not there; give another command after --") from None
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be started: {error.strerror}") from None
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        raise CommandError(f"the tests did not end within {seconds:g} s; see --timeout", ExitCode.TIMEOUT) from None
    finally:
        if process.returncode is None:
            _signal(process.pid, signal.SIGINT)  # they may have something to say of where they are
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_SECONDS)
        _signal(process.pid, signal.SIGKILL)
        await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _python(folder: Path) -> list[str]:
    own = folder / ".venv" / "bin" / "python"
    if own.exists():
        return [str(own.absolute()), "-m", "pytest"]
    if importlib.util.find_spec("pytest") is None:
        raise CommandError(f"pytest is not installed: {Path(sys.executable).name} -m pip install pytest")
    return [sys.executable, "-m", "pytest"]


def _node(package: Path) -> list[str]:
    """``npm test``, unless that is ``agentos test`` itself."""
    try:
        with package.open("rb") as file:
            scripts = json.loads(file.read(_MAX_PACKAGE))["scripts"]
        script = scripts.get("test")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        script = None
    return ["npm", "test"] if isinstance(script, str) and "agentos test" not in script else ["node", "--test"]
