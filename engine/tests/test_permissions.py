"""What a worker's grant lets it do on a bare bus."""

import asyncio
import json

import pytest
from agentos_contracts.grants import Grant
from agentos_contracts.patterns import Pattern, called_pattern
from agentos_engine.builtins import engine as engine_functions
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import Channels
from agentos_engine.bus.connection import Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.sleepers import WAKING
from agentos_engine.bus.waiting import TELLS
from agentos_engine.permissions.rules import FOR_CALLERS, OPERATORS_OWN, Permissions
from agentos_engine.permissions.table import Grants
from agentos_engine.storage.records import MemoryRecords
from agentos_engine.triggers.connections import LONGEST, MOST_WAITING, entry
from agentos_engine.triggers.http import Http
from agentos_engine.triggers.registry import Bindings
from agentos_engine.triggers.routes import Path


def grant(uid="u1", owns=(), calls=None, **more) -> Grant:
    patterns = None if calls is None else tuple(map(called_pattern, calls))
    return Grant(uid, f"default/{uid}", tuple(map(Pattern.recorded, owns)), calls=patterns, **more)


def peer(uid="u1", role="worker") -> Peer:
    return Peer("local", f"default/{uid}", uid, role, "pod")


@pytest.fixture
def worker(bus, join):
    """Connects a worker with a grant."""

    def connect(uid="u1", **given):
        if given or not bus.grants.admits(peer(uid)):
            bus.grants.take([grant(uid, **given)])
        return join(peer=peer(uid))

    return connect


def register(worker, *function_ids: str) -> list[str]:
    """Register functions; returns the ids of those that are refused at once."""
    for function_id in function_ids:
        worker.send(type="registerfunction", id=function_id)
    return [each["function_id"] for each in worker.take("registrationrejected")]


def call(worker, function_id: str, data=None, **more) -> dict:
    """Call a function of the engine, or one that is refused at once; returns the answer."""
    worker.send(type="invokefunction", invocation_id="c", function_id=function_id, data=data, **more)
    return worker.take("invocationresult")[0]


def bind(worker, function_id: str, trigger_type="t", trigger_id="b", config=None):
    worker.send(
        type="registertrigger", id=trigger_id, trigger_type=trigger_type, function_id=function_id, config=config or {}
    )
    return [each["error"]["code"] for each in worker.take("triggerregistrationresult")]


def serves(bus, function_id: str) -> list[str]:
    owners = bus.registry.owners(function_id)
    return [each.connection.peer.uid for each in owners.registrations] if owners is not None else []


# Registering


def test_a_worker_registers_what_it_owns_and_nothing_else(bus, worker):
    one = worker(owns=["a::*", "tool::x"])
    assert register(one, "a::f", "a::b::c", "a", "tool::x", "tool::y", "b::f", "ab::f", "tool") == [
        "tool::y",
        "b::f",
        "ab::f",
        "tool",
    ]
    assert sorted(one.connection.registrations) == ["a", "a::b::c", "a::f", "tool::x"]
    assert bus.permissions_denied["registration"] == 4


def test_a_worker_with_a_token_and_no_grant_may_do_nothing(bus, join):
    one = join(peer=peer("unknown"))
    assert register(one, "a::f") == ["a::f"]
    assert call(one, "state::get")["error"]["code"] == "FORBIDDEN"
    assert call(one, "nobody::has")["error"]["code"] == "FORBIDDEN"


def test_who_needs_no_token_may_do_everything(bus, join):
    one = join()
    assert register(one, "a::f") == []
    assert serves(bus, "a::f") == [""]


def test_what_was_refused_is_served_once_the_grant_covers_it(bus, worker):
    one = worker(owns=["a::*"])
    assert register(one, "b::f") == ["b::f"]
    bus.grants.take([grant(owns=["a::*", "b::f"])])
    assert serves(bus, "b::f") == ["u1"]
    assert one.connection.waiting == {}


def test_what_a_grant_no_longer_covers_gets_no_new_calls_while_those_in_flight_go_on(bus, worker, join):
    one, caller = worker(owns=["a::*"]), join()
    register(one, "a::f")
    caller.send(type="invokefunction", invocation_id="1", function_id="a::f", data={})
    given = one.take("invokefunction")[0]
    bus.grants.take([grant(owns=["b::*"])])
    assert call(caller, "a::f")["error"]["code"] == "function_not_found"
    one.send(type="invocationresult", invocation_id=given["invocation_id"], function_id="a::f", result=1)
    assert caller.take("invocationresult")[0]["result"] == 1


def test_replicas_of_one_worker_share_a_function(bus, worker):
    one, two = worker(owns=["a::*"]), worker()
    register(one, "a::f")
    assert register(two, "a::f") == []
    assert serves(bus, "a::f") == ["u1", "u1"]


def test_two_workers_never_serve_one_function_even_when_both_are_granted_it(bus, worker):
    one, two = worker("u1", owns=["a::*"]), worker("u2", owns=["a::f"])
    register(one, "a::f")
    assert register(two, "a::f") == ["a::f"]
    assert serves(bus, "a::f") == ["u1"]
    one.end()
    assert serves(bus, "a::f") == ["u2"]


def test_a_function_changes_hands_in_one_step(bus, worker):
    one, two = worker("u1", owns=["a::*"]), worker("u2", owns=["b::*"])
    register(one, "a::f")
    register(two, "a::f")
    seen = []
    bus.watchers.append(lambda connection: seen.append(serves(bus, "a::f")))
    bus.grants.take([grant("u2", owns=["a::*"]), grant("u1", owns=[])])
    assert serves(bus, "a::f") == ["u2"]
    assert all(len(each) <= 1 for each in seen)


def test_a_route_changes_hands_with_its_function_and_calls_in_progress_end_where_they_are(bus, worker, join):
    http = Http(bus=bus, channels=Channels(bus.clock))
    bus.triggers.serve("http", http, shared=False)
    owns = ["a::*", "http POST /x"]
    one, two, caller = worker("u1", owns=owns), worker("u2"), join()
    for each in (one, two):
        register(each, "a::f")
        bind(each, "a::f", "http", "1", {"api_path": "x", "http_method": "POST"})
    caller.send(type="invokefunction", invocation_id="1", function_id="a::f", data={})
    begun = one.take("invokefunction")[0]
    bus.grants.take([grant("u1"), grant("u2", owns=owns)])
    found = http._routes.get(Path.parse("x"), "POST")
    assert http._choose(found).binding.maker.uid == "u2"
    caller.send(type="invokefunction", invocation_id="2", function_id="a::f", data={})
    assert len(two.take("invokefunction")) == 1
    one.send(type="invocationresult", invocation_id=begun["invocation_id"], function_id="a::f", result=1)
    assert caller.take("invocationresult")[0]["result"] == 1


async def test_what_a_worker_did_not_declare_waits_five_seconds_before_it_is_refused(bus, worker, clock):
    one = worker(discover=True)
    assert register(one, "a::f") == []
    assert serves(bus, "a::f") == []
    await clock.advance(4.9)
    assert one.take("registrationrejected") == []
    await clock.advance(0.2)
    assert [each["function_id"] for each in one.take("registrationrejected")] == ["a::f"]


async def test_what_is_granted_meanwhile_is_never_told_refused(bus, worker, clock):
    one = worker(discover=True)
    register(one, "a::f")
    bus.grants.take([grant(discover=True, owns=["a::f"])])
    assert serves(bus, "a::f") == ["u1"]
    await clock.advance(10)
    assert one.take() == []


def test_what_waits_is_told_to_the_operator(bus, worker):
    from agentos_engine.triggers.connections import entry

    one = worker(owns=["a::*"])
    register(one, "b::f", "a::f")
    assert entry(one.connection, bus)["waiting"] == ["b::f"]
    assert entry(one.connection, bus)["functions"] == ["a::f"]


def test_what_waits_counts_against_the_limits_and_goes_with_the_connection(bus, worker):
    one = worker(owns=["a::*"])
    register(one, "b::f", "b::f")
    before = one.connection.registered_bytes
    assert before > 0
    one.send(type="unregisterfunction", id="b::f")
    assert one.connection.registered_bytes == 0
    register(one, "b::f")
    one.end()
    bus.grants.take([grant(owns=["b::f"])])
    assert serves(bus, "b::f") == []


def test_a_worker_that_leaves_gets_no_new_calls_and_makes_its_own(bus, worker, join):
    one, caller = worker(owns=["a::*"]), join()
    register(one, "a::f")
    register(caller, "x::f")
    bus.grants.take([grant(owns=["a::*"], leaving=True)])
    assert call(caller, "a::f")["error"]["code"] == "function_not_found"
    one.send(type="invokefunction", invocation_id="1", function_id="x::f", data={})
    assert caller.take("invokefunction")[0]["function_id"] == "x::f"
    assert not bus.grants.admits(peer())


def test_a_worker_whose_grant_is_removed_is_sent_away(bus, worker):
    one = worker(owns=["a::*"])
    register(one, "a::f")
    bus.grants.take([], ["u1"])
    assert one.wire.ended
    assert serves(bus, "a::f") == []
    assert bus.connections == {}


async def test_who_had_a_grant_that_was_removed_is_refused_at_once_and_let_in_when_it_has_one_again(bus, worker):
    worker(owns=["a::*"])
    bus.grants.take([], ["u1"])
    async with asyncio.timeout(1):
        assert not await bus.grants.wait_for(peer(), 60)
    bus.grants.take([grant()])
    assert await bus.grants.wait_for(peer(), 60)


async def test_who_has_no_grant_yet_is_held_until_it_comes(bus):
    held = asyncio.create_task(bus.grants.wait_for(peer(), 60))
    await asyncio.sleep(0)
    assert not held.done()
    bus.grants.take([grant()])
    async with asyncio.timeout(1):
        assert await held


async def test_those_that_are_gone_are_remembered_up_to_a_number(bus, monkeypatch):
    monkeypatch.setattr("agentos_engine.permissions.table.MAX_REVOKED", 2)
    for number in range(4):
        bus.grants.take([grant(f"u{number}")])
        bus.grants.take([], [f"u{number}"])
    async with asyncio.timeout(1):
        assert not await bus.grants.wait_for(peer("u3"), 60)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bus.grants.wait_for(peer("u0"), 60), 0.05)


def test_a_complete_list_revokes_who_is_not_on_it(bus, worker):
    one, two = worker("u1", owns=["a::*"]), worker("u2", owns=["b::*"])
    bus.grants.take([grant("u2", owns=["b::*"])], complete=True)
    assert one.wire.ended
    assert not two.wire.ended


def test_the_operators_own_functions_are_for_the_operator(bus, worker, join):
    one, operator = worker(), join(peer=peer("op", "operator"))
    function_id = f"{OPERATORS_OWN}connections"
    assert register(one, function_id) == [function_id]
    assert register(join(peer=peer("me", "host")), function_id) == [function_id]
    assert register(operator, function_id) == []
    assert call(one, function_id)["error"]["code"] == "FORBIDDEN"
    assert call(one, function_id, action={"type": "enqueue", "queue": "q"})["error"]["code"] == "FORBIDDEN"
    assert bind(one, function_id) == ["FORBIDDEN"]


# Calling


@pytest.mark.parametrize(
    ("calls", "function_id", "allowed"),
    [
        (None, "b::f", True),
        (None, "vault::get", False),
        (None, "approval::resolve", False),
        (None, "state::get", True),
        ([], "b::f", False),
        ([], "state::get", False),
        ([], "a::own", True),
        ([], "engine::workers::register", True),
        ([], "engine::log::info", True),
        (["b::*"], "b::f", True),
        (["b::*"], "b2::f", False),
        (["vault::get"], "vault::get", True),
        (["vault::get"], "vault::set", False),
        (["publish"], "publish", True),
        (["publish"], "publish::x", False),
    ],
)
def test_what_may_be_called(calls, function_id, allowed):
    permissions = Permissions(grant(owns=["a::*"], calls=calls))
    for _ in range(2):  # the second time out of what is remembered
        if allowed:
            permissions.check_call(function_id)
        else:
            with pytest.raises(BusError) as caught:
                permissions.check_call(function_id)
            assert caught.value.code == "FORBIDDEN"


def test_the_message_has_the_line_to_add(bus, worker):
    one = worker(calls=["b::*"])
    error = call(one, "memory::recall")["error"]
    assert error["code"] == "FORBIDDEN"
    assert "default/u1" in error["message"]
    assert 'spec.calls:   - "memory::recall"' in error["message"]
    assert bus.permissions_denied["call"] == 1


def test_a_sensitive_function_says_that_it_must_be_named(worker):
    message = call(worker(), "vault::get")["error"]["message"]
    assert "sensitive" in message
    assert '- "vault::get"' in message


def test_void_and_enqueued_calls_are_refused_as_well(bus, worker, join):
    one, other = worker(calls=[]), join()
    register(other, "b::f")
    one.send(type="invokefunction", function_id="b::f", data={}, action={"type": "void"})
    one.send(type="invokefunction", invocation_id="1", function_id="b::f", data={}, action={"type": "void"})
    assert other.take() == []
    assert call(one, "b::f", action={"type": "enqueue", "queue": "q"})["error"]["code"] == "FORBIDDEN"


def test_calls_change_with_the_grant_at_once(bus, worker, join):
    one, other = worker(calls=["b::*"]), join()
    register(other, "b::f")
    one.send(type="invokefunction", invocation_id="1", function_id="b::f", data={})
    assert len(other.take("invokefunction")) == 1
    bus.grants.take([grant(calls=[])])
    assert call(one, "b::f")["error"]["code"] == "FORBIDDEN"


# Having functions called by the engine


def test_a_trigger_may_only_call_what_the_worker_may(bus, worker):
    bus.triggers.serve("t", Bindings())
    one = worker(owns=["a::*"], calls=["b::*"])
    register(one, "a::f")
    assert bind(one, "a::f") == []
    assert bind(one, "b::f") == []
    assert bind(one, "c::f") == ["FORBIDDEN"]
    assert bind(one, "a::f", config={"condition_function_id": "c::f"}) == ["FORBIDDEN"]
    assert bind(one, "a::f", config={"middleware_function_ids": ["c::f"]}) == ["FORBIDDEN"]
    assert bus.permissions_denied["trigger"] == 3


def test_a_trigger_for_a_function_that_waits_waits_with_it(bus, worker):
    bus.triggers.serve("t", Bindings())
    one = worker(discover=True, calls=[])
    register(one, "a::f")
    assert bind(one, "a::f") == []
    assert one.connection.bindings == {}
    bus.grants.take([grant(discover=True, calls=[], owns=["a::f"])])
    assert list(one.connection.bindings) == ["b"]
    bus.grants.take([grant(discover=True, calls=[])])
    assert one.connection.bindings == {}


def test_a_trigger_waits_no_longer_when_its_function_is_taken_back(bus, worker):
    bus.triggers.serve("t", Bindings())
    one = worker(discover=True)
    register(one, "a::f")
    bind(one, "a::f")
    assert bus.bounds.triggers == 1
    one.send(type="unregisterfunction", id="a::f")
    assert one.connection.waiting_bindings == {}
    assert list(one.connection.bindings) == ["b"]  # calls are not limited: it may be another worker's
    one.end()
    assert (bus.bounds.triggers, bus.bounds.functions, bus.bounds.registered) == (0, 0, 0)


def test_registering_a_sensitive_function_gives_no_way_to_have_it_called(bus, worker, join):
    bus.triggers.serve("t", Bindings())
    vault = worker("vault", owns=["vault::*"])
    register(vault, "vault::get")
    one = worker("u1", discover=True)
    register(one, "vault::get")
    bind(one, "vault::get")
    assert one.connection.bindings == {}
    vault.end()
    assert one.connection.bindings == {}


def test_triggers_go_when_the_grant_no_longer_covers_what_they_call(bus, worker):
    bus.triggers.serve("t", Bindings())
    one = worker(calls=["b::*"])
    bind(one, "b::f")
    bus.grants.take([grant(calls=[])])
    assert one.connection.bindings == {}
    assert one.take("triggerregistrationresult")[0]["error"]["code"] == "FORBIDDEN"


def test_the_state_scopes_limit_state_triggers_and_indirect_calls(bus, worker):
    bus.triggers.serve("state", Bindings())
    one = worker(owns=["a::*"], state_scopes=("mine", "chat-*"))
    register(one, "a::f")
    assert bind(one, "a::f", "state", config={"scope": "mine"}) == []
    assert bind(one, "a::f", "state", config={"scope": "other"}) == ["FORBIDDEN"]
    assert bind(one, "a::f", "state") == ["FORBIDDEN"]
    assert bind(one, "state::set") == ["FORBIDDEN"]
    assert call(one, "state::set", action={"type": "enqueue", "queue": "q"})["error"]["code"] == "FORBIDDEN"


# What has one owner besides functions

LOGIN = {"api_path": "login", "http_method": "POST"}
ROUTE = "http POST /login"


@pytest.fixture
def http(bus):
    """The REST port's routes, without the port."""
    served = Http(bus=bus, channels=Channels(bus.clock))
    bus.triggers.serve("http", served, shared=False)

    def function_of(path: str, method: str) -> str:
        """The function that gets a request; empty when none does."""
        found = served._routes.get(Path.parse(path), method)
        return served._choose(found).binding.function_id if found is not None else ""

    return function_of


def told_of(worker, bus) -> tuple[list[str], list[str]]:
    """What the operator is told that a worker has of routes and trigger types, and what waits."""
    told = entry(worker.connection, bus)
    return told["claims"], told["waiting"]


def test_a_route_waits_until_it_is_granted_and_the_operator_is_told(bus, worker, http):
    one = worker(owns=["a::*"])
    register(one, "a::f")
    assert bind(one, "a::f", "http", config=LOGIN) == []
    assert http("login", "POST") == ""
    assert told_of(one, bus) == ([], [ROUTE])
    bus.grants.take([grant(owns=["a::*", ROUTE])])
    assert http("login", "POST") == "a::f"
    assert told_of(one, bus) == ([ROUTE], [])
    assert one.take() == []
    bus.grants.take([grant(owns=["a::*"])])
    assert http("login", "POST") == ""
    assert told_of(one, bus) == ([], [ROUTE])


def test_the_operator_is_told_when_a_route_is_bound_waits_or_goes(bus, worker, http):
    one = worker(owns=["a::*", ROUTE])
    seen = []
    bus.watchers.append(lambda connection: seen.append(told_of(one, bus)))
    bind(one, "a::f", "http", "1", LOGIN)
    bind(one, "a::f", "http", "2", LOGIN | {"http_method": "GET"})
    one.send(type="unregistertrigger", id="2", trigger_type="http")
    one.send(type="unregistertrigger", id="1", trigger_type="http")
    assert seen == [([ROUTE], []), ([ROUTE], ["http GET /login"]), ([ROUTE], []), ([], [])]
    assert bus.bounds.triggers == 0


def test_the_names_of_parameters_do_not_matter_for_whose_a_route_is(bus, worker, http):
    one, two = worker("u1", owns=["a::*", "http GET /orders/:"]), worker("u2", owns=["b::*"])
    bind(two, "b::f", "http", config={"api_path": "/orders/:number"})
    bind(one, "a::f", "http", config={"api_path": "orders/:id"})
    assert http("orders/:x", "GET") == "a::f"
    assert told_of(two, bus) == ([], ["http GET /orders/:"])


def test_a_route_stays_with_its_holder_whoever_comes_first(bus, worker, http):
    one, two = worker("u1", owns=["a::*", ROUTE]), worker("u2", owns=["b::*"])
    bind(two, "b::f", "http", config=LOGIN)
    assert http("login", "POST") == ""
    bind(one, "a::f", "http", config=LOGIN)
    assert http("login", "POST") == "a::f"
    one.end()
    assert http("login", "POST") == ""
    bind(worker("u1"), "a::f", "http", config=LOGIN)
    assert http("login", "POST") == "a::f"


def test_a_route_changes_hands_in_one_step(bus, worker, http):
    one, two = worker("u1", owns=["a::*", ROUTE]), worker("u2", owns=["b::*"])
    bind(one, "a::f", "http", config=LOGIN)
    bind(two, "b::f", "http", config=LOGIN)
    seen = []
    bus.watchers.append(lambda connection: seen.append((told_of(one, bus)[0], told_of(two, bus)[0])))
    bus.grants.take([grant("u2", owns=["b::*", ROUTE]), grant("u1", owns=["a::*"])])
    assert http("login", "POST") == "b::f"
    assert ([ROUTE], [ROUTE]) not in seen


async def test_whose_route_waits_for_five_seconds_is_told_so_and_gets_it_later(bus, worker, http, clock):
    one = worker(owns=["a::*"])
    bind(one, "a::f", "http", config=LOGIN)
    await clock.advance(4.9)
    assert one.take() == []
    await clock.advance(0.2)
    (refused,) = one.take("triggerregistrationresult")
    assert refused["error"]["code"] == "FORBIDDEN"
    assert f"{ROUTE} is not granted" in refused["error"]["message"]
    bus.grants.take([grant(owns=["a::*", ROUTE])])
    assert http("login", "POST") == "a::f"


def test_the_route_of_a_worker_that_leaves_gets_no_new_requests(bus, worker, http):
    one = worker(owns=["a::*", ROUTE])
    bind(one, "a::f", "http", config=LOGIN)
    bus.grants.take([grant(owns=["a::*", ROUTE], leaving=True)])
    assert http("login", "POST") == ""


def test_a_route_whose_function_waits_waits_for_both(bus, worker, http):
    one = worker(discover=True)
    register(one, "a::f")
    bind(one, "a::f", "http", config=LOGIN)
    assert told_of(one, bus) == ([], ["a::f", ROUTE])
    bus.grants.take([grant(discover=True, owns=["a::f"])])
    assert http("login", "POST") == ""
    bus.grants.take([grant(discover=True, owns=["a::f", ROUTE])])
    assert http("login", "POST") == "a::f"


def test_a_route_that_cannot_be_served_does_not_wait(bus, worker, http):
    one = worker(owns=["a::*"])
    for config in ({"api_path": 1}, {"api_path": "x", "http_method": "FETCH"}, {"api_path": "a/../b"}):
        assert bind(one, "a::f", "http", config=config) == ["trigger_registration_failed"]
    assert bind(one, "vault::get", "http", config=LOGIN) == ["FORBIDDEN"]
    assert told_of(one, bus) == ([], [])


def test_replicas_share_what_their_worker_has(bus, worker, http):
    replicas = [worker(owns=["a::*", ROUTE])] + [worker() for _ in range(299)]
    for each in replicas:
        assert bind(each, "a::f", "http", config=LOGIN) == []
    for each in replicas[:-1]:
        each.end()
    assert http("login", "POST") == "a::f"
    replicas[-1].end()
    assert http("login", "POST") == ""


def test_thousands_of_routes_that_nobody_granted_count_and_fill_no_message(bus, worker, http):
    one = worker(owns=["a::*"])
    for number in range(5000):
        bind(one, "a::f", "http", str(number), {"api_path": f"flood/{number}"})
    assert len(told_of(one, bus)[1]) == MOST_WAITING
    assert http("flood/1", "GET") == ""
    before = bus.bounds.triggers
    one.end()
    assert before > bus.bounds.triggers == 0
    assert bus.bounds.registered == 0


def test_a_function_that_is_called_like_a_route_is_nobodys(bus, worker, http):
    one = worker(discover=True)
    register(one, ROUTE, "trigger-type mail")
    assert told_of(one, bus) == ([], [])
    bus.grants.take([grant(discover=True, owns=[ROUTE])])
    assert serves(bus, ROUTE) == []


async def test_after_a_restart_of_the_engine_routes_are_whose_they_were(bus, worker, join, http):
    store = MemoryRecords()
    await store.change({each.uid: json.dumps(each.to_wire()).encode() for each in (grant("u1", owns=[ROUTE]),)}, ())
    await bus.grants.load(store)
    bus.grants.take([grant("u2")])
    two, one = worker("u2"), worker("u1")
    bind(two, "b::f", "http", config=LOGIN)
    bind(one, "a::f", "http", config=LOGIN)
    assert http("login", "POST") == "a::f"


def test_a_trigger_type_waits_until_it_is_granted(bus, worker):
    one, two, user = worker("u1", owns=["trigger-type mail"]), worker("u2"), worker("u3", owns=["c::*"])
    for each in (two, one):
        each.send(type="registertriggertype", id="mail", description="")
    register(user, "c::f")
    bind(user, "c::f", "mail")
    assert len(one.take("registertrigger")) == 1
    assert two.take() == []
    assert told_of(one, bus) == (["trigger-type mail"], [])
    assert told_of(two, bus) == ([], ["trigger-type mail"])
    bus.grants.take([grant("u1"), grant("u2", owns=["trigger-type mail"])])
    assert [each["type"] for each in one.take()] == ["unregistertrigger"]
    assert len(two.take("registertrigger")) == 1
    two.send(type="unregistertriggertype", id="mail")
    one.send(type="unregistertriggertype", id="mail")
    assert told_of(one, bus) == told_of(two, bus) == ([], [])
    assert bus.bounds.triggers == 1  # the user's


async def test_whose_trigger_type_waits_for_five_seconds_is_told_so(bus, worker, clock):
    one = worker()
    one.send(type="registertriggertype", id="mail", description="")
    await clock.advance(5.1)
    (refused,) = one.take("error")
    assert "trigger-type mail is not granted" in refused["error"]["message"]
    one.end()
    assert (bus.bounds.triggers, bus.bounds.registered) == (0, 0)


def test_a_trigger_type_of_the_engine_is_refused_at_once(bus, worker):
    bus.triggers.serve("t", Bindings())
    one = worker()
    one.send(type="registertriggertype", id="t", description="")
    assert "belongs to the engine" in one.take("error")[0]["error"]["message"]
    assert told_of(one, bus) == ([], [])


def bind_by_a_call(bus, worker):
    """Connect a worker that binds a route with engine::register_trigger, which is not answered yet."""
    engine_functions.install(bus)
    one = worker(owns=["a::*"])
    register(one, "a::f")
    data = {"trigger_type": "http", "function_id": "a::f", "config": LOGIN}
    one.send(type="invokefunction", invocation_id="1", function_id="engine::register_trigger", data=data)
    return one


async def test_a_route_bound_by_a_call_waits_for_its_grant(bus, worker, http):
    one = bind_by_a_call(bus, worker)
    await asyncio.sleep(0)
    assert told_of(one, bus) == ([], [ROUTE])
    bus.grants.take([grant(owns=["a::*", ROUTE])])
    await asyncio.sleep(0.01)
    assert one.take("invocationresult")[0]["result"]["id"]
    assert http("login", "POST") == "a::f"
    assert told_of(one, bus) == ([ROUTE], [])
    bus.grants.take([grant(owns=["a::*"])])
    assert http("login", "POST") == ""
    assert told_of(one, bus) == ([], [])


async def test_a_route_bound_by_a_call_is_refused_when_the_grant_does_not_come(bus, worker, http, clock):
    one = bind_by_a_call(bus, worker)
    await asyncio.sleep(0)
    await clock.advance(10.1)
    await asyncio.sleep(0.01)
    assert one.take("invocationresult")[0]["error"]["code"] == "FORBIDDEN"
    assert told_of(one, bus) == ([], [])
    bus.grants.take([grant(owns=["a::*", ROUTE])])
    assert http("login", "POST") == ""
    one.end()
    assert (bus.bounds.triggers, bus.bounds.registered) == (0, 0)


def test_another_workers_trigger_id_does_not_take_its_place(bus, worker):
    provider, one, two = (
        worker("p", owns=["trigger-type mail"]),
        worker("u1", owns=["a::*"]),
        worker("u2", owns=["b::*"]),
    )
    provider.send(type="registertriggertype", id="mail", description="")
    bind(one, "a::f", "mail", "same")
    bind(two, "b::f", "mail", "same")
    assert [each["function_id"] for each in provider.take("registertrigger")] == ["a::f"]
    assert provider.take("unregistertrigger") == []


# The table


def test_grants_are_kept_and_come_back(bus):
    async def go():
        store = MemoryRecords()
        first = Grants(bus)
        await first.load(store)
        assert await first.apply([grant("u1", owns=["a::*"]), grant("u2")]) == 2
        await first.apply([], ["u2"])
        again = Grants(bus)
        await again.load(store)
        return again.all()

    assert asyncio.run(go()) == [grant("u1", owns=["a::*"])]


def test_a_kept_grant_that_cannot_be_read_counts_as_none(bus):
    async def go():
        store = MemoryRecords()
        await store.change({"u1": b"{", "u2": json.dumps(grant("u2").to_wire()).encode()})
        await bus.grants.load(store)

    asyncio.run(go())
    assert [each.uid for each in bus.grants.all()] == ["u2"]


def test_who_waits_for_a_grant_is_admitted_when_it_comes_and_turned_away_when_it_does_not(bus):
    async def go():
        waiting = [asyncio.ensure_future(bus.grants.wait_for(peer("u1"), 5)) for _ in range(3)]
        await asyncio.sleep(0)
        bus.grants.take([grant("u1")])
        assert await asyncio.gather(*waiting) == [True, True, True]
        return await bus.grants.wait_for(peer("u2"), 0.01)

    assert asyncio.run(go()) is False


# Workers that sleep


def sleeping(**more) -> Grant:
    return grant(owns=["a::*"], sleeping=True, **more)


async def put_to_sleep(bus, worker, store):
    """A worker with a function and a trigger that was scaled to nothing."""
    bus.triggers.serve("t", Bindings())
    await bus.grants.load(MemoryRecords())
    await bus.sleepers.load(store)
    one = worker(owns=["a::*"])
    one.send(type="registerfunction", id="a::f", description="does", metadata={"x": 1})
    bind(one, "a::f", config={"y": 2})
    bus.grants.take([sleeping()])
    one.end()
    await asyncio.sleep(0)


async def test_what_a_sleeping_worker_registered_stays_and_calls_say_that_it_sleeps(bus, worker, join):
    await put_to_sleep(bus, worker, MemoryRecords())
    (owner,) = bus.registry.owners("a::f").registrations
    assert (owner.description, owner.metadata) == (b'"does"', b'{"x": 1}')
    assert [(each.function_id, each.config) for each in bus.triggers] == [("a::f", b'{"y": 2}')]
    error = call(join(), "a::f")["error"]
    assert error["code"] == "worker_asleep"
    assert "default/u1" in error["message"]
    assert not bus.notify("a::f", b"{}")
    assert len(bus.connections) == 1


async def test_the_route_of_a_sleeping_worker_answers_503_and_says_why(run_engine, join):
    running = await run_engine()
    bus = running.engine.bus
    bus.grants.take([grant(owns=["a::*", "http GET /x"])])
    one = join(bus=bus, peer=peer())
    one.send(type="registerfunction", id="a::f")
    bind(one, "a::f", "http", config={"api_path": "x", "http_method": "GET"})
    bus.grants.take([grant(owns=["a::*", "http GET /x"], sleeping=True)])
    one.end()
    answer = await running.http(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"worker_asleep"' in answer


async def test_it_survives_the_engine(bus, worker, clock):
    store = MemoryRecords()
    await put_to_sleep(bus, worker, store)
    again = Bus(clock=clock)
    again.triggers.serve("t", Bindings())
    again.grants.take([sleeping()])
    await again.sleepers.load(store)
    assert again.registry.owners("a::f") is not None
    assert [each.function_id for each in again.triggers] == ["a::f"]


async def test_a_worker_that_is_back_takes_its_place(bus, worker, join, clock):
    store = MemoryRecords()
    await put_to_sleep(bus, worker, store)
    bus.grants.take([grant(owns=["a::*"])])
    back = worker()
    register(back, "a::f")
    caller = join()
    caller.send(type="invokefunction", invocation_id="1", function_id="a::f", data={})
    assert len(back.take("invokefunction")) == 1
    await clock.advance(6)
    assert [each.connection for each in bus.registry.owners("a::f").registrations] == [back.connection]
    assert await store.load() == {}
    assert len(bus.sleepers) == 0


async def test_a_sleeping_worker_keeps_only_what_its_grant_covers(bus, worker):
    store = MemoryRecords()
    await put_to_sleep(bus, worker, store)
    bus.grants.take([grant(owns=["b::*"], sleeping=True)])
    assert bus.registry.owners("a::f") is None


async def test_a_sleeping_worker_that_is_deleted_leaves_nothing(bus, worker):
    store = MemoryRecords()
    await put_to_sleep(bus, worker, store)
    bus.grants.take([], ["u1"])
    await asyncio.sleep(0)
    assert bus.registry.owners("a::f") is None
    assert list(bus.triggers) == []
    assert await store.load() == {}


# Ways around, by the engine's own calls and by time


@pytest.mark.parametrize("deputy", sorted(FOR_CALLERS))
def test_the_engine_lends_its_rights_to_nobody(bus, worker, deputy):
    """What is called by a queue or a trigger is called by no one: such functions would find nobody to refuse."""
    one = worker(owns=["a::*"], calls=["a::*", *FOR_CALLERS])
    register(one, "a::f")
    refused = call(one, deputy, {"function_id": "vault::get"}, action={"type": "enqueue", "queue": "default"})["error"]
    assert (refused["code"], "itself" in refused["message"]) == ("FORBIDDEN", True)
    assert bind(one, deputy) == ["FORBIDDEN"]
    assert bind(one, "a::f", config={"condition_function_id": deputy}) == ["FORBIDDEN"]


async def test_a_trigger_made_by_a_call_goes_when_its_maker_may_call_the_function_no_more(bus, worker):
    engine_functions.install(bus)
    bus.triggers.serve("t", Bindings())
    one = worker(calls=["b::*", "engine::register_trigger"])
    one.send(
        type="invokefunction",
        invocation_id="c",
        function_id="engine::register_trigger",
        data={"trigger_type": "t", "function_id": "b::f"},
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer = one.take("invocationresult")
    assert bus.triggers.find(answer[0]["result"]["id"]) is not None
    one.end()
    bus.grants.take([grant(calls=["engine::register_trigger"])])
    assert len(bus.triggers) == 0


def test_what_waits_counts_among_all_functions_until_it_goes(bus, worker):
    one = worker(owns=["a::*"], discover=True)
    register(one, "a::f", "x::1", "x::2", "x::2")
    assert bus.bounds.functions == 3
    assert bus.bounds.registered == one.connection.registered_bytes > 0
    one.send(type="unregisterfunction", id="x::1")
    bus.grants.take([grant(owns=["a::*", "x::2"], discover=True)])
    assert (bus.bounds.functions, sorted(one.connection.registrations)) == (2, ["a::f", "x::2"])
    register(one, "x::3")
    one.end()
    assert (bus.bounds.functions, bus.bounds.registered) == (0, 0)


def test_a_worker_that_goes_costs_nothing_by_what_others_wait_for_without_a_grant(bus, worker, monkeypatch):
    one, other = worker("u1", owns=["a::*"]), worker("u2", discover=True)
    register(other, *(f"x::{number}" for number in range(100)))
    looked = []
    waiting = bus.registrations._waiting
    obstacle = waiting.obstacle
    monkeypatch.setattr(waiting, "obstacle", lambda each: looked.append(each) or obstacle(each))
    one.end()
    assert looked == []


def test_a_function_that_waited_for_another_worker_is_served_when_that_goes(bus, worker):
    one, two = worker("u1", owns=["a::*"]), worker("u2", owns=["a::*"])
    register(one, "a::f")
    assert register(two, "a::f") == ["a::f"]
    one.end()
    assert serves(bus, "a::f") == ["u2"]


def test_a_trigger_that_waits_moves_with_its_worker_into_another_namespace(bus, worker):
    bus.triggers.serve("t", Bindings())
    one = worker(discover=True)
    register(one, "x::f")
    assert bind(one, "x::f") == []
    bus.settle(one.connection, "blue")
    bus.grants.take([grant(owns=["x::f"], discover=True)])
    assert [each.namespace for each in bus.triggers] == ["blue"]


def test_the_line_to_add_is_one_line_whatever_the_function_is_called(worker):
    one = worker(calls=[])
    for hostile in ('x"\n  - "vault::*', "x\u2028- vault::get", "x\u202e::f", "x\x1b[2K::f"):
        message = call(one, hostile)["error"]["message"]
        assert message.isascii()
        assert message.isprintable()


def test_long_ids_do_not_fill_the_memory_of_what_may_be_called(bus, worker):
    one = worker()
    for number in range(5):
        call(one, f"x::{number}" + "y" * 900)
    assert bus.grants.find("u1").callable == set()


async def test_a_worker_that_is_back_without_a_function_leaves_it_to_who_waits(bus, worker, clock):
    one = worker("u1", owns=["a::*"], sleeping=True)
    register(one, "a::f")
    two = worker("u2", owns=["a::*"])
    register(two, "a::f")
    one.end()
    assert serves(bus, "a::f") == ["u1"]
    worker("u1", owns=["a::*"])
    await clock.advance(WAKING + 1)
    assert serves(bus, "a::f") == ["u2"]


@pytest.mark.parametrize(("trigger_type", "reads"), sorted(TELLS.items()))
def test_a_trigger_tells_a_worker_nothing_that_it_may_not_ask_for(worker, trigger_type, reads):
    one = worker(owns=["a::*"], calls=[])
    register(one, "a::f")
    assert bind(one, "a::f", trigger_type) == ["FORBIDDEN"]
    other = worker("u2", owns=["b::*"], calls=[reads])
    register(other, "b::f")
    assert bind(other, "b::f", trigger_type) == []


def test_no_worker_makes_the_message_to_the_operator_too_large(bus, worker):
    one = worker(owns=["a::*"], discover=True)
    register(one, *(f"a::{number}" + "\x01" * 1000 for number in range(3)))
    register(one, *(f"x::{number:04}" + "\x01" * 1000 for number in range(MOST_WAITING + 5)))
    told = entry(one.connection, bus)
    assert (len(told["functions"]), len(told["waiting"])) == (3, MOST_WAITING)
    assert {len(each) for each in (*told["functions"], *told["waiting"])} == {LONGEST}
    assert told["waiting"][0].startswith("x::0000")
