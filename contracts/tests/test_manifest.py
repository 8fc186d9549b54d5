import pytest
from agentos_contracts.findings import Severity
from agentos_contracts.manifest import MAX_MANIFEST_BYTES, read_manifest, validate_manifest

REGISTRY_SHAPE = {
    "iii": "v1",
    "name": "wasm-sandbox",
    "description": "Runs WebAssembly",
    "language": "python",
    "deploy": "image",
    "manifest": "pyproject.toml",
    "tags": ["wasm"],
    "dependencies": {"memory": "^1.2"},
}
PUBLISHED = {"language": "python", "manifest": "pyproject.toml"}
RUNTIME_SHAPE = {
    "name": "wasm-sandbox",
    "runtime": {"base_image": "python:3.13-slim"},
    "scripts": {"setup": "true", "install": "pip install .", "start": "python -m wasm"},
    "env": {"LOG_LEVEL": "info"},
    "resources": {"cpus": 2, "memory": 512},
}


def said(manifest, path="spec.manifest"):
    return [(str(finding.severity), str(finding)) for finding in validate_manifest(manifest, path)]


def errors_of(**changes):
    return [text for severity, text in said({"name": "w", **changes}, "") if severity == "error"]


def warnings_of(**changes):
    return [text for severity, text in said({"name": "w", **changes}, "") if severity == "warning"]


@pytest.mark.parametrize("manifest", [REGISTRY_SHAPE, RUNTIME_SHAPE, {"name": "w"}, {"name": "w", "iii": None}])
def test_both_shapes_are_accepted_without_a_word(manifest):
    assert said(manifest) == []


def test_all_findings_come_at_once_with_their_paths():
    manifest = {
        "nane": "x",
        "version": "one",
        "runtime": {"base_image": "a b"},
        "scripts": {"strat": "x"},
        "env": {"A": 1},
        "resources": {"cpus": "2", "memory": 0},
        "dependencies": {"b": ">=1 <2"},
    }
    assert {text for severity, text in said(manifest) if severity == "error"} == {
        "spec.manifest.name: is required",
        "spec.manifest.nane: unknown field nane; did you mean name?",
        "spec.manifest.version: 'one' is not a semantic version; write three numbers such as '1.2.3'",
        "spec.manifest.runtime.base_image: 'a b' is not an image reference, such as python:3.13-slim",
        "spec.manifest.scripts.strat: unknown field strat; did you mean start?",
        "spec.manifest.env[A]: must be a text, got a whole number; put it in quotes",
        "spec.manifest.resources.cpus: must be a whole number, got the text '2'",
        "spec.manifest.resources.memory: must be at least 1, got the whole number 0",
        "spec.manifest.dependencies[b]: '>=1 <2' is not a version range: separate the parts with commas, "
        "such as '>=1, <2'",
    }


@pytest.mark.parametrize("value", [None, [], "name: x", 5, True])
def test_a_manifest_that_is_no_map_is_one_error(value):
    assert said(value, "") == [("error", "must be a map of fields, such as name: my-worker")]


@pytest.mark.parametrize("name", ["engine", "iii", "sandbox", "iii-sandbox", "iii-state", "configuration", "Sandbox"])
def test_a_name_of_the_engine_is_refused(name):
    (text,) = errors_of(name=name)
    assert text.startswith(f"name: the name {name} belongs to the engine; choose another, such as my-")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "name: must not be empty"),
        ("a b", "name: 'a b' is not a name of a worker; use letters, digits, '.', '_' and '-', such as my-worker"),
        (".a", "name: '.a' is not a name of a worker; use letters, digits, '.', '_' and '-', such as my-worker"),
        ("a..b", "name: 'a..b' is not a name of a worker; use letters, digits, '.', '_' and '-', such as my-worker"),
        (7, "name: must be a text, got the whole number 7; put it in quotes"),
        (None, "name: must be a text, got nothing (null)"),
        ("x" * 64, "name: has 64 characters, more than the 63 that are allowed"),
    ],
)
def test_a_name_that_no_reader_takes_is_an_error(name, text):
    assert errors_of(name=name) == [text]


def test_a_name_that_only_the_registry_refuses_is_a_warning():
    assert errors_of(name="My.Worker") == []
    (text,) = warnings_of(name="My.Worker")
    assert text.endswith("such as my-worker")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.0.0"}, "version: iii worker add of 0.23 refuses the field version"),
        ({"bin": "w"}, "bin: iii worker add of 0.23 refuses the field bin"),
        ({"config": {"a": 1}}, "config: the field config is deprecated"),
        ({"entry": "main.py"}, "entry: the field entry is deprecated; use scripts.start"),
        ({"language": "python"}, "language: the field language is deprecated without deploy"),
        (
            {"language": "typescript", "deploy": "image", "manifest": "package.json"},
            "language: 'typescript' is refused by the registry",
        ),
        ({**PUBLISHED, "deploy": "bundle", "scripts": {"start": "x"}}, "deploy: iii before 0.23 refuses bundle"),
        ({"runtime": {"kind": "python"}, "scripts": {"start": "x"}}, "runtime.kind: the field kind is deprecated"),
        ({"iii": "v2"}, "iii: is v1 in every manifest"),
        ({"env": {"III_URL": "x"}}, "env[III_URL]: III_URL is set by the platform; the manifest's value is dropped"),
        ({"env": {"III_ENGINE_URL": "x"}}, "env[III_ENGINE_URL]: III_ENGINE_URL is set by the platform"),
    ],
)
def test_what_only_some_readers_refuse_is_a_warning(changes, words):
    assert errors_of(**changes) == []
    (text,) = warnings_of(**changes)
    assert text.startswith(words)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"deploy": "helm"}, "deploy: must be one of binary, image or bundle; got the text 'helm'"),
        (
            {"runtime": {"kind": "cobol"}},
            "runtime.kind: must be one of typescript, javascript, bun, python, rust; got 'cobol'",
        ),
        (
            {"runtime": {"kind": "typescript", "package_manager": "pip"}},
            "runtime.package_manager: must be one of npm, yarn, pnpm, bun; got 'pip'",
        ),
        (
            {"deploy": "bundle"},
            "scripts.start: is required in a bundle; write how the worker is started, such as python -m my_worker",
        ),
        ({"dependencies": ["a"]}, "dependencies: must be a map, got a list"),
        ({"dependencies": {"w": "*"}}, "dependencies[w]: w cannot depend on itself; remove the line"),
        (
            {"dependencies": {"a/b": "*"}},
            "dependencies[a/b]: 'a/b' is not a name of a worker; use letters, digits, '.', '_' and '-', such as my-worker",
        ),
        ({"dependencies": {"a": None}}, "dependencies[a]: must be a text, got nothing (null)"),
        ({"env": []}, "env: must be a map, got a list"),
        ({"env": {"A": True}}, "env[A]: must be a text, got the boolean true; put it in quotes"),
        ({"env": {"A B": "x"}}, "env[A B]: 'A B' is not a name of an environment variable, such as LOG_LEVEL"),
        ({"resources": {"cpus": 1.5}}, "resources.cpus: must be a whole number, got the number 1.5"),
        ({"resources": {"cpus": True}}, "resources.cpus: must be a whole number, got the boolean true"),
        ({"resources": 5}, "resources: must be a map, got the whole number 5"),
        ({"tags": "a"}, "tags: must be a list, got the text 'a'"),
        ({"tags": [1]}, "tags[0]: must be a text, got the whole number 1; put it in quotes"),
        (
            {"zzz": 1},
            "zzz: unknown field zzz; known are bin, config, dependencies, deploy, description, entry, env, iii, "
            "language, manifest, name, resources, runtime, scripts, tags, version",
        ),
    ],
)
def test_what_every_reader_refuses_is_an_error(changes, text):
    assert errors_of(**changes) == [text]


def test_a_bundle_has_no_setup():
    (text,) = errors_of(deploy="bundle", scripts={"setup": "x", "start": "y"})
    assert text == "scripts.setup: is not allowed in a bundle; move it to scripts.install"


def test_a_good_text_is_read():
    assert read_manifest("iii: v1\nname: w\nenv: {A: 'yes'}\n") == ({"iii": "v1", "name": "w", "env": {"A": "yes"}}, [])


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("", "Empty", None),
        ("# nothing\n", "Empty", None),
        ("- a\n", "WrongType", 1),
        ("just words", "WrongType", 1),
        ("name: a\n---\nname: b\n", "NotOneDocument", 3),
        ("name: a\nname: b\n", "DuplicateKey", 2),
        ("name: [", "NotYAML", 1),
        ("x: " + "y" * MAX_MANIFEST_BYTES, "TooLarge", None),
    ],
)
def test_a_text_that_is_no_manifest_is_one_finding_with_its_line(text, reason, line):
    manifest, (finding,) = read_manifest(text)
    assert manifest is None
    assert (finding.severity, finding.reason, finding.line) == (Severity.ERROR, reason, line)
