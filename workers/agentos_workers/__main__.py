"""The ``agentos-worker`` command: runs workers, those of this package by name and others by the path of their file."""

from __future__ import annotations

import argparse
import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="agentos-worker",
        description="Runs AgentOS workers. The engine's address is III_URL (default ws://127.0.0.1:49134).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run_command = commands.add_parser("run", help="connect a worker to the engine and serve its functions")
    run_command.add_argument(
        "target", metavar="TARGET", help="a name of `list`, or a Python file with a global `worker`"
    )
    host_command = commands.add_parser("host", help="run the workers that the parent process asks for")
    host_command.add_argument("--events", type=int, required=True, metavar="FD", help="file descriptor for events")
    commands.add_parser("list", help="print the names of the workers that come with this package")
    options = parser.parse_args(arguments)
    if options.command == "host":
        # The terminal interrupts the parent too, which decides; from here on, as the imports take a moment.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.command == "list":
        from .loading import known_workers

        print("\n".join(known_workers()))
        return 0
    from . import process

    return process.serve(options.events) if options.command == "host" else process.run(options.target)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Started by `python -m`: the current folder's files are not modules for everybody.
        del sys.path[0]
    sys.exit(main())
