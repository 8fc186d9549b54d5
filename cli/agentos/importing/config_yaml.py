"""Reads an iii ``config.yaml``: its commands become Workers, a Realm says little of the rest."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from agentos_contracts.resource import Image
from agentos_engine.config_file import ConfigError, parse
from agentos_engine.config_file.document import Node, read
from agentos_engine.config_file.findings import Findings
from agentos_engine.config_file.kinds import BY_CLASS, BY_NAME
from agentos_engine.config_file.section import Section
from pydantic import TypeAdapter, ValidationError

from agentos.importing.exec_entry import add_worker
from agentos.importing.project import Draft, ImportRefused, Notes, Project, remark_of

_UNSET = "ws://unset"
"""What a variable without a default stands for while a file is read: a text that is also an engine's address."""
_NO_DEFAULT = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_MARK = re.compile("\ue000([0-9]{1,7})\ue001")

_PORT = "agentos up has a flag for it; in a realm callers use that of the Service agentos-engine"
_DEFAULT = "a Realm cannot say it, so its engine has the default; agentos up takes a file with --config"
_SETTINGS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("worker-manager", "port"): (
        "the port for workers is not carried over",
        "let workers connect to III_URL, which every worker is given",
    ),
    ("worker-manager", "middleware_function_id"): ("the function before each call is not carried over", _DEFAULT),
    ("worker-manager", "rbac"): (
        "the rules for who may connect, register and call are not carried over",
        "in a realm each Worker has an identity of its own, and spec.owns says which functions are its own",
    ),
    ("worker-manager", "handshake_timeout_ms"): ("the time for the handshake is not carried over", _DEFAULT),
    ("http", "port"): ("the port of HTTP routes is not carried over", _PORT),
    ("http", "default_timeout"): ("the time that handlers of routes have is not carried over", _DEFAULT),
    ("http", "concurrency_request_limit"): ("the limit of requests is not carried over", _DEFAULT),
    ("http", "cors"): (
        "the sites whose pages may call are not carried over, and all may",
        "say it in the proxy or Ingress in front; agentos up takes a file with --config",
    ),
    ("http", "middleware"): ("functions before each route are not carried over", _DEFAULT),
    ("stream", "port"): ("the port of streams is not carried over", _PORT),
    ("stream", "auth_function"): (
        "the function that says who may follow streams is not carried over",
        "in a realm clients need a token",
    ),
    ("stream", "bridge_url"): ("streams of another engine are not carried over", _DEFAULT),
    ("state", "bridge_url"): ("state of another engine is not carried over", _DEFAULT),
    ("state", "max_value_bytes"): ("the bound on values is not carried over", _DEFAULT),
    ("queue", "queue_configs"): ("settings of queues are not carried over", _DEFAULT),
    ("configuration", "directory"): (
        "the folder of configuration entries is not carried over",
        "call configuration::set for each entry",
    ),
}
"""By kind and option: what is so when the option differs from the default, and what to do instead."""

_WHOLE = {
    "http-functions": ("functions that are invoked over HTTP are not served", "let a worker make the request"),
    "bridge": ("the link to another engine is not carried over", "let a worker call the other engine"),
    "observability": (
        "settings of logs, metrics and traces are not carried over",
        "scrape port 9464 of the engine, and configure the exporters of workers in their spec.env",
    ),
}
"""Kinds of which a Realm can say nothing at all."""

_SILENT = frozenset({"host", "line"})
"""Where an engine listens is the realm's business, or that of ``agentos up``."""


class _Defaults(dict[str, str]):
    """Stands for the environment: variables have their defaults, whatever the shell of who imports says."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the default, or a stand-in."""
        return _UNSET if default is None else default


class _AsWritten(dict[str, str]):
    """Stands for the environment: variables are marked, so that they can be put back as they were written."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """Return a mark."""
        self._written.append(f"${{{key}}}" if default is None else f"${{{key}:{default}}}")
        return f"\ue000{len(self._written) - 1}\ue001"

    def put_back(self, text: str) -> str:
        """Return a text of the file as it was written."""
        return _MARK.sub(lambda mark: self._written[int(mark[1])], text)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the list, with its lines."""

    name: str
    kind: str | None
    path: str
    section: Section
    config: Node | None


def read_config(text: str, file: str, root: Path) -> Project:
    """Read the text of a file in the folder ``root`` (resolved); ``file`` is its name for messages.

    Raises ImportRefused.
    """
    notes = Notes(file)
    project = Project(remarks=notes.remarks, storage=False)
    _check(text, file, notes)
    findings, variables = Findings(), _AsWritten()
    tree, marked = read(text, _Defaults(), findings), read(text, variables, Findings())
    if tree is None:
        raise ImportRefused(remark_of(file, each) for each in findings)
    top = Section(tree, "", findings)
    written = {} if marked is None else {each.path: each for each in _entries(Section(marked, "", Findings()))}
    seen: set[str] = set()
    for entry in _entries(top):
        if entry.kind == "exec":
            add_worker(_commands(written.get(entry.path, entry), variables), entry.path, root, notes, project)
        elif entry.kind is None:
            _external(entry, notes, project)
        else:
            _settings(entry, notes, project, again=entry.kind in seen)
            seen.add(entry.kind)
    ours = top.section("agentos")
    for key in ("routing", "call_timeout_ms"):
        if (node := ours.take(key)) is not None and node.value != "balanced":
            notes.add(ours.line_of(key), ours.at(key), "is not carried over", _DEFAULT)
    return project


def _check(text: str, file: str, notes: Notes) -> None:
    """Read the file as the engine would; what only a Realm's engine cannot do is a remark, no fault."""
    try:
        parse(text, _Defaults(), file)
        return
    except ConfigError as error:
        found = [each for each in error.findings if each.level == "error"]
    lines = text.split("\n")
    faults = []
    for each in found:
        if each.code == "adapter_not_supported":
            notes.add(each.line, each.path, "the adapter is not carried over", "the engine's own store takes its place")
        elif each.code == "unknown_key" and each.path == "port":
            notes.add(each.line, each.path, *_SETTINGS["worker-manager", "port"])
        elif each.code == "wrong_type" and _NO_DEFAULT.search(lines[each.line - 1]):
            what = "a variable without a default stands here, so the value is not carried over"
            notes.add(each.line, each.path, what, _DEFAULT)
        else:
            faults.append(remark_of(file, each))
    if faults:
        raise ImportRefused(faults)


def _entries(top: Section) -> Iterator[_Entry]:
    for path, node in top.nodes("modules" if "modules" in top else "workers"):
        section = Section(node, path, Findings())
        name = section.optional_text("name") or section.optional_text("class") or ""
        kind = BY_NAME.get(name.partition("#")[0]) or BY_CLASS.get(name)
        yield _Entry(name, kind.name if kind else None, path, section, section.take("config"))


def _commands(entry: _Entry, variables: _AsWritten) -> list[tuple[int, str]]:
    """The lines and texts of the commands of an entry."""
    config = entry.section.section("config")
    return [
        (node.line, variables.put_back(node.value)) for _, node in config.nodes("exec") if isinstance(node.value, str)
    ]


def _settings(entry: _Entry, notes: Notes, project: Project, *, again: bool) -> None:
    """Remark on each option that differs from the default."""
    assert entry.kind is not None
    kind = BY_NAME[entry.kind]
    config = entry.section.section("config")
    if again:
        notes.add(
            entry.section.line, entry.path, "the second of its kind is not carried over", "a realm's engine has one"
        )
    if whole := _WHOLE.get(kind.name):
        if kind.name != "observability" or entry.config is not None:
            notes.add(entry.section.line, entry.path, *whole)
        return
    if kind.default is None:
        return
    found, default = kind.read(config), kind.default()
    if hasattr(found, "durable") and any(each.code == "adapter_not_supported" for each in config.findings):
        project.storage = True  # what was kept elsewhere lasted
    for option in fields(found):
        if option.name in _SILENT or getattr(found, option.name) == getattr(default, option.name):
            continue
        if option.name == "durable":
            project.storage = project.storage or getattr(found, option.name) is True
            continue
        key = option.name if option.name in config else "adapter"
        notes.add(config.line_of(key), config.at(key), *_SETTINGS[kind.name, option.name])


def _external(entry: _Entry, notes: Notes, project: Project) -> None:
    """A worker that iii gets from its registry: a Worker when its image is known."""
    section = entry.section
    image = section.optional_text("image")
    try:
        image = None if image is None or _UNSET in image else TypeAdapter(Image).validate_python(image)
    except ValidationError:
        image = None
    if image is None:
        what = "a worker from iii's registry is not carried over"
        notes.add(section.line, entry.path, what, "write a Worker with its image in spec.image")
        return
    if entry.config is not None:
        what = "the worker's configuration is not carried over"
        notes.add(section.line_of("config"), section.at("config"), what, "give it in spec.env or spec.args")
    what = "there is no code of this worker, only an image"
    notes.add(section.line, entry.path, what, "it runs on a cluster; agentos up cannot start it")
    draft = Draft(entry.path, entry.name, notes.file, section.line, entry.path, None, {"iii": "v1"}, image)
    project.drafts.append(draft)
