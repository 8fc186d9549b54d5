"""The command: python -m tests.cluster up|down|status|kubeconfig|image|load [--name NAME]."""

from __future__ import annotations

import argparse
import os
import sys

from tests.cluster import DEFAULT_NAME, Cluster, ClusterError, Steps, build_image, down, find, up


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 something failed, 3 no such cluster runs."""
    options = _parser().parse_args(arguments)
    steps = Steps()
    try:
        return _run(options.command, options.name, steps)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(command: str, name: str, steps: Steps) -> int:
    if command == "up":
        with steps(f"bring up the cluster {name}"):
            cluster = up(name, steps)
        steps.table()
        _describe(cluster)
    elif command == "down":
        with steps(f"remove the cluster {name}"):
            down(name, steps)
    elif command == "image":
        print(build_image(steps))
    else:
        cluster = find(name)
        if cluster is None:
            print(f"No cluster {name} runs; start it with: python -m tests.cluster up --name {name}", file=sys.stderr)
            return 3
        if command == "kubeconfig":
            print(cluster.kubeconfig)
        elif command == "status":
            _describe(cluster)
        else:
            ref = build_image(steps)
            with steps(f"load {ref}"):
                cluster.load_image(ref)
    return 0


def _describe(cluster: Cluster) -> None:
    print(f"\ncluster {cluster.name}: nodes {', '.join(cluster.node_names)}")
    print(f"  export KUBECONFIG={cluster.kubeconfig}")
    print(f"  {cluster.tools.kubectl} get pods -A")


def _parser() -> argparse.ArgumentParser:
    commands = {
        "up": "bring the cluster up; at once when it runs already",
        "down": "remove it with every trace",
        "status": "say whether it runs, and how to reach it",
        "kubeconfig": "print the path of its kubeconfig",
        "image": "build the project's image and print its reference",
        "load": "build the project's image and load it into the cluster",
    }
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument(
        "command", choices=commands, help="; ".join(f"{name}: {what}" for name, what in commands.items())
    )
    default = os.environ.get("AGENTOS_CLUSTER") or DEFAULT_NAME
    parser.add_argument("--name", default=default, help=f"the cluster's name (default {default})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
