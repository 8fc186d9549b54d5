"""Everything that can be said about a resource from the resource alone.

The same findings serve the admission webhook, the reconciler and ``agentos validate``. Any value is taken, and nothing
is ever raised: what comes back is a list.
"""

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from agentos_contracts.drain import drain_findings
from agentos_contracts.exposure import expose_findings
from agentos_contracts.external_engine import external_findings
from agentos_contracts.findings import MAX_DEPTH, Finding, error, shown, too_deep, warning
from agentos_contracts.grants import MAX_SCOPE_LENGTH, SCOPE_REGEX, scope_matches
from agentos_contracts.manifest import dependency_findings, size_findings, validate_manifest, version_findings
from agentos_contracts.model_findings import at, described, model_findings, unknown_field
from agentos_contracts.network import network_findings
from agentos_contracts.patterns import RESERVED_SEGMENTS, Pattern, PatternError, called_pattern, reserved_by
from agentos_contracts.pod_template import reference_findings, template_findings
from agentos_contracts.realm import JWT_REQUIRED, MAX_HTTP_ROUTES, RealmSpec
from agentos_contracts.resource import API_VERSION, GROUP
from agentos_contracts.scaling import scaling_findings
from agentos_contracts.worker import (
    ACCOUNT_OF_ENGINE,
    BAD_SCOPE,
    BELONGS_TO_ENGINE,
    ENGINE_NAME,
    EXACTLY_ONE_MANIFEST,
    EXACTLY_ONE_REF,
    EXACTLY_ONE_SOURCE,
    MAX_NAME_LENGTH,
    MAX_STATE_SCOPES,
    NAME_OF_ENGINE,
    NAME_TOO_LONG,
    REPLACES_ITSELF,
    VALUE_OR_SOURCE,
    Worker,
    WorkerSpec,
)

WRITTEN_KINDS = ("Worker", "Realm")
"""Kinds that people write; a FunctionClaim is the operator's."""

_TOP_LEVEL = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


def validate(resource: object) -> list[Finding]:
    """Return all findings of a resource by its kind."""
    if too_deep(resource):
        return [error("spec", "TooDeep", f"is nested more than {MAX_DEPTH} levels deep; flatten it")]
    kind = resource.get("kind") if isinstance(resource, dict) else None
    if kind == "Worker":
        return validate_worker(resource)
    if kind == "Realm":
        return validate_realm(resource)
    if kind == "FunctionClaim":
        message = "a FunctionClaim is made by the operator; write spec.owns of a Worker instead"
        return [error("kind", "NotWritten", message)]
    if kind is None:
        return [error("kind", "Required", f"is required; {GROUP} has the kinds {' and '.join(WRITTEN_KINDS)}")]
    message = f"must be {' or '.join(WRITTEN_KINDS)}, got {described(kind)}"
    return [error("kind", "InvalidValue", message)]


def validate_worker(resource: object) -> list[Finding]:
    """Return all findings of a Worker: form, manifest, owned functions, versions, image."""
    if too_deep(resource):
        return [error("spec", "TooDeep", f"is nested more than {MAX_DEPTH} levels deep; flatten it")]
    found, spec = _resource_findings(resource, "Worker")
    if spec is None:
        return found
    # The manifest has its own rules, which also say more than the model does.
    found += _model(WorkerSpec, {key: value for key, value in spec.items() if key != "manifest"})
    manifest = spec.get("manifest")
    if (manifest is None) == (spec.get("manifestFrom") is None):
        found.append(error("spec", "ExactlyOne", EXACTLY_ONE_MANIFEST))
    if manifest is not None:
        found += size_findings(manifest, "spec.manifest")
        found += validate_manifest(manifest, "spec.manifest")
    found += _container_findings(spec, "spec")
    found += _env_from_findings(spec.get("envFrom"))
    found += reference_findings(spec.get("envFrom"), "spec.envFrom")
    found += owns_findings(spec.get("owns"), "spec.owns")
    found += calls_findings(spec.get("calls"), "spec.calls")
    found += scope_findings(spec.get("stateScopes"), "spec.stateScopes")
    found += version_findings(spec.get("version") or None, "spec.version")
    found += scaling_findings(spec)
    found += drain_findings(spec)
    metadata = resource.get("metadata") if isinstance(resource, dict) else None
    if (
        isinstance(metadata, dict)
        and spec.get("replaces") not in (None, "")
        and spec["replaces"] == metadata.get("name")
    ):
        found.append(error("spec.replaces", "Itself", REPLACES_ITSELF))
    if isinstance(metadata, dict) and metadata.get("name") == ENGINE_NAME:
        found.append(error("metadata.name", "Reserved", NAME_OF_ENGINE))
    if spec.get("serviceAccountName") == ENGINE_NAME:
        found.append(error("spec.serviceAccountName", "Reserved", ACCOUNT_OF_ENGINE))
    name = manifest.get("name") if isinstance(manifest, dict) else None
    found += dependency_findings(spec.get("dependencies"), "spec.dependencies", name)
    if isinstance(manifest, dict):
        found += image_findings(spec, manifest)
    return found


def validate_realm(resource: object) -> list[Finding]:
    """Return all findings of a Realm."""
    found, spec = _resource_findings(resource, "Realm")
    if spec is None:
        return found
    found += _model(RealmSpec, spec)
    found += _http_findings(spec.get("http"))
    found += expose_findings(spec.get("http"))
    found += network_findings(spec.get("networkPolicy"))
    found += external_findings(spec)
    return found + worker_defaults_findings(spec.get("workerDefaults"), "spec.workerDefaults")


def worker_defaults_findings(defaults: object, path: str) -> list[Finding]:
    """Return what is wrong with a Realm's ``spec.workerDefaults``; wrong types are the models' to report."""
    return _container_findings(defaults, path) if isinstance(defaults, dict) else []


def _container_findings(holder: dict[str, Any], path: str) -> list[Finding]:
    """Return what is wrong with the fields of pods that a Worker's spec and a Realm's defaults share."""
    found = _env_findings(holder.get("env"), at(path, "env"))
    for field in ("env", "imagePullSecrets"):
        found += reference_findings(holder.get(field), at(path, field))
    return found + template_findings(holder.get("template"), at(path, "template"))


def _http_findings(http: object) -> list[Finding]:
    """Return what is wrong between the parts of a Realm's ``spec.http``; each part's form is the model's to report."""
    if not isinstance(http, dict):
        return []
    found: list[Finding] = []
    listed = http.get("routes")
    routes = [
        (index, route)
        for index, route in enumerate(listed if isinstance(listed, list) else [])
        if isinstance(route, dict)
    ]
    wanted = http.get("auth") == "jwt" or any(route.get("auth") == "jwt" for _, route in routes)
    if wanted and http.get("jwt") is None:
        found.append(error("spec.http.jwt", "Required", JWT_REQUIRED))
    if not wanted and http.get("jwt") is not None:
        found.append(warning("spec.http.jwt", "Unused", "is used by nothing: neither auth nor a route says jwt"))
    seen: dict[tuple[str, str], int] = {}
    for index, route in routes[:MAX_HTTP_ROUTES]:
        path, methods = route.get("path"), route.get("methods")
        if not isinstance(path, str):
            continue
        names = [part for part in path.split("/") if part.startswith(":")]
        if len(set(names)) < len(names):
            message = f"{shown(path)} has a parameter twice; give each its own name"
            found.append(error(f"spec.http.routes[{index}].path", "Duplicate", message))
        shape = re.sub("/:[^/]+", "/:", path)
        for method in methods if isinstance(methods, list) and methods else ["every method"]:
            earlier = seen.setdefault((shape, str(method)), index)
            if earlier != index:
                message = f"{shown(path)} is in spec.http.routes[{earlier}] too, for {method}; remove one of them"
                found.append(error(f"spec.http.routes[{index}].path", "Duplicate", message))
                break
    return found


def owns_findings(owns: object, path: str) -> list[Finding]:
    """Return what is wrong with a list of owned patterns; wrong types are the models' to report."""
    return _pattern_findings(owns, path, Pattern.parse, _reserved_words)


def calls_findings(calls: object, path: str) -> list[Finding]:
    """Return what is wrong with a list of called patterns: as for owned ones, but the engine's may be among them."""
    return _pattern_findings(calls, path, called_pattern, lambda _: None)


def scope_findings(scopes: object, path: str) -> list[Finding]:
    """Return what is wrong with a list of state scopes; wrong types and lengths are the models' to report."""
    if not isinstance(scopes, list):
        return []
    found: list[Finding] = []
    for index, entry in enumerate(scopes[:MAX_STATE_SCOPES]):
        if not isinstance(entry, str) or not 0 < len(entry) <= MAX_SCOPE_LENGTH:
            continue
        where = f"{path}[{index}]"
        if not re.fullmatch(SCOPE_REGEX, entry):
            found.append(error(where, "InvalidScope", f"{shown(entry)} {BAD_SCOPE}"))
            continue
        for earlier, other in enumerate(scopes[:index]):
            if isinstance(other, str) and scope_matches(other, entry):
                message = f"{shown(entry)} is covered by {shown(other)} in {path}[{earlier}]; one of them is enough"
                found.append(warning(where, "Overlap", message))
                break
    return found


def _pattern_findings(
    texts: object, path: str, read: Callable[[str], Pattern], reserved_words: Callable[[Pattern], str | None]
) -> list[Finding]:
    if not isinstance(texts, list):
        return []
    found: list[Finding] = []
    patterns: list[tuple[int, Pattern]] = []
    for index, text in enumerate(texts[:256]):
        if not isinstance(text, str) or not text:
            continue
        where = f"{path}[{index}]"
        try:
            pattern = read(text)
        except PatternError as problem:
            if len(text) <= 128:
                found.append(error(where, "InvalidPattern", str(problem)))
            continue
        if reserved := reserved_words(pattern):
            found.append(error(where, "Reserved", reserved))
            continue
        for earlier, other in patterns:
            if pattern.clashes(other):
                message = f"{pattern} overlaps {other} in {path}[{earlier}]; one of them is enough"
                found.append(warning(where, "Overlap", message))
                break
        patterns.append((index, pattern))
    return found


def image_findings(spec: dict[str, Any], manifest: dict[str, Any]) -> list[Finding]:
    """Return a finding when neither the spec nor the manifest names an image that has the worker in it."""
    if spec.get("image") is not None:
        return []
    deploy = manifest.get("deploy")
    if deploy in ("binary", "bundle"):
        message = f"the manifest's deploy is {deploy}, and a {deploy} does not run in a pod by itself; set spec.image"
        return [error("spec.image", "NoImage", message)]
    runtime = manifest.get("runtime")
    if isinstance(runtime, dict) and runtime.get("base_image") is not None:
        return []
    message = "no image is named; set spec.image, or runtime.base_image in the manifest"
    return [error("spec.image", "NoImage", message)]


def _reserved_words(pattern: Pattern) -> str | None:
    reserved = reserved_by(pattern)
    if reserved is None:
        return None
    if reserved in RESERVED_SEGMENTS or pattern.text == reserved:
        return f"{pattern} {BELONGS_TO_ENGINE}"
    return (
        f"{pattern} takes {reserved}, which belongs to the engine; "
        f"claim single functions such as {pattern.segment}::my-function"
    )


def _resource_findings(resource: object, kind: str) -> tuple[list[Finding], dict[str, Any] | None]:
    """Check the outer form; return findings, and the spec when it is a map."""
    if not isinstance(resource, dict):
        return [
            error("", "WrongType", f"must be a map with apiVersion, kind, metadata and spec, got {described(resource)}")
        ], None
    found: list[Finding] = []
    if resource.get("apiVersion") != API_VERSION:
        found.append(
            error("apiVersion", "InvalidValue", f"must be {API_VERSION}, got {described(resource.get('apiVersion'))}")
        )
    if resource.get("kind") != kind:
        found.append(error("kind", "InvalidValue", f"must be {kind}, got {described(resource.get('kind'))}"))
    found += [
        error(shown(str(field)), "UnknownField", unknown_field(str(field), Worker))
        for field in resource
        if field not in _TOP_LEVEL
    ]
    metadata = resource.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None and not (isinstance(metadata, dict) and metadata.get("generateName")):
        found.append(error("metadata.name", "Required", "is required"))
    elif isinstance(name, str) and len(name) > MAX_NAME_LENGTH:
        found.append(error("metadata.name", "TooLong", NAME_TOO_LONG))
    elif name is not None and not isinstance(name, str):
        found.append(error("metadata.name", "WrongType", f"must be a text, got {described(name)}"))
    spec = resource.get("spec")
    if spec is None:
        return [*found, error("spec", "Required", "is required")], None
    if not isinstance(spec, dict):
        return [*found, error("spec", "WrongType", f"must be a map, got {described(spec)}")], None
    return found, spec


def _model(model: type[BaseModel], spec: dict[str, Any]) -> list[Finding]:
    try:
        model.model_validate(spec, by_name=False)
    except ValidationError as problem:
        return model_findings(problem, model, "spec")
    return []


def _env_findings(env: object, path: str) -> list[Finding]:
    found: list[Finding] = []
    seen: set[str] = set()
    for index, variable in enumerate(env if isinstance(env, list) else []):
        if not isinstance(variable, dict):
            continue
        where = f"{path}[{index}]"
        name, source = variable.get("name"), variable.get("valueFrom")
        if isinstance(name, str):
            if name in seen:
                found.append(error(at(where, "name"), "Duplicate", f"{name} is given twice in {path}; remove one"))
            seen.add(name)
        if source is not None and variable.get("value") is not None:
            found.append(error(where, "ExactlyOne", VALUE_OR_SOURCE))
        if isinstance(source, dict) and _given(source, "configMapKeyRef", "secretKeyRef", "fieldRef") != 1:
            found.append(error(at(where, "valueFrom"), "ExactlyOne", EXACTLY_ONE_SOURCE))
    return found


def _env_from_findings(env_from: object) -> list[Finding]:
    return [
        error(f"spec.envFrom[{index}]", "ExactlyOne", EXACTLY_ONE_REF)
        for index, source in enumerate(env_from if isinstance(env_from, list) else [])
        if isinstance(source, dict) and _given(source, "configMapRef", "secretRef") != 1
    ]


def _given(source: dict[str, Any], *fields: str) -> int:
    return sum(source.get(field) is not None for field in fields)
