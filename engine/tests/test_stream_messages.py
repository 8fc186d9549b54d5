"""The messages of the stream port, as bytes."""

import json

import pytest
from agentos_engine.protocol import stream
from agentos_engine.protocol.stream import Join, Leave, Malformed, Subscription, decode


def test_a_join_names_a_group_or_an_item():
    group = b'{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room"}}'
    item = b'{"data":{"id":"m1","groupId":"room","streamName":"chat","subscriptionId":"s"},"type":"join"}'
    assert decode(group) == Join(Subscription("s", "chat", "room"))
    assert decode(item) == Join(Subscription("s", "chat", "room", "m1"))


def test_a_null_id_is_no_id():
    message = b'{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","id":null}}'
    assert decode(message).data.id is None


def test_a_leave_needs_the_subscription_only():
    full = b'{"type":"leave","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","id":"x"}}'
    for message in (full, b'{"type":"leave","data":{"subscriptionId":"s"}}'):
        request = decode(message)
        assert isinstance(request, Leave)
        assert request.data.subscription_id == "s"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"join"',
        b"\xff\xfe",
        b'{"type":"join"}',
        b'{"type":"shout","data":{}}',
        b'{"type":"join","data":{"subscriptionId":1,"streamName":"a","groupId":"b"}}',
        b'{"type":"join","data":{"subscriptionId":"s","streamName":"a"}}',
        b'{"type":"join","data":{"subscriptionId":"s","streamName":"a","groupId":"\xff"}}',
        b'{"type":"join","data":{"subscriptionId":"s","streamName":"a","groupId":"\\ud800"}}',
        b'{"type":"join","data":{"subscriptionId":"s","streamName":"' + b"a" * 1025 + b'","groupId":"b"}}',
        b"[" * 100_000,
        b'{"type":"join","data":' + b'{"a":' * 100_000,
        b'{"type":"' + b"x" * 100_000 + b'"}',
    ],
)
def test_what_is_no_request_is_refused_with_a_short_reason(message):
    with pytest.raises(Malformed) as refused:
        decode(message)
    assert 0 < len(str(refused.value)) < 300


def test_an_event_has_the_shape_of_the_protocol():
    payload = stream.event(1234, 'ch"at', "röom", None, "create", b'{"a":1}')
    assert json.loads(payload) == {
        "type": "stream",
        "timestamp": 1234,
        "streamName": 'ch"at',
        "groupId": "röom",
        "id": None,
        "event": {"type": "create", "data": {"a": 1}},
    }
    assert json.loads(stream.event(1, "s", "g", "i", "delete", b"null"))["id"] == "i"


def test_a_sent_event_is_wrapped_once_more():
    assert json.loads(stream.custom("typing", b'[1,"x"]')) == {"type": "typing", "data": [1, "x"]}


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_frames_are_those_of_a_websocket_server(size):
    frame = stream.text_frame(b"x" * size)
    assert frame[0] == 0x81
    length, start = frame[1], 2
    if length == 126:
        length, start = int.from_bytes(frame[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(frame[2:10], "big"), 10
    assert length == size
    assert frame[start:] == b"x" * size
