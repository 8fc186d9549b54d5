import asyncio
import contextlib
import os
import re
from pathlib import Path

import pytest
from agentos_engine.clock import ManualClock
from agentos_engine.config_file import ConfigError, default_config, diff, options, parse, read_config_file, watch
from agentos_engine.config_file.document import MAX_DEPTH, MAX_SIZE
from hypothesis import given, settings
from hypothesis import strategies as st

HTTP = "workers:\n- name: http\n  config: "
RBAC = "workers:\n- name: worker-manager\n  config:\n    rbac:\n"
AT_RBAC = "workers[0].config.rbac"
ALWAYS = {"worker-manager", "engine-functions", "observability", "telemetry", "configuration"}


def findings(text, environment=None):
    """What is wrong with a text that is refused: (line, path, code) of each error, and all messages together."""
    with pytest.raises(ConfigError) as caught:
        parse(text, environment or {})
    errors = [each for each in caught.value.findings if each.level == "error"]
    return [(each.line, each.path, each.code) for each in errors], str(caught.value)


def warnings(text):
    return [(each.line, each.path, each.code) for each in parse(text, {}).warnings]


def only(text, kind):
    """The options of the one entry of a kind."""
    (entry,) = parse(text, {}).of_kind(kind)
    return entry.options


# What runs


def test_without_a_file_the_default_set_runs():
    assert set(default_config().entries) == ALWAYS | {"http", "stream", "state", "queue", "pubsub", "cron"}


@pytest.mark.parametrize("text", ["", "workers: []\n", "modules:\n", "# nothing\n", "workers: null\n"])
def test_with_a_file_only_what_it_lists_runs_beside_what_runs_always(text):
    assert set(parse(text, {}).entries) == ALWAYS


def test_an_entry_without_config_has_the_defaults_of_iii():
    names = ("http", "stream", "state", "queue", "pubsub", "cron", "exec", "http-functions")
    config = parse("workers:\n" + "".join(f"  - name: iii-{each}\n" for each in names), {})
    assert config.entries["http"].options == options.Http("0.0.0.0", 3111, 30_000, 1024, None, ())
    assert config.entries["stream"].options == options.Stream("0.0.0.0", 3112, None, None)
    assert config.entries["worker-manager"].options == options.WorkerListener("0.0.0.0", 49134, None, None, 10_000)
    assert config.entries["http-functions"].options == options.HttpFunctions(("*",), True, True)
    assert config.entries["state"].options == options.State(None, None)
    assert config.entries["queue"].options == options.Queue(None, ())
    assert config.entries["exec"].options == options.Exec((), ())
    assert (config.registration_namespace_grace_ms, config.agentos.routing) == (5000, "balanced")
    assert config.warnings == ()


def test_every_key_is_read():
    text = """
workers:
  - name: iii-worker-manager
    config:
      host: 127.0.0.1
      port: 50000
      middleware_function_id: mw::all
      handshake_timeout_ms: 2000
      rbac:
        auth_function_id: auth::who
        on_function_registration_function_id: hook::f
        on_trigger_registration_function_id: hook::t
        on_trigger_type_registration_function_id: hook::y
        expose_functions:
          - match("api::*")
          - match: 'match("other::*")'
            namespace: tenant
          - metadata: {public: true, tier: match("gold*"), level: 3}
  - name: iii-http
    config:
      host: "::1"
      port: 8080
      default_timeout: 100
      concurrency_request_limit: 5
      cors: {allowed_origins: ["http://localhost:5173"], allowed_methods: [GET, POST]}
      middleware:
        - {function_id: mw::auth, phase: preHandler, priority: 10}
        - function_id: mw::log
  - name: iii-stream
    config: {host: 127.0.0.1, port: 4000, auth_function: s::auth, adapter: {name: kv, config: {channel_size: 9}}}
  - name: iii-state
    config: {max_value_bytes: 1000, adapter: {name: kv, config: {store_method: file_based}}}
  - name: iii-queue
    config:
      adapter: {name: builtin, config: {store_method: in_memory}}
      queue_configs:
        mail: {max_retries: 5, concurrency: 2, backoff_ms: 0, poll_interval_ms: 50, max_priority: 9, priority_field: p}
        orders: {type: fifo, message_group_field: customer}
  - name: iii-pubsub
    config: {adapter: {name: local}}
  - name: iii-cron
    config: {adapter: {name: kv, config: {lock_ttl_ms: 30000}}}
  - name: iii-http-functions
    config: {security: {url_allowlist: ["https://*.example.com/*"], block_private_ips: false, require_https: false}}
  - name: iii-exec
    config: {exec: [npm install, npm start], watch: ["src/**/*.ts"]}
  - name: iii-bridge
    config:
      url: ws://other:49134
      expose: [{local_function: a::b, remote_function: c::d}, {local_function: e::f}]
      forward: [{local_function: g::h, timeout_ms: 5}]
  - name: iii-observability
    config: {exporter: memory, sampling: {default: 0.5}, alerts: [{name: x, threshold: 1}]}
  - name: iii-telemetry
    config: {enabled: true, heartbeat_interval_secs: 60}
  - name: configuration
    config: {adapter: {name: fs, config: {directory: ./here}}}
registration_namespace_grace_ms: 100
agentos: {routing: first-wins, call_timeout_ms: 9}
"""
    config = parse(text, {})
    kinds = {key: entry.options for key, entry in config.entries.items()}
    assert kinds["worker-manager"] == options.WorkerListener(
        "127.0.0.1",
        50_000,
        "mw::all",
        options.Rbac(
            "auth::who",
            (
                options.Expose(options.Glob("api::*")),
                options.Expose(options.Glob("other::*"), "tenant"),
                options.Expose(metadata=(("public", True), ("tier", options.Glob("gold*")), ("level", 3))),
            ),
            "hook::f",
            "hook::t",
            "hook::y",
        ),
        2000,
    )
    assert kinds["http"] == options.Http(
        "::1",
        8080,
        100,
        5,
        options.Cors(("http://localhost:5173",), ("GET", "POST")),
        (options.Middleware("mw::auth", "preHandler", 10), options.Middleware("mw::log", "preHandler", 0)),
    )
    assert kinds["stream"] == options.Stream("127.0.0.1", 4000, "s::auth", None)
    assert kinds["state"] == options.State(True, 1000)
    assert kinds["queue"] == options.Queue(
        False,
        (
            ("mail", options.QueueSettings(5, 2, "standard", None, 0, 50, 9, "p")),
            ("orders", options.QueueSettings(type="fifo", message_group_field="customer")),
        ),
    )
    assert kinds["http-functions"] == options.HttpFunctions(("https://*.example.com/*",), False, False)
    assert kinds["exec"] == options.Exec(("npm install", "npm start"), ("src/**/*.ts",))
    assert kinds["bridge"] == options.Bridge(
        "ws://other:49134",
        (options.Exposed("a::b", "c::d"), options.Exposed("e::f", "e::f")),
        (options.Forwarded("g::h", "g::h", 5),),
    )
    assert kinds["observability"].settings == {
        "exporter": "memory",
        "sampling": {"default": 0.5},
        "alerts": [{"name": "x", "threshold": 1}],
    }
    assert kinds["configuration"] == options.Configuration("./here")
    assert config.registration_namespace_grace_ms == 100
    assert (config.agentos.routing, config.agentos.call_timeout_ms) == ("first-wins", 9)
    assert config.warnings == ()


def test_a_file_of_iii_0_10_is_read():
    text = """
modules:
  - class: modules::api::RestApiModule
    config: {port: 3111, host: 0.0.0.0, default_timeout: 30000}
  - class: modules::stream::StreamModule
    config: {port: 3112, adapter: {class: modules::stream::adapters::KvStore}}
  - class: modules::state::StateModule
    config: {adapter: {class: modules::state::adapters::KvStore, config: {store_method: in_memory}}}
  - class: modules::queue::QueueModule
    config: {adapter: {class: modules::queue::BuiltinQueueAdapter}}
  - class: modules::cron::CronModule
    config: {adapter: {class: modules::cron::KvCronAdapter}}
  - class: modules::pubsub::PubSubModule
    config: {adapter: {class: modules::pubsub::LocalAdapter}}
  - class: modules::observability::OtelModule
    config: {enabled: false}
  - class: modules::shell::ExecModule
    config: {exec: [node index.js]}
  - class: modules::telemetry::TelemetryModule
  - class: modules::http_functions::HttpFunctionsModule
"""
    config = parse(text, {})
    assert set(config.entries) == ALWAYS | {
        "http", "stream", "state", "queue", "cron", "pubsub", "exec", "http-functions",
    }  # fmt: skip
    assert config.warnings == ()


def test_the_names_of_iii_0_23_mean_the_same_entries():
    old = parse("workers: [{name: iii-http, config: {port: 1}}, {name: iii-worker-manager}]", {})
    new = parse("workers: [{name: http, config: {port: 1}}, {name: worker-manager}]", {})
    assert old == new


def test_old_and_new_name_of_one_worker_together_are_refused():
    found, text = findings("workers:\n  - name: iii-exec\n  - name: exec\n")
    assert found == [(3, "workers[1]", "duplicate_worker")]
    assert "old and the new name" in text


def test_entries_of_the_same_name_are_numbered_and_suffixes_kept():
    text = """
workers:
  - {name: iii-worker-manager, config: {port: 1}}
  - {name: iii-worker-manager, config: {port: 2}}
  - {name: iii-worker-manager, config: {port: 3}}
  - {name: iii-worker-manager#rbac, config: {port: 4}}
"""
    entries = parse(text, {}).of_kind("worker-manager")
    assert [(each.key, each.options.port) for each in entries] == [
        ("worker-manager", 1),
        ("worker-manager#1", 2),
        ("worker-manager#2", 3),
        ("worker-manager#rbac", 4),
    ]


def test_a_listener_with_a_suffix_is_the_only_one_when_no_other_is_listed():
    config = parse("workers: [{name: 'iii-worker-manager#rbac', config: {port: 4}}]", {})
    assert [each.key for each in config.of_kind("worker-manager")] == ["worker-manager#rbac"]


@pytest.mark.parametrize("name", ["iii-http", "state", "iii-cron", "configuration"])
def test_a_worker_of_which_only_one_can_run_is_refused_twice(name):
    found, _ = findings(f"workers:\n  - name: {name}\n  - name: {name}\n  - name: {name}#b\n")
    assert [(line, code) for line, _, code in found if code == "duplicate_worker"] == [
        (3, "duplicate_worker"),
        (4, "duplicate_worker"),
    ]


def test_the_examples_of_the_documentation_work(root):
    text = (root.parent / "docs" / "config.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert examples
    assert [parse(each, {}).warnings for each in examples] == [()] * len(examples)


# What is different from iii


@pytest.mark.parametrize("entry", ["name: my-worker", "name: my-worker\n    image: ghcr.io/me/worker:1", "class: a::B"])
def test_an_external_worker_is_left_to_others_with_a_warning(entry):
    config = parse(f"workers:\n  - {entry}\n    config: {{a: 1}}\n", {})
    assert set(config.entries) == ALWAYS
    (warning,) = config.warnings
    assert (warning.line, warning.path, warning.code) == (2, "workers[0]", "worker_not_started")
    assert "`agentos up` or the operator" in str(warning)


def test_a_name_that_looks_like_a_typing_error_is_pointed_out():
    (warning,) = parse("workers: [{name: iii-htpp}]", {}).warnings
    assert "did you mean iii-http?" in str(warning)


@pytest.mark.parametrize(
    ("worker", "adapter", "remedy"),
    [
        ("iii-state", "name: redis", "name: kv"),
        ("iii-queue", "name: bridge", "name: builtin"),
        ("iii-stream", "class: modules::stream::adapters::RedisAdapter", "name: kv"),
        ("iii-queue", "name: rabbitmq", "name: builtin"),
        ("iii-queue", "class: modules::queue::RabbitMQAdapter", "name: builtin"),
        ("iii-pubsub", "name: redis", "name: local"),
        ("iii-cron", "class: modules::cron::RedisCronAdapter", "name: kv"),
        ("iii-cron", "name: unheard-of", "name: kv"),
        ("configuration", "name: bridge", "name: fs"),
    ],
)
def test_an_adapter_that_is_not_served_is_refused_with_what_to_use(worker, adapter, remedy):
    text = f"workers:\n- name: {worker}\n  config:\n    adapter:\n      {adapter}\n      config: {{redis_url: 'redis://u:secret@h'}}\n"
    found, message = findings(text)
    assert found == [(5, f"workers[0].config.adapter.{adapter.partition(':')[0]}", "adapter_not_supported")]
    assert f"use `{remedy}`" in message
    assert "secret" not in message


def test_a_file_based_store_is_ours_and_its_path_is_not_used():
    text = """workers:
- name: iii-state
  config:
    adapter:
      name: kv
      config:
        store_method: file_based
        file_path: ./data/state
        save_interval_ms: 5000
        compress: true
"""
    assert only(text, "state").durable is True
    assert warnings(text) == [
        (8, "workers[0].config.adapter.config.file_path", "ignored"),
        (10, "workers[0].config.adapter.config.compress", "unknown_key"),
    ]


# What is wrong


def test_all_problems_are_told_at_once_with_line_path_and_remedy():
    text = """workers:
  - name: iii-http
    config:
      port: 70000
      hots: x
  - name: iii-queue
    config:
      queue_configs:
        a: {type: fifo}
        b: {type: lifo, concurrency: many}
  - config: {}
agentos:
  routing: random
port: 3111
extra: 1
"""
    found, message = findings(text)
    assert found == [
        (4, "workers[0].config.port", "wrong_type"),
        (5, "workers[0].config.hots", "unknown_key"),
        (9, "workers[1].config.queue_configs.a", "missing_key"),
        (10, "workers[1].config.queue_configs.b.concurrency", "wrong_type"),
        (10, "workers[1].config.queue_configs.b.type", "wrong_type"),
        (11, "workers[2]", "missing_key"),
        (13, "agentos.routing", "wrong_type"),
        (14, "port", "unknown_key"),
        (15, "extra", "unknown_key"),
    ]
    assert "did you mean host?" in message
    assert "a whole number from 0 to 65535" in message
    assert "message_group_field" in message
    assert "one of balanced, first-wins" in message
    assert "worker iii-worker-manager" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("workers: 5", (1, "workers", "wrong_type")),
        ("- a", (1, "", "wrong_type")),
        ("just text", (1, "", "wrong_type")),
        ("workers:\n  - text", (2, "workers[0]", "wrong_type")),
        ("workers:\n  - name: 5", (2, "workers[0].name", "wrong_type")),
        ("workers:\n  - name: 'iii-http#'", (2, "workers[0].name", "wrong_type")),
        ("workers:\n  - name: 'iii-http#../x'", (2, "workers[0].name", "wrong_type")),
        ("workers:\n  - {name: a, clas: b}", (2, "workers[0].clas", "unknown_key")),
        ("workers:\n  - {name: iii-http, class: a}", (2, "workers[0].class", "duplicate_key")),
        ("workers: []\nmodules: []", (2, "modules", "duplicate_key")),
        ("workers: []\nworkers: []", (2, "", "duplicate_key")),
        ("workers: [", (1, "", "syntax")),
        ("a: b: c", (1, "", "syntax")),
        ("workers: []\n---\nworkers: []", (2, "", "syntax")),
        ("workers: *nothing", (1, "", "syntax")),
        ("workers: !!python/object:os.system x", (1, "", "syntax")),
        ("? [a]\n: b", (1, "", "syntax")),
        ("a: \x00", (0, "", "syntax")),
        ("workers: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), (1, "", "too_deep")),
        ("#" * (MAX_SIZE + 1), (0, "", "too_large")),
        (HTTP + "{middleware: [{phase: after}]}", (3, "workers[0].config.middleware[0]", "missing_key")),
        (HTTP + "{port: '80'}", (3, "workers[0].config.port", "wrong_type")),
        (HTTP + "{port: true}", (3, "workers[0].config.port", "wrong_type")),
        (HTTP + "{cors: {allowed_origins: x}}", (3, "workers[0].config.cors.allowed_origins", "wrong_type")),
        (HTTP + "{cors: {allowed_origins: [1]}}", (3, "workers[0].config.cors.allowed_origins[0]", "wrong_type")),
        ("workers:\n- name: bridge\n  config: {url: http://x}", (3, "workers[0].config.url", "wrong_type")),
        ("workers:\n- name: bridge\n", (2, "workers[0].config", "missing_key")),
        (RBAC + "      expose_functions: [api]", (5, AT_RBAC + ".expose_functions[0]", "wrong_type")),
        (RBAC + "      expose_functions:\n      - {namespace: a}", (6, AT_RBAC + ".expose_functions[0]", "missing_key")),
        (RBAC + "      expose_functions:\n      - metadata: {a: [1]}", (6, AT_RBAC + ".expose_functions[0].metadata.a", "wrong_type")),
        ("workers:\n- {name: http, config: {port: 49134}}", (0, "", "port_in_use")),
        ("workers:\n- {name: http}\n- {name: stream, config: {host: 127.0.0.1, port: 3111}}", (3, "workers[1].config.port", "port_in_use")),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_where_it_is_wrong(text, expected):
    found, message = findings(text)
    assert expected in found
    assert message


def test_the_same_port_at_other_addresses_and_free_ports_are_no_clash():
    text = "workers: [{name: http, config: {host: 127.0.0.1, port: 80}}, {name: stream, config: {host: 127.0.0.2, port: 80}}]"
    assert parse(text, {})
    assert parse("workers: [{name: http, config: {port: 0}}, {name: stream, config: {port: 0}}]", {})


def test_aliases_work_but_not_to_make_a_small_file_huge():
    text = "workers:\n- name: stream\n  config: {adapter: &a {name: kv}}\n- name: state\n  config: {adapter: *a}\n"
    assert {"stream", "state"} <= set(parse(text, {}).entries)
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert findings(bomb)[0][-1][2] == "too_large"
    assert findings("a: &a [*a]\n")[0][-1][2] == "syntax"


def test_words_are_those_of_yaml_1_2():
    text = "workers:\n- name: exec\n  config: {exec: [yes, on, 12:30, 0x, '5']}\n"
    assert only(text, "exec").exec == ("yes", "on", "12:30", "0x", "5")
    assert only("workers: [{name: http, config: {port: 0x50}}]", "http").port == 80
    assert only("workers: [{name: telemetry, config: {enabled: FALSE}}]", "telemetry")


def test_a_file_of_nothing_but_mistakes_gives_a_bounded_list():
    with pytest.raises(ConfigError) as caught:
        parse("".join(f"k{n}: 1\n" for n in range(5000)), {})
    assert len(caught.value.findings) == 101
    assert "4900 problems more" in str(caught.value)
    assert len(parse("workers:\n" + "- name: external\n" * 200, {}).warnings) == 101


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="workers:- \n[]{}&*a!'\"|>#%@$0", max_size=200))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        parse(text, {})


# Variables


def test_variables_are_put_in_with_their_defaults():
    text = HTTP + "{port: ${PORT:3111}, host: '${HOST:localhost}'}\n"
    assert only(text, "http").port == 3111
    (entry,) = parse(text, {"PORT": "80", "HOST": "::1"}).of_kind("http")
    assert (entry.options.port, entry.options.host) == (80, "::1")
    assert parse("workers: ${LIST:[]}\n", {"LIST": "[{name: cron}]"}).of_kind("cron")
    assert parse("workers: ${LIST:}\n", {})


def test_every_variable_that_is_missing_is_named_with_its_line():
    found, message = findings("# ${IN_A_COMMENT}\nworkers: ${A}\n\nport: ${B}${C}\n")
    assert found == [(line, "", "missing_variable") for line in (2, 4, 4)]
    assert "the variable A is not set; set it, or give a default: ${A:default}" in message


def test_lines_are_those_of_the_file_when_a_variable_has_several():
    found, _ = findings("workers: ${LIST}\nextra: 1\n", {"LIST": "\n- name: http\n- name: cron"})
    assert found == [(2, "extra", "unknown_key")]


def test_what_a_variable_holds_is_not_in_messages():
    text = HTTP + "{port: '${SECRET}', cors: '${SECRET}', x: 1}\nagentos: {routing: '${SECRET}'}\n"
    found, message = findings(text, {"SECRET": "hunter2"})
    assert len(found) == 4
    assert "hunter2" not in message


def test_variables_cannot_make_a_file_huge():
    assert findings("a: ${A}${A}\n" * 10, {"A": "x" * 100_000})[0] == [(6, "", "too_large")]


# Files


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_config_file(path, {})
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: \xe4\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        read_config_file(path, {})


def test_diff_tells_what_to_start_to_stop_and_to_restart():
    old = parse("workers: [{name: http}, {name: cron}, {name: exec, config: {exec: [a]}}, {name: state}]", {})
    new = parse(
        "workers: [{name: state}, {name: exec, config: {exec: [b]}}, {name: stream}, {name: iii-http}]\n"
        "agentos: {routing: first-wins}",
        {},
    )
    changes = diff(old, new)
    assert (changes.added, changes.removed, changes.changed, changes.settings) == (
        ("stream",),
        ("cron",),
        ("exec",),
        True,
    )
    same = diff(old, old)
    assert (same.added, same.removed, same.changed, same.settings) == ((), (), (), False)


def test_other_lines_and_other_warnings_are_no_change():
    text = "workers:\n- name: observability\n  config: {level: info}\n"
    assert parse(text, {}) == parse(f"# a comment\n{text}- name: external\n", {})


class Watched:
    """A file that is watched on a clock that stands still."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.seen = path, ManualClock(), []
        self.fails = False
        config = read_config_file(path, {})
        self.task = asyncio.get_running_loop().create_task(watch(path, {}, self.clock, self.on_change, config))

    async def on_change(self, config) -> None:
        self.seen.append(sorted(config.entries.keys() - ALWAYS))
        if self.fails:
            raise RuntimeError("no")

    async def changes(self) -> list:
        """What has come of all that happened to the file."""
        await self.clock.advance(2)
        seen, self.seen = self.seen, []
        return seen


@pytest.fixture
async def watched(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("workers: []\n")
    watched = Watched(path)
    await watched.changes()
    yield watched
    watched.task.cancel()


async def test_a_change_is_told_once(watched):
    assert await watched.changes() == []
    watched.path.write_text("workers: [{name: http}]\n")
    assert await watched.changes() == [["http"]]
    assert await watched.changes() == []


async def test_a_change_between_reading_and_watching_is_seen(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("workers: []\n")
    watched = Watched(path)
    path.write_text("workers: [{name: cron}]\n")
    assert await watched.changes() == [["cron"]]
    watched.task.cancel()


async def test_a_replaced_file_is_followed(watched):
    other = watched.path.with_name("other")
    other.write_text("workers: [{name: cron}]\n")
    os.replace(other, watched.path)
    assert await watched.changes() == [["cron"]]


async def test_a_config_map_that_is_swapped_by_symbolic_links_is_followed(tmp_path):
    for version, name in (("v1", "http"), ("v2", "cron")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "config.yaml").write_text(f"workers: [{{name: {name}}}]\n")
    (tmp_path / "..data").symlink_to("v1")
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    watched = Watched(path)
    assert await watched.changes() == []
    (tmp_path / "..data_tmp").symlink_to("v2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert await watched.changes() == [["cron"]]
    watched.task.cancel()


async def test_a_broken_or_missing_file_is_logged_once_and_changes_nothing(watched, caplog):
    watched.path.write_text("workers: [{name: http, config: {port: x}}]\nextra: 1\n")
    assert await watched.changes() == []
    assert await watched.changes() == []
    assert [each.message.count("is not used") for each in caplog.records] == [1, 1]
    watched.path.unlink()
    assert await watched.changes() == []
    assert len(caplog.records) == 3
    watched.path.write_text("workers: [{name: http}]\n")
    assert await watched.changes() == [["http"]]


async def test_a_change_that_means_the_same_is_not_told(watched):
    watched.path.write_text("# a comment\nworkers: []\n")
    assert await watched.changes() == []


async def test_a_half_written_file_is_not_taken(watched):
    watched.path.write_text("workers: [{name: http}]\n")
    await watched.clock.advance(0.5)
    watched.path.write_text("workers: [{name: http}, {name: cron}]\n")
    assert await watched.changes() == [["cron", "http"]]


async def test_watching_goes_on_when_a_change_cannot_be_put_into_effect(watched):
    watched.fails = True
    watched.path.write_text("workers: [{name: http}]\n")
    assert await watched.changes() == [["http"]]
    watched.path.write_text("workers: [{name: cron}]\n")
    assert await watched.changes() == [["cron"]]


def test_state_and_streams_may_be_those_of_another_engine():
    text = """
workers:
- name: iii-state
  config: {adapter: {name: bridge, config: {bridge_url: "ws://a:1"}}}
- class: modules::stream::StreamModule
  config: {adapter: {class: "modules::stream::adapters::Bridge", config: {bridge_url: "ws://b:2"}}}
"""
    config = parse(text, {})
    assert config.entries["state"].options.bridge_url == "ws://a:1"
    assert config.entries["stream"].options.bridge_url == "ws://b:2"
    for wrong in ("{}", "{bridge_url: 'http://a'}"):
        with pytest.raises(ConfigError, match="bridge_url"):
            parse(f"workers: [{{name: iii-state, config: {{adapter: {{name: bridge, config: {wrong}}}}}}}]", {})
    with pytest.raises(ConfigError, match="not served"):
        parse("workers: [{name: iii-queue, config: {adapter: {name: bridge}}}]", {})


def test_the_worker_manager_of_iii_0_10_is_known_by_its_class():
    entry = "{class: 'modules::worker::WorkerModule', config: {port: %d}}"
    text = f"modules: [{entry % 1}, {entry % 2}]"
    assert [each.options.port for each in parse(text, {}).of_kind("worker-manager")] == [1, 2]
