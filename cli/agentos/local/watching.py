"""Notices when files of workers change."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

_CODE = frozenset(
    {".py", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".rs", ".go", ".java", ".kt", ".rb", ".php"}
    | {".cs", ".wat", ".sh", ".yaml", ".yml", ".toml"}
)
"""Endings of files that are written by people: what a worker writes while it runs must not start it anew."""
_NAMES = frozenset({"package.json", "requirements.txt", ".env"})


class SourceFilter(DefaultFilter):
    """Lets changes of sources and manifests through."""

    ignore_dirs = (*DefaultFilter.ignore_dirs, ".agentos", "target", "dist", "build", "venv", ".ruff_cache")

    def __call__(self, change: Change, path: str) -> bool:
        """Whether a change counts."""
        name = Path(path)
        # What is written into a new folder at once comes before anybody watches that.
        counts = name.suffix in _CODE or name.name in _NAMES or (change is Change.added and name.is_dir())
        return counts and super().__call__(change, path)


async def changes(paths: Iterable[Path], since: float) -> AsyncGenerator[set[Path]]:
    """Yield the files that changed, together those that change at about the same time; files and folders are watched.

    The first ones are those that changed after ``since`` (seconds since 1970) and before anything was watched.
    """
    given = set(paths)
    folders = [each for each in given if each.is_dir()]
    roots = [each for each in folders if not any(other != each and each.is_relative_to(other) for other in folders)]
    files = {each for each in given if not any(each.is_relative_to(root) for root in roots)}
    queue: asyncio.Queue[set[Path]] = asyncio.Queue()

    async def watch(paths: Iterable[Path], recursive: bool) -> None:
        async for found in awatch(
            *paths, watch_filter=SourceFilter(), recursive=recursive, debounce=400, ignore_permission_denied=True
        ):
            seen = {Path(path) for _, path in found}
            if seen := seen if recursive else seen & files:
                await queue.put(seen)

    watchers = [asyncio.ensure_future(watch(roots, True))] if roots else []
    if files:  # an editor may replace a file, so its folder is watched
        watchers.append(asyncio.ensure_future(watch({each.parent for each in files}, False)))
    try:
        await asyncio.sleep(0)  # now they watch
        yield await asyncio.to_thread(_newer, given, since)
        while watchers:
            yield await queue.get()
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


def _newer(paths: Iterable[Path], since: float) -> set[Path]:
    """The files below some folders that were written after a time, with the folders that were."""
    wanted, found = SourceFilter(), set()
    for path in paths:
        if path.is_file():
            found |= {path} if _time_of(path) > since else set()
        for where, folders, files in os.walk(path):
            folders[:] = [name for name in folders if wanted(Change.added, os.path.join(where, name))]
            for name in (*folders, *files):
                file = Path(where, name)
                if wanted(Change.added, str(file)) and _time_of(file) > since:
                    found.add(file)
    return found


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
