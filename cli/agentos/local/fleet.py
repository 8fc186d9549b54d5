"""The workers to run: read from Worker YAML and worker folders, validated as the cluster would."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentos_contracts.assign import patterns_of
from agentos_contracts.documents import Document, read_documents
from agentos_contracts.effective import Effective, effective, is_simple_command
from agentos_contracts.findings import Finding, Severity, errors, shown
from agentos_contracts.manifest import MANIFEST_FILE, Manifest, read_manifest, validate_manifest
from agentos_contracts.model_findings import at
from agentos_contracts.patterns import Pattern
from agentos_contracts.resource import API_VERSION
from agentos_contracts.scaling import wants_no_pods
from agentos_contracts.validation import validate
from agentos_contracts.worker import WorkerSpec

from agentos.errors import CommandError, ExitCode
from agentos.files import (
    KUBECTL_YAML,
    MAX_FILE_BYTES,
    Unreadable,
    checked_manifest,
    has_resources,
    is_manifest_file,
    resources_in,
    text_of,
    yaml_files,
)
from agentos.local.environment import MissingValue, Sources, data_of
from agentos.names import object_name

SOURCE_ANNOTATION = "agentos.dev/source"
"""Names the folder of a Worker's code, relative to the YAML file, when it is not the file's own."""

_KIT_COMMAND = "agentos-worker"
_VALUES = re.compile(r"kind[\"']?\s*:\s*[\"']?(ConfigMap|Secret)\b")
"""What a Worker's variables may come from; it takes long to read the YAML of everything else."""


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """A worker that can be run here.

    ``resource``: the Worker as on the cluster, manifest inline; ``origin``: file and line; ``folder``: where it is started;
    ``command``: program and arguments, ``$(NAME)`` not replaced yet; ``target``: what ``agentos-worker run`` gets when it
    is a worker on our kit, which may share a process, else None; ``variables``: its environment, without what the supervisor adds.
    """

    name: str
    resource: dict[str, Any]
    origin: str = field(compare=False)  # a line that was put in above it changes nothing
    folder: Path
    effective: Effective
    patterns: tuple[Pattern, ...]
    command: tuple[str, ...]
    install: str | None
    target: str | None
    variables: Mapping[str, str]

    @property
    def replicas(self) -> int:
        """Processes that are wanted: at most one here."""
        return 0 if wants_no_pods(self.resource["spec"]) else 1


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to tell about a file: ``severity`` error when a worker cannot be run because of it."""

    origin: str
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.severity}: {self.message}"


@dataclass(slots=True)
class Fleet:
    """What was found.

    ``watched``: folders and files whose change means another fleet, or other code; ``files``: those that were read.
    """

    workers: dict[str, LocalWorker] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    watched: set[Path] = field(default_factory=set)
    files: set[Path] = field(default_factory=set)
    realms: dict[str, str] = field(default_factory=dict)
    """Realms of the files, each with its namespace."""


def load_fleet(
    paths: Iterable[str | Path], surroundings: Mapping[str, str], realm: str | None = None, *, again: bool = False
) -> Fleet:
    """Read all workers of files and folders; a folder with an ``iii.worker.yaml`` is a worker, any other is searched.

    ``surroundings`` is the environment of the person; ``realm`` picks the Workers of one Realm when the files have
    several. What cannot be run is a remark. Raises CommandError for a path that is not there, unless they were read
    before (``again``).
    """
    reader = _Reader()
    for path in paths:
        reader.read(Path(path), may_be_gone=again)
    return reader.fleet(surroundings, realm)


@dataclass(slots=True)
class _Found:
    """A Worker in a file, not yet looked at as a whole."""

    resource: dict[str, Any]
    origin: str
    folder: Path


class _Reader:
    """Goes through files and folders, collecting Workers and what they refer to."""

    def __init__(self) -> None:
        self._fleet = Fleet()
        self._read: set[Path] = set()
        self._found: list[_Found] = []
        self._folders: dict[Path, _Found] = {}
        self._config_maps: dict[str, dict[str, str]] = {}
        self._secrets: dict[str, dict[str, str]] = {}

    def read(self, path: Path, may_be_gone: bool) -> None:
        """Read a file, or all of a folder."""
        try:
            path = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or "cannot be read"
            if not may_be_gone:
                raise CommandError(f"{path}: {reason}", ExitCode.USAGE) from None
            self._remark(str(path), reason)
            self._fleet.watched.add(path.absolute())
            return
        self._fleet.watched.add(path)
        if path.is_file():
            self._file(path, asked_for=True)
        elif (path / MANIFEST_FILE).is_file():
            self._file(path / MANIFEST_FILE, asked_for=True)
        else:
            for name in yaml_files(str(path)):
                self._file(Path(name), asked_for=False)

    def fleet(self, surroundings: Mapping[str, str], realm: str | None) -> Fleet:
        """Return what was found, each Worker validated and made ready to run."""
        fleet = self._fleet
        named = {found.folder for found in self._found}
        folders = [found for folder, found in self._folders.items() if folder not in named]
        namespace = self._namespace(realm)
        sources = Sources(self._config_maps, self._secrets, surroundings)
        for found in (*self._found, *folders):
            own = found.resource["metadata"].get("namespace")
            if namespace is not None and own is not None and own != namespace:
                continue
            fleet.watched.add(found.folder)
            worker = self._worker(found, sources)
            if worker is None:
                continue
            if (other := fleet.workers.get(worker.name)) is not None:
                message = f"Worker {worker.name} is also in {other.origin}; rename one of them"
                fleet.remarks.append(Remark(worker.origin, Severity.ERROR, message))
                continue
            fleet.workers[worker.name] = worker
        return fleet

    def _namespace(self, realm: str | None) -> str | None:
        realms = self._fleet.realms
        if realm is not None:
            if realms and realm not in realms:
                raise CommandError(
                    f"no Realm {realm} in the files; there are: {', '.join(sorted(realms))}", ExitCode.NOT_FOUND
                )
            return realms.get(realm)
        if len(realms) > 1:
            raise CommandError(
                f"the files have {len(realms)} Realms; choose one with --realm: {', '.join(sorted(realms))}",
                ExitCode.USAGE,
            )
        return None

    # Files

    def _file(self, path: Path, asked_for: bool) -> None:
        if path in self._read:
            return
        self._read.add(path)
        if is_manifest_file(str(path)):
            self._manifest_file(path)
            return
        try:
            text = text_of(str(path))
        except Unreadable as error:
            # Of a file that was only come across nobody knows whether it is for us.
            severity = Severity.ERROR if asked_for else Severity.WARNING
            self._fleet.remarks.append(Remark(_shown(path), severity, f"cannot be read: {error}"))
            return
        if not (asked_for or has_resources(text) or _VALUES.search(text)):
            return
        documents, findings = read_documents(text, max_bytes=MAX_FILE_BYTES, yaml_version=KUBECTL_YAML)
        # A chart's template or another tool's file is none of our business, unless somebody named it.
        if asked_for or has_resources(text):
            self._remarks(path, findings)
        for document in documents:
            for resource, where in resources_in(document.value):
                if isinstance(resource, dict):
                    self._resource(path, document, resource, where, asked_for)
                elif asked_for and resource is not None:
                    self._remark(f"{_shown(path)}:{document.line}", "not a resource; a Worker has apiVersion and kind")

    def _resource(self, path: Path, document: Document, resource: dict[str, Any], where: str, asked_for: bool) -> None:
        metadata = resource.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        origin = f"{_shown(path)}:{document.line_of(where)}"
        kind = resource.get("kind")
        if kind in ("ConfigMap", "Secret") and isinstance(name, str):
            self._fleet.files.add(path)
            (self._secrets if kind == "Secret" else self._config_maps)[name] = data_of(resource)
        elif resource.get("apiVersion") == API_VERSION or (asked_for and "apiVersion" not in resource):
            self._fleet.files.add(path)
            found = validate(resource)
            self._remarks(
                path,
                [replace(each, line=document.line_of(at(where, each.path))) for each in found],
                kind=kind,
                name=name,
            )
            if errors(found):
                return
            if kind == "Worker":
                assert isinstance(metadata, dict)
                source = (metadata.get("annotations") or {}).get(SOURCE_ANNOTATION)
                folder = (path.parent / source).resolve() if isinstance(source, str) else path.parent
                self._found.append(_Found(resource, origin, folder))
            elif kind == "Realm":
                self._fleet.realms[str(name)] = str(resource["spec"].get("namespace") or name)

    def _manifest_file(self, path: Path) -> None:
        manifest, remarks = _manifest(path)
        self._fleet.remarks += remarks
        self._fleet.files.add(path)
        if manifest is not None:
            self._folders[path.parent] = _Found(_bare_worker(manifest), _shown(path), path.parent)

    # Workers

    def _worker(self, found: _Found, sources: Sources) -> LocalWorker | None:
        resource = self._with_manifest(found)
        if resource is None:
            return None
        name = resource["metadata"]["name"]
        if not found.folder.is_dir():
            self._remark(
                found.origin, f"Worker {name}: there is no folder {_shown(found.folder)}; see {SOURCE_ANNOTATION}"
            )
            return None
        spec = WorkerSpec.model_validate(resource["spec"], by_name=False)
        manifest = Manifest.model_validate(resource["spec"]["manifest"])
        what = effective(spec, manifest)
        try:
            variables = sources.variables(resource, what.env)
        except MissingValue as error:
            self._remark(found.origin, f"Worker {name}: {error}")
            return None
        if not what.command:
            self._remark(
                found.origin, f"Worker {name}: nothing says how it is started here; write scripts.start in its manifest"
            )
            return None
        return LocalWorker(
            name=name,
            resource=resource,
            origin=found.origin,
            folder=found.folder,
            effective=what,
            patterns=patterns_of(resource),
            command=(*what.command, *(what.args or ())),
            install=manifest.scripts.install if manifest.scripts else None,
            target=kit_target(spec, manifest, found.folder),
            variables=variables,
        )

    def _with_manifest(self, found: _Found) -> dict[str, Any] | None:
        """The Worker with its manifest inline."""
        spec = found.resource["spec"]
        reference = (spec.get("manifestFrom") or {}).get("configMapKeyRef")
        if not reference:
            return found.resource
        key = reference.get("key") or MANIFEST_FILE
        text = self._config_maps.get(reference["name"], {}).get(key)
        name = found.resource["metadata"]["name"]
        if text is None:
            self._remark(
                found.origin, f"Worker {name}: ConfigMap {reference['name']} with key {key} is in none of the files"
            )
            return None
        manifest, findings = read_manifest(text)
        findings += [] if manifest is None else validate_manifest(manifest, "")
        for finding in errors(findings):
            self._remark(found.origin, f"ConfigMap {reference['name']}, {key}: {finding}")
        if manifest is None or errors(findings):
            return None
        inline = {field: value for field, value in spec.items() if field != "manifestFrom"} | {"manifest": manifest}
        return {**found.resource, "spec": inline}

    def _remark(self, origin: str, message: str) -> None:
        self._fleet.remarks.append(Remark(origin, Severity.ERROR, message))

    def _remarks(self, path: Path, findings: Iterable[Finding], *, kind: object = None, name: object = None) -> None:
        what = f"{kind} {shown(name)}: " if isinstance(kind, str) and isinstance(name, str) else ""
        self._fleet.remarks += [
            Remark(f"{_shown(path)}:{finding.line or 1}", finding.severity, f"{what}{finding}") for finding in findings
        ]


def kit_target(spec: WorkerSpec, manifest: Manifest, folder: Path) -> str | None:
    """Return what a worker on our kit runs: a name, or the path of a Python file; None for any other worker."""
    start = manifest.scripts.start if manifest.scripts else None
    if spec.command or spec.args:
        words = [*(spec.command or ()), *(spec.args or ())]
    elif start and is_simple_command(start):
        words = shlex.split(start)
    else:
        return None
    if len(words) != 3 or words[:2] != [_KIT_COMMAND, "run"]:
        return None
    return str((folder / words[2]).resolve()) if words[2].endswith(".py") else words[2]


def _manifest(path: Path) -> tuple[dict[str, Any] | None, list[Remark]]:
    origin = _shown(path)
    try:
        manifest, findings = checked_manifest(text_of(str(path)))
    except Unreadable as error:
        return None, [Remark(origin, Severity.ERROR, f"cannot be read: {error}")]
    remarks = [Remark(f"{origin}:{each.line or 1}", each.severity, str(each)) for each in findings]
    return (None if errors(findings) else manifest), remarks


def _bare_worker(manifest: dict[str, Any]) -> dict[str, Any]:
    """The Worker that a manifest alone stands for."""
    name = object_name(manifest["name"]) or "worker"
    image = f"localhost/{name}:{manifest.get('version') or 'dev'}"
    return {
        "apiVersion": API_VERSION,
        "kind": "Worker",
        "metadata": {"name": name},
        "spec": {"image": image, "manifest": manifest},
    }


def _shown(path: Path) -> str:
    """A path as people write it: relative to where they are, when it is below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
