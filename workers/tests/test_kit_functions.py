"""Declaring functions, checking requests, and answering over HTTP and over the bus (the real SDK, a stub engine)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from agentos_workers.kit import (
    Context,
    Cron,
    CronTick,
    FunctionError,
    Http,
    Reply,
    Request,
    SettingsError,
    Trigger,
    Worker,
    load_settings,
)
from agentos_workers.kit.instance import Instance
from agentos_workers.kit.scope import Scope
from pydantic import BaseModel, Field

pytestmark = pytest.mark.filterwarnings("ignore:register_trigger is deprecated")


class Item(Request):
    name: str
    count: int = Field(ge=1)


class Order(Request):
    order_id: str
    items: list[Item] = Field(default_factory=list)
    limit: int = 10


class Echo(Reply):
    order_id: str
    limit: int
    caller: str | None
    thread: str


class Settings(BaseModel):
    size: int = 3
    label: str = "none"


def echo(order: Order, context: Context) -> Echo:
    return Echo(
        order_id=order.order_id,
        limit=order.limit,
        caller=context.caller_worker_id,
        thread=threading.current_thread().name,
    )


@pytest.fixture
def worker() -> Worker:
    worker = Worker("shop")
    worker.function("shop::order", http=(Http("POST", "shop/orders"), Http("GET", "shop/orders/:orderId")))(echo)
    return worker


Start = Callable[..., Instance]


@pytest.fixture
def start(bus: Any) -> Iterator[Start]:
    """Connects a worker to the bus; extra arguments are its environment."""
    started: list[Instance] = []

    def start(worker: Worker, **environ: str) -> Instance:
        instance = Instance(worker, Scope(worker.name, {"III_URL": bus.url, **environ}))
        started.append(instance)
        assert instance.start()
        return instance

    yield start
    for instance in started:
        instance.stop()


def error_of(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value.code, caught.value.message  # type: ignore[attr-defined]


def test_both_schemas_the_description_and_the_routes_are_registered(start: Start, worker: Worker, bus: Any) -> None:
    worker.functions["shop::order"].handler.__doc__ = None
    start(worker)
    bus.wait_for(lambda: len(bus.triggers) == 2)
    registered = bus.functions["shop::order"]
    assert registered["request_format"]["required"] == ["orderId"]
    assert registered["response_format"]["properties"].keys() == {"orderId", "limit", "caller", "thread"}
    assert {(t["trigger_type"], t["function_id"], *t["config"].values()) for t in bus.triggers.values()} == {
        ("http", "shop::order", "shop/orders", "POST"),
        ("http", "shop::order", "shop/orders/:orderId", "GET"),
    }
    bus.wait_for(lambda: bus.names == ["shop"])


def test_triggers_of_other_types_call_the_function_with_their_payload(start: Start, bus: Any) -> None:
    worker = Worker("shop")
    ticks: list[CronTick] = []

    @worker.function("shop::tick", triggers=(Cron("0 0 6 * * *"), Trigger("state", {"scope": "shop"})))
    def tick(tick: CronTick, context: Context) -> None:
        ticks.append(tick)

    start(worker)
    bus.wait_for(lambda: len(bus.triggers) == 2)
    assert bus.functions["shop::tick"]["response_format"] == {"type": "null"}
    assert [(t["trigger_type"], t["function_id"], t["config"]) for t in bus.triggers.values()] == [
        ("cron", "shop::tick", {"expression": "0 0 6 * * *"}),
        ("state", "shop::tick", {"scope": "shop"}),
    ]
    time = "2026-01-01T06:00:00Z"
    payload = {"trigger": "cron", "job_id": "j", "scheduled_time": time, "actual_time": time}
    assert bus.call("shop::tick", payload) is None
    assert (ticks[0].job_id, ticks[0].scheduled_time.hour) == ("j", 6)


def test_a_direct_call_takes_and_gives_the_bare_payload(start: Start, worker: Worker, bus: Any) -> None:
    start(worker)
    reply = bus.call("shop::order", {"orderId": "a", "unknown": True})
    assert (reply["orderId"], reply["limit"], reply["caller"]) == ("a", 10, "caller-1")


def test_a_plain_handler_runs_in_a_thread_of_the_worker(start: Start, worker: Worker, bus: Any) -> None:
    start(worker)
    assert bus.call("shop::order", {"orderId": "a"})["thread"].startswith("shop")


def test_a_direct_call_with_bad_input_raises_an_error_that_names_the_fields(
    start: Start, worker: Worker, bus: Any
) -> None:
    start(worker)
    call = {"items": [{"name": "x", "count": 0}], "limit": "7"}
    assert error_of(lambda: bus.call("shop::order", call)) == (
        "invocation_failed",
        "INVALID_INPUT: orderId: Field required; items[0].count: Input should be greater than or equal to 1; "
        "limit: Input should be a valid integer",
    )
    assert error_of(lambda: bus.call("shop::order", [1]))[1] == "INVALID_INPUT: the request must be a JSON object"


def test_an_http_request_is_unwrapped_and_answered_with_status_and_body(start: Start, worker: Worker, bus: Any) -> None:
    start(worker)
    status, body = bus.request("shop::order", "POST", "shop/orders", body={"orderId": "a", "limit": 3})
    assert (status, body["orderId"], body["limit"], body["caller"]) == (200, "a", 3, "caller-1")


def test_path_and_query_parameters_become_fields_and_are_converted(start: Start, worker: Worker, bus: Any) -> None:
    start(worker)
    query = {"limit": "7", "utm": "x", "orderId": "overridden"}
    status, body = bus.request("shop::order", "GET", "shop/orders/:orderId", params={"orderId": "b"}, query=query)
    assert (status, body["orderId"], body["limit"]) == (200, "b", 7)


def test_bad_input_over_http_is_a_400_that_names_the_fields(start: Start, worker: Worker, bus: Any) -> None:
    start(worker)
    status, body = bus.request("shop::order", "POST", "shop/orders", body={"orderId": 5})
    assert status == 400
    assert body == {
        "error": {
            "code": "INVALID_INPUT",
            "message": "orderId: Input should be a valid string",
            "fields": [{"path": "orderId", "message": "Input should be a valid string"}],
        }
    }


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        ([1], {}, "the body must be a JSON object"),
        ("text", {}, "the body must be a JSON object"),
        (None, {"content-length": "12"}, "the body must be JSON, sent with Content-Type: application/json"),
        ({"orderId": "\ud800"}, {}, "not JSON that can be read: too deep, or broken Unicode"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(
    start: Start, worker: Worker, bus: Any, body: Any, headers: dict[str, str], message: str
) -> None:
    start(worker)
    status, answer = bus.request("shop::order", "POST", "shop/orders", body=body, headers=headers)
    assert (status, answer["error"]["message"]) == (400, message)


def test_a_request_over_the_size_limit_is_a_413(start: Start, bus: Any) -> None:
    worker = Worker("shop")
    worker.function("shop::order", max_request_bytes=100)(echo)
    start(worker)
    status, body = bus.request("shop::order", "POST", "x", body={"orderId": "a" * 100})
    assert (status, body["error"]["message"]) == (413, "114 bytes as JSON; shop::order takes at most 100")


def test_an_error_of_the_domain_carries_code_message_and_status(start: Start, bus: Any) -> None:
    worker = Worker("shop")

    @worker.function("shop::order")
    async def refuse(order: Order, context: Context) -> Echo:
        raise FunctionError("SOLD_OUT", "nothing left", status=409, details={"stock": 0})

    start(worker)
    assert bus.request("shop::order", "POST", "x", body={"orderId": "a"}) == (
        409,
        {"error": {"code": "SOLD_OUT", "message": "nothing left", "stock": 0}},
    )
    direct = error_of(lambda: bus.call("shop::order", {"orderId": "a"}))
    assert direct == ("invocation_failed", "SOLD_OUT: nothing left")


def test_an_unexpected_error_is_a_500_without_internals_and_a_traceback_in_the_log(
    start: Start, bus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker("shop")

    @worker.function("shop::order")
    def fail(order: Order, context: Context) -> Echo:
        raise RuntimeError("password=hunter2")

    start(worker)
    with caplog.at_level(logging.ERROR, "agentos_workers"):
        status, body = bus.request("shop::order", "POST", "x", body={"orderId": "a"})
    assert (status, body["error"]["code"]) == (500, "INTERNAL")
    assert "hunter2" not in str(body)
    record = caplog.records[-1]
    assert record.exc_info
    assert "hunter2" in str(record.exc_info[1])
    assert record.getMessage().split("error id ")[1].rstrip(")") in body["error"]["message"]
    invocation = bus.send("shop::order", {"orderId": "a"})
    bus.wait_for(lambda: bus.has_result(invocation))
    assert "hunter2" not in str(bus._results[invocation])


def test_a_reply_of_another_type_is_an_internal_error(start: Start, bus: Any) -> None:
    worker = Worker("shop")

    @worker.function("shop::order")
    def wrong(order: Order, context: Context) -> Echo:
        return {"orderId": "a"}  # type: ignore[return-value]

    start(worker)
    assert bus.request("shop::order", "POST", "x", body={"orderId": "a"})[0] == 500


def test_calls_to_others_have_a_deadline_and_their_failures_are_told(start: Start, bus: Any) -> None:
    worker = Worker("shop")
    silent = threading.Event()

    @worker.function("shop::order")
    async def ask(order: Order, context: Context) -> Echo:
        reply = await context.call("stock::get", {"id": order.order_id}, timeout=order.limit / 1000)
        return Echo(order_id=reply["id"], limit=0, caller=None, thread="")

    start(worker)
    bus.provided["stock::get"] = lambda payload: payload
    assert bus.call("shop::order", {"orderId": "a", "limit": 20_000})["orderId"] == "a"
    bus.provided["stock::get"] = lambda payload: silent.wait(20)
    status, body = bus.request("shop::order", "POST", "x", body={"orderId": "a", "limit": 50})
    assert (status, body["error"]["code"]) == (504, "CALL_FAILED")
    assert "stock::get, which shop::order needs, failed: TIMEOUT" in body["error"]["message"]
    silent.set()
    del bus.provided["stock::get"]
    status, body = bus.request("shop::order", "POST", "x", body={"orderId": "a", "limit": 1000})
    assert status == 502
    assert "function_not_found: Function stock::get not found" in body["error"]["message"]


def test_calls_over_the_limit_are_refused_and_the_next_one_is_served(start: Start, bus: Any) -> None:
    worker = Worker("shop")
    release, entered = threading.Event(), threading.Semaphore(0)

    @worker.function("shop::order")
    def hold(order: Order, context: Context) -> Echo:
        entered.release()
        release.wait(20)
        return Echo(order_id="done", limit=0, caller=None, thread="")

    start(worker, AGENTOS_MAX_IN_FLIGHT="2")
    held = [bus.send("shop::order", {"orderId": "a"}) for _ in range(2)]
    assert entered.acquire(timeout=20)
    assert entered.acquire(timeout=20)
    status, body = bus.request("shop::order", "POST", "x", body={"orderId": "a"})
    assert (status, body["error"]["code"]) == (503, "OVERLOADED")
    release.set()
    assert [bus.result(one)["orderId"] for one in held] == ["done", "done"]
    assert bus.call("shop::order", {"orderId": "a"})["orderId"] == "done"


def test_stopping_unregisters_at_once_and_finishes_the_call_that_runs(start: Start, bus: Any) -> None:
    worker = Worker("shop")
    release, entered = threading.Event(), threading.Event()

    @worker.function("shop::order", http=Http("POST", "shop/orders"))
    def hold(order: Order, context: Context) -> Echo:
        entered.set()
        release.wait(20)
        return Echo(order_id="done", limit=0, caller=None, thread="")

    instance = start(worker)
    running = bus.send("shop::order", {"orderId": "a"})
    assert entered.wait(20)
    outcome: list[bool] = []
    stopping = threading.Thread(target=lambda: outcome.append(instance.stop(drain_seconds=20)))
    stopping.start()
    bus.wait_for(lambda: not bus.functions and not bus.triggers)
    assert not bus.closed
    release.set()
    assert bus.result(running)["orderId"] == "done"
    stopping.join(20)
    assert outcome == [True]
    bus.wait_for(lambda: bus.closed)


def test_stopping_gives_up_on_a_call_that_outlives_the_drain_limit(start: Start, bus: Any) -> None:
    worker = Worker("shop")
    release, entered = threading.Event(), threading.Event()

    @worker.function("shop::order")
    def hold(order: Order, context: Context) -> Echo:
        entered.set()
        release.wait(20)
        return Echo(order_id="done", limit=0, caller=None, thread="")

    instance = start(worker)
    bus.send("shop::order", {"orderId": "a"})
    assert entered.wait(20)
    assert instance.stop(drain_seconds=0.05) is False
    release.set()


def test_handlers_wait_for_the_resource_which_opens_after_registration(start: Start, bus: Any) -> None:
    opened = threading.Event()
    worker = Worker("shop", settings=Settings, open_resource=lambda s: opened.wait(20) and f"{s.size}", prefix="SHOP_")

    @worker.function("shop::order")
    def use(order: Order, context: Context) -> Echo:
        return Echo(order_id=context.resource, limit=context.settings.size, caller=None, thread="")

    start(worker)
    waiting = bus.send("shop::order", {"orderId": "a"})
    opened.set()
    assert bus.result(waiting) == {"orderId": "3", "limit": 3, "caller": None, "thread": ""}


def test_settings_come_from_the_environment_and_errors_name_the_variables() -> None:
    assert load_settings(Settings, "SHOP_", {"SHOP_SIZE": "5", "SHOP_LABEL": " "}) == Settings(size=5)
    with pytest.raises(SettingsError, match=r"^SHOP_SIZE: Input should be a valid integer") as caught:
        load_settings(Settings, "SHOP_", {"SHOP_SIZE": "s3cret"})
    assert "s3cret" not in str(caught.value)


def untyped(order, context):  # type: ignore[no-untyped-def]
    return None


def no_context(order: Order) -> Echo:
    raise NotImplementedError


def no_model(order: dict[str, Any], context: Context) -> Echo:
    raise NotImplementedError


def no_reply(order: Order, context: Context) -> NoReturn:
    raise NotImplementedError


@pytest.mark.parametrize("handler", [untyped, no_context, no_model, no_reply])
def test_a_handler_without_models_is_refused_when_it_is_declared(handler: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="shop::order: "):
        Worker("shop").function("shop::order")(handler)


def test_an_id_cannot_be_declared_twice(worker: Worker) -> None:
    with pytest.raises(ValueError, match="shop::order is declared twice in worker shop"):
        worker.function("shop::order")(echo)
