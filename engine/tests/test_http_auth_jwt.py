"""JWT for the REST port: which tokens are taken, and where the issuer's keys come from."""

import asyncio
import base64
import json
import os
import time

import jwt
import pytest
from agentos_engine.http_auth import jwks, tokens
from agentos_engine.http_auth.policy import JwtOptions
from agentos_engine.http_auth.tokens import TokenRefused, Tokens, UnknownKey
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import algorithms

ISSUER, AUDIENCE = "https://issuer.example", "agentos"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key, kid="k1", **more):
    of = {rsa.RSAPrivateKey: algorithms.RSAAlgorithm, ec.EllipticCurvePrivateKey: algorithms.ECAlgorithm}
    algorithm = next((made for kind, made in of.items() if isinstance(key, kind)), algorithms.OKPAlgorithm)
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def key_set(*keys):
    return json.dumps({"keys": list(keys)}).encode()


def claims(**changes):
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 86_400, "iat": now, "sub": "somebody", **changes}
    return {name: value for name, value in given.items() if value is not None}


def token(key=RSA, algorithm="RS256", kid="k1", headers=None, **changes):
    given = {**({} if kid is None else {"kid": kid}), **(headers or {})}
    return jwt.encode(claims(**changes), key, algorithm, headers=given)


def raw(header, payload, signature=b""):
    """A token of three parts as they stand."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload, signature))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.fixture
def checked():
    made = Tokens(JwtOptions(ISSUER, AUDIENCE, jwks_file="unused"))
    made.load(key_set(jwk(RSA), jwk(EC, "k2"), jwk(ED, "k3")))
    return made


@pytest.mark.parametrize(
    "given",
    [
        token(),
        token(algorithm="PS384"),
        token(EC, "ES256", "k2"),
        token(ED, "EdDSA", "k3"),
        token(EC, "ES256", None),
        token(aud=["others", AUDIENCE]),
        token(nbf=int(time.time()) - 10),
    ],
    ids=["RS256", "PS384", "ES256", "EdDSA", "the only key that fits", "several audiences", "nbf passed"],
)
def test_a_right_token_is_taken(checked, given):
    checked.check(given)
    checked.check(given)


FOREIGN = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
SIGNED = token()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (token(exp=int(time.time()) - 60), "expired"),
        (token(exp=None), "no exp"),
        (token(aud=None), "no aud"),
        (token(iss=None), "no iss"),
        (token(nbf=int(time.time()) + 43_200), "not valid yet"),
        (token(aud="others"), "another audience"),
        (token(aud=[]), ""),
        (token(iss=ISSUER + "/"), "another issuer"),
        (token(FOREIGN), "signature"),
        (token(EC, "ES256", "k1"), "not among"),
        (token(kid="k9"), "not among"),
        (raw({"alg": "none", "kid": "k1"}, claims()), "not signed with"),
        (raw({"alg": "None", "kid": "k1"}, claims()), "not signed with"),
        (raw({"alg": "HS256", "kid": "k1"}, claims(), b"x" * 32), "not signed with"),
        (raw({"alg": ["RS256"], "kid": "k1"}, claims()), "not signed with"),
        (raw({"kid": "k1"}, claims()), "not signed with"),
        (raw({"alg": "RS256", "kid": 7}, claims()), ""),
        (raw({"alg": "RS256", "kid": "k1"}, claims()), "signature"),
        (raw([], claims()), "cannot be read"),
        (raw(b"{" * 5000, claims()), "cannot be read"),
        (raw(b"[" * 9000, claims()), "cannot be read"),
        (raw({"alg": "RS256", "kid": "k1", "jwk": jwk(FOREIGN)}, claims(), b"x"), "signature"),
        (token(FOREIGN, headers={"jwk": jwk(FOREIGN), "jku": "https://evil.example/keys"}), "signature"),
        (token(headers={"crit": ["unheard-of"], "unheard-of": 1}), ""),
        (SIGNED + "x", ""),
        (SIGNED + ".x", ""),
        (SIGNED.rsplit(".", 1)[0] + ".", ""),
        (SIGNED[:-1] + "=", ""),
        ("a.b", "cannot be read"),
        ("..", "cannot be read"),
        ("\xff.\xfe.\xfd", "cannot be read"),
        ("", "cannot be read"),
        ("x" * 20_000, "more than"),
    ],
    ids=range(33),
)
def test_a_wrong_token_is_refused_with_why_and_no_part_of_it(checked, given, words):
    with pytest.raises(TokenRefused) as error:
        checked.check(given)
    assert words in str(error.value)
    assert not any(len(part) > 6 and part in str(error.value) for part in given.split("."))


@pytest.mark.parametrize("exp", [1e400, -1e400, 10**400, "soon", [], True, {"a": 1}], ids=str)
def test_times_that_are_none_are_refused_and_break_nothing(checked, exp):
    text = json.dumps(claims(exp=0)).replace('"exp": 0', f'"exp": {json.dumps(exp)}').encode()
    header = json.dumps({"alg": "RS256", "kid": "k1"}).encode()
    parts = b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in (header, text))
    signature = algorithms.RSAAlgorithm(algorithms.RSAAlgorithm.SHA256).sign(parts, RSA)
    signed = parts + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
    try:
        checked.check(signed.decode())
    except TokenRefused:
        return
    assert exp == 10**400  # a moment far away is one, too


def test_a_secret_made_of_the_public_key_signs_nothing(checked):
    import hashlib
    import hmac

    header, payload = raw({"alg": "HS256", "kid": "k1"}, claims()).split(".")[:2]
    digest = hmac.new(PUBLIC_PEM, f"{header}.{payload}".encode(), hashlib.sha256).digest()
    signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    with pytest.raises(TokenRefused, match="not signed with"):
        checked.check(f"{header}.{payload}.{signature}")


def test_a_remembered_token_ends_when_it_ends_and_when_the_keys_change():
    now = [time.time()]
    checked = Tokens(JwtOptions(ISSUER, AUDIENCE, jwks_file="unused"), now=lambda: now[0])
    checked.load(key_set(jwk(RSA)))
    given = token(exp=int(time.time()) - 3)  # within the leeway
    checked.check(given)
    given = token(exp=int(time.time()) + 300)
    checked.check(given)
    checked.load(key_set(jwk(FOREIGN)))
    with pytest.raises(TokenRefused):
        checked.check(given)
    checked.load(key_set(jwk(RSA)))
    checked.check(given)
    looked = []
    checked._verify = lambda text: looked.append(text) or 0.0
    checked.check(given)
    assert looked == []
    now[0] += 301
    checked.check(given)
    assert looked == [given]


def test_remembered_tokens_are_bounded(monkeypatch):
    monkeypatch.setattr(tokens, "MAX_REMEMBERED", 10)
    checked = Tokens(JwtOptions(ISSUER, AUDIENCE, jwks_file="unused"))
    checked._verify = lambda text: time.time() + 300
    for number in range(100):
        checked.check(str(number))
    assert len(checked._remembered) == 10


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [jwk(WEAK)],
        [jwk(RSA, use="enc")],
        [jwk(RSA, key_ops=["encrypt"])],
        [jwk(RSA, alg="HS256")],
        [jwk(RSA, alg="ES256")],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}],
        [{"kty": "RSA", "kid": "k1", "n": "", "e": ""}],
        [{"kty": "EC", "crv": "P-256", "x": 1, "y": None}],
        [None, 5, "x", [], {}],
        [jwk(RSA, str(number)) for number in range(101)],
    ],
    ids=range(11),
)
def test_a_key_set_without_a_key_that_can_be_used_is_refused_and_the_former_stays(keys):
    checked = Tokens(JwtOptions(ISSUER, AUDIENCE, jwks_file="unused"))
    checked.load(key_set(jwk(RSA)))
    with pytest.raises(ValueError):
        checked.load(key_set(*keys))
    checked.check(token())


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys": 5}', b"\xff", b"[" * 100_000])
def test_what_is_no_key_set_is_refused(text):
    with pytest.raises(ValueError, match="key set"):
        Tokens(JwtOptions(ISSUER, AUDIENCE, jwks_file="unused")).load(text)


def test_the_keys_algorithm_binds_and_the_secret_part_of_a_key_is_not_kept():
    checked = Tokens(JwtOptions(ISSUER, AUDIENCE, jwks_file="unused"))
    secret = algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)
    assert "d" in secret
    checked.load(key_set({**secret, "key_ops": ["sign", "verify"], "kid": "k1", "alg": "RS256"}, 7))
    checked.check(token())
    with pytest.raises(UnknownKey):
        checked.check(token(algorithm="RS512"))
    assert not hasattr(checked._keys[0].public, "private_numbers")


# In an engine


class Issuer:
    """Serves a key set on loopback."""

    def __init__(self):
        self.answer = b""
        self.asked = 0
        self.held = asyncio.Event()
        self.held.set()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/keys"

    def set(self, *keys, status=200):
        body = key_set(*keys)
        self.answer = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body)

    async def _serve(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await self.held.wait()
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def issuer():
    made = Issuer()
    await made.start()
    yield made
    made._server.close()


async def status(running, *headers, method="GET", body=b""):
    lines = [f"{method} /nothing HTTP/1.1", "Host: h", "Connection: close", *headers]
    if body:
        lines += [f"Content-Length: {len(body)}"]
    answer = await running.http("\r\n".join([*lines, "", ""]).encode() + body)
    return int(answer.split()[1])


def bearer(**options):
    return f"Authorization: Bearer {token(**options)}"


def flag(**where):
    return json.dumps({"auth": "jwt", "jwt": {"issuer": ISSUER, "audience": AUDIENCE, **where}})


async def test_keys_are_fetched_and_those_that_wait_for_them_are_answered(run_engine, issuer):
    issuer.set(jwk(RSA))
    issuer.held.clear()
    running = await run_engine("--http-auth", flag(jwksUrl=issuer.url))
    waiting = [asyncio.create_task(status(running, bearer())) for _ in range(5)]
    waiting += [asyncio.create_task(status(running, bearer(), method="POST", body=b"x" * 100))]
    wrong = asyncio.create_task(status(running, bearer(key=FOREIGN, kid="k9")))
    while running.engine.modules["http"].server.in_progress < 7:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    issuer.held.set()
    assert await asyncio.gather(*waiting) == [404] * 6  # let in: there is no such route
    assert await wrong == 401
    assert issuer.asked == 1
    assert await status(running) == 401
    assert await status(running, "x-api-key: x") == 401
    assert await status(running, bearer(), bearer()) == 401


async def test_a_new_key_is_fetched_when_a_token_names_it_but_not_over_and_over(run_engine, issuer, monkeypatch):
    monkeypatch.setattr(jwks, "MIN_INTERVAL", 0.3)
    issuer.set(jwk(RSA))
    running = await run_engine("--http-auth", flag(jwksUrl=issuer.url))
    assert await status(running, bearer()) == 404
    issuer.set(jwk(RSA), jwk(EC, "k2"))
    async with asyncio.timeout(10):
        while await status(running, bearer(key=EC, algorithm="ES256", kid="k2")) != 404:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert issuer.asked == 2
    monkeypatch.setattr(jwks, "MIN_INTERVAL", 1000.0)
    issuer.set(jwk(RSA, "k3"))
    async with asyncio.timeout(10):
        while await status(running, bearer(kid="k3")) != 404:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert 404 not in [await status(running, bearer(kid=f"made up {n}")) for n in range(5)]
    assert issuer.asked == 3


async def test_keys_stay_when_they_cannot_be_fetched_again(run_engine, issuer, monkeypatch, caplog):
    monkeypatch.setattr(jwks, "MIN_INTERVAL", 0.0)
    issuer.set(jwk(RSA))
    running = await run_engine("--http-auth", flag(jwksUrl=issuer.url))
    assert await status(running, bearer()) == 404
    for answer in (
        b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 X\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 X\r\ncontent-length: 9000000\r\n\r\n",
        b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}",
        b"nonsense\r\n\r\n",
        b"",
    ):
        issuer.answer = answer
        assert await status(running, bearer(kid="k9")) == 401
        assert await status(running, bearer()) == 404
    assert issuer.asked == 7
    assert caplog.text.count("cannot be fetched") == 6


async def test_an_issuer_that_does_not_answer_holds_nobody_for_long(run_engine, issuer, monkeypatch):
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT", 0.2)
    issuer.held.clear()
    running = await run_engine("--http-auth", flag(jwksUrl=issuer.url))
    assert await status(running, bearer()) == 401
    issuer.held.set()


async def test_a_key_file_is_read_again_when_it_changes(run_engine, tmp_path):
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(jwk(RSA)))
    running = await run_engine("--http-auth", flag(jwksFile=str(file)))
    assert await status(running, bearer()) == 404
    (tmp_path / "fresh").write_bytes(key_set(jwk(EC, "k2")))
    os.replace(tmp_path / "fresh", file)
    async with asyncio.timeout(10):
        while await status(running, bearer(key=EC, algorithm="ES256", kid="k2")) != 404:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await status(running, bearer()) == 401


async def test_the_token_is_not_handed_to_the_worker_and_stands_in_no_log(run_engine, tmp_path, caplog):
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(jwk(RSA)))
    running = await run_engine("--http-auth", flag(jwksFile=str(file)))
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    config = {"api_path": "/nothing", "http_method": "GET"}
    await worker.send(type="registertrigger", id="t", trigger_type="http", function_id="a::f", config=config)
    await worker.settled()
    given = token()
    asked = asyncio.create_task(status(running, f"Authorization: Bearer {given}", "x-api-key: theirs"))
    message = await worker.receive("invokefunction")
    assert "authorization" not in message["data"]["headers"]
    assert message["data"]["headers"]["x-api-key"] == "theirs"
    ids = {"invocation_id": message["invocation_id"], "function_id": "a::f"}
    await worker.send(type="invocationresult", result={"body": {}}, **ids)
    assert await asked == 200
    wrong = token(key=FOREIGN)
    assert await status(running, f"Authorization: Bearer {wrong}") == 401
    assert not any(part in caplog.text for part in (given, wrong))
