"""The entries, in memory and as one YAML file each."""

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agentos_engine.config_file.document import Node, read
from agentos_engine.config_file.findings import Findings

MAX_FILE = 1 << 20
"""Bytes of the file of an entry."""

_ID = re.compile(r"[a-z0-9_-]{1,64}")
_SUFFIX = ".yaml"


class AdapterError(Exception):
    """A file that cannot be read or written; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A configuration entry. ``schema`` None: its file has none. ``value`` None: none was set."""

    id: str
    name: str
    description: str
    schema: Any
    value: Any = None
    metadata: Any = None

    def described(self) -> dict[str, Any]:
        """Return the entry without its value, as listed."""
        about = {"id": self.id, "name": self.name, "description": self.description, "schema": self.schema}
        return about if self.metadata is None else about | {"metadata": self.metadata}


Signature = tuple[int, ...]
"""What tells one state of a file from another."""


def valid_id(entry_id: str) -> bool:
    """Return whether an id may be the name of a file."""
    return _ID.fullmatch(entry_id) is not None


class Files:
    """The folder. All methods block; none of them follows an id out of the folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self) -> None:
        """Make the folder if need be. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # the folder above may be closed to us
            _sync(self.directory.parent)

    def scan(self) -> dict[str, Signature]:
        """Return the entries that there are files of. Raises AdapterError."""
        found: dict[str, Signature] = {}
        try:
            with os.scandir(self.directory) as items:
                for item in items:
                    entry_id = item.name.removesuffix(_SUFFIX)
                    if not item.name.endswith(_SUFFIX) or not valid_id(entry_id):
                        continue
                    if (signature := self._signature(item.name)) is not None:
                        found[entry_id] = signature
        except OSError as error:
            raise AdapterError(f"{self.directory}: {error.strerror}") from error
        return found

    def _signature(self, name: str) -> Signature | None:
        try:
            status = os.stat(self.directory / name)
        except OSError:
            return None  # removed between the two looks, or a link to nowhere
        if not stat.S_ISREG(status.st_mode):
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def read(self, entry_id: str) -> Entry:
        """Read an entry. Raises AdapterError."""
        path = self.directory / (entry_id + _SUFFIX)
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE + 1).decode()
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise AdapterError(f"{path}: not UTF-8 text") from error
        findings = Findings()
        root = read(text, None, findings)
        if root is None:
            raise AdapterError(f"{path}: {'; '.join(map(str, findings))}")
        return _entry(entry_id, path, root)

    def write(self, entry: Entry) -> Signature:
        """Replace the file of an entry: it is on the disk afterwards, or as it was before. Raises AdapterError."""
        path = self.directory / (entry.id + _SUFFIX)
        # The hidden name is no entry's; one that a crash left behind is overwritten by the next write.
        temporary = self.directory / f".{entry.id}{_SUFFIX}.new"
        try:
            data = dump(entry)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(self.directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise AdapterError(f"{path}: {error.strerror}") from error
        return self._signature(path.name) or ()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dump(entry: Entry) -> bytes:
    """Return the file of an entry. Raises AdapterError when it is too large."""
    import yaml  # here, since engines that keep no files do not need it

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        # PyYAML writes and reads YAML 1.1; in quotes, a text is the same text in 1.2.
        plain = _PLAIN.fullmatch(value) is not None and value.lower() not in _WORDS
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')

    Dumper.add_representer(str, text)
    content = {**entry.described(), "value": entry.value}
    data = yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, encoding="utf-8")
    if len(data) > MAX_FILE:
        raise AdapterError(f"the entry {entry.id} has {len(data)} bytes, more than {MAX_FILE}")
    return data


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]*[A-Za-z0-9_]|[A-Za-z_]")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def _entry(entry_id: str, path: Path, root: Node) -> Entry:
    content = root.plain()
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: not a mapping with the key value")
    if content.pop("id", entry_id) != entry_id:
        raise AdapterError(f"{path}: its id is not that of its name; change one of them")
    if unknown := content.keys() - {"name", "description", "schema", "value", "metadata"}:
        raise AdapterError(f"{path}: the key {min(unknown)[:50]!r} is not known; put the configuration below value")
    try:
        entry = msgspec.convert(content | {"id": entry_id}, _File)
        msgspec.json.encode(content)
    except (msgspec.MsgspecError, OverflowError) as error:
        raise AdapterError(f"{path}: {error}") from error
    return Entry(
        id=entry_id,
        name=entry.name or entry_id,
        description=entry.description,
        schema=entry.schema,
        value=entry.value,
        metadata=entry.metadata,
    )


class _File(msgspec.Struct):
    id: str
    name: str = ""
    description: str = ""
    schema: dict[str, Any] | bool | None = None
    value: Any = None
    metadata: Any = None
