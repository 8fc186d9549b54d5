"""``configuration::*`` and the trigger type ``configuration`` on a bus."""

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, decode
from agentos_engine.config import SettingsError
from agentos_engine.configuration.entries import AdapterError, Entry, Files, Signature, valid_id
from agentos_engine.configuration.schema import SchemaError, problems
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Binding

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks at the folder. A change counts when it is the same for two looks."""
MAX_ENTRIES = 256
MAX_ENTRY = 256 << 10
"""Bytes of an entry as JSON."""
MAX_VALUE_DEPTH = 60
MAX_VALUES = 50_000
"""Values in an entry, those within values counted too."""

REGISTERED, UPDATED, DELETED = "configuration:registered", "configuration:updated", "configuration:deleted"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")


class Configuration:
    """Keeps the entries and tells of their changes.

    ``directory`` has one file for each entry, which people may edit; None: the entries are in memory only.
    ``environment`` has the variables that ``${NAME}`` and ``${NAME:default}`` in values stand for when they are read;
    whoever may set a value may read them all, so it is never the whole environment of the process.
    """

    def __init__(
        self, *, bus: Bus, directory: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._files = Files(directory) if directory is not None else None
        self._environment = environment or {}
        self._entries: dict[str, Entry] = {}
        self._broken: dict[str, str] = {}
        """By id: why its file cannot be used. It is never overwritten: somebody is at work on it."""
        self._used: dict[str, Signature] = {}
        """What was last read of each file, or written to it."""
        self._bindings: dict[Binding, _Config] = {}
        self._lock = asyncio.Lock()
        """One change at a time, so that file, memory and events agree."""
        self._watching: asyncio.Task | None = None

    async def start(self) -> None:
        """Read the files and serve. Raises SettingsError when the folder cannot be had."""
        if self._files is not None:
            try:
                await asyncio.to_thread(self._files.make)
                await self._load(self._files)
            except (OSError, AdapterError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise SettingsError(f"the folder for configuration, {self._files.directory}: {reason}") from error
            self._watching = self._bus.spawn(self._watch(self._files))
        add = self._bus.functions.add
        add("configuration::register", self._register, "Adds an entry with its JSON Schema, or replaces it.")
        add("configuration::ensure", self._ensure, "Adds an entry, or renews all of it but the value it has.")
        add("configuration::set", self._set, "Replaces the value of an entry.")
        add("configuration::get", self._get, "Returns the value of an entry.")
        add("configuration::list", self._list, "Lists all entries, without their values.")
        add("configuration::schema", self._schema, "Returns one entry without its value.")
        self._bus.triggers.serve("configuration", self, "Calls a function when a configuration entry changes.")

    async def stop(self) -> None:
        """Serve no longer; the files stay."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        for name in ("register", "ensure", "set", "get", "list", "schema"):
            self._bus.functions.remove(f"configuration::{name}")
        self._bus.triggers.unserve("configuration")
        self._bindings.clear()

    # The trigger type

    def bind(self, binding: Binding) -> None:
        """Begin to tell a function of changes. Raises BusError ``trigger_registration_failed``."""
        try:
            config = msgspec.json.decode(binding.config or b"null", type=_Config | None) or _Config()
        except (msgspec.DecodeError, RecursionError) as error:
            reason = f"the config of the configuration trigger is wrong: {error}"
            raise BusError("trigger_registration_failed", reason) from error
        if unknown := set(config.event_types or ()) - {REGISTERED, UPDATED, DELETED}:
            reason = f"the event type {min(unknown)[:50]!r} is not one of {REGISTERED}, {UPDATED}, {DELETED}"
            raise BusError("trigger_registration_failed", reason)
        self._bindings[binding] = config

    def unbind(self, binding: Binding) -> None:
        """End what :meth:`bind` began."""
        self._bindings.pop(binding, None)

    def _tell(self, event: str, entry_id: str, old: Any, new: Any) -> None:
        payload = None
        for binding, config in list(self._bindings.items()):
            if config.configuration_id not in (None, entry_id) or event not in (config.event_types or (event,)):
                continue
            if payload is None:
                change = {"type": "configuration", "event_type": event, "id": entry_id}
                change |= {"old_value": self._expanded(old), "new_value": self._expanded(new)}
                payload = msgspec.json.encode(change)
            self._firing.start(binding, payload)

    # The functions

    async def _register(self, context: Context, data: bytes) -> object:
        keep_value = not _may_set(context)
        return await self._save(decode(context.function_id, data, _Registration), keep_value=keep_value)

    async def _ensure(self, context: Context, data: bytes) -> object:
        return await self._save(decode(context.function_id, data, _Registration), keep_value=True)

    async def _save(self, request: "_Registration", keep_value: bool) -> object:
        _check_id(request.id)
        _check_size(request.schema, request.metadata, request.initial_value)
        async with self._lock:
            old = self._entries.get(request.id)
            value = old.value if old is not None else None
            if request.initial_value is not msgspec.UNSET and not (keep_value and value is not None):
                value = request.initial_value
                self._check(request.id, request.schema, value)
            else:
                self._check(request.id, request.schema, msgspec.UNSET)
            metadata = None if request.metadata is msgspec.UNSET else request.metadata
            entry = Entry(request.id, request.name, request.description, request.schema, value, metadata)
            if entry != old:
                await self._keep(entry)
                self._tell(UPDATED if old is not None else REGISTERED, entry.id, old and old.value, value)
        return entry.described() | {"value": entry.value}

    async def _set(self, context: Context, data: bytes) -> object:
        request = decode(context.function_id, data, _Setting)
        _check_id(request.id)
        _check_size(request.value)
        async with self._lock:
            old = self._entries.get(request.id)
            if old is None:
                self._check_broken(request.id)
                reason = f"configuration {request.id} is not registered; call configuration::register first"
                raise BusError("NOT_REGISTERED", reason)
            if old.schema is None:
                reason = f"configuration {request.id} has no schema; call configuration::register with one first"
                raise BusError("SCHEMA_UNAVAILABLE", reason)
            self._check(request.id, old.schema, request.value)
            await self._keep(replace(old, value=request.value))
            self._tell(UPDATED, request.id, old.value, request.value)
        return {"old_value": old.value, "new_value": request.value}

    def _get(self, context: Context, data: bytes) -> object:
        request = decode(context.function_id, data, _Reading)
        value = self._found(request.id).value
        return {"id": request.id, "value": value if request.raw else self._expanded(value)}

    def _list(self, context: Context, data: bytes) -> object:
        return {"configurations": [self._entries[each].described() for each in sorted(self._entries)]}

    def _schema(self, context: Context, data: bytes) -> object:
        entry = self._found(decode(context.function_id, data, _Reading).id)
        if entry.schema is None:
            raise BusError("SCHEMA_UNAVAILABLE", f"configuration {entry.id} has no schema")
        return entry.described()

    def _found(self, entry_id: str) -> Entry:
        _check_id(entry_id)
        entry = self._entries.get(entry_id)
        if entry is None:
            self._check_broken(entry_id)
            raise BusError("NOT_FOUND", f"there is no configuration {entry_id}")
        return entry

    def _check(self, entry_id: str, schema: Any, value: Any) -> None:
        """Raise BusError when the value, or with UNSET the schema itself, is refused."""
        try:
            found = problems(schema, None if value is msgspec.UNSET else self._expanded(value))
        except SchemaError as error:
            raise BusError("SCHEMA_INVALID", f"the schema of configuration {entry_id} is wrong: {error}") from error
        if found and value is not msgspec.UNSET:
            raise BusError("SCHEMA_INVALID", f"the value does not fit configuration {entry_id}: {'; '.join(found)}")

    def _check_broken(self, entry_id: str) -> None:
        if (reason := self._broken.get(entry_id)) is not None:
            raise BusError("ADAPTER_ERROR", f"the file of configuration {entry_id} is wrong, mend it: {reason}")

    def _expanded(self, value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(self._variable, value)
        if isinstance(value, list):
            return [self._expanded(each) for each in value]
        if isinstance(value, dict):
            return {key: self._expanded(each) for key, each in value.items()}
        return value

    def _variable(self, match: re.Match[str]) -> str:
        found = self._environment.get(match[1], match[2])
        return match[0] if found is None else found

    # The files

    async def _keep(self, entry: Entry) -> None:
        """Keep an entry on the disk and then in memory. Raises BusError."""
        self._check_broken(entry.id)
        self._check_room(entry)
        if self._files is not None:
            try:
                self._used[entry.id] = await asyncio.to_thread(self._files.write, entry)
            except AdapterError as error:
                raise BusError("ADAPTER_ERROR", str(error)) from error
        self._entries[entry.id] = entry

    def _check_room(self, entry: Entry) -> None:
        if entry.id not in self._entries and len(self._entries) >= MAX_ENTRIES:
            raise BusError("limit_exceeded", f"there are {MAX_ENTRIES} configurations, the most allowed")
        size = len(msgspec.json.encode([entry.described(), entry.value]))
        if size > MAX_ENTRY:
            reason = f"configuration {entry.id} has {size} bytes, more than {MAX_ENTRY}"
            raise BusError("limit_exceeded", reason)

    async def _load(self, files: Files) -> None:
        for entry_id, signature in (await asyncio.to_thread(files.scan)).items():
            await self._read(files, entry_id, signature)

    async def _watch(self, files: Files) -> None:
        seen = dict(self._used)
        while True:
            await self._bus.clock.machine.sleep(INTERVAL)
            try:
                async with self._lock:
                    before, seen = seen, await asyncio.to_thread(files.scan)
                    for entry_id, signature in seen.items():
                        if self._used.get(entry_id) != signature == before.get(entry_id):
                            await self._read(files, entry_id, signature)
                    for entry_id in [each for each in self._used if each not in seen and each not in before]:
                        self._forget(entry_id)
            except AdapterError as error:
                log.error("the folder for configuration cannot be read: %s", error)

    async def _read(self, files: Files, entry_id: str, signature: Signature) -> None:
        """Take over a file that has changed."""
        self._used[entry_id] = signature
        old = self._entries.get(entry_id)
        try:
            entry = await asyncio.to_thread(files.read, entry_id)
            if entry.schema is not None and entry.value is not None:
                self._check(entry_id, entry.schema, entry.value)
            self._check_room(entry)
        except (AdapterError, BusError) as error:
            self._broken[entry_id] = str(error)
            log.error("configuration %s keeps its value, its file is not used: %s", entry_id, error)
            return
        self._broken.pop(entry_id, None)
        if entry != old:
            self._entries[entry_id] = entry
            self._tell(UPDATED if old is not None else REGISTERED, entry_id, old and old.value, entry.value)

    def _forget(self, entry_id: str) -> None:
        """Drop an entry whose file is gone."""
        del self._used[entry_id]
        self._broken.pop(entry_id, None)
        if (old := self._entries.pop(entry_id, None)) is not None:
            self._tell(DELETED, entry_id, old.value, None)


class _Config(msgspec.Struct):
    configuration_id: str | None = None
    event_types: list[str] | None = None


class _Registration(msgspec.Struct):
    id: str
    name: str
    description: str
    schema: dict[str, Any] | bool
    initial_value: Any = msgspec.UNSET
    metadata: Any = msgspec.UNSET


class _Setting(msgspec.Struct):
    id: str
    value: Any


class _Reading(msgspec.Struct):
    id: str
    raw: bool = False


def _may_set(context: Context) -> bool:
    """Whether the caller may change the value of an entry that there is: a worker needs to be allowed to set it."""
    permissions = context.connection.permissions if context.connection is not None else None
    return permissions is None or permissions.may_call("configuration::set")


def _check_id(entry_id: str) -> None:
    if not valid_id(entry_id):
        reason = f"{entry_id[:80]!r} is no configuration id: 1 to 64 of the characters a-z, 0-9, _ and -"
        raise BusError("INVALID_ID", reason)


def _check_size(*values: Any) -> None:
    """Raise BusError for what no file could be read back with."""
    waiting = [(each, 1) for each in values]
    for count, (value, depth) in enumerate(waiting):
        if depth > MAX_VALUE_DEPTH or count > MAX_VALUES:
            reason = f"a configuration has at most {MAX_VALUES} values, nested {MAX_VALUE_DEPTH} deep"
            raise BusError("limit_exceeded", reason)
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
