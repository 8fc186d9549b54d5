"""What the resource models share: the API group, the base model, CEL rules, and the field types of Kubernetes."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from agentos_contracts.findings import shown
from agentos_contracts.model_findings import described

GROUP = "agentos.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["agentos.dev/v1alpha1"] = "agentos.dev/v1alpha1"

RULES = "x-kubernetes-validations"


class Model(BaseModel):
    """A part of a resource: camelCase on the wire, nothing coerced, unknown fields refused, unchangeable."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True, allow_inf_nan=False
    )


def rule(
    expression: str, message: str, *, message_expression: str | None = None, field_path: str | None = None
) -> JsonDict:
    """Return one CEL rule of a CRD; ``message`` is what is said when ``message_expression`` cannot be evaluated."""
    made: JsonDict = {"rule": expression, "message": message}
    if message_expression is not None:
        made["messageExpression"] = message_expression
    if field_path is not None:
        made["fieldPath"] = field_path
    return made


def rules(*given: JsonDict) -> JsonDict:
    """Return what a field adds to its schema to have these CEL rules."""
    return {RULES: [*given]}


def cel_text(text: str) -> str:
    """Return a text as a CEL string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def form_rule(expression: str, words: str) -> JsonDict:
    """Return the CEL rule that says of a text what :func:`form` says of it."""
    return rule(
        f"self.matches({cel_text(f'^{expression}$')})",
        f"the text is not {words}",
        message_expression=cel_text("'") + " + self + " + cel_text(f"' is not {words}"),
    )


def form(expression: str, words: str) -> Callable[[str], str]:
    """Return a check that a text has the form of a regular expression; ``words`` tells people what is expected."""
    compiled = re.compile(expression)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"'{shown(value)}' is not {words}")
        return value

    return check


_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_LABEL_WORDS = "a DNS label: lower-case letters, digits and '-', such as team-a"
_SUBDOMAIN = "[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_SUBDOMAIN_WORDS = "an object name: lower-case letters, digits, '-' and '.', such as my-config"
_KEY = "[-._a-zA-Z0-9]+"
_KEY_WORDS = "a key of a ConfigMap or Secret: letters, digits, '-', '_' and '.'"
_ENV_NAME = "[-._a-zA-Z][-._a-zA-Z0-9]*"
_ENV_NAME_WORDS = "a name of an environment variable, such as LOG_LEVEL"
_IMAGE = "[a-zA-Z0-9][a-zA-Z0-9._:/@+-]*"
_IMAGE_WORDS = "an image reference, such as ghcr.io/acme/my-worker:1.0.0"
_QUANTITY = "[+]?([0-9]+|[0-9]+[.][0-9]*|[.][0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]{1,3}))?"
_QUANTITY_WORDS = "a quantity, such as 500m, 2 or 256Mi"

# As routes of the engine, without what can be written in several ways: percent-encoding, dots that mean another folder.
_SEGMENT = "(:[A-Za-z_][A-Za-z0-9_-]*|[.]*[A-Za-z0-9_~!$&'()+,;=@-][A-Za-z0-9._~!$&'()+,;=:@-]*)"
_ROUTE_PATH = f"/({_SEGMENT}/){{0,31}}({_SEGMENT}|[*])?"
_ROUTE_PATH_WORDS = "a path such as /webhooks/github, or one with all that is below it, such as /webhooks/*"
_KEYS_URL = "(https://[A-Za-z0-9._:-]+|http://[a-z0-9.-]+[.]svc([.]cluster[.]local)?(:[0-9]{1,5})?)(/[!-~]*)?"
_KEYS_URL_WORDS = (
    "an https:// URL; http:// is for Services of the cluster only, such as http://dex.auth.svc:5556/keys, "
    "for who can change the keys on their way can be anybody"
)

_HOST_WORDS = "a host name: lower-case letters, digits, '-' and '.', such as shop.example.org"
_PATH_PREFIX = "/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+"
_PATH_PREFIX_WORDS = "a path without a slash at its end, such as /webhooks"

DNS_LABEL_RULE = form_rule(_LABEL, _LABEL_WORDS)
ENV_NAME_RULE = form_rule(_ENV_NAME, _ENV_NAME_WORDS)

DnsLabel = Annotated[
    str,
    Field(min_length=1, max_length=63, json_schema_extra=rules(DNS_LABEL_RULE)),
    AfterValidator(form(_LABEL, _LABEL_WORDS)),
]
ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253, json_schema_extra=rules(form_rule(_SUBDOMAIN, _SUBDOMAIN_WORDS))),
    AfterValidator(form(_SUBDOMAIN, _SUBDOMAIN_WORDS)),
]
DataKey = Annotated[
    str,
    Field(min_length=1, max_length=253, json_schema_extra=rules(form_rule(_KEY, _KEY_WORDS))),
    AfterValidator(form(_KEY, _KEY_WORDS)),
]
EnvName = Annotated[
    str,
    Field(min_length=1, max_length=256, json_schema_extra=rules(ENV_NAME_RULE)),
    AfterValidator(form(_ENV_NAME, _ENV_NAME_WORDS)),
]
Image = Annotated[
    str,
    Field(min_length=1, max_length=512, json_schema_extra=rules(form_rule(_IMAGE, _IMAGE_WORDS))),
    AfterValidator(form(_IMAGE, _IMAGE_WORDS)),
]

RoutePath = Annotated[
    str,
    Field(min_length=1, max_length=512, json_schema_extra=rules(form_rule(_ROUTE_PATH, _ROUTE_PATH_WORDS))),
    AfterValidator(form(_ROUTE_PATH, _ROUTE_PATH_WORDS)),
]
KeysUrl = Annotated[
    str,
    Field(min_length=1, max_length=1024, json_schema_extra=rules(form_rule(_KEYS_URL, _KEYS_URL_WORDS))),
    AfterValidator(form(_KEYS_URL, _KEYS_URL_WORDS)),
]
HostName = Annotated[
    str,
    Field(min_length=1, max_length=253, json_schema_extra=rules(form_rule(_SUBDOMAIN, _HOST_WORDS))),
    AfterValidator(form(_SUBDOMAIN, _HOST_WORDS)),
]
PathPrefix = Annotated[
    str,
    Field(min_length=1, max_length=512, json_schema_extra=rules(form_rule(f"({_PATH_PREFIX})", _PATH_PREFIX_WORDS))),
    AfterValidator(form(_PATH_PREFIX, _PATH_PREFIX_WORDS)),
]


def _quantity(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and len(value) <= 64 and re.fullmatch(_QUANTITY, value):
        return value
    given = f"'{shown(value)}'" if isinstance(value, str) else described(value)
    raise ValueError(f"{given} is not {_QUANTITY_WORDS}")


_QUANTITY_RULE = rule(
    f"type(self) == int ? self >= 0 : self.matches({cel_text(f'^{_QUANTITY}$')})",
    f"the value is not {_QUANTITY_WORDS}",
    message_expression=(
        f"(type(self) == int ? {cel_text('the whole number ')} + string(self) : "
        f"{cel_text(chr(39))} + self + {cel_text(chr(39))}) + {cel_text(f' is not {_QUANTITY_WORDS}')}"
    ),
)

Quantity = Annotated[
    int | str,
    BeforeValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 64,
            RULES: [_QUANTITY_RULE],
        }
    ),
]
QuantityMap = Annotated[dict[Annotated[str, Field(max_length=128)], Quantity], Field(max_length=32)]


class Resources(Model):
    """Compute resources of a container, as in a pod: limits and requests by name."""

    limits: QuantityMap | None = Field(
        None, description='Most that the container may use, such as {"cpu": "1", "memory": "256Mi"}.'
    )
    requests: QuantityMap | None = Field(
        None, description="What the scheduler keeps free for the container; where left out, the limits."
    )


UNSEEN = -1
"""``status.observedGeneration`` of an object that no operator has seen."""


class Condition(Model):
    """One condition of a resource, in the standard form of Kubernetes."""

    type: str = Field(description="What the condition is about, such as Ready.", max_length=316)
    status: str = Field(
        description="True, False, or Unknown.", json_schema_extra={"enum": ["True", "False", "Unknown"]}
    )
    observed_generation: int | None = Field(
        None, ge=0, description="The metadata.generation that the condition was computed from."
    )
    last_transition_time: str = Field(
        description="When the status last changed, in RFC 3339.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(description="A CamelCase word for machines that tells why.", max_length=1024)
    message: str = Field(description="A sentence for people: what is so, and what to do about it.", max_length=32768)


Conditions = Annotated[
    list[Condition],
    Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]
