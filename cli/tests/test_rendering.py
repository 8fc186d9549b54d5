"""The Worker that ``agentos render`` writes from what was found."""

from pathlib import Path
from typing import Any

import pytest
from agentos.author.inspecting import Call, Inspection
from agentos.author.rendering import Rendered, relative_source, render
from agentos.author.scratch import read_worker
from agentos.files import KUBECTL_YAML
from agentos_contracts.documents import read_documents
from agentos_contracts.findings import errors

MANIFEST = "iii: v1\nname: shop\nversion: 1.2.0\nscripts:\n  start: agentos-worker run worker.py\n"


def rendered(
    folder: Path,
    functions: list[str],
    calls: dict[str, list[str]] | None = None,
    manifest: str = MANIFEST,
    **options: Any,
) -> Rendered:
    (folder / "iii.worker.yaml").write_text(manifest)
    found = Inspection(
        "shop",
        functions=[{"id": each} for each in functions],
        calls=[Call(*each) for each in sorted((calls or {}).items())],
        warnings=options.pop("warnings", []),
    )
    options = {"image": None, "namespace": None, "source": ".", "ran": True} | options
    return render(read_worker(folder), found, **options)


def worker_of(made: Rendered) -> dict[str, Any]:
    documents, findings = read_documents(made.text, max_bytes=2**20, yaml_version=KUBECTL_YAML)
    assert findings == []
    return documents[0].value


def test_it_is_a_valid_worker_with_comments_where_calls_were_found(tmp_path):
    made = rendered(
        tmp_path,
        ["shop::buy", "shop::sell"],
        {
            "publish": ["observed"],
            "state::get": ["observed", "worker.py:7", "worker.py:9", "worker.py:12", "b.py:1"],
            "mail::send": ["worker.py:3"],
            "shop::buy": ["worker.py:30"],
        },
        namespace="market",
        source="../shop",
    )
    assert made.text == (
        "apiVersion: agentos.dev/v1alpha1\n"
        "kind: Worker\n"
        "metadata:\n"
        "  name: shop\n"
        "  namespace: market\n"
        "  annotations:\n"
        "    agentos.dev/source: ../shop\n"
        "spec:\n"
        "  image: localhost/shop:1.2.0\n"
        "  owns:\n"
        "    - shop::*\n"
        "  calls:\n"
        "    - mail::send # worker.py:3\n"
        "    - publish # observed\n"
        "    - state::get # observed, worker.py:7, worker.py:9 and 2 more\n"
        "  manifest:\n"
        "    iii: v1\n"
        "    name: shop\n"
        "    version: 1.2.0\n"
        "    scripts:\n"
        "      start: agentos-worker run worker.py\n"
    )
    assert (made.findings, made.remarks) == ([], [])


@pytest.mark.parametrize(
    ("functions", "owns"),
    [
        (["shop::a"], ["shop::*"]),
        (["shop::a", "cart::a"], ["cart::a", "shop::a"]),
        (["cart::a", "cart::b"], ["cart::a", "cart::b"]),
        (["shop::a", "stream::get(carts)"], ["shop::a", "stream::get(carts)"]),
    ],
)
def test_it_owns_its_whole_namespace_or_each_function(tmp_path, functions, owns):
    made = rendered(tmp_path, functions)
    assert worker_of(made)["spec"]["owns"] == owns
    assert errors(made.findings) == []


def test_a_worker_named_like_built_in_functions_owns_each_of_its_own(tmp_path):
    manifest = "iii: v1\nname: stream\nscripts: {start: node x.js}\n"
    made = rendered(tmp_path, ["stream::mine"], manifest=manifest)
    assert worker_of(made)["spec"]["owns"] == ["stream::mine"]


def test_what_belongs_to_the_engine_is_a_finding(tmp_path):
    made = rendered(tmp_path, ["shop::a", "state::get"])
    assert [str(each) for each in errors(made.findings)] == [
        "spec.owns[1]: state::get belongs to the engine; remove it, or claim a function namespace of your own "
        "such as my-worker::*"
    ]


def test_a_function_that_no_pattern_names_is_told(tmp_path):
    made = rendered(tmp_path, ["shop::a", "a b"], {"an old": ["observed"]})
    assert worker_of(made)["spec"]["owns"] == ["shop::a"]
    assert "calls" not in worker_of(made)["spec"]
    assert [each.partition(": ")[0] for each in made.remarks] == [
        "a b cannot be claimed",
        "the call of an old cannot be written",
    ]


def test_an_id_without_colons_is_a_namespace_of_its_own(tmp_path):
    made = rendered(tmp_path, ["shop::a", "math.add"], {"math.sub": ["observed"]})
    assert worker_of(made)["spec"]["owns"] == ["math.add::*", "shop::a"]
    assert worker_of(made)["spec"]["calls"] == ["math.sub::*"]
    assert made.remarks == []


def test_without_functions_it_claims_nothing(tmp_path):
    made = rendered(tmp_path, [])
    assert "owns" not in worker_of(made)["spec"]
    assert made.remarks == ["it has registered no function; spec.owns is left out, and it claims nothing"]


def test_too_many_functions_become_wider_patterns_with_a_warning(tmp_path):
    made = rendered(tmp_path, [*(f"cart::f{n}" for n in range(33)), "shop::a"])
    assert worker_of(made)["spec"]["owns"] == ["cart::*", "shop::a"]
    assert made.remarks == ["it has 34 functions, and spec.owns takes 32: it claims all of cart::*"]


def test_too_many_calls_become_wider_patterns_with_a_warning(tmp_path):
    calls = {f"a{n % 4}::f{n}": [f"w.py:{n}"] for n in range(100)}
    made = rendered(tmp_path, ["shop::a"], calls)
    assert len(worker_of(made)["spec"]["calls"]) <= 64
    assert "a0::*" in worker_of(made)["spec"]["calls"]
    assert made.remarks == ["it calls 100 functions, and spec.calls takes 64: see its wide patterns"]
    assert errors(made.findings) == []


def test_the_manifest_means_the_same_to_kubectl(tmp_path):
    """kubectl reads YAML 1.1, where the manifest's bare ``yes`` and ``12:30`` are no texts."""
    manifest = MANIFEST + 'env:\n  A: "yes"\n  B: "12:30"\n  C: "0777"\n  D: "1_0"\n  E: "# no"\n  F: ""\n  G: "a: b"\n'
    assert worker_of(rendered(tmp_path, ["shop::a"], manifest=manifest))["spec"]["manifest"]["env"] == {
        **{"A": "yes", "B": "12:30", "C": "0777", "D": "1_0", "E": "# no", "F": "", "G": "a: b"},
    }


def test_without_a_run_the_namespace_of_its_name_is_assumed(tmp_path):
    made = rendered(tmp_path, [], {"state::get": ["worker.py:1"]}, ran=False)
    assert "    - shop::* # not run: taken from its name\n" in made.text
    assert worker_of(made)["spec"]["calls"] == ["state::get"]


def test_the_image_can_be_chosen(tmp_path):
    made = rendered(tmp_path, ["shop::a"], image="ghcr.io/acme/shop:2.0.0")
    assert worker_of(made)["spec"]["image"] == "ghcr.io/acme/shop:2.0.0"


def test_what_the_engine_warned_of_is_passed_on(tmp_path):
    assert rendered(tmp_path, ["shop::a"], warnings=["function refused"]).remarks == ["function refused"]


def test_the_folder_is_named_as_seen_from_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_source(Path("workers/shop"), None) == "workers/shop"
    assert relative_source(Path("workers/shop"), Path("fleet/shop.yaml")) == "../workers/shop"
    assert relative_source(Path("."), Path("shop.yaml")) == "."
