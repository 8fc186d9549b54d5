"""``engine::*``: who and what is on the bus.

Entries carry the keys of both the 0.11 and the 0.23 line of iii, so that SDKs of either find theirs.
"""

import time

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import ANONYMOUS, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registry import Registration
from agentos_engine.protocol.messages import is_null

MAX_TEXT = 256
"""Characters kept of each text that a worker tells about itself."""


def install(bus: Bus) -> None:
    """Add the functions to a bus."""

    def workers_register(caller: Connection, data: msgspec.Raw) -> object:
        fields = _fields("engine::workers::register", data)
        about = caller.about
        about.name = _text(fields, "name")
        about.runtime = _text(fields, "runtime")
        about.version = _text(fields, "version")
        about.os = _text(fields, "os")
        about.description = _text(fields, "description")
        about.isolation = _text(fields, "isolation") or None
        pid = fields.get("pid")
        about.pid = pid if isinstance(pid, int) and not isinstance(pid, bool) else None
        bus.changed(caller)
        return {"success": True}

    def functions_list(caller: Connection, data: msgspec.Raw) -> object:
        fields = _fields("engine::functions::list", data)
        prefix, search = _text(fields, "prefix"), _text(fields, "search").lower()
        workers = {name for name in (_text(fields, "worker"), *_texts(fields, "workers")) if name}
        internal = fields.get("include_internal") is True
        found = [
            _function_entry(each)
            for each in bus.registry
            if (internal or not each.internal)
            and each.function_id.startswith(prefix)
            and (search in each.function_id.lower() or search in (each.description or b"").decode().lower())
            and (not workers or each.connection.about.name in workers)
        ]
        if internal and not workers:
            found += [
                _built_in_entry(each) for each in bus.built_ins if each.startswith(prefix) and search in each.lower()
            ]
        return {"functions": sorted(found, key=lambda function: function["function_id"])}

    def workers_list(caller: Connection, data: msgspec.Raw) -> object:
        fields = _fields("engine::workers::list", data)
        worker_id, search = _text(fields, "worker_id"), _text(fields, "search").lower()
        runtime, status = _text(fields, "runtime"), _text(fields, "status")
        entries = [
            _worker_entry(each)
            for each in bus.connections.values()
            if (not worker_id or each.id == worker_id)
            and (search in each.about.name.lower() or search in each.about.description.lower())
            and (not runtime or each.about.runtime == runtime)
        ]
        entries = [each for each in entries if not status or each["status"] == status]
        entries.sort(key=lambda each: (each["name"], each["id"]))
        return {"workers": entries, "timestamp": int(time.time() * 1000)}

    bus.built_ins["engine::workers::register"] = workers_register
    bus.built_ins["engine::functions::list"] = functions_list
    bus.built_ins["engine::workers::list"] = workers_list


def _function_entry(function: Registration) -> dict:
    def raw(value: bytes | None) -> msgspec.Raw | None:
        return None if value is None else msgspec.Raw(value)

    return {
        "function_id": function.function_id,
        "namespace": "default",
        "worker_name": function.connection.about.name,
        "description": raw(function.description),
        "request_format": raw(function.request_format),
        "response_format": raw(function.response_format),
        "metadata": raw(function.metadata),
    }


def _built_in_entry(function_id: str) -> dict:
    return {
        "function_id": function_id,
        "namespace": "default",
        "worker_name": "engine",
        "description": None,
        "request_format": None,
        "response_format": None,
        "metadata": {"internal": True},
    }


def _worker_entry(connection: Connection) -> dict:
    about, peer = connection.about, connection.peer
    entry = {
        "id": connection.id,
        "name": about.name,
        "namespace": "default",
        "description": about.description,
        "runtime": about.runtime,
        "version": about.version,
        "os": about.os,
        "ip_address": connection.ip_address,
        "pid": about.pid,
        "isolation": about.isolation,
        "internal": False,
        "status": "available" if connection.registrations else "connected",
        "connected_at_ms": int(connection.connected_at * 1000),
        "function_count": len(connection.registrations),
        "functions": sorted(connection.registrations),
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


def _fields(function_id: str, data: msgspec.Raw) -> dict:
    """Return the payload as a dict; null and absent are empty. Raises BusError for anything else."""
    if is_null(data):
        return {}
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BusError("deserialization_error", f"Failed to deserialize input for {function_id}: {error}") from error
    if not isinstance(value, dict):
        raise BusError(
            "deserialization_error", f"Failed to deserialize input for {function_id}: expected an object or null"
        )
    return value


def _text(fields: dict, name: str) -> str:
    value = fields.get(name)
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _texts(fields: dict, name: str) -> list[str]:
    value = fields.get(name)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
