"""The durable storage: what survives, what is refused, and how writes are grouped."""

import asyncio
import contextlib
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys

import pytest
from agentos_engine.config import SettingsError
from agentos_engine.storage import sqlite_threads
from agentos_engine.storage.queues import Job, Keep, Key, Subscription
from agentos_engine.storage.recent import Recent
from agentos_engine.storage.sqlite import APPLICATION_ID, CHECKPOINT_PAGES, FILE, MIGRATIONS, SqliteStorage
from agentos_engine.storage.values import StorageError

KEEP = Keep(count=10, size=1 << 20)


@pytest.fixture
async def open_storage(tmp_path):
    """Opens the storage in the test's folder; what is still open at the end is closed."""
    opened = []

    async def open_storage():
        opened.append(await SqliteStorage.open(tmp_path))
        return opened[-1]

    yield open_storage
    for each in opened:
        await each.close()


@pytest.fixture
async def storage(open_storage):
    """A new storage."""
    return await open_storage()


@pytest.fixture
def in_writer(storage):
    """Runs a statement on the writer's connection, before the writes that follow."""

    async def run(statement):
        return await storage._writer.write(lambda database: database.execute(statement).fetchall())

    return run


@pytest.fixture
def statements(storage):
    """The statements that the writer carries out, as they come."""
    traced = []
    storage._writer._connection.set_trace_callback(traced.append)
    yield traced
    storage._writer._connection.set_trace_callback(None)


def job(**values):
    defaults = {"queue": "q", "id": "j", "function_id": "a::f", "data": b"{}", "created_at": 1.0, "due_at": 1.0}
    return Job(max_attempts=3, **(defaults | values))


async def put(storage, *jobs, **more):
    return (await storage.queues.add(jobs, **({"receipt": "r", "now": 1.0} | more))).waiting


async def set_values(storage, count, size=10):
    return await asyncio.gather(
        *(storage.values.set("state", "s", str(number), b"1" * size) for number in range(count)),
        return_exceptions=True,
    )


class TestRestart:
    async def test_values_are_there_again(self, storage, open_storage):
        await storage.values.set("state", "s", "k", b"1")
        await storage.values.set("stream:x", "g", "i", b"2")
        await storage.values.set("state", "s", "gone", b"3")
        await storage.values.delete("state", "s", "gone")
        await storage.close()
        again = await open_storage()
        assert await again.values.get("state", "s", "k") == b"1"
        assert await again.values.get("state", "s", "gone") is None
        assert await again.values.spaces() == ["state", "stream:x"]

    async def test_jobs_dead_letters_keys_and_subscriptions_are_there_again(self, storage, open_storage):
        waiting = await put(
            storage, job(id="a", metadata=b"1"), job(id="b"), job(id="c"), receipt="first", keys=[Key("q", "k", 100.0)]
        )
        await storage.queues.retry(waiting[0].seq, attempts_made=2, due_at=50.0, error="c: m")
        await storage.queues.bury(waiting[1].seq, attempts_made=3, failed_at=9.0, error="c: m", keep=KEEP)
        subscription = Subscription("q", "t", "a::f", "default", b"{}", 12.5)
        await storage.queues.subscribe(subscription)
        first, dead = await storage.queues.get(waiting[0].seq), await dead_jobs(storage)
        listed = await storage.queues.waiting()
        await storage.close()

        again = await open_storage()
        assert await again.queues.get(waiting[0].seq) == first
        assert (first.attempts_made, first.metadata, first.last_error) == (2, b"1", "c: m")
        assert await again.queues.waiting() == listed
        assert [each.seq for each in listed] == [waiting[0].seq, waiting[2].seq]
        assert await dead_jobs(again) == dead
        assert [each.id for each in dead] == ["b"]
        assert await again.queues.dead_counts() == {"q": 1}
        assert await again.queues.subscriptions() == [subscription]
        known = await again.queues.add([job()], receipt="second", now=2.0, keys=[Key("q", "k", 200.0)])
        assert (known.receipt, list(known.waiting)) == ("first", [])

    async def test_records_are_there_again(self, storage, open_storage):
        for number, each in enumerate((storage.grants, storage.sleeping, storage.cron)):
            await each.change({"a": b"%d" % number, "gone": b"1"})
            await each.change({}, ["gone"])
        await storage.close()
        again = await open_storage()
        found = [await each.load() for each in (again.grants, again.sleeping, again.cron)]
        assert found == [{"a": b"0"}, {"a": b"1"}, {"a": b"2"}]

    async def test_a_database_of_the_first_schema_is_brought_up_to_date_with_all_that_it_holds(
        self, storage, in_writer, open_storage
    ):
        await set_values(storage, 3)
        waiting = await put(storage, job())
        await in_writer("DROP TABLE records")
        await in_writer("PRAGMA user_version = 1")
        await storage.close()
        again = await open_storage()
        await again.grants.change({"uid": b"{}"})
        assert await again.grants.load() == {"uid": b"{}"}
        assert len(await again.values.list("state", "s")) == 3
        assert await again.queues.waiting() == waiting
        version = await again._writer.write(lambda database: database.execute("PRAGMA user_version").fetchall())
        assert version == [(len(MIGRATIONS),)]

    async def test_the_number_of_a_job_that_is_done_is_not_given_out_again(self, storage, open_storage):
        ((waiting,)) = await put(storage, job())
        await storage.queues.done(waiting.seq)
        await storage.close()
        (later,) = await put(await open_storage(), job())
        assert later.seq > waiting.seq

    async def test_what_was_asked_for_before_closing_is_carried_out(self, storage, open_storage):
        writes = asyncio.create_task(set_values(storage, 500))
        await asyncio.sleep(0)
        await storage.close()
        assert await writes == [None] * 500
        assert len(await (await open_storage()).values.list("state", "s")) == 500

    async def test_closing_leaves_one_file_and_ends_the_use(self, storage, tmp_path):
        await set_values(storage, 1)
        await asyncio.gather(storage.close(), storage.close())
        assert [each.name for each in tmp_path.iterdir()] == [FILE]
        for use in (storage.values.get("state", "s", "other"), storage.values.set("state", "s", "k", b"1")):
            with pytest.raises(StorageError, match="closed") as refused:
                await use
            assert refused.value.code == "storage_failed"


async def dead_jobs(storage):
    return await storage.queues.dead(["q"], offset=0, limit=100, max_bytes=1 << 20)


class TestGroups:
    async def test_a_thousand_concurrent_writes_take_a_few_commits(self, storage, statements):
        await set_values(storage, 1000)
        assert 1 <= statements.count("COMMIT") <= 4

    async def test_each_write_alone_has_its_own_commit(self, storage, statements):
        for number in range(5):
            await storage.values.set("state", "s", "k", str(number).encode())
        assert statements.count("COMMIT") == 5

    async def test_a_group_ends_before_it_has_too_many_bytes(self, storage, statements, monkeypatch):
        monkeypatch.setattr(sqlite_threads, "MAX_GROUP_BYTES", 100_000)
        await set_values(storage, 100, size=9_000)
        assert statements.count("COMMIT") >= 10

    async def test_values_and_jobs_are_answered_in_the_order_of_the_calls(self, storage):
        answered = []

        async def write(number):
            if number % 3 == 0:
                await put(storage, job())
            elif number % 3 == 1:
                await storage.values.set("state", str(number), "k", b"1")
            else:
                with contextlib.suppress(ZeroDivisionError):
                    await storage.values.update("state", "s", "k", lambda _: 1 // 0)
            answered.append(number)

        await asyncio.gather(*(write(number) for number in range(300)))
        assert answered == list(range(300))

    async def test_a_change_that_fails_fails_alone(self, storage, statements):
        writes = [storage.values.set("state", "s", str(number), b"1") for number in range(3)]
        writes.insert(1, storage.values.update("state", "s", "0", lambda _: 1 // 0))
        writes.insert(3, storage.values.update("state", "s", "0", lambda _: next(iter(()))))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(each) for each in outcomes] == [
            type(None),
            ZeroDivisionError,
            type(None),
            RuntimeError,
            type(None),
        ]
        assert statements.count("COMMIT") == 1
        assert len(await storage.values.list("state", "s")) == 3

    async def test_a_write_that_fails_in_its_midst_is_undone_as_a_whole_and_alone(self, storage):
        second = job(priority=1 << 70)  # does not fit into a column
        outcomes = await asyncio.gather(
            put(storage, job(id="a")),
            put(storage, job(id="b"), second, keys=[Key("q", "k", 100.0)]),
            put(storage, job(id="c")),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], OverflowError)
        assert [(await storage.queues.get(each.seq)).id for each in await storage.queues.waiting()] == ["a", "c"]
        assert (await storage.queues.add([job()], receipt="new", now=1.0, keys=[Key("q", "k", 9.0)])).receipt == "new"

    async def test_only_so_much_waits_for_a_slow_disk_and_deleting_is_never_refused(self, storage, monkeypatch):
        monkeypatch.setattr(sqlite_threads, "MAX_UNWRITTEN_BYTES", 100_000)
        deleted = asyncio.gather(*(storage.values.delete("state", "s", "x") for _ in range(1000)))
        outcomes = await set_values(storage, 100, size=9_000)
        refused = [each for each in outcomes if each is not None]
        assert 0 < len(refused) < 100
        assert {each.code for each in refused} == {"storage_busy"}
        assert await deleted == [None] * 1000
        assert await set_values(storage, 1, size=9_000) == [b"1" * 9_000]


class TestReading:
    async def test_a_value_is_read_as_it_was_last_acknowledged_while_others_write(self, storage, monkeypatch):
        monkeypatch.setattr(storage.values, "_recent", Recent(20_000))  # so that much is read from the disk
        seen = 0
        writing = True

        async def write():
            nonlocal seen, writing
            for number in range(1, 400):
                noise = (storage.values.set("state", "noise", str(each), b"1" * 400) for each in range(number % 60))
                await asyncio.gather(storage.values.set("state", "s", "k", str(number).encode()), *noise)
                seen = number
            writing = False

        async def read():
            while writing:
                acknowledged = seen
                value = int(await storage.values.get("state", "s", "k") or b"0")
                assert value >= acknowledged
                await asyncio.sleep(0)

        await asyncio.gather(write(), *(read() for _ in range(5)))
        assert await storage.values.get("state", "s", "k") == b"399"

    @pytest.mark.parametrize("memory", [1 << 20, 20_000])
    async def test_a_value_that_is_written_while_it_is_read_is_not_remembered_as_it_was(
        self, storage, monkeypatch, memory
    ):
        await set_values(storage, 1)
        monkeypatch.setattr(storage.values, "_recent", Recent(memory))
        read = storage._reader.run

        async def run(*work):
            old = await read(*work)
            await storage.values.set("state", "s", "0", b"new")
            for number in range(50):  # with little memory these push it out again
                await storage.values.set("state", "noise", str(number), b"1" * 400)
            return old

        monkeypatch.setattr(storage._reader, "run", run)
        await storage.values.get("state", "s", "0")
        monkeypatch.setattr(storage._reader, "run", read)
        assert await storage.values.get("state", "s", "0") == b"new"

    async def test_a_dropped_scope_is_gone_from_memory_too(self, storage):
        await set_values(storage, 3)
        assert await storage.values.drop("state", "s") == 3
        assert await storage.values.get("state", "s", "1") is None

    async def test_recent_values_and_jobs_need_no_look_at_the_disk(self, storage, monkeypatch):
        await set_values(storage, 1)
        (waiting,) = await put(storage, job())
        await storage.queues.retry(waiting.seq, attempts_made=1, due_at=7.0, error="e")
        monkeypatch.setattr(storage._reader, "run", None)
        assert await storage.values.get("state", "s", "0") == b"1" * 10
        assert (await storage.queues.get(waiting.seq)).due_at == 7.0

    async def test_jobs_that_were_forgotten_or_removed_do_not_stay_in_memory(self, storage):
        first, second = await put(storage, job(), job(queue="p"))
        await put(storage, job(id="new"), remove=[second.seq])
        assert await storage.queues.forget("q") == 2
        assert [await storage.queues.get(each.seq) for each in (first, second)] == [None, None]
        assert storage.queues._recent.size == 0

    async def test_jobs_beyond_the_memory_come_from_the_disk(self, storage, monkeypatch):
        monkeypatch.setattr(storage.queues, "_recent", Recent(1))
        (waiting,) = await put(storage, job(data=b'"x"'))
        assert (await storage.queues.get(waiting.seq)).data == b'"x"'

    def test_what_was_used_last_is_kept_within_the_bound(self):
        recent = Recent(16_000)
        for number in range(20):
            recent.put(number, number, 500)
            recent.get(0)
        assert (0 in recent, 1 in recent, 19 in recent) == (True, False, True)
        assert recent.size <= 16_000
        losses = recent.losses
        recent.put(19, 0, 15_000)
        assert (19 in recent, recent.losses > losses) == (False, True)

    async def test_listing_names_goes_from_name_to_name(self, storage):
        await set_values(storage, 2000)
        await storage.values.set("state", "t", "k", b"1")
        steps = 0

        def count():
            nonlocal steps
            steps += 1

        storage._reader._connection.set_progress_handler(count, 10)
        assert await storage.values.scopes("state") == ["s", "t"]
        storage._reader._connection.set_progress_handler(None, 0)
        assert steps < 100  # 2,001 values would take thousands


class TestTheFile:
    async def test_only_its_owner_may_read_it_and_every_commit_waits_for_the_disk(self, storage, in_writer, tmp_path):
        await set_values(storage, 1)
        files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
        assert files == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}
        assert await in_writer("PRAGMA journal_mode") == [("wal",)]
        assert await in_writer("PRAGMA synchronous") == [(2,)]
        assert await in_writer("PRAGMA application_id") == [(APPLICATION_ID,)]
        assert await in_writer("PRAGMA user_version") == [(len(MIGRATIONS),)]

    async def test_a_missing_folder_is_made_and_a_new_database_is_told_of(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        for _ in range(2):
            storage = await SqliteStorage.open(tmp_path / "a" / "b")
            await storage.close()
        assert (tmp_path / "a" / "b" / FILE).exists()
        assert len([each for each in caplog.records if "a new one is made" in each.message]) == 1

    async def test_a_newer_schema_is_refused_and_left_alone(self, storage, in_writer, open_storage, tmp_path):
        await set_values(storage, 1)
        await in_writer(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        await storage.close()
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(SettingsError, match="newer engine"):
            await open_storage()
        assert (tmp_path / FILE).read_bytes() == before

    async def test_a_database_of_another_program_is_refused_and_left_alone(self, open_storage, tmp_path):
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as other:
            other.execute("CREATE TABLE t (x)")
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(SettingsError, match="another program"):
            await open_storage()
        assert (tmp_path / FILE).read_bytes() == before

    async def test_a_file_that_is_no_database_is_refused_and_left_alone(self, open_storage, tmp_path):
        (tmp_path / FILE).write_bytes(b"once upon a time\n" * 1000)
        with pytest.raises(SettingsError, match=r"damaged.*restore a backup"):
            await open_storage()
        assert (tmp_path / FILE).read_bytes() == b"once upon a time\n" * 1000

    @pytest.mark.parametrize("how", ["overwritten", "cut"])
    async def test_a_damaged_database_is_refused(self, storage, open_storage, tmp_path, how):
        await set_values(storage, 2000, size=200)
        await storage.close()
        content = bytearray((tmp_path / FILE).read_bytes())
        if how == "cut":
            del content[len(content) // 2 :]
        else:
            content[8192:-8192] = random.Random(1).randbytes(len(content) - 16384)
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(SettingsError, match="damaged"):
            await open_storage()
        assert (tmp_path / FILE).read_bytes() == content

    async def test_damage_that_is_met_later_fails_what_needs_it(self, storage, tmp_path):
        await set_values(storage, 2000, size=200)
        checkpoint = sqlite3.connect(tmp_path / FILE)
        checkpoint.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = (tmp_path / FILE).read_bytes()
        (tmp_path / FILE).write_bytes(content[:8192] + random.Random(1).randbytes(len(content) - 8192))
        with pytest.raises(StorageError, match="restore a backup") as failed:
            await storage.values.list("state", "s")
        assert failed.value.code == "storage_failed"
        checkpoint.close()

    async def test_damage_of_a_database_too_large_to_be_looked_through_is_told_once_it_is_met(
        self, storage, open_storage, tmp_path, monkeypatch, caplog
    ):
        await set_values(storage, 2000, size=200)
        await storage.close()
        content = (tmp_path / FILE).read_bytes()
        (tmp_path / FILE).write_bytes(content[:65536] + random.Random(1).randbytes(len(content) - 65536))
        monkeypatch.setattr("agentos_engine.storage.sqlite.MAX_CHECKED_BYTES", 1000)
        again = await open_storage()
        for _ in range(2):
            with pytest.raises(StorageError, match="damaged: stop the engine and restore a backup"):
                await again.values.list("state", "s")
        outcomes = await set_values(again, 2000, size=300)
        assert any(isinstance(each, StorageError) and "damaged" in each.message for each in outcomes)
        told = [each.message for each in caplog.records if "restore a backup" in each.message]
        assert 1 <= len(told) <= 3  # once for reading, and for writing

    async def test_a_log_without_its_database_is_no_fresh_start(self, storage, open_storage, tmp_path):
        await set_values(storage, 1)
        shutil.copy(tmp_path / f"{FILE}-wal", tmp_path / "kept")
        await storage.close()
        (tmp_path / FILE).unlink()
        (tmp_path / "kept").rename(tmp_path / f"{FILE}-wal")
        with pytest.raises(SettingsError, match="is missing or empty, but its log"):
            await open_storage()
        assert (tmp_path / f"{FILE}-wal").stat().st_size

    async def test_one_that_cannot_be_written_is_refused(self, open_storage, tmp_path):
        (tmp_path / FILE).mkdir()
        with pytest.raises(SettingsError, match="readable and writable"):
            await open_storage()

    async def test_one_that_another_program_has_locked_is_refused(self, storage, open_storage, tmp_path, monkeypatch):
        monkeypatch.setattr("agentos_engine.storage.sqlite.BUSY_TIMEOUT", 0.05)
        await storage.close()
        with locked(tmp_path), pytest.raises(SettingsError, match="another program holds a lock"):
            await open_storage()
        await open_storage()

    async def test_writes_that_another_program_locks_out_fail_and_then_go_on(
        self, storage, in_writer, tmp_path, caplog
    ):
        await in_writer("PRAGMA busy_timeout = 50")
        await set_values(storage, 1)
        caplog.set_level(logging.INFO)
        with locked(tmp_path):
            for _ in range(3):
                failed = await set_values(storage, 10)
                assert {each.code for each in failed} == {"storage_failed"}
                assert "end that program" in failed[0].message
        assert await set_values(storage, 1) == [b"1" * 10]
        assert len(await storage.values.list("state", "s")) == 1
        assert [each.levelname for each in caplog.records] == ["ERROR", "INFO"]


@contextlib.contextmanager
def locked(folder):
    """Another process holds the write lock of the database."""
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None); d.execute('BEGIN IMMEDIATE'); "
        "print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / FILE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate()


class TestLengthOfTheLog:
    async def test_the_log_has_its_size_from_the_start_and_holds_nothing_that_was_not_committed(
        self, tmp_path, open_storage, monkeypatch
    ):
        monkeypatch.setattr("agentos_engine.storage.sqlite.LOG_ROOM", 0)
        storage = await open_storage()
        log = tmp_path / f"{FILE}-wal"
        size = log.stat().st_size
        assert size > CHECKPOINT_PAGES * 4000
        for number in range(20):
            await storage.values.set("state", "s", str(number), b"1")
        assert log.stat().st_size == size
        left = tmp_path / "left"  # what a killed engine leaves
        left.mkdir()
        for name in (FILE, f"{FILE}-wal"):
            shutil.copy(tmp_path / name, left)
        again = await SqliteStorage.open(left)
        try:
            assert len(await again.values.list("state", "s")) == 20
            assert await again._reader.run(lambda database: database.execute("PRAGMA integrity_check").fetchone()) == (
                "ok",
            )
        finally:
            await again.close()

    async def test_on_a_disk_with_little_room_it_grows_as_it_is_used(self, tmp_path, open_storage, monkeypatch):
        monkeypatch.setattr("agentos_engine.storage.sqlite.LOG_ROOM", 1 << 60)  # bytes
        storage = await open_storage()
        assert await set_values(storage, 1) == [None]
        assert (tmp_path / f"{FILE}-wal").stat().st_size < 1 << 20


class TestDiskErrors:
    async def test_a_transaction_that_could_not_be_undone_does_not_stand_in_the_way(self, storage):
        storage._writer._connection.execute("BEGIN")
        assert await set_values(storage, 1) == [None]

    async def test_a_full_disk_fails_the_whole_group_and_the_store_goes_on(self, storage, in_writer):
        await set_values(storage, 3)
        ((pages,),) = await in_writer("PRAGMA page_count")
        await in_writer(f"PRAGMA max_page_count = {pages}")
        failed = await set_values(storage, 100, size=10_000)
        assert {each.code for each in failed} == {"storage_full"}
        assert "free space" in failed[0].message
        assert len({id(each) for each in failed}) == 100
        assert await storage.values.list("state", "s") == [(str(number), b"1" * 10) for number in range(3)]
        assert await storage.values.get("state", "s", "0") == b"1" * 10
        await storage.values.delete("state", "s", "0")
        await in_writer("PRAGMA max_page_count = 1000000")
        assert not any(await set_values(storage, 1, size=10_000))

    async def test_a_write_that_the_system_refuses_is_not_acknowledged_and_the_store_goes_on(
        self, storage, tmp_path, open_storage
    ):
        await set_values(storage, 3)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / f"{FILE}-wal").stat().st_size + 5000, hard))
        try:
            failed = await set_values(storage, 50, size=5_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {each.code for each in failed} <= {"storage_failed", "storage_full"}
        assert "disk" in failed[0].message
        assert await storage.values.get("state", "s", "1") == b"1" * 10
        assert await set_values(storage, 4) == [b"1" * 10] * 3 + [None]
        await storage.close()
        assert len(await (await open_storage()).values.list("state", "s")) == 4


WRITES_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from agentos_engine.storage.queues import Job, Key
from agentos_engine.storage.sqlite import SqliteStorage

ROUND = sys.argv[2]

async def write(storage, lane):
    number = 0
    while True:
        number += 1
        value = b'"%s"' % (str(number).encode() * 300)
        await storage.values.set("state", f"{ROUND}-{lane}", "k", value)
        name = f"{ROUND}-{lane}-{number}"
        jobs = [Job(queue=each, id=name, function_id="a::f", data=value, created_at=1.0, due_at=1.0, max_attempts=1)
                for each in ("one", "two")]
        await storage.queues.add(jobs, receipt=name, now=1.0, keys=[Key("s", name, 1e12)])
        sys.stdout.write(f"{lane} {number}\\n")
        sys.stdout.flush()

async def main():
    storage = await SqliteStorage.open(Path(sys.argv[1]))
    await asyncio.gather(*(write(storage, lane) for lane in range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9_and_there_are_only_whole_writes(tmp_path, open_storage):
    chance = random.Random(os.urandom(8))
    acknowledged: dict[str, int] = {}
    for number in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITES_UNTIL_KILLED, str(tmp_path), str(number), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [await process.stdout.readline()]
        ended = asyncio.get_running_loop().time() + chance.random() * 0.3
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ended):
                while True:
                    lines.append(await process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        lines += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
        for line in lines:
            if line.endswith(b"\n"):
                lane, count = line.split()
                acknowledged[f"{number}-{int(lane)}"] = int(count)
    assert len(acknowledged) >= 10

    storage = await open_storage()
    jobs: dict[str, list[Job]] = {}
    for waiting in await storage.queues.waiting():
        found = await storage.queues.get(waiting.seq)
        jobs.setdefault(found.id, []).append(found)
    for lane, count in acknowledged.items():
        value = await storage.values.get("state", lane, "k")
        last = int(value[1 : 1 + (len(value) - 2) // 300])
        assert last in (count, count + 1)
        for number in range(1, count + 1):
            assert f"{lane}-{number}" in jobs
    for name, both in jobs.items():
        number = name.rpartition("-")[2].encode()
        assert [each.queue for each in both] == ["one", "two"]
        assert {each.data for each in both} == {b'"%s"' % (number * 300)}
        again = await storage.queues.add([job()], receipt="new", now=1.0, keys=[Key("s", name, 1e12)])
        assert again.receipt == name


async def test_the_engine_without_a_data_folder_does_not_load_sqlite():
    program = "import agentos_engine.app, sys; print('sqlite3' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    assert (await process.communicate())[0].strip() == b"False"
