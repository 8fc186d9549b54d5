"""Who may call a realm over REST: with the key, without it, and where the Realm says otherwise."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import apply, get, until, worker

pytestmark = pytest.mark.cluster

REALM = "keyed"
Ask = Callable[..., int]


def status_of(url: str, **headers: str) -> int:
    """The status of a POST."""
    request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def realm(installed: Cluster) -> Iterator[Cluster]:
    """A realm with one open path, and a worker in it with a function on that path and one beside it."""
    http: dict[str, Any] = {"routes": [{"path": "/open/*", "methods": ["POST"], "auth": "none"}]}
    lodger = worker("lodger", "open::one", "shut::one")
    lodger["metadata"]["namespace"] = REALM
    body = {"namespace": REALM, "deletionPolicy": "Delete", "http": http}
    resource = {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": REALM}, "spec": body}
    try:
        until("what an earlier run left is gone", lambda: not get(installed, "namespace", REALM, ""), 120)
        apply(installed, resource)
        until("its namespace", lambda: get(installed, "namespace", REALM, ""))
        apply(installed, lodger)
        installed.kubectl("wait", "-n", REALM, "--for=condition=Ready", "worker/lodger", "--timeout=90s", timeout=100)
        yield installed
    finally:
        # Nobody else has this name, so nobody waits until all of it is gone.
        installed.kubectl("delete", "realm", REALM, "--ignore-not-found", "--wait=false")


@pytest.fixture
def ask(realm: Cluster) -> Ask:
    """Ask for a path of the realm, with these headers; returns the status."""
    base = f"http://{realm.service_address(REALM, 'agentos-engine', demo.HTTP_PORT)}"
    return lambda path, **headers: status_of(f"{base}{path}", **headers)


def test_the_rest_port_takes_the_realms_key_and_nothing_else(realm: Cluster, ask: Ask) -> None:
    key, others = demo.api_key(realm, REALM), demo.api_key(realm)
    assert key != others
    assert ask("/shut/one") == 401
    assert ask("/shut/one", Authorization=f"Bearer {others}") == 401
    assert ask("/shut/one", Authorization=f"Bearer {key}") == 200
    assert ask("/shut/one", **{"x-api-key": key}) == 200
    assert get(realm, "realm", REALM, "")["status"]["engine"]["httpAuth"] == "apiKey"
    assert "apiKey" in realm.kubectl("get", "realms", "-o", "wide").stdout


def test_a_path_that_the_realm_opens_asks_for_no_key(ask: Ask) -> None:
    assert ask("/open/one") == 200
    assert ask("/open/../shut/one") != 200
    assert ask("/shut/one") == 401


def test_a_key_that_a_person_changes_is_asked_for_without_a_restart(realm: Cluster, ask: Ask) -> None:
    before, after = demo.api_key(realm, REALM), "a-key-that-a-person-has-chosen"
    pod = get(realm, "pod", "agentos-engine-0", REALM)["metadata"]["uid"]
    data = json.dumps({"data": {"key": base64.b64encode(after.encode()).decode()}})
    realm.kubectl("patch", "secret", "agentos-api-key", "-n", REALM, "--type=merge", "-p", data)
    # The kubelet looks at a pod's Secrets when the pod changes, else about once a minute.
    realm.kubectl("annotate", "pod", "agentos-engine-0", "-n", REALM, "example.org/look-again=1")
    until("the new key is taken", lambda: ask("/shut/one", Authorization=f"Bearer {after}") == 200, 150)
    assert ask("/shut/one", Authorization=f"Bearer {before}") == 401
    assert get(realm, "pod", "agentos-engine-0", REALM)["metadata"]["uid"] == pod
    assert demo.api_key(realm, REALM) == after


def test_a_realm_whose_jwt_nobody_described_is_refused(installed: Cluster) -> None:
    spec = {"namespace": "nowhere", "http": {"auth": "jwt"}}
    body = {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": "nowhere"}, "spec": spec}
    refused = apply(installed, body, check=False)
    assert "spec.http.jwt" in refused.stderr
    assert "say issuer, audience and jwksUrl" in refused.stderr


def test_a_worker_cannot_read_the_key(installed: Cluster) -> None:
    nosy = worker("nosy", "nosy::one", envFrom=[{"secretRef": {"name": "agentos-api-key"}}])
    refused = apply(installed, nosy, check=False)
    assert "agentos-api-key holds the key of the realm's REST port" in refused.stderr
