"""What every RecordStore does."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from agentos_engine.storage.records import MemoryRecords
from agentos_engine.storage.sqlite import SqliteStorage
from hypothesis import given, settings
from hypothesis import strategies as st


@asynccontextmanager
async def memory():
    """Two stores in memory, of different kinds."""
    yield MemoryRecords(), MemoryRecords()


@asynccontextmanager
async def sqlite():
    """Two stores of different kinds in one file."""
    with TemporaryDirectory() as folder:
        storage = await SqliteStorage.open(Path(folder))
        yield storage.grants, storage.sleeping
        await storage.close()


STORES = [memory, sqlite]
"""Each makes two empty stores, and removes what it leaves behind."""


@pytest.fixture(params=STORES)
async def stores(request):
    """Two empty stores."""
    async with request.param() as stores:
        yield stores


@pytest.fixture
def store(stores):
    """An empty store."""
    return stores[0]


async def test_a_new_store_is_empty(store):
    assert await store.load() == {}


async def test_records_are_added_replaced_and_removed_in_one_change(store):
    await store.change({"a": b"1", "b": b"2", "c": b"3"})
    await store.change({"b": b"20", "d": b"4"}, ["a", "unknown"])
    assert await store.load() == {"b": b"20", "c": b"3", "d": b"4"}


async def test_a_key_that_is_removed_and_added_is_there(store):
    await store.change({"a": b"1"})
    await store.change({"a": b"2"}, ["a"])
    assert await store.load() == {"a": b"2"}


async def test_replacing_all_leaves_what_is_given_and_nothing_else(store):
    await store.change({"a": b"1", "b": b"2"})
    await store.change({"b": b"20", "c": b"3"}, replace_all=True)
    assert await store.load() == {"b": b"20", "c": b"3"}
    await store.change({}, replace_all=True)
    assert await store.load() == {}


async def test_kinds_are_apart(stores):
    grants, sleeping = stores
    await grants.change({"a": b"1"})
    await sleeping.change({"a": b"2"})
    await sleeping.change({}, replace_all=True)
    assert (await grants.load(), await sleeping.load()) == ({"a": b"1"}, {})


async def test_what_is_loaded_is_a_copy_and_what_is_given_may_change_afterwards(store):
    changed = {"a": b"1"}
    changing = asyncio.ensure_future(store.change(changed))
    await asyncio.sleep(0)
    changed["b"] = b"2"
    await changing
    loaded = await store.load()
    loaded["c"] = b"3"
    assert await store.load() == {"a": b"1"}


async def test_changes_take_effect_in_the_order_of_the_calls(store):
    changes = [store.change({"a": b"%d" % number}, replace_all=number % 2 == 0) for number in range(100)]
    await asyncio.gather(*changes)
    assert await store.load() == {"a": b"99"}


texts = st.text(max_size=5)
changes = st.tuples(st.dictionaries(texts, st.binary(max_size=20)), st.lists(texts), st.booleans())


@pytest.mark.parametrize("make", STORES)
@settings(max_examples=25, deadline=None)
@given(st.lists(changes, max_size=8))
def test_any_changes_leave_what_a_dict_would_hold(make, changes):
    async def check():
        async with make() as (store, _):
            expected: dict[str, bytes] = {}
            for changed, removed, replace_all in changes:
                await store.change(changed, removed, replace_all=replace_all)
                for key in list(expected) if replace_all else removed:
                    expected.pop(key, None)
                expected |= changed
                assert await store.load() == expected

    asyncio.run(check())
