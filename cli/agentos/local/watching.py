"""Notices when files of workers change."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

_CODE = frozenset(
    {".py", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".rs", ".go", ".java", ".kt", ".rb", ".php"}
    | {".cs", ".wat", ".sh", ".yaml", ".yml", ".toml"}
)
"""Endings of files that are written by people: what a worker writes while it runs must not start it anew."""
_NAMES = frozenset({"package.json", "requirements.txt", ".env"})
_TEST = re.compile(r"(test_.*|.*_test|.*\.(test|spec)|conftest)\.[a-z]+")
"""Names of files with tests, which no worker runs."""


class WatchError(Exception):
    """Files cannot be watched; the message is one line."""


class SourceFilter(DefaultFilter):
    """Lets changes of sources and manifests through, below some folders: what is above these is of no importance."""

    ignore_dirs = (*DefaultFilter.ignore_dirs, ".agentos", "target", "dist", "build", "venv", ".ruff_cache")

    def __init__(self, folders: Iterable[Path]) -> None:
        super().__init__()
        self._folders = tuple(folders)

    def __call__(self, change: Change, path: str) -> bool:
        """Whether a change counts."""
        name = Path(path)
        if change is Change.deleted and any(folder.is_relative_to(name) for folder in self._folders):
            return True
        # What is written into a new folder at once comes before anybody watches that.
        counts = name.suffix in _CODE or name.name in _NAMES or (change is Change.added and name.is_dir())
        counts = counts and not _TEST.fullmatch(name.name)
        depth = max((len(folder.parts) for folder in self._folders if name.is_relative_to(folder)), default=0)
        return counts and super().__call__(change, os.path.join("", *name.parts[depth:]))


async def changes(paths: Iterable[Path], since: float) -> AsyncGenerator[set[Path]]:
    """Yield the files that changed, together those that change at about the same time; files and folders are watched.

    The first ones are those that changed after ``since`` (seconds since 1970) and before anything was watched. What is
    not there is waited for. Raises WatchError.
    """
    given = set(paths)
    folders = [each for each in given if each.is_dir()]
    roots = [each for each in folders if not any(other != each and each.is_relative_to(other) for other in folders)]
    files = {each for each in given if not any(each.is_relative_to(root) for root in roots)}
    wanted = SourceFilter((*folders, *(each.parent for each in files)))
    queue: asyncio.Queue[set[Path] | WatchError] = asyncio.Queue()

    async def watch(paths: Iterable[Path], recursive: bool) -> None:
        try:
            async for found in awatch(
                *paths, watch_filter=wanted, recursive=recursive, debounce=400, ignore_permission_denied=True
            ):
                seen = {Path(path) for _, path in found}
                if seen := seen if recursive else seen & files:
                    queue.put_nowait(seen)
        except (OSError, RuntimeError) as error:
            queue.put_nowait(WatchError(f"files cannot be watched: {' '.join(str(error).split())}"))

    watchers = [asyncio.ensure_future(watch(roots, True))] if roots else []
    if files:  # an editor may replace a file, so its folder is watched
        watchers.append(asyncio.ensure_future(watch({each.parent for each in files if each.parent.is_dir()}, False)))
    try:
        await asyncio.sleep(0)  # now they watch
        yield await asyncio.to_thread(_newer, given, wanted, since)
        while watchers:
            found = await queue.get()
            if isinstance(found, WatchError):
                raise found
            yield found
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


def _newer(paths: Iterable[Path], wanted: SourceFilter, since: float) -> set[Path]:
    """The files below some folders that were written after a time, with the folders that were."""
    found: set[Path] = set()
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
