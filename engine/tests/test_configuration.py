import asyncio
import contextlib
import json
import os

import msgspec
import pytest
from agentos_engine.bus.errors import BusError
from agentos_engine.config import SettingsError
from agentos_engine.configuration import Configuration
from agentos_engine.configuration.entries import AdapterError, Entry, Files
from agentos_engine.configuration.schema import SchemaError, problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SCHEMA = {"type": "object", "properties": {"port": {"type": "integer", "minimum": 1}}, "required": ["port"]}
ABOUT = {"id": "mail", "name": "Mail", "description": "How mail is sent", "schema": SCHEMA}


class Service:
    """The module on a bare bus, and a worker that hears of changes."""

    def __init__(self, bus, clock, join, **options) -> None:
        self.bus, self.clock, self.join, self.options = bus, clock, join, options
        self.module = Configuration(bus=bus, **options)
        self.listener = None

    async def call(self, name, payload=None):
        """Call one of the functions and return its result."""
        result = await self.bus.call(f"configuration::{name}", json.dumps(payload or {}).encode())
        return json.loads(result or b"null")

    async def refused(self, name, payload=None):
        """Call one of the functions that refuses; return code and message."""
        with pytest.raises(BusError) as caught:
            await self.call(name, payload)
        return caught.value.code, caught.value.message

    def listen(self, **config):
        """Bind a worker's function to the trigger type; return what the worker was told about that."""
        self.listener = self.join()
        self.listener.send(type="registerfunction", id="on::change")
        self.listener.send(
            type="registertrigger",
            id="t",
            trigger_type="configuration",
            function_id="on::change",
            config=config or None,
        )
        return self.listener.take("triggerregistrationresult")

    def events(self):
        """What the worker has been told since."""
        return [each["data"] for each in self.listener.take("invokefunction")]

    async def events_of(self, count):
        """Wait for so many events of changed files."""
        found = []
        async with asyncio.timeout(20):
            while len(found) < count:
                await self.clock.advance(0.5)
                await asyncio.sleep(0.005)  # the files are looked at in a thread
                found += self.events()
        return found

    async def looked(self):
        """Wait until the files have been looked at twice more."""
        for _ in range(10):
            await self.clock.advance(0.5)
            await asyncio.sleep(0.01)


@pytest.fixture
async def start(bus, clock, join):
    """Starts the module; ``directory=`` keeps the entries in files."""
    started = []

    async def start(**options):
        service = Service(bus, clock, join, **options)
        await service.module.start()
        started.append(service)
        return service

    yield start
    for service in started:
        await service.module.stop()
    await bus.close()


@pytest.fixture
async def memory(start):
    return await start()


@pytest.fixture
async def kept(start, tmp_path):
    """With a folder, which is made."""
    return await start(directory=tmp_path / "a" / "config")


def put(service, text, name="mail"):
    path = service.options["directory"] / f"{name}.yaml"
    path.write_text(text)
    return path


# The functions


async def test_an_entry_is_registered_set_and_read(memory):
    entry = await memory.call("register", ABOUT | {"initial_value": {"port": 25}, "metadata": {"team": "a"}})
    assert entry == ABOUT | {"metadata": {"team": "a"}, "value": {"port": 25}}
    assert await memory.call("get", {"id": "mail"}) == {"id": "mail", "value": {"port": 25}}
    changed = await memory.call("set", {"id": "mail", "value": {"port": 26}})
    assert changed == {"old_value": {"port": 25}, "new_value": {"port": 26}}
    assert await memory.call("get", {"id": "mail"}) == {"id": "mail", "value": {"port": 26}}
    assert await memory.call("schema", {"id": "mail"}) == ABOUT | {"metadata": {"team": "a"}}


async def test_the_list_is_sorted_and_has_no_values(memory):
    for each in ("b", "a"):
        await memory.call("register", ABOUT | {"id": each, "initial_value": {"port": 1}})
    assert await memory.call("list") == {"configurations": [ABOUT | {"id": "a"}, ABOUT | {"id": "b"}]}


async def test_registering_again_renews_the_entry_and_keeps_its_value_unless_one_is_given(memory):
    await memory.call("register", ABOUT | {"initial_value": {"port": 1}})
    await memory.call("register", ABOUT | {"name": "Other"})
    assert (await memory.call("get", {"id": "mail"}))["value"] == {"port": 1}
    assert (await memory.call("schema", {"id": "mail"}))["name"] == "Other"
    await memory.call("register", ABOUT | {"initial_value": {"port": 2}})
    assert (await memory.call("get", {"id": "mail"}))["value"] == {"port": 2}


async def test_ensure_gives_a_value_only_where_there_is_none(memory):
    await memory.call("register", ABOUT)
    assert (await memory.call("get", {"id": "mail"}))["value"] is None
    assert (await memory.call("ensure", ABOUT | {"initial_value": {"port": 1}}))["value"] == {"port": 1}
    assert (await memory.call("ensure", ABOUT | {"initial_value": "not looked at"}))["value"] == {"port": 1}


@pytest.mark.parametrize("entry_id", ["", "../mail", "a/b", "Mail", "a.b", "a" * 65, "ä", "mail\n", "..", "\x00"])
@pytest.mark.parametrize("name", ["register", "set", "get", "schema"])
async def test_an_id_that_is_no_file_name_is_refused(memory, name, entry_id):
    code, _ = await memory.refused(name, ABOUT | {"id": entry_id, "value": 1})
    assert code == "INVALID_ID"


async def test_unknown_entries_have_codes(memory):
    assert (await memory.refused("get", {"id": "mail"}))[0] == "NOT_FOUND"
    assert (await memory.refused("schema", {"id": "mail"}))[0] == "NOT_FOUND"
    code, message = await memory.refused("set", {"id": "mail", "value": 1})
    assert code == "NOT_REGISTERED"
    assert "configuration::register" in message


async def test_a_value_that_does_not_fit_the_schema_is_refused_and_changes_nothing(memory):
    code, message = await memory.refused("register", ABOUT | {"initial_value": {"port": "x"}})
    assert (code, "$.port is not of type integer" in message) == ("SCHEMA_INVALID", True)
    assert (await memory.refused("get", {"id": "mail"}))[0] == "NOT_FOUND"
    await memory.call("register", ABOUT | {"initial_value": {"port": 1}})
    code, message = await memory.refused("set", {"id": "mail", "value": {}})
    assert (code, "$.port is missing" in message) == ("SCHEMA_INVALID", True)
    assert (await memory.call("get", {"id": "mail"}))["value"] == {"port": 1}


async def test_a_schema_that_cannot_be_used_is_refused(memory):
    code, _ = await memory.refused("register", ABOUT | {"schema": {"type": "text"}})
    assert code == "SCHEMA_INVALID"


@pytest.mark.parametrize(
    ("name", "payload"),
    [("register", {"id": "a"}), ("register", ABOUT | {"schema": 5}), ("set", {"id": "a"}), ("get", {}), ("get", [])],
)
async def test_a_payload_of_another_form_is_refused(memory, name, payload):
    code, message = await memory.refused(name, payload or None)
    assert (code, message[:31]) == ("deserialization_error", "Failed to deserialize input for")


async def test_what_is_kept_is_bounded(memory):
    code, _ = await memory.refused("register", ABOUT | {"schema": True, "initial_value": "x" * 300_000})
    assert code == "limit_exceeded"
    deep = 1
    for _ in range(61):
        deep = [deep]
    assert (await memory.refused("register", ABOUT | {"schema": True, "initial_value": deep}))[0] == "limit_exceeded"
    for number in range(256):
        await memory.call("register", ABOUT | {"id": f"n{number}"})
    assert (await memory.refused("register", ABOUT))[0] == "limit_exceeded"


async def test_values_may_name_the_variables_that_the_engine_gives_and_no_others(start, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_ENGINE", "x")
    service = await start(environment={"HOST": "example.org"})
    value = {"a": "${HOST}:${PORT:25}", "b": ["${SECRET_OF_THE_ENGINE}", "${EMPTY:}"], "c": 1}
    await service.call("register", ABOUT | {"schema": True, "initial_value": value})
    read = (await service.call("get", {"id": "mail"}))["value"]
    assert read == {"a": "example.org:25", "b": ["${SECRET_OF_THE_ENGINE}", ""], "c": 1}
    assert (await service.call("get", {"id": "mail", "raw": True}))["value"] == value


# The trigger type


async def test_changes_are_told_with_old_and_new_value(memory):
    assert memory.listen() == []
    await memory.call("register", ABOUT | {"initial_value": {"port": 1}})
    await memory.call("set", {"id": "mail", "value": {"port": 2}})
    await memory.call("register", ABOUT | {"name": "Other"})
    about = {"type": "configuration", "id": "mail"}
    assert memory.events() == [
        about | {"event_type": "configuration:registered", "old_value": None, "new_value": {"port": 1}},
        about | {"event_type": "configuration:updated", "old_value": {"port": 1}, "new_value": {"port": 2}},
        about | {"event_type": "configuration:updated", "old_value": {"port": 2}, "new_value": {"port": 2}},
    ]


async def test_registering_the_same_again_is_no_change(memory):
    await memory.call("register", ABOUT)
    memory.listen()
    await memory.call("register", ABOUT)
    assert memory.events() == []


async def test_a_binding_chooses_entries_and_kinds_of_event(memory):
    memory.listen(configuration_id="mail", event_types=["configuration:updated"])
    await memory.call("register", ABOUT | {"id": "other", "initial_value": {"port": 1}})
    await memory.call("set", {"id": "other", "value": {"port": 2}})
    await memory.call("register", ABOUT | {"initial_value": {"port": 1}})
    assert memory.events() == []
    await memory.call("set", {"id": "mail", "value": {"port": 2}})
    assert [each["event_type"] for each in memory.events()] == ["configuration:updated"]


@pytest.mark.parametrize("config", [{"event_types": ["updated"]}, {"event_types": 5}, {"configuration_id": 5}])
async def test_a_config_that_is_refused_is_told(memory, config):
    (answer,) = memory.listen(**config)
    assert answer["error"]["code"] == "trigger_registration_failed"


async def test_an_unbound_worker_hears_no_more(memory):
    memory.listen()
    memory.listener.send(type="unregistertrigger", id="t", trigger_type="configuration")
    await memory.call("register", ABOUT)
    assert memory.events() == []


# Files


async def test_entries_are_files_that_only_the_engine_may_read_and_outlast_it(kept, start):
    await kept.call("register", ABOUT | {"initial_value": {"port": 25}})
    await kept.call("set", {"id": "mail", "value": {"port": 26}})
    path = kept.options["directory"] / "mail.yaml"
    assert path.read_text().endswith("value:\n  port: 26\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["mail.yaml"]
    await kept.module.stop()
    again = await start(**kept.options)
    assert (await again.call("get", {"id": "mail"}))["value"] == {"port": 26}
    assert await again.call("schema", {"id": "mail"}) == ABOUT


async def test_an_edited_new_or_removed_file_is_followed_and_told(kept):
    kept.listen()
    await kept.call("register", ABOUT | {"initial_value": {"port": 1}})
    kept.events()
    path = kept.options["directory"] / "mail.yaml"
    path.write_text(path.read_text().replace("port: 1", "port: 2"))
    (event,) = await kept.events_of(1)
    assert (event["event_type"], event["old_value"], event["new_value"]) == (
        "configuration:updated",
        {"port": 1},
        {"port": 2},
    )
    assert (await kept.call("get", {"id": "mail"}))["value"] == {"port": 2}
    put(kept, "value: {a: yes}\n", "fresh")
    (event,) = await kept.events_of(1)
    assert (event["event_type"], event["id"], event["new_value"]) == ("configuration:registered", "fresh", {"a": "yes"})
    path.unlink()
    (event,) = await kept.events_of(1)
    assert (event["event_type"], event["id"], event["new_value"]) == ("configuration:deleted", "mail", None)
    assert (await kept.refused("get", {"id": "mail"}))[0] == "NOT_FOUND"


async def test_what_the_engine_writes_itself_is_told_once(kept):
    kept.listen()
    await kept.call("register", ABOUT)
    await kept.looked()
    assert len(kept.events()) == 1


async def test_an_entry_without_a_schema_can_be_read_but_not_set(kept):
    kept.listen()
    put(kept, "value: 5\n")
    await kept.events_of(1)
    assert await kept.call("get", {"id": "mail"}) == {"id": "mail", "value": 5}
    assert (await kept.refused("schema", {"id": "mail"}))[0] == "SCHEMA_UNAVAILABLE"
    assert (await kept.refused("set", {"id": "mail", "value": 6}))[0] == "SCHEMA_UNAVAILABLE"


@pytest.mark.parametrize(
    "text",
    [
        "value: [",
        "- 1",
        "vaule: 1",
        "id: other\nvalue: 1",
        "schema: 5",
        "value: {port: x}\nschema: {properties: {port: {type: integer}}}",
        "schema: {type: text}\nvalue: 1",
        "value: " + "[" * 100 + "]" * 100,
        "value: '" + "x" * 2_000_000 + "'",
        "\xff",
    ],
)
async def test_a_broken_file_is_logged_kept_as_it_is_and_changes_nothing(kept, text, caplog):
    await kept.call("register", ABOUT | {"initial_value": {"port": 1}})
    path = put(kept, text)
    async with asyncio.timeout(20):
        while "its file is not used" not in caplog.text:
            await kept.looked()
    assert (await kept.call("get", {"id": "mail"}))["value"] == {"port": 1}
    code, message = await kept.refused("set", {"id": "mail", "value": {"port": 2}})
    assert (code, "the file of configuration mail is wrong" in message) == ("ADAPTER_ERROR", True)
    assert path.read_text() == text
    await kept.looked()
    assert caplog.text.count("its file is not used") == 1


async def test_a_broken_file_does_not_keep_the_engine_from_starting(start, tmp_path):
    (tmp_path / "mail.yaml").write_text("value: [")
    (tmp_path / "good.yaml").write_text("value: 1")
    service = await start(directory=tmp_path)
    assert (await service.call("get", {"id": "good"}))["value"] == 1
    assert (await service.refused("get", {"id": "mail"}))[0] == "ADAPTER_ERROR"
    assert (await service.refused("register", ABOUT))[0] == "ADAPTER_ERROR"
    assert (tmp_path / "mail.yaml").read_text() == "value: ["


async def test_other_things_in_the_folder_are_left_alone(start, tmp_path):
    (tmp_path / "README.yaml").write_text("x")
    (tmp_path / ".mail.yaml.new").write_text("half")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.yaml")
    service = await start(directory=tmp_path)
    assert await service.call("list") == {"configurations": []}
    await service.call("register", ABOUT)
    assert not (tmp_path / ".mail.yaml.new").exists()


async def test_a_value_that_cannot_be_written_is_not_taken(kept):
    await kept.call("register", ABOUT | {"initial_value": {"port": 1}})
    kept.listen()
    directory = kept.options["directory"]
    (directory / ".mail.yaml.new").mkdir()
    code, message = await kept.refused("set", {"id": "mail", "value": {"port": 2}})
    assert (code, str(directory) in message) == ("ADAPTER_ERROR", True)
    assert (await kept.call("get", {"id": "mail"}))["value"] == {"port": 1}
    assert kept.events() == []


async def test_a_value_is_on_the_disk_before_it_is_acknowledged(kept, monkeypatch):
    done = []

    def noted(name, function):
        def call(first, *rest):
            done.append(name if name == "replace" or os.fstat(first).st_mode & 0o040000 == 0 else "fsync folder")
            return function(first, *rest)

        monkeypatch.setattr(os, name, call)

    noted("fsync", os.fsync)
    noted("replace", os.replace)
    await kept.call("register", ABOUT)
    assert done == ["fsync", "replace", "fsync folder"]


async def test_a_folder_that_cannot_be_had_is_an_error_of_the_settings(bus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="file"):
        await Configuration(bus=bus, directory=tmp_path / "file").start()


async def test_the_module_can_be_stopped_twice_and_started_again(memory):
    await memory.module.stop()
    await memory.module.stop()
    with pytest.raises(BusError, match="not found"):
        await memory.call("list")
    await memory.module.start()
    assert await memory.call("list") == {"configurations": []}


async def test_changes_at_the_same_time_are_made_one_after_the_other(kept):
    await kept.call("register", ABOUT | {"initial_value": {"port": 1}})
    kept.listen()
    calls = [kept.call("set", {"id": "mail", "value": {"port": port}}) for port in range(2, 12)]
    results = await asyncio.gather(*calls)
    values = [each["old_value"]["port"] for each in results]
    assert sorted(values) == list(range(1, 11))
    events = kept.events()
    assert [each["old_value"] for each in events[1:]] == [each["new_value"] for each in events[:-1]]
    text = (kept.options["directory"] / "mail.yaml").read_text()
    assert f"port: {events[-1]['new_value']['port']}\n" in text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**100, 10**101)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.sampled_from(
        ["null", "yes", "1e5", "0o17", "~", "1_000", "2026-11-21", "12:30", "- a", "a: b", "#", " x ", "\n"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, st.text(st.characters(codec="utf-8"), max_size=30))
def test_what_is_written_to_a_file_is_read_again_as_it_was(tmp_path, value, text):
    files = Files(tmp_path)
    entry = Entry("mail", text or "n", text, {"const": value}, value, value)
    files.write(entry)
    assert msgspec.json.encode(files.read("mail")) == msgspec.json.encode(entry)


def test_an_entry_too_large_for_a_file_is_not_written(tmp_path):
    with pytest.raises(AdapterError, match="more than"):
        Files(tmp_path).write(Entry("mail", "", "", True, "x" * 2_000_000))
    assert list(tmp_path.iterdir()) == []


# JSON Schema


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (True, [1, None], []),
        (False, [], [1, None]),
        ({"type": "integer"}, [1, 1.0, -5], [1.5, True, "1", None]),
        ({"type": "number"}, [1, 1.5], [True, "1"]),
        ({"type": ["string", "null"]}, ["", None], [0, []]),
        ({"type": "boolean"}, [True], [0, 1]),
        ({"enum": [1, "a", None, [1]]}, [1, 1.0, "a", None, [1]], [True, "b", [2], 0]),
        ({"const": {"a": [1]}}, [{"a": [1]}, {"a": [1.0]}], [{"a": [True]}, {}]),
        ({"minimum": 1, "maximum": 3}, [1, 3, "x"], [0, 4]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, [2, 1.01], [1, 3]),
        ({"multipleOf": 0.1}, [0.3, 5, 10**30], [0.35]),
        ({"minLength": 1, "maxLength": 2}, ["a", "äö", 5], ["", "abc"]),
        ({"minItems": 1, "maxItems": 2, "uniqueItems": True}, [[1], [1, True]], [[], [1, 2, 3], [1, 1.0]]),
        ({"items": {"type": "string"}}, [[], ["a"], "x"], [[1]]),
        ({"prefixItems": [{"type": "string"}], "items": False}, [["a"], []], [["a", 1], [1]]),
        ({"required": ["a"], "minProperties": 1}, [{"a": None}, []], [{}, {"b": 1}]),
        ({"properties": {"a": {"type": "string"}}}, [{"a": "x"}, {"b": 1}], [{"a": 1}]),
        ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
        ({"additionalProperties": {"type": "string"}}, [{"a": ""}], [{"a": 1}]),
        ({"patternProperties": {"^x": {}}, "additionalProperties": False}, [{"x1": 1}], []),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1, 2], [0, 3]),
        ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["a", 6], [4]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, [0, 6], [3]),
        ({"not": {"type": "null"}}, [1], [None]),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}}, ["x"], [1]),
        (
            {"properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}},
            [{"next": {"next": {"n": 1}}}],
            [{"next": {"next": {"n": "x"}}}],
        ),
        ({"pattern": "(a+)+$", "format": "email", "unknown": 1}, ["a" * 50 + "!"], []),
    ],
)
def test_values_are_checked_against_a_schema(schema, good, bad):
    assert [each for each in good if problems(schema, each)] == []
    assert [each for each in bad if not problems(schema, each)] == []


def test_problems_have_paths_and_are_bounded():
    schema = {"items": {"properties": {"a": {"type": "string"}}}}
    assert problems(schema, [{}, {"a": 1}]) == ["$[1].a is not of type string"]
    assert len(problems(schema, [{"a": 1}] * 100)) == 10


def nested(depth):
    schema = {"type": "null"}
    for _ in range(depth):
        schema = {"anyOf": [schema, schema, schema]}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$ref": "http://example.org/schema"},
        {"$ref": "#/nowhere"},
        {"$ref": 5},
        {"type": "text"},
        {"type": {}},
        {"allOf": 5},
        {"anyOf": [5]},
        {"properties": []},
        5,
        nested(40),
    ],
)
def test_a_schema_that_is_wrong_or_endless_is_refused(schema):
    with pytest.raises(SchemaError):
        problems(schema, {})


SCHEMAS = st.recursive(
    st.booleans() | st.sampled_from([{"type": "string"}, {"minimum": 1}, {"$ref": "#"}, {"enum": [1]}, {"type": 5}]),
    lambda inner: st.dictionaries(
        st.sampled_from(
            ["properties", "items", "allOf", "oneOf", "not", "required", "const", "maxItems", "multipleOf"]
        ),
        inner | st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2) | JSON,
        max_size=3,
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, JSON)
def test_any_schema_and_value_are_checked_or_refused(schema, value):
    with contextlib.suppress(SchemaError):
        assert all(isinstance(each, str) for each in problems(schema, value))
