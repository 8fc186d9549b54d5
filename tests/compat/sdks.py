"""The unmodified SDKs that the tests run: installed once, from pinned files, into a cache outside the tree."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PYTHON = {"py-0.11.6": "requirements-iii-sdk-0.11.6.txt", "py-0.25.0": "requirements-iii-sdk-0.25.0.txt"}
NODE = {"node-0.11.6": "iii-sdk-0.11", "node-0.22.1": "iii-sdk-0.22"}
RUST = "rust-0.11.6"
PREFIXES = {"py-0.11.6": "py11", "py-0.25.0": "py25", "node-0.11.6": "node11", "node-0.22.1": "node22", RUST: "rust11"}
"""By SDK: name of its worker, and function namespace of what that one registers."""

SDKS = [*PYTHON, *NODE]
OLD = ["py-0.11.6", "node-0.11.6"]
NEW = ["py-0.25.0", "node-0.22.1"]
has_cargo = shutil.which("cargo") is not None
_RUST = pytest.param(RUST, marks=pytest.mark.skipif(not has_cargo, reason="cargo is not installed: no Rust SDK"))
SDKS_AND_RUST = [*SDKS, _RUST]


def pairs(rust: bool = False) -> list:
    """Every SDK with every SDK: parameters for caller and callee."""
    plain = [pytest.param(a, b, id=f"{a}-to-{b}") for a in SDKS for b in SDKS]
    if rust:
        both = [*((RUST, b) for b in SDKS), *((a, RUST) for a in SDKS), (RUST, RUST)]
        plain += [pytest.param(a, b, id=f"{a}-to-{b}", marks=_RUST.marks) for a, b in both]
    return plain


def with_config(name: str, *identities: str) -> pytest.MarkDecorator:
    """Give a test's ``bench`` another config file than its module has."""
    chosen = identities or ("open", "tokens")
    return pytest.mark.parametrize("bench", [(each, name) for each in chosen], ids=chosen, indirect=True)


def command(sdk: str, prefix: str, flags: tuple[str, ...] = ()) -> list[str]:
    """Return the command line of a worker on this SDK, which is installed if need be."""
    if sdk in PYTHON:
        return [str(_python(sdk)), *flags, str(HERE / "workers/agent.py"), prefix]
    if sdk in NODE:
        return ["node", *flags, str(HERE / "workers/agent.mjs"), prefix, str(_node()), NODE[sdk]]
    return [str(_rust()), prefix]


@contextmanager
def _locked(name: str, inputs: list[Path]) -> Iterator[Path]:
    """Give the cached folder for these inputs to one process at a time."""
    root = Path(os.environ.get("AGENTOS_CACHE") or Path.home() / ".cache" / "agentos") / "sdks"
    root.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in inputs) + sys.version.encode()).hexdigest()[:12]
    folder = root / f"{name}-{digest}"
    with (root / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _installed(name: str, inputs: list[Path], install: Callable[[Path], None]) -> Path:
    """Return the cached folder for these inputs, installing it when it is not there."""
    with _locked(name, inputs) as folder:
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            (folder / "complete").touch()
        return folder


def _run(line: list[str], folder: Path) -> None:
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{line[:3]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def _python(sdk: str) -> Path:
    requirements = HERE / PYTHON[sdk]

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder / "venv")], folder)
        pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
        _run([*pip, "--only-binary=:all:", "-r", str(requirements)], folder)

    return _installed(sdk, [requirements], install) / "venv/bin/python"


def _node() -> Path:
    files = [HERE / "node/package.json", HERE / "node/package-lock.json"]

    def install(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    return _installed("node", files, install)


def _rust() -> Path:
    """The crates are built once; after a change of the worker's source only that is compiled."""
    manifest, source = HERE / "rust/Cargo.toml", HERE / "rust/src/main.rs"
    with _locked(RUST, [manifest]) as folder:
        binary, copy = folder / "target/debug/agentos-compat-agent", folder / "src/main.rs"
        if not binary.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(manifest, folder)
            shutil.copyfile(source, copy)
            binary.unlink(missing_ok=True)
            _run(["cargo", "build", "--quiet", "--target-dir", str(folder / "target")], folder)
        return binary
