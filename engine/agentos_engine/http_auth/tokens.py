"""Signed tokens (JWT) on PyJWT. Loaded only by engines that are told to take them: ``cryptography`` is large."""

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jwt
from jwt import algorithms

from agentos_engine.http_auth.policy import JwtOptions

log = logging.getLogger(__name__)

MAX_TOKEN = 16 << 10
"""Characters of a token."""
MAX_KEYS = 100
MAX_REMEMBERED = 1024
"""Tokens whose signature is not checked again until they end: that costs a hundred times the look-up."""
LEEWAY = 5
"""Seconds by which the issuer's clock may differ."""
MIN_RSA_BITS = 2048

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
ALGORITHMS = _RSA | set(_BY_CURVE.values())
"""What a signature may be made with: never ``none``, and nothing that needs a shared secret."""
_DEMANDED = {"require": ["exp", "aud", "iss"]}


class TokenRefused(Exception):
    """A token that is not taken; the message holds no part of it."""


class UnknownKey(TokenRefused):
    """The token names a key that is not among those of the issuer."""


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str | None
    algorithms: frozenset[str]
    public: Any


class Tokens:
    """Checks tokens. ``now``: seconds since 1970."""

    def __init__(self, options: JwtOptions, now: Callable[[], float] = time.time) -> None:
        self._options = options
        self._now = now
        self._keys: tuple[_Key, ...] = ()
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        """By digest of a token that was right: when it ends."""

    def load(self, text: bytes) -> None:
        """Take the issuer's key set. Raises ValueError when it cannot be read, or holds no key that can be used."""
        try:
            listed = json.loads(text)["keys"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError('the key set is not JSON of the form {"keys": [...]}') from None
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise ValueError(f"the key set is no list of up to {MAX_KEYS} keys")
        keys = [key for each in listed if (key := _read_key(each)) is not None]
        if not keys:
            raise ValueError("the key set holds no key for signatures with RS, PS, ES or EdDSA")
        self._keys = tuple(keys)
        self._remembered.clear()

    def check(self, token: str) -> None:
        """Return when a token is right. Raises UnknownKey, else TokenRefused."""
        if len(token) > MAX_TOKEN:
            raise TokenRefused(f"the token has more than {MAX_TOKEN} characters")
        digest = sha256(token.encode()).digest()
        ends = self._remembered.get(digest)
        if ends is not None:
            if self._now() < ends:
                self._remembered.move_to_end(digest)
                return
            del self._remembered[digest]
        ends = self._verify(token)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        self._remembered[digest] = ends

    def _verify(self, token: str) -> float:
        """Return when a right token ends. Raises TokenRefused."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._find(header)
            options = self._options
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[header["alg"]],
                audience=options.audience,
                issuer=options.issuer,
                leeway=LEEWAY,
                options=_DEMANDED,  # type: ignore[arg-type]
            )
            return float(claims["exp"])
        except TokenRefused:
            raise
        except jwt.PyJWTError as error:
            raise TokenRefused(_why(error)) from None
        except Exception:  # whatever a stranger's token brings a library to must not become the engine's failure
            log.debug("a token could not be read", exc_info=True)
            raise TokenRefused("the token cannot be read") from None

    def _find(self, header: Mapping[str, Any]) -> _Key:
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise TokenRefused("the token is not signed with RS, PS, ES or EdDSA")
        fitting = [each for each in self._keys if algorithm in each.algorithms and kid in (None, each.kid)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise TokenRefused("the token does not say (kid) with which of the issuer's keys it is signed")
        raise UnknownKey("the token is signed with a key that is not among the issuer's")


def _read_key(given: object) -> _Key | None:
    """Return a key for signatures, without the secret part that a careless issuer may tell; None for all others."""
    if (
        not isinstance(given, dict)
        or given.get("use", "sig") != "sig"
        or "verify" not in given.get("key_ops", "verify")
    ):
        return None
    try:
        kind = given.get("kty")
        if kind == "RSA":
            public: Any = algorithms.RSAAlgorithm.from_jwk({name: given[name] for name in ("kty", "n", "e")})
            allowed = _RSA if public.key_size >= MIN_RSA_BITS else frozenset[str]()
        elif kind == "EC":
            public = algorithms.ECAlgorithm.from_jwk({name: given[name] for name in ("kty", "crv", "x", "y")})
            allowed = frozenset({_BY_CURVE[given["crv"]]})
        elif kind == "OKP":
            public = algorithms.OKPAlgorithm.from_jwk({name: given[name] for name in ("kty", "crv", "x")})
            allowed = frozenset({_BY_CURVE[given["crv"]]})
        else:
            return None
    except Exception:
        log.warning("a key of the issuer's key set cannot be read and is left out")
        return None
    if "alg" in given:
        allowed &= {given["alg"]}
    kid = given.get("kid")
    return _Key(kid if isinstance(kid, str) else None, allowed, public) if allowed else None


def _why(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "the token has expired"
        case jwt.ImmatureSignatureError():
            return "the token is not valid yet"
        case jwt.InvalidAudienceError():
            return "the token is for another audience"
        case jwt.InvalidIssuerError():
            return "the token is from another issuer"
        case jwt.MissingRequiredClaimError(claim=claim):
            return f"the token has no {claim}"
        case jwt.InvalidSignatureError():
            return "the token's signature is wrong"
    return "the token cannot be read"
