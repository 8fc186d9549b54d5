"""Finding and reading the files that hold Workers, Realms and worker manifests."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentos_contracts.documents import read_documents
from agentos_contracts.findings import Finding
from agentos_contracts.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, read_manifest, validate_manifest
from agentos_contracts.resource import GROUP

from agentos.errors import CommandError, ExitCode

MAX_FILE_BYTES = 2 * 1024 * 1024
"""Largest file that is read, in bytes; the apiserver takes no larger object either."""

STDIN = "-"

KUBECTL_YAML = (1, 1)
"""kubectl reads YAML 1.1, where yes and no are booleans."""

_OURS = re.compile(rf"apiVersion[\"']?\s*:\s*[\"']?{re.escape(GROUP)}/")
_PASSED_OVER = frozenset({"node_modules", "target"})


def yaml_files(folder: str) -> Iterator[str]:
    """Yield the YAML files below a folder in order, without hidden folders, installed packages and build output."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED_OVER)
        yield from (os.path.join(where, name) for name in sorted(files) if name.endswith((".yaml", ".yml")))


class Unreadable(ValueError):
    """A file cannot be read; the message says why, without the file's name."""


def text_of(path: str) -> str:
    """Return the text of a file, or of standard input for ``-``.

    Raises Unreadable, also for one that is too large or not UTF-8.
    """
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb", opener=_open_at_once) as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise Unreadable(problem.strerror or type(problem).__name__) from None
    except ValueError:
        raise Unreadable("no file has such a name") from None
    if len(data) > MAX_FILE_BYTES:
        raise Unreadable(f"larger than {MAX_FILE_BYTES // 1024} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("not UTF-8 text") from None


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe that nobody writes to."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def checked_manifest(text: str) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Return the manifest that a text is, None when it cannot be read, and all that is wrong with it, with the lines."""
    manifest, findings = read_manifest(text)
    if manifest is not None:
        (document,), _ = read_documents(text, max_bytes=MAX_MANIFEST_BYTES)
        findings += [replace(each, line=document.line_of(each.path)) for each in validate_manifest(manifest, "")]
    return manifest, findings


def manifest_path(folder: Path) -> Path:
    """Return the path of a worker folder's manifest. Raises CommandError for a folder that has none, or is none."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        what = f"{folder} has no {MANIFEST_FILE}" if folder.is_dir() else f"there is no folder {folder}"
        raise CommandError(f"{what}; agentos new worker NAME makes a worker's folder", ExitCode.USAGE)
    return path


def is_manifest_file(path: str) -> bool:
    """Whether a file is by its name a worker's manifest."""
    return os.path.basename(path) == MANIFEST_FILE


def has_resources(text: str) -> bool:
    """Whether a text may hold resources of ours: a quick look that spares reading the YAML of everything else."""
    return _OURS.search(text) is not None


def resources_in(value: Any) -> list[tuple[Any, str]]:
    """Return the resources in a document with their paths: itself, or the items of a List as kubectl prints it."""
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        return [(item, f"items[{index}]") for index, item in enumerate(value["items"])]
    return [(value, "")]
