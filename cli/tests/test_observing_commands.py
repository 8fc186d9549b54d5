"""``agentos logs``, ``traces`` and ``trace`` against a real engine."""

import json
import re

import pytest
from commands import Command
from consoles import Engine, Failing, Worker
from ups import until


@pytest.fixture(scope="module", autouse=True)
def shop(engine: Engine) -> Worker:
    """A worker whose functions call each other and pass the trace on, as SDKs do."""
    worker = engine.worker("shop")

    def order(data: object) -> object:
        trace = worker.traceparents["shop::order"]
        worker.ask("shop::pay", {}, traceparent=trace)
        try:
            worker.ask("shop::ship", {}, traceparent=trace)
        except AssertionError:
            return "not shipped"
        return "shipped"

    def ship(data: object) -> object:
        raise Failing("NO_TRUCK", "all trucks \x1b[31mare out")

    worker.function("shop::order", order)
    worker.function("shop::pay", lambda data: "paid")
    worker.function("shop::ship", ship)
    for level, text, service in (
        ("info", "opened", "shop"),
        ("warn", "low \x1b[2Jstock\nin aisle 3", "shop"),
        ("error", "elsewhere", "bank"),
    ):
        worker.ask(f"engine::log::{level}", {"message": text, "data": {"n": 1}, "service_name": service})
    return worker


def test_logs_are_oldest_first_with_time_level_worker_and_text(agentos: Command):
    lines = agentos("logs").splitlines()
    at = r"[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}"
    assert re.fullmatch(rf"{at}  INFO   shop  opened  n=1", lines[0])
    assert re.fullmatch(rf"{at}  WARN   shop  low \\x1b\[2Jstock", lines[1])
    assert lines[2] == "    in aisle 3  n=1"
    assert re.fullmatch(rf"{at}  ERROR  bank  elsewhere  n=1", lines[3])


def test_logs_of_some_workers_from_a_level_on_and_the_newest(agentos: Command):
    def texts(*arguments: str) -> list[str]:
        rows = agentos("logs", "-o", "json", *arguments).splitlines()
        return [json.loads(row)["body"] for row in rows]

    assert texts("bank") == ["elsewhere"]
    assert texts("bank", "shop", "-n", "2") == ["low \x1b[2Jstock\nin aisle 3", "elsewhere"]
    assert texts("--level", "error") == ["elsewhere"]
    assert len(texts("--since", "10m")) == 3
    assert texts("nobody") == []
    done = agentos.run("logs", "nobody")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no log entries\n")


@pytest.mark.parametrize(
    "arguments", [["--level", "loud"], ["-n", "0"], ["-n", "1001"], ["--since", "yesterday"], ["-o", "name"]]
)
def test_a_wrong_option_is_exit_code_2(agentos: Command, arguments):
    agentos("logs", *arguments, code=2)


def test_logs_are_followed_until_ctrl_c_each_entry_once(agentos: Command, shop: Worker):
    with agentos.running("logs", "shop", "-f", "--level", "warn", "-o", "json") as process:
        assert process.stdout is not None
        assert "stock" in json.loads(process.stdout.readline())["body"]
        for service in ("bank", "shop"):
            shop.ask("engine::log::error", {"message": f"fire at the {service}", "service_name": service})
        shop.ask("engine::log::info", {"message": "not for you", "service_name": "shop"})
        shop.ask("engine::log::warn", {"message": "smoke", "service_name": "shop"})
        followed = [json.loads(process.stdout.readline())["body"] for _ in range(2)]
        assert followed == ["fire at the shop", "smoke"]


def test_following_ends_quietly_with_its_reader(agentos: Command, shop: Worker):
    def over() -> bool:
        shop.ask("engine::log::warn", {"message": "again", "service_name": "shop"})
        return process.poll() is not None

    with agentos.start("logs", "-f") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        until("it has ended", over)
        assert (process.returncode, process.stderr.read()) == (0, "")


def test_following_ends_with_3_when_the_engine_goes(agentos: Command):
    own = Engine()
    try:
        worker = own.worker("w")
        worker.ask("engine::log::warn", {"message": "first", "service_name": "w"})
        process = agentos.start("logs", "-f", "--url", own.console)
        assert process.stdout is not None
        assert "first" in process.stdout.readline()
    finally:
        own.stop()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 3
    assert said.startswith("agentos: ")
    assert said.count("\n") == 1


def newest_order(agentos: Command) -> str:
    """Make an order and return its trace once all of it is known."""
    assert agentos("call", "shop::order") == '"not shipped"\n'
    rows = json.loads(agentos("traces", "-o", "json", "-n", "5"))
    row = next(row for row in rows if row["name"] == "call shop::order")
    assert (row["spans"], row["status"]) == (3, "error")
    return row["trace_id"]


def test_the_latest_traces_newest_first(agentos: Command):
    first, second = newest_order(agentos), newest_order(agentos)
    names = agentos("traces", "-o", "name").split()
    assert names.index(second) < names.index(first)
    line = next(line for line in agentos("traces").splitlines() if line.startswith(second))
    assert re.search(r"(now|ago) +[0-9.]+(µs|ms|s) +3 +error +call shop::order$", line)
    assert len(agentos("traces", "-n", "1", "-o", "name").split()) == 1


def test_a_trace_in_a_pipe_is_a_table_with_nesting_times_and_errors(agentos: Command):
    header, order, pay, ship = agentos("trace", newest_order(agentos)).splitlines()
    assert header.split() == ["SPAN", "WORKER", "START", "DURATION", "STATUS", "ERROR"]
    assert re.match(r"call shop::order +shop +0 +[0-9.]+\w+ +ok$", order)
    assert re.match(r"\. call shop::pay +shop +\+[0-9.]+\w+ +[0-9.]+\w+ +ok$", pay)
    assert re.match(r"\. call shop::ship +shop .* error +NO_TRUCK: all trucks \\x1b\[31mare out$", ship)


def test_a_trace_on_a_terminal_is_a_waterfall(agentos: Command):
    written = agentos.on_terminal("trace", newest_order(agentos), columns=100)
    order, pay, ship, error = re.sub(r"\x1b\[[0-9;]*m", "", written).rstrip("\n").split("\n")
    assert re.match(r"call shop::order +shop +[0-9.]+\w+ +━{60}$", order)
    assert re.match(r"  call shop::pay +shop +[0-9.]+\w+ +━+ *$", pay)
    assert re.match(r"  call shop::ship +shop .* {4,}━+ *$", ship)
    assert error == r"    NO_TRUCK: all trucks \x1b[31mare out"
    assert "\x1b[31m  call shop::ship" in written
    assert "\x1b[31m  call shop::pay" not in written
    plain = agentos.on_terminal("trace", newest_order(agentos), columns=40, NO_COLOR="1")
    assert "━" not in plain
    assert "\x1b[31m" not in plain


def test_a_trace_as_json_and_its_span_ids(agentos: Command):
    trace_id = newest_order(agentos)
    root = json.loads(agentos("trace", trace_id, "-o", "json"))[0]
    spans = [root["span_id"], *(child["span_id"] for child in root["children"])]
    assert agentos("trace", trace_id, "-o", "name").split() == spans


def test_an_unknown_trace_is_exit_code_4(agentos: Command):
    said = agentos("trace", "0" * 32, code=4)
    assert said == f"agentos: there is no trace {'0' * 32}; agentos traces lists the latest ones\n"
