"""Instances of workers: one start of one worker, in a process of its own or in one that several share."""

import asyncio
import contextlib
import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentos_contracts.effective import is_simple_command

from agentos.local.engine import LocalEngine
from agentos.local.environment import expand
from agentos.local.fleet import LocalWorker
from agentos.local.host import Host
from agentos.local.install import install, is_installed
from agentos.local.process import Process, StartError, child_environment, ending

STOP_SECONDS = 25.0
"""Seconds for a worker to end after it was asked to; our kit lets calls run on for 20 of them."""

Print = Callable[[str | None, str], object]
"""Told a line of output and the worker that it is from, None when the line itself says so."""

_EXPANDED = frozenset("$`~*?[")
"""Characters that a shell makes something else of."""


@dataclass(slots=True, eq=False)
class Instance:
    """One start of a worker. ``id`` is in the URL that it was given, so that its connections are known by it."""

    worker: LocalWorker
    pid: int
    host: Host | None = None
    process: Process | None = None
    id: str = ""
    ended: "asyncio.Future[str]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Why it is gone; empty when it was asked to go."""
    started: bool = False
    """Whether it said that all its functions are registered; only those in a host say so."""
    stopping: bool = False

    def has_started(self) -> None:
        """Record that all its functions are registered."""
        self.started = True

    def end(self, why: str) -> None:
        """Record that it is gone."""
        if not self.ended.done():
            self.ended.set_result("" if self.stopping else why or "it ended")

    async def stop(self) -> None:
        """Ask it to finish its calls and go; after a while it is killed."""
        self.stopping = True
        if self.process is not None:
            await self.process.stop(STOP_SECONDS)
        elif self.host is not None:
            if not self.ended.done():
                self.host.remove(self.worker.name)
                await asyncio.wait([self.ended], timeout=STOP_SECONDS)
            if not self.ended.done():
                await self.host.kill()
            elif self.host.empty:
                await self.host.stop(STOP_SECONDS)


class Launcher:
    """Starts instances. Python workers on our kit share a process, one for all that want the same variables.

    ``surroundings`` is the environment of the person; ``isolate``: none share one; ``shared``: one that was started
    ahead, since its imports take longer than all else.
    """

    def __init__(
        self,
        engine: LocalEngine,
        surroundings: Mapping[str, str],
        output: Print,
        *,
        isolate: bool = False,
        shared: Host | None = None,
    ) -> None:
        self._engine = engine
        self._output = output
        self._isolate = isolate
        self._environment = child_environment(surroundings)
        self._shared: dict[frozenset[tuple[str, str]], asyncio.Future[Host]] = {}
        """Processes that workers share, by the variables that they want: a process has one environment."""
        if shared is not None:
            self._shared[self._key({})] = ready = asyncio.get_running_loop().create_future()
            ready.set_result(shared)
        self._installing: dict[Path, asyncio.Lock] = {}

    async def start(self, worker: LocalWorker, uid: str, *, shared: bool) -> Instance:
        """Start an instance; ``shared``: in the shared process if it may. Raises StartError."""
        instance_id = str(uuid.uuid4())
        namespace = worker.resource["metadata"].get("namespace") or "default"
        url = self._engine.url_for(f"{namespace}/{worker.name}", uid, instance_id, worker.effective.version)
        variables = {**worker.variables, "III_URL": url, "III_WORKER_NAME": worker.name}
        if worker.target is not None and not self._isolate:
            host = await self._host_for(worker, shared)
            instance = Instance(worker, host.pid, host=host, id=instance_id)
            host.add(worker.name, worker.target, url, variables, worker.folder, instance.has_started, instance.end)
            return instance
        environment = {**self._environment, **variables}
        # As in a pod, where these variables are set first.
        command = tuple(expand(part, variables) for part in worker.command)
        check_program(command, worker.folder, environment)
        process = await Process.start(
            command,
            environment=environment,
            folder=worker.folder,
            output=lambda line: self._output(worker.name, line),
        )
        instance = Instance(worker, process.pid, process=process, id=instance_id)
        process.ended.add_done_callback(lambda done: instance.end("" if done.cancelled() else ending(done.result())))
        return instance

    async def install(self, worker: LocalWorker) -> None:
        """Run the worker's install script. Raises StartError."""
        if worker.install is None:
            return
        async with self._installing.setdefault(worker.folder, asyncio.Lock()):
            if self.needs_install(worker):  # and no other worker of the folder has done it by now
                environment = {**self._environment, **worker.variables}
                await install(worker.folder, worker.install, environment, lambda line: self._output(worker.name, line))

    def needs_install(self, worker: LocalWorker) -> bool:
        """Whether its install script has to be run first."""
        return not is_installed(worker.folder, worker.install)

    async def close(self) -> None:
        """End the shared processes that nobody uses."""
        for starting in list(self._shared.values()):
            with contextlib.suppress(StartError):
                host = await starting
                if host.open and host.empty:
                    await host.stop(STOP_SECONDS)

    async def _host_for(self, worker: LocalWorker, shared: bool) -> Host:
        environment = {**self._environment, **worker.variables}
        if not shared:
            return await Host.start(environment, lambda line: self._output(None, line))
        key = self._key(worker.variables)
        host = self._shared.get(key)
        if host is None or (host.done() and (host.exception() is not None or not host.result().open)):
            starting = Host.start(environment, lambda line: self._output(None, line))
            host = self._shared[key] = asyncio.ensure_future(starting)
        return await host

    def _key(self, variables: Mapping[str, str]) -> frozenset[tuple[str, str]]:
        return frozenset((name, value) for name, value in variables.items() if self._environment.get(name) != value)


def check_program(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Raise StartError when the program that starts a worker is not there, with words that a shell does not have."""
    is_shell = len(command) == 3 and tuple(command[:2]) == ("/bin/sh", "-c")
    script = command[2].removeprefix("exec ") if is_shell else ""
    if is_shell and not is_simple_command(script):
        return
    words = shlex.split(script) if is_shell else list(command)
    program = words[0]
    if is_shell and not _EXPANDED.isdisjoint(program):
        return
    path = program if os.sep not in program else str(folder / program)
    if shutil.which(path, path=environment.get("PATH")) is None:
        raise StartError(
            f"{program} is not there, and the worker is started by: {' '.join(words)[:200]}; "
            + ("run scripts.install, or correct the path" if os.sep in program else f"install {program}, or correct it")
        )
