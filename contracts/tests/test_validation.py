import copy

import pytest
from agentos_contracts.claim import FunctionClaim
from agentos_contracts.findings import Finding, errors, warnings
from agentos_contracts.validation import validate, validate_realm, validate_worker
from agentos_contracts.worker import WorkerSpec
from hypothesis import given, settings
from hypothesis import strategies as st


def worker(**spec):
    given_spec = {"manifest": {"name": "w"}, "image": "ghcr.io/acme/w:1.0.0"} | spec
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": "w", "namespace": "default", "uid": "u", "managedFields": []},
        "spec": {key: value for key, value in given_spec.items() if value is not None},
        "status": {"anything": "the operator's"},
    }


JWT = {"issuer": "https://login.example.org", "audience": "agentos", "jwksUrl": "https://login.example.org/keys"}


def realm(**spec):
    return {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": "r"}, "spec": spec}


def texts(findings):
    return [str(finding) for finding in findings]


FULL = {
    "manifest": {"name": "w", "dependencies": {"memory": "^1"}},
    "image": "ghcr.io/acme/w@sha256:" + "a" * 64,
    "command": ["python"],
    "args": ["-m", "w"],
    "env": [
        {"name": "A", "value": ""},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "HOME", "value": "/tmp"},
    ],
    "envFrom": [{"prefix": "X_", "secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}],
    "resources": {"limits": {"cpu": 1, "memory": "256Mi"}, "requests": {"cpu": "500m", "nvidia.com/gpu": "1e3"}},
    "imagePullSecrets": [{"name": "s"}],
    "serviceAccountName": "sa",
    "owns": ["wasm", "agent::chat", "stream::chat", "tool::file_*"],
    "calls": ["memory::recall", "memory::store", "state::*", "engine::log::info", "publish", "sandbox"],
    "stateScopes": ["w", "w-*", "sessions of w"],
    "replaces": "w-old",
    "version": "1.2.3-rc.1",
    "dependencies": {"memory": ">=1, <2"},
    "replicas": 0,
}


def test_a_complete_worker_has_no_findings():
    assert validate_worker(worker(**FULL)) == []


def test_a_valid_spec_is_read_by_the_model():
    spec = WorkerSpec.model_validate(FULL)
    assert spec.env is not None
    assert spec.env[1].value_from is not None
    assert spec.model_dump(by_alias=True, exclude_none=True) == FULL | {"manifest": FULL["manifest"]}


def test_a_manifest_from_a_config_map_needs_no_image_here():
    source = {"configMapKeyRef": {"name": "c"}}
    assert validate_worker(worker(manifest=None, image=None, manifestFrom=source)) == []


@pytest.mark.parametrize("changes", [{"manifest": None}, {"manifestFrom": {"configMapKeyRef": {"name": "c"}}}])
def test_exactly_one_of_manifest_and_manifest_from_is_set(changes):
    assert texts(validate_worker(worker(**changes))) == ["spec: set exactly one of manifest and manifestFrom"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"replicas": "three"}, "spec.replicas: must be a whole number, got the text 'three'"),
        ({"replicas": -1}, "spec.replicas: must be at least 0, got the whole number -1"),
        ({"replicas": 1001}, "spec.replicas: must be at most 1000, got the whole number 1001"),
        ({"replica": 1}, "spec.replica: unknown field replica; did you mean replicas?"),
        (
            {"replaces": "Old One"},
            "spec.replaces: 'Old One' is not an object name: lower-case letters, digits, '-' and '.', such as my-config",
        ),
        (
            {"replaces": "w"},
            "spec.replaces: names this Worker itself; name the one that it takes over from",
        ),
        ({"owns": "wasm"}, "spec.owns: must be a list, got the text 'wasm'"),
        (
            {"owns": ["sandbox::*"]},
            "spec.owns[0]: sandbox::* belongs to the engine; remove it, or claim a function namespace of your own "
            "such as my-worker::*",
        ),
        (
            {"owns": ["wasm", "sandbox"]},
            "spec.owns[1]: sandbox::* belongs to the engine; remove it, or claim a function namespace of your own "
            "such as my-worker::*",
        ),
        (
            {"owns": ["state::get"]},
            "spec.owns[0]: state::get belongs to the engine; remove it, or claim a function namespace of your own "
            "such as my-worker::*",
        ),
        (
            {"owns": ["state::*"]},
            "spec.owns[0]: state::* takes state::delete, which belongs to the engine; claim single functions such as "
            "state::my-function",
        ),
        (
            {"owns": ["tool*"]},
            "spec.owns[0]: tool*: a * may stand only after the first '::'; name the function namespace, such as tool::*",
        ),
        ({"owns": [5]}, "spec.owns[0]: must be a text, got the whole number 5; put it in quotes"),
        ({"owns": [""]}, "spec.owns[0]: must not be empty"),
        ({"owns": ["a::" + "x" * 128]}, "spec.owns[0]: has 131 characters, more than the 128 that are allowed"),
        ({"owns": [f"a{n}" for n in range(33)]}, "spec.owns: has 33 entries, more than the 32 that are allowed"),
        ({"calls": "memory"}, "spec.calls: must be a list, got the text 'memory'"),
        (
            {"calls": ["state::get", "tool*"]},
            "spec.calls[1]: tool*: a * may stand only after the first '::'; name the function namespace, such as tool::*",
        ),
        ({"calls": [5]}, "spec.calls[0]: must be a text, got the whole number 5; put it in quotes"),
        ({"calls": [""]}, "spec.calls[0]: must not be empty"),
        ({"calls": ["a::" + "x" * 128]}, "spec.calls[0]: has 131 characters, more than the 128 that are allowed"),
        ({"stateScopes": "w"}, "spec.stateScopes: must be a list, got the text 'w'"),
        ({"stateScopes": [""]}, "spec.stateScopes[0]: must not be empty"),
        (
            {"stateScopes": ["a*b"]},
            "spec.stateScopes[0]: a*b is not a scope of state::*; write one such as my-worker, or the beginning of some and a *, "
            "such as my-worker-*",
        ),
        ({"stateScopes": ["x" * 257]}, "spec.stateScopes[0]: has 257 characters, more than the 256 that are allowed"),
        (
            {"stateScopes": [f"s{n}" for n in range(65)]},
            "spec.stateScopes: has 65 entries, more than the 64 that are allowed",
        ),
        ({"calls": [f"a{n}" for n in range(65)]}, "spec.calls: has 65 entries, more than the 64 that are allowed"),
        ({"version": "1.2"}, "spec.version: '1.2' is not a semantic version; write three numbers such as '1.2.3'"),
        (
            {"dependencies": {"memory": "latest"}},
            "spec.dependencies[memory]: 'latest' is not a version range; write one such as '^1.2', '~1.2.3', "
            "'>=1, <2' or '*'",
        ),
        ({"dependencies": {"w": "*"}}, "spec.dependencies[w]: w cannot depend on itself; remove the line"),
        ({"image": "a b"}, "spec.image: 'a b' is not an image reference, such as ghcr.io/acme/my-worker:1.0.0"),
        ({"image": None}, "spec.image: no image is named; set spec.image, or runtime.base_image in the manifest"),
        (
            {
                "image": None,
                "manifest": {"name": "w", "deploy": "binary", "language": "rust", "manifest": "Cargo.toml"},
            },
            "spec.image: the manifest's deploy is binary, and a binary does not run in a pod by itself; set spec.image",
        ),
        (
            {"manifest": {"name": "sandbox"}},
            "spec.manifest.name: the name sandbox belongs to the engine; choose another, such as my-sandbox",
        ),
        ({"manifest": {}}, "spec.manifest.name: is required"),
        ({"manifest": "x"}, "spec.manifest: must be a map of fields, such as name: my-worker"),
        (
            {"env": [{"name": "III_URL", "value": "x"}]},
            "spec.env[0].name: III_URL is set by the operator on every worker; remove it",
        ),
        (
            {"env": [{"name": "A=B"}]},
            "spec.env[0].name: 'A=B' is not a name of an environment variable, such as LOG_LEVEL",
        ),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.env[1].name: A is given twice in spec.env; remove one"),
        ({"env": [{"value": "A"}]}, "spec.env[0].name: is required"),
        (
            {"env": [{"name": "A", "value": 5}]},
            "spec.env[0].value: must be a text, got a whole number; put it in quotes",
        ),
        (
            {"env": [{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]},
            "spec.env[0]: set value or valueFrom, not both",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {}}]},
            "spec.env[0].valueFrom: set exactly one of configMapKeyRef, secretKeyRef and fieldRef",
        ),
        ({"envFrom": [{"prefix": "A"}]}, "spec.envFrom[0]: set exactly one of configMapRef and secretRef"),
        (
            {"resources": {"limits": {"cpu": "a lot"}}},
            "spec.resources.limits[cpu]: 'a lot' is not a quantity, such as 500m, 2 or 256Mi",
        ),
        (
            {"serviceAccountName": "SA"},
            "spec.serviceAccountName: 'SA' is not an object name: lower-case letters, digits, '-' and '.', such as "
            "my-config",
        ),
        (
            {"serviceAccountName": "agentos-engine"},
            "spec.serviceAccountName: agentos-engine is the account of the realm's engine; choose another, or leave the "
            "field out",
        ),
        ({"imagePullSecrets": ["s"]}, "spec.imagePullSecrets[0]: must be a map, got the text 's'"),
    ],
)
def test_a_worker_s_fault_is_said_once_with_its_path(changes, said):
    assert texts(validate_worker(worker(**changes))) == [said]


def test_all_faults_of_a_worker_are_said_at_once():
    found = validate_worker(worker(replicas=-1, owns=["iii", "a b"], version="x", manifest={"name": 5, "zzz": 1}))
    assert {finding.path for finding in errors(found)} == {
        "spec.replicas",
        "spec.owns[0]",
        "spec.owns[1]",
        "spec.version",
        "spec.manifest.name",
        "spec.manifest.zzz",
    }


def test_own_patterns_that_overlap_are_a_warning():
    found = validate_worker(worker(owns=["wasm::run", "wasm"]))
    assert errors(found) == []
    assert texts(warnings(found)) == ["spec.owns[1]: wasm::* overlaps wasm::run in spec.owns[0]; one of them is enough"]


def test_called_patterns_that_overlap_are_a_warning():
    found = validate_worker(worker(calls=["state::*", "state::get", "publish", "publish::later"]))
    assert texts(found) == ["spec.calls[1]: state::get overlaps state::* in spec.calls[0]; one of them is enough"]


@pytest.mark.parametrize(
    "calls", [[], ["vault::*", "approval::resolve", "configuration::set"]], ids=["none", "sensitive"]
)
def test_any_choice_of_what_a_worker_may_call_is_fine(calls):
    assert validate_worker(worker(calls=calls)) == []


def test_a_scope_that_another_covers_is_a_warning():
    found = validate_worker(worker(stateScopes=["w*", "w-1", "x"]))
    assert texts(found) == ["spec.stateScopes[1]: w-1 is covered by w* in spec.stateScopes[0]; one of them is enough"]
    assert errors(found) == []


def test_a_base_image_is_an_image():
    manifest = {"name": "w", "runtime": {"base_image": "python:3.13-slim"}, "scripts": {"start": "python -m w"}}
    assert validate_worker(worker(image=None, manifest=manifest)) == []


@pytest.mark.parametrize("deploy", ["binary", "bundle"])
def test_a_base_image_has_no_binary_and_no_bundle_in_it(deploy):
    manifest = {"name": "w", "deploy": deploy, "runtime": {"base_image": "debian:13"}, "scripts": {"start": "w"}}
    (found,) = errors(validate_worker(worker(image=None, manifest=manifest)))
    assert str(found) == (
        f"spec.image: the manifest's deploy is {deploy}, and a {deploy} does not run in a pod by itself; set spec.image"
    )


def test_an_inline_manifest_is_as_large_as_a_text_at_most():
    def sized(count):
        return validate_worker(worker(manifest={"name": "w", "env": {f"A{n}": "ä" * 1000 for n in range(count)}}))

    assert sized(32) == []
    (found,) = sized(33)
    assert str(found) == "spec.manifest: has 66307 bytes, more than the 65536 that are allowed"


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        (None, ["kind: is required; agentos.dev has the kinds Worker and Realm"]),
        ({"kind": "Pod"}, ["kind: must be Worker or Realm, got the text 'Pod'"]),
        (
            {"kind": "FunctionClaim"},
            ["kind: a FunctionClaim is made by the operator; write spec.owns of a Worker instead"],
        ),
        (worker() | {"apiVersion": "v1"}, ["apiVersion: must be agentos.dev/v1alpha1, got the text 'v1'"]),
        (worker() | {"spce": 1}, ["spce: unknown field spce; did you mean spec?"]),
        (worker() | {"spec": None}, ["spec: is required"]),
        (worker() | {"spec": []}, ["spec: must be a map, got a list"]),
        (worker() | {"metadata": {}}, ["metadata.name: is required"]),
        (worker() | {"metadata": {"generateName": "w-"}}, []),
        (
            worker() | {"metadata": {"name": "x" * 64}},
            ["metadata.name: has more than 63 characters, too many for the labels that carry it; use a shorter name"],
        ),
        (realm(namespace="team-a"), []),
        (
            realm(
                namespace="a",
                engine={"mode": "Dedicated", "storage": {"size": "1Gi", "storageClassName": "fast"}, "image": "e:1"},
                deletionPolicy="Delete",
            ),
            [],
        ),
        (realm(), ["spec.namespace: is required"]),
        (
            realm(namespace="Team_A"),
            ["spec.namespace: 'Team_A' is not a DNS label: lower-case letters, digits and '-', such as team-a"],
        ),
        (realm(namespace="a", engine={"storage": {}}), ["spec.engine.storage.size: is required"]),
        (
            realm(namespace="a", engine={"mode": "Shared"}),
            ["spec.engine.mode: must be one of Dedicated or External; got the text 'Shared'"],
        ),
        (realm(namespace="a", engine={"mode": "External", "url": "ws://engine.tools.svc:49134"}), []),
        (
            realm(
                namespace="a",
                engine={
                    "mode": "External",
                    "url": "wss://[fd00::1]:49134/w/$(TOKEN)/agentos?x=1",
                    "tokenSecretRef": {"name": "engine"},
                },
            ),
            [],
        ),
        (
            realm(namespace="a", engine={"mode": "External"}),
            ["spec.engine.url: is required with mode: External: say where the engine is"],
        ),
        (
            realm(namespace="a", engine={"url": "ws://e:1", "tokenSecretRef": {"name": "engine"}}),
            [
                f"spec.engine.{part}: is for mode: External only: a dedicated engine is where the operator makes it"
                for part in ("url", "tokenSecretRef")
            ],
        ),
        (
            realm(
                namespace="a",
                engine={"mode": "External", "url": "ws://e:1", "image": "e:1", "storage": {"size": 1}, "resources": {}},
                http={},
            ),
            [
                f"spec.{part}: is for mode: Dedicated only: the operator makes nothing for an engine that somebody else runs"
                for part in ("engine.storage", "engine.resources", "engine.image", "http")
            ],
        ),
        *(
            (
                realm(namespace="a", engine={"mode": "External", "url": url} | token),
                ["spec.engine.tokenSecretRef: goes where $(TOKEN) stands in url: give both, or neither"],
            )
            for url, token in (
                ("ws://e/w/$(TOKEN)", {}),
                ("ws://e", {"tokenSecretRef": {"name": "engine"}}),
            )
        ),
        *(
            (
                realm(namespace="a", engine={"mode": "External", "url": url}),
                [
                    f"spec.engine.url: '{url}' is not the address of an engine, such as ws://engine.tools.svc:49134 or "
                    "wss://engine.example.com/w/$(TOKEN)/agentos, where $(TOKEN) stands for the token of tokenSecretRef"
                ],
            )
            for url in ("http://e", "ws://me:secret@e", "ws://e/$(POD_UID)", "ws://e/a b", "ws://e:1x", "ws://")
        ),
        (realm(namespace="a", http={}), []),
        (realm(namespace="a", http={"auth": "jwt", "jwt": JWT}), []),
        (realm(namespace="a", http={"routes": [{"path": "/hooks/*", "methods": ["POST"], "auth": "none"}]}), []),
        (
            realm(namespace="a", http={"auth": "basic"}),
            ["spec.http.auth: must be one of apiKey, jwt or none; got the text 'basic'"],
        ),
        (
            realm(namespace="a", http={"auth": "jwt"}),
            ["spec.http.jwt: is required where auth, or the auth of a route, is jwt: say issuer, audience and jwksUrl"],
        ),
        (
            realm(
                namespace="a",
                networkPolicy={
                    "extraFrom": [
                        {},
                        {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8"]}},
                        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
                        {
                            "namespaceSelector": {
                                "matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]
                            }
                        },
                        {"namespaceSelector": {}, "ports": ["http", "bus"]},
                    ]
                },
            ),
            [
                "spec.networkPolicy.extraFrom[0]: names nobody: set podSelector, namespaceSelector, or both; or ipBlock",
                "spec.networkPolicy.extraFrom[1]: ipBlock stands alone: pods are chosen by podSelector and namespaceSelector",
                "spec.networkPolicy.extraFrom[2].ipBlock.except[0]: 11.0.0.0/16 is not a part of 10.0.0.0/8; "
                "leave out ranges within it",
                "spec.networkPolicy.extraFrom[2].ipBlock.except[1]: 10.0.0.0/8 is not a part of 10.0.0.0/8; "
                "leave out ranges within it",
                "spec.networkPolicy.extraFrom[3].podSelector.matchExpressions[0].values: "
                "values goes with the operators In and NotIn, which need it, and with no other",
                "spec.networkPolicy.extraFrom[4].namespaceSelector.matchExpressions[0].values: "
                "values goes with the operators In and NotIn, which need it, and with no other",
            ],
        ),
        (
            realm(
                namespace="a",
                networkPolicy={
                    "extraFrom": [
                        {"ipBlock": {"cidr": "10.0.0.1/8"}},
                        {"ipBlock": {"cidr": "10.0.0.1"}},
                        {"podSelector": {"matchLabels": {"a": "b/c"}}},
                        {"podSelector": {}, "ports": ["console"]},
                    ]
                },
            ),
            [
                "spec.networkPolicy.extraFrom[0].ipBlock.cidr: '10.0.0.1/8' is not a range of addresses whose host bits are "
                "zero, such as 10.20.0.0/16",
                "spec.networkPolicy.extraFrom[1].ipBlock.cidr: '10.0.0.1' is not a range of addresses whose host bits are "
                "zero, such as 10.20.0.0/16",
                "spec.networkPolicy.extraFrom[2].podSelector.matchLabels[a]: 'b/c' is not a label's value: letters, digits, "
                "'-', '_' and '.', at most 63",
                "spec.networkPolicy.extraFrom[3].ports[0]: must be one of http, stream, bus or metrics; got the text 'console'",
            ],
        ),
        (
            realm(namespace="a", http={"expose": {"type": "Gateway"}}),
            [
                "spec.http.expose.host: host is required where type is Ingress or Gateway: the name by which callers reach the "
                "realm",
                "spec.http.expose.gateway: gateway is required where type is Gateway: it names the Gateway that the route is "
                "attached to",
            ],
        ),
        (
            realm(
                namespace="a",
                http={
                    "auth": "none",
                    "expose": {"type": "Ingress", "host": "a.b", "gateway": {"name": "g"}, "from": [{}]},
                },
            ),
            [
                "spec.http.expose.gateway: is used by nothing: type is Ingress",
                "spec.http.auth: lets in whoever reaches the port, and spec.http.expose takes it out of the cluster; ask for "
                "apiKey or jwt",
                "spec.http.expose.from[0]: names nobody: set podSelector, namespaceSelector, or both; or ipBlock",
            ],
        ),
        (
            realm(namespace="a", http={"expose": {"type": "Ingress", "host": "*.b", "path": "/a/"}}),
            [
                "spec.http.expose.host: '*.b' is not a host name: lower-case letters, digits, '-' and '.', such as "
                "shop.example.org",
                "spec.http.expose.path: '/a/' is not a path without a slash at its end, such as /webhooks",
            ],
        ),
        (realm(namespace="a", http={"expose": {"type": "None"}}, networkPolicy={"enabled": False}), []),
        (
            realm(namespace="a", http={"routes": [{"path": "/api/*", "auth": "jwt"}]}),
            ["spec.http.jwt: is required where auth, or the auth of a route, is jwt: say issuer, audience and jwksUrl"],
        ),
        (
            realm(namespace="a", http={"jwt": JWT}),
            ["spec.http.jwt: is used by nothing: neither auth nor a route says jwt"],
        ),
        (
            realm(namespace="a", http={"auth": "jwt", "jwt": JWT | {"jwksUrl": "http://example.org/keys"}}),
            [
                "spec.http.jwt.jwksUrl: 'http://example.org/keys' is not an https:// URL; http:// is for Services of "
                "the cluster only, such as http://dex.auth.svc:5556/keys, for who can change the keys on their way can "
                "be anybody"
            ],
        ),
        (realm(namespace="a", http={"auth": "jwt", "jwt": JWT | {"jwksUrl": "http://dex.auth.svc:5556/keys"}}), []),
        (
            realm(namespace="a", http={"routes": [{"path": "/a*", "auth": "none"}]}),
            [
                "spec.http.routes[0].path: '/a*' is not a path such as /webhooks/github, or one with all that is below "
                "it, such as /webhooks/*"
            ],
        ),
        (
            realm(
                namespace="a",
                http={
                    "routes": [
                        {"path": "/a", "auth": "none"},
                        {"path": "/b", "auth": "none"},
                        {"path": "/a", "auth": "apiKey"},
                    ]
                },
            ),
            ["spec.http.routes[2].path: /a is in spec.http.routes[0] too, for every method; remove one of them"],
        ),
        (
            realm(
                namespace="a",
                http={
                    "routes": [
                        {"path": "/a", "methods": ["GET"], "auth": "none"},
                        {"path": "/a", "methods": ["POST"], "auth": "apiKey"},
                    ]
                },
            ),
            [],
        ),
        (
            realm(namespace="a", http={"routes": [{"path": "/a/:b/c/:b", "auth": "none"}]}),
            ["spec.http.routes[0].path: /a/:b/c/:b has a parameter twice; give each its own name"],
        ),
        (
            realm(
                namespace="a",
                http={"routes": [{"path": "/:a", "auth": "none"}, {"path": "/:b", "auth": "jwt"}], "jwt": JWT},
            ),
            ["spec.http.routes[1].path: /:b is in spec.http.routes[0] too, for every method; remove one of them"],
        ),
        (
            realm(namespace="a", deletionPolicy=1),
            ["spec.deletionPolicy: must be one of Retain or Delete; got the whole number 1"],
        ),
    ],
)
def test_a_resource_is_validated_by_its_kind(resource, said):
    assert texts(validate(resource)) == said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [*WorkerSpec.model_json_schema(by_alias=True)["properties"], "namespace", "engine", "http", "deletionPolicy", "x"]
)
MANIFESTS = st.dictionaries(
    st.sampled_from(["name", "version", "runtime", "scripts", "env", "resources", "dependencies", "deploy", "zz"]),
    JSON | st.dictionaries(st.sampled_from(["base_image", "kind", "start", "setup", "cpus", "w"]), JSON),
)


@settings(deadline=None)
@given(JSON | st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec", "status"]) | st.text(), JSON))
def test_any_value_gives_a_list_of_findings(value):
    for check in (validate, validate_worker, validate_realm):
        found = check(value)
        assert isinstance(found, list)
        assert all(isinstance(finding, Finding) and str(finding) and finding.message for finding in found)


@settings(deadline=None)
@given(st.dictionaries(FIELDS, JSON), MANIFESTS | JSON)
def test_any_spec_gives_a_list_of_findings_and_stays_as_it_is(spec, manifest):
    for resource in (worker() | {"spec": spec | {"manifest": manifest}}, realm(**spec)):
        before = copy.deepcopy(resource)
        found = validate(resource)
        assert all(finding.path for finding in found)
        assert repr(resource) == repr(before)


def test_keys_that_are_no_texts_are_findings_too():
    assert errors(validate_worker({5: 1, "kind": "Worker", "spec": {1: 2, "manifest": {3: 4}, "env": [{6: 7}]}}))


def test_a_function_claim_is_read_by_its_model():
    claim = FunctionClaim.model_validate(
        {
            "apiVersion": "agentos.dev/v1alpha1",
            "kind": "FunctionClaim",
            "metadata": {"name": "wasm"},
            "spec": {
                "segment": "wasm",
                "holders": [{"pattern": "wasm::*", "worker": "w", "uid": "u", "since": "2026-01-01T00:00:00Z"}],
            },
        }
    )
    assert claim.spec.holders[0].worker == "w"


def test_what_is_nested_too_deep_is_refused_without_walking_into_it():
    deep: object = 1
    for _ in range(5000):
        deep = {"a": deep}
    resource = {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "spec": {"manifest": {"name": "w", "config": deep}},
    }
    for check in (validate, validate_worker):
        assert [str(finding) for finding in check(resource)] == ["spec: is nested more than 64 levels deep; flatten it"]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "agentos-token-other", "key": "token"}}}]},
            "spec.env[0].valueFrom.secretKeyRef.name",
        ),
        ({"envFrom": [{"secretRef": {"name": "agentos-token-other"}}]}, "spec.envFrom[0].secretRef.name"),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "agentos-api-key", "key": "key"}}}]},
            "spec.env[0].valueFrom.secretKeyRef.name",
        ),
        ({"envFrom": [{"secretRef": {"name": "agentos-api-key"}}]}, "spec.envFrom[0].secretRef.name"),
    ],
)
def test_a_worker_cannot_read_anothers_identity_or_the_realms_api_key(spec, path):
    resource = {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": "w"},
        "spec": {"image": "i:1", "manifest": {"name": "w"}} | spec,
    }
    (found,) = validate_worker(resource)
    assert found.path == path
    assert "name another Secret" in found.message


def test_a_worker_cannot_have_the_engines_name():
    resource = {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": "agentos-engine"},
        "spec": {"image": "i:1", "manifest": {"name": "w"}},
    }
    assert [f.path for f in validate_worker(resource)] == ["metadata.name"]


@pytest.mark.parametrize("path", ["/", "/*", "/a", "/a/", "/a/*", "/a/:id/b.c", "/.well-known/x", "/a/x:run"])
def test_a_path_of_a_route_that_the_engine_takes(path):
    assert validate_realm(realm(namespace="a", http={"routes": [{"path": path, "auth": "none"}]})) == []


@pytest.mark.parametrize(
    "path",
    ["", "a", "//a", "/a*", "/*/a", "/a/../b", "/.", "/%2e%2e/a", "/a?b", "/a#b", "/:", "/:1", "/a b", "/a" * 40],
)
def test_a_path_of_a_route_that_says_nothing_clear(path):
    (found,) = validate_realm(realm(namespace="a", http={"routes": [{"path": path, "auth": "none"}]}))
    assert found.path == "spec.http.routes[0].path"


@pytest.mark.parametrize(
    "spec",
    [
        {"env": [{"name": "PIN", "value": 48151623}]},
        {"env": ["PIN=48151623"]},
        {"env": "PIN=48151623"},
        {"args": ["--pin", 48151623]},
        {"command": "run --pin=48151623"},
        {"manifest": {"name": "w", "env": {"PIN": 48151623}}},
        {"manifest": {"name": "w", "env": "PIN=48151623"}},
    ],
)
def test_what_may_be_a_secret_is_not_repeated_in_a_finding(spec):
    found = validate_worker(worker(**spec))
    assert any("must be" in str(finding) for finding in found)
    assert "48151623" not in " ".join(map(str, found))
