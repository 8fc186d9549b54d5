"""The Realm resource: an isolation boundary with one engine of its own."""

from typing import Annotated, Any, Literal

from pydantic import Field

from agentos_contracts.resource import (
    API_VERSION,
    DNS_LABEL_RULE,
    Conditions,
    DnsLabel,
    Image,
    Model,
    ObjectName,
    Quantity,
    Resources,
    rule,
    rules,
)

NAMESPACE_IMMUTABLE = "cannot be changed: a Realm keeps its namespace; make another Realm for another namespace"
STORAGE_IMMUTABLE = "cannot be changed: the engine's volume is made once; make another Realm for another volume"

_STORAGE_KEPT = (
    "(has(self.engine) && has(self.engine.storage)) == (has(oldSelf.engine) && has(oldSelf.engine.storage)) && "
    "(!has(self.engine) || !has(self.engine.storage) || self.engine.storage == oldSelf.engine.storage)"
)


class EngineStorage(Model):
    """The volume on which the engine keeps its data."""

    size: Quantity = Field(description="Size of the volume, such as 10Gi.")
    storage_class_name: ObjectName | None = Field(
        None, description="StorageClass of the volume; where left out, the cluster's default."
    )


class Engine(Model):
    """The engine of a realm."""

    mode: Literal["Dedicated"] = Field(
        "Dedicated", description="Dedicated: the operator runs an engine for this realm alone."
    )
    storage: EngineStorage | None = Field(
        None,
        description="Volume of the engine; it cannot be changed later. Where left out, what the engine keeps is lost "
        "with its pod.",
    )
    resources: Resources | None = Field(None, description="Compute resources of the engine's container.")
    image: Image | None = Field(None, description="Image of the engine; where left out, the operator's own.")


class RealmSpec(Model):
    """Where the realm is and which engine it has."""

    namespace: Annotated[
        DnsLabel,
        Field(json_schema_extra=rules(DNS_LABEL_RULE, rule("self == oldSelf", NAMESPACE_IMMUTABLE))),
    ] = Field(
        description="Namespace of the realm's Workers; made when it is not there. It belongs to one Realm and cannot "
        "be changed."
    )
    engine: Engine | None = Field(None, description="The realm's engine; where left out, a dedicated one.")
    deletion_policy: Literal["Retain", "Delete"] = Field(
        "Retain",
        description="What happens when the Realm is deleted: Retain keeps its namespace and the engine's volume; Delete "
        "removes the volume, and the namespace with all that is in it if the operator made it for this Realm.",
    )


class EngineStatus(Model):
    """What the operator knows of the realm's engine."""

    url: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="WebSocket address for workers inside the cluster, without a token."
    )
    http_url: Annotated[str, Field(max_length=512)] | None = Field(None, description="REST address inside the cluster.")
    connections: int | None = Field(
        None, ge=0, description="Workers connected to the engine.", json_schema_extra={"format": "int32"}
    )


class RealmStatus(Model):
    """What the operator has seen; written by the operator only."""

    observed_generation: int | None = Field(
        None,
        ge=0,
        description="The metadata.generation that this status was computed from.",
        json_schema_extra={"format": "int64"},
    )
    conditions: Conditions | None = Field(
        None, description="NamespaceReady, EngineAvailable, EngineLinked, and Ready, which sums them up."
    )
    workers: int | None = Field(
        None, ge=0, description="Workers in the realm's namespace.", json_schema_extra={"format": "int32"}
    )
    ready_workers: int | None = Field(
        None, ge=0, description="Workers that are Ready.", json_schema_extra={"format": "int32"}
    )
    engine: EngineStatus | None = Field(None, description="What the operator knows of the realm's engine.")


class Realm(Model):
    """A realm: an isolation boundary of workers, with one engine of its own and one namespace."""

    api_version: Literal["agentos.dev/v1alpha1"] = Field(API_VERSION, description="Version of the API.")
    kind: Literal["Realm"] = Field("Realm", description="Kind of the resource.")
    metadata: dict[str, Any] = Field(description="Standard metadata of the object.")
    spec: Annotated[
        RealmSpec,
        Field(json_schema_extra=rules(rule(_STORAGE_KEPT, STORAGE_IMMUTABLE, field_path=".engine.storage"))),
    ] = Field(description="Where the realm is and which engine it has.")
    status: RealmStatus | None = Field(None, description="What the operator has seen; written by the operator only.")
