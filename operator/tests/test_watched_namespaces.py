"""An operator that watches certain namespaces only: what it looks at, and what it leaves to others."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import kopf
import pytest
from agentos_contracts.tokens import SigningKey
from agentos_operator.api import ApiError
from agentos_operator.cache import Cache
from agentos_operator.controller import Controller
from agentos_operator.key_ring import KeyRing
from agentos_operator.kinds import REALM, WORKER, Key, Kind, Object
from agentos_operator.settings import Settings
from agentos_operator.watch import Backoffs, registry
from agentos_operator.webhook import Webhook

ENVIRONMENT = {"POD_NAMESPACE": "agentos-system", "POD_NAME": "operator-0", "AGENTOS_IMAGE": "agentos:1"}
FORBIDDEN = ApiError(403, "Forbidden", "workers is forbidden")


def settings(watched: str = "team other") -> Settings:
    return Settings.from_environment(ENVIRONMENT | {"AGENTOS_WATCH_NAMESPACES": watched})


def realm(name: str, namespace: str) -> Object:
    metadata = {"name": name, "uid": f"{name}-uid", "resourceVersion": "1", "generation": 1}
    spec = {"namespace": namespace}
    created = {"creationTimestamp": "2026-01-01T00:00:00Z"}
    return {
        "apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": metadata | created, "spec": spec,
    }  # fmt: skip


def worker(name: str, namespace: str) -> Object:
    return {"kind": "Worker", "metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"}}


class Limited:
    """An API that answers for some namespaces only, as it does whoever has no cluster-wide rights."""

    def __init__(self, api: Any, *allowed: str) -> None:
        self._api, self._allowed = api, allowed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def list(self, kind: Kind, namespace: str | None = None, **query: str) -> AsyncIterator[Object]:
        if kind.namespaced and namespace not in self._allowed:
            raise FORBIDDEN
        async for item in self._api.list(kind, namespace, **query):
            yield item

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        if kind.kind == "Namespace" and name not in self._allowed:
            raise FORBIDDEN
        return await self._api.get(kind, namespace, name)

    async def create(self, kind: Kind, obj: Object) -> Object:
        if not kind.namespaced:
            raise FORBIDDEN
        return await self._api.create(kind, obj)


def test_without_names_all_namespaces_are_watched():
    every = settings("")
    assert every.watch_namespaces == ()
    assert every.watches("anything")


def test_with_names_no_other_namespace_is():
    assert [settings().watches(name) for name in ("team", "other", "default")] == [True, True, False]


async def test_only_the_watched_namespaces_are_asked_for_and_realms_of_others_are_left_out(api):
    cache = Cache(("team", "other"))
    for seeded in (worker("a", "team"), worker("b", "default"), realm("mine", "other"), realm("theirs", "default")):
        api.seed(seeded)
    missing = await cache.verify(Limited(api, "team", "other"))
    assert missing == [Key("Worker", "team", "a"), Key("Realm", "", "mine")]
    assert not cache.wants(realm("theirs", "default"))


async def test_a_namespace_without_rights_holds_up_no_other_and_nothing_in_it_is_forgotten(api):
    cache = Cache(("team", "gone"))
    cache.put(worker("there", "gone"))
    cache.put(worker("deleted", "team"))
    api.seed(worker("new", "team"))
    assert await cache.verify(Limited(api, "team")) == [Key("Worker", "team", "new")]
    assert cache.get(WORKER, "gone", "there")
    assert cache.get(WORKER, "team", "deleted") is None


async def test_without_watched_namespaces_a_lack_of_rights_is_an_error(api):
    with pytest.raises(ApiError, match="forbidden"):
        await Cache().verify(Limited(api))


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED"])
async def test_news_of_realms_of_others_change_nothing(api, controller, kind):
    handlers = registry(controller.context.cache, controller, None, ("team", "other")).__dict__["_watching"]
    (seen,) = [handler.fn for handler in handlers.get_all_handlers() if handler.id == "watch-realms"]
    await seen(event={"type": kind, "object": realm("theirs", "default")})
    assert controller.context.cache.all(REALM) == []
    assert len(controller.context.queue) == 0
    await seen(event={"type": kind, "object": realm("mine", "team")})
    assert len(controller.context.queue) > 0


@pytest.fixture
async def controller(api):
    made = Controller(settings(), Limited(api, "team"), Cache(("team", "other")), KeyRing(SigningKey(bytes(32))))
    yield made
    await made.context.links.close()


async def reconciled(controller: Controller, api: Any, wanted: Object) -> Object:
    """The Ready condition of a Realm after one pass."""
    controller.context.cache.put(api.seed(wanted))
    await controller._reconcile(Key("Realm", "", wanted["metadata"]["name"]))
    stored = api.find(REALM, None, wanted["metadata"]["name"])
    return next(c for c in stored["status"]["conditions"] if c["type"] == "Ready")


@pytest.mark.parametrize("namespace", ["team", "other"], ids=["it is not there", "its rights are gone with it"])
async def test_a_namespace_that_is_not_there_is_told_and_not_made(api, controller, clock, namespace):
    ready = await reconciled(controller, api, realm("prod", namespace))
    assert (ready["status"], ready["reason"]) == ("False", "NamespaceMissing")
    assert ready["message"] == (
        f"namespace {namespace} is not there, or the operator has no rights in it; make it, then repeat helm upgrade, "
        "which brings the rights"
    )
    assert not [kind for verb, kind, _ in api.writes if (verb, kind) != ("create", "Event") and kind != "Realm"]


async def test_a_namespace_that_is_there_is_marked_without_trying_to_make_it(api, controller, clock):
    api.seed({"kind": "Namespace", "metadata": {"name": "team"}})
    ready = await reconciled(controller, api, realm("prod", "team"))
    assert ready["reason"] == "EngineStarting"
    assert ("patch", "Namespace", "team") in api.writes


async def test_the_webhook_admits_anothers_realm_unjudged_and_says_that_it_does_nothing_for_it(api):
    webhook = Webhook(settings(), api, Cache(("team", "other")))
    told: list[str] = []
    await webhook.review(
        kopf.Body({**realm("theirs", "elsewhere"), "spec": {"namespace": "elsewhere", "new": 1}}), told
    )
    assert told == [
        "spec.namespace: the operator in namespace agentos-system watches only team, other and does nothing for this Realm; "
        "it works if another operator watches its namespace"
    ]
    with pytest.raises(kopf.AdmissionError):
        await webhook.review(kopf.Body({**realm("mine", "team"), "spec": {"namespace": "team", "new": 1}}), told)


def test_a_forbidden_request_is_repeated_for_ever_at_a_growing_distance():
    seconds = list(itertools.islice(Backoffs(), 20))
    assert seconds == sorted(seconds)
    assert seconds[-1] == 30.0
