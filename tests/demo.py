"""The main job from nothing: a cluster, the chart, a worker that answers, and what happens when names clash.

``python -m tests.demo`` runs it (``make demo``); with KEEP=1 the cluster stays. ``python -m tests.demo urls`` prints where a
kept cluster's engine is reached from this host (``make -s engine-urls``).
"""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests import cluster as clusters
from tests.cluster import Cluster, ClusterError, Steps

ROOT = Path(__file__).parent.parent
NAMESPACE, REALM_NAMESPACE, REALM = "agentos-system", "default", "default"
HTTP_PORT, BUS_PORT = 3111, 49134
READY_TIMEOUT = "180s"
API_KEY = "kubectl get secret agentos-api-key -n default -o jsonpath='{.data.key}' | base64 -d"
"""What prints the key that the default realm's REST port asks for."""


def cluster_name() -> str:
    """The cluster that demo, tests and benches use: $AGENTOS_CLUSTER, else the default one."""
    return os.environ.get("AGENTOS_CLUSTER") or clusters.DEFAULT_NAME


def main() -> int:
    """Runs the demo; returns the exit code."""
    name, keep = cluster_name(), os.environ.get("KEEP") == "1"
    steps = Steps()
    try:
        with steps("bring up the cluster"):
            cluster = clusters.up(name, steps)
        with steps("build and load the image"):
            cluster.load_image(clusters.build_image(steps))
        show(cluster, steps)
    except ClusterError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    finally:
        if not keep:
            with steps("remove every trace"):
                clusters.down(name)
        steps.table()
    if keep:
        print(
            "\nThe cluster stays. Reach it with\n  export KUBECONFIG=$(make -s kubeconfig)\n  make -s engine-urls\n"
            "and remove it with\n  make demo-down"
        )
    return 0


def install(cluster: Cluster, *values: str) -> str:
    """The chart, as a user installs it; not waiting for anything. Returns the command. ``values`` are such as key=value.

    On a kept cluster it upgrades: Helm leaves CRDs alone then, and pods keep running the image that had the same tag.
    """
    kept = cluster.helm("status", "agentos", "--namespace", NAMESPACE, check=False).returncode == 0
    command = ["upgrade" if kept else "install", "agentos", "charts/agentos", "--namespace", NAMESPACE]
    # Helm would keep the values of the release that is there, such as those of another tree's test.
    command += ["--reset-values"] if kept else ["--create-namespace"]
    command += [word for value in values for word in ("--set", value)]
    if kept:
        cluster.kubectl("delete", "workers", "--all", "--all-namespaces", "--timeout=60s")
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    helm = [str(ROOT / word) if word == "charts/agentos" else word for word in command]
    try:
        cluster.helm(*helm)
    except ClusterError as error:
        # On a busy machine Helm repeats a write of the release that had gone through, and trips over its own record.
        if kept or "release: already exists" not in str(error):
            raise
        cluster.helm("uninstall", "agentos", "--namespace", NAMESPACE, "--ignore-not-found", "--wait")
        cluster.helm(*helm)
    if kept:
        cluster.kubectl("rollout", "restart", "-n", NAMESPACE, "deployment/agentos-operator")
        cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/agentos-operator", "--timeout=60s")
        cluster.kubectl("rollout", "restart", "-n", REALM_NAMESPACE, "statefulset/agentos-engine")
    return " ".join(["helm", *command])


def show(cluster: Cluster, steps: Steps) -> None:
    """Everything that there is to see, on a running cluster with the image present."""

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        print(f"\n$ kubectl {' '.join(arguments)}")
        done = cluster.kubectl(*arguments, check=check, timeout=240)
        print((done.stdout + done.stderr).rstrip())
        return done

    with steps("helm install, and a Worker at once after it"):
        print(f"\n$ {install(cluster)}")
        run("apply", "-f", "examples/wasm-sandbox.yaml")
    with steps("wait until its functions answer"):
        run("wait", "--for=condition=Ready", "worker/wasm-sandbox", f"--timeout={READY_TIMEOUT}")
    with steps("run a WebAssembly module through the engine's REST port"):
        base = f"http://{cluster.service_address(REALM_NAMESPACE, 'agentos-engine', HTTP_PORT)}"
        module, key = greet_module(), api_key(cluster)
        validated = post(f"{base}/wasm/validate", {"moduleId": "greet", "wasm": list(module)}, key)
        executed = post(f"{base}/wasm/execute", {"moduleId": "greet", "input": {"name": "Kubernetes"}}, key)
        print(f"\nKEY=$({API_KEY})")
        print(
            f'\nPOST {base}/wasm/validate  -H "Authorization: Bearer $KEY"  ({len(module)} bytes)\n{json.dumps(validated, indent=2)}'
        )
        print(f'\nPOST {base}/wasm/execute  -H "Authorization: Bearer $KEY"\n{json.dumps(executed, indent=2)}')
    run("get", "workers,realms,functionclaims", "--all-namespaces")
    with steps("a Worker that claims sandbox is refused"):
        if run("apply", "-f", "examples/refused/sandbox.yaml", check=False).returncode == 0:
            raise RuntimeError("a Worker that claims sandbox::* was admitted")
    with steps("a second Worker for wasm waits, and takes over when the first goes"):
        run("apply", "-f", "examples/wasm-rival.yaml")
        run(
            "wait",
            "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=Clash",
            "worker/wasm-rival",
            "--timeout=60s",
        )
        run("get", "workers", "-o", "wide")
        run("get", "pods", "-l", "agentos.dev/worker=wasm-rival")
        run("delete", "worker", "wasm-sandbox")
        run("wait", "--for=condition=Ready", "worker/wasm-rival", f"--timeout={READY_TIMEOUT}")
        run("get", "workers,functionclaims")


def greet_module() -> bytes:
    """The example guest (examples/wasm/greet.wat), compiled."""
    import wasmtime

    return bytes(wasmtime.wat2wasm((ROOT / "examples" / "wasm" / "greet.wat").read_text()))


def api_key(cluster: Cluster, namespace: str = REALM_NAMESPACE) -> str:
    """The key of the REST port of the realm in a namespace."""
    secret = cluster.kubectl("get", "secret", "agentos-api-key", "-n", namespace, "-o", "jsonpath={.data.key}").stdout
    return base64.b64decode(secret).decode()


def post(url: str, body: Any, key: str = "") -> Any:
    """One REST call, with the realm's API key if one is given; the answer's JSON, or RuntimeError with what was said."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"POST {url}: {error.code} {error.read().decode(errors='replace')}") from error


def engine_urls(cluster: Cluster) -> dict[str, str]:
    """Where the default realm's engine is reached from this host: the bus with a token, REST and the key for it."""
    token = cluster.kubectl(
        "exec", "-n", NAMESPACE, "deploy/agentos-operator", "--", "agentos-operator", "token", "--realm", REALM
    ).stdout.strip()
    bus = cluster.service_address(REALM_NAMESPACE, "agentos-engine", BUS_PORT)
    http = cluster.service_address(REALM_NAMESPACE, "agentos-engine", HTTP_PORT)
    return {"ws": f"ws://{bus}/w/{token}/host", "http": f"http://{http}", "key": api_key(cluster)}


def urls() -> int:
    """Prints ``ws=…``, ``http=…`` and ``key=…``; returns the exit code."""
    cluster = clusters.find(cluster_name())
    if cluster is None:
        print("no cluster is up; make one with: make demo KEEP=1", file=sys.stderr)
        return 1
    for name, url in engine_urls(cluster).items():
        print(f"{name}={url}")
    return 0


if __name__ == "__main__":
    sys.exit(urls() if sys.argv[1:] == ["urls"] else main())
