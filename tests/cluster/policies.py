"""Enforces NetworkPolicies on a bare node, whose network plugin enforces none.

The agents that do this elsewhere cannot be built from the package registries alone, so this one reads the policies, pods and
namespaces from the apiserver and has the node's kernel (nftables) drop what they do not allow. Ingress only: a policy on
egress is an error. As with any agent, what the node itself sends, such as a kubelet's probes, is let through.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.cluster.command import ClusterError, run
from tests.cluster.lifecycle import Cluster
from tests.cluster.node import BareNode

TABLE = "agentos_policies"
OWN_NAME = "kubernetes.io/metadata.name"
"""Label that every namespace has, with its name."""
EVERY_SECONDS = 0.5
SETTLE_SECONDS = 30.0

Object = Mapping[str, Any]


@contextmanager
def enforced(cluster: Cluster) -> Iterator[PolicyAgent | None]:
    """Have NetworkPolicies enforced meanwhile. With kind they always are, by its own network plugin."""
    if not isinstance(cluster.node, BareNode):
        yield None
        return
    agent = PolicyAgent(cluster, cluster.node)
    agent.start()
    try:
        agent.settle()
        yield agent
    finally:
        agent.stop()


class PolicyAgent:
    """Brings the kernel's rules up to date several times a second, on a thread of its own."""

    def __init__(self, cluster: Cluster, node: BareNode) -> None:
        self._cluster, self._node = cluster, node
        self._ended, self._turn = threading.Event(), threading.Condition()
        self._turns, self._fault = 0, ""
        self._thread = threading.Thread(target=self._work, name="network policies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def settle(self) -> None:
        """Return once all that was in the apiserver at the call is enforced. Raises ClusterError when it cannot be."""
        with self._turn:
            wanted = self._turns + 2
            done = self._turn.wait_for(lambda: self._turns >= wanted or self._fault, SETTLE_SECONDS)
        if self._fault or not done:
            raise ClusterError(f"the NetworkPolicies are not enforced: {self._fault or 'no turn ended in time'}")

    def stop(self) -> None:
        """Let everything through again. Raises ClusterError when the policies were not enforced to the end."""
        self._ended.set()
        self._thread.join(SETTLE_SECONDS)
        self._nft(f"table inet {TABLE}\ndelete table inet {TABLE}\n")
        if self._fault:
            raise ClusterError(f"the NetworkPolicies were not enforced to the end: {self._fault}")

    def _work(self) -> None:
        current = ""
        while not self._ended.wait(EVERY_SECONDS):
            try:
                wanted = self._rules()
                if wanted != current:
                    self._nft(wanted)
                    current = wanted
            except Exception as error:
                self._fault = str(error) or type(error).__name__
            with self._turn:
                self._turns += 1
                self._turn.notify_all()
            if self._fault:
                return

    def _rules(self) -> str:
        listed = self._cluster.kubectl("get", "networkpolicies,pods,namespaces", "--all-namespaces", "-o", "json")
        items = json.loads(listed.stdout)["items"]
        return ruleset(
            *([each for each in items if each["kind"] == kind] for kind in ("NetworkPolicy", "Pod", "Namespace"))
        )

    def _nft(self, script: str) -> None:
        if (holder := self._node.holder) is None:
            raise ClusterError("the node does not run")
        run(["nsenter", f"--net=/proc/{holder.pid}/ns/net", "nft", "-f", "-"], input=script)


def ruleset(policies: Sequence[Object], pods: Sequence[Object], namespaces: Sequence[Object]) -> str:
    """What nft(8) is told: for each pod that a policy selects, who gets through. Replaces what it was told before."""
    labels = {each["metadata"]["name"]: each["metadata"].get("labels", {}) for each in namespaces}
    addressed = [each for each in pods if _address(each)]
    jumps, chains = [], []
    for pod in addressed:
        chosen = [each for each in policies if _isolates(each, pod)]
        if not chosen:
            continue
        chain = f"pod-{_address(pod)}"
        jumps.append(f"    ip daddr {_address(pod)} jump {chain}")
        accepted = [
            rule
            for policy in chosen
            for ingress in policy["spec"].get("ingress") or ()
            for rule in _accepts(ingress, policy["metadata"]["namespace"], pod, addressed, labels)
        ]
        chains += [f"  chain {chain} {{", *(f"    {rule}" for rule in accepted), "    drop", "  }"]
    return "\n".join(
        [
            f"table inet {TABLE}",
            f"delete table inet {TABLE}",
            f"table inet {TABLE} {{",
            *chains,
            "  chain forward {",
            "    type filter hook forward priority filter; policy accept;",
            "    ct state established,related accept",
            *jumps,
            "  }",
            "}",
            "",
        ]
    )


def _address(pod: Object) -> str:
    """A pod's own address; empty while it has none, has ended, or shares the node's."""
    over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return "" if over or pod["spec"].get("hostNetwork") else pod.get("status", {}).get("podIP", "")


def _isolates(policy: Object, pod: Object) -> bool:
    spec = policy["spec"]
    if "Egress" in spec.get("policyTypes", ()) or spec.get("egress"):
        raise ClusterError(f"NetworkPolicy {policy['metadata']['name']} is about egress, which is not enforced here")
    here = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return here and selects(spec.get("podSelector") or {}, pod["metadata"].get("labels", {}))


def _accepts(
    ingress: Object, namespace: str, pod: Object, pods: Sequence[Object], labels: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """The rules of one entry of ``spec.ingress``: each of its sources with each of its ports."""
    ports = [_port(port, pod) for port in ingress["ports"]] if ingress.get("ports") else [""]
    sources = [each for peer in ingress.get("from") or () for each in _sources(peer, namespace, pods, labels)]
    if not ingress.get("from"):
        sources = [""]
    return [
        " ".join(filter(None, (source, port, "accept"))) for source in sources for port in ports if port is not None
    ]


def _sources(
    peer: Object, namespace: str, pods: Sequence[Object], labels: Mapping[str, Mapping[str, str]]
) -> list[str]:
    if block := peer.get("ipBlock"):
        left_out = f" ip saddr != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
        return [f"ip saddr {block['cidr']}{left_out}"]

    def chosen(pod: Object) -> bool:
        where = pod["metadata"]["namespace"]
        spaces = peer.get("namespaceSelector", {"matchLabels": {OWN_NAME: namespace}})
        inside = selects(spaces, {OWN_NAME: where} | labels.get(where, {}))
        return inside and selects(peer.get("podSelector") or {}, pod["metadata"].get("labels", {}))

    addresses = sorted(_address(pod) for pod in pods if chosen(pod))
    return [f"ip saddr {{ {', '.join(addresses)} }}"] if addresses else []


def _port(port: Object, pod: Object) -> str | None:
    """One port of a rule; None when it is a name that the pod has not."""
    protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
    if isinstance(number, str):
        named = {
            each["name"]: each["containerPort"]
            for container in pod["spec"]["containers"]
            for each in container.get("ports", ())
            if "name" in each and each.get("protocol", "TCP").lower() == protocol
        }
        number = named.get(number)
        if number is None:
            return None
    if number is None:
        return f"meta l4proto {protocol}"
    last = f"-{port['endPort']}" if "endPort" in port else ""
    return f"{protocol} dport {number}{last}"


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses what has these labels."""
    compared = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()) and all(
        compared[each["operator"]](each["key"], each.get("values", ()))
        for each in selector.get("matchExpressions") or ()
    )
