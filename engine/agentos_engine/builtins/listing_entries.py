"""What is listed of functions, workers, trigger types and bindings: the keys of both the 0.11 and the 0.23 line."""

from collections.abc import Callable
from operator import itemgetter
from typing import TypeVar

import msgspec

from agentos_engine import __version__
from agentos_engine.bus.connection import ANONYMOUS, DEFAULT_NAMESPACE, Connection
from agentos_engine.bus.functions import Context, Function
from agentos_engine.bus.registry import Registration
from agentos_engine.slices import AT_ONCE, Work
from agentos_engine.triggers.registry import Binding

Item = TypeVar("Item")
Line = tuple[str, dict[str, object]]
"""What an entry is sorted by, and the entry."""

ENGINE = "engine"
MAX_SUMMARY = 200
"""Characters of a binding's config in a listing."""


def sees(context: Context, registration: Registration) -> bool:
    """True when a function may stand in a listing for the caller."""
    guard = context.connection.guard if context.connection is not None else None
    return guard is None or guard.sees(registration)


def raw(value: bytes | None) -> msgspec.Raw | None:
    """Raw JSON as it is written into an answer."""
    return None if value is None else msgspec.Raw(value)


def described(function: Registration) -> str:
    """The description as text, for searching."""
    return (function.description or b"").decode()


def function_entry(function: Registration) -> dict[str, object]:
    """Return what is listed of a function."""
    return {
        "function_id": function.function_id,
        "namespace": function.connection.namespace,
        "worker_name": function.connection.about.name,
        "description": raw(function.description),
        "request_format": raw(function.request_format),
        "response_format": raw(function.response_format),
        "metadata": raw(function.metadata),
    }


def own_entry(function: Function) -> dict[str, object]:
    """What is listed of one of the engine's own functions."""
    return {
        "function_id": function.function_id,
        "namespace": DEFAULT_NAMESPACE,
        "worker_name": "engine",
        "description": function.description,
        "request_format": None,
        "response_format": None,
        "metadata": {"internal": True} if function.internal else None,
    }


def worker_entry(connection: Connection, context: Context) -> dict[str, object]:
    """What is listed of a worker, with the functions that the caller may see."""
    about, peer = connection.about, connection.peer
    functions = sorted(each.function_id for each in connection.registrations.values() if sees(context, each))
    status = "available" if connection.registrations else "connected"
    if connection.silent or connection.draining:
        status = "unresponsive" if connection.silent else "draining"
    entry: dict[str, object] = {
        "id": connection.id,
        "name": about.name,
        "namespace": connection.namespace,
        "description": about.description,
        "runtime": about.runtime,
        "version": about.version,
        "os": about.os,
        "ip_address": connection.ip_address,
        "pid": about.pid,
        "isolation": about.isolation,
        "internal": False,
        "status": status,
        "connected_at_ms": int(connection.connected_at * 1000),
        "function_count": len(functions),
        "functions": functions,
        "active_invocations": len(connection.calls),
        "latest_metrics": None,
    }
    if peer is not ANONYMOUS:
        entry["identity"] = {
            "realm": peer.realm,
            "subject": peer.subject,
            "uid": peer.uid,
            "role": peer.role,
            "pod_uid": peer.pod_uid,
        }
    return entry


def module_entry(name: str) -> dict[str, object]:
    """What is listed of a part of the engine, as iii lists its own."""
    return {
        "id": name,
        "name": name,
        "namespace": DEFAULT_NAMESPACE,
        "description": "",
        "runtime": ENGINE,
        "version": __version__,
        "os": None,
        "ip_address": None,
        "pid": None,
        "isolation": "in-process",
        "internal": True,
        "status": "available",
        "connected_at_ms": None,
        "function_count": 0,
        "functions": [],
        "active_invocations": 0,
        "latest_metrics": None,
    }


def type_entry(trigger_type: str, provider: Connection | None, description: bytes | None) -> dict[str, object]:
    """What is listed of a trigger type; ``provider`` is None for those of the engine."""
    return {
        "id": trigger_type,
        "namespace": provider.namespace if provider is not None else DEFAULT_NAMESPACE,
        "worker_name": provider.about.name if provider is not None else "engine",
        "description": raw(description) or "",
    }


def owner_name(binding: Binding) -> str:
    """The name of the worker that made a binding; empty when nobody owns it."""
    return binding.connection.about.name if binding.connection is not None else ""


def binding_entry(binding: Binding) -> dict[str, object]:
    """What is listed of a binding."""
    return {
        "id": binding.id,
        "trigger_type": binding.trigger_type,
        "function_id": binding.function_id,
        "namespace": binding.namespace,
        "worker_name": owner_name(binding),
        "config": raw(binding.config),
        "config_summary": (binding.config or b"null").decode()[:MAX_SUMMARY],
        "metadata": raw(binding.metadata),
    }


def lines_of(items: list[Item], line: Callable[[Item], Line | None]) -> Work[list[tuple[str, bytes]]]:
    """Encode what ``line`` makes of each item; None leaves it out."""
    lines: list[tuple[str, bytes]] = []
    for position, each in enumerate(items, 1):
        made = line(each)
        if made is not None:
            lines.append((made[0], msgspec.json.encode(made[1])))
        if position % AT_ONCE == 0:
            yield
    return lines


def listing(name: str, lines: list[tuple[str, bytes]], more: bytes = b"") -> msgspec.Raw:
    """Return the answer: the lines sorted, under a name; ``more`` is the JSON of what else it holds."""
    lines.sort(key=itemgetter(0))
    return msgspec.Raw(b'{"%b":[%b]%b}' % (name.encode(), b",".join([each[1] for each in lines]), more))
