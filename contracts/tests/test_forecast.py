from typing import Any

import pytest
from agentos_contracts.findings import Severity
from agentos_contracts.forecast import Seen, forecast

NOW = "2026-01-02T00:00:00Z"
REALM = {"kind": "Realm", "metadata": {"name": "r"}, "spec": {"namespace": "team"}}


def worker(name: str, *owns: str, uid: str = "", needs: dict[str, str] | None = None, **spec: Any) -> dict:
    metadata = {"name": name, "namespace": "team"}
    metadata |= {"uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"} if uid else {}
    manifest = {"name": name} | ({"dependencies": needs} if needs else {})
    return {
        "kind": "Worker",
        "metadata": metadata,
        "spec": {"image": "i:1.0.0", "manifest": manifest, "owns": list(owns)} | spec,
    }


def ready(resource: dict, **conditions: str) -> dict:
    listed = [
        {"type": kind, "status": status, "reason": "X"} for kind, status in (conditions or {"Ready": "True"}).items()
    ]
    return resource | {"status": {"conditions": listed}}


def claim(segment: str, *holders: tuple[str, str]) -> dict:
    listed = [{"pattern": p, "worker": w, "uid": f"{w}-uid", "since": "2026-01-01T00:00:00Z"} for p, w in holders]
    return {"metadata": {"name": segment, "namespace": "team"}, "spec": {"segment": segment, "holders": listed}}


def told(
    given: dict | list[dict], workers: Any = (), claims: Any = (), realms: Any = (REALM,)
) -> list[tuple[str, str]]:
    """Reason and message of what is said of the last of the resources."""
    resources = given if isinstance(given, list) else [given]
    return [(each.reason, each.message) for each in forecast(resources, Seen(workers, realms, claims), NOW)[-1]]


def test_what_nobody_has_is_had_at_once():
    assert told(worker("a", "a::*"), [worker("b", "b::*", uid="b-uid")], [claim("b", ("b::*", "b"))]) == []


def test_who_would_wait_is_told_for_whom_and_since_when():
    holder, held = worker("old", "a::*", uid="old-uid"), claim("a", ("a::*", "old"))
    words = "a::one overlaps a::*, which is held by Worker old since 2026-01-01T00:00:00Z; it waits, without a pod, until that is free"
    assert told(worker("new", "a::one"), [holder], [held]) == [("Clash", words)]


def test_of_two_in_the_files_the_first_has_it():
    ((reason, message),) = told([worker("one", "a::*"), worker("two", "a::*")])
    assert reason == "Clash"
    assert "held by Worker one" in message
    assert told([worker("two", "a::*"), worker("one", "b::*")]) == []


def test_an_edit_of_the_holder_itself_is_no_clash():
    there = worker("a", "a::*", uid="a-uid")
    assert told(worker("a", "a::one", "a::two"), [there], [claim("a", ("a::*", "a"))]) == []


def test_who_drains_still_has_it():
    ((reason, message),) = told(worker("new", "a::*"), [], [claim("a", ("a::*", "gone"))])
    assert (reason, "Worker gone" in message) == ("Clash", True)


def test_who_replaces_the_holder_is_told_to_take_over_and_that_it_waits_when_a_third_one_holds_some():
    there = [worker("old", "a::*", uid="old-uid"), worker("other", "b::*", uid="other-uid")]
    held = [claim("a", ("a::*", "old")), claim("b", ("b::*", "other"))]
    words = (
        "its pods start beside those of Worker old, and it takes over once they have registered what that one serves"
    )
    assert told(worker("new", "a::*", replaces="old"), there, held) == [("HandingOver", words)]
    ((reason, message),) = told(worker("new", "a::*", "b::*", replaces="old"), there, held)
    assert (reason, "held by Worker other" in message) == ("Clash", True)


def test_who_has_been_replaced_is_told_by_whom():
    there = [worker("old", "a::*", uid="old-uid"), worker("new", "a::*", uid="new-uid", replaces="old")]
    ((reason, message),) = told(worker("old", "a::*"), there, [claim("a", ("a::*", "new"))])
    assert (reason, "Worker new" in message) == ("Replaced", True)


def test_one_that_replaces_nobody_is_told_so():
    words = "there is no Worker old in namespace team: nothing is taken over"
    assert told(worker("new", "a::*", replaces="old")) == [("NothingToReplace", words)]


@pytest.mark.parametrize(
    ("needs", "others", "reason"),
    [
        ({"b": "^1"}, [], "DependencyMissing"),
        ({"b": "^2"}, [ready(worker("b", uid="b"))], "DependencyVersion"),
        ({"b": "^1"}, [ready(worker("b", uid="b"), Ready="False")], "DependencyNotReady"),
        ({"b": "^1"}, [ready(worker("b", uid="b", needs={"a": "*"}), Ready="False")], "DependencyCycle"),
        ({"b": "^1"}, [ready(worker("b", uid="b"))], None),
        ({"iii-state": "^1"}, [], None),
    ],
)
def test_what_a_first_start_would_wait_for(needs, others, reason):
    said = told(worker("a", needs=needs), others)
    assert [each[0] for each in said] == ([reason] if reason else [])


def test_what_is_applied_with_it_comes_by_itself_unless_in_a_circle():
    assert told([worker("b"), worker("a", needs={"b": "*"})]) == []
    ((reason, message),) = told([worker("b", needs={"a": "*"}), worker("a", needs={"b": "*"})])
    assert (reason, message.partition(":")[0]) == ("DependencyCycle", "a → b → a")


def test_what_has_started_waits_for_nothing():
    there = ready(worker("a", uid="a", needs={"b": "*"}), DependenciesReady="True")
    assert told(worker("a", needs={"b": "*"}), [there]) == []


def test_a_namespace_without_a_realm_is_an_error_and_one_in_the_files_counts():
    (found,) = forecast([worker("a")], Seen((), (), ()), NOW)[0]
    assert (found.severity, found.reason, found.path) == (Severity.ERROR, "NoRealm", "metadata.namespace")
    assert told([REALM, worker("a")], realms=()) == []


def test_a_namespace_belongs_to_one_realm():
    ((reason, message),) = told(REALM | {"metadata": {"name": "other"}})
    assert (reason, message) == ("NamespaceTaken", "namespace team belongs to realm r; take another")
    assert told(REALM) == []


@pytest.mark.parametrize(
    ("calls", "reasons"),
    [
        (["state::*", "publish", "engine::log::info"], []),
        (["b::one"], []),
        (["c::two"], []),
        (["nobody::*"], ["NotServed"]),
        (["engine::*"], ["NotNamed"]),
        (["a::own"], []),
    ],
)
def test_calls_that_nobody_serves_or_that_have_to_be_named_are_told(calls, reasons):
    others = [worker("b", "b::*", uid="b"), worker("c", uid="c") | {"status": {"functions": ["c::two"]}}]
    assert [reason for reason, _ in told(worker("a", "a::*", calls=calls), others)] == reasons


def test_what_could_not_be_read_is_not_guessed_at():
    resource = worker("a", "a::*", needs={"b": "*"}, calls=["nobody::*"])
    assert forecast([resource], Seen(None, None, None), NOW) == [[]]
    assert [each.reason for each in forecast([resource], Seen((), (REALM,), None), NOW)[0]] == [
        "DependencyMissing",
        "NotServed",
    ]
