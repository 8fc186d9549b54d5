"""What a scrape of ``/metrics`` measures, and when: nothing here runs between two scrapes."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from agentos_contracts.tokens import Role

from agentos_engine.builtins.queue import Queues
from agentos_engine.builtins.state import State
from agentos_engine.builtins.stream import Streams
from agentos_engine.bus.bus import Bus
from agentos_engine.modules import Module, Parts, WorkerPort
from agentos_engine.observability import engine_metrics as of
from agentos_engine.observability import process
from agentos_engine.observability.exposition import Metric, Samples, render
from agentos_engine.observability.histogram import Histogram
from agentos_engine.observability.loop_lag import LoopLag
from agentos_engine.queues.names import label
from agentos_engine.triggers.http import Http

if TYPE_CHECKING:
    from agentos_engine.storage.sqlite_threads import Writer

MAX_LABELS = 100
"""Values of a label that whoever uses the engine makes up, such as names of queues; the others share :data:`OTHER`."""
MAX_LABEL_LENGTH = 200
"""Characters of such a value; what is longer counts as :data:`OTHER`, too."""
OTHER = "other"

ROLES: tuple[str, ...] = ("anonymous", *Role)

STATUSES = {
    *(200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308),
    *(400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 415, 422, 429, 431, 499),
    *(500, 501, 502, 503, 504),
}
"""HTTP statuses that are told one by one: a function may answer with any of 500."""

Families = Iterator[tuple[Metric, Samples]]


class Scrape:
    """The metrics of one engine. ``modules`` and ``writer`` give what runs at present; no writer: nothing is durable."""

    def __init__(
        self,
        parts: Parts,
        modules: Callable[[], Iterable[Module]],
        writer: Callable[[], "Writer | None"],
        is_ready: Callable[[], bool],
        lag: LoopLag,
        version: str,
    ) -> None:
        self._parts = parts
        self._bus: Bus = parts.bus
        self._modules = modules
        self._writer = writer
        self._is_ready = is_ready
        self._lag = lag
        self._version = version
        self._seconds = 0.0

    def text(self, openmetrics: bool = False) -> str:
        """Measure, and return the exposition; see :func:`render`."""
        began = time.perf_counter()
        try:
            return render(self.families(), openmetrics)
        finally:
            self._seconds = time.perf_counter() - began

    def families(self) -> Families:
        """All metrics with what was measured; none of the storage, or of telemetry, when the engine has none."""
        modules = list(self._modules())
        yield of.BUILD, [((self._version, self._parts.settings.realm), 1)]
        yield of.READY, _one(self._is_ready())
        yield from self._connections(modules)
        yield from self._calls()
        yield from _http(modules)
        yield from _queues([each for each in modules if isinstance(each, Queues)])
        yield from self._triggers(modules)
        yield from self._telemetry()
        yield from _storage(self._writer())
        yield of.LAG, [((), self._lag.lags)]
        yield of.LAG_MAX, _one(self._lag.longest)
        yield of.SCRAPE, _one(self._seconds)
        yield from process.families()

    def _connections(self, modules: list[Module]) -> Families:
        bus, metrics = self._bus, self._parts.metrics
        roles: Counter[str] = Counter(dict.fromkeys(ROLES, 0))
        roles.update(each.peer.role or "anonymous" for each in bus.connections.values())
        ports = [each.server for each in modules if isinstance(each, WorkerPort) and each.server is not None]
        yield of.CONNECTIONS, _labelled(roles)
        yield of.SILENT, _one(sum(each.silent for each in bus.connections.values()))
        yield of.WORKERS_CAME, _one(metrics.spawns)
        yield of.WORKERS_WENT, _one(metrics.deaths)
        yield of.RECEIVED, _one(sum(each.received for each in ports))
        yield of.SENT, _one(sum(each.sent for each in ports))

    def _calls(self) -> Families:
        bus, calls = self._bus, self._bus.calls
        functions = list(self._parts.metrics.functions(self._parts.settings.metrics_functions))
        yield of.FUNCTIONS, _one(len(bus.registry))
        yield of.CALLS, _one(calls.accepted)
        yield of.CALL_ERRORS, [((source, code), count) for source, code, count in calls.errors.by_code()]
        yield of.IN_FLIGHT, _one(calls.invocations.in_flight)
        yield of.CALL_SECONDS, [((each.function_id,), each.answered) for each in functions]
        yield of.FUNCTION_ERRORS, [((each.function_id,), each.error) for each in functions]
        yield of.DEFERRED, [((each.function_id,), each.deferred) for each in functions if each.deferred]
        yield of.LIMITS, _labelled(bus.bounds.hit)
        yield of.DENIED, _labelled(bus.permissions_denied)

    def _triggers(self, modules: list[Module]) -> Families:
        streams = [each for each in modules if isinstance(each, Streams)]
        telemetry = self._parts.observability
        yield of.TRIGGERS, _bounded(self._bus.triggers.counts())
        yield of.STREAM_CLIENTS, _one(sum(len(each.server) for each in streams))
        yield of.STATE_DROPPED, _one(sum(each.trigger.dropped for each in modules if isinstance(each, State)))
        yield of.STREAM_DROPPED, _one(sum(each.triggers.dropped for each in streams))
        yield of.LOG_DROPPED, _one(0 if telemetry is None else telemetry.firings_dropped)

    def _telemetry(self) -> Families:
        telemetry = self._parts.observability
        if telemetry is None:
            return
        came, exporter = telemetry.ingested, telemetry.exporter
        refused = {"malformed": came.malformed, "too_large": came.too_large, "dropped": came.dropped}
        yield of.TELEMETRY_FRAMES, _one(came.frames)
        yield of.TELEMETRY_ENTRIES, _one(came.entries)
        yield of.TELEMETRY_REFUSED, _labelled(refused)
        yield of.EXPORTED, _one(0 if exporter is None else exporter.exported)
        yield of.EXPORT_DROPPED, _one(0 if exporter is None else exporter.dropped)


def _http(modules: list[Module]) -> Families:
    ports = [each for each in modules if isinstance(each, Http)]
    statuses: Counter[str] = Counter()
    seconds = Histogram()
    for port in ports:
        seconds.add(port.server.seconds.counts, port.server.seconds.sum)
        for status, count in port.server.statuses.items():
            statuses[str(status) if status in STATUSES else f"{status // 100}xx"] += count
    yield of.ROUTES, _one(sum(each.routes for each in ports))
    yield of.HTTP_REQUESTS, _labelled(statuses)
    yield of.HTTP_IN_FLIGHT, _one(sum(each.server.in_progress for each in ports))
    yield of.HTTP_SECONDS, [((), seconds)]
    yield of.HTTP_CONNECTIONS, _one(sum(len(each.server.connections) for each in ports))


def _queues(modules: list[Queues]) -> Families:
    depth: Counter[str] = Counter()
    running, done, retried, failed = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    dead: Counter[str] = Counter()
    age: dict[str, float] = {}
    names: dict[str, None] = {}

    def name_of(queue: str) -> str:
        name = label(queue)
        if len(name) > MAX_LABEL_LENGTH or (name not in names and len(names) >= MAX_LABELS):
            return OTHER
        names[name] = None
        return name

    for module in modules:
        for queue, consumer in module.runner.consumers.items():
            name = name_of(queue)
            depth[name] += consumer.depth
            running[name] += consumer.running
            done[name] += consumer.done
            retried[name] += consumer.retried
            failed[name] += consumer.buried
            dead[name] += module.runner.dead.get(queue, 0)
            age[name] = max(age.get(name, 0.0), consumer.oldest_age)
        for queue, waiting in module.runner.unused.items():
            depth[name_of(queue)] += len(waiting)
        for queue, count in module.runner.dead.items():
            if queue not in module.runner.consumers:
                dead[name_of(queue)] += count
        module.runner.look_for_dead()
    yield of.QUEUE_DEPTH, _labelled(depth)
    yield of.QUEUE_RUNNING, _labelled(running)
    yield of.QUEUE_AGE, _labelled(age)
    yield of.QUEUE_DONE, _labelled(done)
    yield of.QUEUE_RETRIED, _labelled(retried)
    yield of.QUEUE_FAILED, _labelled(failed)
    yield of.QUEUE_DEAD, _labelled(dead)


def _storage(writer: "Writer | None") -> Families:
    if writer is None:
        return
    database, log_file = writer.sizes()
    yield of.STORAGE_GROUPS, [((), writer.groups)]
    yield of.STORAGE_SECONDS, [((), writer.seconds)]
    yield of.STORAGE_FAILED, _one(writer.failures)
    yield of.STORAGE_WAITING, _one(writer.unwritten)
    yield of.STORAGE_DATABASE, _one(database)
    yield of.STORAGE_LOG, _one(log_file)
    yield of.STORAGE_FREE, _one(writer.free_bytes())


def _one(value: float) -> Samples:
    return [((), int(value) if isinstance(value, bool) else value)]


def _labelled(counts: Mapping[Any, float]) -> Samples:
    return [((name,), value) for name, value in counts.items()]


def _bounded(counts: Mapping[str, int]) -> Samples:
    """Some by their names, and the others together, so that the sum stays right."""
    short = (name for name in counts if len(name) <= MAX_LABEL_LENGTH and name != OTHER)
    known = {name: counts[name] for name in islice(short, MAX_LABELS)}
    others = sum(counts.values()) - sum(known.values())
    return _labelled(known | {OTHER: others} if others else known)
