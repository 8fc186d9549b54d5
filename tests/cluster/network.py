"""Joins a bare node to the host: one veth pair, addresses of its own, and host routes to its pods and Services.

Nothing else on the host changes: no NAT, no firewall rule, no sysctl. What is set inside the node's network namespace
goes away with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.cluster.command import ClusterError, folder_lock, run

MOST_CLUSTERS = 32
WIDE_PREFIX = (
    8  # a route as wide as this (a VPN's 10.0.0.0/8, say) is a default: a cluster's own, narrower ones win over it
)
NODE_INTERFACE = "node0"


@dataclass(frozen=True)
class Subnets:
    """The address ranges of the cluster with this index; no two indices overlap."""

    index: int

    @property
    def link(self) -> IPv4Network:
        """Between the host (.1) and the node (.2)."""
        return IPv4Network((f"10.250.{self.index}.0", 24))

    @property
    def pods(self) -> IPv4Network:
        return IPv4Network((f"10.{160 + self.index}.0.0", 16))

    @property
    def services(self) -> IPv4Network:
        return IPv4Network((f"10.{200 + self.index}.0.0", 16))

    @property
    def host_address(self) -> IPv4Address:
        return self.link[1]

    @property
    def node_address(self) -> IPv4Address:
        """Of the node's own end; also where its DNS server listens."""
        return self.link[2]

    @property
    def apiserver_service_address(self) -> IPv4Address:
        """Of the Service `kubernetes`: always the first of the range."""
        return self.services[1]

    def overlaps(self, network: IPv4Network) -> bool:
        return any(own.overlaps(network) for own in (self.link, self.pods, self.services))


def every_cluster() -> tuple[IPv4Network, ...]:
    """Ranges that cover the addresses of every possible cluster."""
    return (IPv4Network("10.250.0.0/16"), IPv4Network("10.160.0.0/11"), IPv4Network("10.192.0.0/10"))


def free_subnets(in_use: Iterable[IPv4Network]) -> Subnets:
    """The first index of which no range overlaps one in use. Raises ClusterError when there is none."""
    taken = list(in_use)
    for index in range(MOST_CLUSTERS):
        subnets = Subnets(index)
        if not any(subnets.overlaps(network) for network in taken):
            return subnets
    raise ClusterError(
        f"No free address range for another cluster: all {MOST_CLUSTERS} overlap routes of this machine "
        "(`ip route`). Remove a cluster with `python -m tests.cluster down --name NAME`."
    )


def networks_in_use() -> list[IPv4Network]:
    """Every IPv4 destination that the host has a route to, the default route left out.

    A running cluster's ranges are among them: the kernel is the one record of what is taken.
    """
    routes = json.loads(run(["ip", "-4", "-json", "route", "show", "table", "all"]).stdout or "[]")
    return parse_routes(routes)


def parse_routes(routes: list[dict[str, object]]) -> list[IPv4Network]:
    """The destinations in the output of `ip -json route`, without default routes and those as good as."""
    destinations = [str(route["dst"]) for route in routes if route.get("dst") not in (None, "default")]
    networks = [IPv4Network(destination, strict=False) for destination in destinations]
    return [network for network in networks if network.prefixlen > WIDE_PREFIX]


@contextmanager
def allocation() -> Iterator[None]:
    """Held from choosing a free index until its routes exist, so that two clusters don't choose the same.

    The lock is on a folder that every run on this machine sees, whatever its cache and state folders; it leaves no file.
    """
    with folder_lock(Path("/run")):
        yield


def connect(interface: str, node_pid: int, subnets: Subnets) -> None:
    """Make the veth pair from the host to the network namespace of `node_pid`, with addresses and routes on both ends."""
    prefix = subnets.link.prefixlen
    run(["ip", "link", "add", interface, "type", "veth", "peer", "name", NODE_INTERFACE, "netns", str(node_pid)])
    _ip_batch(
        [
            "link set lo up",
            f"addr add {subnets.node_address}/{prefix} dev {NODE_INTERFACE}",
            f"link set {NODE_INTERFACE} up",
            f"route add default via {subnets.host_address}",
        ],
        ["nsenter", f"--net=/proc/{node_pid}/ns/net"],
    )
    _ip_batch(
        [
            f"addr add {subnets.host_address}/{prefix} dev {interface}",
            f"link set {interface} up",
            *(f"route add {network} via {subnets.node_address}" for network in (subnets.pods, subnets.services)),
        ]
    )


def disconnect(interface: str) -> None:
    """Remove the pair, and with it its addresses and routes. Fine when it isn't there."""
    if exists(interface):
        run(["ip", "link", "delete", interface], check=False)
        if exists(interface):
            raise ClusterError(f"{interface}: `ip link delete {interface}` did not remove this network interface.")


def exists(interface: str) -> bool:
    """Is there a network interface of this name on the host?"""
    return run(["ip", "link", "show", interface], check=False).returncode == 0


def _ip_batch(commands: list[str], prefix: list[str] | None = None) -> None:
    run([*(prefix or []), "ip", "-batch", "-"], input="\n".join(commands) + "\n")
