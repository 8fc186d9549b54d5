"""How long an engine takes to start on a large database, and what it takes then.

Run it by `python -m tests.bench.startup [MEGABYTES]`; the default is 1024. Three kinds of database are made, each in the
way that an engine makes it: values only; waiting jobs, as many as the engine takes (half of that), beside values; dead
letters beside values. Of each, with the database in the system's memory and as it was after kill -9, with a log.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from agentos_engine.queues import names
from agentos_engine.storage.queues import Job, Keep
from agentos_engine.storage.sqlite import SqliteStorage

from tests.bench.measuring import Figure, figure, keep

MEGABYTE = 1 << 20
RUNS = 3
BATCH = 1000
KEEP = Keep(count=1 << 30, size=1 << 40)


async def put_values(storage: SqliteStorage, size: int) -> None:
    """Values of 1 KiB, a thousand to a scope."""
    value = b'"%s"' % (b"x" * 1024)
    for start in range(0, size // 1024, BATCH):
        await asyncio.gather(
            *(storage.values.set("state", f"s{start}", str(number), value) for number in range(start, start + BATCH))
        )


async def put_jobs(storage: SqliteStorage, size: int, *, dead: bool) -> None:
    """Jobs of 5 KiB in five queues."""
    data = b'{"text":"%s"}' % (b"x" * 5100)
    for start in range(0, size // 5120, BATCH):
        jobs = [
            Job(
                queue=names.named(f"q{number % 5}"),
                id=str(number),
                function_id="a::f",
                data=data,
                created_at=time.time(),
                due_at=time.time() + 3600,
                max_attempts=3,
            )
            for number in range(start, start + BATCH)
        ]
        added = await storage.queues.add(jobs, receipt="", now=time.time())
        if dead:
            await asyncio.gather(
                *(
                    storage.queues.bury(each.seq, attempts_made=3, failed_at=time.time(), error="e", keep=KEEP)
                    for each in added.waiting
                )
            )


async def make(folder: Path, kind: str, size: int) -> None:
    """Fill a data folder, and leave it as kill -9 does."""
    storage = await SqliteStorage.open(folder)
    if kind == "values":
        await put_values(storage, size)
    else:
        await put_jobs(storage, size // 2, dead=kind == "dead letters")
        await put_values(storage, size // 2)
    for end in ("", "-wal"):
        shutil.copy(folder / f"engine.db{end}", folder.with_suffix(".kept") / f"engine.db{end}")
    await storage.close()


def start(folder: Path, config: Path) -> tuple[float, float]:
    """Return the seconds until the engine listens, and the megabytes that it takes when it is idle."""
    flags = ["--port=0", "--http-port=0", "--stream-port=0", "--admin-port=0"]
    command = [sys.executable, "-m", "agentos_engine", *flags, "--data-dir", str(folder), "--config", str(config)]
    began = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["message"] == "listening":
                break
        seconds = time.monotonic() - began
        time.sleep(1)
        return seconds, psutil.Process(process.pid).memory_info().rss / MEGABYTE
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def main() -> None:
    """Measure each kind of database; print the figures and keep them."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as parent:
        config = Path(parent) / "config.yaml"
        queues = "".join(f"\n        q{number}: {{}}" for number in range(5))
        config.write_text(f"workers:\n  - name: iii-queue\n    config:\n      queue_configs:{queues}\n")
        for kind in ("values", "waiting jobs", "dead letters"):
            kept, data = Path(parent) / "data.kept", Path(parent) / "data"
            kept.mkdir()
            asyncio.run(make(data, kind, megabytes * MEGABYTE))
            size = sum(each.stat().st_size for each in kept.iterdir()) // MEGABYTE
            runs = []
            for _ in range(RUNS):
                shutil.rmtree(data)
                shutil.copytree(kept, data)
                runs.append(start(data, config))
            shutil.rmtree(kept)
            shutil.rmtree(data)
            note = f"a database of {size} MB after kill -9"
            figures.append(figure(f"start, {kind}", "s", [each[0] for each in runs], gate=3.0, note=note))
            figures.append(figure(f"idle after it, {kind}", "MB", [each[1] for each in runs], note=note))
    keep("startup", figures)


if __name__ == "__main__":
    main()
