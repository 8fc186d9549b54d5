"""How long `agentos up` takes from its start to the first answered call, and what it and ten idle workers take.

Run it by `python -m tests.bench.up [RUNS]`; the ten workers are Python workers on our kit, each in a folder of its own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

WORKERS = 10
PORT = 43111
WORKER = """
from agentos_workers.kit import Context, Http, Reply, Request, Worker

worker = Worker("{name}")


class Hello(Request):
    name: str


class Greeting(Reply):
    text: str


@worker.function("{name}::hello", http=Http("POST", "{name}/hello"))
async def hello(request: Hello, context: Context) -> Greeting:
    return Greeting(text=f"hello {{request.name}}")
"""


def write_workers(folder: Path) -> None:
    """Write the folders of the workers."""
    for number in range(WORKERS):
        name = f"w{number}"
        (folder / name).mkdir()
        manifest = f"iii: v1\nname: {name}\nscripts:\n  start: agentos-worker run worker.py\n"
        (folder / name / "iii.worker.yaml").write_text(manifest)
        (folder / name / "worker.py").write_text(WORKER.format(name=name))


def first_call(folder: Path, *flags: str) -> dict[str, float]:
    """Start it, call the last worker until it answers, let it be idle for 2 s, and stop it.

    Returns seconds to the first answer, megabytes (RSS) of all processes, and seconds to the end after SIGINT.
    """
    ports = ["--port=0", f"--http-port={PORT}", "--stream-port=0", "--admin-port=0", "--console-port=0"]
    began = time.monotonic()
    up = subprocess.Popen(
        [sys.executable, "-m", "agentos", "up", *ports, *flags], cwd=folder, stdout=subprocess.DEVNULL
    )
    try:
        seconds = _answered(began)
        time.sleep(2)
        everybody = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
        megabytes = sum(each.memory_info().rss for each in everybody) / 1e6
    finally:
        ended = time.monotonic()
        up.terminate()
        up.wait(30)
    return {"first_call_s": seconds, "idle_mb": megabytes, "stop_s": time.monotonic() - ended}


def _answered(began: float) -> float:
    with httpx.Client() as client:
        while time.monotonic() - began < 60:
            try:
                if (
                    client.post(f"http://127.0.0.1:{PORT}/w{WORKERS - 1}/hello", json={"name": "Ada"}).status_code
                    == 200
                ):
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            time.sleep(0.005)
    raise SystemExit("no answer within 60 s")


def main() -> None:
    """Print median, least and most of each figure, shared and isolated."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_workers(folder)
        for what, flags in (("shared", ()), ("isolated", ("--isolate",))):
            figures = [first_call(folder, *flags) for _ in range(runs)]
            for key in figures[0]:
                values = sorted(each[key] for each in figures)
                line = {"median": statistics.median(values), "least": values[0], "most": values[-1]}
                print(f"{what:9} {key:13} {json.dumps({key: round(value, 3) for key, value in line.items()})}")


if __name__ == "__main__":
    main()
