"""How a realm's REST port is reached from outside the cluster: the models of ``spec.http.expose``."""

from typing import Annotated, Literal

from pydantic import Field

from agentos_contracts.findings import Finding, error, warning
from agentos_contracts.network import Peers, peer_findings
from agentos_contracts.resource import DnsLabel, HostName, Model, ObjectName, PathPrefix, rule, rules

HOST_REQUIRED = "host is required where type is Ingress or Gateway: the name by which callers reach the realm"
GATEWAY_REQUIRED = "gateway is required where type is Gateway: it names the Gateway that the route is attached to"
OPEN_TO_ALL = (
    "lets in whoever reaches the port, and spec.http.expose takes it out of the cluster; ask for apiKey or jwt"
)


class ExposeIngress(Model):
    """What the Ingress says beside host and path."""

    class_name: ObjectName | None = Field(
        None, description="IngressClass that serves it; where left out, the cluster's default one."
    )
    tls_secret_name: ObjectName | None = Field(
        None,
        description="Secret of type kubernetes.io/tls in the realm's namespace, with the certificate of host. Where left out, "
        "the Ingress asks for no TLS.",
    )
    annotations: (
        Annotated[
            dict[
                Annotated[str, Field(min_length=1, max_length=317)],
                Annotated[str, Field(max_length=4096)],
            ],
            Field(max_length=32),
        ]
        | None
    ) = Field(None, description="Annotations of the Ingress, by which its controller is told more.")


class ExposeGateway(Model):
    """The Gateway that the HTTPRoute is attached to."""

    name: ObjectName = Field(description="Name of the Gateway.")
    namespace: DnsLabel | None = Field(
        None,
        description="Namespace of the Gateway; where left out, the realm's. The Gateway has to allow routes from there.",
    )
    section_name: ObjectName | None = Field(
        None, description="Listener of the Gateway; where left out, all of its listeners that fit."
    )


class Expose(Model):
    """How the REST port is reached from outside the cluster."""

    type: Literal["None", "Ingress", "Gateway"] = Field(
        description="None: not at all. Ingress: by an Ingress. Gateway: by an HTTPRoute of the Gateway API."
    )
    host: HostName | None = Field(None, description="Name by which callers reach the realm, such as shop.example.org.")
    path: PathPrefix | None = Field(
        None,
        description="Only this path, with all that is below it, is reached from outside; it is passed on as it is. Where left "
        "out, all paths are.",
    )
    ingress: ExposeIngress | None = Field(None, description="What the Ingress says beside host and path.")
    gateway: ExposeGateway | None = Field(None, description="The Gateway that the HTTPRoute is attached to.")
    from_: Peers | None = Field(
        None,
        alias="from",
        description="The pods of the Ingress controller or the Gateway, which spec.networkPolicy then lets reach the REST port. "
        "Where left out, whoever reaches the port over the cluster's network is let in.",
    )


EXPOSE_RULES = rules(
    rule("self.type == 'None' || has(self.host)", HOST_REQUIRED, field_path=".host"),
    rule("self.type != 'Gateway' || has(self.gateway)", GATEWAY_REQUIRED, field_path=".gateway"),
)


def expose_findings(http: object) -> list[Finding]:
    """Return what is wrong between the parts of a Realm's ``spec.http.expose``; each part's form is the model's to report."""
    expose = http.get("expose") if isinstance(http, dict) else None
    if not isinstance(http, dict) or not isinstance(expose, dict):
        return []
    path, found = "spec.http.expose", list[Finding]()
    kind = expose.get("type")
    if kind in ("Ingress", "Gateway") and expose.get("host") is None:
        found.append(error(f"{path}.host", "Required", HOST_REQUIRED))
    if kind == "Gateway" and expose.get("gateway") is None:
        found.append(error(f"{path}.gateway", "Required", GATEWAY_REQUIRED))
    for part, user in (("ingress", "Ingress"), ("gateway", "Gateway")):
        if kind in ("Ingress", "Gateway") and kind != user and expose.get(part) is not None:
            found.append(warning(f"{path}.{part}", "Unused", f"is used by nothing: type is {kind}"))
    if kind in ("Ingress", "Gateway") and http.get("auth") == "none":
        found.append(warning("spec.http.auth", "Open", OPEN_TO_ALL))
    return found + peer_findings(expose.get("from"), f"{path}.from")
