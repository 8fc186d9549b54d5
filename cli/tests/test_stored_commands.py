"""``agentos state``, ``queue`` and ``stream`` against a real engine."""

import json
import re
import threading

import pytest
from commands import Command
from consoles import Engine, Failing, Worker
from ups import until


@pytest.fixture(scope="module")
def jobs(engine: Engine) -> Worker:
    """A worker that fails what it takes from a topic, until it is told that all is well."""
    worker = engine.worker("jobs")
    well = threading.Event()
    worker.well = well  # type: ignore[attr-defined]

    def run(data: object) -> object:
        if not well.is_set():
            raise Failing("BROKEN", "try \x1b[31mlater")
        return None

    worker.function("jobs::run", run)
    worker.trigger("durable:subscriber", "jobs::run", {"topic": "orders", "queue_config": {"maxRetries": 0}})
    return worker


def fill(agentos: Command, worker: Worker, count: int) -> list[dict]:
    """Let jobs fail; return them as they are listed."""
    for number in range(count):
        worker.ask("iii::durable::publish", {"topic": "orders", "data": {"number": number, "text": "\x1b[2J"}})

    def dead() -> list[dict]:
        rows = json.loads(agentos("queue", "dlq", "orders", "-o", "json"))
        return rows if len(rows) >= count else []

    return until("the jobs are dead", dead)


def test_state_is_set_read_listed_and_deleted(agentos: Command):
    assert json.loads(agentos("state", "set", "shop", "a", '{"n": 1}')) == {"old_value": None, "new_value": {"n": 1}}
    agentos("state", "set", "shop", "b", "-", stdin='"text"')
    assert json.loads(agentos("state", "get", "shop", "a")) == {"n": 1}
    assert agentos("state", "get", "shop", "a", "-o", "yaml") == "n: 1\n"
    assert "shop" in agentos("state", "list", "-o", "name").split()
    assert agentos("state", "list", "shop").splitlines() == ["VALUE", '{"n": 1}', '"text"']
    assert json.loads(agentos("state", "list", "shop", "-o", "json")) == [{"n": 1}, "text"]
    assert json.loads(agentos("state", "delete", "shop", "a")) == {"n": 1}
    said = agentos("state", "get", "shop", "a", code=4)
    assert said == "agentos: scope shop has no value under a\n"
    assert agentos("state", "delete", "shop", "a", code=4) == said


def test_a_value_that_is_not_json_is_exit_code_2(agentos: Command):
    assert agentos("state", "set", "shop", "a", "text", code=2).startswith("agentos: VALUE: not JSON")
    agentos("state", "list", "shop", "-o", "name", code=2)


def test_queues_with_what_waits_and_what_failed(agentos: Command, jobs: Worker):
    fill(agentos, jobs, 1)
    rows = {row["name"]: row for row in json.loads(agentos("queue", "list", "-o", "json"))}
    assert (rows["orders"]["depth"], rows["orders"]["consumer_count"]) == (0, 1)
    assert rows["orders"]["dlq_depth"] >= 1
    assert re.search(r"^orders +0 +1 +[0-9]+$", agentos("queue", "list"), re.MULTILINE)
    assert agentos("queue", "list", "-o", "name").split() == ["default", "orders"]


def test_dead_letters_with_error_and_payload(agentos: Command, jobs: Worker):
    rows = fill(agentos, jobs, 2)
    assert rows[0]["error"].startswith("BROKEN: try \x1b[31mlater")
    text = agentos("queue", "dlq", "orders")
    assert re.search(rf"^{rows[0]['id']} +\S+.* +1 +BROKEN: try \\x1b\[31mlater +{{\"number\": 0", text, re.MULTILINE)
    assert agentos("queue", "dlq", "orders", "-o", "name", "-n", "1") == rows[0]["id"] + "\n"
    assert agentos("queue", "dlq", "default") == ""


def test_dead_letters_run_again_one_or_all(agentos: Command, jobs: Worker):
    rows = fill(agentos, jobs, 2)
    jobs.well.set()  # type: ignore[attr-defined]
    one = rows[0]["id"]
    assert json.loads(agentos("queue", "redrive", "orders", "--message", one, "-o", "json"))["redriven"] == 1
    assert one not in agentos("queue", "dlq", "orders", "-o", "name")
    assert f"orders has no dead letter {one}" in agentos("queue", "redrive", "orders", "--message", one, code=4)
    assert re.search(rf"^Run again: +{len(rows) - 1}$", agentos("queue", "redrive", "orders"), re.MULTILINE)
    assert agentos("queue", "dlq", "orders", "-o", "name") == ""
    assert re.search(r"^Run again: +0$", agentos("queue", "redrive", "orders"), re.MULTILINE)


@pytest.mark.parametrize("verb", ["dlq", "redrive"])
def test_an_unknown_queue_is_exit_code_4(agentos: Command, jobs: Worker, verb):
    assert agentos("queue", verb, "oders", code=4) == "agentos: there is no queue oders; did you mean orders?\n"


def test_the_items_of_a_stream(agentos: Command, jobs: Worker):
    for group, item in (("a", 1), ("b", "\x1b[2J")):
        jobs.ask("stream::set", {"stream_name": "chat", "group_id": group, "item_id": "i", "data": item})
    assert agentos("stream", "chat").splitlines() == ["GROUP   ITEM", "a       1", r'b       "\u001b[2J"']
    assert json.loads(agentos("stream", "chat", "--group", "a", "-o", "json")) == [{"group_id": "a", "data": 1}]
    assert agentos("stream", "chat", "-o", "name") == "a\nb\n"
    assert agentos("stream", "none") == ""


def test_a_stream_is_followed_until_ctrl_c(agentos: Command, jobs: Worker):
    place = {"stream_name": "live/ü", "group_id": "g"}
    jobs.ask("stream::set", {**place, "item_id": "old", "data": 0})
    with agentos.running("stream", "live/ü", "-g", "g", "-f", "-o", "json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"]["type"] == "sync"
        jobs.ask("stream::set", {**place, "item_id": "new", "data": "\x1b[2J"})
        event = json.loads(process.stdout.readline())
        assert (event["id"], event["event"]) == ("new", {"type": "create", "data": "\x1b[2J"})


def test_a_followed_stream_reads_as_a_line_for_each_event(agentos: Command, jobs: Worker):
    place = {"stream_name": "lines", "group_id": "g"}
    with agentos.running("stream", "lines", "-g", "g", "-f") as process:
        assert process.stdout is not None
        assert re.fullmatch(r"[0-9:.]{12}  sync  +\[\]\n", process.stdout.readline())
        jobs.ask("stream::set", {**place, "item_id": "i", "data": "\x1b[2J"})
        assert re.fullmatch(r'[0-9:.]{12}  create  i  "\\u001b\[2J"\n', process.stdout.readline())


def test_following_needs_a_group(agentos: Command):
    assert "--group" in agentos("stream", "chat", "-f", code=2)
