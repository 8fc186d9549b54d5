"""A mixed load for an engine, and the book that is kept of what the engine has acknowledged."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from tests.durability.engine import ENTRY, Client, EngineError, Gone, Process

SECONDS = 20
"""For all that was acknowledged to be there and done after a start."""
UNKNOWN = object()


class Ledger:
    """What the engine has acknowledged so far, over all its lives, and what it has done."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.numbers = itertools.count(1)
        self.values: dict[tuple[str, str], Any] = {}
        """By kind and key: the value that was acknowledged last; None once its deletion was."""
        self.asked: dict[tuple[str, str], Any] = {}
        """What was asked for and not acknowledged: it may have happened."""
        self.jobs: set[int] = set()
        self.ran: Counter[int] = Counter()
        self.broken: set[str] = set()
        self.discarding: set[str] = set()
        """What was acknowledged of these is in ``discarded`` too."""
        self.discarded: set[str] = set()
        self.published: set[int] = set()
        self.heard: Counter[int] = Counter()
        self.ticks: Counter[str] = Counter()

    @property
    def acknowledged(self) -> int:
        """How much there is to be lost."""
        return len(self.values) + len(self.jobs) + len(self.broken) + len(self.published)

    # The worker

    async def join(self, engine: Process) -> Client:
        """Connect the worker that the jobs, messages and ticks are for."""
        client = await engine.connect()
        await client.serve("jobs::work", lambda data: self.ran.update([data["n"]]))
        await client.serve("jobs::broken", self._fail)
        await client.serve("events::on", lambda data: self.heard.update([data["n"]]))
        await client.serve("ticks::each", lambda data: self.ticks.update([data["scheduled_time"]]))
        await client.bind("t-1", "durable:subscriber", "events::on", {"topic": "news"})
        await client.bind("t-2", "cron", "ticks::each", {"expression": "* * * * * *"})
        await client.settled()
        return client

    def _fail(self, data: Any) -> None:
        raise EngineError({"code": "broken", "message": "as asked"})

    # The load

    async def load(self, client: Client, seconds: float, size: int = 100, lanes: int = 6) -> None:
        """Ask for changes of all kinds until the engine has gone, or for so many seconds."""
        work: list[Coroutine[Any, Any, None]] = [
            self._values(client, kind, f"{kind}-{number}", size)
            for number in range(lanes)
            for kind in ("state", "stream")
        ]
        work += [self._jobs(client), self._broken(client), self._publish(client), self._configure(client)]
        tasks = [asyncio.create_task(self._until_gone(each)) for each in work]
        await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        failed = [task.exception() for task in tasks if not task.cancelled() and task.exception() is not None]
        assert not failed, failed

    async def _until_gone(self, work: Coroutine[Any, Any, None]) -> None:
        # What was asked for last may have happened; an engine that ends may also say no.
        with contextlib.suppress(Gone, EngineError):
            await work

    async def _values(self, client: Client, kind: str, key: str, size: int) -> None:
        place = (kind, key)
        names = {"scope": "s", "key": key}
        if kind == "stream":
            names = {"stream_name": "x", "group_id": "g", "item_id": key}
        while True:
            old, choice = self.values.get(place), self.chance.random()
            if old is not None and choice < 0.15:
                self.asked[place] = None
                await client.call(f"{kind}::delete", names)
            elif old is not None and choice < 0.5:
                self.asked[place] = old | {"n": old["n"] + 1}
                ops = [{"type": "increment", "path": "n", "by": 1}]
                await client.call(f"{kind}::update", names | {"ops": ops})
            else:
                value = {"n": next(self.numbers), "text": "x" * size}
                self.asked[place] = value
                await client.call(f"{kind}::set", names | {"value" if kind == "state" else "data": value})
            self.values[place] = self.asked.pop(place)

    async def _jobs(self, client: Client) -> None:
        while True:
            number = next(self.numbers)
            await client.call("jobs::work", {"n": number}, action={"type": "enqueue", "queue": "work"})
            self.jobs.add(number)

    async def _broken(self, client: Client) -> None:
        for _ in range(20):
            job = {"queue": "broken", "function_id": "jobs::broken", "data": {"n": next(self.numbers)}}
            self.broken.add((await client.call("engine::queue::enqueue", job))["messageReceiptId"])
        for receipt in sorted(await self._dead(client) - self.discarding)[:5]:
            self.discarding.add(receipt)
            await client.call("iii::queue::discard_message", {"queue": "broken", "message_id": receipt})
            self.discarded.add(receipt)

    async def _publish(self, client: Client) -> None:
        while True:
            number = next(self.numbers)
            await client.call("iii::durable::publish", {"topic": "news", "data": {"n": number}})
            self.published.add(number)

    async def _configure(self, client: Client) -> None:
        place = ("configuration", "entry")
        await client.call("configuration::ensure", ENTRY)
        while True:
            self.asked[place] = next(self.numbers)
            await client.call("configuration::set", {"id": "entry", "value": self.asked[place]})
            self.values[place] = self.asked.pop(place)

    # The proof

    async def prove(self, client: Client) -> None:
        """Check that all that was acknowledged is there, and that all jobs and messages arrive."""
        for kind in ("state", "stream"):
            await self._prove_values(client, kind)
        place = ("configuration", "entry")
        if place in self.values:
            self._compare(place, (await client.call("configuration::get", {"id": "entry"}))["value"])
        deadline = time.monotonic() + SECONDS
        while missing := await self._missing(client):
            assert time.monotonic() < deadline, f"lost, or not done within {SECONDS} s: {missing}"
            await asyncio.sleep(0.02)
        twice = {tick: count for tick, count in self.ticks.items() if count > 1}
        assert not twice, f"ticks that were called more than once: {twice}"

    async def _missing(self, client: Client) -> dict[str, object]:
        dead = await self._dead(client)
        assert not dead & self.discarded, "dead letters that were discarded are back"
        found = {
            "jobs": self.jobs - self.ran.keys(),
            "messages": self.published - self.heard.keys(),
            "dead letters": self.broken - self.discarding - dead,
        }
        return {what: f"{len(missing)}: {sorted(missing)[:10]}" for what, missing in found.items() if missing}

    async def _prove_values(self, client: Client, kind: str) -> None:
        for place in {*self.values, *self.asked}:
            if place[0] == kind:
                names = {"scope": "s", "key": place[1]}
                if kind == "stream":
                    names = {"stream_name": "x", "group_id": "g", "item_id": place[1]}
                self._compare(place, await client.call(f"{kind}::get", names))

    def _compare(self, place: tuple[str, str], found: Any) -> None:
        """A value is the one that was acknowledged last, or the one that was asked for after that."""
        asked = self.asked.pop(place, UNKNOWN)
        assert found == self.values.get(place) or (asked is not UNKNOWN and found == asked), (
            f"{place}: acknowledged was {self.values.get(place)!r:.200}, there is {found!r:.200}"
        )
        self.values[place] = found

    async def _dead(self, client: Client) -> set[str]:
        found: set[str] = set()
        while True:
            page = await client.call(
                "engine::queue::dlq_messages", {"topic": "broken", "offset": len(found), "limit": 1000}
            )
            found |= {each["id"] for each in page}
            if len(page) < 1000:
                return found
