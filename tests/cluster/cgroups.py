"""A cgroup of its own for each bare node, in every hierarchy: a kubelet kills what it doesn't know under its root."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster.command import ClusterError, wait_until

REMOVAL_SECONDS = 20


def hierarchies(mounts: str) -> list[Path]:
    """Where a kubelet wants its root, from the text of /proc/self/mounts.

    Every cgroup v1 hierarchy; on a machine that has none, the one v2 tree. (Where both are mounted, v2 has no
    controllers and kubelet uses v1.)
    """
    v1, v2 = _mount_points(mounts)
    return v1 or v2[:1]


def make(name: str) -> None:
    """Make the group `/name` in each hierarchy. Raises ClusterError when the machine has no cgroups at all."""
    roots = hierarchies(_mounts())
    if not roots:
        raise ClusterError("No cgroup file system is mounted (see /proc/mounts); the bare node can't run here.")
    for root in roots:
        (root / name).mkdir(exist_ok=True)


def remove(name: str) -> None:
    """Remove `/name` and all below it, wherever it is. Its processes must have been stopped before."""
    v1, v2 = _mount_points(_mounts())
    groups = [root / name for root in (*v1, *v2)]
    if not wait_until(lambda: all(_remove_tree(group) for group in groups), REMOVAL_SECONDS):
        left = [str(group) for group in groups if group.exists()]
        raise ClusterError(f"These cgroups can't be removed, something still runs in them: {', '.join(left)}")


def _remove_tree(group: Path) -> bool:
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:  # busy for some milliseconds after its last process ended
            return False
    return not group.exists()


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def _mount_points(mounts: str) -> tuple[list[Path], list[Path]]:
    v1, v2 = [], []
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            (v1 if kind == "cgroup" else v2).append(Path(where.replace("\\040", " ")))
    return v1, v2
