"""From the text of a config file to what the engine runs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentos_engine.config_file.document import MAX_SIZE, Node, read
from agentos_engine.config_file.findings import ConfigError, Finding, Findings
from agentos_engine.config_file.http_auth import read_http_auth
from agentos_engine.config_file.kinds import BY_CLASS, BY_NAME, KINDS, MAX_MILLISECONDS, Kind, read_limits
from agentos_engine.config_file.options import Http, Options, Stream, WorkerListener
from agentos_engine.config_file.section import Section
from agentos_engine.http_auth.policy import HttpAuthOptions

_ANY = {"0.0.0.0", "::"}  # noqa: S104
_SUFFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class AgentosOptions:
    """The keys that iii does not have.

    ``routing`` says which of several workers with the same function gets a call: ``balanced``, each in its turn, or
    ``first-wins``, as in iii. ``call_timeout_ms`` is the longest that a call may take; None: the engine's own bound.
    ``http`` says who may use the REST port; None: nothing of it stands in the file. ``limits`` are those of
    :class:`agentos_engine.limits.Limits` that are set.
    """

    routing: str = "balanced"
    call_timeout_ms: int | None = None
    http: HttpAuthOptions | None = None
    limits: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A built-in worker to run. ``key`` is its name without ``iii-``, with ``#SUFFIX`` when there are several."""

    key: str
    kind: str
    options: Options


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """A whole config. ``entries`` are by key, those that always run among them."""

    entries: Mapping[str, Entry]
    registration_namespace_grace_ms: int = 5000
    agentos: AgentosOptions = AgentosOptions()
    warnings: tuple[Finding, ...] = field(default=(), compare=False)

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of one kind, such as ``http``, in the order of the file."""
        return [each for each in self.entries.values() if each.kind == kind]


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do so that one config becomes another: keys of entries to start, to stop, and to restart."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    settings: bool
    """Whether something beside the entries changed that takes effect when the engine is started anew."""
    http_auth: bool = False
    """Whether it is another who may use the REST port."""


def default_config() -> EngineConfig:
    """Return what runs when there is no file."""
    entries = [
        Entry(each.name, each.name, each.default())
        for each in KINDS
        if each.default is not None and (each.always or each.without_file)
    ]
    return EngineConfig({each.key: each for each in entries})


def read_config_file(path: Path, environment: Mapping[str, str]) -> EngineConfig:
    """Read a file; ``${NAME}`` in it stands for variables of the environment. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        finding = Finding("error", "unreadable", "", 0, f"cannot be read: {reason}", "give the path of a readable file")
        raise ConfigError(str(path), [finding]) from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        finding = Finding("error", "syntax", "", line, "not UTF-8 text", "save the file as UTF-8")
        raise ConfigError(str(path), [finding]) from error
    return parse(text, environment, str(path))


def parse(text: str, environment: Mapping[str, str], name: str = "config.yaml") -> EngineConfig:
    """Read the text of a file; ``name`` is for messages. Raises ConfigError with all that is wrong."""
    findings = Findings()
    config = None
    root = read(text, environment, findings)
    if root is not None:
        config = _config(Section(root, "", findings), findings)
    if config is None or findings.failed:
        raise ConfigError(name, findings)
    return config


def diff(old: EngineConfig, new: EngineConfig) -> Changes:
    """Return what changed, each part in the order of its file."""
    return Changes(
        added=tuple(key for key in new.entries if key not in old.entries),
        removed=tuple(key for key in old.entries if key not in new.entries),
        changed=tuple(key for key in new.entries if key in old.entries and new.entries[key] != old.entries[key]),
        settings=(replace(old.agentos, http=None), old.registration_namespace_grace_ms)
        != (replace(new.agentos, http=None), new.registration_namespace_grace_ms),
        http_auth=old.agentos.http != new.agentos.http,
    )


def _config(top: Section, findings: Findings) -> EngineConfig:
    if "port" in top:
        remedy = "write it into the config of the worker iii-worker-manager"
        top.refuse("port", "a port cannot stand here", remedy)
    key = "modules" if "modules" in top and "workers" not in top else "workers"
    if "modules" in top and "workers" in top:
        top.take("modules")
        top.error("duplicate_key", "modules and workers are the same list", "put all into workers", "modules")
    ours = top.section("agentos")
    agentos = AgentosOptions(
        routing=ours.choice("routing", "balanced", ("balanced", "first-wins")),
        call_timeout_ms=ours.optional_number("call_timeout_ms", 1, MAX_MILLISECONDS),
        limits=read_limits(ours.section("limits")),
        http=read_http_auth(ours.section("http")) if ours.take("http") is not None else None,
    )
    ours.end()
    entries = _Entries(findings)
    for path, node in top.nodes(key):
        entries.add(path, node)
    grace = top.number("registration_namespace_grace_ms", 5000, 0, MAX_MILLISECONDS)
    top.end()
    return EngineConfig(entries.complete(), grace, agentos, tuple(findings))


class _Entries:
    """Gathers the entries of the list of workers."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._entries: dict[str, Entry] = {}
        self._names: dict[str, str] = {}
        """By kind: the first name that the file has for it."""
        self._listening: list[tuple[str, WorkerListener | Http | Stream]] = []

    def add(self, path: str, node: Node) -> None:
        """Read an item of the list."""
        section = Section(node, path, self._findings)
        name, suffix, kind = self._named(section)
        section.take("image")
        config = section.section("config")
        section.end()
        if not name:
            return
        if kind is None:
            self._skip(section, name)
            return
        if "image" in section:
            section.warning("ignored", "built-in workers have no image", "remove the key", "image")
        key = self._key(section, kind, name, suffix)
        options = kind.read(config)
        config.end()
        self._check_address(config, key, options)
        self._entries[key] = Entry(key, kind.name, options)

    def complete(self) -> dict[str, Entry]:
        """Return all entries, with those that run always."""
        kinds = {each.kind for each in self._entries.values()}
        for kind in KINDS:
            if kind.always and kind.default is not None and kind.name not in kinds:
                entry = Entry(kind.name, kind.name, kind.default())
                self._check_address(None, entry.key, entry.options)
                self._entries[entry.key] = entry
        return self._entries

    def _named(self, section: Section) -> tuple[str, str, Kind | None]:
        if "class" in section:
            if "name" in section:
                section.take("name")
                section.error("duplicate_key", "an entry has a name or a class, not both", "remove the class", "class")
            name = section.optional_text("class") or ""
            return name, "", BY_CLASS.get(name)
        name = section.required_text("name")
        base, hash_sign, suffix = name.partition("#")
        if hash_sign and not _SUFFIX.fullmatch(suffix):
            remedy = "write letters, digits, dots or hyphens after the #"
            section.error("wrong_type", "not a name with a suffix", remedy, "name")
        return base, suffix, BY_NAME.get(base)

    def _skip(self, section: Section, name: str) -> None:
        import difflib

        close = difflib.get_close_matches(name[:50], [*BY_NAME, *BY_CLASS], 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        section.warning(
            "worker_not_started",
            f"{name[:50]!r} is no built-in worker, so nothing is started for it",
            f"external workers are run by `agentos up` or the operator, not by the engine{hint}",
        )

    def _key(self, section: Section, kind: Kind, name: str, suffix: str) -> str:
        key = f"{kind.name}#{suffix}" if suffix else kind.name
        known = self._names.setdefault(kind.name, name)
        if known != name:
            message = f"{name} and {known} are the old and the new name of the same worker"
            section.error("duplicate_worker", message, "use one of them throughout")
        elif key in self._entries and (suffix or not kind.repeatable):
            section.error("duplicate_worker", f"{name} is there twice", "make one entry of them")
        elif any(each.kind == kind.name for each in self._entries.values()) and not kind.repeatable:
            section.error("duplicate_worker", f"only one {name} can run", "make one entry of them")
        number = 0
        while key in self._entries:
            number += 1
            key = f"{kind.name}#{number}"
        return key

    def _check_address(self, config: Section | None, key: str, options: Options) -> None:
        if not isinstance(options, WorkerListener | Http | Stream) or options.port == 0:
            return
        for other, taken in self._listening:
            hosts = {options.host, taken.host}
            if options.port == taken.port and (len(hosts) == 1 or hosts & _ANY):
                where, line = (config.at("port"), config.line_of("port")) if config is not None else ("", 0)
                message = f"{key} and {other} both want port {options.port}"
                self._findings.error("port_in_use", where, line, message, "give one of them another port")
                break
        self._listening.append((key, options))
