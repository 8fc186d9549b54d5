"""The worker's manifest, ``iii.worker.yaml``: its model, reading it from text, and everything that is wrong with it.

The file has two shapes, for the registry and for running, and four readers with different rules: ``iii worker add`` of
0.11 and of 0.23, worker-compose, and the registry's CI. What none of them knows, what all that read it refuse, and what
cannot run in a cluster is an error; what only some refuse is a warning. ``docs/manifest.md`` has it rule by rule.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from agentos_contracts.documents import read_documents
from agentos_contracts.findings import Finding, error, shown, warning
from agentos_contracts.model_findings import at, at_key, model_findings
from agentos_contracts.resource import EnvName, cel_text, rule, rules
from agentos_contracts.semver import Range, RangeError, VersionError, parse_version

MANIFEST_FILE = "iii.worker.yaml"
MAX_MANIFEST_BYTES = 64 * 1024
"""Largest manifest that iii 0.23 reads, in bytes of UTF-8."""

BUILT_IN_WORKERS = frozenset(
    {"configuration"}
    | {
        f"iii-{name}"
        for name in (
            *("worker-manager", "engine-functions", "observability", "telemetry", "http-functions", "http", "stream"),
            *("state", "queue", "pubsub", "cron", "exec", "bridge"),
        )
    }
)
"""Names of the workers that are built into the iii engine."""

FORBIDDEN_NAMES = BUILT_IN_WORKERS | {"engine", "iii", "sandbox", "iii-sandbox"}
"""Names that no Worker may have."""

OWNED_ENV = frozenset({"III_URL", "III_WORKER_NAME", "AGENTOS_TOKEN", "POD_UID"})
"""Environment variables that the operator sets on every worker."""

DROPPED_ENV = OWNED_ENV | {"III_ENGINE_URL"}
"""Environment variables of a manifest that are not handed on."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REGISTRY_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_BASE_IMAGE = re.compile(r"[A-Za-z0-9._/:@+-]+")
_KINDS = ("typescript", "javascript", "bun", "python", "rust")
_REGISTRY_LANGUAGES = ("rust", "node", "python")
_NODE_PACKAGE_MANAGERS = ("npm", "yarn", "pnpm", "bun")

_REGISTRY_FIELDS = ("language", "manifest")
"""What the registry needs besides the name and ``deploy``."""
_BUNDLE_MOST = {"cpus": 4, "memory": 4096}
"""Most that iii gives to a published bundle."""
_NEVER_THERE = FORBIDDEN_NAMES - BUILT_IN_WORKERS
"""Names that no Worker may have and that the engine does not have either."""

NOT_A_NAME = "is not a name of a worker; use letters, digits, '.', '_' and '-', such as my-worker"
_FORBIDDEN_LIST = ", ".join(cel_text(name) for name in sorted(FORBIDDEN_NAMES))
_NAME_RULES = [
    rule(
        "self.matches('^[A-Za-z0-9_-][A-Za-z0-9._-]*$') && !self.contains('..')",
        f"the text {NOT_A_NAME}",
        message_expression='"\'" + self + ' + cel_text("' " + NOT_A_NAME),
    ),
    rule(
        f"!(self.lowerAscii() in [{_FORBIDDEN_LIST}])",
        "the name belongs to the engine; choose another, such as my-worker",
        message_expression=(
            "'the name ' + self + ' belongs to the engine; choose another, such as my-' + "
            "self.lowerAscii().replace('iii-', '')"
        ),
    ),
]

Name = Annotated[str, Field(min_length=1, max_length=63)]
ShortText = Annotated[str, Field(max_length=512)]
Script = Annotated[str, Field(max_length=16384)]
RangeText = Annotated[str, Field(max_length=256)]
EnvValue = Annotated[str, Field(max_length=32768)]
Anything = Annotated[Any, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]


class _ManifestPart(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        # Unknown fields reach validation, which names them; pruned ones would vanish without a word.
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Runtime(_ManifestPart):
    """How the worker is run."""

    base_image: ShortText | None = Field(
        None, description="Image to run the worker in when spec.image is left out, such as node:22-slim."
    )
    kind: ShortText | None = Field(
        None, description="Deprecated. Language of the worker: typescript, javascript, bun, python or rust."
    )
    language: ShortText | None = Field(None, description="Deprecated. The older name of kind.")
    package_manager: ShortText | None = Field(
        None, description="Deprecated. Package manager of a typescript worker: npm, yarn, pnpm or bun."
    )
    entry: ShortText | None = Field(None, description="Deprecated. File or module that is started.")


class Scripts(_ManifestPart):
    """Shell commands of the worker."""

    setup: Script | None = Field(None, description="Run once when the worker's machine is made; not run in a pod.")
    install: Script | None = Field(None, description="Installs what the worker needs; not run in a pod.")
    start: Script | None = Field(
        None,
        description="Starts the worker; run as /bin/sh -c when spec.command is left out, such as python -m my_worker.",
    )


class ManifestResources(_ManifestPart):
    """What the worker may use; the pod's limits when spec.resources is left out."""

    cpus: int | None = Field(None, ge=1, le=1024, description="CPU cores, a whole number, such as 2.")
    memory: int | None = Field(None, ge=1, le=16_777_216, description="Memory in MiB, a whole number, such as 512.")


class Manifest(_ManifestPart):
    """The worker's iii.worker.yaml, as its author wrote it."""

    iii: ShortText | None = Field(None, description="Version of the manifest's form: v1.")
    name: Annotated[Name, Field(json_schema_extra=rules(*_NAME_RULES))] = Field(
        description="Name of the worker on the engine, such as wasm-sandbox. Required."
    )
    description: Annotated[str, Field(max_length=4096)] | None = Field(
        None, description="What the worker does, for people."
    )
    version: ShortText | None = Field(
        None, description="Version of the worker, such as 1.2.3; spec.version goes before it."
    )
    language: ShortText | None = Field(
        None, description="Language of the worker for the registry: rust, node or python."
    )
    deploy: Literal["binary", "image", "bundle"] | None = Field(
        None,
        description="How the registry delivers the worker: binary, image or bundle. A binary needs spec.image here.",
    )
    manifest: ShortText | None = Field(
        None, description="Path of the language's own manifest for the registry, such as Cargo.toml."
    )
    bin: ShortText | None = Field(None, description="Name of the binary for the registry.")
    tags: Annotated[list[ShortText], Field(max_length=32)] | None = Field(
        None, description="Words to find the worker by in the registry."
    )
    dependencies: Annotated[dict[Name, RangeText], Field(max_length=64)] | None = Field(
        None, description='Workers that this one needs, name to version range, such as {"memory": "^1.2"}.'
    )
    config: Anything = Field(None, description="Deprecated. Configuration of the worker; not handed on.")
    entry: Anything = Field(None, description="Deprecated. File or module that is started; use scripts.start.")
    runtime: Runtime | None = Field(None, description="How the worker is run.")
    scripts: Scripts | None = Field(None, description="Shell commands of the worker.")
    env: Annotated[dict[EnvName, EnvValue], Field(max_length=256)] | None = Field(
        None,
        description="Environment variables of the worker, name to text. III_URL and III_ENGINE_URL are not handed on.",
    )
    resources: ManifestResources | None = Field(
        None, description="What the worker may use; the pod's limits when spec.resources is left out."
    )


def read_manifest(text: str) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Read the text of an ``iii.worker.yaml``: its mapping, or None, and what is wrong with the text itself.

    The text has at most 64 KiB and is one YAML 1.2 mapping. Whatever else it is ends in a finding, never in an
    exception. The mapping's content is for :func:`validate_manifest`.
    """
    documents, findings = read_documents(text, max_bytes=MAX_MANIFEST_BYTES)
    if findings:
        return None, findings
    if not documents or (len(documents) == 1 and documents[0].value is None):
        return None, [error("", "Empty", "the manifest is empty; it needs at least a name, such as name: my-worker")]
    if len(documents) > 1:
        message = "a manifest is one YAML document, and a second one begins here; remove the '---'"
        return None, [error("", "NotOneDocument", message, documents[1].line)]
    value = documents[0].value
    if not isinstance(value, dict):
        return None, [
            error("", "WrongType", "the manifest must be a map of fields, such as name: my-worker", documents[0].line)
        ]
    return value, []


def validate_manifest(manifest: object, path: str = "spec.manifest") -> list[Finding]:
    """Return everything that is wrong with a manifest, with paths below ``path``; takes any value, never raises."""
    if not isinstance(manifest, dict):
        return [error(path, "WrongType", "must be a map of fields, such as name: my-worker")]
    try:
        Manifest.model_validate(manifest)
        found: list[Finding] = []
    except ValidationError as problem:
        found = model_findings(problem, Manifest, path)
    found += _name_findings(manifest.get("name"), at(path, "name"))
    found += _registry_findings(manifest, path)
    found += version_findings(manifest.get("version"), at(path, "version"))
    found += _runtime_findings(manifest, path)
    found += dependency_findings(manifest.get("dependencies"), at(path, "dependencies"), manifest.get("name"))
    found += _env_findings(manifest.get("env"), at(path, "env"))
    found += _resource_findings(manifest, path)
    return found


def size_findings(manifest: object, path: str) -> list[Finding]:
    """Return a finding when an inline manifest has more bytes, as JSON, than the text of one may have."""
    try:
        size = len(json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"))
    except (TypeError, ValueError, RecursionError):  # no JSON at all: the models' to report
        return []
    if size <= MAX_MANIFEST_BYTES:
        return []
    return [error(path, "TooLarge", f"has {size} bytes, more than the {MAX_MANIFEST_BYTES} that are allowed")]


def dependency_findings(dependencies: object, path: str, own_name: object) -> list[Finding]:
    """Return what is wrong with names and ranges of a dependency map; wrong types are the models' to report."""
    if not isinstance(dependencies, dict):
        return []
    found: list[Finding] = []
    for name, text in dependencies.items():
        if not isinstance(name, str):
            continue
        where = at_key(path, name)
        if not _is_name(name):
            found.append(error(where, "InvalidName", _name_fault(name)))
        elif name == own_name:
            found.append(error(where, "DependsOnItself", f"{name} cannot depend on itself; remove the line"))
        elif name in _NEVER_THERE:
            message = f"{name} belongs to the engine, which has no worker of that name here; remove the line"
            found.append(error(where, "NeverThere", message))
        if isinstance(text, str) and len(text) <= 256:
            try:
                wanted = Range.parse(text)
            except RangeError as problem:
                found.append(error(where, "InvalidRange", str(problem)))
            else:
                if wanted.names_pre_release:
                    message = f"{text!a} names a pre-release, and iii's public registry resolves stable versions only"
                    found.append(warning(where, "RefusedBySome", message))
    return found


def version_findings(version: object, path: str) -> list[Finding]:
    """Return a finding when a text is no semantic version; wrong types are the models' to report."""
    if not isinstance(version, str):
        return []
    try:
        parse_version(version)
    except VersionError as problem:
        return [error(path, "InvalidVersion", str(problem))]
    return []


def _name_findings(name: object, path: str) -> list[Finding]:
    if not isinstance(name, str) or not 1 <= len(name) <= 63:
        return []
    if not _is_name(name):
        return [error(path, "InvalidName", _name_fault(name))]
    if name.lower() in FORBIDDEN_NAMES:
        message = (
            f"the name {name} belongs to the engine; choose another, such as my-{name.lower().removeprefix('iii-')}"
        )
        return [error(path, "ForbiddenName", message)]
    if not _REGISTRY_NAME.fullmatch(name):
        message = (
            f"{name} is refused by the registry, which takes lower-case letters, digits, '_' and '-', "
            f"such as {re.sub('[^a-z0-9_-]', '-', name.lower()).strip('_-') or 'my-worker'}"
        )
        return [warning(path, "RegistryName", message)]
    return []


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name


def _name_fault(name: str) -> str:
    return f"'{shown(name, 63)}' {NOT_A_NAME}"


def _registry_findings(manifest: dict[str, Any], path: str) -> list[Finding]:
    found: list[Finding] = []
    if manifest.get("iii") not in (None, "v1") and isinstance(manifest["iii"], str):
        found.append(warning(at(path, "iii"), "UnknownForm", "is v1 in every manifest that iii knows; write iii: v1"))
    for key in ("version", "bin"):
        if manifest.get(key) is not None:
            found.append(warning(at(path, key), "RefusedBySome", f"iii worker add of 0.23 refuses the field {key}"))
    for key, instead in (("config", "the worker's own configuration"), ("entry", "scripts.start")):
        if manifest.get(key) is not None:
            found.append(warning(at(path, key), "Deprecated", f"the field {key} is deprecated; use {instead}"))
    language = manifest.get("language")
    if isinstance(language, str) and manifest.get("deploy") is None:
        found.append(
            warning(
                at(path, "language"),
                "Deprecated",
                "the field language is deprecated without deploy; scripts.start says how the worker is started",
            )
        )
    elif isinstance(language, str) and language not in _REGISTRY_LANGUAGES:
        message = f"{language[:60]!a} is refused by the registry, which takes {', '.join(_REGISTRY_LANGUAGES)}"
        found.append(warning(at(path, "language"), "RefusedBySome", message))
    if manifest.get("deploy") is not None:
        found += [
            warning(at(path, field), "RefusedBySome", f"the registry needs the field {field} beside deploy; add it")
            for field in _REGISTRY_FIELDS
            if manifest.get(field) is None
        ]
    if manifest.get("deploy") == "bundle":
        found += _bundle_findings(manifest, path)
    else:
        found += _start_findings(manifest, path)
    return found


def _start_findings(manifest: dict[str, Any], path: str) -> list[Finding]:
    """Return a finding for the shape for running without a start that iii 0.23 would have or could infer."""
    runtime, scripts = (
        part if isinstance(part, dict) else {} for part in (manifest.get("runtime"), manifest.get("scripts"))
    )
    if not (runtime or scripts) or manifest.get("deploy") is not None or scripts.get("start") is not None:
        return []
    kind = runtime.get("kind") or runtime.get("language") or manifest.get("language")
    if kind is not None and (kind == "rust" or runtime.get("entry") is not None or manifest.get("entry") is not None):
        return []
    message = "iii worker add of 0.23 needs scripts.start; without it the image's own entrypoint runs here"
    return [warning(at(path, "scripts.start"), "RefusedBySome", message)]


def _bundle_findings(manifest: dict[str, Any], path: str) -> list[Finding]:
    found = [warning(at(path, "deploy"), "RefusedBySome", "iii before 0.23 refuses bundle, it takes binary and image")]
    scripts = manifest.get("scripts")
    scripts = scripts if isinstance(scripts, dict) else {}
    if scripts.get("setup") is not None:
        message = "is not allowed in a bundle; move it to scripts.install"
        found.append(error(at(path, "scripts.setup"), "NotInBundle", message))
    if scripts.get("start") is None:
        message = "is required in a bundle; write how the worker is started, such as python -m my_worker"
        found.append(error(at(path, "scripts.start"), "Required", message))
    return found


def _runtime_findings(manifest: dict[str, Any], path: str) -> list[Finding]:
    runtime = manifest.get("runtime")
    if not isinstance(runtime, dict):
        return []
    found: list[Finding] = []
    where = at(path, "runtime")
    image = runtime.get("base_image")
    if isinstance(image, str) and len(image) <= 512 and not _BASE_IMAGE.fullmatch(image):
        message = f"{image[:60]!a} is not an image reference, such as python:3.13-slim"
        found.append(error(at(where, "base_image"), "InvalidImage", message))
    for key in ("kind", "language", "package_manager", "entry"):
        if runtime.get(key) is not None:
            message = f"the field {key} is deprecated; scripts.start says how the worker is started"
            found.append(warning(at(where, key), "Deprecated", message))
    for key in ("kind", "language"):
        kind = runtime.get(key)
        if isinstance(kind, str) and kind not in _KINDS:
            message = f"must be one of {', '.join(_KINDS)}; got {kind[:60]!a}"
            found.append(error(at(where, key), "InvalidValue", message))
    manager = runtime.get("package_manager")
    kind = runtime.get("kind", runtime.get("language"))
    if kind == "typescript" and isinstance(manager, str) and manager not in _NODE_PACKAGE_MANAGERS:
        message = f"must be one of {', '.join(_NODE_PACKAGE_MANAGERS)}; got {manager[:60]!a}"
        found.append(error(at(where, "package_manager"), "InvalidValue", message))
    return found


def _resource_findings(manifest: dict[str, Any], path: str) -> list[Finding]:
    resources = manifest.get("resources")
    if manifest.get("deploy") != "bundle" or not isinstance(resources, dict):
        return []
    found: list[Finding] = []
    for field, most in _BUNDLE_MOST.items():
        value = resources.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value > most:
            message = f"iii gives a published bundle at most {most}; here it gets {shown(str(value))}"
            found.append(warning(at(path, f"resources.{field}"), "Clamped", message))
    return found


def _env_findings(env: object, path: str) -> list[Finding]:
    if not isinstance(env, dict):
        return []
    return [
        warning(at_key(path, name), "Dropped", f"{name} is set by the platform; the manifest's value is dropped")
        for name in env
        if isinstance(name, str) and name in DROPPED_ENV
    ]
