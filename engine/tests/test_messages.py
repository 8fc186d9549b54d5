import json

import msgspec
import pytest
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import Malformed, Message, decode, decode_error, is_null, kept
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    ["type", "id", "invocation_id", "function_id", "action", "data", "result", "error", "metadata"]
)
TYPES = st.sampled_from(["invokefunction", "invocationresult", "registerfunction", "registertrigger", "ping"])


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_a_value_without_an_exception(frame):
    assert isinstance(decode(frame), Message | Malformed)


@given(
    st.dictionaries(FIELDS | st.text(max_size=5), JSON | TYPES, max_size=6), st.integers(0, 60), st.binary(max_size=3)
)
def test_any_near_message_with_bytes_broken_in_it_decodes_to_a_value(message, position, noise):
    frame = json.dumps(message).encode()
    broken = frame[:position] + noise + frame[position:]
    for candidate in (frame, broken):
        decoded = decode(candidate)
        assert isinstance(decoded, Message | Malformed)
        if isinstance(decoded, Message):
            json.loads(candidate)  # what is forwarded can be read by the receiver


@given(JSON)
def test_a_payload_is_kept_byte_for_byte(value):
    text = json.dumps(value, ensure_ascii=False).encode()
    decoded = decode(b'{"data":' + text + b',"type":"invokefunction"}')
    assert isinstance(decoded, Message)
    assert bytes(decoded.data) == text


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"garbage", "not JSON"),
        (b"", "not JSON"),
        (b"[1]", "not a message"),
        (b"{}", "not a message"),
        (b'{"type":5}', "not a message"),
        (b'{"type":"ping","data":"\xff"}', "not UTF-8"),
        (b'{"type":"ping","data":' + b"[" * 20000 + b"]" * 20000 + b"}", "nested too deeply"),
        (b'{"type":"ping","data":NaN}', "not JSON"),
        (b'{"type":"ping","data":"\\ud800"}', "not JSON"),
    ],
)
def test_a_bad_frame_says_what_is_wrong_without_repeating_it(frame, reason):
    decoded = decode(frame)
    assert isinstance(decoded, Malformed)
    assert decoded.reason.startswith(reason)
    assert len(decoded.reason) < 200


def test_the_call_of_a_frame_with_a_broken_payload_is_made_out():
    frame = b'{"invocation_id":"i-1","function_id":"a::b","data":{"x":NaN},"type":"invokefunction"}'
    decoded = decode(frame)
    assert isinstance(decoded, Malformed)
    assert (decoded.type, decoded.invocation_id, decoded.function_id) == ("invokefunction", "i-1", "a::b")


@pytest.mark.parametrize("error", [b'"text"', b"5", b'{"code":5,"message":"m"}', b'{"code":"c"}', b"[]"])
def test_an_error_that_sdks_cannot_read_is_told_from_one_that_they_can(error):
    assert decode_error(msgspec.Raw(error)) is None
    good = decode_error(msgspec.Raw(b'{"code":"c","message":"m","stacktrace":null,"more":1}'))
    assert good is not None
    assert (good.code, good.message) == ("c", "m")


def test_absent_and_null_are_the_same_and_anything_else_is_kept():
    assert is_null(msgspec.Raw())
    assert is_null(msgspec.Raw(b"null"))
    assert not is_null(msgspec.Raw(b"0"))
    assert kept(msgspec.Raw(b"null")) is None
    assert kept(msgspec.Raw(b"false")) == b"false"


@given(st.dictionaries(st.text(), JSON, max_size=5), st.sampled_from([None, 0, 2]))
def test_the_caller_is_put_into_any_object_and_wins_over_a_key_of_the_same_name(value, indent):
    value["_caller_worker_id"] = "forged"
    data = json.dumps(value, indent=indent).encode()
    sent = json.loads(frames.invoke("a::b", data, invocation_id="i", caller_worker_id="real"))
    assert sent["data"] == {**value, "_caller_worker_id": "real"}


@pytest.mark.parametrize("data", [b"{}", b"{ }", b"{\n\t}"])
def test_the_caller_is_put_into_an_empty_object(data):
    assert json.loads(frames.invoke("a::b", data, caller_worker_id="w"))["data"] == {"_caller_worker_id": "w"}


@pytest.mark.parametrize("data", [b"[{}]", b'"{}"', b"5", b"null", b""])
def test_nothing_is_added_to_what_is_no_object(data):
    sent = json.loads(frames.invoke("a::b", data, caller_worker_id="w"))
    assert sent["data"] == json.loads(data or b"null")


@given(st.text(), st.text())
def test_ids_with_any_characters_are_escaped(invocation_id, function_id):
    try:
        (invocation_id + function_id).encode()
    except UnicodeEncodeError:
        return  # such a text never comes out of the decoder
    sent = json.loads(frames.invoke(function_id, b"1", invocation_id=invocation_id))
    assert (sent["invocation_id"], sent["function_id"]) == (invocation_id, function_id)
    answer = json.loads(frames.result(invocation_id, function_id, value=b"1"))
    assert (answer["invocation_id"], answer["function_id"]) == (invocation_id, function_id)


def test_a_trace_context_that_is_no_text_is_not_forwarded():
    sent = json.loads(frames.invoke("a::b", b"1", traceparent=msgspec.Raw(b"5"), baggage=msgspec.Raw(b'"k=v"')))
    assert "traceparent" not in sent
    assert sent["baggage"] == "k=v"
