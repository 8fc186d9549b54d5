"""A worker's ``scripts.install``: run before the first start, and again when what it depends on has changed."""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from agentos.local.process import Output, Process, StartError, ending

MARK = Path(".agentos") / "installed"
"""In the worker's folder: what was installed there, as a hash."""

_DEPENDED_ON = (
    *("package.json", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock"),
    *("requirements.txt", "pyproject.toml", "uv.lock", "Cargo.toml", "Cargo.lock"),
)
_COMPILED = {"Cargo.toml": ".rs", "go.mod": ".go"}
"""Files that say that a worker is compiled when it is installed, with the ending of its sources."""
_MAX_FILE = 16 * 1024 * 1024


def is_installed(folder: Path, script: str | None) -> bool:
    """Whether a worker's install script has been run for the files that are there now; True without a script."""
    if script is None:
        return True
    if (folder / "Cargo.toml").exists():  # it builds the worker, and cargo knows best what is left to do
        return False
    try:
        return (folder / MARK).read_text() == _fingerprint(folder, script)
    except OSError:
        return False


async def install(folder: Path, script: str, environment: Mapping[str, str], output: Output) -> None:
    """Run an install script in the worker's folder. Raises StartError when it fails."""
    process = await Process.start(["/bin/sh", "-c", script], environment=environment, folder=folder, output=output)
    try:
        code = await asyncio.shield(process.ended)
    finally:
        if not process.ended.done():
            await process.kill()
    if code != 0:
        raise StartError(f"scripts.install failed: {ending(code)} ({_shortened(script)})")
    mark = folder / MARK
    try:
        mark.parent.mkdir(exist_ok=True)
        (mark.parent / ".gitignore").write_text("*\n")
        mark.write_text(_fingerprint(folder, script))
    except OSError as error:
        raise StartError(f"{mark} cannot be written: {error.strerror}") from None


def _fingerprint(folder: Path, script: str) -> str:
    digest = hashlib.sha256(script.encode())
    for name in (*_DEPENDED_ON, *_sources(folder)):
        try:
            with (folder / name).open("rb") as file:
                digest.update(b"\0" + name.encode() + b"\0" + file.read(_MAX_FILE))
        except OSError:
            continue
    return digest.hexdigest()


def _sources(folder: Path) -> list[str]:
    """The sources of a worker that is compiled, relative to its folder."""
    endings = {ending for name, ending in _COMPILED.items() if (folder / name).is_file()}
    found = []
    for where, folders, files in os.walk(folder) if endings else ():
        folders[:] = [name for name in folders if name != "target" and not name.startswith(".")]
        found += [os.path.relpath(os.path.join(where, name), folder) for name in files if Path(name).suffix in endings]
    return sorted(found)


def _shortened(script: str) -> str:
    line = " ".join(script.split())
    return line if len(line) <= 80 else f"{line[:80]}…"
