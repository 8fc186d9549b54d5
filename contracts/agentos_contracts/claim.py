"""The FunctionClaim resource: who owns functions, HTTP routes and trigger types. The operator makes it, nobody else."""

from typing import Annotated, Any, Literal

from pydantic import Field

from agentos_contracts.assign import MAX_HOLDERS
from agentos_contracts.patterns import MAX_PATTERN_LENGTH, MAX_SEGMENT_LENGTH
from agentos_contracts.resource import API_VERSION, Model, ObjectName, rule, rules

OVERLAPPING_HOLDERS = "holders of different uids must not overlap: some function id would have two owners"

# All ordered pairs are compared, so each half of the overlap test is written once only; equal patterns are refused by the
# list's key. Asking for the * first keeps the rule within the apiserver's budget for 256 holders.
_NO_OVERLAP = (
    "self.all(a, !a.pattern.endsWith('*') || self.all(b, a.uid == b.uid || "
    "!b.pattern.startsWith(a.pattern.substring(0, a.pattern.size() - 1))))"
)


class ClaimHolder(Model):
    """One pattern and the Worker that holds it."""

    pattern: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_LENGTH)] = Field(
        description="Function id, or a pattern that ends in *, such as wasm::*; or an HTTP route by its method and the shape of "
        "its path, such as http POST /orders/: (the name of a parameter does not matter); or a trigger type, such as "
        "trigger-type my-events."
    )
    worker: ObjectName = Field(description="Name of the Worker that holds the pattern.")
    uid: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="The Worker's metadata.uid, so that a Worker made anew under the same name is another one."
    )
    since: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})] = Field(
        description="When the pattern was recorded for the Worker, in RFC 3339."
    )


class FunctionClaimSpec(Model):
    """Who owns which functions of one function namespace, which HTTP routes, or which trigger type."""

    segment: Annotated[str, Field(min_length=1, max_length=MAX_SEGMENT_LENGTH)] = Field(
        description="The function namespace: the part before the first '::' of the ids, such as wasm. For routes http and the "
        "beginning of their paths, such as http /orders; for a trigger type that type. The object's name is this text, "
        "encoded where it is no object name."
    )
    holders: Annotated[
        list[ClaimHolder],
        Field(
            max_length=MAX_HOLDERS,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["pattern"],
                **rules(rule(_NO_OVERLAP, OVERLAPPING_HOLDERS)),
            },
        ),
    ] = Field(
        description="Patterns and the Workers that hold them. The apiserver refuses patterns of different Workers "
        "that overlap."
    )


class FunctionClaim(Model):
    """The owners of the functions of one function namespace, of HTTP routes, or of a trigger type; made and kept by the operator."""

    api_version: Literal["agentos.dev/v1alpha1"] = Field(API_VERSION, description="Version of the API.")
    kind: Literal["FunctionClaim"] = Field("FunctionClaim", description="Kind of the resource.")
    metadata: dict[str, Any] = Field(description="Standard metadata of the object.")
    spec: FunctionClaimSpec = Field(
        description="Who owns which functions of one function namespace, which HTTP routes, or which trigger type."
    )
