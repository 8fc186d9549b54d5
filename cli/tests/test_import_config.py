"""``agentos import config.yaml``: commands become Workers, and what a Realm cannot say is listed with its line."""

from pathlib import Path
from typing import Any

import pytest
from agentos.importing.importer import import_files
from agentos.importing.project import ImportRefused, Remark
from agentos_contracts.documents import read_documents
from agentos_contracts.findings import errors
from agentos_contracts.validation import validate

SECRET = "s3cr3t-value-nobody-may-see"


class Project:
    """A folder with a config.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "shop"
        self.folder.mkdir()
        self.out = self.folder / "fleet"

    def file(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def imported(self, text: str, name: str = "config.yaml", **extra: Any) -> "Imported":
        path = self.file(name, text)
        options = {"realm": "shop", "namespace": "shop", "force": True} | extra
        written, remarks = import_files([str(path)], out=self.out, **options)
        return Imported(self, written, remarks)

    def commands(self, *entries: str) -> "Imported":
        """Import a file with one iii-exec entry for each list of commands."""
        return self.imported(
            "workers:\n" + "".join(f"  - name: iii-exec\n    config: {{exec: {each}}}\n" for each in entries)
        )

    def refused(self, text: str, name: str = "config.yaml") -> list[tuple[int, str]]:
        with pytest.raises(ImportRefused) as refused:
            self.imported(text, name)
        assert not self.out.exists()
        return [(each.line, each.path) for each in refused.value.faults]


class Imported:
    """What came out: resources by name, each valid, and remarks by path."""

    def __init__(self, project: Project, written: list[str], remarks: list[Remark]) -> None:
        self.texts = {Path(path).stem: Path(path).read_text() for path in written}
        self.resources: dict[str, Any] = {}
        for name, text in self.texts.items():
            for version in ((1, 1), (1, 2)):  # kubectl's YAML, and ours
                documents, findings = read_documents(text, max_bytes=1 << 20, yaml_version=version)
                assert not findings
                assert self.resources.setdefault(name, documents[0].value) == documents[0].value
            assert errors(validate(self.resources[name])) == []
        self.realm = self.resources.pop("realm")
        self.remarks = remarks
        self.all = "\n".join([*self.texts.values(), *map(str, remarks)])

    def spec(self, name: str) -> dict[str, Any]:
        return self.resources[name]["spec"]

    def start(self, name: str) -> str:
        return self.spec(name)["manifest"]["scripts"]["start"]

    def source(self, name: str) -> str:
        return self.resources[name]["metadata"]["annotations"]["agentos.dev/source"]

    def at(self, path: str) -> list[tuple[int, str]]:
        """Lines and words of the remarks on a path."""
        return [(each.line, f"{each.what}; {each.instead}") for each in self.remarks if each.path == path]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_command_becomes_a_worker_that_is_run_in_the_folder_it_goes_to(project: Project):
    project.file("workers/a/main.py")

    made = project.commands('["cd workers/a && python main.py --fast"]')

    assert made.start("a") == "python main.py --fast"
    assert made.source("a") == "../workers/a"
    assert made.spec("a")["image"] == "localhost/a:dev"
    assert made.resources["a"]["metadata"]["namespace"] == "shop"


def test_a_command_that_names_a_file_is_run_in_the_folder_of_its_code(project: Project):
    project.file("workers/a/package.json")
    project.file("workers/a/src/index.ts")
    project.file(".venv/bin/python")
    project.file("workers/b/main.py")

    made = project.commands(
        '["npx tsx workers/a/src/index.ts"]',
        '[".venv/bin/python workers/b/main.py"]',
        '["npm --prefix ./workers/a run dev"]',
    )

    assert (made.start("a"), made.source("a")) == ("npx tsx src/index.ts", "../workers/a")
    assert (made.start("b"), made.source("b")) == ("../../.venv/bin/python main.py", "../workers/b")
    assert (made.start("a-2"), made.source("a-2")) == ("npm --prefix . run dev", "../workers/a")


@pytest.mark.parametrize(
    "command",
    [
        "python -m shop.main",
        "bun run index.ts",
        "npm run dev",
        "node a.js | tee log",
        "cd .. && node x",
        "sh -c 'node a'",
        "node /etc/hostname",
        "node ../x.js",
    ],
)
def test_a_command_whose_folder_is_not_plain_is_run_in_the_projects_as_it_stands(project: Project, command: str):
    project.file("index.ts")
    project.file("dev/package.json")

    made = project.commands(f'["{command}"]')

    assert made.start("shop") == command
    assert made.source("shop") == ".."


def test_a_worker_is_called_after_its_file_when_that_is_in_the_projects_folder(project: Project):
    project.file("package.json")
    for name in ("billing.js", "src/mail_out.worker.ts", "src/index.ts"):
        project.file(name)

    made = project.commands('["node billing.js"]', '["npx tsx src/mail_out.worker.ts"]', '["npx tsx src/index.ts"]')

    assert sorted(made.resources) == ["billing", "mail-out", "shop"]


def test_the_manifest_of_the_folder_is_taken_and_the_command_goes_before_its_start(project: Project):
    project.file("a/iii.worker.yaml", "name: Bill_Ing\nversion: 1.2.3\nscripts: {start: old, setup: make}\n")

    made = project.commands('["cd a && node new.js"]')

    manifest = made.spec("bill-ing")["manifest"]
    assert manifest["name"] == "Bill_Ing"
    assert manifest["scripts"] == {"setup": "make", "start": "node new.js"}
    assert made.spec("bill-ing")["image"] == "localhost/bill_ing:1.2.3"
    assert made.at("workers[0].config.exec[0]")[0][0] == 3


def test_commands_before_the_last_become_the_install_script(project: Project):
    project.file("a/package.json")

    made = project.commands('["cd a && npm ci", "make all; make more", "cd a && node x.js"]')

    scripts = made.spec("a")["manifest"]["scripts"]
    assert scripts == {"install": "npm ci && (cd .. && make all; make more)", "start": "node x.js"}
    assert made.at("workers[0].config.exec[1]")[0][0] == 3


def test_an_install_script_of_the_manifest_stays_and_the_commands_are_listed(project: Project):
    project.file("a/iii.worker.yaml", "name: a\nscripts: {install: pnpm install}\n")

    made = project.commands('["cd a && npm ci", "cd a && node x.js"]')

    assert made.spec("a")["manifest"]["scripts"]["install"] == "pnpm install"
    assert "not carried over" in made.at("workers[0].config.exec[0]")[0][1]


def test_variables_before_a_command_go_to_the_environment(project: Project):
    made = project.commands("[\"PORT=${PORT:8080} MODE='a $(b)' node x.js\"]")

    assert made.start("shop") == "node x.js"
    assert made.spec("shop")["env"] == [{"name": "PORT", "value": "8080"}, {"name": "MODE", "value": "a $$(b)"}]


def test_variables_in_a_command_are_left_to_the_shell_whatever_the_environment_says(
    project: Project, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LEVEL", SECRET)

    made = project.commands("[node x.js ${LEVEL:info} ${NAME}]")

    assert made.start("shop") == "node x.js ${LEVEL-info} ${NAME}"
    assert SECRET not in made.all
    assert [each.what for each in made.remarks if "the variable" in each.what] == [
        "the shell puts the variable LEVEL in when the worker starts",
        "the shell puts the variable NAME in when the worker starts",
    ]


@pytest.mark.parametrize(
    ("command", "start", "name"),
    [
        (f"API_KEY={SECRET} node x.js", "node x.js", "API_KEY"),
        ("API_KEY=${API_KEY} node x.js", "node x.js", "API_KEY"),
        (f"DB_PASSWORD=${{DB_PASSWORD:{SECRET}}} node x.js", "node x.js", "DB_PASSWORD"),
        (f"node x.js --api-key {SECRET} -v", 'node x.js --api-key "$API_KEY" -v', "API_KEY"),
        (f"node -v --token={SECRET}", 'node -v --token="$TOKEN"', "TOKEN"),
        (f"node x.js redis://u:{SECRET}@h/1", 'node x.js "$CREDENTIAL_1"', "CREDENTIAL_1"),
        (f"node x.js ${{URL:redis://u:{SECRET}@h/1}}", "node x.js ${URL}", "URL"),
        (f"sh -c 'TOKEN={SECRET} node x.js'", "sh -c 'TOKEN=\"$TOKEN\" node x.js'", "TOKEN"),
        (f"export TOKEN={SECRET}; node x.js", 'export TOKEN="$TOKEN"; node x.js', "TOKEN"),
        (f"x -H 'Authorization: Bearer {SECRET}'", 'x -H "$CREDENTIAL_1"', "CREDENTIAL_1"),
        (f"x --password 'a {SECRET}'", 'x --password "$PASSWORD"', "PASSWORD"),
        (f"curl -u admin:{SECRET} http://h", 'curl -u "$CREDENTIAL_1" http://h', "CREDENTIAL_1"),
    ],
)
def test_secrets_are_never_copied_but_taken_from_a_secret(project: Project, command: str, start: str, name: str):
    made = project.imported(f'workers:\n  - name: iii-exec\n    config:\n      exec:\n        - "{command}"\n')

    assert SECRET not in made.all
    assert made.start("shop") == start
    reference = {"secretKeyRef": {"name": "env-shop", "key": name}}
    assert made.spec("shop")["env"] == [{"name": name, "valueFrom": reference}]
    assert any(f"create secret generic env-shop --from-literal={name}=…" in each.instead for each in made.remarks)


def test_each_secret_without_a_name_gets_one_of_its_own(project: Project):
    made = project.commands(
        f'["fetch redis://u:{SECRET}@one", "fetch redis://u:{SECRET}@two", "node x.js redis://u:{SECRET}@three"]'
    )

    assert made.spec("shop")["manifest"]["scripts"] == {
        "install": 'fetch "$CREDENTIAL_2" && fetch "$CREDENTIAL_3"',
        "start": 'node x.js "$CREDENTIAL_1"',
    }
    assert [each["name"] for each in made.spec("shop")["env"]] == ["CREDENTIAL_1", "CREDENTIAL_2", "CREDENTIAL_3"]


def test_the_ids_of_a_user_and_a_group_are_no_secret(project: Project):
    assert project.commands('["run -u 1000:1000 node x.js"]').start("shop") == "run -u 1000:1000 node x.js"


def test_the_address_of_the_engine_is_left_to_whoever_runs_the_worker(project: Project):
    made = project.commands('["III_URL=ws://localhost:49134 AGENTOS_TOKEN=x node x.js"]')

    assert made.start("shop") == "node x.js"
    assert "env" not in made.spec("shop")
    assert [each.what for each in made.remarks if each.line] == [
        "III_URL is not carried over: every worker is given it",
        "AGENTOS_TOKEN is not carried over: every worker is given it",
    ]


def test_secrets_of_a_manifest_are_not_copied_either(project: Project):
    text = f"name: a\nconfig: {{x: {SECRET}}}\nenv: {{LEVEL: info, API_TOKEN: {SECRET}}}\nscripts: {{install: 'x --token={SECRET}'}}\n"
    project.file("a/iii.worker.yaml", text)

    made = project.commands('["cd a && node x.js"]')

    assert SECRET not in made.all
    assert made.spec("a")["manifest"]["env"] == {"LEVEL": "info"}
    assert [each["name"] for each in made.spec("a")["env"]] == ["API_TOKEN", "TOKEN"]


def test_names_that_are_taken_or_not_allowed_are_changed(project: Project):
    for name in ("x/api", "y/api", "Engine", "agentos-engine", "realm", "ünï"):
        project.file(f"{name}/package.json")

    made = project.commands(
        *(f'["cd {name} && node x.js"]' for name in ("x/api", "y/api", "Engine", "agentos-engine", "realm")),
        "[\"cd 'ünï' && node x.js\"]",
    )

    names = [each["metadata"]["name"] for each in made.resources.values()]
    assert names == ["api", "api-2", "engine", "agentos-engine-2", "realm", "n"]
    assert made.spec("engine")["manifest"]["name"] == "my-engine"
    assert "realm-2" in made.resources  # the file; realm.yaml is the Realm's


def test_settings_that_a_realm_cannot_say_are_listed_with_their_lines(project: Project):
    made = project.imported("""\
workers:
  - name: iii-worker-manager
    config:
      port: 5000
      rbac: {auth_function_id: "a::b"}
  - name: iii-http
    config:
      port: ${PORT:8080}
      default_timeout: 5
      cors: {allowed_origins: [x]}
      middleware: [{function_id: "a::b"}]
  - name: iii-queue
    config:
      queue_configs: {q: {max_retries: 9}}
  - name: iii-bridge
    config: {url: "${OTHER}"}
  - name: iii-http-functions
  - name: iii-observability
    config: {exporter: otlp}
  - name: iii-worker-manager#second
    config: {port: 5001}
agentos:
  routing: first-wins
""")

    listed = [(each.line, each.path) for each in made.remarks if each.line]
    assert listed == [
        (4, "workers[0].config.port"),
        (5, "workers[0].config.rbac"),
        (8, "workers[1].config.port"),
        (9, "workers[1].config.default_timeout"),
        (10, "workers[1].config.cors"),
        (11, "workers[1].config.middleware"),
        (14, "workers[2].config.queue_configs"),
        (15, "workers[3]"),
        (17, "workers[4]"),
        (18, "workers[5]"),
        (20, "workers[6]"),
        (21, "workers[6].config.port"),
        (23, "agentos.routing"),
    ]


def test_settings_that_say_what_is_so_anyway_are_not_worth_a_line(project: Project):
    made = project.imported("""\
workers:
  - name: iii-worker-manager
    config: {host: 127.0.0.1, port: 49134}
  - name: iii-http
    config: {port: 3111, default_timeout: 30000, concurrency_request_limit: 1024}
  - name: iii-stream
    config: {adapter: {name: kv}}
  - name: iii-state
  - name: iii-pubsub
    config: {adapter: {name: local}}
  - name: iii-cron
    config: {adapter: {name: kv}}
  - name: iii-telemetry
    config: {enabled: false}
agentos: {routing: balanced}
""")

    assert [each for each in made.remarks if each.line] == []
    assert made.realm["spec"] == {"namespace": "shop"}


def test_a_file_of_iii_0_10_is_read_too(project: Project):
    project.file("a/x.js")

    made = project.imported("""\
port: 5000
modules:
  - class: modules::api::RestApiModule
    config: {port: 8080}
  - class: modules::state::StateModule
    config:
      adapter: {class: "modules::state::adapters::RedisAdapter", config: {redis_url: "${REDIS_URL}"}}
  - class: modules::shell::ExecModule
    config:
      exec: [cd a && node x.js]
      watch: [a/**]
""")

    assert [(each.line, each.path) for each in made.remarks if each.line] == [
        (1, "port"),
        (4, "modules[0].config.port"),
        (7, "modules[1].config.adapter.class"),
    ]
    assert made.start("a") == "node x.js"


@pytest.mark.parametrize("adapter", ["{name: kv, config: {store_method: file_based}}", "{name: redis}"])
def test_a_realm_has_a_volume_when_something_was_kept(project: Project, adapter: str):
    made = project.imported(f"workers:\n  - name: iii-state\n    config: {{adapter: {adapter}}}\n")

    assert made.realm["spec"]["engine"] == {"storage": {"size": "1Gi"}}
    assert any("is not moved" in each.what for each in made.remarks)


def test_a_realm_has_no_volume_when_nothing_was_kept(project: Project):
    made = project.imported("workers:\n  - name: iii-cron\n    config: {adapter: {name: redis}}\n  - name: iii-state\n")

    assert "engine" not in made.realm["spec"]


def test_a_worker_with_an_image_is_carried_over_and_one_without_is_listed(project: Project):
    made = project.imported("""\
workers:
  - name: pdf
    image: ghcr.io/acme/pdf:1.0.0
    config: {a: 1}
  - name: iii-llm-router
  - name: iii-htpp
    image: "not an image"
""")

    assert made.spec("pdf") == {"image": "ghcr.io/acme/pdf:1.0.0", "manifest": {"iii": "v1", "name": "pdf"}}
    assert [(each.line, each.path) for each in made.remarks if each.line] == [
        (2, "workers[0]"),
        (4, "workers[0].config"),
        (5, "workers[1]"),
        (6, "workers[2]"),
    ]


def test_a_manifest_outside_of_the_project_is_not_read(project: Project, tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/iii.worker.yaml").write_text("name: stranger\n")
    (project.folder / "link").symlink_to(tmp_path / "other")

    made = project.commands('["cd ../other && node x.js"]', '["cd link && node x.js"]')

    assert sorted(made.resources) == ["shop", "shop-2"]
    assert made.start("shop-2") == "cd link && node x.js"
    assert len([each for each in made.remarks if "not in the project" in each.what]) == 2


def test_all_that_is_wrong_with_a_file_is_told_at_once_and_nothing_is_written(project: Project):
    text = "workers:\n  - name: iii-http\n    config:\n      port: many\n      prot: 1\n  - config: {}\nwrokers: 1\n"

    assert project.refused(text) == [
        (4, "workers[0].config.port"),
        (5, "workers[0].config.prot"),
        (6, "workers[1]"),
        (7, "wrokers"),
    ]


@pytest.mark.parametrize("text", ["a: [", "- a", "workers: 1", "\t", "a: 1\na: 2", "a: !!python/x y", "\x01"])
def test_what_is_no_config_file_is_refused(project: Project, text: str):
    assert project.refused(text)


def test_a_manifest_that_is_not_valid_is_refused_with_its_own_lines(project: Project):
    project.file("a/iii.worker.yaml", "name: a\nnane: b\nenv: 3\n")

    with pytest.raises(ImportRefused) as refused:
        project.commands('["cd a && node x.js"]')

    assert [(each.file, each.line) for each in refused.value.faults] == [
        ("a/iii.worker.yaml", 2),
        ("a/iii.worker.yaml", 3),
    ]


def test_a_command_that_is_too_long_for_a_worker_is_refused(project: Project):
    with pytest.raises(ImportRefused, match="no valid Worker"):
        project.commands(f'["node {"x" * 20_000}"]')


def test_too_many_workers_are_refused(project: Project):
    with pytest.raises(ImportRefused, match="more than 500 workers"):
        project.commands(*["[x]"] * 501)


def test_too_many_commands_of_one_entry_are_refused(project: Project):
    with pytest.raises(ImportRefused, match="more than 100 commands"):
        project.commands(f"[{', '.join(['x'] * 101)}]")


def test_a_number_that_only_a_variable_gives_is_listed_and_a_wrong_default_refused(project: Project):
    text = "workers:\n  - name: iii-http\n    config:\n      port: ${PORT}\n"

    made = project.imported(text)

    assert [(each.line, each.path) for each in made.remarks if each.line] == [(4, "workers[0].config.port")]
    with pytest.raises(ImportRefused, match=r"config\.port"):
        project.imported(text.replace("${PORT}", "${PORT:many}"))
