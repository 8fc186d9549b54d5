"""All workers of a fleet: who may run, what has changed, and what there is to tell."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentos_contracts.assign import declares_nothing, discovered, unclaimable
from agentos_contracts.claimables import is_claimable
from agentos_contracts.dependencies import Dependency, unmet
from agentos_contracts.granting import grant_of
from agentos_contracts.grants import Grant
from agentos_contracts.manifest import BUILT_IN_WORKERS
from agentos_contracts.patterns import Pattern
from agentos_contracts.reasons import CLASH, SCALED_TO_ZERO, SUSPENDED

from agentos.local.claims import Claims
from agentos.local.connections import Connections
from agentos.local.engine import LocalEngine
from agentos.local.fleet import Fleet, LocalWorker
from agentos.local.instance import Launcher
from agentos.local.service import Service, State

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds after which it is decided anew who may run, should nothing have said that it changed."""


class Supervisor:
    """Runs the workers of a fleet on an engine.

    ``report`` is told what becomes of workers: name and text.
    """

    def __init__(
        self,
        engine: LocalEngine,
        launcher: Launcher,
        claims: Claims,
        report: Callable[[str, str], object],
    ) -> None:
        self._engine = engine
        self._launcher = launcher
        self._claims = claims
        self._report = report
        self._connections = Connections(engine)
        self._services: dict[str, Service] = {}
        self._workers: dict[str, LocalWorker] = {}
        """What the files say now. A service has another form while it may not go over to this one."""
        self._changed: set[str] = set()
        """Those whose service has not been told yet of a change."""
        self._leaving: dict[Service, asyncio.Task[None]] = {}
        self._decider: asyncio.Task[None] | None = None
        self._granted: list[Grant] = []
        self._refused: frozenset[tuple[str, str]] = frozenset()
        """Workers, each with a function that it registers and does not get, of which it was told."""

    def start(self, fleet: Fleet) -> None:
        """Start the workers of a fleet; returns at once."""
        self.apply(fleet, ())
        self._decider = asyncio.ensure_future(self._keep_deciding())

    def apply(self, fleet: Fleet, changed: Iterable[Path]) -> None:
        """Go over to another fleet: new workers start, those that are gone stop, and what differs is replaced.

        ``changed`` are files whose change alone means that the workers of their folders are to be replaced.
        """
        touched = {name for file in changed for name in _owners(fleet, file)}
        for name in [name for name in self._services if name not in fleet.workers]:
            service = self._services.pop(name)
            self._report(name, "gone from the files: stopping it")
            self._leaving[service] = asyncio.ensure_future(self._let_go(service))
        services: dict[str, Service] = {}
        for name, worker in fleet.workers.items():
            service = self._services.get(name)
            if service is None:
                service = Service(worker, self._claims.uid(name), self._launcher, self._connections, self._tell)
                self._changed.discard(name)
            elif _process_of(self._workers[name]) != _process_of(worker) or name in touched:
                self._changed.add(name)
            services[name] = service
        # In the order of the files: it decides who is the oldest of those that come together.
        self._services, self._workers = services, dict(fleet.workers)
        self._decide()

    async def wait_ready(self, seconds: float | None = None) -> bool:
        """Return True once every worker is ready or has told why it is not, False after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._decide()  # who has just become ready may be what others have waited for
                    if all(each.settled for each in self._services.values()):
                        return True
                    await self._connections.change()
        except TimeoutError:
            return False

    async def stop(self) -> None:
        """End all workers; calls in progress are let through."""
        if self._decider is not None:
            self._decider.cancel()
            await asyncio.wait([self._decider])
        await asyncio.gather(*(each.stop() for each in self._services.values()), *self._leaving.values())
        await self._launcher.close()

    def services(self) -> Mapping[str, Service]:
        """Return the workers by name."""
        return self._services

    def status(self) -> list[dict[str, Any]]:
        """Return what there is to tell of each worker, in the order of the files."""
        return [
            {
                "name": service.worker.name,
                "state": str(service.state),
                "reason": service.reason,
                "message": service.message,
                "pid": service.current.pid if service.current is not None else None,
                "restarts": service.restarts,
                "functions": sorted(service.functions()),
                "source": str(service.worker.folder),
            }
            for service in self._services.values()
        ]

    # Deciding

    async def _keep_deciding(self) -> None:
        while True:
            await self._connections.change(LOOK_AGAIN)
            try:
                self._decide()
            except Exception:
                log.exception("it could not be decided which workers may run")

    def _decide(self) -> None:
        """Let those run that may: their functions are free, and what they need for the first start is ready."""
        leaving = {service.worker.name for service in self._leaving}
        running: dict[str, frozenset[str]] = {}
        registers: dict[str, tuple[Pattern, ...]] = {}
        # One that was removed twice is there twice, and the first may still end its calls.
        for service in (*self._leaving, *self._services.values()):
            name = service.worker.name
            if service.allowed or service.running:
                running[name] = (
                    running.get(name, frozenset()) | service.functions() | service.claims() | service.waiting()
                )
        for name, worker in self._workers.items():
            registers[name] = discovered(worker.resource, self._services[name].waiting())
        wanted = {name: worker.patterns for name, worker in self._workers.items()}
        settled = {name for name, service in self._services.items() if service.has_registered_all()}
        waiting = self._claims.decide(wanted, running, registers, settled)
        self._grant([*wanted, *(name for name in running if name not in wanted)])
        providers = []
        for name, service in self._services.items():
            what = (service.worker if service.running else self._workers[name]).effective
            waits_for = frozenset() if service.allowed else frozenset(what.dependencies)
            ready = service.state == State.READY
            providers.append(Dependency(name, what.name, what.version, ready, waits_for=waits_for))
        for name, service in self._services.items():
            worker = self._workers[name]
            clash = "; ".join(each.message for each in waiting.get(name, ()))
            if clash and not self._claims.held(name):
                service.hold(CLASH.name, clash)
            elif name in leaving:
                service.hold("Leaving", "its earlier processes are still ending")
            elif worker.resource["spec"].get("suspend"):
                service.hold(SUSPENDED.name, "spec.suspend is true")
            elif worker.replicas == 0:
                service.hold(SCALED_TO_ZERO.name, "spec.replicas is 0")
            elif not service.allowed and (
                lacking := unmet(worker.effective.dependencies, providers, BUILT_IN_WORKERS, worker.effective.name)
            ):
                reason, message = lacking
                service.hold(reason.name, message)
            elif clash:  # what runs goes on, without what it would take from others
                service.keep(CLASH.name, clash)
            else:
                if name in self._changed:
                    self._changed.discard(name)
                    service.change(worker)
                service.allow()
        self._warn_of_refused_functions()

    def _grant(self, names: Iterable[str]) -> None:
        """Tell the engine what each worker may register and call, when that has changed."""
        grants = []
        for name in names:
            worker = self._workers.get(name)
            resource = (worker or self._leaving_service(name).worker).resource
            grants.append(grant_of(resource, self._claims.uid(name), self._claims.held(name), leaving=worker is None))
        if grants != self._granted:
            self._granted = grants
            self._engine.grant(grants)

    def _leaving_service(self, name: str) -> Service:
        return next(service for service in self._leaving if service.worker.name == name)

    def _warn_of_refused_functions(self) -> None:
        """Tell of functions that a worker registers and does not get."""
        refused: dict[tuple[str, str], str] = {}
        for name, service in self._services.items():
            for function_id in service.waiting():
                holder = self._claims.holder(function_id)
                if holder == name:
                    continue  # it is about to get it
                if holder:
                    remedy = (
                        "register another one"
                        if is_claimable(function_id)
                        else "write spec.owns in their YAML, or rename it"
                    )
                    refused[name, function_id] = f"Worker {holder} holds it; {remedy}"
                elif why := unclaimable(function_id):
                    refused[name, function_id] = why
                elif not (is_claimable(function_id) or declares_nothing(service.worker.resource)):
                    refused[name, function_id] = f"spec.owns does not cover it; add this line there:   - {function_id}"
        for (name, function_id), why in sorted(refused.items()):
            if (name, function_id) not in self._refused:
                self._report(name, f"{function_id} is not served: {why}")
        self._refused = frozenset(refused)

    async def _let_go(self, service: Service) -> None:
        try:
            await service.stop()
        finally:
            del self._leaving[service]
            self._connections.wake()

    def _tell(self, service: Service, text: str) -> None:
        self._report(service.worker.name, text)


def _process_of(worker: LocalWorker) -> LocalWorker:
    """A worker without what its processes do not know of: permissions change under a running worker."""
    spec = {key: value for key, value in worker.resource["spec"].items() if key not in ("calls", "stateScopes")}
    return replace(worker, resource={**worker.resource, "spec": spec})


def _owners(fleet: Fleet, file: Path) -> list[str]:
    """The workers that are to be started anew when a file changes: those of its folder, the innermost that has any.

    What a file with Workers says is compared; that it was written says nothing.
    """
    workers = fleet.workers.values()
    if file in fleet.files:
        return []
    inside = [worker for worker in workers if file.is_relative_to(worker.folder)]
    depth = max((len(worker.folder.parts) for worker in inside), default=0)
    return [worker.name for worker in inside if len(worker.folder.parts) == depth]
