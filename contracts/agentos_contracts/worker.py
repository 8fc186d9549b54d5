"""The Worker resource: a process that connects to the realm's engine and registers functions."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from agentos_contracts.grants import MAX_SCOPE_LENGTH, SCOPE_REGEX
from agentos_contracts.manifest import MANIFEST_FILE, OWNED_ENV, EnvValue, Manifest, Name, RangeText
from agentos_contracts.patterns import MAX_PATTERN_LENGTH, PATTERN_REGEX, RESERVED_SEGMENTS
from agentos_contracts.pod_template import TEMPLATE_DESCRIPTION, PodTemplate
from agentos_contracts.reserved import ENGINE_NAME
from agentos_contracts.resource import (
    API_VERSION,
    ENV_NAME_RULE,
    UNSEEN,
    Conditions,
    DataKey,
    EnvName,
    Image,
    Model,
    ObjectName,
    Resources,
    cel_text,
    rule,
    rules,
)
from agentos_contracts.scaling import MAX_REPLICAS, MIN_ABOVE_MAX, Autoscaling, Rollout

MAX_OWNED_PATTERNS = 32
MAX_CALLED_PATTERNS = 64
MAX_STATE_SCOPES = 64

EXACTLY_ONE_MANIFEST = "set exactly one of manifest and manifestFrom"
EXACTLY_ONE_SOURCE = "set exactly one of configMapKeyRef, secretKeyRef and fieldRef"
EXACTLY_ONE_REF = "set exactly one of configMapRef and secretRef"
VALUE_OR_SOURCE = "set value or valueFrom, not both"
BELONGS_TO_ENGINE = "belongs to the engine; remove it, or claim a function namespace of your own such as my-worker::*"
ENV_OWNED = "is set by the operator on every worker; remove it"
BAD_PATTERN = (
    "is not a function id or pattern; write an id such as my-worker::run, "
    "or end in * after the first '::', such as my-worker::*"
)
BAD_SCOPE = (
    "is not a scope of state::*; write one such as my-worker, or the beginning of some and a *, such as my-worker-*"
)
BARE_STAR = ": a * may stand only after the first '::'; name the function namespace, such as "

_RESERVED_ALTERNATIVES = "|".join(sorted(RESERVED_SEGMENTS))
_PATTERN_RULE = rule(
    f"self.matches({cel_text(PATTERN_REGEX)})",
    f"the text {BAD_PATTERN}",
    message_expression=(
        "self.matches('^[^:]*[*][^:]*$') ? self + "
        + cel_text(BARE_STAR)
        + " + (self.replace('*', '') == '' ? 'my-worker' : self.replace('*', '')) + '::*' : self + "
        + cel_text(f" {BAD_PATTERN}")
    ),
)
_NOT_RESERVED_RULE = rule(
    f"!self.matches('^({_RESERVED_ALTERNATIVES})(::|$)')",
    f"the pattern {BELONGS_TO_ENGINE}",
    message_expression=f"(self.contains('::') ? self : self + '::*') + {cel_text(f' {BELONGS_TO_ENGINE}')}",
)
_OWNED_ENV_LIST = ", ".join(cel_text(name) for name in sorted(OWNED_ENV))

NAME_OF_ENGINE = f"{ENGINE_NAME} is the name of the realm's engine; choose another"
ACCOUNT_OF_ENGINE = f"{ENGINE_NAME} is the account of the realm's engine; choose another, or leave the field out"

OwnedPattern = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PATTERN_LENGTH, json_schema_extra=rules(_PATTERN_RULE, _NOT_RESERVED_RULE)),
]
CalledPattern = Annotated[
    str, Field(min_length=1, max_length=MAX_PATTERN_LENGTH, json_schema_extra=rules(_PATTERN_RULE))
]
StateScope = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_SCOPE_LENGTH,
        json_schema_extra=rules(
            rule(
                f"self.matches({cel_text(SCOPE_REGEX)})",
                f"the text {BAD_SCOPE}",
                message_expression=f"self + {cel_text(f' {BAD_SCOPE}')}",
            )
        ),
    ),
]


def _not_owned(name: str) -> str:
    if name in OWNED_ENV:
        raise ValueError(f"{name} {ENV_OWNED}")
    return name


class ConfigMapKey(Model):
    """A key of a ConfigMap in the Worker's namespace, whose text is an iii.worker.yaml."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    key: DataKey = Field(MANIFEST_FILE, description="Key in the ConfigMap.")


class ManifestSource(Model):
    """Where the worker's manifest is read from when it is not inline."""

    config_map_key_ref: ConfigMapKey = Field(
        description="A key of a ConfigMap in the Worker's namespace, such as one that kustomize generates."
    )


class KeyReference(Model):
    """A key of a ConfigMap or Secret in the Worker's namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap or Secret.")
    key: DataKey = Field(description="Key in it.")
    optional: bool | None = Field(None, description="True: start without the variable when the key is not there.")


class FieldReference(Model):
    """A field of the pod."""

    api_version: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="API version that the path is written for; v1 where left out."
    )
    field_path: Annotated[str, Field(min_length=1, max_length=512)] = Field(
        description="Path of the pod's field, such as metadata.namespace."
    )


class EnvSource(Model):
    """Where the value of an environment variable comes from."""

    config_map_key_ref: KeyReference | None = Field(None, description="A key of a ConfigMap.")
    secret_key_ref: KeyReference | None = Field(None, description="A key of a Secret.")
    field_ref: FieldReference | None = Field(None, description="A field of the pod, such as metadata.namespace.")


class EnvVar(Model):
    """One environment variable."""

    name: Annotated[
        EnvName,
        AfterValidator(_not_owned),
        Field(
            json_schema_extra=rules(
                ENV_NAME_RULE,
                rule(
                    f"!(self in [{_OWNED_ENV_LIST}])",
                    f"the variable {ENV_OWNED}",
                    message_expression=f"self + {cel_text(f' {ENV_OWNED}')}",
                ),
            )
        ),
    ] = Field(description="Name of the variable, such as LOG_LEVEL. III_URL and the like are the operator's.")
    value: EnvValue | None = Field(None, description="Text of the variable.")
    value_from: (
        Annotated[
            EnvSource,
            Field(
                json_schema_extra=rules(
                    rule(
                        "[has(self.configMapKeyRef), has(self.secretKeyRef), has(self.fieldRef)]"
                        ".filter(given, given).size() == 1",
                        EXACTLY_ONE_SOURCE,
                    )
                )
            ),
        ]
        | None
    ) = Field(None, description="Where the text of the variable comes from, instead of value.")


class Reference(Model):
    """A ConfigMap or Secret in the Worker's namespace."""

    name: ObjectName = Field(description="Name of the object.")
    optional: bool | None = Field(None, description="True: start without it when it is not there.")


class EnvFrom(Model):
    """All keys of a ConfigMap or Secret as environment variables."""

    prefix: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="Text put before each name, such as APP_."
    )
    config_map_ref: Reference | None = Field(None, description="The ConfigMap whose keys are taken.")
    secret_ref: Reference | None = Field(None, description="The Secret whose keys are taken.")


class PullSecret(Model):
    """A Secret with registry credentials."""

    name: ObjectName = Field(description="Name of the Secret, of type kubernetes.io/dockerconfigjson.")


EnvVars = Annotated[
    list[
        Annotated[
            EnvVar,
            Field(json_schema_extra=rules(rule("!(has(self.value) && has(self.valueFrom))", VALUE_OR_SOURCE))),
        ]
    ],
    Field(
        max_length=128,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ),
]
PullSecrets = Annotated[list[PullSecret], Field(max_length=16)]


class WorkerSpec(Model):
    """What the worker is and how it runs."""

    manifest: Manifest | None = Field(
        None, description="The worker's iii.worker.yaml, inline. Set this or manifestFrom, not both."
    )
    manifest_from: ManifestSource | None = Field(
        None, description="Where the worker's iii.worker.yaml is read from. Set this or manifest, not both."
    )
    image: Image | None = Field(
        None,
        description="Container image, such as ghcr.io/acme/my-worker:1.0.0. Where left out, the manifest's "
        "runtime.base_image.",
    )
    command: Annotated[list[Annotated[str, Field(max_length=32768)]], Field(max_length=128)] | None = Field(
        None,
        description="Program to run. Where left out, the manifest's scripts.start in a shell, else the image's "
        "own entrypoint.",
    )
    args: Annotated[list[Annotated[str, Field(max_length=32768)]], Field(max_length=256)] | None = Field(
        None,
        description="Arguments of the program. Without command they go to the image's entrypoint, and scripts.start "
        "is not used.",
    )
    env: EnvVars | None = Field(
        None,
        description="Environment variables; they go before those of the manifest, and these before those of the Realm's "
        "workerDefaults.",
    )
    env_from: (
        Annotated[
            list[
                Annotated[
                    EnvFrom,
                    Field(
                        json_schema_extra=rules(rule("has(self.configMapRef) != has(self.secretRef)", EXACTLY_ONE_REF))
                    ),
                ]
            ],
            Field(max_length=32),
        ]
        | None
    ) = Field(None, description="ConfigMaps and Secrets whose keys all become environment variables.")
    resources: Resources | None = Field(
        None,
        description="Compute resources of the container. Where left out, the manifest's resources as limits, else those of "
        "the Realm's workerDefaults.",
    )
    image_pull_secrets: PullSecrets | None = Field(
        None,
        description="Secrets with which the image is pulled from a private registry. Where left out, those of the "
        "Realm's workerDefaults.",
    )
    service_account_name: ObjectName | None = Field(
        None, description="ServiceAccount of the pods. Where left out, one without any rights, made for the Worker."
    )
    template: PodTemplate | None = Field(None, description=TEMPLATE_DESCRIPTION)
    owns: Annotated[list[OwnedPattern], Field(max_length=MAX_OWNED_PATTERNS)] | None = Field(
        None,
        description="Functions that this worker owns: ids such as agent::chat, or patterns that end in * after the "
        "first '::', such as wasm::* (for which wasm is short). No two Workers of a realm own the same function: the "
        "oldest has it, the others wait. The engine refuses to register anything else. Where left out, what the worker "
        "registers becomes its own one by one, as far as nobody else has it; an empty list allows none. sandbox, engine, iii "
        "and the engine's own functions cannot be owned.",
    )
    calls: Annotated[list[CalledPattern], Field(max_length=MAX_CALLED_PATTERNS)] | None = Field(
        None,
        description="Functions that this worker may call: ids or patterns, written as in owns; those of the engine, such "
        "as state::* and publish, count too. The engine refuses every other call with FORBIDDEN; the worker's own functions, "
        "and what SDKs need to connect, log and trace, need no entry. Where left out, it may call all but the sensitive "
        "functions (vault::*, approval::resolve and the others that docs/security.md lists), which have to be named. An "
        "empty list allows none.",
    )
    state_scopes: Annotated[list[StateScope], Field(max_length=MAX_STATE_SCOPES)] | None = Field(
        None,
        description="Scopes of state::* that this worker may read and write: a scope such as my-worker, or the beginning of "
        "some and a *, such as my-worker-*. Where left out, all. An empty list allows none.",
    )
    replaces: ObjectName | None = Field(
        None,
        description="Name of another Worker of the namespace whose functions this one takes over without a call lost: its "
        "pods start beside that one's, and once as many as wanted have registered what that one serves of what this one "
        "owns, the functions change hands in one step. The other then owns nothing and stops. Without effect when there "
        "is no such Worker.",
    )
    version: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="Version of the worker, such as 1.2.3. Where left out, the manifest's, else the image's tag if it "
        "is a version.",
    )
    dependencies: Annotated[dict[Name, RangeText], Field(max_length=64)] | None = Field(
        None,
        description="Workers that must be ready before this one first starts, name to version range, such as "
        '{"memory": "^1.2"}. Where left out, the manifest\'s.',
    )
    replicas: int = Field(
        1,
        ge=0,
        le=MAX_REPLICAS,
        description="Pods to run; kubectl scale and a HorizontalPodAutoscaler write it. 0 runs none. Not used while "
        "autoscaling is set.",
        json_schema_extra={"format": "int32"},
    )
    autoscaling: (
        Annotated[
            Autoscaling, Field(json_schema_extra=rules(rule("!has(self.min) || self.min <= self.max", MIN_ABOVE_MAX)))
        ]
        | None
    ) = Field(None, description="As many pods as the calls in flight need. While it is set, replicas is not used.")
    suspend: bool | None = Field(
        None,
        description="True: no pods. What the worker owns stays its own, and calls fail with worker_asleep, until it is removed "
        "or false.",
    )
    rollout: Rollout | None = Field(None, description="How pods are replaced and removed.")


MAX_NAME_LENGTH = 63
NAME_TOO_LONG = f"has more than {MAX_NAME_LENGTH} characters, too many for the labels that carry it; use a shorter name"
ENGINE_NAME_RULE = rule(f"self.metadata.name != {cel_text(ENGINE_NAME)}", f"metadata.name: {NAME_OF_ENGINE}")
ENGINE_ACCOUNT_RULE = rule(
    f"!has(self.spec) || !has(self.spec.serviceAccountName) || self.spec.serviceAccountName != {cel_text(ENGINE_NAME)}",
    f"spec.serviceAccountName: {ACCOUNT_OF_ENGINE}",
)
REPLACES_ITSELF = "names this Worker itself; name the one that it takes over from"
REPLACES_RULE = rule(
    "!has(self.spec) || !has(self.spec.replaces) || self.spec.replaces != self.metadata.name",
    f"spec.replaces: {REPLACES_ITSELF}",
)
NAME_RULE = rule(f"self.metadata.name.size() <= {MAX_NAME_LENGTH}", f"metadata.name: {NAME_TOO_LONG}")

FunctionIds = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=256)]


DRIFT_SHOWN = 32
DriftTexts = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=DRIFT_SHOWN)]


class Drift(Model):
    """What a Worker owns and what its pods register, where the two differ; at most 32 of each are listed."""

    missing: DriftTexts | None = Field(
        None, description="Patterns of spec.owns of which no pod has registered a function."
    )
    foreign: DriftTexts | None = Field(
        None, description="Functions, HTTP routes and trigger types that the pods register and another Worker holds."
    )
    undeclared: DriftTexts | None = Field(
        None, description="What else the pods register and do not get, such as functions that spec.owns does not cover."
    )


class WorkerStatus(Model):
    """What the operator has seen; written by the operator only."""

    observed_generation: int | None = Field(
        None,
        ge=UNSEEN,
        description="The metadata.generation that this status was computed from; -1 before the operator has seen the object.",
        json_schema_extra={"format": "int64"},
    )
    conditions: Conditions | None = Field(
        None,
        description="ManifestValid, EngineLinked, WithinQuota, FunctionsClaimed, DependenciesReady, Available, Registered, and "
        "Ready, which is True when the worker's functions answer calls; beside these FunctionsInSync, which tells of drift.",
    )
    replicas: int | None = Field(None, ge=0, description="Pods that there are.", json_schema_extra={"format": "int32"})
    ready_replicas: int | None = Field(
        None,
        ge=0,
        description="Pods that are ready: running and registered on the engine.",
        json_schema_extra={"format": "int32"},
    )
    registered_pods: int | None = Field(
        None, ge=0, description="Pods that are connected to the engine.", json_schema_extra={"format": "int32"}
    )
    functions: FunctionIds | None = Field(
        None, description="Ids of the functions that the worker has registered, sorted; at most 256 are listed."
    )
    function_count: int | None = Field(
        None, ge=0, description="How many functions the worker has registered.", json_schema_extra={"format": "int32"}
    )
    drift: Drift | None = Field(None, description="Where what the worker owns and what its pods register differ.")
    selector: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Label selector of the pods, for kubectl scale and autoscalers."
    )
    engine: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="Host and port of the engine that the worker is linked to."
    )
    version: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="Version of the worker in effect: spec.version, else the manifest's, else the image's tag."
    )


class Worker(Model):
    """A worker: a process that connects to the realm's engine over a WebSocket and registers functions on it."""

    api_version: Literal["agentos.dev/v1alpha1"] = Field(API_VERSION, description="Version of the API.")
    kind: Literal["Worker"] = Field("Worker", description="Kind of the resource.")
    metadata: dict[str, Any] = Field(description="Standard metadata of the object.")
    spec: Annotated[
        WorkerSpec,
        Field(json_schema_extra=rules(rule("has(self.manifest) != has(self.manifestFrom)", EXACTLY_ONE_MANIFEST))),
    ] = Field(description="What the worker is and how it runs.")
    status: WorkerStatus | None = Field(None, description="What the operator has seen; written by the operator only.")
