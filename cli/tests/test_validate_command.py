import json
import os
import subprocess
import sys

import pytest
from commands import Command, Run

GOOD_WORKER = """\
apiVersion: agentos.dev/v1alpha1
kind: Worker
metadata:
  name: w
spec:
  manifest:
    name: w
  image: ghcr.io/acme/w:1.0.0
"""
BAD_WORKER = """\
# a comment
apiVersion: agentos.dev/v1alpha1
kind: Worker
metadata:
  name: w
spec:
  replicas: three
  manifest:
    name: w
    nane: x
  image: ghcr.io/acme/w:1.0.0
  owns:
    - wasm::*
    - sandbox::*
"""
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
REALM = "apiVersion: agentos.dev/v1alpha1\nkind: Realm\nmetadata: {name: r}\nspec: {}\n"


@pytest.fixture
def agentos(command: Command) -> Run:
    """Run the command to its end."""
    return command.run


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml").replace("_worker", ".worker")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_good_worker_passes(agentos, tmp_path):
    write(tmp_path, w_yaml=GOOD_WORKER)
    done = agentos("validate", "w.yaml")
    assert (done.returncode, done.stdout) == (0, "1 document checked: 0 errors, 0 warnings\n")


def test_each_finding_is_a_line_with_its_place_and_the_exit_code_is_1(agentos, tmp_path):
    write(tmp_path, w_yaml=BAD_WORKER)
    done = agentos("validate", "w.yaml")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "w.yaml:7: error: spec.replicas: must be a whole number, got the text 'three'",
        "w.yaml:10: error: spec.manifest.nane: unknown field nane; did you mean name?",
        "w.yaml:14: error: spec.owns[1]: sandbox::* belongs to the engine; remove it, or claim a function namespace of "
        "your own such as my-worker::*",
        "1 document checked: 3 errors, 0 warnings",
    ]


def test_documents_of_other_kinds_are_skipped_and_lines_are_those_of_the_file(agentos, tmp_path):
    write(tmp_path, all_yaml=f"{CONFIG_MAP}---\n---\n{REALM}---\n{GOOD_WORKER}")
    done = agentos("validate", "-v", "all.yaml")
    assert done.stdout.splitlines() == [
        "all.yaml: skipped: line 1: kind ConfigMap is not of agentos.dev",
        "all.yaml:9: error: spec.namespace: is required",
        "2 documents checked: 1 error, 0 warnings",
    ]
    assert "skipped" not in agentos("validate", "all.yaml").stdout


def test_a_list_as_kubectl_prints_it_is_looked_into(agentos, tmp_path):
    items = json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "agentos.dev/v1alpha1", "kind": "X"}]}
    )
    done = agentos("validate", "-", stdin=items)
    assert done.stdout.startswith("<stdin>:1: error: items[0].kind: must be Worker or Realm, got the text 'X'")


@pytest.mark.parametrize("name", ["iii_worker_yaml", "other_yaml"])
def test_a_manifest_is_known_by_its_name_or_by_having_no_kind(agentos, tmp_path, name):
    write(tmp_path, **{name: "name: sandbox\nversion: 1.0.0\n"})
    (file,) = os.listdir(tmp_path)
    done = agentos("validate", file)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{file}:1: error: name: the name sandbox belongs to the engine; choose another, such as my-sandbox",
        f"{file}:2: warning: version: iii worker add of 0.23 refuses the field version",
        "1 document checked: 1 error, 1 warning",
    ]


def test_warnings_alone_are_allowed(agentos, tmp_path):
    write(tmp_path, iii_worker_yaml="name: w\nversion: 1.0.0\n")
    assert agentos("validate", "iii.worker.yaml").returncode == 0


def test_a_folder_is_searched(agentos, tmp_path):
    write(
        tmp_path,
        a__iii_worker_yaml="name: w\n",
        b__w_yaml=BAD_WORKER,
        b__template_yaml="metadata: {{ .Values.x }}\n",
        _hidden="x",
        c__c_yaml=CONFIG_MAP,
    )
    write(tmp_path / ".git", w_yaml=BAD_WORKER)
    done = agentos("validate", "-v", ".")
    assert done.returncode == 1
    assert "./b/template.yaml: skipped: neither iii.worker.yaml nor a resource of agentos.dev" in done.stdout
    assert "./c/c.yaml: skipped" in done.stdout
    assert ".git" not in done.stdout
    assert done.stdout.endswith("2 documents checked: 3 errors, 0 warnings\n")


def test_standard_input_is_a_dash(agentos):
    done = agentos("validate", "-", stdin=BAD_WORKER)
    assert done.returncode == 1
    assert done.stdout.startswith("<stdin>:7: error: spec.replicas")


def test_json_holds_the_same_findings(agentos, tmp_path):
    write(tmp_path, w_yaml=BAD_WORKER)
    done = agentos("validate", "-o", "json", "w.yaml")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["checked"] == 1
    assert report["findings"][0] == {
        "file": "w.yaml",
        "line": 7,
        "severity": "error",
        "path": "spec.replicas",
        "reason": "WrongType",
        "message": "must be a whole number, got the text 'three'",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1,\nb: 2]\nc: }", "bad.yaml:3: error: the text is not YAML: "),
        ("kind: Worker\nkind: Worker\n", "bad.yaml:2: error: the key kind is given twice in the same map; remove one"),
        ("[" * 5000, "bad.yaml:1: error: the text is nested more than 64 levels deep; flatten it"),
        ("just words", "bad.yaml:1: error: the manifest must be a map of fields, such as name: my-worker"),
        ("", "0 documents checked"),
    ],
)
def test_bad_yaml_is_one_clear_line(agentos, tmp_path, text, line):
    (tmp_path / "bad.yaml").write_text(text)
    done = agentos("validate", "bad.yaml")
    assert done.returncode == (1 if text else 0)
    assert done.stdout.startswith(line)
    assert done.stderr == ""


def test_what_cannot_be_read_is_said_and_the_rest_is_validated(agentos, tmp_path):
    write(tmp_path, w_yaml=GOOD_WORKER)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with open(tmp_path / "huge.yaml", "wb") as huge:
        huge.truncate(3 * 1024 * 1024)
    done = agentos("validate", "missing.yaml", "binary.yaml", "huge.yaml", "w.yaml")
    assert done.returncode == 2
    assert done.stdout == "1 document checked: 0 errors, 0 warnings\n"
    assert done.stderr.splitlines() == [
        "agentos: cannot read missing.yaml: No such file or directory",
        "agentos: cannot read binary.yaml: not UTF-8 text",
        "agentos: cannot read huge.yaml: larger than 2048 KiB",
    ]


def test_control_characters_of_a_file_do_not_reach_the_terminal(agentos):
    done = agentos("validate", "-", stdin='name: w\n"\\e[31mx": 1\nenv: {"\\e[2J": 5}\n')
    assert done.returncode == 1
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("arguments", [["validate"], ["validate", "-o", "xml", "x"], ["nothing"]])
def test_wrong_usage_is_exit_code_2(agentos, arguments):
    done = agentos(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_help_loads_nothing_heavy():
    program = (
        "import sys, agentos.__main__ as command\n"
        "try: command.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('pydantic', 'ruamel', 'nacl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "validate" in done.stdout
    assert done.stdout.endswith("[]\n")


def needing(name: str, *others: str) -> str:
    needs = "".join(f"\n      {each}: '*'" for each in others)
    return GOOD_WORKER.replace("name: w", f"name: {name}").replace("  image", f"    dependencies:{needs}\n  image")


def test_dependencies_that_lead_back_are_told_where_each_of_them_stands(agentos, tmp_path):
    write(tmp_path, a_yaml=needing("a", "x", "b"), b_yaml=needing("b", "a"), c_yaml=needing("c", "a"))
    done = agentos("validate", ".")
    words = "a → b → a: each waits for the next, so none of them starts; remove one of these"
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"./a.yaml:10: error: spec.manifest.dependencies[b]: {words}",
        f"./b.yaml:9: error: spec.manifest.dependencies[a]: {words}",
        "3 documents checked: 2 errors, 0 warnings",
    ]


def test_manifests_that_need_each_other_are_told_too(agentos, tmp_path):
    write(
        tmp_path,
        a__iii_worker_yaml="name: a\ndependencies: {b: ^1}\n",
        b__iii_worker_yaml="name: b\ndependencies:\n  a: ^1\n",
    )
    done = agentos("validate", ".")
    assert [line.partition(": each")[0] for line in done.stdout.splitlines()[:2]] == [
        "./a/iii.worker.yaml:2: error: dependencies[b]: a → b → a",
        "./b/iii.worker.yaml:3: error: dependencies[a]: a → b → a",
    ]


def test_a_manifest_in_a_config_map_of_the_files_is_validated_with_the_lines_of_the_file(agentos, tmp_path):
    text = GOOD_WORKER.replace("manifest:\n    name: w", "manifestFrom:\n    configMapKeyRef: {name: c}")
    config_map = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  iii.worker.yaml: |\n    name: w\n    nmae: v\n"
    )
    write(tmp_path, w_yaml=f"{config_map}---\n{text}")
    done = agentos("validate", "w.yaml")
    assert done.stdout.splitlines() == [
        "w.yaml:8: error: data[iii.worker.yaml].nmae: unknown field nmae; did you mean name?",
        "1 document checked: 1 error, 0 warnings",
    ]
    write(tmp_path, w_yaml=f"{config_map.replace('nmae', 'name')}---\n{text}")
    assert agentos("validate", "w.yaml").stdout.startswith(
        "w.yaml:8: error: data[iii.worker.yaml]: the key name is given twice in the same map; remove one"
    )
