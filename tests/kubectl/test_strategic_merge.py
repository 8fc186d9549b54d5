"""What becomes of a pod template by a partial one, against the real ``kubectl patch --local --type strategic``."""

import copy
import json
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from agentos_contracts.pod_fields import KUBERNETES, from_openapi
from agentos_contracts.strategic_merge import merge, patch_findings
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cluster import Steps, tools

POD: dict[str, Any] = {
    "metadata": {"labels": {"app": "a", "tier": "back"}, "annotations": {"note": "x"}},
    "spec": {
        "serviceAccountName": "a",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "readinessGates": [{"conditionType": "agentos.dev/registered"}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}],
        "containers": [
            {
                "name": "worker",
                "image": "a:1",
                "command": ["run"],
                "args": ["--x", "--y"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "securityContext": {"capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                "ports": [{"containerPort": 80, "name": "http"}],
            },
            {"name": "other", "image": "o:1"},
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}, {"name": "data", "emptyDir": {}}],
    },
}  # fmt: skip


def worker(**changes: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **changes}]}}


PATCHES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a label is added and one changed": {"metadata": {"labels": {"app": "b", "new": "y"}}},
    "null removes": {"metadata": {"annotations": None, "labels": {"tier": None}}, "spec": {"nodeSelector": None}},
    "null removes what is not there": {"spec": {"priorityClassName": None, "affinity": None}},
    "a map is merged": {"spec": {"securityContext": {"runAsUser": 1000}}},
    "a map is replaced": {"spec": {"securityContext": {"$patch": "replace", "runAsUser": 1000}}},
    "a map is emptied": {"spec": {"securityContext": {"$patch": "delete"}}},
    "a map that is not there is deleted": {"spec": {"affinity": {"$patch": "delete"}}},
    "a map of names is replaced": {"spec": {"nodeSelector": {"$patch": "replace", "zone": "a"}}},
    "a new map": {"spec": {"affinity": {"nodeAffinity": {"x": None}, "podAffinity": None}}},
    "a list without a key is replaced": {"spec": {"tolerations": [{"key": "c", "operator": "Exists"}]}},
    "a list without a key is emptied": {"spec": {"tolerations": []}},
    "a list with a key is left alone by an empty one": {"spec": {"containers": []}},
    "an item is changed": worker(image="b:2"),
    "an item is added before what is there": {"spec": {"containers": [{"name": "side", "image": "s:1"}]}},
    "items are added on both sides": {
        "spec": {"containers": [{"name": "first", "image": "f"}, {"name": "worker", "tty": True}, {"name": "last"}]}
    },
    "an item is deleted": {"spec": {"containers": [{"name": "other", "$patch": "delete"}]}},
    "an item that is not there is deleted": {"spec": {"containers": [{"name": "none", "$patch": "delete"}]}},
    "a list is replaced": {"spec": {"containers": [{"$patch": "replace"}, {"name": "only", "image": "o"}]}},
    "a list is replaced by none": {"spec": {"volumes": [{"$patch": "replace"}]}},
    "a new list with directives in it": {
        "spec": {
            "initContainers": [{"$patch": "replace"}, {"name": "i", "image": "i"}, {"name": "x", "$patch": "delete"}]
        }
    },
    "a list in an item is merged by its own key": worker(
        env=[{"name": "B", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "D"}]
    ),
    "a key that is a number": worker(ports=[{"containerPort": 80, "protocol": "UDP"}, {"containerPort": 81}]),
    "two items of one key in the patch": worker(env=[{"name": "D", "value": "1"}, {"name": "D", "value": "2"}]),
    "mounts have their path as key": worker(volumeMounts=[{"mountPath": "/tmp", "name": "data"}]),
    "quantities": worker(resources={"limits": {"cpu": 2, "memory": None}, "requests": {"cpu": "100m"}}),
    "a list of texts is replaced": worker(args=["--z"]),
    "texts are deleted from a list": worker(**{"$deleteFromPrimitiveList/args": ["--x", "--none"]}),
    "texts are deleted from a list that is not there": {"spec": {"$deleteFromPrimitiveList/none": ["x"]}},
    "only some fields are kept": {
        "spec": {"volumes": [{"name": "tmp", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}
    },
    "only some fields of the pod are kept": {"spec": {"$retainKeys": ["containers"]}},
    "items are put in order": {"spec": {"$setElementOrder/containers": [{"name": "other"}, {"name": "worker"}]}},
    "items are put in order and changed": {
        "spec": {
            "$setElementOrder/containers": [{"name": "new"}, {"name": "other"}, {"name": "gone"}],
            "containers": [{"name": "new", "image": "n"}, {"name": "other", "image": "x"}],
        }
    },
    "items are put in order and deleted": worker(
        **{
            "$setElementOrder/env": [{"name": "C"}, {"name": "A"}],
            "env": [{"name": "A", "value": "x"}, {"name": "B", "$patch": "delete"}],
        }
    ),
    "texts are put in order": worker(**{"$setElementOrder/args": ["--y", "--x"]}),
    "texts are replaced and put in order": worker(**{"$setElementOrder/args": ["a", "b"], "args": ["a", "b"]}),
    "one item is ordered before another": worker(**{"$setElementOrder/env": [{"name": "B"}, {"name": "A"}]}),
    "gates are replaced": {"spec": {"readinessGates": [{"conditionType": "other"}]}},
}


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict, dict], dict]:
    """What kubectl makes of a pod template by a patch. Raises CalledProcessError when it refuses the patch."""
    program = tools.kubectl(Steps())
    folder = tmp_path_factory.mktemp("kubectl")

    def patched(template: dict, patch: dict) -> dict:
        whole = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "a"},
            "spec": {"template": template},
        }
        (folder / "deployment.json").write_text(json.dumps(whole))
        done = _run(program, folder, {"spec": {"template": patch}})
        return json.loads(done)["spec"]["template"]

    return patched


def _run(program: Path, folder: Path, patch: dict) -> str:
    command = [
        program, "patch", "--local", "--type=strategic", "-f", folder / "deployment.json", "-o", "json",
        f"--patch={json.dumps(patch)}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def settled(value: Any) -> Any:
    """Without the nulls and directives that kubectl leaves where something is new, and the API server does not read."""
    if isinstance(value, dict):
        return {key: settled(each) for key, each in value.items() if each is not None and not key.startswith("$")}
    if isinstance(value, list):
        return [settled(each) for each in value if not (isinstance(each, dict) and "$patch" in each)]
    return value


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES.keys())
def test_a_patch_does_what_it_does_in_kubectl(kubectl, patch):
    before, given_patch = copy.deepcopy(POD), copy.deepcopy(patch)
    merged = merge(POD, patch)
    assert merged == settled(kubectl(POD, patch))
    assert (before, given_patch) == (POD, patch)
    assert settled(merged) == merged


NEW: dict[str, Any] = {"spec": {"affinity": {"$patch": "replace", "podAffinity": {}}}}


def test_replacing_where_nothing_is_gives_the_contents_which_kubectl_drops_without_a_word(kubectl):
    assert "affinity" not in kubectl(POD, NEW)["spec"]
    assert merge(POD, NEW)["spec"]["affinity"] == {"podAffinity": {}}


REFUSED_BY_KUBECTL = {
    "an item without its key": {"spec": {"containers": [{"image": "x"}]}},
    "a merge directive on an item": worker(**{"$patch": "merge"}),
    "a merge directive on a map": {"spec": {"securityContext": {"$patch": "merge"}}},
    "an unknown value of a directive": {"spec": {"securityContext": {"$patch": "remove"}}},
    "a field beside those that are kept": {"spec": {"securityContext": {"$retainKeys": ["a"], "runAsUser": 1}}},
    "an order that lacks an item": worker(
        **{"$setElementOrder/env": [{"name": "A"}], "env": [{"name": "B", "value": "x"}]}
    ),
    "an order that is another than the patch's": worker(
        **{
            "$setElementOrder/env": [{"name": "A"}, {"name": "B"}],
            "env": [{"name": "B", "value": "x"}, {"name": "A", "value": "y"}],
        }
    ),
    "an order of what is no list": {"spec": {"$setElementOrder/none": ["a"]}},
}


@pytest.mark.parametrize("patch", REFUSED_BY_KUBECTL.values(), ids=REFUSED_BY_KUBECTL.keys())
def test_what_kubectl_refuses_is_an_error(kubectl, patch):
    with pytest.raises(subprocess.CalledProcessError):
        kubectl(POD, patch)
    assert [each for each in patch_findings(patch, "spec.template") if each.severity == "error"]


# --- Generated ---


def chosen(*names: str, item: Callable[[str], st.SearchStrategy]) -> st.SearchStrategy[list]:
    """A list of items for some of these names, in any order."""
    return st.permutations(names).flatmap(
        lambda order: st.integers(len(order) // 2, len(order)).flatmap(
            lambda n: st.tuples(*map(item, order[:n])).map(list)
        )
    )


def some(**fields: st.SearchStrategy) -> st.SearchStrategy[dict]:
    """A map with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def variable(name: str) -> st.SearchStrategy[dict]:
    return some(value=st.sampled_from("xyz")).map(lambda values: {"name": name, **values})


def container(name: str) -> st.SearchStrategy[dict]:
    fields = some(
        image=st.sampled_from(["a:1", "a:2"]),
        args=st.lists(st.sampled_from(["--x", "--y", "--z"]), max_size=3),
        ports=st.lists(st.sampled_from([80, 81, 82]), unique=True).map(
            lambda ports: [{"containerPort": p} for p in ports]
        ),
        resources=some(limits=st.dictionaries(st.sampled_from(["cpu", "memory"]), st.sampled_from([1, "2"]))),
    )
    return st.builds(
        lambda env, values: {"name": name, "env": env, **values}, chosen("A", "B", "C", "D", item=variable), fields
    )


TOLERATIONS = st.lists(st.sampled_from("ab").map(lambda key: {"key": key, "operator": "Exists"}), max_size=2)
LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))
SPECS = st.builds(
    lambda containers, others: {"containers": containers, **others},
    chosen("worker", "first", "last", item=container),
    some(nodeSelector=LABELS, tolerations=TOLERATIONS),
)
TEMPLATES = st.fixed_dictionaries({"metadata": some(labels=LABELS), "spec": SPECS})


@st.composite
def patches(draw: st.DrawFn) -> dict:
    """A pod template of the same kind, in which some things are removed, replaced, deleted and put in order instead."""
    return _marked(draw(TEMPLATES), draw)


def _marked(value: Any, draw: st.DrawFn) -> Any:
    rarely = st.integers(0, 9).map(lambda n: n == 0)
    if not isinstance(value, dict):
        return value
    marked: dict[str, Any] = {}
    for name, inner in value.items():
        if name not in ("name", "containerPort", "key") and draw(rarely):
            marked[name] = None
        elif isinstance(inner, list) and name in ("containers", "env"):
            these = [_marked(each, draw) for each in inner]
            these = [{"name": each["name"], "$patch": "delete"} if draw(rarely) else each for each in these]
            if draw(rarely):
                these.insert(draw(st.integers(0, len(these))), {"$patch": "replace"})
            elif draw(st.integers(0, 2)) == 0:
                names = [each["name"] for each in these if "$patch" not in each]
                for other in ("A", "B", "C") if name == "env" else ("worker", "first", "last"):
                    if other not in [each["name"] for each in these] and draw(st.booleans()):
                        names.insert(draw(st.integers(0, len(names))), other)
                marked[f"$setElementOrder/{name}"] = [{"name": each} for each in names]
            marked[name] = these
        elif name == "args" and draw(st.booleans()):
            marked["$deleteFromPrimitiveList/args"] = inner
        else:
            marked[name] = _marked(inner, draw)
    return marked


@settings(
    max_examples=60, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(template=TEMPLATES, patch=patches())
def test_any_patch_does_what_it_does_in_kubectl(kubectl, template, patch):
    assert list(patch_findings(patch, "spec.template")) == []
    merged = merge(template, patch)
    try:
        assert merged == settled(kubectl(template, patch))
    except subprocess.CalledProcessError as refused:
        # An order of two lists that are both empty, which means nothing.
        if "no elements in any of the given slices" not in refused.stderr:
            raise


# --- The table of fields ---


def test_the_fields_are_those_of_the_kubernetes_of_the_tests():
    done = subprocess.run(
        ["go", "mod", "download", "-json", "k8s.io/kubernetes"], cwd=tools.KUBE_SOURCE, capture_output=True, text=True,
        check=True, timeout=500,
    )  # fmt: skip
    folder = Path(json.loads(done.stdout)["Dir"], "api", "openapi-spec", "v3")
    published = from_openapi(json.loads((folder / "apis__apps__v1_openapi.json").read_text()))
    assert json.loads((files("agentos_contracts") / "pod_fields.json").read_text()) == published
    assert ".".join(tools.kubernetes_version().split(".")[:2]) == KUBERNETES
