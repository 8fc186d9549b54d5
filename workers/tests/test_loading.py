"""Loading a worker: by name or by file, and what is said when that does not work."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentos_workers.kit import log
from agentos_workers.loading import LoadError, known_workers, load

WORKER = """
from agentos_workers.kit import Context, Reply, Request, Worker
from .models import NAME
worker = Worker(NAME)
"""
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files of a worker folder, ``worker`` and others by their name; the path of worker.py."""

    def write(worker: str = WORKER, folder: str = "orders", **files: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, text in {"worker": worker, **files}.items():
            path = tmp_path / folder / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return str(tmp_path / folder / "worker.py")

    return write


def failure(target: str) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(target)
    assert "\n" not in str(caught.value)
    return caught.value


def told(target: str) -> str:
    error = failure(target)
    assert error.frames == ""
    return str(error)


def test_every_worker_of_the_package_is_found_by_its_name() -> None:
    for name in known_workers():
        assert load(name).worker.name == name


@pytest.mark.parametrize("name", ["nope", "wasm_sandbox", "../kit", "", "kit", "/tmp", "worker.txt"])
def test_an_unknown_name_is_answered_with_those_that_there_are(name: str) -> None:
    assert told(name) == (
        f"no worker {name!r}; there are: {', '.join(known_workers())}; for your own give the path of its file, "
        "as ./worker.py"
    )


def test_files_of_the_same_names_in_two_folders_live_side_by_side(write: Write) -> None:
    first = load(write(models="NAME = 'first'"))
    second = load(write(folder="other", models="NAME = 'second'"))
    assert (first.worker.name, second.worker.name) == ("first", "second")


def test_a_file_is_loaded_anew_each_time_even_when_it_was_edited_in_the_same_second(write: Write) -> None:
    path = write(models="NAME = 'one'")
    assert load(path).worker.name == "one"
    write(models="NAME = 'two'")
    assert load(path).worker.name == "two"


def test_packages_in_the_folder_are_imported_relatively_with_or_without_an_init_file(write: Write) -> None:
    names = "from .domain.names import NAME"
    assert load(write(models=names, domain__names="from ..base import NAME", base="NAME = 'x'")).worker.name == "x"
    assert load(write(models=names, domain____init__="", base="NAME = 'y'")).worker.name == "y"


def test_a_relative_path_is_one_from_the_working_directory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(models="NAME = 'here'")
    monkeypatch.chdir(Path(write()).parent)
    assert load("worker.py").worker.name == "here"
    write("x = y")
    assert str(failure("worker.py")) == "worker.py:1: NameError: name 'y' is not defined"


def test_nothing_is_written_to_the_folder(write: Write) -> None:
    path = Path(write(models="NAME = 'x'"))
    load(str(path))
    assert sorted(os.listdir(path.parent)) == ["models.py", "worker.py"]


def test_unloading_forgets_the_modules(write: Write) -> None:
    before = set(sys.modules)
    loaded = load(write(models="NAME = 'x'"))
    assert len(set(sys.modules) - before) == 3
    loaded.unload()
    assert set(sys.modules) == before


def test_an_absolute_import_of_a_neighbour_says_what_to_write(write: Write) -> None:
    path = write("import json\n\nfrom models import NAME", models="NAME = 'x'")
    assert (
        told(path)
        == f"{path}:3: 'models' is beside this file; write \"from .models import …\" (workers share a process)"
    )
    path = write("from .models import NAME", models="from domain.names import NAME", domain__names="")
    assert told(path).startswith(
        f"{Path(path).parent}/models.py:1: 'domain' is beside this file; write \"from .domain import …\""
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nowhere.at_all", "1: there is no module 'nowhere'; is it installed?"),
        ("from .nowhere import X", "1: there is no .nowhere beside this file"),
        ("from . import nowhere", "1: cannot import name 'nowhere' from '.'"),
        ("from agentos_workers.kit import Wroker", "1: cannot import name 'Wroker' from 'agentos_workers.kit'"),
        ("x = 1\ndef broken(:\n", "2: invalid syntax"),
        ("import sys\nsys.exit(3)", "2: it ends the process when it is imported"),
    ],
)
def test_code_that_cannot_be_imported_is_one_line_with_file_and_line(write: Write, code: str, message: str) -> None:
    path = write(code)
    assert told(path).startswith(f"{path}:{message}")


def test_a_missing_file_and_one_without_a_worker_are_one_line_each(write: Write, tmp_path: Path) -> None:
    assert told(f"{tmp_path}/none.py") == f"{tmp_path}/none.py: no such file"
    (tmp_path / "folder.py").mkdir()
    assert told(f"{tmp_path}/folder.py") == f"{tmp_path}/folder.py: not a file"
    path = write("x = 1")
    assert told(path) == f'{path}: there is no global `worker`; write: worker = Worker("orders")'
    path = write("worker = 7")
    assert told(path) == f"{path}: the global `worker` is of type int, not agentos_workers.kit.Worker"


def test_an_exception_in_the_authors_code_shows_the_authors_frames_only(write: Write) -> None:
    path = write("from .models import start\nstart()", models="import json\ndef start():\n    json.loads('{')\n")
    error = failure(path)
    folder = Path(path).parent
    assert str(error).startswith(f"{folder}/models.py:3: JSONDecodeError: Expecting property name")
    assert error.frames.splitlines() == [
        f'  File "{path}", line 2, in <module>',
        "    start()",
        f'  File "{folder}/models.py", line 3, in start',
        "    json.loads('{')",
    ]


def test_a_failed_load_leaves_no_modules_behind(write: Write) -> None:
    before = set(sys.modules)
    failure(write("from .models import NAME\n1 / 0", models="NAME = 'x'"))
    assert set(sys.modules) == before


def record(path: Path | str, error: Any = None) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, str(path), 1, "", (), error)


def test_a_record_belongs_to_the_worker_that_the_code_runs_for_else_to_that_of_its_file(tmp_path: Path) -> None:
    attribution = log.Attribution("host")
    attribution.add("first", tmp_path / "orders", "shop")
    assert attribution(record(tmp_path / "orders" / "worker.py")) == "shop"
    assert attribution(record(tmp_path / "orders-2" / "worker.py")) == "host"
    try:
        exec(compile("1 / 0", tmp_path / "orders" / "models.py", "exec"))
    except ZeroDivisionError:
        assert attribution(record("threading.py", sys.exc_info())) == "shop"
    with log.scope.entered(log.scope.Scope("other", {})):
        assert attribution(record(tmp_path / "orders" / "worker.py")) == "other"


def test_of_workers_with_one_folder_the_newest_has_its_records_and_of_nested_folders_the_inner(tmp_path: Path) -> None:
    attribution = log.Attribution("host")
    for owner, folder in (("old", ""), ("new", ""), ("inner", "inner")):
        attribution.add(owner, tmp_path / folder, owner)
    assert attribution(record(tmp_path / "worker.py")) == "new"
    assert attribution(record(tmp_path / "inner" / "worker.py")) == "inner"
    attribution.remove("new")
    assert attribution(record(tmp_path / "worker.py")) == "old"
