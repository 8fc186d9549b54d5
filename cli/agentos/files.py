"""Finding and reading the files that hold Workers, Realms and worker manifests."""

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from agentos_contracts.manifest import MANIFEST_FILE
from agentos_contracts.resource import GROUP

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


def text_of(path: str) -> str:
    """Return the text of a file, or of standard input for ``-``.

    Raises OSError, and ValueError for one that is too large or not UTF-8.
    """
    if path == STDIN:
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES // 1024} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError("not UTF-8 text") from problem


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
