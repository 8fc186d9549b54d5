"""When a Worker that replaces another may take over, and what it says until then."""

import pytest
from agentos_operator.bus import Connection
from agentos_operator.plan.handover import handover
from agentos_operator.plan.pods import REGISTRATION_GRACE


def worker(*owns, replicas=1):
    return {
        "metadata": {"name": "new", "uid": "new-uid"},
        "spec": {"owns": list(owns) or None, "replaces": "old", "replicas": replicas},
    }


def connection(pod, functions=(), waiting=(), claims=()):
    return Connection(f"worker-{pod}", "uid", pod, frozenset(functions), frozenset(waiting), frozenset(claims))


OLD = [connection("old-1", ["a::x", "a::y", "b::z"]), connection("old-2", ["a::x"])]


@pytest.mark.parametrize(
    ("owns", "waiting", "lacking"),
    [
        (["a"], ["a::x", "a::y"], ()),
        (["a"], ["a::x"], ("a::y",)),
        (["a::x"], ["a::x"], ()),
        (["a::*", "c::new"], ["a::x", "a::y"], ("c::new",)),
        ([], ["a::x", "a::y"], ("b::z",)),
        ([], ["a::x", "a::y", "b::z", "more::than"], ()),
    ],
)
def test_it_has_to_register_what_the_other_serves_of_what_it_claims(owns, waiting, lacking):
    answer = handover(worker(*owns), [connection("p", waiting=waiting)], (), OLD)
    assert answer.lacking == lacking
    assert answer.answers == (not lacking)


def test_as_many_pods_as_wanted_have_to():
    pods = [connection("p1", waiting=["a::x", "a::y"]), connection("p2", ["a::y"], ["a::x"])]
    assert handover(worker("a", replicas=2), pods, (), OLD).answers
    assert not handover(worker("a", replicas=3), pods, (), OLD).answers
    assert not handover(worker("a", replicas=2), pods, {"p2"}, OLD).answers


def test_the_connections_of_one_pod_count_together():
    pods = [connection("p", waiting=["a::x"]), connection("p", waiting=["a::y"])]
    assert handover(worker("a"), pods, (), OLD).answers


def test_one_without_pods_never_takes_over():
    answer = handover(worker("a", replicas=0), [connection("p", waiting=["a::x", "a::y"])], (), OLD)
    assert not answer.answers
    assert answer.message == "it takes over from Worker old once it runs; it is to have no pods now"


def test_of_one_that_serves_nothing_now_what_it_claims_itself_is_enough():
    assert handover(worker("a::x"), [connection("p", waiting=["a::x"])], (), []).answers
    assert not handover(worker("a::x"), [], (), []).answers


def test_the_message_names_what_is_lacking():
    answer = handover(worker("a"), [connection("p", waiting=["a::x"])], (), OLD)
    assert answer.message == (
        "it takes over from Worker old as soon as its pod has registered what that one serves; not registered: a::y"
    )


@pytest.mark.parametrize("owns", [["a::x"], []])
def test_it_has_to_register_the_routes_and_trigger_types_too_unless_it_has_settled_without(owns):
    route, kind = "http POST /orders", "trigger-type mail"
    old = [connection("old", ["a::x"], claims=[route, kind])]
    early, late = connection("p", waiting=["a::x", route]), connection("p", waiting=["a::x", route, kind])
    assert handover(worker(*owns), [early], (), old).lacking == (kind,)
    assert not handover(worker(*owns), [early], (), old).answers
    assert handover(worker(*owns), [late], (), old).answers
    assert handover(worker(*owns), [early], (), old, {"p": 1.0}).settles_in == REGISTRATION_GRACE - 1.0
    settled = handover(worker(*owns), [early], (), old, {"p": REGISTRATION_GRACE})
    assert settled.answers
    assert settled.settles_in is None
