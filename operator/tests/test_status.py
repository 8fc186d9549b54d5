"""The one status write of a pass, and the Event that goes with it."""

import asyncio
import copy
from typing import Any

import pytest
from agentos_operator.cache import Cache
from agentos_operator.events import NOTE_LIMIT, Recorder
from agentos_operator.kinds import WORKER, Key
from agentos_operator.plan.conditions import condition_of
from agentos_operator.status import COUNT_DEBOUNCE, StatusWriter, refused
from agentos_operator.work_queue import WorkQueue

KEY = Key("Worker", "team", "wasm")
EARLIER = "2026-01-01T00:00:00Z"


def status(ready: str = "True", reason: str = "Ready", message: str = "It answers.", **fields: Any) -> dict:
    told = {"type": "Ready", "status": ready, "reason": reason, "message": message, "lastTransitionTime": EARLIER}
    return {"conditions": [told | {"observedGeneration": fields.pop("generation", 1)}], "replicas": 1} | fields


def worker(told: dict | None) -> dict:
    made = {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": "wasm", "namespace": "team", "uid": "w-uid", "generation": 1},
    }
    return made | ({"status": told} if told is not None else {})


class Written:
    """A writer on an API in memory that has one Worker."""

    def __init__(self, api: Any, debounce: float = 5.0) -> None:
        self.api, self.cache = api, Cache()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.writer = StatusWriter(api, self.cache, self.queue, Recorder(api, "operator-0"), debounce)

    def there(self, told: dict | None) -> None:
        self.cache.put(self.api.seed(worker(told)))

    async def write(self, told: dict) -> None:
        """One pass: what the cache has, and what its status should be."""
        await self.writer.write(KEY, WORKER, copy.deepcopy(self.cache.get(WORKER, "team", "wasm")), told)

    @property
    def patches(self) -> list[dict]:
        return [body for body in self.api.bodies if "status" in body]

    @property
    def events(self) -> list[dict]:
        return [body for body in self.api.bodies if body.get("kind") == "Event"]


@pytest.fixture
def written(api, clock) -> Written:
    return Written(api)


async def test_an_equal_status_is_not_written(written):
    written.there(status() | {"unknown": "field of somebody else"})
    await written.write(status())
    assert written.api.writes == []
    assert len(written.queue) == 0


async def test_the_first_status_is_written_at_once(written):
    written.there(None)
    await written.write(status("False", "PodsStarting", "waiting"))
    assert written.api.writes[0] == ("patch status", "Worker", "wasm")
    assert written.cache.get(WORKER, "team", "wasm")["status"] == status("False", "PodsStarting", "waiting")


async def test_the_patch_carries_the_uid_so_that_a_namesake_is_never_hit(written):
    written.there(None)
    await written.write(status())
    assert written.patches == [{"metadata": {"uid": "w-uid"}, "status": status()}]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(status("False", "NotRegistered", "m"), id="status"),
        pytest.param(status(reason="Other"), id="reason"),
        pytest.param(status(generation=2), id="generation seen"),
    ],
)
async def test_a_change_of_ready_is_written_at_once(written, after):
    written.there(status())
    await written.write(after)
    assert [body["status"] for body in written.patches] == [after]


async def test_other_words_about_the_same_reason_are_gathered_for_two_seconds(written, clock):
    written.there(status())
    started = clock.now
    await written.write(status(message="held by a"))
    assert written.patches == []
    assert await written.queue.get() == KEY
    assert clock.now - started == pytest.approx(2.0, abs=0.1)
    await written.write(status(message="held by b"))
    assert [condition_of(body, "Ready")["message"] for body in written.patches] == ["held by b"]


async def test_other_changes_are_gathered_and_written_when_they_are_due(written, clock):
    written.there(status())
    started = clock.now
    await written.write(status(replicas=2))
    assert written.patches == []
    assert await written.queue.get() == KEY
    assert clock.now - started == pytest.approx(5.0, abs=0.1)
    await written.write(status(replicas=3))
    assert [body["status"]["replicas"] for body in written.patches] == [3]
    assert written.events == []


async def test_changes_that_keep_coming_do_not_postpone_the_write(written, clock):
    written.there(status())
    for replicas in range(2, 7):
        await written.write(status(replicas=replicas))
        clock.now += 1.01
    assert written.patches == []
    await written.write(status(replicas=7))
    assert [body["status"]["replicas"] for body in written.patches] == [7]


async def test_a_change_that_goes_back_by_itself_is_never_written(written, clock):
    written.there(status())
    await written.write(status(replicas=2))
    await written.write(status())
    clock.now += 60
    await written.write(status(replicas=2))
    assert written.patches == []


async def test_a_change_of_ready_takes_what_was_gathered_with_it(written):
    written.there(status())
    await written.write(status(replicas=2))
    await written.write(status("False", "NotRegistered", "m", replicas=2))
    assert [body["status"]["replicas"] for body in written.patches] == [2]


async def test_an_object_that_is_gone_is_fine(written):
    written.there(None)
    written.api.objects.clear()
    await written.write(status())
    assert written.events == []


async def test_a_new_reason_of_ready_is_told_by_an_event(written):
    written.there(status("False", "PodsStarting", "waiting for 1 ready pod"))
    await written.write(status())
    (event,) = written.events
    assert (event["reason"], event["note"], event["type"]) == ("Ready", "It answers.", "Normal")
    assert event["metadata"]["namespace"] == "team"
    assert event["regarding"] == {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "namespace": "team",
        "name": "wasm",
        "uid": "w-uid",
        "resourceVersion": written.cache.get(WORKER, "team", "wasm")["metadata"]["resourceVersion"],
    }
    assert (event["reportingController"], event["reportingInstance"]) == ("agentos.dev/agentos-operator", "operator-0")


async def test_an_event_that_is_bad_news_is_a_warning(written):
    written.there(status())
    await written.write(status("False", "Clash", "held by another"))
    assert [(e["reason"], e["type"]) for e in written.events] == [("Clash", "Warning")]


@pytest.mark.parametrize("after", [status(message="other"), status(generation=2)], ids=["message", "generation"])
async def test_a_change_of_wording_is_no_event(written, after):
    written.there(status())
    await written.write(after)
    assert written.events == []


async def test_a_long_note_is_cut_to_what_the_api_takes(written):
    written.there(None)
    await written.write(status("False", "ManifestInvalid", "ö" * 2000))
    (event,) = written.events
    assert len(event["note"].encode()) <= NOTE_LIMIT
    assert set(event["note"]) == {"ö"}


async def test_an_event_that_cannot_be_posted_spoils_nothing(written, refused, monkeypatch):
    written.there(None)
    monkeypatch.setattr(written.api, "create", lambda *_: _raise(refused))
    await written.write(status())
    assert len(written.patches) == 1


async def _raise(error: Exception) -> None:
    raise error


async def test_a_forgotten_object_starts_to_gather_anew(written, clock):
    written.there(status())
    await written.write(status(replicas=2))
    written.writer.forget(KEY)
    clock.now += 60
    await written.write(status(replicas=2))
    assert written.patches == []


# --- What the cluster refuses ---

BEFORE = [
    {"type": "ManifestValid", "status": "True", "reason": "Valid", "message": "", "lastTransitionTime": EARLIER},
    {"type": "Available", "status": "False", "reason": "PodsStarting", "message": "", "lastTransitionTime": EARLIER},
    {"type": "Ready", "status": "False", "reason": "PodsStarting", "message": "", "lastTransitionTime": EARLIER},
    {"type": "Reconciling", "status": "True", "reason": "PodsStarting", "message": "", "lastTransitionTime": EARLIER},
]


def test_a_refusal_is_told_by_its_condition_by_ready_and_by_reconciling():
    before = {"conditions": copy.deepcopy(BEFORE), "replicas": 0}
    told = refused(worker(None), before, "Available", "exceeded quota")
    by_type = {c["type"]: (c["status"], c["reason"], c["message"]) for c in told["conditions"]}
    assert by_type == {
        "ManifestValid": ("True", "Valid", ""),
        "Available": ("False", "PodRefused", "exceeded quota"),
        "Ready": ("False", "PodRefused", "exceeded quota"),
        "Reconciling": ("True", "PodRefused", "exceeded quota"),
    }
    assert before == {"conditions": BEFORE, "replicas": 0}
    assert told["replicas"] == 0


async def test_a_refusal_that_lasts_is_written_once(written, clock):
    now = {"lastTransitionTime": "2026-02-01T00:00:00Z"}
    fine = {"conditions": [c | {"status": "True", "reason": "Ready"} | now for c in BEFORE[1:3]]}
    written.there(fine)
    for minute in range(3):
        later = {"lastTransitionTime": f"2026-02-01T00:0{minute}:00Z"}
        planned = {"conditions": [c | later for c in fine["conditions"]]}
        there = written.cache.get(WORKER, "team", "wasm")
        await written.write(refused(there, planned, "Available", "exceeded quota"))
        clock.now += 60
        await written.write(refused(there, planned, "Available", "exceeded quota"))
    assert len(written.patches) == 1
    assert len(written.queue) == 0


async def test_a_realms_count_of_ready_workers_waits_but_a_moment(written, clock):
    written.there(status(readyWorkers=0, connections=0))
    await written.write(status(readyWorkers=0, connections=1))
    await written.write(status(readyWorkers=1, connections=1))
    assert written.patches == []
    await asyncio.sleep(COUNT_DEBOUNCE)
    await written.write(status(readyWorkers=1, connections=1))
    assert [patch["status"]["readyWorkers"] for patch in written.patches] == [1]


def scaled_elsewhere(told: dict, message: str) -> dict:
    """The same status, told that somebody else sets the number of pods."""
    available = {"type": "Available", "status": "True", "reason": "ReplicasSetElsewhere", "message": message}
    return told | {"conditions": [available, *told["conditions"]]}


async def test_who_sets_the_number_of_pods_is_told_at_once_and_by_one_event(written):
    written.there(status())
    await written.write(scaled_elsewhere(status(), "kubectl has set it"))
    assert [(event["reason"], event["note"], event["type"]) for event in written.events] == [
        ("ReplicasSetElsewhere", "kubectl has set it", "Warning")
    ]
    await written.write(scaled_elsewhere(status(), "3 pods: kubectl has set it"))
    await written.write(status())
    assert len(written.events) == 1


def drifting(reason: str, message: str, in_sync: str = "False") -> dict:
    told = status()
    told["conditions"].append({"type": "FunctionsInSync", "status": in_sync, "reason": reason, "message": message})
    return told


async def test_drift_is_told_by_an_event_for_each_change_and_by_one_when_it_ends(api, clock):
    written = Written(api, debounce=0.0)
    written.there(drifting("NotStarted", "no pod yet"))
    for told in (
        drifting("Foreign", "old holds a::x"),
        drifting("Foreign", "old holds a::x"),
        drifting("Foreign", "old holds a::x, a::y"),
        drifting("InSync", "fine", "True"),
    ):
        await written.write(told)
    assert [(each["type"], each["reason"], each["note"]) for each in written.events] == [
        ("Warning", "Foreign", "old holds a::x"),
        ("Warning", "Foreign", "old holds a::x, a::y"),
        ("Normal", "InSync", "fine"),
    ]


async def test_a_start_without_drift_has_no_event_of_it(written):
    written.there(drifting("NotStarted", "no pod yet"))
    await written.write(drifting("InSync", "fine", "True") | {"replicas": 2})
    assert written.events == []
