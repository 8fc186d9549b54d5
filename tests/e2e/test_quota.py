"""A Realm's quota: refused at apply; with the webhook away it waits, and starts when there is room."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.e2e.support import apply, condition, get, listed, until, worker

pytestmark = pytest.mark.cluster

REALM = "limited"
HOOKS = "validatingwebhookconfiguration/agentos"


def realm(**quota: Any) -> dict[str, Any]:
    body = {"namespace": REALM, "deletionPolicy": "Delete", "quota": quota}
    return {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": REALM}, "spec": body}


def lodger(name: str, **spec: Any) -> dict[str, Any]:
    made = worker(name, f"{name}::one", resources={"requests": {"cpu": "10m", "memory": "32Mi"}}, **spec)
    made["metadata"]["namespace"] = REALM
    return made


@pytest.fixture(scope="module")
def limited(installed: Cluster) -> Iterator[Cluster]:
    """A realm that has room for two pods, with one Worker of one pod."""
    try:
        until("what an earlier run left is gone", lambda: not get(installed, "namespace", REALM, ""), 120)
        apply(installed, realm(replicas=2))
        until("its namespace", lambda: get(installed, "namespace", REALM, ""))
        apply(installed, lodger("first"))
        until("it is Ready", lambda: condition(get(installed, "worker", "first", REALM), "Ready")[0] == "True", 120)
        yield installed
    finally:
        installed.kubectl("delete", "realm", REALM, "--ignore-not-found", "--wait=false")


@pytest.fixture
def unchecked(limited: Cluster) -> Iterator[Cluster]:
    """The webhook is away: it looks at nothing."""
    before = json.loads(limited.kubectl("get", HOOKS, "-o", "json").stdout)["webhooks"][0]["rules"]
    none = [{"op": "replace", "path": "/webhooks/0/rules", "value": []}]
    limited.kubectl("patch", HOOKS, "--type=json", "-p", json.dumps(none))
    try:
        until("nothing is refused", lambda: apply(limited, lodger("probe", replicas=9), check=False).returncode == 0)
        limited.kubectl("delete", "worker", "probe", "-n", REALM)
        yield limited
    finally:
        back = [{"op": "replace", "path": "/webhooks/0/rules", "value": before}]
        limited.kubectl("patch", HOOKS, "--type=json", "-p", json.dumps(back))


def test_what_has_no_room_is_refused_at_apply(limited: Cluster) -> None:
    until("how much is used", lambda: get(limited, "realm", REALM, "")["status"].get("quota"))
    used = get(limited, "realm", REALM, "")["status"]["quota"]["used"]
    assert used == {"workers": 1, "replicas": 1, "functions": 1, "cpu": "10m", "memory": "32Mi"}
    refused = apply(limited, lodger("second", replicas=2), check=False)
    assert "goes beyond the quota of Realm limited (replicas: 1 of 2 are used, 2 more are needed)" in refused.stderr
    grown = apply(limited, lodger("first", replicas=3), check=False)
    assert "(replicas: 1 of 2 are used, 2 more are needed)" in grown.stderr


def test_with_the_webhook_away_it_waits_and_starts_when_there_is_room(unchecked: Cluster) -> None:
    apply(unchecked, lodger("second", replicas=2))

    def reason() -> str:
        return condition(get(unchecked, "worker", "second", REALM), "WithinQuota")[1]

    until("it waits", lambda: reason() == "QuotaExceeded")
    told = condition(get(unchecked, "worker", "second", REALM), "Ready")
    assert told[:2] == ("False", "QuotaExceeded")
    assert "(replicas: 1 of 2 are used, 2 more are needed)" in told[2]
    assert not get(unchecked, "deployment", "second", REALM)
    assert not [
        each for each in listed(unchecked, "functionclaims", namespace=REALM) if each["spec"]["segment"] == "second"
    ]
    unchecked.kubectl("delete", "worker", "first", "-n", REALM)
    until("it starts by itself", lambda: condition(get(unchecked, "worker", "second", REALM), "Ready")[0] == "True", 90)
    apply(unchecked, realm(replicas=1))
    until("the Realm tells", lambda: condition(get(unchecked, "realm", REALM, ""), "WithinQuota")[1] == "QuotaExceeded")
    assert condition(get(unchecked, "realm", REALM, ""), "Ready")[0] == "True"
    assert condition(get(unchecked, "worker", "second", REALM), "Ready")[0] == "True"
