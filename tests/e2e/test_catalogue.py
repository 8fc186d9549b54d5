"""All workers of the catalogue in one realm: each gets its functions."""

import pytest

from tests.catalogue import entries, worker
from tests.cluster import Cluster
from tests.e2e.support import apply, condition, listed, until

pytestmark = pytest.mark.cluster


def test_all_workers_of_the_catalogue_get_their_functions(cluster: Cluster) -> None:
    done = apply(cluster, *(worker(name) for name in entries()))
    assert "cycle" not in done.stderr
    assert "held by" not in done.stderr

    def without() -> list[str]:
        found = {each["metadata"]["name"]: condition(each, "FunctionsClaimed") for each in listed(cluster, "workers")}
        return [f"{name}: {found.get(name)}" for name in entries() if found.get(name, ("",))[0] != "True"]

    until("all have what they claim", lambda: not without(), 60)
    assert not [each for each in listed(cluster, "workers") if condition(each, "ManifestValid")[0] != "True"]
