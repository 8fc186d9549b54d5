"""``kill -9`` and power failures, under load and in every phase of an engine's life, lose nothing acknowledged."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3

import pytest

from tests.durability.disk import (
    DATABASE_SYNC,
    DATABASE_WRITE,
    FOLDER_SYNC,
    LOG_SYNC,
    LOG_WRITE,
    OTHER_SYNC,
    OTHER_WRITE,
    RENAME,
)
from tests.durability.engine import CONFIG, Process
from tests.durability.ledger import Ledger

LOAD = 5.0
"""Seconds of load at most in a phase in which the engine dies by itself."""
BIG = 200_000
"""Bytes of a value in the phases that need a checkpoint: it comes after 16 MB."""
ANY_WRITE = LOG_WRITE | DATABASE_WRITE | OTHER_WRITE
ANY_SYNC = LOG_SYNC | DATABASE_SYNC | OTHER_SYNC | FOLDER_SYNC


class Trial:
    """One engine with its book, put to death again and again."""

    def __init__(self, engine: Process, seed: int) -> None:
        self.engine, self.ledger = engine, Ledger(seed)
        self.chance = random.Random(seed)

    async def die(self, phase: str) -> None:
        """Bring the engine to its end in a phase; afterwards it has gone, and the disk may have lost what was not synced."""
        if self.engine.ended:
            await self.engine.start()
        client = await self.ledger.join(self.engine)
        await self.ledger.prove(client)
        await getattr(self, f"_{phase}")(client)
        await client.close()
        await self.engine.kill()
        if self.chance.random() < 0.6:
            self.engine.disk.lose_power()

    async def _load(self, client) -> None:
        await self.ledger.load(client, 0.05 + self.chance.random() * 0.3)

    async def _group(self, client) -> None:
        self.engine.disk.kill_in(LOG_SYNC, self.chance.randrange(60))
        await self.ledger.load(client, LOAD)

    async def _log(self, client) -> None:
        self.engine.disk.kill_in(LOG_WRITE, self.chance.randrange(300))
        await self.ledger.load(client, LOAD)

    async def _checkpoint(self, client) -> None:
        self.engine.disk.kill_in(DATABASE_SYNC)
        await self.ledger.load(client, LOAD, size=BIG)

    async def _torn_checkpoint(self, client) -> None:
        self.engine.disk.kill_in(DATABASE_WRITE, self.chance.randrange(200))
        await self.ledger.load(client, LOAD, size=BIG)

    async def _configuration(self, client) -> None:
        kinds = self.chance.choice((RENAME, OTHER_SYNC, OTHER_WRITE, FOLDER_SYNC))
        self.engine.disk.kill_in(kinds, self.chance.randrange(20))
        await self.ledger.load(client, LOAD)

    async def _reload(self, client) -> None:
        name = f"queue-{next(self.ledger.numbers)}"
        self.engine.config.write_text(CONFIG.replace("queue_configs:", f"queue_configs:\n        {name}: {{}}"))
        await self.ledger.load(client, 0.9 + self.chance.random() * 0.4)

    async def _shutdown(self, client) -> None:
        loading = asyncio.create_task(self.ledger.load(client, LOAD))
        await asyncio.sleep(self.chance.random() * 0.1)
        self.engine.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await self.engine.wait(self.chance.random() * 0.15)
        await self.engine.kill()
        await loading

    async def _last_checkpoint(self, client) -> None:
        await self._load(client)
        self.engine.disk.kill_in(DATABASE_SYNC | DATABASE_WRITE, self.chance.randrange(5))
        self.engine.signal(signal.SIGTERM)
        await self.engine.wait()

    async def _start(self, client) -> None:
        await self._load(client)
        await self.engine.kill()
        await self.engine.begin()
        with contextlib.suppress(TimeoutError):
            await self.engine.wait(self.chance.random() * 0.5)

    async def _recovery(self, client) -> None:
        await self._load(client)
        await self.engine.kill()
        await self.engine.begin(kill_in=self.chance.choice((ANY_WRITE, ANY_SYNC)), after=self.chance.randrange(12))
        await self.engine.listening()

    async def _migration(self, client) -> None:
        await self._load(client)
        await self.engine.kill()
        with contextlib.closing(sqlite3.connect(self.engine.data / "engine.db")) as database:
            database.executescript("DROP TABLE records; PRAGMA user_version = 1")
        await self.engine.begin(kill_in=self.chance.choice((LOG_WRITE, LOG_SYNC)), after=self.chance.randrange(4))
        await self.engine.listening()


PHASES = [each.removeprefix("_") for each in vars(Trial) if each.startswith("_") and not each.startswith("__")]


async def try_phases(processes, phases, seed):
    """Let an engine die in phases, and prove after each that nothing was lost; the seed is in the name of its folder."""
    trial = Trial(processes(f"seed-{seed}"), seed)
    for number, phase in enumerate(phases):
        try:
            await trial.die(phase)
        except BaseException as error:
            before = phases[number - 1] if number else "nothing"
            error.add_note(f"seed {seed}, phase {number}: {phase}, after {before}")
            raise
    await trial.engine.start()
    client = await trial.ledger.join(trial.engine)
    await trial.ledger.prove(client)
    await trial.engine.stop()
    await client.close()
    with contextlib.closing(sqlite3.connect(trial.engine.data / "engine.db")) as database:
        jobs = database.execute("SELECT key FROM records WHERE kind = 'cron'").fetchall()
    assert ["ticks::each" in key for (key,) in jobs] == [True]  # for the next engine to make up for its ticks
    return trial.ledger


async def test_nothing_acknowledged_is_lost_whenever_the_engine_dies(processes):
    seed = int.from_bytes(os.urandom(4))
    ledger = await try_phases(processes, random.Random(seed).sample(PHASES, 10), seed)
    assert ledger.acknowledged > 100


async def test_this_disk_shows_that_less_than_full_synchronisation_loses_what_was_acknowledged(processes):
    engine = processes(synchronous="NORMAL")
    await engine.start()
    client = await engine.connect()
    for number in range(20):
        await client.call("state::set", {"scope": "s", "key": str(number), "value": 1})
    await client.close()
    await engine.kill()
    engine.disk.lose_power()
    await engine.start()
    client = await engine.connect()
    assert len(await client.call("state::list", {"scope": "s"})) < 20
    await client.close()


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_nothing_acknowledged_is_lost_in_two_hundred_deaths(processes):
    for _ in range(8):
        seed = int.from_bytes(os.urandom(4))
        ledger = await try_phases(processes, random.Random(seed).choices(PHASES, k=25), seed)
        assert ledger.acknowledged > 200
