"""``engine::*::list`` and ``::info``: who and what is on the bus.

Entries carry the keys of both the 0.11 and the 0.23 line of iii, so that SDKs of either find theirs. Where one function
means different things in the two lines, the version of the caller's SDK decides. A caller that is held to a listener's
rules sees only what it may call.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from agentos_engine.builtins.listing_entries import (
    ENGINE,
    Line,
    binding_entry,
    described,
    function_entry,
    lines_of,
    listing,
    module_entry,
    own_entry,
    owner_name,
    raw,
    sees,
    type_entry,
    worker_entry,
)
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import DEFAULT_NAMESPACE, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, Function, decode_optional
from agentos_engine.bus.registry import Registration
from agentos_engine.slices import AT_ONCE, Work, at_once, in_slices
from agentos_engine.triggers.registry import Binding, Served

Found = TypeVar("Found")

OPERATORS_TYPE = "engine::connections"
MAX_BATCH = 32
"""Functions that one ``engine::functions::info`` may ask for."""
MAX_LISTED = 32 << 20
"""Bytes of answers of ``engine::functions::list`` that are kept."""


class _FunctionsList(msgspec.Struct):
    search: str | None = None
    prefix: str | None = None
    worker: str | None = None
    workers: list[str] | None = None
    namespace: str | None = None
    include_internal: bool | None = None


class _FunctionsInfo(msgspec.Struct):
    function_id: str | None = None
    function_ids: list[str] | None = None
    namespace: str | None = None


class _WorkersList(msgspec.Struct):
    worker_id: str | None = None
    search: str | None = None
    runtime: str | None = None
    status: str | None = None
    namespace: str | None = None


class _WorkersInfo(msgspec.Struct):
    name: str
    namespace: str | None = None


class _TriggersList(msgspec.Struct):
    include_internal: bool | None = None
    search: str | None = None
    trigger_type: str | None = None
    function_id: str | None = None
    worker: str | None = None


class _Info(msgspec.Struct):
    id: str
    namespace: str | None = None


class Listings:
    """The functions, over one bus. ``modules`` gives the names of what runs inside the engine."""

    def __init__(self, bus: Bus, modules: Callable[[], Iterable[str]] = tuple) -> None:
        self._bus = bus
        self._modules = modules
        self._state = (-1, -1, -1)
        self._listed: dict[bytes, msgspec.Raw] = {}
        """Answers of ``engine::functions::list`` by payload, as long as nothing changes."""
        self._asked: dict[bytes, asyncio.Task[msgspec.Raw]] = {}
        """Those that are to be built, and serve whoever asks before that begins."""
        self._turn = asyncio.Lock()
        """Long answers are built one after the other: who asks for many slows down nobody but others who ask."""
        for function_id, handler, description in (
            ("engine::functions::list", self._functions_list, "Lists functions"),
            ("engine::functions::info", self._functions_info, "Describes one function, or up to 32"),
            ("engine::workers::list", self._workers_list, "Lists connected workers"),
            ("engine::workers::info", self._workers_info, "Describes one worker with all that it has registered"),
            ("engine::triggers::list", self._triggers_list, "Lists trigger types; for SDKs before 0.13, bindings"),
            ("engine::triggers::info", self._triggers_info, "Describes one trigger type"),
            ("engine::trigger-types::list", self._trigger_types_list, "Lists trigger types, for SDKs before 0.13"),
            ("engine::registered-triggers::list", self._bindings_list, "Lists the bindings of functions to triggers"),
            ("engine::registered-triggers::info", self._bindings_info, "Describes one binding"),
        ):
            bus.functions.add(function_id, handler, description)
        bus.watchers.append(lambda connection: self._listed.clear())

    # Functions

    def _functions_list(self, context: Context, data: bytes) -> object:
        count = len(self._bus.registry)
        if context.connection is not None and context.connection.guard is not None:
            return self._answer(count, lambda: self._functions(context, data))
        # Clients poll this, and it can be megabytes: what is asked again, with nothing changed, is not built again.
        self._forget_changed()
        listed = self._listed.get(data)
        if listed is not None:
            return listed
        if count <= AT_ONCE:
            return self._keep(data, at_once(self._functions(context, data)))
        decode_optional(context.function_id, data, _FunctionsList)
        task = self._asked.get(data)
        if task is None:
            task = self._asked[data] = self._bus.spawn(self._build(context, data))
        return asyncio.shield(task)

    async def _build(self, context: Context, data: bytes) -> msgspec.Raw:
        async with self._turn:
            del self._asked[data]
            self._forget_changed()
            began = self._state
            answer = await in_slices(self._functions(context, data))
            self._forget_changed()
            return self._keep(data, answer) if began == self._state else answer

    def _forget_changed(self) -> None:
        state = (self._bus.registry.revision, self._bus.functions.revision, self._bus.revision)
        if state != self._state:
            self._state = state
            self._listed.clear()

    def _keep(self, data: bytes, answer: msgspec.Raw) -> msgspec.Raw:
        if sum(len(each) for each in self._listed.values()) + len(answer) > MAX_LISTED:
            self._listed.clear()
        self._listed[data] = answer
        return answer

    def _functions(self, context: Context, data: bytes) -> Work[msgspec.Raw]:
        wanted = decode_optional(context.function_id, data, _FunctionsList)
        prefix, search = wanted.prefix or "", (wanted.search or "").lower()
        workers = {name for name in (wanted.worker, *(wanted.workers or ())) if name}
        internal = wanted.include_internal is True
        guard = context.connection.guard if context.connection is not None else None

        def line(each: Registration) -> Line | None:
            if (
                (internal or not each.internal)
                and each.function_id.startswith(prefix)
                and wanted.namespace in (None, each.connection.namespace)
                and (search in each.function_id.lower() or search in described(each).lower())
                and (not workers or each.connection.about.name in workers)
                and (guard is None or guard.sees(each))
            ):
                return f"{each.function_id}\0{each.connection.namespace}", function_entry(each)
            return None

        lines = yield from lines_of(list(self._bus.registry), line)
        if not workers and wanted.namespace in (None, DEFAULT_NAMESPACE):
            lines += [
                (f"{each.function_id}\0{DEFAULT_NAMESPACE}", msgspec.json.encode(own_entry(each)))
                for each in self._own(context)
                if (internal or not each.internal)
                and each.function_id.startswith(prefix)
                and (search in each.function_id.lower() or search in each.description.lower())
            ]
        yield
        return listing("functions", lines)

    def _functions_info(self, context: Context, data: bytes) -> object:
        wanted = decode_optional(context.function_id, data, _FunctionsInfo)
        if (wanted.function_id is None) == (wanted.function_ids is None):
            raise BusError("INVALID_ARGUMENTS", "give either function_id or function_ids")
        if wanted.function_ids is None:
            return self._function_info(context, wanted.function_id or "", wanted.namespace)
        if len(wanted.function_ids) > MAX_BATCH:
            message = f"function_ids has {len(wanted.function_ids)} entries, more than {MAX_BATCH}"
            raise BusError("INVALID_ARGUMENTS", message)
        entries: list[object] = []
        for function_id in wanted.function_ids:
            try:
                entries.append(self._function_info(context, function_id, wanted.namespace))
            except BusError as error:
                body = {"code": error.code, "message": error.message}
                entries.append({"function_id": function_id, "found": False, "error": body})
        return {"functions": entries}

    def _function_info(self, context: Context, function_id: str, namespace: str | None) -> dict[str, object]:
        guard = context.connection.guard if context.connection is not None else None
        own = self._bus.functions.get(function_id)
        if own is not None and (own.function_id != function_id or (guard and not guard.sees_id(function_id))):
            own = None
        if own is not None and namespace in (None, DEFAULT_NAMESPACE):
            return own_entry(own) | {"found": True, "request_schema": None, "response_schema": None, "owner": "engine"}
        found = [each for each in self._bus.registry.find(function_id) if guard is None or guard.sees(each)]
        chosen = _one([(each.connection.namespace, each) for each in found], namespace, f"Function {function_id}")
        connection = chosen.connection
        entry = function_entry(chosen)
        triggers = [
            binding_entry(each)
            for each in self._bus.triggers
            if each.function_id == function_id and each.namespace == connection.namespace and not each.refused
        ]
        return entry | {
            "found": True,
            "request_schema": entry["request_format"],
            "response_schema": entry["response_format"],
            "owner": connection.about.name,
            "worker_id": connection.id,
            "registered_triggers": triggers,
        }

    # Workers

    def _workers_list(self, context: Context, data: bytes) -> object:
        return self._answer(len(self._bus.connections), lambda: self._workers(context, data))

    def _workers(self, context: Context, data: bytes) -> Work[msgspec.Raw]:
        wanted = decode_optional(context.function_id, data, _WorkersList)
        search = (wanted.search or "").lower()
        hides_nameless = _is_old(context.connection)  # that line hides who has not said who it is

        def line(each: Connection) -> Line | None:
            if (
                wanted.worker_id in (None, "", each.id)
                and (search in each.about.name.lower() or search in each.about.description.lower())
                and wanted.runtime in (None, "", each.about.runtime)
                and wanted.namespace in (None, each.namespace)
                and not (hides_nameless and each.about.pid is None)
                and not each.closed
            ):
                return shown(worker_entry(each, context))
            return None

        def shown(entry: dict[str, object]) -> Line | None:
            if wanted.status and entry["status"] != wanted.status:
                return None
            return f"{entry['name']}\0{entry['id']}", entry

        lines = yield from lines_of(list(self._bus.connections.values()), line)
        guarded = context.connection is not None and context.connection.guard is not None
        if not guarded and not wanted.worker_id and wanted.runtime in (None, "", ENGINE):
            modules = [module_entry(each) for each in self._modules() if search in each]
            lines += yield from lines_of(modules, shown)
        yield
        return listing("workers", lines, b',"timestamp":%d' % int(self._bus.clock.time() * 1000))

    def _workers_info(self, context: Context, data: bytes) -> object:
        wanted = decode_optional(context.function_id, data, _WorkersInfo)
        if wanted.name in self._modules() and wanted.namespace in (None, DEFAULT_NAMESPACE):
            return {
                "worker": module_entry(wanted.name),
                "functions": [],
                "trigger_types": [],
                "registered_triggers": [],
            }
        found = [(each.namespace, each) for each in self._bus.connections.values() if each.about.name == wanted.name]
        connection = _one(found, wanted.namespace, f"Worker {wanted.name}")
        functions = [each for each in connection.registrations.values() if sees(context, each)]
        provided = [each for each in self._bus.triggers.provided if each.connection is connection]
        return {
            "worker": worker_entry(connection, context),
            "functions": [function_entry(each) for each in functions],
            "trigger_types": [type_entry(each.trigger_type, connection, each.description) for each in provided],
            "registered_triggers": [
                binding_entry(each)
                for each in connection.bindings.values()
                if self._sees_binding(context, each) and not each.refused
            ],
        }

    # Trigger types and bindings

    def _triggers_list(self, context: Context, data: bytes) -> object:
        if _is_old(context.connection):
            return self._answer(len(self._bus.triggers), lambda: self._bindings(context, data, "triggers"))
        wanted = decode_optional(context.function_id, data, _TriggersList)
        search = (wanted.search or "").lower()
        entries = [
            type_entry(name, None, msgspec.json.encode(each.description))
            for name, each in self._served(wanted.include_internal is True)
        ]
        entries += [
            type_entry(each.trigger_type, each.connection, each.description) for each in self._bus.triggers.provided
        ]
        entries = [
            each
            for each in entries
            if search in str(each["id"]).lower() and wanted.worker in (None, each["worker_name"])
        ]
        return {"triggers": _sorted(context, entries)}

    def _trigger_types_list(self, context: Context, data: bytes) -> object:
        entries: list[dict[str, object]] = [
            {"id": name, "description": each.description} for name, each in self._served(False)
        ]
        for each in self._bus.triggers.provided:
            entry: dict[str, object] = {"id": each.trigger_type, "description": raw(each.description)}
            if each.trigger_request_format is not None:
                entry["trigger_request_format"] = raw(each.trigger_request_format)
            if each.call_request_format is not None:
                entry["call_request_format"] = raw(each.call_request_format)
            entries.append(entry)
        return {"trigger_types": _sorted(context, entries)}

    def _triggers_info(self, context: Context, data: bytes) -> object:
        wanted = decode_optional(context.function_id, data, _Info)
        count = sum(each.trigger_type == wanted.id and not each.refused for each in self._bus.triggers)
        schemas: dict[str, object] = {"configuration_schema": None, "request_schema": None, "response_schema": None}
        served = self._bus.triggers.served.get(wanted.id)
        if served is not None:
            entry = type_entry(wanted.id, None, msgspec.json.encode(served.description))
            return entry | schemas | {"instance_count": count, "owner": "engine"}
        found = [
            (each.connection.namespace, each) for each in self._bus.triggers.provided if each.trigger_type == wanted.id
        ]
        provided = _one(found, wanted.namespace, f"Trigger type {wanted.id}")
        schemas["configuration_schema"] = raw(provided.trigger_request_format)
        schemas["request_schema"] = raw(provided.call_request_format)
        entry = type_entry(wanted.id, provided.connection, provided.description)
        return entry | schemas | {"instance_count": count, "owner": provided.connection.about.name}

    def _bindings_list(self, context: Context, data: bytes) -> object:
        return self._answer(len(self._bus.triggers), lambda: self._bindings(context, data, "registered_triggers"))

    def _bindings_info(self, context: Context, data: bytes) -> object:
        wanted = decode_optional(context.function_id, data, _Info)
        binding = self._bus.triggers.find(wanted.id)
        if binding is None or not self._sees_binding(context, binding):
            raise BusError("NOT_FOUND", f"Trigger {wanted.id} not found")
        return binding_entry(binding)

    def _bindings(self, context: Context, data: bytes, name: str) -> Work[msgspec.Raw]:
        wanted = decode_optional(context.function_id, data, _TriggersList)
        search = (wanted.search or "").lower()

        def line(each: Binding) -> Line | None:
            if (
                not each.refused
                and (wanted.include_internal or each.trigger_type != OPERATORS_TYPE)
                and wanted.trigger_type in (None, each.trigger_type)
                and wanted.function_id in (None, each.function_id)
                and wanted.worker in (None, owner_name(each))
                and (search in each.function_id.lower() or search in each.trigger_type.lower())
                and self._sees_binding(context, each)
            ):
                return "", binding_entry(each)
            return None

        lines = yield from lines_of(list(self._bus.triggers), line)
        return listing(name, lines)

    def _answer(self, count: int, work: Callable[[], Work[msgspec.Raw]]) -> object:
        """Answer at once when there is little to look at, else in slices, when it is this one's turn."""
        return at_once(work()) if count <= AT_ONCE else self._in_turn(work)

    async def _in_turn(self, work: Callable[[], Work[msgspec.Raw]]) -> msgspec.Raw:
        async with self._turn:
            return await in_slices(work())

    # What a caller may see

    def _own(self, context: Context) -> Iterable[Function]:
        guard = context.connection.guard if context.connection is not None else None
        return (each for each in self._bus.functions if guard is None or guard.sees_id(each.function_id))

    def _served(self, internal: bool) -> list[tuple[str, Served]]:
        """Types of the engine; the one for the operator is internal."""
        return [each for each in self._bus.triggers.served.items() if internal or each[0] != OPERATORS_TYPE]

    def _sees_binding(self, context: Context, binding: Binding) -> bool:
        guard = context.connection.guard if context.connection is not None else None
        return guard is None or binding.connection is context.connection or guard.sees_id(binding.function_id)


def _one(found: list[tuple[str, Found]], namespace: str | None, what: str) -> Found:
    """The one that is meant: of the namespace that was asked for, else of the default, else the only one there is."""
    by_namespace = dict(found)
    wanted = namespace or (DEFAULT_NAMESPACE if DEFAULT_NAMESPACE in by_namespace else None)
    if wanted is not None:
        if wanted not in by_namespace:
            raise BusError("NOT_FOUND", f"{what} not found in namespace {wanted}")
        return by_namespace[wanted]
    if not by_namespace:
        raise BusError("NOT_FOUND", f"{what} not found")
    if len(by_namespace) > 1:
        names = ", ".join(sorted(by_namespace))
        raise BusError("INVALID_ARGUMENTS", f"{what} is in several namespaces, say which: {names}")
    return next(iter(by_namespace.values()))


def _sorted(context: Context, entries: list[dict[str, object]]) -> list[dict[str, object]]:
    """Trigger types by id, those that the caller may bind to."""
    guard = context.connection.guard if context.connection is not None else None
    seen = [each for each in entries if guard is None or guard.sees_trigger_type(str(each["id"]))]
    return sorted(seen, key=lambda entry: str(entry["id"]))


def _is_old(caller: Connection | None) -> bool:
    """True for SDKs of a line in which ``engine::triggers::list`` lists bindings: before 0.13."""
    return caller is not None and caller.about.is_before(13)
