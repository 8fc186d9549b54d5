"""A backup of a running engine is all of one moment, and a restore is done or not, whenever it is cut off."""

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys

import pytest
from agentos_engine import backup
from agentos_engine.configuration.entries import Entry, Files
from agentos_engine.storage.restored import READY
from agentos_engine.storage.sqlite import FILE, MIGRATIONS, SqliteStorage

from tests.durability.disk import DATABASE_SYNC, FOLDER_SYNC, OTHER_SYNC, RENAME
from tests.durability.engine import ENTRY


def run(command, data_dir, file, *flags):
    backup.main([command, "--data-dir", str(data_dir), str(file), *flags], {})


def refused(capsys, *arguments):
    """The one line with which a command fails."""
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


KEYS = ("state", "s", "k"), ("stream:x", "g", "i")


async def fill(client, value="1"):
    """Something of each kind."""
    await client.call("state::set", {"scope": "s", "key": "k", "value": value})
    await client.call("stream::set", {"stream_name": "x", "group_id": "g", "item_id": "i", "data": value})
    await client.call("configuration::ensure", ENTRY)
    await client.call("configuration::set", {"id": "entry", "value": value})


async def found(engine):
    """What is there of it."""
    client = await engine.connect()
    values = [
        await client.call("state::get", {"scope": "s", "key": "k"}),
        await client.call("stream::get", {"stream_name": "x", "group_id": "g", "item_id": "i"}),
    ]
    if (await client.call("configuration::list", {}))["configurations"]:
        values.append((await client.call("configuration::get", {"id": "entry"}))["value"])
    await client.close()
    return values


@pytest.fixture
async def data(tmp_path):
    """The data folder of an engine that has ended."""
    storage = await SqliteStorage.open(tmp_path / "data")
    await asyncio.gather(*(storage.values.set(*place, b'"1"') for place in KEYS))
    await asyncio.gather(*(storage.values.set("state", "others", str(number), b"1" * 100) for number in range(1000)))
    await storage.close()
    files = Files(tmp_path / "data" / "configuration")
    files.make()
    files.write(Entry("entry", "n", "d", {}, "1"))
    return tmp_path / "data"


@pytest.fixture
def saved(data, tmp_path):
    """A backup of it."""
    run("backup", data, tmp_path / "saved")
    return tmp_path / "saved"


async def test_all_that_an_engine_kept_is_there_again_on_another_machine(engine, processes, tmp_path):
    client = await engine.connect()
    await fill(client)
    await client.call("engine::queue::enqueue", {"queue": "broken", "function_id": "a::f", "data": 1})
    await client.close()
    await asyncio.to_thread(run, "backup", engine.data, tmp_path / "saved")
    other = processes("other")
    run("restore", other.data, tmp_path / "saved")
    await other.start()
    assert await found(other) == ["1", "1", "1"]
    client = await other.connect()
    stats = await client.call("engine::queue::topic_stats", {"topic": "broken"})
    assert stats["depth"] + stats["dlq_depth"] == 1
    await client.close()


async def test_a_backup_of_a_running_engine_is_of_one_moment(engine, processes, tmp_path):
    client = await engine.connect()

    async def write():
        for number in range(100_000):
            for key in ("first", "second"):
                await client.call(
                    "state::set", {"scope": "s", "key": key, "value": {"n": number, "text": "x" * 20_000}}
                )

    writing = asyncio.create_task(write())
    for number in range(3):
        await asyncio.to_thread(run, "backup", engine.data, tmp_path / "saved")
        assert not writing.done()
        folder = tmp_path / str(number)
        run("restore", folder, tmp_path / "saved")
        with contextlib.closing(sqlite3.connect(folder / FILE)) as database:
            rows = dict(database.execute("SELECT key, value ->> 'n' FROM vals WHERE scope = 's'").fetchall())
        assert rows.get("first", 0) - rows.get("second", 0) in (0, 1)
    writing.cancel()
    await client.close()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
async def test_a_restore_is_done_or_not_whenever_the_power_fails_in_it(engine, tmp_path, step):
    client = await engine.connect()
    await fill(client, "new")
    await asyncio.to_thread(run, "backup", engine.data, tmp_path / "saved")
    await fill(client, "old")
    await client.close()
    await engine.kill()  # so there is a log
    shutil.copytree(engine.data, tmp_path / "before")
    outcomes = set()
    program = "import sys; from agentos_engine import backup; backup.main(sys.argv[1:], {})"
    command = [sys.executable, "-c", program, "restore", "--force", "--data-dir", str(engine.data)]
    kinds = FOLDER_SYNC | RENAME | OTHER_SYNC | DATABASE_SYNC
    for after in range(random.randrange(step), 100, step):
        shutil.rmtree(engine.data)
        shutil.copytree(tmp_path / "before", engine.data)
        engine.disk.settle()
        engine.disk.kill_in(kinds, after)
        environment = {"PATH": os.environ["PATH"], **engine.disk.environment}
        process = await asyncio.create_subprocess_exec(*command, str(tmp_path / "saved"), env=environment)
        ended = await process.wait()
        engine.disk.lose_power()
        storage = await SqliteStorage.open(engine.data)  # as the next engine does
        values = [await storage.values.get(*place, key) for *place, key in KEYS]
        await storage.close()
        values.append(Files(engine.data / "configuration").read("entry").value)
        assert values in ([b'"old"', b'"old"', "old"], [b'"new"', b'"new"', "new"]), f"killed in call {after}"
        outcomes.add(values[-1])
        assert not (engine.data / READY).exists()
        if ended == 0:
            assert values[-1] == "new"
            break
    else:
        raise AssertionError("the restore did not come to its end")
    assert outcomes == {"old", "new"}


async def test_a_restore_can_lie_ready_until_the_engine_starts_again(saved, processes, capsys):
    other = processes("other")
    await other.start()
    client = await other.connect()
    await fill(client, "old")
    await client.close()
    line = await asyncio.to_thread(refused, capsys, "restore", other.data, saved, "--force")
    assert "another engine uses it" in line
    await asyncio.to_thread(run, "restore", other.data, saved, "--force", "--at-next-start")
    assert await found(other) == ["old"] * 3
    await other.kill()
    await other.start()
    assert await found(other) == ["1", "1", "1"]


async def test_a_backup_can_go_through_a_pipe_and_only_its_owner_may_read_the_file(engine, tmp_path):
    client = await engine.connect()
    await fill(client)
    await client.close()
    program = [sys.executable, "-m", "agentos_engine"]
    command = [*program, "backup", "--data-dir", str(engine.data), "-"]
    made = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=True)
    environment = {"PATH": os.environ["PATH"], "AGENTOS_DATA_DIR": str(tmp_path / "new")}
    command = [*program, "restore", "-"]
    await asyncio.to_thread(subprocess.run, command, input=made.stdout, timeout=60, check=True, env=environment)
    assert stat.S_IMODE((tmp_path / "new" / FILE).stat().st_mode) == 0o600
    await asyncio.to_thread(run, "backup", engine.data, tmp_path / "saved")
    assert stat.S_IMODE((tmp_path / "saved").stat().st_mode) == 0o600
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".agentos")]


async def test_a_folder_that_holds_something_is_replaced_by_force_only(saved, tmp_path, capsys):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / FILE).write_text("something")
    assert "holds engine.db; --force replaces that" in refused(capsys, "restore", folder, saved)
    assert (folder / FILE).read_text() == "something"
    run("restore", folder, saved, "--force")
    assert (folder / FILE).read_bytes()[:15] == b"SQLite format 3"


def damage(content, how):
    if how == "cut":
        return content[: len(content) // 2]
    if how == "overwritten":
        return content[:8192] + bytes(len(content) - 8192)
    return b"once upon a time\n" * 1000


@pytest.mark.parametrize("how", ["cut", "overwritten", "something else"])
async def test_a_damaged_backup_is_refused_and_nothing_is_replaced(saved, tmp_path, capsys, how):
    broken = tmp_path / "broken"
    broken.write_bytes(damage(saved.read_bytes(), how))
    run("restore", tmp_path / "folder", saved)
    before = (tmp_path / "folder" / FILE).read_bytes()
    line = refused(capsys, "restore", tmp_path / "folder", broken, "--force")
    assert str(broken) in line
    assert "damaged" in line or "no backup" in line
    assert (tmp_path / "folder" / FILE).read_bytes() == before
    assert sorted(each.name for each in (tmp_path / "folder").iterdir()) == ["configuration", FILE, "engine.lock"]


async def test_a_backup_of_a_newer_engine_and_a_database_that_is_none_are_refused(saved, data, tmp_path, capsys):
    assert "is no backup" in refused(capsys, "restore", tmp_path / "folder", data / FILE)
    with contextlib.closing(sqlite3.connect(saved)) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    assert "newer engine" in refused(capsys, "restore", tmp_path / "folder", saved)


async def test_a_backup_with_a_file_of_another_kind_is_refused(saved, tmp_path, capsys):
    with contextlib.closing(sqlite3.connect(saved, isolation_level=None)) as database:
        database.execute("UPDATE backup_files SET name = '../escape.yaml'")
    assert "no configuration entry" in refused(capsys, "restore", tmp_path / "folder", saved)
    assert not list(tmp_path.rglob("escape*"))


async def test_there_is_no_backup_of_a_damaged_database_or_of_nothing(data, tmp_path, capsys):
    assert "No such file" in refused(capsys, "backup", data, tmp_path / "no" / "folder")
    (data / FILE).write_bytes(damage((data / FILE).read_bytes(), "overwritten"))
    line = refused(capsys, "backup", data, tmp_path / "new")
    assert "damaged" in line
    assert not (tmp_path / "new").exists()
    assert "holds no engine.db" in refused(capsys, "backup", tmp_path / "nothing", tmp_path / "new")
    assert not (tmp_path / "nothing").exists()


async def test_a_backup_for_which_there_is_no_room_is_refused_and_takes_none(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backup, "SPARED_BYTES", 1 << 60)
    assert "write the backup to another disk" in refused(capsys, "backup", data, tmp_path / "new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data"]


async def test_what_a_backup_that_was_killed_has_left_goes_at_the_next_start(data):
    (data / ".agentos-x").mkdir()
    (data / ".agentos-x" / FILE).write_text("half")
    storage = await SqliteStorage.open(data)
    await storage.close()
    assert sorted(each.name for each in data.iterdir()) == ["configuration", FILE]


@pytest.mark.parametrize("arguments", [["backup"], ["restore", "--nonsense", "x"], ["backup", "file"]])
def test_a_bad_flag_is_one_line_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        backup.main(arguments, {})
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"agentos-engine {arguments[0]}: ")
