"""Function namespaces never clash."""

import pytest

from tests.cluster import Cluster
from tests.demo import ROOT
from tests.e2e.support import apply, condition, get, listed, until, until_condition, until_ready, worker

pytestmark = pytest.mark.cluster


def test_a_worker_that_claims_sandbox_is_refused_with_the_reason_and_the_remedy(cluster: Cluster) -> None:
    refused = cluster.kubectl("apply", "-f", str(ROOT / "examples" / "refused" / "sandbox.yaml"), check=False)
    assert refused.returncode != 0
    assert "sandbox::* belongs to the engine" in refused.stderr
    assert "claim a function namespace of your own" in refused.stderr
    assert not get(cluster, "worker", "my-sandbox")


def test_a_second_claimant_is_warned_waits_without_a_pod_and_takes_over_when_the_first_goes(cluster: Cluster) -> None:
    apply(cluster, worker("first", "shared::one", owns=["shared"]))
    until_ready(cluster, "first")
    applied = apply(cluster, worker("second", "shared::one", owns=["shared::*"]))
    assert "Warning: spec.owns[0]: shared::* is held by Worker first; this Worker waits" in applied.stderr
    message = until_condition(cluster, "second", "FunctionsClaimed", "False", "Clash")
    assert message == (
        "shared::* is held by Worker first; no pod runs until it is free: delete the holder, or claim other functions"
    )
    assert condition(get(cluster, "worker", "second"), "Ready")[:2] == ("False", "Clash")
    assert not listed(cluster, "pods", "agentos.dev/worker=second")
    cluster.kubectl("delete", "worker", "first", "-n", "default")
    until_ready(cluster, "second")
    holders = get(cluster, "functionclaim", "shared")["spec"]["holders"]
    assert [(h["pattern"], h["worker"]) for h in holders] == [("shared::*", "second")]


def test_overlapping_patterns_in_one_namespace_share_one_claim_object(cluster: Cluster) -> None:
    apply(cluster, worker("reader", "files::read", owns=["files::read"]))
    until_ready(cluster, "reader")
    apply(
        cluster, worker("writer", "files::write", owns=["files::write"]), worker("all", "files::any", owns=["files::*"])
    )
    until_ready(cluster, "writer")
    message = until_condition(cluster, "all", "FunctionsClaimed", "False", "Clash")
    assert "files::* overlaps files::read, which is held by Worker reader" in message
    holders = get(cluster, "functionclaim", "files")["spec"]["holders"]
    assert sorted(h["pattern"] for h in holders) == ["files::read", "files::write"]


def test_an_edit_never_takes_a_function_from_its_holder(cluster: Cluster) -> None:
    apply(cluster, worker("older", "old::one"))
    until_ready(cluster, "older")
    apply(cluster, worker("newer", "new::one"))
    until_ready(cluster, "newer")
    greedy = worker("older", "old::one", owns=["old::one", "new::one"])
    apply(cluster, greedy)
    until_condition(cluster, "older", "FunctionsClaimed", "False", "Clash")
    assert [h["worker"] for h in get(cluster, "functionclaim", "new")["spec"]["holders"]] == ["newer"]
    assert condition(get(cluster, "worker", "newer"), "Ready")[0] == "True"


def test_a_pattern_that_is_given_up_is_free_only_when_no_pod_serves_it_any_more(cluster: Cluster) -> None:
    apply(cluster, worker("giver", "kept::one", "given::one", owns=["kept::*", "given::*"]))
    until_ready(cluster, "giver")
    apply(cluster, worker("taker", "given::one", owns=["given::*"]))
    until_condition(cluster, "taker", "FunctionsClaimed", "False", "Clash")
    apply(cluster, worker("giver", "kept::one", "given::one", owns=["kept::*"]))
    generation = get(cluster, "worker", "giver")["metadata"]["generation"]
    until("the edit was seen", lambda: get(cluster, "worker", "giver")["status"]["observedGeneration"] == generation)
    assert condition(get(cluster, "worker", "taker"), "Ready")[1] == "Clash"
    apply(cluster, worker("giver", "kept::one", owns=["kept::*"]))
    until_ready(cluster, "giver", "taker")


def test_a_claim_that_is_deleted_by_hand_goes_back_to_the_worker_that_runs(cluster: Cluster) -> None:
    apply(cluster, worker("holds-both", "hand::one", owns=["hand::*"]))
    until_ready(cluster, "holds-both")
    apply(cluster, worker("waits", "hand::one", owns=["hand::*"]))
    until_condition(cluster, "waits", "FunctionsClaimed", "False", "Clash")
    before = get(cluster, "functionclaim", "hand")["metadata"]["uid"]
    cluster.kubectl("delete", "functionclaim", "hand", "-n", "default")
    claim = until("the claim is recorded again", lambda: get(cluster, "functionclaim", "hand"))
    assert claim["metadata"]["uid"] != before
    assert [h["worker"] for h in claim["spec"]["holders"]] == ["holds-both"]
    assert condition(get(cluster, "worker", "holds-both"), "Ready")[0] == "True"


def test_the_api_server_itself_refuses_overlapping_holders(cluster: Cluster) -> None:
    def holder(pattern: str, name: str) -> dict[str, str]:
        return {"pattern": pattern, "worker": name, "uid": f"uid-{name}", "since": "2026-01-01T00:00:00Z"}

    claim = {
        "apiVersion": "agentos.dev/v1alpha1", "kind": "FunctionClaim", "metadata": {"name": "forged", "namespace": "default"},
        "spec": {"segment": "forged", "holders": [holder("forged::*", "a"), holder("forged::one", "b")]},
    }  # fmt: skip
    refused = apply(cluster, claim, check=False)
    assert refused.returncode != 0
    assert "overlap" in refused.stderr
    until("nothing was stored", lambda: not get(cluster, "functionclaim", "forged"))
