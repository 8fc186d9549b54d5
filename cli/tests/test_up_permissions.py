"""What workers may register and call under ``agentos up``: the Worker YAML says it, the engine enforces it."""

from pathlib import Path
from typing import Any

import httpx
from ups import Up, kit_worker, until, up, worker_yaml

CALLER = """
from agentos_workers.kit import Context, InvocationError, Reply, Request, Worker

worker = Worker("caller")


class Call(Request):
    to: str
    payload: dict = {}


class Answer(Reply):
    value: object = None
    code: str = ""
    message: str = ""


@worker.function("caller::call")
async def call(request: Call, context: Context) -> Answer:
    try:
        return Answer(value=await context.call(request.to, request.payload, timeout=5))
    except InvocationError as error:
        return Answer(code=error.code, message=str(error))
"""
"""A worker that calls what it is told to, and answers with the result or the error."""


def called(running: Up, function_id: str, **payload: Any) -> dict[str, Any]:
    """What the caller gets for a call."""
    return running.call("caller::call", {"to": function_id, "payload": payload})


def fleet(folder: Path, extra: str, owns: str = "caller::*") -> Path:
    kit_worker(folder / "code" / "caller", "caller", code=CALLER)
    kit_worker(folder / "code" / "other", "other")
    (folder / "fleet").mkdir(exist_ok=True)
    (folder / "fleet" / "caller.yaml").write_text(worker_yaml("caller", "../code/caller", owns, extra))
    (folder / "fleet" / "other.yaml").write_text(worker_yaml("other", "../code/other", "other::*"))
    return folder / "fleet" / "caller.yaml"


def test_a_call_outside_calls_is_refused_with_the_line_to_add_and_that_line_allows_it_at_once(tmp_path: Path) -> None:
    file = fleet(tmp_path, '  calls: ["state::get"]\n  stateScopes: ["caller-*"]\n')
    with up(tmp_path, "-f", "fleet") as running:
        running.ready(2)
        pid = running.fleet()["caller"]["pid"]
        refused = called(running, "other::hello")
        assert refused["code"] == "FORBIDDEN"
        assert (
            'Worker default/caller may not call other::hello; add this line to its spec.calls:   - "other::hello"'
            in (refused["message"])
        )
        assert running.line(r'call refused: .* add this line to its spec\.calls:   - "other::hello"')
        page = httpx.get(f"{running.console}/api/calls").json()["calls"]
        assert any("spec.calls" in str(call["error"]) for call in page if call["function_id"] == "other::hello")
        assert called(running, "state::get", scope="caller-1", key="a")["code"] == ""
        refused = called(running, "state::get", scope="other", key="a")
        assert (refused["code"], "spec.stateScopes" in refused["message"]) == ("FORBIDDEN", True)
        # What a worker owns it may call, named or not.
        assert called(running, "caller::call", to="state::get")["code"] == ""
        file.write_text(worker_yaml("caller", "../code/caller", "caller::*", "  calls: [other::hello]\n"))
        until("the call is allowed", lambda: called(running, "other::hello", name="Ada")["value"] is not None)
        assert called(running, "state::get", scope="caller-1", key="a")["code"] == "FORBIDDEN"
        assert running.fleet()["caller"]["pid"] == pid


def test_what_spec_owns_does_not_cover_is_not_served_and_told_with_the_line_to_add(tmp_path: Path) -> None:
    file = fleet(tmp_path, "", owns="caller::else")
    with up(tmp_path, "-f", "fleet") as running:
        running.line(
            r"caller +\* caller::call is not served: spec\.owns does not cover it; add this line there:   - caller::call"
        )
        assert running.fleet()["caller"]["functions"] == []
        file.write_text(worker_yaml("caller", "../code/caller", "caller::call"))
        until("it is served", lambda: running.fleet()["caller"]["functions"] == ["caller::call"])
        assert called(running, "other::hello")["code"] == ""


def test_a_worker_without_worker_yaml_has_no_limits_but_on_what_is_sensitive(tmp_path: Path) -> None:
    kit_worker(tmp_path / "caller", "caller", code=CALLER)
    kit_worker(tmp_path / "other", "other")
    with up(tmp_path) as running:
        running.ready(2)
        assert called(running, "other::hello", name="Ada")["value"] == {"text": "hello Ada"}
        assert called(running, "state::get", scope="any", key="a")["code"] == ""
        refused = called(running, "vault::get")
        assert refused["code"] == "FORBIDDEN"
        assert "sensitive" in refused["message"]
