"""``agentos inspect``: what a worker registers on an engine, and what it calls."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from agentos_contracts.patterns import Pattern, reserved_by
from agentos_engine.builtins.listing_entries import binding_entry, function_entry, type_entry
from agentos_engine.bus.spans import UNTRACED

from agentos.author.scratch import Log, Scratch, running
from agentos.author.sources import literal_ids
from agentos.local.connections import Connections
from agentos.local.fleet import LocalWorker

if TYPE_CHECKING:
    from agentos_engine.bus.connection import Connection

OBSERVED = "observed"
"""Where a call was found that the worker made while it was watched."""
MAX_CALLS = 10_000
PLACES_SHOWN = 3
"""Of those where a call was found."""

_FOR_ITSELF = (*UNTRACED, "engine::functions::", "engine::workers::")
"""What SDKs and our kit ask the engine when a worker starts; of a worker's own calls of these its source files tell."""


@dataclass(slots=True)
class Call:
    """A function that the worker calls. ``found``: ``observed``, or file and line of its id in the source files."""

    function_id: str
    found: list[str]

    @property
    def of_engine(self) -> bool:
        """Whether the function is the engine's own; else it is another worker's."""
        return reserved_by(Pattern(self.function_id)) is not None


@dataclass(slots=True)
class Inspection:
    """What was found, in the form of JSON but for ``calls``; all sorted."""

    name: str
    description: str = ""
    version: str | None = None
    functions: list[dict[str, Any]] = field(default_factory=list)
    triggers: list[dict[str, Any]] = field(default_factory=list)
    trigger_types: list[dict[str, Any]] = field(default_factory=list)
    routes: list[dict[str, Any]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            "name": self.name,
            "description": self.description,
            "version": self.version,
            "functions": self.functions,
            "triggers": self.triggers,
            "trigger_types": self.trigger_types,
            "routes": self.routes,
            "calls": [
                {"function_id": each.function_id, "of": "engine" if each.of_engine else "worker", "found": each.found}
                for each in self.calls
            ],
            "warnings": self.warnings,
        }


async def inspect(worker: LocalWorker, log: Log, seconds: float) -> Inspection:
    """Run a worker on an engine of its own, watch it for so many seconds, and return what was found.

    Raises CommandError when it does not run.
    """
    seen = CallsSeen()
    async with running(worker, log, tap=seen) as scratch:
        await asyncio.sleep(seconds)
        return _inspection(scratch, seen)


def from_sources(worker: LocalWorker) -> Inspection:
    """Return what can be found without running a worker: the ids in its source files, its own namespace's left out."""
    found = Inspection(worker.name, version=worker.effective.version)
    own = f"{worker.effective.name}::"
    found.calls = [
        Call(function_id, [str(place) for place in places])
        for function_id, places in literal_ids(worker.folder).items()
        if not function_id.startswith(own)
    ]
    return found


class CallsSeen:
    """Is told by the bus of each call, also of functions that nobody has; keeps what workers have called."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def began(
        self,
        function_id: str,
        data: object,
        caller: object,
        origin: "Connection | None",
        traceparent: str | None,
        source: str,
    ) -> None:
        """Take note of a call; nobody watches what becomes of it."""
        if origin is not None and len(self.ids) < MAX_CALLS and not function_id.startswith(_FOR_ITSELF):
            self.ids.add(function_id)


def some_of(places: list[str]) -> str:
    """Return where a call was found in a few words."""
    more = len(places) - PLACES_SHOWN
    return ", ".join(places[:PLACES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _inspection(scratch: Scratch, seen: CallsSeen) -> Inspection:
    bus, worker = scratch.engine.engine.bus, scratch.worker
    instance = scratch.service.current
    connections = Connections(scratch.engine).of(instance) if instance is not None else []
    found = Inspection(worker.name, version=worker.effective.version, warnings=list(scratch.warnings))
    for connection in connections:
        found.description = found.description or connection.about.description
        # What it may not serve it has registered all the same.
        registered = (*connection.registrations.values(), *connection.waiting.values())
        found.functions += [_json(function_entry(each)) for each in registered]
        bindings = [each for each in connection.bindings.values() if not each.refused]
        found.triggers += [_json(binding_entry(each)) for each in bindings]
        found.warnings += [
            f"the trigger {each.trigger_type} of {each.function_id} was not taken by the engine"
            for each in connection.bindings.values()
            if each.refused
        ]
        provided = [each for each in bus.triggers.provided if each.connection is connection]
        found.trigger_types += [_json(type_entry(each.trigger_type, connection, each.description)) for each in provided]
    manifest = worker.resource["spec"]["manifest"]
    found.description = found.description or str(manifest.get("description") or "")
    found.functions = sorted((_function(each) for each in found.functions), key=lambda each: each["id"])
    found.triggers = sorted((_trigger(each) for each in found.triggers), key=_order)
    found.trigger_types = sorted(
        ({"id": each["id"], "description": each["description"]} for each in found.trigger_types),
        key=lambda each: each["id"],
    )
    found.routes = [_route(each) for each in found.triggers if each["type"] == "http"]
    own = {each["id"] for each in found.functions}
    places: dict[str, list[str]] = {function_id: [OBSERVED] for function_id in seen.ids}
    for function_id, lines in literal_ids(worker.folder).items():
        places.setdefault(function_id, []).extend(map(str, lines))
    found.calls = [Call(function_id, where) for function_id, where in sorted(places.items()) if function_id not in own]
    return found


def _json(entry: dict[str, object]) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(entry))


def _function(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": entry["function_id"],
        "description": entry["description"],
        "request_schema": entry["request_format"],
        "response_schema": entry["response_format"],
        "metadata": entry["metadata"],
    }


def _trigger(entry: dict[str, Any]) -> dict[str, Any]:
    return {"type": entry["trigger_type"], "function_id": entry["function_id"], "config": entry["config"]}


def _route(trigger: dict[str, Any]) -> dict[str, Any]:
    config = trigger["config"] if isinstance(trigger["config"], dict) else {}
    path = str(config.get("api_path") or "").lstrip("/")
    return {
        "method": str(config.get("http_method") or "GET").upper(),
        "path": f"/{path}",
        "function_id": trigger["function_id"],
    }


def _order(trigger: dict[str, Any]) -> tuple[str, str, str]:
    return trigger["type"], trigger["function_id"], json.dumps(trigger["config"], sort_keys=True)
