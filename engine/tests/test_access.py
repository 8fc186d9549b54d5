"""Rules of a listener: what they let through, what the hooks are asked, and what their answers mean."""

import asyncio
import json
import time

import pytest
from agentos_engine.access import policy
from agentos_engine.access.gatekeeper import Gatekeeper
from agentos_engine.access.globs import Glob, GlobError, Globs
from agentos_engine.access.hooks import (
    FunctionRegistration,
    Refused,
    TriggerRegistration,
    TriggerTypeRegistration,
    middleware_input,
)
from agentos_engine.access.names import Names
from agentos_engine.access.rules import Rbac
from agentos_engine.access.session import TRUSTED, Session, SessionError, auth_input
from agentos_engine.bus.errors import BusError
from agentos_engine.config_file import options

from tests.waiting import until

# Patterns


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("api::get", "api::get", True),
        ("api::get", "api::get2", False),
        ("api::*", "api::get", True),
        ("api::*", "api::", True),
        ("api::*", "api:", False),
        ("api::*", "xapi::get", False),
        ("*", "", True),
        ("*", "anything", True),
        ("*::public", "a::b::public", True),
        ("*::public", "a::publication", False),
        ("a*c*e", "abcde", True),
        ("a*c*e", "ace", True),
        ("a*c*e", "aec", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("a**b", "ab", True),
        ("*a*a*a*", "aa", False),
        ("*a*a*a*", "banana", True),
        ("*aab", "aaab", True),
        ("a.b", "axb", False),
        ("[a]?", "[a]?", True),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_only_a_star_is_special_in_a_pattern(pattern, value, fits):
    assert Glob(pattern).matches(value) is fits
    assert Globs([Glob("never"), Glob(pattern)]).matches(value) is fits


def test_matching_takes_no_longer_for_many_stars():
    began = time.perf_counter()
    assert not Glob("*a" * 500 + "b").matches("a" * 100_000)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("text", ['match("api::*")', "match('api::*')", ' match( "api::*" ) ', "api::*"])
def test_a_pattern_is_written_bare_or_as_match(text):
    assert Glob.parse(text).matches("api::get")


@pytest.mark.parametrize("text", ["", None, 5, 'match("")', "match(api::*)", 'match("a', "match(", "x" * 1025, ["a"]])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(GlobError):
        Glob.parse(text)


# Rules out of the configuration


def exposing(*items: options.Expose, **more) -> Rbac:
    rules = Rbac.of(options.WorkerListener(rbac=options.Rbac(expose_functions=items, **more)))
    assert rules is not None
    return rules


def ids(pattern: str, namespace: str | None = None) -> options.Expose:
    return options.Expose(options.Glob(pattern), namespace)


def meta(**metadata) -> options.Expose:
    return options.Expose(metadata=tuple(metadata.items()))


def test_a_listener_without_rules_has_none_and_middleware_alone_restricts_nothing():
    assert Rbac.of(options.WorkerListener()) is None
    rules = Rbac.of(options.WorkerListener(middleware_function_id="m::w"))
    assert rules == Rbac(middleware_function_id="m::w")
    assert policy.decide(rules, Session(), "any::thing") is None


def test_every_hook_of_the_configuration_is_taken_over():
    hooks = {
        "auth_function_id": "x::auth",
        "on_function_registration_function_id": "x::f",
        "on_trigger_registration_function_id": "x::t",
        "on_trigger_type_registration_function_id": "x::tt",
    }
    rules = Rbac.of(options.WorkerListener(middleware_function_id="x::m", rbac=options.Rbac(**hooks)))
    assert rules == Rbac(restricted=True, middleware_function_id="x::m", **hooks)


# Decisions


NOTHING_EXPOSED = exposing()
API = exposing(ids("api::*"))


def session(**answer) -> Session:
    return Session.parse(json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("rbac", "answer", "function_id", "namespace", "allowed"),
    [
        (NOTHING_EXPOSED, {}, "api::get", "default", False),
        (API, {}, "api::get", "default", True),
        (API, {}, "db::get", "default", False),
        (API, {"allowed_functions": ["db::get"]}, "db::get", "default", True),
        (API, {"allowed_functions": ["db::*"]}, "db::get", "default", True),
        (API, {"allowed_functions": ['match("db::*")']}, "db::get", "default", True),
        (API, {"allowed_functions": ["db::get"]}, "db::get", "orders", False),
        (API, {"forbidden_functions": ["api::get"]}, "api::get", "default", False),
        (API, {"forbidden_functions": ["api::*"]}, "api::get", "default", False),
        (API, {"forbidden_functions": ["db::get"], "allowed_functions": ["db::get"]}, "db::get", "default", False),
        (API, {"forbidden_functions": ["s::x"], "namespaces": {"orders": ["s::*"]}}, "s::x", "orders", False),
        (API, {"namespaces": {"orders": ["s::*"]}}, "s::x", "orders", True),
        (API, {"namespaces": {"orders": ['match("s::*")']}}, "s::x", "orders", True),
        (API, {"namespaces": {"orders": ["s::*"]}}, "s::x", "default", False),
        (API, {"namespaces": {"orders": ["s::*"]}}, "s::x", "other", False),
        (API, {"namespaces": {"orders": ["s::*"]}}, "api::get", "orders", True),
        (NOTHING_EXPOSED, {}, "engine::channels::create", "default", True),
        (NOTHING_EXPOSED, {}, "engine::workers::register", "default", True),
        (NOTHING_EXPOSED, {}, "engine::log::info", "default", True),
        (NOTHING_EXPOSED, {}, "engine::baggage::get", "default", True),
        (NOTHING_EXPOSED, {}, "engine::functions::list", "default", False),
        (NOTHING_EXPOSED, {}, "engine::workers::list", "default", False),
        (NOTHING_EXPOSED, {"forbidden_functions": ["engine::log::info"]}, "engine::log::info", "default", False),
        (NOTHING_EXPOSED, {"forbidden_functions": ["*"]}, "engine::workers::register", "default", False),
        (exposing(ids("api::*", "orders")), {}, "api::get", "orders", True),
        (exposing(ids("api::*", "orders")), {}, "api::get", "default", False),
        (exposing(ids("api::*", "default")), {}, "api::get", "orders", False),
        (exposing(ids("a::*"), ids("b::*")), {}, "b::x", "default", True),
    ],
)
def test_the_first_rule_that_applies_decides_about_a_call(rbac, answer, function_id, namespace, allowed):
    reason = policy.decide(rbac, session(**answer), function_id, None, namespace)
    assert (reason is None) is allowed
    if not allowed:
        assert reason == (
            f"function '{function_id}' not allowed "
            "(add to rbac.expose_functions | remove from rbac.forbidden_functions)"
        )


@pytest.mark.parametrize(
    ("item", "metadata", "exposed"),
    [
        (meta(public=True), {"public": True}, True),
        (meta(public=True), {"public": False}, False),
        (meta(public=True), {"public": 1}, False),
        (meta(public=True), {"public": "true"}, False),
        (meta(public=True), {}, False),
        (meta(public=None), {}, False),
        (meta(public=None), {"public": None}, True),
        (meta(level=1), {"level": 1}, True),
        (meta(level=1), {"level": 1.0}, True),
        (meta(level=1), {"level": True}, False),
        (meta(level=0), {"level": False}, False),
        (meta(tier="gold"), {"tier": "gold"}, True),
        (meta(tier="gold"), {"tier": ["gold"]}, False),
        (meta(tier=options.Glob("go*")), {"tier": "gold"}, True),
        (meta(tier=options.Glob("go*")), {"tier": "silver"}, False),
        (meta(tier=options.Glob("*")), {"tier": 5}, False),
        (meta(tier=options.Glob("*")), {}, False),
        (meta(public=True, tier="gold"), {"public": True, "tier": "gold"}, True),
        (meta(public=True, tier="gold"), {"public": True}, False),
        (options.Expose(options.Glob("f::*"), metadata=(("public", True),)), {"public": True}, True),
        (options.Expose(options.Glob("g::*"), metadata=(("public", True),)), {"public": True}, False),
    ],
)
def test_an_item_with_metadata_exposes_the_functions_that_have_it(item, metadata, exposed):
    reason = policy.decide(exposing(item), Session(), "f::x", json.dumps(metadata).encode())
    assert (reason is None) is exposed


@pytest.mark.parametrize("raw", [None, b"", b"null", b"[]", b'"public"', b"{not json", b"[" * 5000])
def test_metadata_that_is_no_object_exposes_nothing(raw):
    assert policy.decide(exposing(meta(public=True)), Session(), "f::x", raw) is not None


# Sessions


def test_an_empty_answer_gives_the_ordinary_rights():
    parsed = session()
    assert parsed.allow_function_registration
    assert not parsed.allow_trigger_type_registration
    assert parsed.allowed_trigger_types is None
    assert parsed.context == b"{}"
    assert parsed.outer_id("f") == "f"


def test_a_session_keeps_the_context_as_it_was_given():
    assert Session.parse(b'{"context": {"user": "ann", "n": 1.50}}').context == b'{"user": "ann", "n": 1.50}'


def test_keys_that_later_versions_may_bring_are_ignored():
    assert session(user="ann", allowed_functions=["f"]).allowed.matches("f")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"null",
        b"true",
        b"[]",
        b'"ok"',
        b"{",
        b"",
        b'{"allowed_functions": null}',
        b'{"allowed_functions": "f"}',
        b'{"allowed_functions": [5]}',
        b'{"allowed_functions": [""]}',
        b'{"forbidden_functions": ["match(f)"]}',
        b'{"forbidden_functions": {"f": true}}',
        b'{"allowed_trigger_types": "cron"}',
        b'{"allow_function_registration": "false"}',
        b'{"allow_trigger_type_registration": 1}',
        b'{"namespaces": ["orders"]}',
        b'{"namespaces": {"orders": "s::*"}}',
        b'{"context": null}',
        b'{"context": [1]}',
        b'{"context": "ann"}',
        b'{"function_registration_prefix": 5}',
        b'{"function_registration_prefix": "%s"}' % (b"x" * 300),
        b'{"context": {"x": "%s"}}' % (b"x" * (1 << 20)),
        b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        json.dumps({"allowed_functions": ["f"] * 10_001}).encode(),
    ],
)
def test_an_answer_that_is_not_exactly_understood_lets_nobody_in(answer):
    with pytest.raises(SessionError):
        Session.parse(answer)


def test_a_prefix_is_put_before_ids_and_taken_off_again():
    tenant = session(function_registration_prefix="tenant-a")
    assert tenant.outer_id("svc::f") == "tenant-a::svc::f"
    assert tenant.inner_id("tenant-a::svc::f") == "svc::f"
    assert tenant.inner_id("tenant-b::f") == "tenant-b::f"
    assert session(function_registration_prefix="").outer_id("f") == "f"
    assert session(function_registration_prefix=None).outer_id("f") == "f"


@pytest.mark.parametrize(
    ("namespaces", "namespace", "allowed"),
    [
        ({}, "orders", True),
        ({"orders": []}, "orders", True),
        ({"orders": []}, "billing", False),
        ({"orders": []}, "default", True),
    ],
)
def test_namespace_grants_bound_the_namespaces_that_a_connection_may_join(namespaces, namespace, allowed):
    assert session(namespaces=namespaces).may_join(namespace) is allowed


@pytest.mark.parametrize(
    ("answer", "trigger_type", "function_id", "allowed"),
    [
        ({}, "cron", "f", True),
        ({"allowed_trigger_types": ["cron", "http"]}, "http", "f", True),
        ({"allowed_trigger_types": ["cron"]}, "http", "f", False),
        ({"allowed_trigger_types": []}, "cron", "f", False),
        ({"forbidden_functions": ["admin::*"]}, "cron", "admin::wipe", False),
    ],
)
def test_trigger_types_are_bounded_and_what_is_forbidden_cannot_be_a_target(answer, trigger_type, function_id, allowed):
    assert (policy.decide_trigger(session(**answer), trigger_type, function_id) is None) is allowed
    if function_id == "f":
        assert policy.trigger_type_visible(session(**answer), trigger_type) is allowed


def test_the_auth_function_is_asked_with_headers_query_lists_and_address():
    headers = [("Authorization", "Bearer t"), ("X-A", "1"), ("x-a", "2"), ("X-Odd", "ä\udce4")]
    asked = json.loads(auth_input(headers, "api_key=k&tag=a&tag=b&empty=&sp=a+b%20c&bad=%ff", "10.0.0.1"))
    assert asked == {
        "headers": {"authorization": "Bearer t", "x-a": "1, 2", "x-odd": "ä?"},
        "query_params": {"api_key": ["k"], "tag": ["a", "b"], "empty": [""], "sp": ["a b c"], "bad": ["�"]},
        "ip_address": "10.0.0.1",
    }
    with pytest.raises(SessionError):
        auth_input([], "&".join(["a=1"] * 1000), "")


# Hooks


def test_a_function_hook_is_asked_with_the_registration_and_the_context():
    asked = FunctionRegistration("f", b'"does f"', b'{"k":1}').question(b'{"user":"ann"}', "orders")
    assert json.loads(asked) == {
        "function_id": "f",
        "description": "does f",
        "metadata": {"k": 1},
        "namespace": "orders",
        "context": {"user": "ann"},
    }
    assert json.loads(FunctionRegistration("f").question(b"{}", "default"))["description"] is None


def test_a_trigger_hook_is_asked_with_the_registration_and_the_context():
    asked = TriggerRegistration("t1", "cron", "f", b'{"expression":"*"}').question(b"{}", "default")
    assert json.loads(asked) == {
        "trigger_id": "t1",
        "trigger_type": "cron",
        "function_id": "f",
        "config": {"expression": "*"},
        "metadata": None,
        "namespace": "default",
        "context": {},
    }


def test_a_trigger_type_hook_is_asked_with_the_registration_and_the_context():
    asked = TriggerTypeRegistration("mine", b'"my type"').question(b'{"a":1}')
    assert json.loads(asked) == {"trigger_type_id": "mine", "description": "my type", "context": {"a": 1}}


FUNCTION = FunctionRegistration("f", b'"does f"', b'{"k":1}')


@pytest.mark.parametrize(
    ("answer", "changed"),
    [
        (b"{}", FUNCTION),
        (b'{"function_id": null, "description": null, "metadata": null}', FUNCTION),
        (b'{"unknown": 1}', FUNCTION),
        (b'{"function_id": "g"}', FunctionRegistration("g", b'"does f"', b'{"k":1}')),
        (b'{"description": "other"}', FunctionRegistration("f", b'"other"', b'{"k":1}')),
        (b'{"metadata": {"k": 2}}', FunctionRegistration("f", b'"does f"', b'{"k": 2}')),
    ],
)
def test_a_function_hook_changes_what_it_names(answer, changed):
    assert FUNCTION.answered(answer) == changed


def test_trigger_hooks_change_what_they_name():
    trigger = TriggerRegistration("t1", "cron", "f", b"{}", b'{"m":1}')
    answer = b'{"trigger_id":"t2","trigger_type":"http","function_id":"g","config":{"a":1}}'
    assert trigger.answered(answer) == TriggerRegistration("t2", "http", "g", b'{"a":1}', b'{"m":1}')
    assert trigger.answered(b"{}") == trigger
    kind = TriggerTypeRegistration("mine", b'"d"')
    assert kind.answered(b'{"trigger_type_id":"theirs"}') == TriggerTypeRegistration("theirs", b'"d"')
    assert kind.answered(b'{"description":"e"}') == TriggerTypeRegistration("mine", b'"e"')


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"null",
        b"true",
        b"[]",
        b'"ok"',
        b"0",
        b"{",
        b'{"function_id": 5}',
        b'{"function_id": ""}',
        b'{"metadata": 5}',
        b'{"metadata": [1]}',
        b'{"description": {}}',
        b'{"description":"' + b"x" * (5 << 20) + b'"}',
    ],
)
def test_a_hook_that_answers_anything_but_an_understood_object_refuses(answer):
    with pytest.raises(Refused):
        FUNCTION.answered(answer)


def test_middleware_is_called_with_the_call_as_the_caller_made_it():
    asked = middleware_input("f", b'{"n":1}', b'{"type":"void"}', b'{"user":"ann"}', "orders")
    assert json.loads(asked) == {
        "function_id": "f",
        "payload": {"n": 1},
        "action": {"type": "void"},
        "namespace": "orders",
        "context": {"user": "ann"},
    }
    assert json.loads(middleware_input("f", None, None, b"{}", None)) == {
        "function_id": "f",
        "payload": None,
        "action": None,
        "context": {},
    }


def test_names_lead_from_own_ids_to_those_of_others_and_back():
    names = Names()
    assert names.add("f", "p::f") is None
    assert (names.outer("f"), names.inner("p::f")) == ("p::f", "f")
    assert (names.outer("g"), names.inner("g")) == ("g", "g")
    assert names.add("f", "p::f") is None
    assert names.add("f", "p::g") == "p::f"
    assert names.inner("p::f") == "p::f"
    assert names.remove("f") == "p::g"
    assert names.remove("f") == "f"


# The gatekeeper on a bus


@pytest.fixture
def serve(bus):
    """Serves hooks on the bare bus; what they were asked is gathered by id."""
    asked: dict[str, list] = {}

    def serve(function_id: str, answer: object) -> list:
        def handler(context, data: bytes) -> object:
            asked.setdefault(function_id, []).append(json.loads(data))
            if isinstance(answer, Exception):
                raise answer
            return answer

        bus.functions.add(function_id, handler)
        return asked.setdefault(function_id, [])

    return serve


def rules(**hooks) -> Rbac:
    return Rbac(restricted=True, **hooks)


async def denied(work) -> BusError:
    with pytest.raises(BusError) as caught:
        await work
    return caught.value


async def test_without_an_auth_function_a_connection_has_the_ordinary_rights(bus):
    session = await Gatekeeper(bus, rules()).authenticate([], "", "")
    assert not session.allow_trigger_type_registration
    assert await Gatekeeper(bus, Rbac(middleware_function_id="m")).authenticate([], "", "") is TRUSTED


async def test_the_auth_function_says_what_a_connection_may_do(bus, serve):
    asked = serve("x::auth", {"allowed_functions": ["db::get"], "context": {"user": "ann"}})
    gatekeeper = Gatekeeper(bus, rules(auth_function_id="x::auth"))
    session = await gatekeeper.authenticate([("Authorization", "Bearer t")], "k=v", "10.0.0.1")
    assert asked == [{"headers": {"authorization": "Bearer t"}, "query_params": {"k": ["v"]}, "ip_address": "10.0.0.1"}]
    gatekeeper.check_call(session, "db::get")
    assert gatekeeper.visible(session, "db::get")
    assert not gatekeeper.visible(session, "db::drop")
    with pytest.raises(BusError) as caught:
        gatekeeper.check_call(session, "db::drop")
    assert caught.value.code == "FORBIDDEN"
    assert "'db::drop'" in caught.value.message
    assert "rbac.expose_functions" in caught.value.message


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (BusError("invocation_failed", "wrong token"), "wrong token"),
        (RuntimeError("secret detail"), "x::auth failed inside the engine"),
        ("yes", "not understood"),
        (None, "not understood"),
        ({"allowed_functions": "all"}, "not understood"),
    ],
)
async def test_an_auth_function_that_fails_or_is_not_understood_keeps_the_connection_out(bus, serve, answer, text):
    serve("x::auth", answer)
    error = await denied(Gatekeeper(bus, rules(auth_function_id="x::auth")).authenticate([], "", ""))
    assert error.code == "AUTH_ERROR"
    assert text in error.message
    assert "secret detail" not in error.message


async def test_a_missing_auth_function_keeps_everybody_out_and_says_so(bus):
    error = await denied(Gatekeeper(bus, rules(auth_function_id="x::auth")).authenticate([], "", ""))
    assert error.code == "AUTH_ERROR"
    assert "Function x::auth not found in namespace default" in error.message


async def test_an_auth_function_that_does_not_answer_in_time_keeps_the_connection_out(bus, clock, join):
    worker = join()
    worker.send(type="registerfunction", id="x::auth")
    gatekeeper = Gatekeeper(bus, rules(auth_function_id="x::auth"), auth_timeout=5)
    waiting = asyncio.ensure_future(denied(gatekeeper.authenticate([], "", "")))
    await clock.advance(4.9)
    bus.calls.expire()
    assert not waiting.done()
    await clock.advance(0.2)
    bus.calls.expire()
    assert (await waiting).code == "AUTH_ERROR"


async def test_an_overlong_message_of_the_auth_function_is_cut(bus, serve):
    serve("x::auth", BusError("e", "x" * 10_000))
    error = await denied(Gatekeeper(bus, rules(auth_function_id="x::auth")).authenticate([], "", ""))
    assert len(error.message) == 500


async def test_a_function_is_admitted_as_the_hook_wants_it_with_the_prefix_before_its_id(bus, serve):
    asked = serve("x::hook", {"function_id": "g", "metadata": {"checked": True}})
    gatekeeper = Gatekeeper(bus, rules(on_function_registration_function_id="x::hook"))
    tenant = session(function_registration_prefix="t", context={"user": "ann"})
    admitted = await gatekeeper.admit_function(tenant, FunctionRegistration("f", b'"d"'))
    assert admitted == FunctionRegistration("t::g", b'"d"', b'{"checked":true}')
    assert asked[0]["function_id"] == "f"
    assert asked[0]["context"] == {"user": "ann"}


async def test_a_trigger_is_admitted_as_the_hook_wants_it_for_the_prefixed_function(bus, serve):
    serve("x::hook", {"config": {"expression": "0 * * * * *"}})
    gatekeeper = Gatekeeper(bus, rules(on_trigger_registration_function_id="x::hook"))
    tenant = session(function_registration_prefix="t")
    admitted = await gatekeeper.admit_trigger(tenant, TriggerRegistration("t1", "cron", "f"))
    assert admitted == TriggerRegistration("t1", "cron", "t::f", b'{"expression":"0 * * * * *"}')


async def test_a_trigger_type_is_admitted_as_the_hook_wants_it(bus, serve):
    serve("x::hook", {"trigger_type_id": "theirs"})
    gatekeeper = Gatekeeper(bus, rules(on_trigger_type_registration_function_id="x::hook"))
    admitted = await gatekeeper.admit_trigger_type(
        session(allow_trigger_type_registration=True), TriggerTypeRegistration("mine")
    )
    assert admitted == TriggerTypeRegistration("theirs")


async def test_rights_to_register_are_checked_before_a_hook_is_asked(bus, serve):
    asked = serve("x::hook", {})
    hooks = ("function", "trigger", "trigger_type")
    gatekeeper = Gatekeeper(bus, rules(**{f"on_{each}_registration_function_id": "x::hook" for each in hooks}))
    bounded = session(allow_function_registration=False, allowed_trigger_types=["cron"])
    for work in (
        gatekeeper.admit_function(bounded, FunctionRegistration("f")),
        gatekeeper.admit_trigger(bounded, TriggerRegistration("t", "http", "f")),
        gatekeeper.admit_trigger_type(bounded, TriggerTypeRegistration("mine")),
    ):
        assert (await denied(work)).code == "FORBIDDEN"
    assert asked == []


@pytest.mark.parametrize("answer", [BusError("e", "no"), RuntimeError(), None, False, "ok", [1], {"function_id": 5}])
async def test_a_hook_that_fails_or_is_not_understood_refuses(bus, serve, answer):
    serve("x::hook", answer)
    gatekeeper = Gatekeeper(bus, rules(on_function_registration_function_id="x::hook"))
    error = await denied(gatekeeper.admit_function(Session(), FunctionRegistration("f")))
    assert error.code == "FORBIDDEN"
    assert "x::hook" in error.message


async def test_a_hook_that_nobody_serves_refuses(bus):
    gatekeeper = Gatekeeper(bus, rules(on_trigger_registration_function_id="x::hook"))
    error = await denied(gatekeeper.admit_trigger(Session(), TriggerRegistration("t", "cron", "f")))
    assert error.code == "FORBIDDEN"


async def test_without_hooks_registrations_pass_as_they_are(bus):
    gatekeeper = Gatekeeper(bus, rules())
    assert await gatekeeper.admit_function(Session(), FUNCTION) == FUNCTION
    trigger = TriggerRegistration("t", "cron", "f", b"{}")
    assert await gatekeeper.admit_trigger(Session(), trigger) == trigger
    kind = TriggerTypeRegistration("mine")
    assert await gatekeeper.admit_trigger_type(TRUSTED, kind) == kind


async def test_the_result_of_the_middleware_is_that_of_the_call(bus, serve):
    asked = serve("x::m", {"wrapped": True})
    gatekeeper = Gatekeeper(bus, Rbac(middleware_function_id="x::m"))
    assert gatekeeper.uses_middleware(is_engine_function=False)
    assert not gatekeeper.uses_middleware(is_engine_function=True)
    result = await gatekeeper.call_middleware(TRUSTED, "f", b"[1]", None)
    assert json.loads(result or b"") == {"wrapped": True}
    assert asked == [{"function_id": "f", "payload": [1], "action": None, "context": {}}]
    assert not Gatekeeper(bus, rules()).uses_middleware(is_engine_function=False)


async def test_a_connection_joins_only_the_namespaces_that_it_was_granted(bus):
    gatekeeper = Gatekeeper(bus, rules())
    gatekeeper.check_namespace(session(namespaces={"orders": []}), "orders")
    with pytest.raises(BusError, match="billing"):
        gatekeeper.check_namespace(session(namespaces={"orders": []}), "billing")


# A listener with rules, over real sockets

LISTENER = """
workers:
  - name: iii-worker-manager
    config: {host: 127.0.0.1, port: 0}
  - name: iii-worker-manager
    config:
      host: 127.0.0.1
      port: 0
      %s
      rbac:
        auth_function_id: x::auth
        on_function_registration_function_id: x::hook
        expose_functions:
          - match("api::*")
          - match("engine::functions::list")
          - metadata: {public: true}
"""


class Guarded:
    """A running engine with a second port that has rules, and a trusted worker on the first one."""

    def __init__(self, running, port: int, worker) -> None:
        self.running, self.port, self.worker = running, port, worker
        self.asked: list[dict] = []
        self.answers: dict = {"x::hook": lambda data: {}}

    async def serve(self, function_id: str, answer, **registration) -> None:
        """Serve a function; ``answer`` makes the result out of the payload, or raises."""
        self.answers[function_id] = answer
        await self.worker.send(type="registerfunction", id=function_id, **registration)
        await self.worker.settled()

    async def work(self) -> None:
        async for text in self.worker.socket:
            message = json.loads(text)
            if message["type"] != "invokefunction":
                continue
            self.asked.append(message)
            reply = {"invocation_id": message["invocation_id"], "function_id": message["function_id"]}
            try:
                reply["result"] = self.answers[message["function_id"]](message["data"])
            except RuntimeError as error:
                reply["error"] = {"code": "invocation_failed", "message": str(error)}
            await self.worker.send(type="invocationresult", **reply)


@pytest.fixture
async def guarded(run_engine, tmp_path):
    """Starts an engine with rules; ``extra`` are more keys of the guarded listener."""

    async def start(session: dict, extra: str = "") -> Guarded:
        file = tmp_path / "config.yaml"
        file.write_text(LISTENER % extra)
        running = await run_engine("--config", str(file))
        port = running.engine.modules["worker-manager#1"].port
        made = Guarded(running, port, await running.connect())
        for function_id, answer in (("x::auth", lambda data: session), ("x::hook", lambda data: {})):
            await made.serve(function_id, answer)
        await made.serve("api::get", lambda data: "public", metadata={"public": True})
        await made.serve("db::get", lambda data: "private")
        return made

    return start


async def enter(guarded: Guarded, path: str = "/", **options):
    """Connect to the port with rules; from now on the trusted worker answers."""
    guarded.running.engine.bus.spawn(guarded.work())
    trusted, guarded.running.ports = guarded.running.ports, type(guarded.running.ports)(guarded.port, 0, 0, 0)
    try:
        return await guarded.running.connect(path, **options)
    finally:
        guarded.running.ports = trusted


async def test_a_guarded_port_lets_in_whom_the_auth_function_lets_in(guarded):
    made = await guarded({"allowed_functions": ["db::get"]})
    client = await enter(made, "/?key=a&key=b", additional_headers={"Authorization": "Bearer t"})
    await client.receive("workerregistered")
    assert (await client.ask("db::get"))["result"] == "private"
    asked = made.asked[0]["data"]
    assert asked["headers"]["authorization"] == "Bearer t"
    assert asked["query_params"] == {"key": ["a", "b"]}
    assert asked["ip_address"] == "127.0.0.1"


async def test_a_guarded_port_tells_why_it_lets_nobody_in_and_closes(guarded):
    made = await guarded({})

    def refuse(data):
        raise RuntimeError("wrong token")

    made.answers["x::auth"] = refuse
    client = await enter(made)
    error = (await client.receive("error"))["error"]
    assert (error["code"], error["message"]) == ("AUTH_ERROR", "wrong token")
    async with asyncio.timeout(10):
        await client.socket.wait_closed()


async def test_private_functions_are_forbidden_and_not_listed_on_a_guarded_port(guarded):
    made = await guarded({"forbidden_functions": ["api::secret"]})
    await made.serve("api::secret", lambda data: 1)
    client = await enter(made)
    assert (await client.ask("api::get"))["result"] == "public"
    for function_id in ("db::get", "api::secret"):
        error = (await client.ask(function_id))["error"]
        assert error["code"] == "FORBIDDEN"
        assert function_id in error["message"]
        assert "rbac.expose_functions" in error["message"]
    assert "error" not in await client.ask("engine::workers::register", {"name": "guest"})
    listed = (await client.ask("engine::functions::list", {}))["result"]["functions"]
    assert {each["function_id"] for each in listed} == {"api::get"}


async def test_a_prefix_is_seen_by_others_and_not_by_the_owner(guarded):
    made = await guarded({"function_registration_prefix": "tenant", "allowed_functions": ["tenant::*"]})
    client = await enter(made)
    await client.send(type="registerfunction", id="f")
    bus = made.running.engine.bus
    await until(lambda: bus.registry.choose("tenant::f"))
    call = asyncio.ensure_future(bus.call("tenant::f", b"1"))
    asked = await client.receive("invokefunction")
    assert asked["function_id"] == "f"
    await client.send(type="invocationresult", invocation_id=asked["invocation_id"], function_id="f", result=2)
    assert await call == b"2"
    await client.send(type="unregisterfunction", id="f")
    await until(lambda: not bus.registry.choose("tenant::f"))


async def test_a_hook_may_rename_or_refuse_a_function_and_the_connection_stays(guarded):
    made = await guarded({})

    def hook(data):
        if data["function_id"].startswith("denied::"):
            raise RuntimeError("no")
        return {"function_id": "renamed::f"}

    made.answers["x::hook"] = hook
    client = await enter(made)
    await client.send(type="registerfunction", id="denied::f")
    await client.send(type="registerfunction", id="f")
    bus = made.running.engine.bus
    await until(lambda: bus.registry.choose("renamed::f"))
    assert bus.registry.choose("denied::f") is None
    assert bus.registry.choose("f") is None
    call = asyncio.ensure_future(bus.call("renamed::f", b"1"))
    assert (await client.receive("invokefunction"))["function_id"] == "f"
    call.cancel()


async def test_middleware_stands_in_for_the_functions_of_workers(guarded):
    made = await guarded({"context": {"user": "ann"}}, "middleware_function_id: x::mid")
    await made.serve("x::mid", lambda data: {"seen": data})
    client = await enter(made)
    seen = (await client.ask("api::get", {"n": 1}))["result"]["seen"]
    assert (seen["function_id"], seen["context"], seen["action"]) == ("api::get", {"user": "ann"}, None)
    assert seen["payload"]["n"] == 1
    assert "functions" in (await client.ask("engine::functions::list", {}))["result"]
    assert (await client.ask("db::get"))["error"]["code"] == "FORBIDDEN"
