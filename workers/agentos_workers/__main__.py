"""The ``agentos-worker`` command: runs one worker of this package."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

_ROOT = Path(__file__).parent
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def known_workers() -> list[str]:
    """The names of all workers here: every folder with an iii.worker.yaml, ``_`` written as ``-``."""
    return sorted(manifest.parent.name.replace("_", "-") for manifest in _ROOT.glob("*/iii.worker.yaml"))


def run(name: str) -> int:
    """Runs the worker until it is told to stop; returns the exit code, 2 for a name that nobody has."""
    known = known_workers()
    if not _NAME.fullmatch(name) or name not in known:
        print(f"agentos-worker: no worker {name!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"agentos_workers.{name.replace('-', '_')}.worker")
    return module.worker.run()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="agentos-worker",
        description="Runs an AgentOS worker. The engine's address is III_URL (default ws://127.0.0.1:49134).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run_command = commands.add_parser("run", help="connect a worker to the engine and serve its functions")
    run_command.add_argument("name", metavar="NAME")
    commands.add_parser("list", help="print the names of all workers")
    options = parser.parse_args(arguments)
    if options.command == "list":
        print("\n".join(known_workers()))
        return 0
    return run(options.name)


if __name__ == "__main__":
    sys.exit(main())
