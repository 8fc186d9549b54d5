"""What every ValueStore does, and the bound of the one in memory."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from agentos_engine.storage.memory import MemoryValues
from agentos_engine.storage.sqlite import SqliteStorage
from agentos_engine.storage.values import MAX_LIST_BYTES, MAX_VALUE_DEPTH, StorageError, check
from hypothesis import given, settings
from hypothesis import strategies as st


@asynccontextmanager
async def memory():
    """A store in memory."""
    yield MemoryValues()


@asynccontextmanager
async def sqlite():
    """A store on the disk."""
    with TemporaryDirectory() as folder:
        storage = await SqliteStorage.open(Path(folder))
        yield storage.values
        await storage.close()


STORES = [memory, sqlite]
"""Each makes an empty store, and removes what it leaves behind."""


@pytest.fixture(params=STORES)
async def store(request):
    """An empty store."""
    async with request.param() as store:
        yield store
        await store.close()


class TestEveryStore:
    async def test_a_missing_value_is_none_and_a_stored_null_is_not(self, store):
        assert await store.get("state", "s", "k") is None
        await store.set("state", "s", "k", b"null")
        assert await store.get("state", "s", "k") == b"null"

    async def test_set_returns_the_value_that_it_replaces(self, store):
        assert await store.set("state", "s", "k", b"1") is None
        assert await store.set("state", "s", "k", b"2") == b"1"
        assert await store.get("state", "s", "k") == b"2"

    async def test_delete_returns_the_value_once(self, store):
        await store.set("state", "s", "k", b"1")
        assert await store.delete("state", "s", "k") == b"1"
        assert await store.delete("state", "s", "k") is None
        assert await store.get("state", "s", "k") is None

    async def test_bytes_come_back_as_they_were(self, store):
        value = json.dumps({"text": "ä\u0000\u2028😀", "long": "x" * (1 << 20)}, ensure_ascii=False).encode()
        await store.set("state", "s", "k", value)
        assert await store.get("state", "s", "k") == value
        assert await store.list("state", "s") == [("k", value)]

    @pytest.mark.parametrize("name", ["", " ", "/", "..", "a\x00b", "%", "'\";--", "é", "e\u0301", "😀", "x" * 1024])
    async def test_any_text_is_a_name(self, store, name):
        await store.set("stream:" + name, name, name, b"1")
        assert await store.get("stream:" + name, name, name) == b"1"
        assert await store.list("stream:" + name, name) == [(name, b"1")]
        assert await store.scopes("stream:" + name) == [name]
        assert await store.spaces() == ["stream:" + name]

    async def test_spaces_scopes_and_keys_are_apart(self, store):
        places = [("state", "a", "b"), ("state", "b", "a"), ("stream:a", "a", "b"), ("stream:", "aa", "b")]
        for number, place in enumerate(places):
            await store.set(*place, str(number).encode())
        for number, place in enumerate(places):
            assert await store.get(*place) == str(number).encode()

    async def test_a_scope_is_listed_in_the_unicode_order_of_its_keys(self, store):
        keys = ["b", "a", "Z", "ä", "10", "9", "\uffff", "😀", ""]
        for key in keys:
            await store.set("state", "s", key, b"1")
        assert [key for key, _ in await store.list("state", "s")] == sorted(keys)
        assert await store.list("state", "other") == []

    async def test_only_scopes_and_spaces_that_hold_a_value_are_named_in_order(self, store):
        assert await store.spaces() == []
        for space, scope in (("state", "b"), ("state", "a"), ("stream:x", "c")):
            await store.set(space, scope, "k", b"1")
        assert await store.scopes("state") == ["a", "b"]
        assert await store.spaces() == ["state", "stream:x"]
        await store.delete("state", "b", "k")
        await store.delete("stream:x", "c", "k")
        assert await store.scopes("state") == ["a"]
        assert await store.scopes("stream:x") == []
        assert await store.spaces() == ["state"]

    async def test_drop_deletes_one_scope_and_counts(self, store):
        for scope, key in (("a", "1"), ("a", "2"), ("b", "1")):
            await store.set("state", scope, key, b"1")
        assert await store.drop("state", "a") == 2
        assert await store.drop("state", "a") == 0
        assert await store.scopes("state") == ["b"]

    async def test_update_gets_the_old_value_and_returns_both(self, store):
        def exclaim(old):
            return json.dumps((json.loads(old) if old else "") + "!").encode()

        assert await store.update("state", "s", "k", exclaim) == (None, b'"!"')
        assert await store.update("state", "s", "k", exclaim) == (b'"!"', b'"!!"')
        assert await store.get("state", "s", "k") == b'"!!"'

    async def test_an_update_that_fails_writes_nothing_and_its_error_reaches_the_caller(self, store):
        def refuse(old):
            raise ZeroDivisionError("why")

        with pytest.raises(ZeroDivisionError, match="why"):
            await store.update("state", "s", "k", refuse)
        assert await store.spaces() == []
        await store.set("state", "s", "k", b"1")
        with pytest.raises(ZeroDivisionError, match="why"):
            await store.update("state", "s", "k", refuse)
        assert await store.get("state", "s", "k") == b"1"

    async def test_no_update_is_lost_among_concurrent_ones(self, store):
        def increment(old):
            return str(int(old or b"0") + 1).encode()

        results = await asyncio.gather(*(store.update("state", "s", "k", increment) for _ in range(300)))
        assert await store.get("state", "s", "k") == b"300"
        assert len({new for _, new in results}) == 300

    async def test_writes_take_effect_and_return_in_the_order_of_the_calls(self, store):
        returned = []

        async def write(number):
            if number % 3:
                old = await store.set("state", "s", "k", str(number).encode())
            else:
                old, _ = await store.update("state", "s", "k", lambda _: str(number).encode())
            returned.append((number, old))

        await asyncio.gather(*(write(number) for number in range(200)))
        assert returned == [(number, str(number - 1).encode() if number else None) for number in range(200)]

    async def test_a_cancelled_write_leaves_the_old_or_the_new_value(self, store):
        await store.set("state", "s", "k", b"1")
        task = asyncio.create_task(store.set("state", "s", "k", b"2"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await store.get("state", "s", "k") in (b"1", b"2")
        await store.set("state", "s", "k", b"3")
        assert await store.get("state", "s", "k") == b"3"

    async def test_a_listing_too_large_for_a_message_is_refused(self, store):
        part = b'"%s"' % (b"x" * (MAX_LIST_BYTES // 4))
        for key in "abcd":
            await store.set("state", "s", key, part)
        with pytest.raises(StorageError) as refused:
            await store.list("state", "s")
        assert refused.value.code == "listing_too_large"
        await store.delete("state", "s", "d")
        assert len(await store.list("state", "s")) == 3

    async def test_closing_twice_is_harmless(self, store):
        await store.close()


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete", "update", "drop"]), st.sampled_from(["state", "stream:x"]), NAMES, NAMES
    ),
    max_size=40,
)


@pytest.mark.parametrize("make", STORES)
@given(steps=STEPS)
@settings(deadline=None, max_examples=100)
def test_any_sequence_of_writes_is_like_that_on_a_dictionary(make, steps):
    async def run():
        async with make() as store:
            model = {}
            for number, (what, space, scope, key) in enumerate(steps):
                place, value = (space, scope, key), str(number).encode()
                if what == "set":
                    assert await store.set(*place, value) == model.get(place)
                    model[place] = value
                elif what == "update":
                    assert await store.update(*place, lambda old, value=value: value + (old or b"")) == (
                        model.get(place),
                        value + model.get(place, b""),
                    )
                    model[place] = value + model.get(place, b"")
                elif what == "delete":
                    assert await store.delete(*place) == model.pop(place, None)
                else:
                    gone = [each for each in model if each[:2] == (space, scope)]
                    assert await store.drop(space, scope) == len(gone)
                    for each in gone:
                        del model[each]
            assert await store.spaces() == sorted({each[0] for each in model})
            for space in ("state", "stream:x"):
                assert await store.scopes(space) == sorted({each[1] for each in model if each[0] == space})
                for scope in "abc":
                    expected = sorted((key, value) for (*where, key), value in model.items() if where == [space, scope])
                    assert await store.list(space, scope) == expected
            for space in await store.spaces():
                for scope in await store.scopes(space):
                    await store.drop(space, scope)
            if isinstance(store, MemoryValues):
                assert store.size == 0
            await store.close()

    asyncio.run(run())


async def test_memory_is_bounded_and_the_refusal_has_a_code_and_changes_nothing():
    store = MemoryValues(max_bytes=10_000)
    await store.set("state", "s", "k", b"1" * 5000)
    size = store.size
    with pytest.raises(StorageError) as refused:
        await store.set("state", "s", "more", b"1" * 5000)
    assert refused.value.code == "storage_full"
    with pytest.raises(StorageError):
        await store.update("state", "s", "k", lambda old: old + b"1" * 5000)
    assert store.size == size
    assert await store.list("state", "s") == [("k", b"1" * 5000)]


async def test_full_memory_still_takes_smaller_values_and_deletions():
    store = MemoryValues(max_bytes=10_000)
    await store.set("state", "s", "k", b"1" * 9000)
    assert await store.set("state", "s", "k", b"1" * 8000) == b"1" * 9000
    await store.delete("state", "s", "k")
    assert store.size == 0
    await store.set("state", "s", "other", b"1" * 9000)


async def test_many_tiny_values_and_empty_scopes_cannot_outgrow_the_bound():
    store = MemoryValues(max_bytes=100_000)
    stored = await asyncio.gather(
        *(store.set("state", str(each), "", b"0") for each in range(1000)), return_exceptions=True
    )
    assert {each.code for each in stored if each is not None} == {"storage_full"}
    assert store.size <= 100_000


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "value",
    [b"1", nested(MAX_VALUE_DEPTH), b'"' + b"[" * 1000 + b'"', b"[" + b"{}," * 1000 + b"1e999]", b"[1e999]"],
)
def test_ordinary_values_may_be_stored(value):
    check(value)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"1" * 11, "VALUE_TOO_LARGE"),
        (nested(MAX_VALUE_DEPTH + 1), "VALUE_TOO_DEEP"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "VALUE_TOO_DEEP"),
        (nested(100_000), "VALUE_TOO_DEEP"),
    ],
)
def test_values_that_readers_could_not_take_are_refused(value, code):
    with pytest.raises(Exception) as refused:
        check(value, 10 if code == "VALUE_TOO_LARGE" else 1 << 20)
    assert refused.value.code == code
