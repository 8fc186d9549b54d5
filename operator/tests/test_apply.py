"""Children of a Worker or Realm: made, adopted, mended, and left alone when they are as wanted."""

import copy
from typing import Any

import pytest
from agentos_operator.api import ApiError, KindMissing, NotFound
from agentos_operator.apply import Applier, NotOurs, covers, merged
from agentos_operator.cache import Cache
from agentos_operator.kinds import DEPLOYMENT, NETWORK_POLICY, SECRET, Key, key_of
from agentos_operator.plan.objects.metadata import seal

OWNER = "owner-uid"


def child(kind: str = "Deployment", owner: str = OWNER, owner_name: str = "wasm", **spec: Any) -> dict:
    made: dict = {
        "apiVersion": "apps/v1" if kind in ("Deployment", "StatefulSet") else "v1",
        "kind": kind,
        "metadata": {
            "name": "wasm",
            "namespace": "team",
            "labels": {"agentos.dev/worker": "wasm"},
            "ownerReferences": [{"kind": "Worker", "name": owner_name, "uid": owner, "controller": True}],
        },
    }
    return seal(made | ({"spec": {"replicas": 1} | spec} if kind != "Secret" else {"data": spec}))


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def applier(api, cache) -> Applier:
    return Applier(api, cache)


# --- Comparing ---

SAME = [
    ("defaults beside it", {"a": 1, "default": True}, {"a": 1}),
    ("defaults deep inside", {"a": {"b": [{"c": 1, "d": 2}]}}, {"a": {"b": [{"c": 1}]}}),
    ("half a core", "500m", "0.5"),
    ("a whole core", "1", 1),
    ("a quantity in another unit", "1Gi", "1024Mi"),
    ("decimal units", "1500M", "1.5G"),
    ("bytes", "1024", "1Ki"),
    ("a thousand", "1k", 1000),
    ("an empty list", [], []),
    ("nothing wanted", {"a": 1}, {}),
    ("what is wanted empty is left out by the API server", {}, {"args": [], "value": "", "nodeSelector": {}}),
]
DIFFERENT = [
    ("another value", {"a": 1}, {"a": 2}),
    ("a field is missing", {}, {"a": 1}),
    ("a longer list", [1, 2], [1]),
    ("a shorter list", [1], [1, 2]),
    ("another order", ["a", "b"], ["b", "a"]),
    ("a map instead of a list", {}, [1]),
    ("a text instead of a map", "x", {"a": 1}),
    ("true is not a text", "true", True),
    ("false is not zero's text", "0", False),
    ("another quantity", "1G", "1Gi"),
    ("a quantity of another size", "2", "2m"),
    ("other texts", "latest", "newest"),
    ("null is not empty", None, ""),
    ("what is wanted empty has something in it", {"args": ["x"]}, {"args": []}),
]


@pytest.mark.parametrize(("actual", "wanted"), [pytest.param(*r[1:], id=r[0]) for r in SAME])
def test_what_is_wanted_is_there(actual, wanted):
    assert covers(actual, wanted)


@pytest.mark.parametrize(("actual", "wanted"), [pytest.param(*r[1:], id=r[0]) for r in DIFFERENT])
def test_what_is_wanted_is_not_there(actual, wanted):
    assert not covers(actual, wanted)


@pytest.mark.parametrize("suffix", ["n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
def test_every_unit_of_a_quantity_is_known(suffix):
    assert covers(f"2{suffix}", f"2.0{suffix}")
    assert not covers(f"2{suffix}", "2")


def test_merging_keeps_what_others_added_and_takes_the_rest_from_the_plan():
    wanted = child(replicas=2)
    actual = child(replicas=1, paused=True)
    actual["metadata"] |= {"uid": "d", "resourceVersion": "9", "managedFields": [{}], "finalizers": ["other/keep"]}
    actual["metadata"]["labels"] |= {"team": "a", "agentos.dev/worker": "edited"}
    actual["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "3"
    actual["status"] = {"replicas": 1}
    untouched = copy.deepcopy(actual)
    sent = merged(actual, wanted)
    assert sent["spec"] == {"replicas": 2}
    assert sent["metadata"]["labels"] == {"team": "a", "agentos.dev/worker": "wasm"}
    assert sent["metadata"]["annotations"] == wanted["metadata"]["annotations"] | {
        "deployment.kubernetes.io/revision": "3"
    }
    assert (sent["metadata"]["uid"], sent["metadata"]["resourceVersion"]) == ("d", "9")
    assert sent["metadata"]["finalizers"] == ["other/keep"]
    assert "managedFields" not in sent["metadata"]
    assert actual == untouched


def test_merging_keeps_a_stateful_sets_volumes_which_cannot_change():
    actual = child("StatefulSet", volumeClaimTemplates=[{"metadata": {"name": "data"}}])
    assert merged(actual, child("StatefulSet"))["spec"] == {
        "replicas": 1,
        "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
    }


# --- Ensuring ---


@pytest.mark.parametrize("kind", ["Deployment", "Secret"])
async def test_what_is_missing_is_created_and_then_left_alone(api, applier, kind):
    assert await applier.ensure(child(kind), OWNER) is True
    assert await applier.ensure(child(kind), OWNER) is False
    assert api.writes == [("create", kind, "wasm")]
    assert api.reads == []


async def test_a_created_deployment_is_known_before_the_watch_tells_of_it(applier, cache):
    await applier.ensure(child(), OWNER)
    assert cache.get(DEPLOYMENT, "team", "wasm")["metadata"]["uid"]


@pytest.mark.parametrize("kind", ["Deployment", "Secret"])
async def test_after_a_restart_its_own_child_is_adopted(api, cache, kind):
    await Applier(api, cache).ensure(child(kind), OWNER)
    again = Applier(api, cache)
    assert await again.ensure(child(kind), OWNER) is False
    assert [verb for verb, *_ in api.writes if verb != "create"] == []


@pytest.mark.parametrize("kind", ["Deployment", "Secret"])
async def test_a_child_that_the_cache_lacks_is_read_and_brought_up_to_date(api, applier, kind):
    api.seed(child(kind, old="value"))
    assert await applier.ensure(child(kind, new="value"), OWNER) is True
    assert api.writes == [("create", kind, "wasm"), ("replace", kind, "wasm")]
    assert api.reads == [("get", kind, "wasm")]


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param({"owner": "another-uid", "owner_name": "another"}, id="another owner's"),
        pytest.param({}, id="nobody's"),
    ],
)
@pytest.mark.parametrize("kind", ["Deployment", "Secret"])
async def test_somebody_elses_object_is_never_touched(api, applier, kind, foreign):
    there = child(kind, **foreign)
    if not foreign:
        there["metadata"].pop("ownerReferences")
    before = copy.deepcopy(api.seed(there))
    with pytest.raises(NotOurs) as caught:
        await applier.ensure(child(kind), OWNER)
    assert str(caught.value) == (
        f"a {kind} named wasm is there already and is not this resource's; delete or rename one of them"
    )
    assert api.objects[key_of(there)] == before


async def test_somebody_elses_deployment_in_the_cache_is_never_touched(api, applier, cache):
    cache.put(api.seed(child(owner="another-uid")))
    with pytest.raises(NotOurs):
        await applier.ensure(child(), OWNER)
    assert api.writes == []


async def test_a_change_of_what_is_wanted_replaces(api, applier):
    await applier.ensure(child(image="a"), OWNER)
    assert await applier.ensure(child(image="b"), OWNER) is True
    assert api.writes[-1] == ("replace", "Deployment", "wasm")
    assert api.find(DEPLOYMENT, "team", "wasm")["spec"]["image"] == "b"


async def test_a_field_that_is_no_longer_wanted_is_removed(api, applier):
    await applier.ensure(child(image="a", extra="x"), OWNER)
    await applier.ensure(child(image="a"), OWNER)
    assert "extra" not in api.find(DEPLOYMENT, "team", "wasm")["spec"]


async def test_a_deployment_that_somebody_edited_is_mended(api, applier, cache):
    await applier.ensure(child(), OWNER)
    edited = await api.get(DEPLOYMENT, "team", "wasm")
    edited["spec"]["replicas"] = 5
    cache.put(api.seed(edited))
    assert await applier.ensure(child(), OWNER) is True
    assert api.find(DEPLOYMENT, "team", "wasm")["spec"]["replicas"] == 1


async def test_what_the_api_server_and_its_controllers_add_is_no_difference(api, applier, cache):
    await applier.ensure(child(), OWNER)
    told = await api.get(DEPLOYMENT, "team", "wasm")
    told["spec"] |= {"progressDeadlineSeconds": 600}
    told["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    told["status"] = {"replicas": 1}
    cache.put(api.seed(told))
    assert await applier.ensure(child(), OWNER) is False


class OldCluster:
    """An API that leaves out a field it does not know, as one with a feature switched off does."""

    def __init__(self, api) -> None:
        self._api = api

    async def create(self, kind, obj):
        return await self._api.create(kind, without_new(obj))

    async def replace(self, kind, obj):
        return await self._api.replace(kind, without_new(obj))

    async def get(self, kind, namespace, name):
        return await self._api.get(kind, namespace, name)


def without_new(obj: dict) -> dict:
    return obj | {"spec": {key: value for key, value in obj["spec"].items() if key != "new"}}


async def test_a_field_that_the_cluster_leaves_out_is_not_written_again_with_each_pass(api, cache):
    applier = Applier(OldCluster(api), cache)  # type: ignore[arg-type]
    for wanted in (child(new=1), child(new=1, image="b")):
        assert await applier.ensure(wanted, OWNER) is True
        assert await applier.ensure(wanted, OWNER) is False
        applier.forget_all()
        assert await applier.ensure(wanted, OWNER) is False
    edited = await api.get(DEPLOYMENT, "team", "wasm")
    edited["spec"]["replicas"] = 5
    cache.put(api.seed(edited))
    assert await applier.ensure(child(new=1, image="b"), OWNER) is True
    assert api.find(DEPLOYMENT, "team", "wasm")["spec"] == {"replicas": 1, "image": "b"}


async def test_a_deleted_deployment_is_made_again(api, applier, cache):
    await applier.ensure(child(), OWNER)
    there = cache.get(DEPLOYMENT, "team", "wasm")
    await api.delete(DEPLOYMENT, "team", "wasm", there["metadata"]["uid"])
    cache.drop(key_of(there))
    assert await applier.ensure(child(), OWNER) is True
    assert api.find(DEPLOYMENT, "team", "wasm")


async def test_a_failed_write_is_not_taken_for_done(api, applier, refused):
    api.fail["create", "Secret", "wasm"] = refused
    with pytest.raises(ApiError):
        await applier.ensure(child("Secret"), OWNER)
    assert await applier.ensure(child("Secret"), OWNER) is True
    assert api.find(SECRET, "team", "wasm")


async def test_an_object_that_vanishes_while_it_is_adopted_is_tried_again_later(api, applier):
    api.seed(child("Secret"))
    api.fail["get", "Secret", "wasm"] = NotFound(404, "NotFound", "gone")
    with pytest.raises(NotFound):
        await applier.ensure(child("Secret"), OWNER)
    assert await applier.ensure(child("Secret"), OWNER) is False


@pytest.mark.parametrize("forget", [lambda a: a.forget(OWNER), lambda a: a.forget_all()], ids=["owner", "all"])
async def test_what_is_forgotten_is_compared_with_the_cluster_again(api, applier, forget):
    await applier.ensure(child("Secret", token="a"), OWNER)
    there = api.find(SECRET, "team", "wasm")
    await api.delete(SECRET, "team", "wasm", there["metadata"]["uid"])
    assert await applier.ensure(child("Secret", token="a"), OWNER) is False
    forget(applier)
    assert await applier.ensure(child("Secret", token="a"), OWNER) is True


async def test_forgetting_one_owner_leaves_the_others(api, applier):
    await applier.ensure(child("Secret"), OWNER)
    applier.forget("another-uid")
    assert await applier.ensure(child("Secret"), OWNER) is False
    assert len(api.writes) == 1


async def test_a_worker_made_anew_takes_over_the_objects_of_the_one_before_it(api, applier):
    await applier.ensure(child("Secret"), OWNER)
    assert await applier.ensure(child("Secret", owner="new-uid"), "new-uid") is True
    assert api.objects[key_of(child("Secret"))]["metadata"]["ownerReferences"][0]["uid"] == "new-uid"


@pytest.mark.parametrize(
    ("labels", "taken"),
    [
        ({"app.kubernetes.io/managed-by": "agentos-operator", "agentos.dev/worker": "wasm"}, True),
        ({"app.kubernetes.io/managed-by": "agentos-operator", "agentos.dev/worker": "another"}, False),
        ({"agentos.dev/worker": "wasm"}, False),
    ],
)
async def test_what_a_restore_left_without_an_owner_is_taken_over_by_its_labels(api, applier, labels, taken):
    left = child("Secret")
    left["metadata"].pop("ownerReferences")
    left["metadata"]["labels"] = labels
    api.seed(left)
    if not taken:
        with pytest.raises(NotOurs):
            await applier.ensure(child("Secret"), OWNER)
        return
    assert await applier.ensure(child("Secret"), OWNER) is True
    assert api.objects[key_of(left)]["metadata"]["ownerReferences"][0]["uid"] == OWNER


async def test_a_deployment_of_the_worker_before_is_not_taken_over_for_its_selector_is_another(api, applier):
    await applier.ensure(child(), OWNER)
    with pytest.raises(NotOurs):
        await applier.ensure(child(owner="new-uid"), "new-uid")


# --- Making once ---


def key_secret(*references: dict) -> dict:
    metadata: dict = {
        "name": "agentos-api-key",
        "namespace": "team",
        "labels": {"app.kubernetes.io/managed-by": "agentos-operator"},
    }
    if references:
        metadata["ownerReferences"] = list(references)
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}


BY_REALM = {"kind": "Realm", "name": "prod", "uid": OWNER, "controller": True}
KEY = ("Secret", "agentos-api-key")


def first() -> dict[str, str]:
    return {"key": "first"}


def never() -> dict[str, str]:
    raise AssertionError("a second key is made")


async def test_a_key_is_made_once_and_never_overwritten(api, applier, cache):
    assert await applier.make_once(key_secret(), first, OWNER) is True
    edited = await api.get(SECRET, "team", "agentos-api-key")
    api.seed(edited | {"data": {"key": "rotated by a person"}})
    for pass_of in (applier, Applier(api, cache)):
        assert await pass_of.make_once(key_secret(), never, OWNER) is False
    assert api.find(SECRET, "team", "agentos-api-key")["data"] == {"key": "rotated by a person"}
    assert api.writes == [("create", *KEY)]


async def test_a_key_that_is_known_costs_no_request(api, applier):
    await applier.make_once(key_secret(), first, OWNER)
    api.reads.clear()
    assert await applier.make_once(key_secret(), never, OWNER) is False
    assert api.reads == []


async def test_a_key_that_a_person_made_first_is_used_and_left_as_it_is(api, applier):
    theirs = key_secret()
    del theirs["metadata"]["labels"]
    before = copy.deepcopy(api.seed(theirs | {"data": {"key": "theirs"}}))
    assert await applier.make_once(key_secret(BY_REALM), never, OWNER) is False
    assert api.find(SECRET, "team", "agentos-api-key") == before


async def test_of_two_that_make_a_key_at_once_one_does(api, applier):
    api.seed(key_secret() | {"data": {"key": "the other's"}})
    api.fail["get", *KEY] = NotFound(404, "NotFound", "not yet")
    assert await applier.make_once(key_secret(), first, OWNER) is False
    assert api.find(SECRET, "team", "agentos-api-key")["data"] == {"key": "the other's"}


async def test_whether_a_key_goes_with_its_owner_follows_the_owner_and_the_key_stays(api, applier):
    await applier.make_once(key_secret(), first, OWNER)
    for wanted in (key_secret(BY_REALM), key_secret()):
        assert await applier.make_once(wanted, never, OWNER) is True
        there = api.find(SECRET, "team", "agentos-api-key")
        assert there["metadata"].get("ownerReferences", []) == wanted["metadata"].get("ownerReferences", [])
        assert there["data"] == {"key": "first"}


async def test_a_key_that_somebody_deleted_is_made_anew(api, applier):
    await applier.make_once(key_secret(), first, OWNER)
    there = api.find(SECRET, "team", "agentos-api-key")
    await api.delete(SECRET, "team", "agentos-api-key", there["metadata"]["uid"])
    applier.forget_all()
    assert await applier.make_once(key_secret(), first, OWNER) is True


# --- The number of pods, when somebody else has set it ---


def scaled(replicas: int, said: str, manager: str = "kubectl") -> dict:
    """A Deployment as the cluster has it after somebody scaled it."""
    made = child(replicas=replicas, paused=True)
    made["metadata"]["annotations"]["agentos.dev/replicas-from"] = said
    made["metadata"]["managedFields"] = [
        {"manager": "agentos-operator", "fieldsV1": {"f:spec": {"f:template": {}}}},
        {"manager": manager, "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:paused": {}}}},
    ]
    return made


def test_the_number_that_is_taken_back_is_nobody_elses_any_more():
    actual, wanted = scaled(3, "replicas 1"), scaled(3, "replicas 3")
    sent = merged(actual, wanted)["metadata"]["managedFields"]
    assert [entry["manager"] for entry in sent] == ["agentos-operator", "kubectl"]
    assert sent[1]["fieldsV1"] == {"f:spec": {"f:paused": {}}}
    assert "f:replicas" in actual["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"]


def test_a_number_that_is_left_alone_stays_its_setters():
    assert "managedFields" not in merged(scaled(3, "replicas 1"), scaled(3, "replicas 1"))["metadata"]


# --- Taking away ---

POLICY = Key("NetworkPolicy", "team", "agentos-engine")


def policy(owner: str = OWNER) -> dict:
    metadata = {
        "name": POLICY.name,
        "namespace": POLICY.namespace,
        "ownerReferences": [{"kind": "Realm", "name": "prod", "uid": owner, "controller": True}],
    }
    return {"apiVersion": "networking.k8s.io/v1", "kind": POLICY.kind, "metadata": metadata}


async def test_what_is_not_wanted_any_more_is_deleted(api, applier):
    api.seed(policy())
    assert await applier.remove(POLICY, OWNER)
    assert api.objects == {}


async def test_somebody_elses_object_of_that_name_stays(api, applier):
    api.seed(policy("another"))
    assert not await applier.remove(POLICY, OWNER)
    assert api.writes == []


@pytest.mark.parametrize(
    "answer", [None, KindMissing(404, "", "404 page not found")], ids=["no object", "no such kind"]
)
async def test_what_is_not_there_costs_one_look_and_no_write(api, applier, clock, answer):
    if answer is not None:
        api.fail["get", POLICY.kind, POLICY.name] = answer
    for _ in range(3):
        assert not await applier.remove(POLICY, OWNER)
    assert (len(api.reads), api.writes) == (1, [])
    clock.now += 31
    await applier.remove(POLICY, OWNER)
    assert len(api.reads) == 2


async def test_what_was_taken_away_is_made_again_at_once(api, applier):
    wanted = seal(policy())
    assert await applier.ensure(wanted, OWNER)
    assert await applier.remove(POLICY, OWNER)
    assert await applier.ensure(wanted, OWNER)
    assert api.find(NETWORK_POLICY, "team", POLICY.name) is not None
