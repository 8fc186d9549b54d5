"""What the operator is told by its environment. The chart sets every one of these (charts/agentos)."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentos_contracts.resource import GROUP

FIELD_MANAGER = "agentos-operator"

# Labels and annotations on everything that the operator makes.
NAME_LABEL = "app.kubernetes.io/name"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
WORKER_LABEL = f"{GROUP}/worker"
WORKER_UID_LABEL = f"{GROUP}/worker-uid"
REALM_LABEL = f"{GROUP}/realm"
APPLIED_HASH_ANNOTATION = f"{GROUP}/applied-hash"
REPLICAS_FROM_ANNOTATION = f"{GROUP}/replicas-from"
TOKEN_HASH_ANNOTATION = f"{GROUP}/token-hash"
REGISTERED_GATE = f"{GROUP}/registered"

BUS_PORT, HTTP_PORT, STREAM_PORT, ADMIN_PORT = 49134, 3111, 3112, 9464
CONSOLE_PORT = 3113
"""On loopback inside the engine's pod: for whoever may port-forward into it."""

ENGINE_VARIABLES = ("AGENTOS_OTLP_ENDPOINT", "AGENTOS_TRACE_RATIO")
"""Handed on to the engines as they are."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One operator process. Times are in seconds."""

    namespace: str
    """Where the operator, its Lease and its keys live."""
    pod_name: str
    pod_uid: str
    image: str
    """The engine's image, unless a Realm names its own."""
    default_realm: str
    """Name of the Realm that is made at start; empty: none."""
    default_realm_namespace: str
    webhook_service: str
    """Service that the webhook's certificate is for; empty: no webhook is served."""
    webhook_configuration: str
    """ValidatingWebhookConfiguration whose caBundle the operator keeps."""
    engine_environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for every engine: where its traces go, and how many of them."""
    operator_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the operator's pods in its namespace, by which the engines' NetworkPolicies know them; empty: it is no pod."""
    metrics_from: Sequence[Mapping[str, Any]] = ()
    """NetworkPolicyPeers that read the engines' metrics."""
    watch_namespaces: tuple[str, ...] = ()
    """The only namespaces that the operator looks at and has rights in; empty: all of the cluster."""
    log_level: str = "INFO"
    webhook_port: int = 9443
    health_port: int = 8080
    consumers: int = 8
    """How many keys are reconciled at a time."""
    resync: float = 300.0
    """Everything is looked at again this often, event or not."""
    key_check: float = 30.0
    """How often it is looked whether somebody asks for a new signing key."""
    engine_grace: float = 15.0
    """How long the engine may be out of reach before a Worker stops being Ready."""
    scale_down_seconds: float = 60.0
    """How long fewer pods must have been enough for the calls in flight before there are fewer."""
    status_debounce: float = 10.0
    """Status changes that do not touch Ready are gathered for this long, to save writes."""

    def watches(self, namespace: object) -> bool:
        """Whether what is in this namespace is the operator's to look at."""
        return not self.watch_namespaces or namespace in self.watch_namespaces

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Reads the variables that the chart sets; raises KeyError naming one that has to be there and is not."""
        realm = environ.get("AGENTOS_DEFAULT_REALM", "")
        return cls(
            namespace=environ["POD_NAMESPACE"],
            pod_name=environ["POD_NAME"],
            pod_uid=environ.get("POD_UID", ""),
            image=environ["AGENTOS_IMAGE"],
            default_realm=realm,
            default_realm_namespace=environ.get("AGENTOS_DEFAULT_REALM_NAMESPACE", realm),
            webhook_service=environ.get("AGENTOS_WEBHOOK_SERVICE", ""),
            webhook_configuration=environ.get("AGENTOS_WEBHOOK_CONFIGURATION", ""),
            engine_environment={name: environ[name] for name in ENGINE_VARIABLES if environ.get(name)},
            operator_labels=dict(
                label.split("=", 1) for label in environ.get("AGENTOS_OPERATOR_LABELS", "").split(",") if label
            ),
            metrics_from=json.loads(environ.get("AGENTOS_METRICS_FROM") or "[]"),
            watch_namespaces=tuple(environ.get("AGENTOS_WATCH_NAMESPACES", "").split()),
            scale_down_seconds=float(environ.get("AGENTOS_SCALE_DOWN_SECONDS", "60")),
            log_level=environ.get("AGENTOS_LOG_LEVEL", "INFO"),
        )
