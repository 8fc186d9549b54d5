"""The admission webhook: what it refuses and warns of, and the endpoint that it serves."""

import asyncio
import base64
import json
import ssl
from datetime import UTC, datetime
from typing import Any

import aiohttp
import kopf
import pytest
from agentos_operator.cache import Cache
from agentos_operator.keys import webhook_certificate
from agentos_operator.kinds import VALIDATING_WEBHOOK, WORKER
from agentos_operator.settings import Settings
from agentos_operator.webhook import Webhook

HOST = "agentos-webhook.agentos-system.svc"


def settings(port: int = 0) -> Settings:
    return Settings(
        namespace="agentos-system",
        pod_name="operator-0",
        pod_uid="operator-uid",
        image="agentos:1",
        default_realm="",
        default_realm_namespace="",
        webhook_service="agentos-webhook",
        webhook_configuration="agentos",
        webhook_port=port,
    )


def worker(name: str = "mine", **spec: Any) -> dict:
    manifest = {"iii": "v1", "name": "mine"}
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"manifest": manifest, "image": "mine:1.0.0"} | spec,
    }


def claim(*holders: tuple[str, str]) -> dict:
    listed = [{"pattern": p, "worker": w, "uid": f"{w}-uid", "since": "2026-01-01T00:00:00Z"} for p, w in holders]
    metadata = {"name": "wasm", "namespace": "team", "uid": "c", "resourceVersion": "1"}
    return {"kind": "FunctionClaim", "metadata": metadata, "spec": {"segment": "wasm", "holders": listed}}


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def webhook(api, cache) -> Webhook:
    return Webhook(settings(), api, cache)


def review(webhook: Webhook, resource: dict, old: dict | None = None) -> list[str]:
    """The warnings of a review that admits; raises AdmissionError otherwise."""
    told: list[str] = []
    asyncio.run(webhook.review(kopf.Body(resource), warnings=told, old=old))
    return told


def test_a_stored_mistake_holds_up_neither_a_deletion_nor_a_label(webhook):
    bad = worker(owns=["sandbox::*"])
    assert review(webhook, bad, old=bad) == []
    leaving = bad | {"metadata": bad["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert review(webhook, leaving, old=worker(owns=["mine::*"])) == []
    with pytest.raises(kopf.AdmissionError):
        review(webhook, bad, old=worker(owns=["mine::*"]))


def test_a_good_worker_is_admitted_without_a_word(webhook):
    assert review(webhook, worker(owns=["mine::*"])) == []


def test_a_good_realm_is_admitted_without_a_word(webhook):
    realm = {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": "prod"}}
    assert review(webhook, realm | {"spec": {"namespace": "team"}}) == []


def test_one_error_is_refused_in_one_line(webhook):
    with pytest.raises(kopf.AdmissionError) as caught:
        review(webhook, worker(owns=["sandbox::*"]))
    assert str(caught.value) == (
        "spec.owns[0]: sandbox::* belongs to the engine; "
        "remove it, or claim a function namespace of your own such as my-worker::*"
    )
    assert caught.value.code == 422


def test_all_errors_are_told_at_once(webhook):
    bad = worker(owns=["sandbox", "tool*"], manifest={"iii": "v1", "name": "engine"})
    with pytest.raises(kopf.AdmissionError) as caught:
        review(webhook, bad)
    first, *lines = str(caught.value).splitlines()
    assert first == "3 errors:"
    assert [line.split(":")[0] for line in lines] == ["- spec.manifest.name", "- spec.owns[0]", "- spec.owns[1]"]


@pytest.mark.parametrize(
    "resource",
    [
        pytest.param({"kind": "Worker"}, id="nothing in it"),
        pytest.param(worker() | {"spec": []}, id="spec of another type"),
        pytest.param(worker(owns="wasm"), id="owns of another type"),
        pytest.param(worker(owns=[7]), id="owns with a number"),
        pytest.param({"kind": "Realm", "metadata": {}, "spec": {"namespace": {}}}, id="namespace of another type"),
    ],
)
def test_what_is_malformed_is_refused_and_never_crashes(webhook, resource):
    with pytest.raises(kopf.AdmissionError, match=r"\w"):
        review(webhook, resource)


def test_what_only_some_readers_refuse_is_admitted_with_a_warning(webhook):
    told = review(webhook, worker(manifest={"iii": "v1", "name": "mine", "version": "1.0.0"}))
    assert told == ["spec.manifest.version: iii worker add of 0.23 refuses the field version"]


def test_functions_of_another_worker_are_admitted_with_a_warning(webhook, cache):
    cache.put(claim(("wasm::*", "old")))
    assert review(webhook, worker(owns=["mine", "wasm"])) == [
        "spec.owns[1]: wasm::* is held by Worker old; this Worker waits, without a pod, and takes over by itself when "
        "that one is deleted"
    ]


def test_a_worker_that_replaces_the_holder_is_told_that_it_takes_over(webhook, cache):
    cache.put(claim(("wasm::*", "old")))
    assert review(webhook, worker(owns=["wasm"], replaces="old")) == [
        "spec.owns[0]: wasm::* is held by Worker old; this Worker takes over as soon as its pods answer"
    ]


def test_an_overlap_names_both_patterns(webhook, cache):
    cache.put(claim(("wasm::run", "old")))
    (told,) = review(webhook, worker(owns=["wasm::*"]))
    assert told.startswith("spec.owns[0]: wasm::* overlaps wasm::run, which is held by Worker old; ")


def test_its_own_functions_and_those_of_other_namespaces_are_no_clash(webhook, cache):
    cache.put(claim(("wasm::*", "mine")))
    assert review(webhook, worker(owns=["wasm"])) == []
    cache.put(claim(("wasm::*", "old")) | {"metadata": {"name": "wasm", "namespace": "other", "uid": "d"}})
    assert review(webhook, worker(owns=["wasm"])) == []


# --- The endpoint ---


def full_realm(cache: Cache, **quota: int) -> None:
    """A realm with this quota in the Workers' namespace, and one Worker of two pods in it."""
    metadata = {"name": "prod", "uid": "r-uid", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    cache.put({"kind": "Realm", "metadata": metadata, "spec": {"namespace": "team", "quota": quota}})
    there = worker("there", replicas=2, owns=["there::*"])
    there["metadata"] |= {"uid": "t-uid", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    cache.put(there)


def test_what_has_no_room_in_the_quota_is_refused_with_the_numbers(webhook, cache):
    full_realm(cache, replicas=3, workers=1)
    with pytest.raises(kopf.AdmissionError) as refused:
        review(webhook, worker(replicas=2))
    assert str(refused.value) == (
        "spec: goes beyond the quota of Realm prod (workers: 1 of 1 are used, 1 more are needed; "
        "replicas: 2 of 3 are used, 2 more are needed); shrink or delete Workers of its namespace, or raise spec.quota of the Realm"
    )


def test_what_fits_into_the_quota_is_admitted(webhook, cache):
    full_realm(cache, replicas=4, workers=2)
    assert review(webhook, worker(replicas=2)) == []


@pytest.mark.parametrize(("replicas", "admitted"), [(1, True), (2, True), (3, False)])
def test_a_worker_above_a_lowered_quota_may_change_and_shrink_but_not_grow(webhook, cache, replicas, admitted):
    full_realm(cache, replicas=1)
    old = cache.all(WORKER)[0]
    new = old | {"spec": old["spec"] | {"replicas": replicas, "env": [{"name": "A", "value": "b"}]}}
    if admitted:
        assert review(webhook, new, old) == []
    else:
        with pytest.raises(kopf.AdmissionError, match="replicas: 2 of 1 are used, 1 more are needed"):
            review(webhook, new, old)


def configuration(*bundles: str) -> dict:
    hooks = [
        {"name": f"hook-{n}", "clientConfig": {"service": {"name": "agentos-webhook"}} | ({"caBundle": b} if b else {})}
        for n, b in enumerate(bundles or ("", ""))
    ]
    return {"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "agentos"}, "webhooks": hooks}


class Endpoint:
    """A served webhook, and a client that trusts what the configuration says."""

    def __init__(self, api: Any, port: int) -> None:
        self.webhook, self.api, self.port = Webhook(settings(port), api, Cache()), api, port
        self.answers: list[dict] = []

    async def post(self, body: bytes | dict, path: str = "/validate") -> tuple[int, str]:
        hook = self.api.find(VALIDATING_WEBHOOK, None, "agentos")["webhooks"][0]
        authority = base64.b64decode(hook["clientConfig"]["caBundle"]).decode()
        trust = ssl.create_default_context(cadata=authority)
        data = body if isinstance(body, bytes) else json.dumps(body)
        url = f"https://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=data, ssl=trust, server_hostname=HOST) as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def endpoint(api, unused_tcp_port):
    api.seed(configuration())
    made = Endpoint(api, unused_tcp_port)

    async def echo(body: dict) -> dict:
        return {"got": body}

    serving = made.webhook.serve(echo)
    assert await anext(serving) == {"url": f"https://{HOST}/validate"}
    yield made
    await serving.aclose()


async def test_the_api_server_can_ask_it_over_tls(endpoint):
    status, text = await endpoint.post({"kind": "AdmissionReview"})
    assert (status, json.loads(text)) == (200, {"got": {"kind": "AdmissionReview"}})


async def test_it_says_that_it_serves(endpoint):
    assert endpoint.webhook.serving


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff"])
async def test_a_body_that_cannot_be_read_is_a_bad_request(endpoint, body):
    status, text = await endpoint.post(body)
    assert (status, text) == (400, "the body must be an AdmissionReview as JSON\n")


async def test_a_body_beyond_the_bound_is_refused(endpoint):
    status, _ = await endpoint.post(b" " * (5 << 20))
    assert status == 413


async def test_nothing_else_is_served(endpoint):
    status, _ = await endpoint.post({}, "/other")
    assert status == 404


async def test_a_client_that_trusts_others_does_not_talk_to_it(endpoint):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.post(f"https://127.0.0.1:{endpoint.port}/validate", data="{}", server_hostname=HOST)


async def test_every_hook_of_the_configuration_is_told_the_authority(endpoint):
    told = endpoint.api.find(VALIDATING_WEBHOOK, None, "agentos")["webhooks"]
    assert len({hook["clientConfig"]["caBundle"] for hook in told}) == 1
    assert [hook["clientConfig"]["service"] for hook in told] == [{"name": "agentos-webhook"}] * 2


async def test_a_configuration_that_is_right_is_not_written(endpoint, api):
    writes = len(api.writes)
    again = Webhook(settings(endpoint.port), api, Cache())
    certificate = await _certificate(api)
    await again._publish(certificate)
    assert len(api.writes) == writes


async def _certificate(api: Any) -> Any:
    return await webhook_certificate(api, "agentos-system", HOST, datetime.now(UTC))


async def test_a_configuration_that_comes_late_is_told_then(api, clock):
    late = Webhook(settings(), api, Cache())
    task = asyncio.create_task(late._publish(await _certificate(api)))
    await asyncio.sleep(60)
    assert not task.done()
    api.seed(configuration("b2xk"))
    await task
    hook = api.find(VALIDATING_WEBHOOK, None, "agentos")["webhooks"][0]
    assert b"BEGIN CERTIFICATE" in base64.b64decode(hook["clientConfig"]["caBundle"])


def test_dependencies_that_lead_back_are_a_warning_with_the_way_round(webhook, cache):
    def needing(name: str, *names: str) -> dict:
        return worker(name, manifest={"name": name, "dependencies": dict.fromkeys(names, "*")})

    for other in (needing("b", "c"), needing("c", "a"), needing("mine", "c")):
        other["metadata"] |= {"uid": other["metadata"]["name"], "resourceVersion": "1"}
        cache.put(other)
    assert review(webhook, needing("a", "x")) == []
    assert review(webhook, needing("a", "b", "iii-state")) == [
        "dependencies: a → b → c → a is a cycle: none of them can start before the others; remove one of these"
    ]


# --- The scale of a Worker ---


@pytest.mark.parametrize(("spec", "warned"), [({"autoscaling": {"max": 3, "targetInFlight": 1}}, True), ({}, False)])
async def test_scaling_a_worker_that_is_scaled_by_its_calls_is_warned_of(webhook, cache, spec, warned):
    resource = worker(**spec)
    resource["metadata"]["uid"] = "w"
    cache.put(resource)
    told: list[str] = []
    await webhook.review_scale(name="mine", namespace="team", warnings=told)
    assert bool(told) == warned


async def test_scaling_a_worker_that_is_not_known_yet_is_let_through(webhook):
    told: list[str] = []
    await webhook.review_scale(name="mine", namespace="team", warnings=told)
    assert told == []
