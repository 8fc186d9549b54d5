"""What the watches have seen."""

from typing import Any

import pytest
from agentos_operator.cache import Cache, selector
from agentos_operator.kinds import CLAIM, DEPLOYMENT, POD, REALM, WORKER, Key


def obj(kind: str, name: str, version: int = 1, *, namespace: str = "team", uid: str = "", **more: Any) -> dict:
    metadata = {"name": name, "uid": uid or f"{name}-uid", "resourceVersion": str(version)}
    if kind != "Realm":
        metadata["namespace"] = namespace
    return {"kind": kind, "metadata": metadata | more.pop("metadata", {})} | more


def pod(name: str, worker_uid: str, version: int = 1, **more: Any) -> dict:
    return obj("Pod", name, version, metadata={"labels": {"agentos.dev/worker-uid": worker_uid}}, **more)


def realm(name: str, namespace: str, created: str) -> dict:
    return obj("Realm", name, metadata={"creationTimestamp": created}, spec={"namespace": namespace})


@pytest.fixture
def cache() -> Cache:
    return Cache()


def names(objects: list[dict]) -> list[str]:
    return [o["metadata"]["name"] for o in objects]


def test_a_new_object_is_found_and_has_no_state_before(cache):
    first = obj("Worker", "a")
    assert cache.put(first) is None
    assert cache.get(WORKER, "team", "a") is first
    assert cache.get(WORKER, "other", "a") is None
    assert cache.get(DEPLOYMENT, "team", "a") is None


def test_a_newer_state_takes_the_place_and_the_one_before_is_told(cache):
    old, new = obj("Worker", "a", 9), obj("Worker", "a", 10)
    cache.put(old)
    assert cache.put(new) is old
    assert cache.get(WORKER, "team", "a") is new


def test_an_older_state_is_dropped(cache):
    new = obj("Worker", "a", 10)
    cache.put(new)
    assert cache.put(obj("Worker", "a", 9)) is new
    assert cache.get(WORKER, "team", "a") is new


def test_an_object_made_anew_takes_the_place_and_late_news_of_the_old_one_does_not(cache):
    cache.put(obj("Worker", "a", 10, uid="old"))
    again = obj("Worker", "a", 12, uid="new")
    cache.put(again)
    cache.put(obj("Worker", "a", 11, uid="old"))
    assert cache.get(WORKER, "team", "a") is again
    assert cache.worker_with("new") == Key("Worker", "team", "a")
    assert cache.worker_with("old") is None


def test_dropping_by_uid_forgets_only_that_object(cache):
    cache.put(obj("Worker", "a", uid="new"))
    key = Key("Worker", "team", "a")
    cache.drop(key, "old")
    assert cache.get(WORKER, "team", "a")
    cache.drop(key, "new")
    assert cache.get(WORKER, "team", "a") is None
    assert cache.all(WORKER, "team") == cache.all(WORKER) == []
    cache.drop(key)


def test_all_of_a_kind_are_listed_in_one_namespace_by_name_or_everywhere(cache):
    for made in (obj("Worker", "b"), obj("Worker", "a"), obj("Worker", "c", namespace="x"), obj("Deployment", "a")):
        cache.put(made)
    assert names(cache.all(WORKER, "team")) == ["a", "b"]
    assert sorted(names(cache.all(WORKER))) == ["a", "b", "c"]
    assert cache.all(WORKER, "nowhere") == []


def test_pods_are_found_by_their_workers_uid(cache):
    for made in (pod("p2", "w1"), pod("p1", "w1"), pod("p3", "w2"), obj("Pod", "engine-0")):
        cache.put(made)
    assert names(cache.pods_of("team", "w1")) == ["p1", "p2"]
    cache.drop(Key("Pod", "team", "p1"))
    assert names(cache.pods_of("team", "w1")) == ["p2"]
    assert cache.pods_of("team", "nobody") == []


def test_a_pod_made_anew_for_another_worker_is_that_workers_only(cache):
    cache.put(pod("p", "w1", uid="first"))
    cache.put(pod("p", "w2", uid="second"))
    assert cache.pods_of("team", "w1") == []
    assert names(cache.pods_of("team", "w2")) == ["p"]


def test_the_oldest_realm_has_the_namespace(cache):
    cache.put(realm("young", "team", "2026-01-02T00:00:00Z"))
    cache.put(realm("old", "team", "2026-01-01T00:00:00Z"))
    cache.put(realm("other", "else", "2025-01-01T00:00:00Z"))
    assert cache.realm_of("team")["metadata"]["name"] == "old"
    assert cache.realm_of("nowhere") is None


def test_of_realms_made_in_the_same_second_the_lower_uid_has_the_namespace(cache):
    for name in ("b", "a"):
        cache.put(realm(name, "team", "2026-01-01T00:00:00Z"))
    assert cache.realm_of("team")["metadata"]["name"] == "a"


def test_only_children_of_the_operator_are_watched():
    assert selector(POD) == {"labelSelector": "app.kubernetes.io/managed-by=agentos-operator"}
    assert selector(WORKER) == selector(REALM) == selector(CLAIM) == {}


async def test_verifying_forgets_what_is_gone(api, cache):
    kept = api.seed(obj("Worker", "kept"))
    cache.put(kept)
    cache.put(obj("Worker", "gone"))
    assert await cache.verify(api) == []
    assert names(cache.all(WORKER)) == ["kept"]


async def test_verifying_names_what_the_watches_have_not_shown(api, cache):
    api.seed(obj("Worker", "unseen"))
    assert await cache.verify(api) == [Key("Worker", "team", "unseen")]
    assert cache.all(WORKER) == []


async def test_verifying_finds_an_object_made_anew_under_the_same_name(api, cache):
    cache.put(obj("Worker", "a", uid="old"))
    api.seed(obj("Worker", "a", uid="new"))
    assert await cache.verify(api) == [Key("Worker", "team", "a")]
    assert cache.get(WORKER, "team", "a") is None


async def test_verifying_keeps_what_came_while_it_listed(api, cache):
    listing = api.list

    async def list_then_see(kind, *arguments, **query):
        async for item in listing(kind, *arguments, **query):
            yield item
        if kind is WORKER:
            cache.put(obj("Worker", "new"))

    api.list = list_then_see
    assert await cache.verify(api) == []
    assert names(cache.all(WORKER)) == ["new"]


async def test_it_counts_as_verified_once_the_watches_have_shown_everything(api, cache, clock):
    worker = api.seed(obj("Worker", "late"))
    listing = api.list
    rounds = 0

    async def list_and_show(kind, *arguments, **query):
        nonlocal rounds
        if kind is WORKER:
            rounds += 1
            if rounds == 3:
                cache.put(worker)
        async for item in listing(kind, *arguments, **query):
            yield item

    api.list = list_and_show
    assert not cache.verified.is_set()
    await cache.wait_verified(api)
    assert cache.verified.is_set()
    assert rounds == 3
