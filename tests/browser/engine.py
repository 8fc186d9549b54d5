"""An engine with a console, as `agentos up` runs it or as it runs in a realm.

``python -m tests.browser.engine FLEET FLAG…``: FLEET is a JSON file with the workers that ``GET /api/fleet`` gives; the
console records all calls with their payloads. Where there is no such file it runs as in a realm.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop
from agentos_engine.app import Engine
from agentos_engine.config import read_settings
from agentos_engine.console.options import ConsoleOptions


def options(fleet: Path) -> ConsoleOptions:
    """Return the console's options."""
    if not fleet.exists():
        return ConsoleOptions()
    return ConsoleOptions(always=True, payloads=True, fleet=lambda: json.loads(fleet.read_text()))


async def serve(console: ConsoleOptions, flags: list[str]) -> None:
    """Run until SIGTERM; prints the ports as a line of JSON."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    engine = Engine(read_settings(flags, {}), console=console)
    ports = await engine.start()
    print(json.dumps({"port": ports.workers, "console-port": ports.console, "http-port": ports.http}), flush=True)
    await stopping.wait()
    await engine.stop()


if __name__ == "__main__":
    uvloop.run(serve(options(Path(sys.argv[1])), sys.argv[2:]))
