"""The Realm resource: an isolation boundary with one engine of its own."""

from typing import Annotated, Any, Literal

from pydantic import Field

from agentos_contracts.exposure import EXPOSE_RULES, Expose
from agentos_contracts.external_engine import ENGINE_RULES, REALM_RULES, EngineUrl, TokenSecretKey
from agentos_contracts.network import NetworkPolicy
from agentos_contracts.quota import Quota, QuotaStatus
from agentos_contracts.reserved import API_KEY_SECRET
from agentos_contracts.resource import (
    API_VERSION,
    DNS_LABEL_RULE,
    UNSEEN,
    Conditions,
    DnsLabel,
    Image,
    KeysUrl,
    Model,
    ObjectName,
    Quantity,
    Resources,
    RoutePath,
    rule,
    rules,
)
from agentos_contracts.worker_defaults import WorkerDefaults

NAMESPACE_IMMUTABLE = "cannot be changed: a Realm keeps its namespace; make another Realm for another namespace"
STORAGE_IMMUTABLE = "cannot be changed: the engine's volume is made once; make another Realm for another volume"

API_KEY_FIELD = "key"
MAX_HTTP_ROUTES = 64
JWT_REQUIRED = "is required where auth, or the auth of a route, is jwt: say issuer, audience and jwksUrl"

HttpAuth = Literal["apiKey", "jwt", "none"]
DEFAULT_HTTP_AUTH: HttpAuth = "apiKey"

_JWT_THERE = (
    "has(self.jwt) || !((has(self.auth) && self.auth == 'jwt') || "
    "(has(self.routes) && self.routes.exists(route, route.auth == 'jwt')))"
)
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

    mode: Literal["Dedicated", "External"] = Field(
        "Dedicated",
        description="Dedicated: the operator runs an engine for this realm alone. External: the Workers are on an engine "
        "that somebody else runs, at url; who registers and calls what is shown there, not enforced. It cannot be changed.",
    )
    url: EngineUrl | None = Field(
        None,
        description="Where an External engine is: its WebSocket address, with $(TOKEN) where it wants its token. It cannot "
        "be changed.",
    )
    token_secret_ref: TokenSecretKey | None = Field(
        None,
        description="Secret in the realm's namespace with the token of an External engine. Pods read it at their start.",
    )
    storage: EngineStorage | None = Field(
        None,
        description="Volume of the engine; it cannot be changed later. Where left out, what the engine keeps is lost "
        "with its pod.",
    )
    resources: Resources | None = Field(None, description="Compute resources of the engine's container.")
    image: Image | None = Field(None, description="Image of the engine; where left out, the operator's own.")


class HttpJwt(Model):
    """Whose signed tokens (JWT) the REST port takes."""

    issuer: Annotated[str, Field(min_length=1, max_length=512)] = Field(
        description="Who has to have issued a token: its claim iss, to the letter."
    )
    audience: Annotated[str, Field(min_length=1, max_length=512)] = Field(
        description="For whom a token has to be: its claim aud is this, or lists it."
    )
    jwks_url: KeysUrl = Field(
        description="Where the issuer's public keys (a JSON Web Key Set) are read from, by https."
    )


class HttpRoute(Model):
    """How requests to some paths are let in."""

    path: RoutePath = Field(
        description="A path such as /webhooks/github, or one with all that is below it, such as /webhooks/*. The most "
        "particular path of all that fit counts."
    )
    methods: (
        Annotated[
            list[Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]], Field(min_length=1, max_length=7)
        ]
        | None
    ) = Field(None, description="Methods that this is about; where left out, all.")
    auth: HttpAuth = Field(
        description="How these requests are let in: apiKey, jwt, or none, which is whoever reaches the port."
    )


class Http(Model):
    """Who is let in at the REST port of the realm's engine."""

    auth: HttpAuth = Field(
        DEFAULT_HTTP_AUTH,
        description="How requests are let in where no route says otherwise. apiKey: who sends the key of the Secret "
        f"{API_KEY_SECRET}, as Authorization: Bearer KEY or x-api-key: KEY; the operator makes that Secret in the "
        "realm's namespace and never changes the key in it. jwt: who sends a token as jwt says. none: whoever reaches "
        "the port.",
    )
    jwt: HttpJwt | None = Field(None, description="Whose tokens are taken, where auth or a route says jwt.")
    routes: Annotated[list[HttpRoute], Field(max_length=MAX_HTTP_ROUTES)] | None = Field(
        None, description="Paths that are let in otherwise than auth says."
    )
    expose: Annotated[Expose, Field(json_schema_extra=EXPOSE_RULES)] | None = Field(
        None, description="How the port is reached from outside the cluster; where left out, not at all."
    )


class RealmSpec(Model):
    """Where the realm is and which engine it has."""

    namespace: Annotated[
        DnsLabel,
        Field(json_schema_extra=rules(DNS_LABEL_RULE, rule("self == oldSelf", NAMESPACE_IMMUTABLE))),
    ] = Field(
        description="Namespace of the realm's Workers; made when it is not there. It belongs to one Realm and cannot "
        "be changed."
    )
    engine: Annotated[Engine, Field(json_schema_extra=rules(*ENGINE_RULES))] | None = Field(
        None, description="The realm's engine; where left out, a dedicated one."
    )
    http: (
        Annotated[Http, Field(json_schema_extra=rules(rule(_JWT_THERE, f"jwt {JWT_REQUIRED}", field_path=".jwt")))]
        | None
    ) = Field(None, description=f"Who is let in at the REST port; where left out, who has the key of {API_KEY_SECRET}.")
    quota: Quota | None = Field(
        None,
        description="Most that the realm's Workers may have together; where left out, nothing is limited. What goes beyond it is "
        "refused at apply, or waits.",
    )
    network_policy: NetworkPolicy | None = Field(
        None,
        description="Who reaches the realm's pods over the network; where left out, only the realm's Workers and the operator "
        "reach the engine.",
    )
    worker_defaults: WorkerDefaults | None = Field(
        None, description="What the realm's Workers have that leave it out themselves; a change of it rolls their pods."
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        "Retain",
        description="What happens when the Realm is deleted: Retain keeps its namespace, the engine's volume and the API key; Delete "
        "removes the volume, the API key, and the namespace with all that is in it if the operator made it for this Realm.",
    )


class EngineStatus(Model):
    """What the operator knows of the realm's engine."""

    url: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="WebSocket address for workers inside the cluster, without a token."
    )
    http_url: Annotated[str, Field(max_length=512)] | None = Field(None, description="REST address inside the cluster.")
    http_auth: HttpAuth | None = Field(
        None, description="How the REST port lets requests in, unless spec.http.routes says otherwise for their path."
    )
    connections: int | None = Field(
        None, ge=0, description="Workers connected to the engine.", json_schema_extra={"format": "int32"}
    )


class HttpStatus(Model):
    """What the operator knows of the REST port's way out of the cluster."""

    url: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Address from outside the cluster, once its controller serves it; empty where there is none."
    )


class NotReady(Model):
    """Workers that are not Ready for one reason."""

    reason: Annotated[str, Field(max_length=256)] = Field(description="Reason of their condition Ready.")
    workers: int = Field(ge=0, description="How many there are.", json_schema_extra={"format": "int32"})


class RealmStatus(Model):
    """What the operator has seen; written by the operator only."""

    observed_generation: int | None = Field(
        None,
        ge=UNSEEN,
        description="The metadata.generation that this status was computed from; -1 before the operator has seen the object.",
        json_schema_extra={"format": "int64"},
    )
    conditions: Conditions | None = Field(
        None,
        description="NamespaceReady, EngineAvailable, EngineLinked, Exposed, and Ready, which sums them up; beside them "
        "WithinQuota, Enforced and TokensCurrent.",
    )
    workers: int | None = Field(
        None, ge=0, description="Workers in the realm's namespace.", json_schema_extra={"format": "int32"}
    )
    ready_workers: int | None = Field(
        None, ge=0, description="Workers that are Ready.", json_schema_extra={"format": "int32"}
    )
    quota: QuotaStatus | None = Field(None, description="How much of its quota the realm uses.")
    not_ready: Annotated[list[NotReady], Field(max_length=64)] | None = Field(
        None, description="How many Workers are not Ready, by reason; the most frequent first."
    )
    engine: EngineStatus | None = Field(None, description="What the operator knows of the realm's engine.")
    http: HttpStatus | None = Field(
        None, description="What the operator knows of the REST port's way out of the cluster."
    )


class Realm(Model):
    """A realm: an isolation boundary of workers, with one engine of its own and one namespace."""

    api_version: Literal["agentos.dev/v1alpha1"] = Field(API_VERSION, description="Version of the API.")
    kind: Literal["Realm"] = Field("Realm", description="Kind of the resource.")
    metadata: dict[str, Any] = Field(description="Standard metadata of the object.")
    spec: Annotated[
        RealmSpec,
        Field(
            json_schema_extra=rules(rule(_STORAGE_KEPT, STORAGE_IMMUTABLE, field_path=".engine.storage"), *REALM_RULES)
        ),
    ] = Field(description="Where the realm is and which engine it has.")
    status: RealmStatus | None = Field(None, description="What the operator has seen; written by the operator only.")
