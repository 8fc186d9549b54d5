"""From what happened to keys of the queue, and from the queue to passes."""

import asyncio
import contextlib
from typing import Any

import pytest
from agentos_contracts.grants import Grant
from agentos_contracts.patterns import Pattern
from agentos_contracts.tokens import SigningKey
from agentos_operator.api import ApiError, FenceLost
from agentos_operator.bus import Link
from agentos_operator.cache import Cache
from agentos_operator.controller import Controller
from agentos_operator.key_ring import KeyRing
from agentos_operator.kinds import CLAIM, DEPLOYMENT, REALM, WORKER, Key, key_of
from agentos_operator.settings import REGISTERED_GATE, WORKER_LABEL, WORKER_UID_LABEL, Settings

CLAIMS = Key("Claims", "team", "")
REALM_KEY = Key("Realm", "", "prod")
KEY = KeyRing(SigningKey(bytes(32)))


def worker_key(name: str = "wasm") -> Key:
    return Key("Worker", "team", name)


def settings(**changes: Any) -> Settings:
    values = {
        "namespace": "agentos-system",
        "pod_name": "operator-0",
        "pod_uid": "operator-uid",
        "image": "agentos:1",
        "default_realm": "",
        "default_realm_namespace": "",
        "webhook_service": "",
        "webhook_configuration": "",
        "resync": 600.0,
    }
    return Settings(**values | changes)


def obj(kind: str, name: str, labels: dict | None = None, *, version: int = 1, **more: Any) -> dict:
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"{name}-uid",
        "generation": 1,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": labels or {},
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata | more.pop("metadata", {})} | more


def worker(name: str = "wasm", **more: Any) -> dict:
    spec = {"manifest": {"iii": "v1", "name": name}, "image": "wasm:1", "owns": [f"{name}::*"]} | more.pop("spec", {})
    return obj("Worker", name, spec=spec, **more) | {"apiVersion": "agentos.dev/v1alpha1"}


def realm() -> dict:
    made = obj("Realm", "prod", spec={"namespace": "team"}) | {"apiVersion": "agentos.dev/v1alpha1"}
    del made["metadata"]["namespace"]
    return made


class Happening:
    """A controller with a realm, whose queue is read but not worked off."""

    def __init__(self, api: Any, **changes: Any) -> None:
        self.api, self.cache = api, Cache()
        self.controller = Controller(settings(**changes), api, self.cache, KEY)
        self.cache.put(realm())

    async def keys(self) -> set[Key]:
        """What is in the queue now."""
        queue, found = self.controller.context.queue, set()
        while len(queue):
            key = await queue.get()
            queue.done(key)
            found.add(key)
        return found

    async def settle(self) -> None:
        """Works off all keys but the Realm's, until none is due within the next seconds."""
        with contextlib.suppress(TimeoutError):
            while True:
                key = await asyncio.wait_for(self.controller.context.queue.get(), 10)
                if key.kind != "Realm":
                    await self.controller._reconcile(key)
                self.controller.context.queue.done(key)

    def sees(self, seen: dict) -> None:
        """What the watch does with an object that is new or changed."""
        self.controller.changed(seen, self.cache.put(seen))

    def loses(self, gone: dict) -> None:
        """What the watch does with a deletion."""
        self.cache.drop(Key(gone["kind"], gone["metadata"].get("namespace", ""), gone["metadata"]["name"]))
        self.controller.deleted(gone)


@pytest.fixture
def happening(api, clock) -> Happening:
    return Happening(api)


async def test_a_new_worker_has_its_claims_decided_before_its_own_pass(happening):
    happening.sees(worker())
    assert await happening.keys() == {CLAIMS, REALM_KEY}
    assert happening.controller.context.dirty["team"] == {worker_key()}


async def test_the_echo_of_its_own_status_is_not_worked_on(happening):
    happening.sees(worker())
    await happening.keys()
    happening.controller.context.dirty.clear()
    happening.sees(worker(version=2, status={"replicas": 1}))
    assert await happening.keys() <= {REALM_KEY}
    assert not happening.controller.context.dirty


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"generation": 2}, id="spec"),
        pytest.param({"deletionTimestamp": "2026-01-02T00:00:00Z"}, id="deletion"),
        pytest.param({"uid": "new-uid"}, id="made anew"),
    ],
)
async def test_what_people_change_is_worked_on(happening, change):
    happening.sees(worker())
    await happening.keys()
    happening.sees(worker(version=2, metadata=change))
    assert CLAIMS in await happening.keys()


async def test_a_deleted_worker_is_worked_on(happening):
    happening.sees(worker())
    await happening.keys()
    happening.controller.context.dirty.clear()
    happening.loses(worker())
    assert CLAIMS in await happening.keys()
    assert happening.controller.context.dirty["team"] == {worker_key()}


OF_WASM = {"agentos.dev/worker": "wasm", "agentos.dev/worker-uid": worker()["metadata"]["uid"]}
CHILDREN = [
    (
        "pod of the worker that had the name before",
        obj("Pod", "wasm-0", OF_WASM | {"agentos.dev/worker-uid": "old-uid"}),
        {worker_key(), CLAIMS},
    ),
    ("deployment of a worker", obj("Deployment", "wasm", OF_WASM), {worker_key()}),
    ("pod of a worker", obj("Pod", "wasm-1", OF_WASM), {worker_key()}),
    ("pod of a worker that is gone", obj("Pod", "old-1", {"agentos.dev/worker": "old"}), {worker_key("old"), CLAIMS}),
    ("engine", obj("StatefulSet", "agentos-engine", {"agentos.dev/realm": "prod"}), {REALM_KEY}),
    ("pod of the engine", obj("Pod", "agentos-engine-0", {"agentos.dev/realm": "prod"}), {REALM_KEY}),
    ("claim", obj("FunctionClaim", "wasm"), {CLAIMS}),
    ("ConfigMap that nobody uses", obj("ConfigMap", "other"), set()),
    ("pod of nobody", obj("Pod", "stray"), set()),
]


@pytest.mark.parametrize(("seen", "keys"), [pytest.param(*c[1:], id=c[0]) for c in CHILDREN])
@pytest.mark.parametrize("how", ["changed", "deleted"])
async def test_what_happens_to_a_child_touches_those_that_it_concerns(happening, seen, keys, how):
    happening.cache.put(worker())
    getattr(happening.controller, how)(*([seen, None] if how == "changed" else [seen]))
    assert await happening.keys() == keys


async def test_a_config_map_touches_the_workers_that_read_their_manifest_from_it(happening, api):
    reference = {"configMapKeyRef": {"name": "manifests"}}
    reader = worker("reader", spec={"manifest": None, "manifestFrom": reference})
    happening.cache.put(api.seed(reader))
    await happening.controller._reconcile(worker_key("reader"))
    await happening.keys()
    happening.sees(obj("ConfigMap", "manifests", data={}))
    assert await happening.keys() == {worker_key("reader")}


async def test_a_realm_touches_its_workers_and_the_other_realms(happening):
    happening.cache.put(worker())
    happening.sees(realm() | {"metadata": realm()["metadata"] | {"generation": 2, "resourceVersion": "2"}})
    assert await happening.keys() == {REALM_KEY, CLAIMS}
    assert happening.controller.context.dirty["team"] == {worker_key()}


BUS = [
    ("a worker's connection", frozenset({"wasm-uid"}), {REALM_KEY, worker_key()}),
    ("the link itself", None, {REALM_KEY, worker_key(), worker_key("other"), CLAIMS}),
    ("a worker that is gone", frozenset({"gone-uid"}), {REALM_KEY, CLAIMS}),
    ("nobody's connection", frozenset(), {REALM_KEY}),
]


@pytest.mark.parametrize(("uids", "keys"), [pytest.param(*b[1:], id=b[0]) for b in BUS])
async def test_what_happens_on_the_bus_touches_those_that_it_concerns(happening, uids, keys):
    happening.cache.put(worker())
    happening.cache.put(worker("other"))
    happening.controller._bus_changed("prod", "team", uids)
    assert await happening.keys() == keys


# --- Work ---


@pytest.fixture
async def running(api, clock):
    """Starts a controller's work with passes of the test's own; ends it with the test."""
    tasks: list[asyncio.Task] = []

    def start(work: Any, **changes: Any) -> tuple[Happening, asyncio.Task]:
        made = Happening(api, consumers=2, **changes)
        made.controller._reconcile = work
        api.seed(realm())
        tasks.append(asyncio.create_task(made.controller.run()))
        return made, tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, FenceLost):
            await task


@pytest.mark.parametrize(
    "error",
    [ApiError(500, "InternalError", "away"), ConnectionResetError("away"), TimeoutError(), KeyError("a fault of ours")],
    ids=["refused", "reset", "timeout", "fault"],
)
async def test_a_pass_that_fails_is_retried_and_stops_nobody(running, error):
    done: list[Key] = []
    left = [error] * 3

    async def work(key: Key) -> None:
        if key.name == "bad" and left:
            raise left.pop()
        done.append(key)

    happening, task = running(work)
    happening.controller.context.queue.add(worker_key("bad"))
    happening.controller.context.queue.add(worker_key("good"))
    await asyncio.sleep(0.05)
    assert worker_key("good") in done
    assert worker_key("bad") not in done
    await asyncio.sleep(5)
    assert done.count(worker_key("bad")) == 1
    assert not task.done()


async def test_everything_is_looked_at_when_work_begins_and_at_each_resync(running, api):
    done: list[Key] = []

    async def work(key: Key) -> None:
        done.append(key)

    happening, _ = running(work, resync=60.0)
    happening.cache.put(api.seed(worker()))
    await asyncio.sleep(30)
    assert set(done) == {REALM_KEY, CLAIMS}
    done.clear()
    await asyncio.sleep(60)
    assert set(done) == {REALM_KEY, CLAIMS}


async def test_nothing_is_worked_on_before_the_watches_have_shown_everything(running, api):
    done: list[Key] = []

    async def work(key: Key) -> None:
        done.append(key)

    unseen = api.seed(worker())
    happening, _ = running(work)
    await asyncio.sleep(3)
    assert done == []
    happening.sees(unseen)
    await asyncio.sleep(30)
    assert CLAIMS in done


async def test_what_a_watch_never_brings_is_read_by_itself(running, api):
    done: list[Key] = []

    async def work(key: Key) -> None:
        done.append(key)

    api.seed(worker())
    happening, _ = running(work)
    await asyncio.sleep(60)
    assert happening.cache.get(WORKER, "team", "wasm")
    assert CLAIMS in done


async def test_a_resync_that_fails_is_made_up_for_by_the_next(running, api, refused):
    done: list[Key] = []

    async def work(key: Key) -> None:
        done.append(key)

    _, task = running(work, resync=60.0)
    await asyncio.sleep(30)
    done.clear()
    api.fail["list", "Worker", ""] = refused
    await asyncio.sleep(60)
    assert not task.done()
    assert done == []
    await asyncio.sleep(60)
    assert REALM_KEY in done


async def test_a_lost_fence_ends_all_work(running):
    passes = 0

    async def work(key: Key) -> None:
        nonlocal passes
        passes += 1
        raise FenceLost("POST /api/v1/pods")

    happening, task = running(work)
    happening.controller.context.queue.add(worker_key())
    with pytest.raises(FenceLost):
        await task
    before = passes
    happening.controller.context.queue.add(worker_key("other"))
    await asyncio.sleep(60)
    assert passes == before


async def test_the_default_realm_is_made_once(running, api):
    async def work(key: Key) -> None:
        pass

    happening, _ = running(work, default_realm="default", default_realm_namespace="default")
    await asyncio.sleep(1)
    made = api.find(REALM, None, "default")
    assert made["spec"] == {"namespace": "default"}
    assert happening.cache.get(REALM, "", "default")
    running(work, default_realm="prod")
    await asyncio.sleep(1)
    assert [write for write in api.writes if write[1] != "Secret"] == [("create", "Realm", "default")]


async def test_a_default_realm_that_another_replica_made_is_fine(running, api):
    async def work(key: Key) -> None:
        pass

    happening, task = running(work, default_realm="default", default_realm_namespace="default")
    happening.cache.verified.set()
    theirs = realm()
    theirs["metadata"] |= {"name": "default"}

    verify = happening.cache.verify

    async def and_then_theirs(*arguments: Any) -> Any:
        missing = await verify(*arguments)
        api.seed(theirs)
        return missing

    happening.cache.verify = and_then_theirs
    await asyncio.sleep(1)
    assert not task.done()


# --- Passes, from end to end on an API in memory ---


async def test_a_new_realm_has_its_api_key_before_the_engine_that_reads_it(happening, api, monkeypatch):
    async def keep(*_: object) -> None:
        pass

    monkeypatch.setattr(happening.controller.context.links, "keep", keep)
    api.seed(realm())
    for _ in range(2):
        await happening.controller._reconcile(REALM_KEY)
    made = [(kind, name) for verb, kind, name in api.writes if verb == "create" and kind != "Event"]
    assert made == [
        ("Namespace", "team"),
        ("Secret", "agentos-api-key"),
        ("NetworkPolicy", "agentos-engine"),
        ("NetworkPolicy", "agentos-workers"),
        ("ServiceAccount", "agentos-engine"),
        ("Service", "agentos-engine"),
        ("Secret", "agentos-verify-keys"),
        ("StatefulSet", "agentos-engine"),
    ]


async def test_a_new_worker_gets_its_claim_then_its_objects_then_its_status(happening, api):
    happening.cache.put(api.seed(realm()))
    happening.sees(api.seed(worker()))
    await happening.settle()
    assert [(verb, kind) for verb, kind, _ in api.writes] == [
        ("create", "FunctionClaim"),
        ("create", "Secret"),
        ("create", "ServiceAccount"),
        ("create", "Deployment"),
        ("patch status", "Worker"),
        ("create", "Event"),
    ]
    told = happening.cache.get(WORKER, "team", "wasm")["status"]["conditions"]
    claimed = next(c for c in told if c["type"] == "FunctionsClaimed")
    assert (claimed["status"], claimed["message"]) == ("True", "wasm::*")


async def test_a_worker_that_asks_for_anothers_functions_waits_and_follows(happening, api):
    happening.cache.put(api.seed(realm()))
    first = api.seed(worker("first", spec={"owns": ["wasm"]}))
    second = worker("second", spec={"owns": ["wasm"]}, metadata={"creationTimestamp": "2026-01-02T00:00:00Z"})
    happening.sees(first)
    happening.sees(api.seed(second))
    await happening.settle()
    assert [name for verb, kind, name in api.writes if (verb, kind) == ("create", "Deployment")] == ["first"]
    told = happening.cache.get(WORKER, "team", "second")["status"]["conditions"]
    claimed = next(c for c in told if c["type"] == "FunctionsClaimed")
    assert (claimed["status"], claimed["reason"]) == ("False", "Clash")
    assert "held by Worker first" in claimed["message"]
    del api.objects[worker_key("first")]
    happening.loses(first)
    await happening.settle()
    assert [name for verb, kind, name in api.writes if (verb, kind) == ("create", "Deployment")] == ["first", "second"]
    assert ("delete", "Deployment", "first") in api.writes


@pytest.mark.parametrize("owner", ["stripped", "of a uid that is gone"])
async def test_a_deployment_that_a_restore_brought_back_is_made_anew_for_the_worker_of_now(happening, api, owner):
    happening.cache.put(api.seed(realm()))
    happening.sees(api.seed(worker()))
    await happening.settle()
    left = api.find(DEPLOYMENT, "team", "wasm")
    left["metadata"] |= {"uid": "restored"}
    if owner == "stripped":
        left["metadata"].pop("ownerReferences")
    else:
        left["metadata"]["ownerReferences"][0]["uid"] = "of-before"
    left["spec"]["selector"] = {"matchLabels": {"agentos.dev/worker-uid": "of-before"}}
    happening.cache.drop(key_of(left))
    happening.sees(left)
    await happening.settle()
    made = api.find(DEPLOYMENT, "team", "wasm")
    assert made["spec"]["selector"]["matchLabels"] == {"agentos.dev/worker-uid": "wasm-uid"}
    assert made["metadata"]["ownerReferences"][0]["uid"] == "wasm-uid"


async def test_the_pods_of_a_deleted_realms_workers_stay_until_its_engine_has_ended(happening, api):
    happening.cache.put(api.seed(realm()))
    happening.sees(api.seed(worker()))
    labels = {"app.kubernetes.io/name": "agentos-engine", "agentos.dev/realm": "prod"}
    engine = obj("Pod", "agentos-engine-0", labels)
    happening.sees(engine)
    await happening.settle()
    happening.loses(realm())
    await happening.settle()
    assert api.find(DEPLOYMENT, "team", "wasm")
    happening.loses(engine)
    await happening.controller._reconcile(REALM_KEY)
    await happening.settle()
    assert not api.find(DEPLOYMENT, "team", "wasm")


# --- Grants ---


class Linked:
    """A happening whose realm's engine is linked, in memory. It acknowledges all grants, unless it is ``deaf``."""

    def __init__(self, happening: Happening) -> None:
        self.happening, self.deaf = happening, False
        self.links = happening.controller.context.links
        self.table = self.links.grants("prod")
        changed = happening.controller._bus_changed
        self.link = Link("ws://engine", lambda uids: changed("prod", "team", uids), self.table)
        self.links._links["prod"] = self.link
        self.pushes: list[list[str]] = []
        self.link.take_entries([], snapshot=True)
        self.task = asyncio.create_task(self._acknowledge())

    async def _acknowledge(self) -> None:
        self.table.start_anew()
        while True:
            push = await self.table.next()
            if self.deaf:
                await asyncio.sleep(1)
                continue
            self.pushes.append(sorted(grant.uid for grant in push.grants))
            self.table.acknowledge(push)

    def connect(self, uid: str, functions: list[str], waiting: list[str], *, connected: bool = True) -> None:
        told = {"worker_id": f"c-{uid}", "uid": uid, "pod_uid": f"pod-{uid}", "connected": connected}
        self.link.take_entries([told | {"functions": functions, "waiting": waiting}], snapshot=False)

    def grant(self, name: str = "wasm") -> Grant | None:
        return self.table.wanted.get(f"{name}-uid")

    def owns(self, name: str = "wasm") -> list[str]:
        grant = self.grant(name)
        return [] if grant is None else [pattern.text for pattern in grant.owns]


@pytest.fixture
async def linked(happening, api):
    happening.cache.put(api.seed(realm()))
    made = Linked(happening)
    yield made
    made.task.cancel()


async def test_a_new_worker_is_granted_what_it_holds_before_its_pods_are_made(linked, happening, api):
    started: list[bool] = []
    create = api.create

    async def creating(kind: Any, body: dict) -> dict:
        if kind.kind == "Deployment":
            started.append(linked.table.is_acknowledged("wasm-uid"))
        return await create(kind, body)

    api.create = creating
    happening.sees(api.seed(worker(spec={"calls": ["publish"], "stateScopes": ["a"]})))
    await happening.settle()
    assert started == [True]
    grant = linked.grant()
    assert grant is not None
    assert linked.owns() == ["wasm::*"]
    assert grant == Grant("wasm-uid", "team/wasm", owns=grant.owns, calls=(Pattern("publish"),), state_scopes=("a",))
    assert [status for status in api.writes if status[0] == "patch status"] == [("patch status", "Worker", "wasm")]


async def test_no_pod_is_made_while_the_engine_has_not_taken_the_grant(linked, happening, api):
    linked.deaf = True
    happening.sees(api.seed(worker()))
    await happening.controller._reconcile(CLAIMS)
    await happening.controller._reconcile(worker_key())
    assert "Deployment" not in {kind for _, kind, _ in api.writes}
    told = happening.cache.get(WORKER, "team", "wasm")["status"]["conditions"]
    assert next(c for c in told if c["type"] == "Ready")["reason"] == "ClaimPending"
    linked.deaf = False
    await happening.settle()
    assert ("create", "Deployment", "wasm") in api.writes


async def test_an_edit_of_calls_is_granted_and_writes_nothing_to_the_cluster(linked, happening, api):
    happening.sees(api.seed(worker()))
    await happening.settle()
    linked.pushes.clear()
    edited = worker(version=500, spec={"calls": ["other::x"]}, metadata={"generation": 2})
    before = [write for write in api.writes if write[1] in ("FunctionClaim", "Deployment")]
    happening.sees(edited)
    await happening.settle()
    grant = linked.grant()
    assert grant is not None
    assert [pattern.text for pattern in grant.calls or ()] == ["other::x"]
    assert linked.pushes == [["wasm-uid"]]
    assert [write for write in api.writes if write[1] in ("FunctionClaim", "Deployment")] == before


async def test_a_deleted_worker_leaves_at_once_and_has_no_grant_once_its_pods_are_gone(linked, happening, api):
    seen = api.seed(worker())
    happening.sees(seen)
    running_pod = obj("Pod", "wasm-0", OF_WASM, status={"phase": "Running"})
    happening.sees(running_pod)
    await happening.settle()
    linked.connect("wasm-uid", ["wasm::x"], [])
    del api.objects[worker_key()]
    happening.loses(seen)
    await happening.controller._reconcile(CLAIMS)
    grant = linked.grant()
    assert grant is not None
    assert (grant.leaving, linked.owns()) == (True, ["wasm::*"])
    await happening.settle()
    happening.loses(running_pod)
    await happening.settle()
    assert linked.grant() is None


async def test_a_worker_that_declares_nothing_gets_what_it_registers(linked, happening, api):
    happening.sees(api.seed(worker("finder", spec={"owns": None})))
    happening.sees(api.seed(worker("other", spec={"owns": ["a::x"]})))
    await happening.settle()
    grant = linked.grant("finder")
    assert grant is not None
    assert (grant.discover, linked.owns("finder")) == (True, [])
    linked.connect("finder-uid", [], ["a::x", "a::y"])
    await happening.settle()
    assert linked.owns("finder") == ["a::y"]
    assert linked.table.is_acknowledged("finder-uid")
    claim = api.find(CLAIM, "team", "a")
    assert [(h["pattern"], h["worker"]) for h in claim["spec"]["holders"]] == [("a::x", "other"), ("a::y", "finder")]


async def test_what_was_discovered_outlives_a_reconnection_and_goes_when_it_is_not_served_any_more(
    linked, happening, api
):
    happening.sees(api.seed(worker("finder", spec={"owns": None})))
    await happening.settle()
    linked.connect("finder-uid", [], ["a::x", "a::y"])
    await happening.settle()
    linked.connect("finder-uid", ["a::x", "a::y"], [])
    linked.connect("finder-uid", [], [], connected=False)
    await happening.settle()
    assert linked.owns("finder") == ["a::x", "a::y"]
    linked.connect("finder-uid", ["a::x"], [])
    await happening.settle()
    assert linked.owns("finder") == ["a::x", "a::y"]
    await asyncio.sleep(20)
    await happening.settle()
    assert linked.owns("finder") == ["a::x"]


async def test_an_operator_that_starts_anew_grants_what_is_recorded(linked, happening, api):
    happening.cache.put(api.seed(worker("finder", spec={"owns": None})))
    recorded = {"segment": "a", "holders": [{"pattern": "a::x", "worker": "finder", "uid": "finder-uid", "since": "s"}]}
    happening.cache.put(api.seed(obj("FunctionClaim", "a", spec=recorded)))
    await happening.controller._reconcile(CLAIMS)
    assert linked.owns("finder") == ["a::x"]
    assert linked.pushes == [["finder-uid"]]


async def test_a_realm_without_workers_is_told_too(happening, api):
    happening.sees(realm() | {"metadata": realm()["metadata"] | {"generation": 2, "resourceVersion": "2"}})
    assert CLAIMS in await happening.keys()
    await happening.controller._reconcile(CLAIMS)
    push = await asyncio.wait_for(happening.controller.context.links.grants("prod").next(), 1)
    assert (push.complete, push.grants) == (True, ())


@pytest.mark.parametrize(("owns", "decided"), [(None, True), (["wasm::*"], False)], ids=["undeclared", "declared"])
async def test_what_waits_on_the_bus_has_its_claims_decided_when_nothing_was_declared(linked, happening, owns, decided):
    happening.cache.put(worker(spec={"owns": owns}))
    await happening.keys()
    linked.connect("wasm-uid", [], ["other::x"])
    assert (CLAIMS in await happening.keys()) == decided


async def test_a_claim_that_cannot_be_written_holds_up_nobody_elses_grant(linked, happening, api, refused):
    happening.sees(api.seed(worker("quiet", spec={"calls": ["a::b"]})))
    await happening.settle()
    happening.sees(worker("quiet", version=500, spec={"calls": []}, metadata={"generation": 2}))
    happening.sees(api.seed(worker("loud")))
    api.fail["create", "FunctionClaim", "loud"] = refused
    with pytest.raises(ApiError):
        await happening.controller._reconcile(CLAIMS)
    grant = linked.grant("quiet")
    assert grant is not None
    assert grant.calls == ()
    assert linked.owns("loud") == []


async def test_a_pod_that_leaves_the_bus_is_not_ready_after_the_grace_even_as_the_last_of_its_realm(
    linked, happening, api
):
    happening.sees(api.seed(worker()))
    await happening.settle()
    labels = {WORKER_LABEL: "wasm", WORKER_UID_LABEL: "wasm-uid"}
    status = {"phase": "Running", "conditions": [{"type": REGISTERED_GATE, "status": "True"}]}
    metadata = {"name": "wasm-0", "namespace": "team", "uid": "pod-wasm-uid", "labels": labels}
    happening.sees(api.seed({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}))
    linked.connect("wasm-uid", ["wasm::execute"], [])
    await happening.settle()
    linked.connect("wasm-uid", [], [], connected=False)
    await happening.settle()
    assert ("patch status", "Pod", "wasm-0") not in api.writes
    await asyncio.sleep(10)
    await happening.settle()
    gate = next(body for body in reversed(api.bodies) if body.get("metadata") == {"uid": "pod-wasm-uid"})
    assert gate["status"]["conditions"][0]["status"] == "False"


async def test_a_link_to_an_engine_without_workers_is_ended_with_its_realm(linked, happening):
    linked.link.start()
    running = linked.link._task
    await linked.links.drop("prod")
    assert running.done()
