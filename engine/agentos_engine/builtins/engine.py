"""``engine::workers::register``, ``engine::workers::drain`` and the triggers that are made by a call."""

import asyncio
import uuid

import msgspec

from agentos_engine import limits
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import ANONYMOUS, DEFAULT_NAMESPACE, PART_OF_ENGINE, Connection, Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, decode, decode_optional
from agentos_engine.bus.registrations import check_id
from agentos_engine.bus.waiting import not_granted
from agentos_engine.protocol.messages import listable
from agentos_engine.triggers.registry import Binding

MAX_TEXT = 256
"""Characters kept of each text that a worker tells about itself."""
OLD_PYTHON_MAX_FRAME = 1 << 20
"""Bytes that Python SDKs before 0.25 take in one message; one more ends their connection with code 1009."""
SURELY_PLAIN = 500
"""Bytes of a message in which nothing can be that these cannot read."""
PROVIDER_TIMEOUT = 10.0
"""Seconds for the provider of a trigger type to take a binding."""
MAX_DRAIN_TIMEOUT = 3600.0


class _Drain(msgspec.Struct):
    worker_id: str | None = None
    uid: str | None = None
    pod_uid: str | None = None
    name: str | None = None
    timeout_ms: int = 30_000
    close: bool = False


class _RegisterTrigger(msgspec.Struct):
    trigger_type: str
    function_id: str
    config: msgspec.Raw = msgspec.Raw(b"null")
    metadata: msgspec.Raw = msgspec.Raw(b"null")
    namespace: str | None = None
    trigger_namespace: str | None = None


class _UnregisterTrigger(msgspec.Struct):
    id: str
    trigger_type: str | None = None


def install(bus: Bus) -> None:
    """Add the functions to a bus."""

    def workers_register(context: Context, data: bytes) -> object:
        caller = context.connection
        if caller is None:
            raise BusError("FORBIDDEN", "engine::workers::register is for workers")
        fields = decode_optional("engine::workers::register", data, dict[str, object])
        namespace = fields.get("namespace")
        if isinstance(namespace, str):
            bus.settle(caller, namespace)
        about = caller.about
        about.name = _text(fields, "name")
        about.runtime = _text(fields, "runtime")
        about.version = _text(fields, "version")
        about.os = _text(fields, "os")
        about.description = _text(fields, "description")
        about.isolation = _text(fields, "isolation") or None
        pid = fields.get("pid")
        about.pid = pid if isinstance(pid, int) and not isinstance(pid, bool) else None
        caller.fragile = about.runtime == "python" and about.is_before(25)
        caller.max_frame = SURELY_PLAIN if caller.fragile else limits.MAX_MESSAGE
        caller.largest = OLD_PYTHON_MAX_FRAME if caller.fragile else limits.MAX_MESSAGE
        bus.changed(caller)
        return {"success": True}

    async def workers_drain(context: Context, data: bytes) -> object:
        wanted = decode("engine::workers::drain", data, _Drain)
        if not (wanted.worker_id or wanted.uid or wanted.pod_uid or wanted.name):
            raise BusError("INVALID_ARGUMENTS", "say which workers: worker_id, uid, pod_uid or name")
        _check_operator(context.connection, "engine::workers::drain")
        connections = [
            each
            for each in bus.connections.values()
            if wanted.worker_id in (None, each.id)
            and wanted.uid in (None, each.peer.uid)
            and wanted.pod_uid in (None, each.peer.pod_uid)
            and wanted.name in (None, each.about.name)
        ]
        for each in connections:
            bus.draining.go(each.peer)
        if wanted.uid and wanted.pod_uid:
            bus.draining.go(Peer(uid=wanted.uid, pod_uid=wanted.pod_uid))  # it may be between two connections
        seconds = min(max(wanted.timeout_ms / 1000, 0.0), MAX_DRAIN_TIMEOUT)
        drained = await bus.drain(connections, seconds)
        workers = [{"worker_id": each.id, "in_flight": len(each.calls)} for each in connections]
        if wanted.close:
            bus.shut_out([each for each in connections if not each.closed], "its pod is going")
        return {"drained": drained, "workers": workers}

    async def register_trigger(context: Context, data: bytes) -> object:
        wanted = decode("engine::register_trigger", data, _RegisterTrigger)
        check_id(wanted.trigger_type, "trigger type")
        check_id(wanted.function_id, "function id")
        caller = context.connection
        if caller is not None and caller.guard is not None:
            raise BusError(
                "FORBIDDEN", "on this listener triggers are made by registering them, so that its rules apply"
            )
        result = asyncio.get_running_loop().create_future()
        try:
            binding = Binding(
                str(uuid.uuid4()),
                wanted.trigger_type,
                wanted.function_id,
                None,
                listable(wanted.config, "config"),
                listable(wanted.metadata, "metadata"),
                namespace=wanted.namespace or (caller.namespace if caller is not None else DEFAULT_NAMESPACE),
                trigger_namespace=wanted.trigger_namespace,
                size=len(data),
                maker=caller.peer if caller is not None else PART_OF_ENGINE,
                on_result=lambda error: _resolve(result, error),
            )
        except ValueError as error:
            raise BusError("INVALID_ARGUMENTS", str(error)) from error
        try:
            if caller is None or not bus.registrations.await_route(caller, binding):
                bus.triggers.bind(binding)
            timer = bus.clock.machine.call_later(PROVIDER_TIMEOUT, _resolve, result, None)
            try:
                refusal = await result
            finally:
                timer.cancel()
            if caller is not None and binding.id in caller.waiting_bindings:
                raise BusError("FORBIDDEN", not_granted(binding.claim))
        except BaseException:
            if caller is not None:
                bus.registrations.unregister_trigger(caller, binding.id)
            bus.triggers.unbind(None, binding.id)
            raise
        if refusal is not None:
            bus.triggers.unbind(None, binding.id)
            raise refusal
        return {"id": binding.id}

    def unregister_trigger(context: Context, data: bytes) -> object:
        wanted = decode("engine::unregister_trigger", data, _UnregisterTrigger)
        caller, maker = context.connection, bus.triggers.maker_of(wanted.id)
        if maker is not None and caller is not None and caller.permissions is not None and maker.uid != caller.peer.uid:
            raise BusError("FORBIDDEN", f"trigger {wanted.id[:100]} was made by another worker")
        return {"removed": bus.triggers.unbind(None, wanted.id)}

    for function_id, handler, description in (
        ("engine::workers::register", workers_register, "Tells the engine who the calling worker is"),
        (
            "engine::workers::drain",
            workers_drain,
            "Gives workers no new calls and reports when they have none left",
        ),
        ("engine::register_trigger", register_trigger, "Binds a function to a trigger type until it is unbound"),
        ("engine::unregister_trigger", unregister_trigger, "Undoes engine::register_trigger"),
    ):
        bus.functions.add(function_id, handler, description)


def _resolve(result: "asyncio.Future[BusError | None]", error: BusError | None) -> None:
    if not result.done():
        result.set_result(error)


def _check_operator(caller: Connection | None, function_id: str) -> None:
    """Raise BusError FORBIDDEN when identities are known and the caller is not the operator.

    Nor may the engine be made to call it: a worker would have it called by a queue or a trigger.
    """
    if caller is None:
        raise BusError("FORBIDDEN", f"{function_id} is for the operator, on a connection of its own")
    if caller.peer is not ANONYMOUS and caller.peer.role != "operator":
        raise BusError("FORBIDDEN", f"{function_id} is for the operator; a {caller.peer.role} may not call it")


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    return value[:MAX_TEXT] if isinstance(value, str) else ""
