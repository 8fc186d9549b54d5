"""``agentos validate --server``: what the API server says to an apply, and what would come of it. Changes nothing."""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentos_contracts.findings import Finding, Severity, error, errors, shown, warning
from agentos_contracts.forecast import Seen, forecast

from agentos.errors import CommandError, ExitCode
from agentos.everyday.plain import plain
from agentos.everyday.realm import READY_TIMEOUT, Kubectl, failure

MAX_MESSAGE = 2000
_WAITS = ("spec.owns[", "dependencies: ")
"""What the webhook's warnings about other Workers begin with: the forecast says it with more of the truth."""


@dataclass(slots=True)
class Foreseen:
    """What a cluster says: findings of each resource by their source, and what could not be checked, and why."""

    findings: list[list[tuple[str, Finding]]]
    unchecked: list[tuple[str, str]] = field(default_factory=list)


def foresee(kubectl: Kubectl, resources: Sequence[dict[str, Any]], offline: Sequence[Sequence[Finding]]) -> Foreseen:
    """Ask a cluster about Workers and Realms, of which ``offline`` is known already.

    Raises CommandError when the cluster does not answer, or does not know the kinds.
    """
    namespace = _default_namespace(kubectl)
    placed = [_placed(each, namespace) for each in resources]
    result = Foreseen([[] for _ in placed])
    seen = _read(kubectl, {each["metadata"]["namespace"] for each in placed if each["kind"] == "Worker"}, result)
    sound = [index for index, found in enumerate(offline) if not errors(found)]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for index, found in zip(sound, forecast([placed[each] for each in sound], seen, now), strict=True):
        result.findings[index] += [("forecast", each) for each in found]
    coming = {
        each["spec"].get("namespace") for each in placed if each["kind"] == "Realm" and isinstance(each["spec"], dict)
    }
    for index, resource in enumerate(placed):
        said = _dry_run(kubectl, resource, [str(each) for each in offline[index]])
        if isinstance(said, str):
            where = resource["metadata"].get("namespace", "")
            why = f"the Realm in these files makes namespace {where} first" if where in coming else said
            result.unchecked.append((f"dry run of {_called(resource)}", why))
        else:
            result.findings[index] += [("server", each) for each in said]
    return result


def _called(resource: dict[str, Any]) -> str:
    metadata = resource["metadata"]
    where = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return plain(f"{resource['kind']} {where}{metadata.get('name', '')}")


def _default_namespace(kubectl: Kubectl) -> str:
    done = _run(kubectl, "config", "view", "--minify", "-o", "jsonpath={..namespace}")
    return done.stdout.strip() or "default"


def _placed(resource: dict[str, Any], namespace: str) -> dict[str, Any]:
    metadata = resource.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if resource.get("kind") == "Worker" and not metadata.get("namespace"):
        metadata = metadata | {"namespace": namespace}
    return resource | {"metadata": metadata, "spec": resource.get("spec")}


def _read(kubectl: Kubectl, namespaces: set[str], result: Foreseen) -> Seen:
    """Read what is there. Workers and claims are known only when every namespace could be read."""
    realms = _items(kubectl, result, "realms")
    workers: list[Any] | None = []
    claims: list[Any] | None = []
    for namespace in sorted(namespaces):
        some = _items(kubectl, result, "workers", namespace)
        workers = None if workers is None or some is None else workers + some
        held = _items(kubectl, result, "functionclaims", namespace)
        claims = None if claims is None or held is None else claims + held
    return Seen(workers, realms, claims)


def _items(kubectl: Kubectl, result: Foreseen, kind: str, namespace: str = "") -> list[Any] | None:
    what = f"{kind}.agentos.dev"
    try:
        answer = kubectl.get(what, *([f"--namespace={namespace}"] if namespace else []))
    except CommandError as problem:
        if "(Forbidden)" not in str(problem):
            raise
        lost = {
            "realms": "NoRealm, NamespaceTaken",
            "workers": "clashes, dependencies, calls",
            "functionclaims": "clashes",
        }
        where = f" in namespace {namespace}" if namespace else ""
        result.unchecked.append((lost[kind] + where, f"no right to list {what}"))
        return None
    items = answer.get("items") if isinstance(answer, dict) else None
    return [each for each in items if isinstance(each, dict)] if isinstance(items, list) else []


def _dry_run(kubectl: Kubectl, resource: dict[str, Any], known: Sequence[str]) -> list[Finding] | str:
    """Return what the API server says that is not known yet, or why it cannot be asked."""
    done = _run(
        kubectl, "apply", "--dry-run=server", "-f", "-", "-o", "name", f"--request-timeout={READY_TIMEOUT:.0f}s",
        stdin=json.dumps(resource),
    )  # fmt: skip
    lines = [plain(line) for line in done.stderr.splitlines() if line.strip()]
    told = [line.removeprefix("Warning: ") for line in lines if line.startswith("Warning: ")]
    found = [
        warning("", "Admission", shown(line, MAX_MESSAGE))
        for line in told
        if line not in known and not line.startswith(_WAITS)
    ]
    if done.returncode == 0:
        return found
    rest = [line for line in lines if not line.startswith("Warning: ")]
    text = " ".join(rest)
    if failure(lines).code is ExitCode.UNREACHABLE:
        raise failure(lines)
    if re.search(r'\(NotFound\).*namespaces "', text):
        return f"there is no namespace {resource['metadata'].get('namespace')}"
    if "(Forbidden)" in text:
        return [*found, error("", "Forbidden", shown(text, MAX_MESSAGE))]
    bullets = [line.removeprefix("- ") for line in rest if line.startswith("- ")] or rest[-1:]
    if known and all(any(each in line for each in known) for line in bullets):
        return found  # the webhook says what the files' own validation has said
    return [*found, error("", "Refused", shown(text, MAX_MESSAGE))]


def _run(kubectl: Kubectl, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            kubectl.command(*arguments), input=stdin, capture_output=True, encoding="utf-8", errors="replace",
            timeout=READY_TIMEOUT + 5,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CommandError("the cluster does not answer kubectl", ExitCode.UNREACHABLE) from None
    except OSError as problem:
        raise CommandError(f"kubectl cannot be started: {problem.strerror}", ExitCode.USAGE) from None


def outcome(findings: Sequence[Finding]) -> str:
    """Return in a word what comes of an apply: ``refused``, ``stalls``, ``waits`` or ``starts``."""
    reasons = {each.reason for each in findings}
    if reasons & {"NoRealm", "NamespaceTaken", "DependencyCycle"}:
        return "stalls"
    if any(each.severity is Severity.ERROR for each in findings):
        return "refused"
    waits = {"Clash", "Replaced", "DependencyMissing", "DependencyVersion", "DependencyNotReady"}
    return "waits" if reasons & waits else "starts"
