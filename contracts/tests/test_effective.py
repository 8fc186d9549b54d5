import pytest
from agentos_contracts.effective import effective, effective_command, image_version
from agentos_contracts.manifest import Manifest
from agentos_contracts.worker import WorkerSpec
from agentos_contracts.worker_defaults import WorkerDefaults


def in_effect(spec=None, defaults=None, **manifest):
    return effective(
        WorkerSpec.model_validate(spec or {}, by_name=False),
        Manifest.model_validate({"name": "w"} | manifest),
        WorkerDefaults.model_validate(defaults or {}, by_name=False),
    )


def test_the_manifest_fills_in_what_the_spec_leaves_out():
    result = in_effect(
        runtime={"base_image": "python:3.13-slim"},
        scripts={"start": "python -m w"},
        env={"A": "1"},
        resources={"cpus": 2, "memory": 512},
        version="1.2.3",
        dependencies={"memory": "^1"},
    )
    assert result.name == "w"
    assert result.image == "python:3.13-slim"
    assert result.command == ["/bin/sh", "-c", "exec python -m w"]
    assert result.args is None
    assert result.env == [{"name": "A", "value": "1"}]
    assert result.resources == {"limits": {"cpu": "2", "memory": "512Mi"}}
    assert result.version == "1.2.3"
    assert result.dependencies == {"memory": "^1"}


def test_the_spec_goes_before_the_manifest():
    spec = {
        "image": "ghcr.io/acme/w:2.0.0",
        "command": ["w"],
        "args": ["--x"],
        "env": [
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "A", "value": "spec"},
        ],
        "resources": {"requests": {"cpu": "100m"}},
        "version": "3.0.0",
        "dependencies": {},
    }
    result = in_effect(
        spec,
        runtime={"base_image": "x"},
        scripts={"start": "y"},
        env={"A": "manifest", "C": "c"},
        resources={"cpus": 1},
        version="1.0.0",
        dependencies={"memory": "*"},
    )
    assert result.image == "ghcr.io/acme/w:2.0.0"
    assert (result.command, result.args) == (["w"], ["--x"])
    assert result.env == [
        {"name": "C", "value": "c"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "A", "value": "spec"},
    ]
    assert result.resources == {"requests": {"cpu": "100m"}}
    assert result.version == "3.0.0"
    assert result.dependencies == {}


def test_with_nothing_said_the_image_s_own_is_used():
    result = in_effect()
    assert (result.image, result.command, result.args, result.version) == (None, None, None, None)
    assert (result.env, result.resources, result.dependencies) == ([], {}, {})


def test_arguments_alone_go_to_the_image_s_entrypoint():
    result = in_effect({"args": ["--x"]}, scripts={"start": "y"})
    assert (result.command, result.args) == (None, ["--x"])


def test_a_shell_sees_its_dollars():
    result = in_effect(scripts={"start": 'echo $(date) $$ "$HOME"'}, env={"A": "$(B)"})
    assert result.command == ["/bin/sh", "-c", 'echo $$(date) $$$$ "$$HOME"']
    assert result.env == [{"name": "A", "value": "$$(B)"}]


@pytest.mark.parametrize("name", ["III_URL", "III_ENGINE_URL", "III_WORKER_NAME", "AGENTOS_TOKEN", "POD_UID"])
def test_what_the_operator_sets_is_dropped_from_the_manifest(name):
    assert in_effect(env={name: "x", "A": "1"}).env == [{"name": "A", "value": "1"}]


@pytest.mark.parametrize(
    ("image", "version"),
    [
        (None, None),
        ("w", None),
        ("w:latest", None),
        ("w:1.2.3", "1.2.3"),
        ("w:v1.2.3-rc.1", "1.2.3-rc.1"),
        ("localhost:5000/w", None),
        ("localhost:5000/w:1.2.3@sha256:abc", "1.2.3"),
        ("w@sha256:abc", None),
    ],
)
def test_an_image_s_tag_is_a_version_when_it_is_semantic(image, version):
    assert image_version(image) == version


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("my-worker run --port $PORT", "exec my-worker run --port $$PORT"),
        ("node 'my file.js' > /dev/null", "node 'my file.js' > /dev/null"),
        ("cd app && node .", "cd app && node ."),
        ("a; b", "a; b"),
        ("LEVEL=debug my-worker", "LEVEL=debug my-worker"),
        ("exec my-worker", "exec my-worker"),
        ("an 'open quote", "an 'open quote"),
        ("one\ntwo", "one\ntwo"),
    ],
)
def test_a_start_script_of_one_command_replaces_the_shell_so_that_signals_reach_the_worker(script: str, command: str):
    manifest = Manifest.model_validate({"name": "w", "scripts": {"start": script}})
    assert effective_command(WorkerSpec.model_validate({"image": "i"}, by_name=False), manifest)[0] == [
        "/bin/sh",
        "-c",
        command,
    ]


DEFAULTS = {
    "env": [
        {"name": "PROXY", "value": "realm"},
        {"name": "LEVEL", "value": "realm"},
        {"name": "ZONE", "value": "realm"},
    ],
    "resources": {"requests": {"cpu": "50m"}},
    "imagePullSecrets": [{"name": "realm"}],
    "template": {"spec": {"nodeSelector": {"disk": "ssd"}}},
}


def test_the_realm_fills_in_what_spec_and_manifest_leave_out():
    result = in_effect(defaults=DEFAULTS)
    assert result.env == DEFAULTS["env"]
    assert result.resources == {"requests": {"cpu": "50m"}}
    assert result.image_pull_secrets == [{"name": "realm"}]
    assert result.templates == [DEFAULTS["template"]]


def test_of_one_variable_the_specs_value_goes_before_the_manifests_and_that_before_the_realms():
    spec = {"env": [{"name": "LEVEL", "value": "spec"}]}
    result = in_effect(spec, DEFAULTS, env={"LEVEL": "manifest", "ZONE": "manifest"})
    assert result.env == [
        {"name": "PROXY", "value": "realm"},
        {"name": "ZONE", "value": "manifest"},
        {"name": "LEVEL", "value": "spec"},
    ]


def test_resources_are_taken_whole_from_the_first_that_has_any():
    assert in_effect({"resources": {"limits": {"cpu": "1"}}}, DEFAULTS, resources={"cpus": 2}).resources == {
        "limits": {"cpu": "1"}
    }
    assert in_effect({"resources": {}}, DEFAULTS).resources == {}
    assert in_effect(defaults=DEFAULTS, resources={"memory": 64}).resources == {"limits": {"memory": "64Mi"}}


def test_an_empty_list_of_pull_secrets_is_no_list_left_out():
    assert in_effect({"imagePullSecrets": []}, DEFAULTS).image_pull_secrets == []
    assert in_effect({"imagePullSecrets": [{"name": "own"}]}, DEFAULTS).image_pull_secrets == [{"name": "own"}]


def test_the_workers_template_is_merged_after_the_realms():
    own = {"spec": {"nodeSelector": None}}
    assert in_effect({"template": own}, DEFAULTS).templates == [DEFAULTS["template"], own]
    assert in_effect({"template": {}}).templates == []
