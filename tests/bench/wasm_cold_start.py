"""CPU time of a cold start: a new instance of a cached module, one call, and its result.

Prints one JSON object. CPU is the process's own, all threads, so a busy machine does not show. A sample is the mean of a
small batch, because the clock is read around it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from agentos_workers.wasm_sandbox.host_calls import HostCalls
from agentos_workers.wasm_sandbox.runtime import WasmRuntime
from wasmtime import wat2wasm

GREET = Path(__file__).parents[2] / "examples" / "wasm" / "greet.wat"
MESSAGE = b'{"name":"Ada"}'
BATCH = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=400, help=f"batches of {BATCH} runs that are measured")
    samples = parser.parse_args().samples

    runtime = WasmRuntime()
    began = time.process_time()
    module = runtime.compile(bytes(wat2wasm(GREET.read_text())))
    compile_micros = (time.process_time() - began) * 1e6

    def cold_start() -> None:
        host = HostCalls(_no_bus, "greet", "", time.monotonic() + 30, 10)
        result = runtime.run(module, MESSAGE, host, fuel=1_000_000, timeout_secs=30, memory_pages=256)
        if json.loads(result.output)["bytes"] != len(MESSAGE):
            raise SystemExit(f"the guest gave a wrong answer: {result.output!r}")

    for _ in range(50):
        cold_start()
    micros = []
    for _ in range(samples):
        began = time.process_time()
        for _ in range(BATCH):
            cold_start()
        micros.append((time.process_time() - began) / BATCH * 1e6)
    percentiles = statistics.quantiles(micros, n=100)
    print(
        json.dumps(
            {
                "bench": "wasm_cold_start",
                "ran": f"examples/wasm/greet.wat, cached: new store, instantiate, alloc, execute, read and parse the "
                f"result; {samples} samples of {BATCH} runs after 50 warm-up runs",
                "unit": "CPU microseconds per run",
                "p50": round(percentiles[49], 1),
                "p95": round(percentiles[94], 1),
                "compile_once": round(compile_micros, 1),
                "wasmtime": version("wasmtime"),
                "python": platform.python_version(),
            },
            indent=2,
        )
    )


def _no_bus(function_id: str, payload: object, seconds: float) -> None:
    raise SystemExit(f"the guest called {function_id}")


if __name__ == "__main__":
    main()
