"""Who reaches a realm over the network: the models of ``spec.networkPolicy`` and of its peers."""

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from agentos_contracts.findings import Finding, error, shown
from agentos_contracts.resource import Model, rule, rules

MAX_PEERS = 32

EnginePort = Literal["http", "stream", "bus", "metrics"]
"""A port of the engine, by what it is for."""
DEFAULT_PEER_PORTS: tuple[EnginePort, ...] = ("http",)

PEER_REQUIRED = "names nobody: set podSelector, namespaceSelector, or both; or ipBlock"
PEER_EITHER = "ipBlock stands alone: pods are chosen by podSelector and namespaceSelector"
VALUES_WHERE_COMPARED = "values goes with the operators In and NotIn, which need it, and with no other"

_PEER_RULES = rules(
    rule("has(self.podSelector) || has(self.namespaceSelector) || has(self.ipBlock)", PEER_REQUIRED),
    rule("!has(self.ipBlock) || !(has(self.podSelector) || has(self.namespaceSelector))", PEER_EITHER),
)

_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def _label_key(value: str) -> str:
    if not _LABEL_KEY.fullmatch(value):
        raise ValueError(f"'{shown(value)}' is not a label's key, such as app.kubernetes.io/name")
    return value


def _label_value(value: str) -> str:
    if not _LABEL_VALUE.fullmatch(value):
        raise ValueError(f"'{shown(value)}' is not a label's value: letters, digits, '-', '_' and '.', at most 63")
    return value


def _cidr(value: str) -> str:
    try:
        ip_network(value)
    except ValueError:
        network = None
    else:
        network = value if "/" in value else None
    if network is None:
        raise ValueError(f"'{shown(value)}' is not {_CIDR_WORDS}")
    return value


_CIDR_WORDS = "a range of addresses whose host bits are zero, such as 10.20.0.0/16"

LabelKey = Annotated[str, Field(min_length=1, max_length=317), AfterValidator(_label_key)]
LabelValue = Annotated[str, Field(max_length=63), AfterValidator(_label_value)]
Cidr = Annotated[
    str,
    Field(
        min_length=1,
        max_length=43,
        json_schema_extra=rules(
            rule("isCIDR(self) && cidr(self) == cidr(self).masked()", f"the text is not {_CIDR_WORDS}")
        ),
    ),
    AfterValidator(_cidr),
]


class LabelRequirement(Model):
    """One condition on a label."""

    key: LabelKey = Field(description="Key of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How the label is compared.")
    values: Annotated[list[LabelValue], Field(min_length=1, max_length=32)] | None = Field(
        None, description="Values that In and NotIn compare with."
    )


class LabelSelector(Model):
    """Labels that an object has to have; an empty selector takes every object."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] | None = Field(
        None, description='Labels with their values, such as {"app": "shop"}.'
    )
    match_expressions: (
        Annotated[
            list[
                Annotated[
                    LabelRequirement,
                    Field(
                        json_schema_extra=rules(
                            rule("has(self.values) == (self.operator in ['In', 'NotIn'])", VALUES_WHERE_COMPARED)
                        )
                    ),
                ]
            ],
            Field(max_length=16),
        ]
        | None
    ) = Field(None, description="Further conditions on labels; all have to hold.")


class IpBlock(Model):
    """A range of addresses."""

    cidr: Cidr = Field(description="The range, such as 10.20.0.0/16.")
    except_: Annotated[list[Cidr], Field(max_length=16)] | None = Field(
        None, alias="except", description="Ranges within it that are left out."
    )


class Peer(Model):
    """Whoever may connect, as in a NetworkPolicy of Kubernetes."""

    pod_selector: LabelSelector | None = Field(
        None, description="Pods by label: of the realm's namespace, or of those that namespaceSelector chooses."
    )
    namespace_selector: LabelSelector | None = Field(
        None, description="Namespaces by label; without podSelector all of their pods. {} takes every namespace."
    )
    ip_block: IpBlock | None = Field(None, description="Addresses, for what is no pod.")


class PortPeer(Peer):
    """Whoever may connect to some ports of the engine."""

    ports: Annotated[list[EnginePort], Field(min_length=1, max_length=4)] | None = Field(
        None,
        description="Ports that the peer reaches: http (REST, 3111), stream (3112), bus (49134), metrics (9464). Where "
        "left out, http.",
    )


Peers = Annotated[
    list[Annotated[Peer, Field(json_schema_extra=_PEER_RULES)]], Field(min_length=1, max_length=MAX_PEERS)
]


class NetworkPolicy(Model):
    """Who reaches the realm's pods over the network."""

    enabled: bool = Field(
        True,
        description="True: NetworkPolicies let only the realm's own Workers reach the engine, the operator its bus, and what "
        "the chart says its metrics; nobody connects to a Worker's pods. False: the operator makes no NetworkPolicy.",
    )
    extra_from: (
        Annotated[
            list[Annotated[PortPeer, Field(json_schema_extra=_PEER_RULES)]],
            Field(max_length=MAX_PEERS),
        ]
        | None
    ) = Field(None, description="Who else reaches the engine, and on which of its ports.")


def peer_findings(peers: object, path: str) -> list[Finding]:
    """Return what is wrong between the parts of each peer of a list; each part's form is the model's to report."""
    found: list[Finding] = []
    for index, peer in enumerate(peers if isinstance(peers, list) else []):
        if not isinstance(peer, dict):
            continue
        where = f"{path}[{index}]"
        selectors = [peer[each] for each in ("podSelector", "namespaceSelector") if peer.get(each) is not None]
        if not selectors and peer.get("ipBlock") is None:
            found.append(error(where, "Required", PEER_REQUIRED))
        if selectors and peer.get("ipBlock") is not None:
            found.append(error(where, "ExactlyOne", PEER_EITHER))
        for name in ("podSelector", "namespaceSelector"):
            found += _selector_findings(peer.get(name), f"{where}.{name}")
        found += _block_findings(peer.get("ipBlock"), f"{where}.ipBlock")
    return found


def network_findings(policy: object) -> list[Finding]:
    """Return what is wrong between the parts of a Realm's ``spec.networkPolicy``."""
    return peer_findings(policy.get("extraFrom"), "spec.networkPolicy.extraFrom") if isinstance(policy, dict) else []


def _selector_findings(selector: object, path: str) -> list[Finding]:
    listed = selector.get("matchExpressions") if isinstance(selector, dict) else None
    return [
        error(f"{path}.matchExpressions[{index}].values", "Mismatch", VALUES_WHERE_COMPARED)
        for index, each in enumerate(listed if isinstance(listed, list) else [])
        if isinstance(each, dict) and (each.get("values") is not None) != (each.get("operator") in ("In", "NotIn"))
    ]


def _block_findings(block: object, path: str) -> list[Finding]:
    if not isinstance(block, dict) or not isinstance(block.get("except"), list):
        return []
    found: list[Finding] = []
    for index, part in enumerate(block["except"]):
        try:
            whole, left_out = ip_network(str(block.get("cidr"))), ip_network(str(part))
        except ValueError:
            continue  # the model has told it
        inside = (
            left_out.version == whole.version
            and left_out.prefixlen > whole.prefixlen
            and left_out.supernet(new_prefix=whole.prefixlen) == whole
        )
        if not inside:
            message = f"{shown(str(part))} is not a part of {shown(str(block['cidr']))}; leave out ranges within it"
            found.append(error(f"{path}.except[{index}]", "Mismatch", message))
    return found
