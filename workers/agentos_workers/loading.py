"""Finding a worker: one that ships with this package by its name, any other by the path of its Python file.

A file is loaded as part of a package that is made for this one load: files of the same names in several folders, and
several versions of one file, live in a process side by side. Its neighbours are imported relatively.
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from .kit import Worker

_ROOT = Path(__file__).parent
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class LoadError(Exception):
    """A worker that cannot be loaded: one line; `frames` shows where in the author's own code, if it failed there."""

    def __init__(self, message: str, frames: str = "") -> None:
        super().__init__(message)
        self.frames = frames


class Loaded:
    """A loaded worker: `worker`, and the `folder` of its code; `unload` forgets the code."""

    def __init__(self, worker: Worker, folder: Path, package: str = "") -> None:
        self.worker = worker
        self.folder = folder
        self._package = package

    def unload(self) -> None:
        """Lets the memory go; to be called once nothing of the worker runs any more."""
        if self._package:
            _forget(self._package)


def known_workers() -> list[str]:
    """The names of all workers here: every folder with an iii.worker.yaml, ``_`` written as ``-``."""
    return sorted(manifest.parent.name.replace("_", "-") for manifest in _ROOT.glob("*/iii.worker.yaml"))


def folder_of(target: str) -> Path:
    """The folder of a target's code, whether or not there is one."""
    return Path(target).absolute().parent if target.endswith(".py") else _ROOT / target.replace("-", "_")


def load(target: str) -> Loaded:
    """Loads a worker: `target` is the name of one that ships with this package, or a path that ends in ``.py`` to a file
    with a global ``worker``. Raises LoadError."""
    if target.endswith(".py"):
        return _load_file(Path(target))
    known = known_workers()
    if not _NAME.fullmatch(target) or target not in known:
        names = ", ".join(known)
        raise LoadError(
            f"no worker {target!r}; there are: {names}; for your own give the path of its file, as ./worker.py"
        )
    module = importlib.import_module(f"agentos_workers.{target.replace('-', '_')}.worker")
    return Loaded(module.worker, folder_of(target))


class _Source(SourceFileLoader):
    """Compiles each time: bytecode is told from its source by a time in whole seconds, too coarse for a file that was
    just edited, and an author's folder is not written to."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Neighbours:
    """The import system's way to the files of the folders that are loaded."""

    def __init__(self) -> None:
        self.packages: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or name.partition(".")[0] not in self.packages:
            return None
        loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (_Source, SOURCE_SUFFIXES))
        found = (FileFinder(folder, *loaders).find_spec(name) for folder in path)
        return next((spec for spec in found if spec is not None), None)


_neighbours = _Neighbours()
_loads = itertools.count(1)


def _load_file(path: Path) -> Loaded:
    folder = path.absolute().parent
    try:
        if not path.is_file():
            raise LoadError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from None
    package = f"worker_{next(_loads)}_" + re.sub(r"\W", "_", folder.name)
    try:
        module = _import(path.absolute(), package)
    except (Exception, SystemExit) as error:
        _forget(package)
        raise _explained(error, path, package) from None
    worker = getattr(module, "worker", None)
    if isinstance(worker, Worker):
        return Loaded(worker, folder, package)
    _forget(package)
    if worker is None:
        raise LoadError(f'{path}: there is no global `worker`; write: worker = Worker("{folder.name}")')
    raise LoadError(f"{path}: the global `worker` is of type {type(worker).__name__}, not agentos_workers.kit.Worker")


def _import(path: Path, package: str) -> ModuleType:
    parent = ModuleType(package)
    parent.__path__ = [str(path.parent)]
    sys.modules[package] = parent
    _neighbours.packages.add(package)
    if _neighbours not in sys.meta_path:
        sys.meta_path.insert(0, _neighbours)
    name = f"{package}.{path.stem.replace('.', '_')}"
    spec = spec_from_file_location(name, path, loader=_Source(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _forget(package: str) -> None:
    _neighbours.packages.discard(package)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def _explained(error: BaseException, path: Path, package: str) -> LoadError:
    """What went wrong, at the last line of the author's own code that ran."""
    if isinstance(error, SyntaxError) and error.filename and _shown(error.filename, path):
        return LoadError(f"{_shown(error.filename, path)}:{error.lineno}: {error.msg}")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _shown(frame.filename, path)]
    where = f"{_shown(frames[-1].filename, path)}:{frames[-1].lineno}" if frames else str(path)
    # The package's name means nothing to the author: what it holds is beside the file.
    text = str(error).replace(f"{package}.", ".").replace(package, ".").strip()
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        if missing == package:
            return LoadError(f"{where}: there is no {error.name.removeprefix(package)} beside this file")
        importer = Path(frames[-1].filename).parent if frames else path.absolute().parent
        if (importer / f"{missing}.py").exists() or (importer / missing).is_dir():
            write = f"from .{error.name} import …"
            return LoadError(f'{where}: {missing!r} is beside this file; write "{write}" (workers share a process)')
        return LoadError(f"{where}: there is no module {missing!r}; is it installed?")
    if isinstance(error, ImportError):
        return LoadError(f"{where}: {text}")
    if isinstance(error, SystemExit):
        return LoadError(f"{where}: it ends the process when it is imported")
    # An exception may say much; the first line has to tell what it is.
    first = text.splitlines()[0] if text else ""
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return LoadError(f"{where}: {what}", "".join(traceback.format_list(frames)).rstrip())


def _shown(filename: str, path: Path) -> str:
    """A file of the author's folder, written as the target is; empty for any other file."""
    try:
        inside = Path(filename).relative_to(path.absolute().parent)
    except ValueError:
        return ""
    # An environment inside the folder holds other people's code.
    return "" if "site-packages" in inside.parts else str(path.parent / inside)
