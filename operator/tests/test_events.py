"""Events: one for each piece of news, and a count for news that comes again."""

import pytest
from agentos_operator.events import SERIES_KEPT, SERIES_SECONDS, Recorder
from agentos_operator.kinds import EVENT

WASM = {
    "apiVersion": "agentos.dev/v1alpha1",
    "kind": "Worker",
    "metadata": {"name": "wasm", "namespace": "team", "uid": "w-uid", "resourceVersion": "7"},
}


@pytest.fixture
def recorder(api, clock):
    return Recorder(api, "operator-0")


def posted(api):
    return [obj for key, obj in api.objects.items() if key.kind == EVENT.kind]


async def test_the_same_news_again_is_counted_in_one_event(recorder, api):
    for _ in range(3):
        await recorder.record(WASM, "CrashLooping", "it ends with 1", warning=True)
    (event,) = posted(api)
    assert event["series"]["count"] == 3
    assert event["series"]["lastObservedTime"] >= event["eventTime"]


@pytest.mark.parametrize(
    ("reason", "note", "uid"),
    [("Clash", "it ends with 1", "w-uid"), ("CrashLooping", "it ends with 2", "w-uid"), ("CrashLooping", "it ends with 1", "other")],
    ids=["another reason", "another note", "another object"],
)  # fmt: skip
async def test_other_news_is_an_event_of_its_own(recorder, api, reason, note, uid):
    await recorder.record(WASM, "CrashLooping", "it ends with 1", warning=True)
    await recorder.record(WASM | {"metadata": WASM["metadata"] | {"uid": uid}}, reason, note, warning=True)
    assert len(posted(api)) == 2
    assert not any("series" in event for event in posted(api))


async def test_what_flaps_is_two_events_however_often(recorder, api):
    for _ in range(50):
        await recorder.record(WASM, "CrashLooping", "it ends with 1", warning=True)
        await recorder.record(WASM, "Ready", "It answers.", warning=False)
    assert sorted(event["series"]["count"] for event in posted(api)) == [50, 50]


async def test_after_a_while_the_same_news_is_a_new_event(recorder, api, clock):
    await recorder.record(WASM, "CrashLooping", "it ends with 1", warning=True)
    clock.now += SERIES_SECONDS + 1
    await recorder.record(WASM, "CrashLooping", "it ends with 1", warning=True)
    assert len(posted(api)) == 2


async def test_an_event_that_the_cluster_has_forgotten_is_posted_again(recorder, api):
    await recorder.record(WASM, "CrashLooping", "it ends with 1", warning=True)
    api.objects.clear()
    await recorder.record(WASM, "CrashLooping", "it ends with 1", warning=True)
    (event,) = posted(api)
    assert "series" not in event


async def test_no_more_than_the_newest_are_remembered(recorder, api, monkeypatch):
    monkeypatch.setattr("agentos_operator.events.SERIES_KEPT", 2)
    assert SERIES_KEPT > 2
    for note in ("one", "two", "three", "one"):
        await recorder.record(WASM, "CrashLooping", note, warning=True)
    assert [event["note"] for event in posted(api)] == ["one", "two", "three", "one"]
