"""my-worker: greets people, and counts the minutes."""

from agentos_workers.kit import Context, Cron, Http, Reply, Request, Worker
from pydantic import Field

worker = Worker("my-worker", description="Greets people, and counts the minutes")

# The engine keeps this value: it outlives the worker, and all replicas see the same one.
MINUTES = {"scope": "my-worker", "key": "minutes"}

# Seconds that a call to another function may take.
TIMEOUT = 5.0


class GreetRequest(Request):
    """Who is greeted. What does not fit is refused before `greet` sees it, with an error that names the field."""

    name: str = Field(min_length=1, max_length=100)


class GreetReply(Reply):
    """The greeting."""

    message: str


class Total(Reply):
    """How many minutes were counted so far."""

    minutes: int


@worker.function("my-worker::greet", http=Http("POST", "my-worker/greet"))
async def greet(request: GreetRequest, context: Context) -> GreetReply:
    """Greets somebody by name."""
    return GreetReply(message=f"Hello, {request.name}!")


@worker.function("my-worker::count", triggers=Cron("0 * * * * *"))
async def count(context: Context) -> Total:
    """Counts one minute more. The engine calls it at second 0 of every minute."""
    # One operation of the engine, not a read and a write: no count is lost when two calls meet.
    one_more = {"type": "increment", "path": "total", "by": 1}
    changed = await context.call("state::update", {**MINUTES, "ops": [one_more]}, TIMEOUT)
    return Total(minutes=changed["new_value"]["total"])


@worker.function("my-worker::total", http=Http("GET", "my-worker/total"))
async def total(context: Context) -> Total:
    """Says how many minutes were counted so far."""
    kept = await context.call("state::get", MINUTES, TIMEOUT)
    return Total(minutes=kept["total"] if kept else 0)
