import base64
import json

import pytest
from agentos_contracts.tokens import MAX_TOKEN_LENGTH, Identity, Role, SigningKey, TokenError, Verifier, issue
from hypothesis import given
from hypothesis import strategies as st

KEY = SigningKey(bytes(range(32)))
VERIFIER = Verifier.from_text(KEY.verify_key)
WORKER = Identity("default", "default/wasm-sandbox", "6f1c-uid", Role.WORKER)


def encoded(value) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header, claims) -> str:
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(KEY.sign(text.encode()))}"


def good_header(**changes):
    return {"alg": "EdDSA", "typ": "JWT", "kid": KEY.key_id} | changes


def good_claims(**changes):
    return {"realm": "default", "sub": "default/w", "uid": "u", "role": "worker", "iat": 1} | changes


def refused(token, message):
    with pytest.raises(TokenError) as caught:
        VERIFIER.verify(token)
    assert message in str(caught.value)
    assert not token or token not in str(caught.value)


def test_a_token_names_the_identity_it_was_issued_for():
    assert VERIFIER.verify(issue(KEY, WORKER, 1_700_000_000)) == WORKER


@pytest.mark.parametrize("role", ["worker", "operator", "host"])
def test_each_role_travels(role):
    assert VERIFIER.verify(issue(KEY, Identity("r", "s", "u", role), 0)).role == role


def test_the_same_inputs_give_the_same_token():
    assert issue(KEY, WORKER, 5) == issue(SigningKey.from_text(KEY.to_text()), WORKER, 5)
    assert issue(KEY, WORKER, 5) != issue(KEY, WORKER, 6)


def test_a_token_is_a_standard_jwt():
    header, claims, signature = issue(KEY, WORKER, 5).split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == good_header()
    assert json.loads(base64.urlsafe_b64decode(claims + "==")) == {
        "realm": "default",
        "sub": "default/wasm-sandbox",
        "uid": "6f1c-uid",
        "role": "worker",
        "iat": 5,
    }
    assert len(base64.urlsafe_b64decode(signature + "==")) == 64


def test_a_token_made_elsewhere_with_the_key_is_accepted_whatever_its_key_order():
    header = {"typ": "JWT", "kid": KEY.key_id, "alg": "EdDSA"}
    assert VERIFIER.verify(signed(header, good_claims(extra=1))) == Identity("default", "default/w", "u", "worker")


def test_several_keys_are_accepted_while_they_rotate():
    newer = SigningKey.generate()
    both = Verifier.from_text(f" {KEY.verify_key}, {newer.verify_key} ")
    assert both.key_ids == (KEY.key_id, newer.key_id)
    assert both.verify(issue(KEY, WORKER, 1)) == both.verify(issue(newer, WORKER, 1)) == WORKER


def test_another_key_is_refused():
    refused(issue(SigningKey.generate(), WORKER, 1), "a key that is not accepted here")


def test_another_key_that_borrows_the_key_id_is_refused():
    text = f"{encoded(good_header())}.{encoded(good_claims())}"
    refused(f"{text}.{encoded(SigningKey.generate().sign(text.encode()))}", "signature is wrong")


@pytest.mark.parametrize(
    "header",
    [
        good_header(alg="none"),
        good_header(alg="HS256"),
        good_header(typ="at+jwt"),
        good_header(crit=["exp"]),
        good_header(kid=None),
        good_header(kid=["x"]),
        {"alg": "EdDSA", "kid": KEY.key_id},
    ],
)
def test_any_other_header_is_refused(header):
    with pytest.raises(TokenError, match=r"header must have|not accepted here"):
        VERIFIER.verify(signed(header, good_claims()))


def test_an_unsigned_token_is_refused():
    refused(f"{encoded(good_header(alg='none'))}.{encoded(good_claims())}.", "header must have alg EdDSA")
    refused(f"{encoded(good_header())}.{encoded(good_claims())}.", "signature is wrong")


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (good_claims(realm=""), "claim realm"),
        (good_claims(sub=None), "claim sub"),
        (good_claims(uid=7), "claim uid"),
        (good_claims(role="root"), "worker, operator, host"),
        (good_claims(iat="1"), "claim iat"),
        (good_claims(iat=True), "claim iat"),
        (good_claims(iat=-1), "claim iat"),
        ({}, "claim realm"),
        ([], "claims must be a JSON object"),
        (b"\xff", "claims cannot be read"),
        (b"[" * 2900, "claims cannot be read"),
    ],
)
def test_wrong_claims_are_refused_even_when_signed(claims, message):
    refused(signed(good_header(), claims), message)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_token_with_one_character_changed_is_refused(position, change):
    token = issue(KEY, WORKER, 1)
    position %= len(token)
    changed = token[:position] + chr(ord(token[position]) ^ change) + token[position + 1 :]
    with pytest.raises(TokenError):
        VERIFIER.verify(changed)


@pytest.mark.parametrize("ending", ["=", "==", "\n", " ", "."])
def test_a_token_has_one_spelling_only(ending):
    refused(issue(KEY, WORKER, 1) + ending, "")


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="eyJhbGci.-_=", max_size=60),
        st.lists(st.binary(max_size=40), max_size=4).map(lambda parts: ".".join(encoded(part) for part in parts)),
    )
)
def test_garbage_is_a_token_error_and_nothing_else(token):
    with pytest.raises(TokenError):
        VERIFIER.verify(token)


def test_what_is_no_text_or_too_long_is_refused():
    with pytest.raises(TokenError, match="at most 4096"):
        VERIFIER.verify(None)  # type: ignore[arg-type]
    refused("a" * (MAX_TOKEN_LENGTH + 1), "at most 4096")
    refused(f"{encoded(b'[' * 2900)}.{encoded(good_claims())}.AA", "header cannot be read")


@pytest.mark.parametrize(
    "identity",
    [
        Identity("", "s", "u", "worker"),
        Identity("r", "s", "u", "admin"),
        Identity("r", "s" * 4096, "u", "worker"),
    ],
)
def test_a_token_that_would_be_refused_is_not_issued(identity):
    with pytest.raises(TokenError):
        issue(KEY, identity, 1)


def test_a_private_key_is_never_shown():
    assert KEY.to_text() not in repr(KEY)
    assert KEY.key_id in repr(KEY)


@pytest.mark.parametrize("text", ["", "short", "é" * 32, encoded(bytes(31)), encoded(bytes(32)) + "="])
def test_a_malformed_key_is_refused_without_showing_it(text):
    with pytest.raises(TokenError) as caught:
        SigningKey.from_text(text)
    assert not text or text not in str(caught.value)
    with pytest.raises(TokenError):
        Verifier.from_text(text)
