"""How long from apply to Ready, by phase: 20 Workers one after another on a running cluster, with a real SDK.

usage: python -m tests.bench.apply_to_ready [COUNT]   (make bench; needs a kept cluster: make demo KEEP=1)
Prints one JSON line per phase, in milliseconds. Phases up to "ready" come from watches on the API server; the operator's own
share comes from its log: "objects" is watch event → last object written, "gate" is registration → gate patched.
"""

import asyncio
import json
import statistics
import sys
import time
from typing import Any

from kubernetes.aio import client, config, watch

from tests import cluster as clusters
from tests import demo
from tests.e2e.support import NAMESPACE, condition, worker

PHASES = ("pod made", "pod scheduled", "containers ready", "gate true", "pod ready", "ready")


async def measure(name: str, custom: client.CustomObjectsApi, core: client.CoreV1Api) -> dict[str, float]:
    """Applies one Worker and returns the seconds from the request to each phase."""
    at: dict[str, float] = {}
    body = worker(name, f"{name}::one")

    def mark(phase: str, holds: bool) -> None:
        if holds:
            at.setdefault(phase, time.perf_counter())

    async def pods() -> None:
        async with watch.Watch() as stream:
            async for event in stream.stream(
                core.list_namespaced_pod, NAMESPACE, label_selector=f"agentos.dev/worker={name}"
            ):
                pod: Any = event["raw_object"]
                mark("pod made", True)
                mark("pod scheduled", condition(pod, "PodScheduled")[0] == "True")
                mark("containers ready", condition(pod, "ContainersReady")[0] == "True")
                mark("gate true", condition(pod, "agentos.dev/registered")[0] == "True")
                mark("pod ready", condition(pod, "Ready")[0] == "True")

    async def until_ready() -> None:
        kind = ("agentos.dev", "v1alpha1", NAMESPACE, "workers")
        async with watch.Watch() as stream:
            async for event in stream.stream(
                custom.list_namespaced_custom_object, *kind, field_selector=f"metadata.name={name}"
            ):
                if condition(event["object"], "Ready")[0] == "True":
                    mark("ready", True)
                    return

    watching = asyncio.create_task(pods())
    ready = asyncio.create_task(until_ready())
    start = time.perf_counter()
    await custom.create_namespaced_custom_object("agentos.dev", "v1alpha1", NAMESPACE, "workers", body)
    try:
        async with asyncio.timeout(120):
            await ready
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return {phase: moment - start for phase, moment in at.items()}


def summary(phase: str, seconds: list[float]) -> str:
    """One JSON line: milliseconds at the median, the 95th percentile and the worst."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    figures = {"p50_ms": statistics.median(ordered), "p95_ms": p95, "max_ms": ordered[-1]}
    rounded = {name: round(1000 * value, 1) for name, value in figures.items()}
    return json.dumps({"phase": phase, "n": len(ordered)} | rounded, ensure_ascii=False)


async def run(cluster: clusters.Cluster, count: int) -> None:
    """Measures, prints, and removes what it made."""
    await config.load_kube_config(str(cluster.kubeconfig))
    names = [f"bench-{number}" for number in range(count)]
    async with client.ApiClient() as api:
        custom, core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        try:
            results = [await measure(name, custom, core) for name in names]
        finally:
            cluster.kubectl("delete", "worker", "-n", NAMESPACE, "--ignore-not-found", *names)
    for phase in PHASES:
        print(summary(f"apply → {phase}", [result[phase] for result in results if phase in result]))
    log = cluster.kubectl("logs", "-n", demo.NAMESPACE, "deploy/agentos-operator", "--tail=-1").stdout
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    for message, phase in (
        ("objects written", "operator: watch event → last object"),
        ("gate set", "operator: registration → gate"),
    ):
        own = [e["seconds"] for e in entries if e["message"] == message and any(name in e["object"] for name in names)]
        print(summary(phase, own))


def main() -> int:
    """Runs against the kept cluster; returns the exit code."""
    cluster = clusters.find(demo.cluster_name())
    if cluster is None:
        print("no cluster is up; make one with: make demo KEEP=1", file=sys.stderr)
        return 1
    asyncio.run(run(cluster, int(sys.argv[1]) if len(sys.argv) > 1 else 20))
    return 0


if __name__ == "__main__":
    sys.exit(main())
