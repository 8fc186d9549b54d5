"""``agentos-engine backup`` and ``agentos-engine restore``: all that an engine keeps, in one file.

The file is a SQLite database: the engine's, as it was at one moment, with the configuration entries in a table more.
"""

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from agentos_engine.config import Parser, SettingsError, lock_data_dir
from agentos_engine.configuration.entries import MAX_FILE, valid_id
from agentos_engine.storage import sqlite
from agentos_engine.storage.restored import (
    CONFIGURATION,
    DATABASE,
    READY,
    UNFINISHED,
    put_in_place,
    remove_unfinished,
    sync_folder,
)
from agentos_engine.storage.sqlite_threads import SPARED_BYTES, explain

STREAM = "-"
"""In place of a file: standard output, or input."""
SUFFIX = ".yaml"
FILES = "backup_files"
SCHEMA = f"CREATE TABLE {FILES} (name TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT"
NOT_DATA = {"engine.lock", "lost+found"}
"""What a data folder may hold and still counts as empty."""


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the first argument, ``backup`` or ``restore``. Exits with code 1 and one line when it fails, 2 on a bad flag."""
    command, *rest = arguments
    parser = Parser(
        prog=f"agentos-engine {command}", description=(_backup if command == "backup" else _restore).__doc__
    )
    data_dir = environment.get("AGENTOS_DATA_DIR") or None
    parser.add_argument(
        "--data-dir",
        default=data_dir,
        required=data_dir is None,
        metavar="DIR",
        help="the engine's folder [AGENTOS_DATA_DIR]",
    )
    if command == "restore":
        parser.add_argument("--force", action="store_true", help="replace what the folder holds")
        parser.add_argument(
            "--at-next-start",
            action="store_true",
            help="lay it ready for the engine that starts next in this folder; one may run meanwhile",
        )
    direction = "output" if command == "backup" else "input"
    parser.add_argument("file", metavar="FILE", help=f"the backup; {STREAM} is standard {direction}")
    values = parser.parse_args(rest)
    try:
        if command == "backup":
            _backup(Path(values.data_dir), values.file)
        else:
            _restore(Path(values.data_dir), values.file, force=values.force, later=values.at_next_start)
    except SettingsError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _backup(data_dir: Path, file: str) -> None:
    """Write all that an engine keeps into one file. The engine may run meanwhile."""
    source = data_dir / DATABASE
    if not source.is_file():
        raise SettingsError(f"{data_dir} holds no {DATABASE}: give the folder that the engine has as its --data-dir")
    target = None if file == STREAM else Path(file)
    if target is None and sys.stdout.isatty():
        raise SettingsError("a backup is no text for a terminal: send it to a file, with > FILE")
    # Not in /tmp without being asked: in a pod, too much there is what pods are evicted for.
    beside = target.absolute().parent if target is not None else Path(os.environ.get("TMPDIR") or data_dir)
    with _unfinished(beside) as folder, _told(beside):
        _check_room(folder, source.stat().st_size)
        copy = folder / DATABASE
        with _told(source), contextlib.closing(_open(source, "rw")) as database:
            if not sqlite.check_version(database, source):
                raise SettingsError(f"{source} is empty: there is nothing to save")
            with contextlib.closing(_create(copy)) as backup:
                database.backup(backup)  # in one step, so of one moment; it holds up no writer
        with _told(copy), contextlib.closing(_open(copy, "rw")) as backup:
            backup.execute("PRAGMA journal_mode = DELETE").fetchall()
            _check(backup, f"{source} is damaged, so there is no backup of it")
            _put_entries(backup, data_dir / CONFIGURATION)
        _sync(copy)
        with _told(copy):
            if target is None:
                with copy.open("rb") as content:
                    shutil.copyfileobj(content, sys.stdout.buffer, 1 << 20)
                sys.stdout.buffer.flush()
            else:
                os.replace(copy, target)
                sync_folder(target.absolute().parent)


def _restore(data_dir: Path, file: str, *, force: bool, later: bool) -> None:
    """Put what a backup holds into the folder of an engine, which must not run. Nothing is replaced before all is checked."""
    with contextlib.ExitStack() as locked:
        if not later:
            locked.callback(os.close, lock_data_dir(data_dir))
            remove_unfinished(data_dir)
        _lay_ready(data_dir, file, force)
        if not later:
            with _told(data_dir):
                put_in_place(data_dir)


def _lay_ready(data_dir: Path, file: str, force: bool) -> None:
    """Check a backup and lay ready what it holds. Raises SettingsError."""
    there = sorted(each.name for each in data_dir.iterdir()) if data_dir.is_dir() else []
    if not force and (data := [each for each in there if each not in NOT_DATA and not each.startswith(UNFINISHED)]):
        raise SettingsError(f"{data_dir} is not empty: it holds {', '.join(data[:5])}; --force replaces that")
    name = "the backup" if file == STREAM else file
    with _unfinished(data_dir) as folder:
        ready = folder / READY
        (ready / CONFIGURATION).mkdir(mode=0o700, parents=True)
        copy = ready / DATABASE
        with _told(copy), _content(file) as content, _private(copy) as written:
            shutil.copyfileobj(content, written, 1 << 20)
        try:
            with contextlib.closing(_open(copy, "rw")) as database:
                if not _has_files(database):
                    raise SettingsError(f"{name} is no backup: make one with agentos-engine backup")
                sqlite.check_version(database, Path(name))
                _check(database, f"{name} is damaged: take another backup")
                _take_entries(database, ready / CONFIGURATION)
        except sqlite3.Error as error:
            raise SettingsError(f"{name} is damaged, or no backup: {error}") from error
        with _told(data_dir):
            for each in (*ready.rglob("*"), ready):
                (sync_folder if each.is_dir() else _sync)(each)
            if (data_dir / READY).exists():
                os.replace(data_dir / READY, folder / "earlier")  # as a whole, and it goes with the folder
            os.replace(ready, data_dir / READY)
            sync_folder(data_dir)


@contextlib.contextmanager
def _unfinished(parent: Path) -> Iterator[Path]:
    """A folder for what is not complete yet, on the same disk, that only this user may read."""
    with _told(parent), tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the disk or SQLite says into one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise SettingsError(explain(error, path).message) from error
    except OSError as error:
        raise SettingsError(f"{error.filename or path}: {error.strerror}") from error


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30)


def _create(path: Path) -> sqlite3.Connection:
    _private(path).close()
    database = _open(path, "rw")
    database.execute("PRAGMA synchronous = OFF")  # it is synced as a whole, once it is complete
    return database


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _content(file: str) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if file == STREAM else Path(file).open("rb")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check(database: sqlite3.Connection, what: str) -> None:
    ((finding,),) = database.execute("PRAGMA quick_check(1)").fetchall()
    if finding != "ok":
        raise SettingsError(f"{what}; SQLite says: {finding.splitlines()[-1]}")


def _check_room(folder: Path, size: int) -> None:
    """Refuse to take room that an engine on the same disk needs."""
    free = shutil.disk_usage(folder).free
    if free < size + SPARED_BYTES:
        raise SettingsError(
            f"the disk of {folder.parent} has {free >> 20} MB left, too few for a copy of {size >> 20} MB; "
            "write the backup to another disk, or for a moment name another with TMPDIR"
        )


def _put_entries(database: sqlite3.Connection, folder: Path) -> None:
    database.execute(SCHEMA)
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if valid_id(path.stem) and path.is_file():
            database.execute(f"INSERT INTO {FILES} VALUES (?, ?)", (path.name, path.read_bytes()))  # noqa: S608


def _has_files(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (FILES,)).fetchall())


def _take_entries(database: sqlite3.Connection, folder: Path) -> None:
    for name, content in database.execute(f"SELECT name, content FROM {FILES}").fetchall():  # noqa: S608
        if not (name.endswith(SUFFIX) and valid_id(name.removesuffix(SUFFIX)) and len(content) <= MAX_FILE):
            raise SettingsError(f"the backup holds a file that is no configuration entry: {name[:100]!r}")
        with _private(folder / name) as file:
            file.write(content)
    database.execute(f"DROP TABLE {FILES}")
