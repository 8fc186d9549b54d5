"""The one table of conditions and reasons that status, docs and tests share.

Every condition of a resource has its reasons here; code refers to a reason by its attribute, so a reason that is not
in the table cannot be written. ``docs/conditions.md`` is generated from it (``make docs``).
"""

from dataclasses import dataclass
from enum import StrEnum


class WorkerCondition(StrEnum):
    """Conditions of a Worker, in the order in which they have to become true; ``Ready`` sums them up.

    ``FunctionsInSync`` stands beside them: Ready does not wait for it.
    """

    MANIFEST_VALID = "ManifestValid"
    ENGINE_LINKED = "EngineLinked"
    WITHIN_QUOTA = "WithinQuota"
    FUNCTIONS_CLAIMED = "FunctionsClaimed"
    DEPENDENCIES_READY = "DependenciesReady"
    AVAILABLE = "Available"
    REGISTERED = "Registered"
    READY = "Ready"
    ENFORCED = "Enforced"
    FUNCTIONS_IN_SYNC = "FunctionsInSync"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class RealmCondition(StrEnum):
    """Conditions of a Realm, in the order in which they have to become true; ``Ready`` sums them up."""

    NAMESPACE_READY = "NamespaceReady"
    ENGINE_AVAILABLE = "EngineAvailable"
    ENGINE_LINKED = "EngineLinked"
    EXPOSED = "Exposed"
    WITHIN_QUOTA = "WithinQuota"
    READY = "Ready"
    ENFORCED = "Enforced"
    TOKENS_CURRENT = "TokensCurrent"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Outlook(StrEnum):
    """What is to be expected while a condition is False for a reason; OUTLOOKS says what each means and what follows from it."""

    GOOD = "good"
    """It is True for this reason, never False."""
    UNDER_WAY = "under way"
    WAITING = "waiting"
    FAILING = "failing"
    STALLED = "stalled"
    RESTING = "resting"


OUTLOOKS = {
    Outlook.UNDER_WAY: ("It belongs to every start, and ends by itself.", "Normal", "InProgress", "Progressing"),
    Outlook.WAITING: (
        "Something else has to happen first; then it goes on by itself.",
        "Warning",
        "InProgress",
        "Progressing",
    ),
    Outlook.FAILING: ("Something is broken now; it is tried again.", "Warning", "InProgress", "Degraded"),
    Outlook.STALLED: ("It stays so until a person changes something.", "Warning", "Failed", "Degraded"),
    Outlook.RESTING: (
        "Nothing is wanted, so nothing is missing.",
        "Normal",
        "InProgress; with Flux Current",
        "Suspended",
    ),
}
"""What each outlook means, the type of the Event, and what kstatus and Argo CD (with the files of examples/gitops) make of it."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: its CamelCase name, what it means, what to do, and what is to be expected while it is why something is not so."""

    name: str
    meaning: str
    remedy: str = ""
    outlook: Outlook = Outlook.UNDER_WAY


# Worker: ManifestValid
VALID = Reason("Valid", "The worker's iii.worker.yaml has no error.", outlook=Outlook.GOOD)
MANIFEST_INVALID = Reason(
    "ManifestInvalid",
    "The manifest or the spec has errors; the message lists them with their paths.",
    "Mend the fields that the message names.",
    outlook=Outlook.STALLED,
)
MANIFEST_NOT_FOUND = Reason(
    "ManifestNotFound",
    "The ConfigMap or the key that spec.manifestFrom names is not there.",
    "Create the ConfigMap, or mend the reference; the Worker goes on by itself.",
    outlook=Outlook.WAITING,
)
# Worker: EngineLinked
LINKED = Reason("Linked", "The operator is connected to the realm's engine.", outlook=Outlook.GOOD)
NO_REALM = Reason(
    "NoRealm",
    "No Realm has this namespace, so there is no engine to link to.",
    "Create a Realm with spec.namespace set to this namespace, or move the Worker.",
    outlook=Outlook.STALLED,
)
ENGINE_NOT_READY = Reason("EngineNotReady", "The realm's engine is starting.", "Wait; see the Realm's conditions.")
ENGINE_UNREACHABLE = Reason(
    "EngineUnreachable",
    "The operator has had no connection to the realm's engine for longer than the grace of 15 s.",
    "See the Realm's conditions and the engine's logs.",
    outlook=Outlook.FAILING,
)
# Worker and Realm: WithinQuota
WITHIN_QUOTA = Reason(
    "WithinQuota", "It is within spec.quota of the Realm, or the Realm has none.", outlook=Outlook.GOOD
)
QUOTA_EXCEEDED = Reason(
    "QuotaExceeded",
    "It goes beyond spec.quota of the Realm. A Worker that was not started gets neither pods nor functions, one that runs stays as "
    "it is; of a Realm, nothing new starts, and what runs goes on.",
    "Shrink or delete Workers, or raise the quota; who waits starts by itself when there is room, the oldest first.",
    Outlook.WAITING,
)
# Worker: FunctionsClaimed
CLAIMED = Reason(
    "Claimed", "Every pattern of spec.owns is recorded for this Worker in a FunctionClaim.", outlook=Outlook.GOOD
)
NOTHING_DECLARED = Reason(
    "NothingDeclared",
    "spec.owns is left out: what the worker registers becomes its own, one by one. With an empty list it owns nothing.",
    outlook=Outlook.GOOD,
)
CLASH = Reason(
    "Clash",
    "Another Worker holds functions that this one claims. No pod runs; it takes over when the holder goes.",
    "Delete the holder, or claim other functions.",
    outlook=Outlook.WAITING,
)
CLAIM_PENDING = Reason("ClaimPending", "The claim is being recorded, or told to the engine.")
HANDING_OVER = Reason(
    "HandingOver",
    "The Worker that spec.replaces names still has the functions. Pods of this one start beside it, and take over in one "
    "step once they have registered what it serves.",
    "Wait; where the message names functions that are not registered, look at the worker's logs.",
)
REPLACED = Reason(
    "Replaced",
    "Another Worker, whose spec.replaces names this one, has taken over its functions. No pod runs.",
    "Delete this Worker, or remove spec.replaces of the other.",
    outlook=Outlook.WAITING,
)
# Worker: DependenciesReady
SATISFIED = Reason(
    "Satisfied", "Everything that the worker depends on is ready, or it depends on nothing.", outlook=Outlook.GOOD
)
DEPENDENCY_MISSING = Reason(
    "DependencyMissing",
    "No Worker of the realm, and no part of the engine, has the name that is depended on.",
    "Apply a Worker with that manifest name, or mend the dependency.",
    outlook=Outlook.WAITING,
)
DEPENDENCY_VERSION = Reason(
    "DependencyVersion",
    "The Worker depended on is there in a version outside the wanted range.",
    "Change the range or the other Worker's version.",
    outlook=Outlook.WAITING,
)
DEPENDENCY_NOT_READY = Reason(
    "DependencyNotReady",
    "The Worker depended on is not Ready; the message says why, when waiting may not help.",
    "Wait, or look at that Worker.",
)
DEPENDENCY_CYCLE = Reason(
    "DependencyCycle",
    "What the Worker depends on depends on this Worker in turn; the message has the whole way round.",
    "Remove one of the dependencies that the message names.",
    outlook=Outlook.STALLED,
)
# Worker: Available
AVAILABLE = Reason("Available", "All wanted replicas are available.", outlook=Outlook.GOOD)
NOT_STARTED = Reason("NotStarted", "No pod is wanted yet: an earlier condition is false.")
PODS_STARTING = Reason("PodsStarting", "Pods are being made, scheduled, or started.")
IMAGE_PULL_FAILED = Reason(
    "ImagePullFailed",
    "The kubelet cannot get the image.",
    "Mend spec.image, or name a pull secret in spec.imagePullSecrets.",
    outlook=Outlook.FAILING,
)
CRASH_LOOPING = Reason(
    "CrashLooping",
    "The container ends again and again.",
    "Look at its logs: the message has the command.",
    outlook=Outlook.FAILING,
)
CONTAINER_CONFIG_INVALID = Reason(
    "ContainerConfigInvalid",
    "The kubelet refuses the container's configuration; the message has its words.",
    "Mend env, envFrom, command or image.",
    outlook=Outlook.FAILING,
)
UNSCHEDULABLE = Reason(
    "Unschedulable", "No node has room for the pod.", "Lower spec.resources or add nodes.", outlook=Outlook.WAITING
)
POD_REFUSED = Reason(
    "PodRefused",
    "The cluster refuses to make the pod (quota, Pod Security, admission); the message has its words.",
    "Mend what the message names.",
    outlook=Outlook.FAILING,
)
SCALED_TO_ZERO = Reason("ScaledToZero", "spec.replicas is 0.", "Raise spec.replicas.", outlook=Outlook.RESTING)
SUSPENDED = Reason(
    "Suspended",
    "spec.suspend is true: there are no pods, and what the worker owns stays its own.",
    "Remove spec.suspend, or make it false.",
    outlook=Outlook.RESTING,
)
REPLICAS_SET_ELSEWHERE = Reason(
    "ReplicasSetElsewhere",
    "Somebody else has set the number of pods in the Worker's Deployment, and keeps it; the message says who.",
    "Aim autoscalers and kubectl scale at the Worker; its next change of replicas, autoscaling or suspend takes the number back.",
    outlook=Outlook.GOOD,
)
# Worker: Registered
REGISTERED = Reason(
    "Registered",
    "Every wanted pod is connected to the engine with the functions that the Worker owns.",
    outlook=Outlook.GOOD,
)
NOT_REGISTERED = Reason(
    "NotRegistered",
    "No pod, or not every pod, has registered on the engine the functions that spec.owns names.",
    "Look at the worker's logs: it must connect to $III_URL and register them.",
    outlook=Outlook.WAITING,
)
NOT_GRANTED = Reason(
    "NotGranted",
    "spec.owns is left out, and the worker gets none of the functions that it registers: other Workers hold them, or they have "
    "to be named.",
    "Delete the holder, name them in spec.owns, or register others; the message says which.",
    outlook=Outlook.WAITING,
)
# Worker: FunctionsInSync
IN_SYNC = Reason("InSync", "The worker registers what it owns and nothing else.", outlook=Outlook.GOOD)
MISSING = Reason(
    "Missing",
    "spec.owns names functions that no pod has registered.",
    "Have the worker register them, or take them out of spec.owns.",
    outlook=Outlook.WAITING,
)
FOREIGN = Reason(
    "Foreign",
    "The worker registers functions, HTTP routes or trigger types that another Worker holds. It gets them when the holder goes.",
    "Delete the holder, or register others; the message names them.",
    outlook=Outlook.WAITING,
)
UNDECLARED = Reason(
    "Undeclared",
    "The worker registers functions that spec.owns does not cover. They are not served.",
    "Add them to spec.owns, or have the worker register them no more.",
    outlook=Outlook.WAITING,
)
# Realm: NamespaceReady
NAMESPACE_READY = Reason("NamespaceReady", "The namespace is there and belongs to this Realm.", outlook=Outlook.GOOD)
NAMESPACE_TAKEN = Reason(
    "NamespaceTaken",
    "The namespace belongs to another Realm.",
    "Give this Realm another namespace.",
    outlook=Outlook.STALLED,
)
NAMESPACE_TERMINATING = Reason(
    "NamespaceTerminating", "The namespace is being deleted.", "Wait until it is gone.", outlook=Outlook.WAITING
)
NAMESPACE_MISSING = Reason(
    "NamespaceMissing",
    "The namespace is not there, and this operator, which watches certain namespaces only, makes none.",
    "Make the namespace, then repeat helm upgrade: the operator's rights in it are part of the chart.",
    outlook=Outlook.STALLED,
)
# Realm: EngineAvailable
ENGINE_AVAILABLE = Reason("EngineAvailable", "The engine's pod is ready.", outlook=Outlook.GOOD)
ENGINE_STARTING = Reason("EngineStarting", "The engine's pod is being made or started.")
ENGINE_STORAGE_PENDING = Reason(
    "EngineStoragePending",
    "The engine's volume is not bound.",
    "Look at its PersistentVolumeClaim: kubectl describe pvc.",
    outlook=Outlook.WAITING,
)
# Realm: Exposed
NOT_EXPOSED = Reason(
    "NotExposed",
    "spec.http.expose asks for nothing: the REST port is reached inside the cluster only.",
    outlook=Outlook.GOOD,
)
EXPOSED = Reason(
    "Exposed", "The REST port is reached from outside the cluster at status.http.url.", outlook=Outlook.GOOD
)
ADDRESS_PENDING = Reason(
    "AddressPending",
    "The Ingress or HTTPRoute is there, and its controller has not told yet that it serves it.",
    "Wait, or see whether a controller serves the class or the Gateway that spec.http.expose names. Some never tell.",
)
ROUTE_REFUSED = Reason(
    "RouteRefused",
    "The Gateway's controller does not take the HTTPRoute; the message has its words.",
    "Mend spec.http.expose.gateway, or have the Gateway allow routes from the realm's namespace.",
    Outlook.FAILING,
)
GATEWAY_API_MISSING = Reason(
    "GatewayApiMissing",
    "spec.http.expose asks for an HTTPRoute, and the cluster has no Gateway API.",
    "Install the Gateway API's CRDs and a controller, or ask for an Ingress; the Realm goes on by itself.",
    Outlook.WAITING,
)
# Realm: spec
REALM_INVALID = Reason(
    "RealmInvalid",
    "The Realm's spec has errors; the message lists them with their paths.",
    "Mend the fields named.",
    outlook=Outlook.STALLED,
)
# Realm: EngineAvailable and EngineLinked of an engine that somebody else runs
EXTERNAL_ENGINE = Reason(
    "ExternalEngine",
    "Somebody else runs the engine: nothing is made for it, and EngineLinked says whether it answers.",
    outlook=Outlook.GOOD,
)
TOKEN_MISSING = Reason(
    "TokenMissing",
    "The Secret with the token of the external engine is not there, or holds no token.",
    "Make the Secret that spec.engine.tokenSecretRef names in the realm's namespace.",
    outlook=Outlook.WAITING,
)
# Realm: being deleted
DELETING = Reason("Deleting", "The Realm is being deleted; the message says what is still there.", "Wait.")
# Realm: TokensCurrent
TOKENS_CURRENT = Reason("TokensCurrent", "All are connected by tokens of the newest signing key.", outlook=Outlook.GOOD)
KEY_ROTATION = Reason(
    "KeyRotation",
    "A new signing key is on its way in; until nobody uses the one before, both are good.",
    "Wait; see docs/security.md.",
)
# both: Enforced
ENGINE_ENFORCES = Reason(
    "EngineEnforces",
    "The engine lets each worker register and call what the operator grants it, and nothing else.",
    outlook=Outlook.GOOD,
)
ENGINE_NOT_OURS = Reason(
    "EngineNotOurs",
    "Somebody else runs the engine: who registers and calls what is shown there, and not enforced. "
    "Clashes are detected, not prevented.",
    "Use a Realm with mode: Dedicated where ownership has to be enforced.",
    outlook=Outlook.STALLED,
)
# both
READY = Reason("Ready", "It answers.", outlook=Outlook.GOOD)
ROLLOUT_IN_PROGRESS = Reason(
    "RolloutInProgress",
    "It answers, and pods of a newer template are on their way; the message says what keeps them.",
    "Wait, or mend what the message names.",
    outlook=Outlook.GOOD,
)

WORKER_REASONS: dict[WorkerCondition, tuple[Reason, ...]] = {
    WorkerCondition.MANIFEST_VALID: (VALID, MANIFEST_INVALID, MANIFEST_NOT_FOUND),
    WorkerCondition.ENGINE_LINKED: (LINKED, NO_REALM, ENGINE_NOT_READY, ENGINE_UNREACHABLE),
    WorkerCondition.WITHIN_QUOTA: (WITHIN_QUOTA, QUOTA_EXCEEDED),
    WorkerCondition.FUNCTIONS_CLAIMED: (CLAIMED, NOTHING_DECLARED, CLASH, CLAIM_PENDING, HANDING_OVER, REPLACED),
    WorkerCondition.DEPENDENCIES_READY: (
        SATISFIED,
        DEPENDENCY_MISSING,
        DEPENDENCY_VERSION,
        DEPENDENCY_NOT_READY,
        DEPENDENCY_CYCLE,
    ),
    WorkerCondition.AVAILABLE: (
        AVAILABLE,
        NOT_STARTED,
        PODS_STARTING,
        NOT_REGISTERED,
        NOT_GRANTED,
        HANDING_OVER,
        IMAGE_PULL_FAILED,
        CRASH_LOOPING,
        CONTAINER_CONFIG_INVALID,
        UNSCHEDULABLE,
        POD_REFUSED,
        SCALED_TO_ZERO,
        SUSPENDED,
        REPLICAS_SET_ELSEWHERE,
    ),
    WorkerCondition.REGISTERED: (REGISTERED, NOT_REGISTERED, NOT_GRANTED, HANDING_OVER, NOT_STARTED),
    WorkerCondition.ENFORCED: (ENGINE_ENFORCES, ENGINE_NOT_OURS),
    WorkerCondition.FUNCTIONS_IN_SYNC: (IN_SYNC, MISSING, FOREIGN, UNDECLARED, NOT_STARTED),
    WorkerCondition.RECONCILING: (ROLLOUT_IN_PROGRESS,),
}

REALM_REASONS: dict[RealmCondition, tuple[Reason, ...]] = {
    RealmCondition.NAMESPACE_READY: (
        NAMESPACE_READY,
        NAMESPACE_TAKEN,
        NAMESPACE_TERMINATING,
        NAMESPACE_MISSING,
        REALM_INVALID,
    ),
    RealmCondition.ENGINE_AVAILABLE: (
        ENGINE_AVAILABLE,
        EXTERNAL_ENGINE,
        DELETING,
        NOT_STARTED,
        ENGINE_STARTING,
        ENGINE_STORAGE_PENDING,
        IMAGE_PULL_FAILED,
        CRASH_LOOPING,
        CONTAINER_CONFIG_INVALID,
        UNSCHEDULABLE,
        POD_REFUSED,
    ),
    RealmCondition.ENGINE_LINKED: (LINKED, ENGINE_NOT_READY, ENGINE_UNREACHABLE, TOKEN_MISSING),
    RealmCondition.EXPOSED: (NOT_EXPOSED, EXPOSED, ADDRESS_PENDING, ROUTE_REFUSED, GATEWAY_API_MISSING, NOT_STARTED),
    RealmCondition.WITHIN_QUOTA: (WITHIN_QUOTA, QUOTA_EXCEEDED),
    RealmCondition.ENFORCED: (ENGINE_ENFORCES, ENGINE_NOT_OURS),
    RealmCondition.TOKENS_CURRENT: (TOKENS_CURRENT, KEY_ROTATION),
}

REASONS = {
    reason.name: reason
    for table in (WORKER_REASONS, REALM_REASONS)
    for reasons in table.values()
    for reason in (*reasons, READY)
}
"""All reasons by their names."""


def document() -> str:
    """Return docs/conditions.md: every condition with its reasons, in the order in which they have to become true."""
    lines = [
        "<!-- Generated by `make docs` from contracts/agentos_contracts/reasons.py. Do not edit. -->",
        "# Conditions and reasons",
        "",
        "`Ready` sums the others up: it is True when all of them are, and otherwise has the reason and the message of the first",
        "that is False. While something is under way `Reconciling` is True, with that same reason; when only a person can help,",
        "`Stalled` is. Both are absent otherwise, as kstatus wants it. `WithinQuota` of a Realm, `Enforced` and `TokensCurrent` are",
        "told beside it, for what runs goes on. So is `FunctionsInSync`, the drift between what a Worker owns and what its pods",
        "register; each change of it is an Event too.",
        "",
        "*Then* says what to expect: `good` is why a condition is True, the others why it is False. [GitOps](gitops.md) tools go by it:",
        "",
        "| then | meaning | Event | kstatus, Flux | Argo CD |",
        "|---|---|---|---|---|",
        *(
            f"| {outlook} | {meaning} | {event} | {kstatus} | {argo_cd} |"
            for outlook, (meaning, event, kstatus, argo_cd) in OUTLOOKS.items()
        ),
    ]
    for kind, conditions in (("Worker", WORKER_REASONS), ("Realm", REALM_REASONS)):
        lines += ["", f"## {kind}", ""]
        for condition, reasons in conditions.items():
            lines += [f"### {condition}", "", "| reason | meaning | what to do | then |", "|---|---|---|---|"]
            lines += [_row(reason) for reason in reasons]
            lines += [""]
        lines.pop()
    return "\n".join(lines) + "\n"


def _row(reason: Reason) -> str:
    return f"| `{reason.name}` | {reason.meaning} | {reason.remedy or '–'} | {reason.outlook} |"


if __name__ == "__main__":
    print(document(), end="")
