"""What comes of Workers and Realms once they are applied, told before that from what a cluster has. Pure.

The operator decides by the same functions: who owns what (``assign``) and what a first start waits for (``unmet``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentos_contracts.assign import Assignment, Claimant, Holder, assign, patterns_of
from agentos_contracts.dependencies import Dependency, declared, trouble, unmet
from agentos_contracts.effective import image_version
from agentos_contracts.findings import Finding, Severity
from agentos_contracts.grants import SENSITIVE, is_named
from agentos_contracts.manifest import BUILT_IN_WORKERS
from agentos_contracts.patterns import BUILT_IN_IDS, RESERVED_SEGMENTS, Pattern, PatternError, called_pattern
from agentos_contracts.reasons import CLASH, HANDING_OVER, NAMESPACE_TAKEN, NO_REALM, REPLACED, Outlook, Reason
from agentos_contracts.semver import RangeError

Resource = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a cluster has in the namespaces in question; None: it could not be read, so nothing is said about it."""

    workers: Sequence[Resource] | None
    realms: Sequence[Resource] | None
    claims: Sequence[Resource] | None


def forecast(resources: Sequence[Resource], seen: Seen, now: str) -> list[list[Finding]]:
    """Return for each resource what would come of it after an apply of all of them; nothing means that it starts.

    ``resources`` are Workers and Realms without errors, each with its namespace; ``now`` is the time, as Kubernetes
    writes it. What only a person can end is an error, what ends by itself or by others a warning. The reasons are those
    of the conditions.
    """
    workers = _overlaid(seen.workers or (), [each for each in resources if each["kind"] == "Worker"])
    realms = _overlaid(seen.realms or (), [each for each in resources if each["kind"] == "Realm"])
    owners = _owners(workers, seen.claims, now) if seen.claims is not None and seen.workers is not None else {}
    found: list[list[Finding]] = []
    for index, resource in enumerate(resources):
        if resource["kind"] == "Realm":
            found.append(_of_realm(resource, realms) if seen.realms is not None else [])
            continue
        said = _of_namespace(resource, realms) if seen.realms is not None else []
        said += _of_claims(resource, owners.get(_namespace(resource)))
        if seen.workers is not None:
            said += _of_replaces(resource, workers)
            others = [each for each in workers.values() if _namespace(each) == _namespace(resource)]
            given = {_key(each) for position, each in enumerate(resources) if position != index}
            said += _of_dependencies(resource, others, given)
            said += _of_calls(resource, others)
        found.append(said)
    return found


def _finding(reason: Reason, path: str, message: str) -> Finding:
    severity = Severity.ERROR if reason.outlook is Outlook.STALLED else Severity.WARNING
    return Finding(severity, path, reason.name, message)


def _namespace(resource: Resource) -> str:
    return resource["metadata"].get("namespace", "")


def _key(resource: Resource) -> tuple[str, str]:
    return _namespace(resource), resource["metadata"].get("name", "")


def _overlaid(there: Iterable[Resource], given: Iterable[Resource]) -> dict[tuple[str, str], Resource]:
    """Return what there will be: what is there, with the spec of what is given, and what is new."""
    result = {_key(each): each for each in there}
    for each in given:
        before = result.get(_key(each))
        result[_key(each)] = each if before is None else {**before, "spec": each["spec"]}
    return result


def _of_realm(realm: Resource, realms: Mapping[tuple[str, str], Resource]) -> list[Finding]:
    namespace, name = realm["spec"].get("namespace"), realm["metadata"].get("name")
    for other in realms.values():
        if other["spec"].get("namespace") == namespace and other["metadata"].get("name") != name:
            message = f"namespace {namespace} belongs to realm {other['metadata']['name']}; take another"
            return [_finding(NAMESPACE_TAKEN, "spec.namespace", message)]
    return []


def _of_namespace(worker: Resource, realms: Mapping[tuple[str, str], Resource]) -> list[Finding]:
    namespace = _namespace(worker)
    if any(realm["spec"].get("namespace") == namespace for realm in realms.values()):
        return []
    message = (
        f"no Realm has namespace {namespace}; make one with spec.namespace: {namespace}, or use a realm's namespace"
    )
    return [_finding(NO_REALM, "metadata.namespace", message)]


@dataclass(frozen=True, slots=True)
class _Owners:
    """Who would own what in one namespace, and the uids by which the assignment knows its Workers."""

    assignment: Assignment
    uids: Mapping[str, str]


def _owners(workers: Mapping[tuple[str, str], Resource], claims: Sequence[Resource], now: str) -> dict[str, _Owners]:
    """Return who would own what, by namespace."""
    result: dict[str, _Owners] = {}
    for namespace in {namespace for namespace, _ in workers}:
        recorded: dict[str, list[Holder]] = {}
        for claim in claims:
            if _namespace(claim) == namespace:
                held = claim["spec"].get("holders", ())
                recorded[claim["spec"]["segment"]] = [
                    Holder(h["pattern"], h["worker"], h["uid"], h["since"]) for h in held
                ]
        claimants = _claimants([each for each in workers.values() if _namespace(each) == namespace], recorded, now)
        uids = {name: each.uid for (there, name), each in claimants.items() if there == namespace}
        result[namespace] = _Owners(assign(claimants.values(), recorded, now), uids)
    return result


def _claimants(
    workers: Sequence[Resource], recorded: Mapping[str, Sequence[Holder]], now: str
) -> dict[tuple[str, str], Claimant]:
    """Return the Workers as those who claim, new ones after all others; who only drains still holds what it has."""
    held: dict[str, list[Holder]] = {}
    for holders in recorded.values():
        for holder in holders:
            held.setdefault(holder.uid, []).append(holder)
    claimants: dict[tuple[str, str], Claimant] = {}
    for order, worker in enumerate(workers):
        metadata = worker["metadata"]
        uid = metadata.get("uid") or f"~{order:06}"  # after every uid that Kubernetes gives
        own = tuple(Pattern(each.pattern) for each in held.pop(uid, ()))
        leaving = bool(metadata.get("deletionTimestamp"))
        created = metadata.get("creationTimestamp") or now
        claimants[_key(worker)] = Claimant(
            metadata["name"],
            uid,
            created,
            patterns_of(worker),
            own,
            leaving=leaving,
            started=bool(own),
            replaces=worker["spec"].get("replaces") or "",
        )
    for uid, holders in held.items():
        patterns = tuple(Pattern(each.pattern) for each in holders)
        claimants["", uid] = Claimant(holders[0].worker, uid, holders[0].since, patterns, patterns, leaving=True)
    return claimants


def _of_claims(worker: Resource, owners: _Owners | None) -> list[Finding]:
    if owners is None:
        return []
    assignment, uid = owners.assignment, owners.uids[worker["metadata"]["name"]]
    if uid in assignment.succeeding:
        other = worker["spec"]["replaces"]
        message = f"its pods start beside those of Worker {other}, and it takes over once they have registered what that one serves"
        return [_finding(HANDING_OVER, "spec.replaces", message)]
    if successor := assignment.replaced.get(uid):
        message = f"Worker {successor}, whose spec.replaces names it, has taken over its functions; it has no pod"
        return [_finding(REPLACED, "spec.owns", message)]
    clashes = assignment.waiting.get(uid, ())
    if not clashes:
        return []
    since = {f" since {each.holder.since}" for each in clashes}
    told = "; ".join(dict.fromkeys(each.message for each in clashes))
    when = next(iter(since)) if len(since) == 1 else ""
    return [_finding(CLASH, "spec.owns", f"{told}{when}; it waits, without a pod, until that is free")]


def _of_replaces(worker: Resource, workers: Mapping[tuple[str, str], Resource]) -> list[Finding]:
    other = worker["spec"].get("replaces")
    if not other or (_namespace(worker), other) in workers:
        return []
    message = f"there is no Worker {other} in namespace {_namespace(worker)}: nothing is taken over"
    return [Finding(Severity.WARNING, "spec.replaces", "NothingToReplace", message)]


def _of_dependencies(worker: Resource, others: Sequence[Resource], given: set[tuple[str, str]]) -> list[Finding]:
    """Return what its first start would wait for; what is applied with it comes by itself, unless in a circle."""
    name, needed = declared(worker)
    here = next(each for each in others if _key(each) == _key(worker))
    if not needed or _condition(here, "DependenciesReady").get("status") == "True":
        return []
    try:
        lacking = unmet(needed, [_provider(each, set()) for each in others], BUILT_IN_WORKERS, name)
        if lacking is None or lacking[0].outlook is not Outlook.STALLED:
            lacking = unmet(needed, [_provider(each, given) for each in others], BUILT_IN_WORKERS)
    except RangeError:  # of one that the cluster has: not this Worker's
        return []
    if lacking is None:
        return []
    reason, message = lacking
    inline = worker["spec"].get("dependencies") is None
    path = "spec.manifest.dependencies" if inline else "spec.dependencies"
    return [_finding(reason, path, message)]


def _provider(worker: Resource, coming: set[tuple[str, str]]) -> Dependency:
    (name, needed), spec = declared(worker), worker["spec"]
    manifest = spec["manifest"] if isinstance(spec.get("manifest"), dict) else {}
    version = spec.get("version") or manifest.get("version") or image_version(spec.get("image"))
    ready = _condition(worker, "Ready")
    waits = _condition(worker, "DependenciesReady").get("status") != "True"
    is_ready = ready.get("status") == "True" or _key(worker) in coming
    return Dependency(
        worker["metadata"]["name"],
        name,
        version or worker.get("status", {}).get("version") or None,
        is_ready,
        trouble="" if is_ready else trouble(ready.get("reason", "")),
        waits_for=frozenset(needed) if waits else frozenset(),
    )


def _condition(resource: Resource, kind: str) -> Mapping[str, Any]:
    return next((each for each in resource.get("status", {}).get("conditions", ()) if each["type"] == kind), {})


def _of_calls(worker: Resource, others: Sequence[Resource]) -> list[Finding]:
    """Return the patterns of spec.calls that nobody serves, and those that leave out what has to be named."""
    patterns: list[tuple[int, Pattern]] = []
    for index, text in enumerate(worker["spec"].get("calls") or ()):
        try:
            patterns.append((index, called_pattern(text)))
        except PatternError:
            continue
    named = [pattern for _, pattern in patterns]
    owned = [pattern for each in others for pattern in patterns_of(each)]
    registered = {each for other in others for each in other.get("status", {}).get("functions") or ()}
    found: list[Finding] = []
    for index, pattern in patterns:
        path = f"spec.calls[{index}]"
        of_engine = pattern.segment in RESERVED_SEGMENTS or any(pattern.matches(each) for each in BUILT_IN_IDS)
        if not (of_engine or any(map(pattern.matches, registered)) or any(map(pattern.clashes, owned))):
            message = f"{pattern} is served by nobody in the namespace now; calls fail until a Worker registers it"
            found.append(Finding(Severity.WARNING, path, "NotServed", message))
        left_out = [
            each.text
            for each in SENSITIVE
            if pattern.clashes(each) and not is_named(named, each.text.replace("*", "x"))
        ]
        if left_out:
            message = f"{pattern} does not allow {', '.join(sorted(left_out))}: what is sensitive has to be named"
            found.append(Finding(Severity.WARNING, path, "NotNamed", message))
    return found
