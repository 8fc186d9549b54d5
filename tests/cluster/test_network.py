"""Address ranges: no two clusters share any, and none takes what the host uses."""

from ipaddress import IPv4Network
from itertools import combinations

import pytest

from tests.cluster.command import ClusterError
from tests.cluster.network import MOST_CLUSTERS, Subnets, every_cluster, free_subnets, parse_routes


def ranges(subnets: Subnets) -> list[IPv4Network]:
    return [subnets.link, subnets.pods, subnets.services]


def test_the_ranges_of_all_clusters_are_apart() -> None:
    networks = [network for index in range(MOST_CLUSTERS) for network in ranges(Subnets(index))]
    assert not [pair for pair in combinations(networks, 2) if pair[0].overlaps(pair[1])]


def test_every_range_is_within_those_that_bypass_a_proxy() -> None:
    for index in range(MOST_CLUSTERS):
        for network in ranges(Subnets(index)):
            assert any(network.subnet_of(whole) for whole in every_cluster())


def test_the_first_cluster_gets_the_first_ranges() -> None:
    assert free_subnets([]) == Subnets(0)


@pytest.mark.parametrize("taken", ["10.250.0.0/24", "10.160.3.0/24", "10.200.0.1/32", "10.192.0.0/12"])
def test_a_range_that_overlaps_a_route_of_the_host_is_passed_over(taken: str) -> None:
    subnets = free_subnets([IPv4Network(taken)])
    assert subnets.index > 0
    assert not subnets.overlaps(IPv4Network(taken))


def test_when_every_range_is_taken_the_error_says_what_to_do() -> None:
    with pytest.raises(ClusterError, match=r"No free address range .* `python -m tests.cluster down --name NAME`"):
        free_subnets([Subnets(index).link for index in range(MOST_CLUSTERS)])


def test_routes_are_read_and_default_ones_left_out() -> None:
    routes = [
        {"dst": "default", "gateway": "192.0.2.1"},
        {"dst": "0.0.0.0/1", "dev": "tun0"},
        {"dst": "10.0.0.0/8", "dev": "tun0"},
        {"dst": "10.160.0.0/16", "dev": "agentos0"},
        {"type": "local", "dst": "192.0.2.2"},
    ]
    assert parse_routes(routes) == [IPv4Network("10.160.0.0/16"), IPv4Network("192.0.2.2/32")]
