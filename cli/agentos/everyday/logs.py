"""``agentos logs``: log entries that the engine keeps, or the output of a realm's pods."""

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday.client import Console
from agentos.everyday.forms import Form
from agentos.everyday.output import as_json, line, show_entry
from agentos.everyday.plain import block, cell, plain
from agentos.everyday.realm import Kubectl, child, failure, namespace_of
from agentos.everyday.times import clock

MAX_ENTRIES = 1000
"""Entries that the engine gives at once."""
MAX_LINE = 1 << 20
"""Characters of one line of a pod's output."""
WORKER_LABEL = "agentos.dev/worker"
LEVELS = {"trace": 1, "debug": 5, "info": 9, "warn": 13, "error": 17}
"""The severity number with which each level begins."""
_STYLES = {"error": "red", "warn": "yellow", "debug": "dim", "trace": "dim"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: of these workers (all when there are none), not older than ``since`` seconds, from ``level`` on."""

    workers: Sequence[str]
    since: float | None
    level: str | None
    count: int
    follow: bool


def show_logs(console: Console, wanted: Wanted, form: Form) -> None:
    """Write the newest entries, oldest first; with ``follow`` also those to come, until the engine goes."""
    if not wanted.follow:
        listed = _listed(console, wanted)
        for entry in listed:
            _write(entry, form)
        if not listed and form is Form.TABLE:
            print("no log entries", file=sys.stderr)
        return
    # Listening begins before the list is asked for, so that nothing falls between; what is in both is shown once.
    with console.events("/api/events", topics="log") as events:
        listed = _listed(console, wanted)
        for entry in listed:
            _write(entry, form)
        seen = [as_json(entry) for entry in listed]
        for event in events:
            entry = event.data
            if event.kind != "log" or not isinstance(entry, dict) or not _matches(entry, wanted):
                continue
            if seen and (text := as_json(entry)) in seen:
                seen.remove(text)
                continue
            _write(entry, form)


def _listed(console: Console, wanted: Wanted) -> list[dict[str, Any]]:
    entries = console.listed(
        "engine::logs::list",
        "logs",
        start_time=None if wanted.since is None else (time.time() - wanted.since) * 1000,
        severity_min=None if wanted.level is None else LEVELS[wanted.level],
        sort_order="desc",
        limit=MAX_ENTRIES,
    )
    found = [entry for entry in entries if _matches(entry, wanted)]
    return found[: wanted.count][::-1]


def _matches(entry: dict[str, Any], wanted: Wanted) -> bool:
    severity = entry.get("severity_number")
    return (not wanted.workers or entry.get("service_name") in wanted.workers) and (
        wanted.level is None or (isinstance(severity, int) and severity >= LEVELS[wanted.level])
    )


def _write(entry: dict[str, Any], form: Form) -> None:
    if form is not Form.TABLE:
        show_entry(entry, form)
        return
    at = entry.get("timestamp_unix_nano")
    severity = entry.get("severity_number")
    level = _level(severity if isinstance(severity, int) else 9)
    attributes = entry.get("attributes")
    more = attributes.items() if isinstance(attributes, dict) else ()
    parts = [
        clock(at / 1e6) if isinstance(at, int | float) else "",
        level.upper().ljust(5),
        cell(entry.get("service_name")),
        block(str(entry.get("body", ""))),
        *(f"{cell(name)}={cell(value)}" for name, value in more if name != "service.name"),
    ]
    line("  ".join(part for part in parts if part), _STYLES.get(level, ""))


def _level(severity: int) -> str:
    return max((start, name) for name, start in LEVELS.items() if start <= max(severity, 1))[1]


def show_pod_logs(kubectl: Kubectl, realm: str, wanted: Wanted, form: Form) -> None:
    """Write what the pods of a realm's workers print, as kubectl gives it, each line with its pod. Raises CommandError."""
    if wanted.level is not None:
        raise CommandError("--level: with --realm the pods' output is shown, which has no levels", ExitCode.USAGE)
    namespace = namespace_of(kubectl, realm)
    selector = f"{WORKER_LABEL} in ({','.join(_checked(wanted.workers))})" if wanted.workers else WORKER_LABEL
    command = kubectl.command(
        "logs",
        f"--namespace={namespace}",
        f"--selector={selector}",
        "--prefix",
        "--all-containers",
        "--max-log-requests=200",
        f"--tail={wanted.count}",
        *([f"--since={max(1, round(wanted.since))}s"] if wanted.since is not None else []),
        *(["--follow"] if wanted.follow else []),
    )
    complaints: list[str] = []
    with child(command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=_read_complaints, args=(process.stderr, complaints), daemon=True)
        reader.start()
        written = 0
        while text := process.stdout.readline(MAX_LINE):
            written += 1
            _write_pod_line(text.rstrip("\r\n"), form)
        process.wait()
        reader.join(5)
    if process.returncode != 0:
        raise failure(complaints)
    if not written and any("No resources found" in text for text in complaints):
        who = f"worker {plain(', '.join(wanted.workers))}" if wanted.workers else "a worker"
        raise CommandError(
            f"no pod of {who} in realm {realm}; see agentos workers --realm {realm}, and kubectl get workers",
            ExitCode.NOT_FOUND,
        )


def _checked(workers: Iterable[str]) -> list[str]:
    for name in workers:
        if not name.replace("-", "").replace(".", "").isalnum() or not name.isascii() or len(name) > 253:
            raise CommandError(f"{plain(name)[:80]!r} cannot be the name of a Worker", ExitCode.USAGE)
    return list(workers)


def _write_pod_line(printed: str, form: Form) -> None:
    source, _, text = printed.partition("] ") if printed.startswith("[pod/") else ("", "", printed)
    _, _, names = source.partition("/")
    pod, _, container = names.partition("/")
    if form is Form.TABLE:
        line(f"{cell(pod)}  {plain(text.expandtabs(4))}")
    else:
        show_entry({"pod": pod, "container": container, "text": text}, form)


def _read_complaints(stream: IO[str], complaints: list[str]) -> None:
    for text in stream:
        complaints.append(text)
        del complaints[:-20]
