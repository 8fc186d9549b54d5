"""``agentos import worker-compose.yaml``: containers become Workers; as strict as iii."""

from pathlib import Path
from typing import Any

import pytest
from test_import_config import SECRET, Project


class Compose(Project):
    """A folder with a worker-compose.yaml and a worker folder ``a``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file("a/iii.worker.yaml", "iii: v1\nname: a\nscripts: {start: python main.py}\n")

    def containers(self, text: str) -> Any:
        return self.imported(f"containers:\n{text}", "worker-compose.yaml")


@pytest.fixture
def project(tmp_path: Path) -> Compose:
    return Compose(tmp_path)


def test_a_container_becomes_a_worker_with_the_folders_manifest(project: Compose):
    made = project.containers("  a:\n    worker: path://a\n")

    assert made.resources["a"] == {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": "a", "namespace": "shop", "annotations": {"agentos.dev/source": "../a"}},
        "spec": {
            "image": "localhost/a:dev",
            "manifest": {"iii": "v1", "name": "a", "scripts": {"start": "python main.py"}},
        },
    }


def test_the_containers_key_is_the_workers_name_whatever_the_manifest_says(project: Compose):
    made = project.containers("  First_One:\n    worker: path://a\n  two:\n    worker: path://a\n")

    assert made.spec("first-one")["manifest"]["name"] == "First_One"
    assert made.spec("two")["manifest"]["name"] == "two"
    assert made.spec("two")["image"] == "localhost/a:dev"  # as `agentos build a` tags it


def test_run_goes_before_the_manifests_start_and_pre_run_before_both(project: Compose):
    made = project.containers(
        "  a:\n    worker: path://a\n    scripts: {pre_run: npm run migrate, run: node new.js}\n"
        "  b:\n    worker: path://a\n    scripts: {pre_run: 'x # y'}\n    working_dir: data dir\n"
    )

    assert made.start("a") == "(npm run migrate) && exec node new.js"
    assert made.start("b") == "cd '../data dir' && (\nx # y\n) && exec python main.py"


def test_a_folder_without_a_manifest_needs_a_run_script(project: Compose):
    project.file("b/x.js")

    assert project.refused("containers:\n  b:\n    worker: path://b\n", "worker-compose.yaml") == [(3, "containers.b")]

    made = project.containers("  b:\n    worker: path://b\n    scripts: {run: node x.js}\n")

    assert made.spec("b")["manifest"] == {"iii": "v1", "name": "b", "scripts": {"start": "node x.js"}}


def test_the_environment_is_copied_without_what_may_be_secret(project: Compose):
    made = project.containers(
        f"  a:\n    worker: path://a\n    environment: {{LEVEL: debug, PRICE: $(1), DB: 'postgres://u:{SECRET}@db/x', API_KEY: {SECRET}}}\n"
    )

    assert SECRET not in made.all
    assert made.spec("a")["env"] == [
        {"name": "LEVEL", "value": "debug"},
        {"name": "PRICE", "value": "$$(1)"},
        {"name": "DB", "valueFrom": {"secretKeyRef": {"name": "env-a", "key": "DB"}}},
        {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "env-a", "key": "API_KEY"}}},
    ]
    instead = "kubectl -n shop create secret generic env-a --from-literal=DB=… --from-literal=API_KEY=…"
    assert any(each.instead.startswith(instead) for each in made.remarks)


def test_of_an_env_file_only_the_names_are_taken(project: Compose):
    project.file("dev.env", f"# A=1\nexport LEVEL={SECRET}\nMODE = {SECRET}\nIII_URL=x\nnothing\nSET={SECRET}\n")

    made = project.containers("  a:\n    worker: path://a\n    env_file: [dev.env]\n    environment: {SET: here}\n")

    assert SECRET not in made.all
    reference = {"name": "env-file-a"}
    assert made.spec("a")["env"] == [
        {"name": "SET", "value": "here"},
        {"name": "LEVEL", "valueFrom": {"secretKeyRef": {**reference, "key": "LEVEL"}}},
        {"name": "MODE", "valueFrom": {"secretKeyRef": {**reference, "key": "MODE"}}},
    ]
    assert any("create secret generic env-file-a --from-env-file=dev.env" in each.instead for each in made.remarks)


def test_an_env_file_outside_of_the_project_or_one_that_is_not_there_is_listed(project: Compose, tmp_path: Path):
    (tmp_path / "other.env").write_text("LEVEL=x\n")

    made = project.containers("  a:\n    worker: path://a\n    env_file: [../other.env, gone.env]\n")

    assert "env" not in made.spec("a")
    assert [line for line, _ in made.at("containers.a.env_file")] == [4]


def test_what_a_container_waits_for_becomes_its_dependencies(project: Compose):
    project.file("a/iii.worker.yaml", 'name: a\nscripts: {start: x}\ndependencies: {iii-state: "^1", else: "*"}\n')

    made = project.containers(
        "  one:\n    worker: path://a\n    depends_on: [Two, pdf]\n"
        "  Two:\n    worker: path://a\n"
        "  pdf: {worker: 'package://iii/pdf', version: 1.0.0}\n"
    )

    assert made.spec("one")["dependencies"] == {"iii-state": "^1", "else": "*", "Two": "*"}
    assert "dependencies" not in made.spec("two")
    assert made.at("containers.one.depends_on")[0][0] == 4
    assert made.at("containers.pdf.worker")[0][0] == 7
    assert "depends on else, which is not part of the project" in made.at("containers.Two")[0][1]


def test_the_namespace_of_iii_is_handed_on(project: Compose):
    text = "namespace: team\ncontainers:\n  a:\n    worker: path://a\n"

    made = project.imported(text, "worker-compose.yaml")

    assert made.spec("a")["env"] == [{"name": "III_NAMESPACE", "value": "team"}]


def test_what_cannot_be_carried_over_is_listed_with_its_line(project: Compose, tmp_path: Path):
    (tmp_path / "other").mkdir()

    made = project.imported(
        """\
startup_timeout: 60s
stop_timeout: 5s
containers:
  a:
    worker: path://a
    config_name: x
    config_override: {a: 1}
    startup_timeout: 2m
    scripts:
      post_run: echo
      pre_run_timeout: 10s
  out:
    worker: path://../other
  gone:
    worker: path://a
    environment: {POD_UID: x}
""",
        "worker-compose.yaml",
    )

    assert [(each.line, each.path) for each in made.remarks if each.line] == [
        (2, "stop_timeout"),
        (6, "containers.a.config_name"),
        (7, "containers.a.config_override"),
        (8, "containers.a.startup_timeout"),
        (10, "containers.a.scripts.post_run"),
        (11, "containers.a.scripts.pre_run_timeout"),
        (13, "containers.out.worker"),
        (16, "containers.gone.environment.POD_UID"),
    ]
    assert sorted(made.resources) == ["a", "gone"]


def test_all_that_is_wrong_is_told_at_once_with_its_lines(project: Compose):
    text = """\
namespace: Not Good
startup_timeout: 60
containers:
  a:
    worker: path://nowhere
    depends_on: [b, zed]
    replicas: 3
  b:
    worker: path://a
    depends_on: [a]
    environment: {III_URL: x, PORT: 8080}
  c:
    worker: package://iii/pdf
    scripts: {run: x}
  d:
    worker: https://x
  e: {}
  "f g":
    worker: path://a
"""

    assert project.refused(text, "worker-compose.yaml") == [
        (1, "namespace"),
        (2, "startup_timeout"),
        (5, "containers.a.worker"),
        (6, "containers.a.depends_on"),
        (6, "containers.a.depends_on"),
        (7, "containers.a.replicas"),
        (10, "containers.b.depends_on"),
        (11, "containers.b.environment.III_URL"),
        (11, "containers.b.environment.PORT"),
        (13, "containers.c"),
        (14, "containers.c.scripts.run"),
        (16, "containers.d.worker"),
        (17, "containers.e"),
        (18, "containers.f g"),
    ]


def test_both_files_of_a_project_make_one_realm(project: Compose):
    from agentos.importing.importer import import_files

    config = project.file(
        "config.yaml", "workers:\n  - name: iii-state\n    config: {adapter: {config: {store_method: file_based}}}\n"
    )
    compose = project.file("worker-compose.yaml", "containers:\n  a:\n    worker: path://a\n")

    written, _ = import_files([str(config), str(compose)], out=project.out, realm="r", namespace="n", force=False)

    assert [Path(path).name for path in written] == ["realm.yaml", "a.yaml"]
    assert "size: " in (project.out / "realm.yaml").read_text()
