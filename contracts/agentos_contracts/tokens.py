"""Identity tokens: compact JWTs signed with Ed25519 (RFC 7519, RFC 8037), made by the operator, checked by the engine.

Needs PyNaCl and the standard library only; PyNaCl is imported when the first key is made or read, since an engine without
identities is smaller by 1.5 MB without it. No message of this module contains a token or a private key.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nacl.signing import VerifyKey

MAX_TOKEN_LENGTH = 4096
"""Longest token that is looked at, in characters."""

_KEY_BYTES = 32


class TokenError(ValueError):
    """A token or key that cannot be used; the message says why and never contains the token."""


class Role(StrEnum):
    """What a connection is to the engine."""

    WORKER = "worker"
    OPERATOR = "operator"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token names.

    ``realm``: name of the Realm; ``subject``: for a worker ``namespace/name`` of its Worker resource, such as
    ``default/wasm-sandbox``; ``uid``: uid of that resource; ``role``: one of :class:`Role`.
    """

    realm: str
    subject: str
    uid: str
    role: str
    key_id: str = field(default="", compare=False)
    """Id of the key that signed the token which this was read from."""


class SigningKey:
    """A private Ed25519 key; its repr shows only the key id."""

    __slots__ = ("_key", "key_id", "verify_key")

    def __init__(self, seed: bytes) -> None:
        from nacl.signing import SigningKey as NaclSigningKey

        self._key = NaclSigningKey(seed)
        public = bytes(self._key.verify_key)
        self.key_id = _key_id(public)
        """Short hash of the public key; it stands in the header of each token."""
        self.verify_key = _encode(public)
        """The public key as text (base64url of its 32 bytes): what the engine is given."""

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a new random key."""
        from nacl.signing import SigningKey as NaclSigningKey

        return cls(bytes(NaclSigningKey.generate()))

    @classmethod
    def from_text(cls, text: str) -> "SigningKey":
        """Read what :meth:`to_text` gave; blanks around it are ignored. Raises TokenError."""
        return cls(_key_bytes(text, "private key"))

    def to_text(self) -> str:
        """Return the private key as text (base64url of its 32 bytes), for a Secret."""
        return _encode(bytes(self._key))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of a message; the same for the same message."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.key_id!r})"


def issue(key: SigningKey, identity: Identity, issued_at: int) -> str:
    """Return the token of an identity; the same inputs always give the same token.

    ``issued_at`` is in seconds since 1970. There is no expiry: a token lives as long as the pod template that carries
    it. Raises TokenError for an identity that :meth:`Verifier.verify` would refuse.
    """
    claims = {
        "iat": issued_at,
        "realm": identity.realm,
        "role": str(identity.role),
        "sub": identity.subject,
        "uid": identity.uid,
    }
    _identity(claims)
    signed = f"{_encode(_json(_header(key.key_id)))}.{_encode(_json(claims))}"
    token = f"{signed}.{_encode(key.sign(signed.encode('ascii')))}"
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenError(
            f"the token would have {len(token)} characters, more than {MAX_TOKEN_LENGTH}: shorten the names"
        )
    return token


class Verifier:
    """Checks tokens against one or more public keys (more than one while keys are rotated)."""

    __slots__ = ("_keys",)

    def __init__(self, keys: "Mapping[str, VerifyKey]") -> None:
        self._keys = MappingProxyType(dict(keys))

    @classmethod
    def from_text(cls, text: str) -> "Verifier":
        """Read one or more public keys, as :attr:`SigningKey.verify_key` gives them, separated by commas.

        Raises TokenError when one is malformed or there is none.
        """
        from nacl.signing import VerifyKey

        public_keys = [_key_bytes(part, "public key") for part in text.split(",") if part.strip()]
        if not public_keys:
            raise TokenError("no public key given; give one or more, separated by commas")
        return cls({_key_id(public): VerifyKey(public) for public in public_keys})

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the keys that are accepted."""
        return tuple(self._keys)

    def verify(self, token: str) -> Identity:
        """Return the identity in a token whose signature and form are right.

        Checked: length, strict unpadded base64url, header (``alg`` EdDSA, ``typ`` JWT, a known ``kid``, nothing else),
        signature, types of the claims. There is no expiry to check: a token lives as long as the pod template that
        carries it, and changing the key revokes all. Raises TokenError and nothing else.
        """
        from nacl.exceptions import CryptoError

        if not isinstance(token, str) or len(token) > MAX_TOKEN_LENGTH:
            raise TokenError(f"a token is a text of at most {MAX_TOKEN_LENGTH} characters")
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenError("a token has three parts separated by dots")
        header_text, claims_text, signature_text = parts
        header = _object(header_text, "header")
        key = self._key(header)
        try:
            key.verify(f"{header_text}.{claims_text}".encode("ascii"), _decode(signature_text, "signature"))
        except (CryptoError, ValueError, TypeError) as error:
            raise TokenError("the token's signature is wrong") from error
        return replace(_identity(_object(claims_text, "claims")), key_id=header["kid"])

    def _key(self, header: dict[str, Any]) -> "VerifyKey":
        key_id = header.get("kid")
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if header != _header(key_id):
            raise TokenError("the token's header must have alg EdDSA, typ JWT and a key id, and nothing else")
        if key is None:
            raise TokenError("the token was signed with a key that is not accepted here")
        return key


def _header(key_id: object) -> dict[str, object]:
    return {"alg": "EdDSA", "kid": key_id, "typ": "JWT"}


def _identity(claims: dict[str, Any]) -> Identity:
    """Check the claims and return the identity. Claims that are not known here are ignored, as RFC 7519 asks."""
    names: dict[str, str] = {}
    for claim in ("realm", "sub", "uid", "role"):
        value = claims.get(claim)
        if not isinstance(value, str) or not value:
            raise TokenError(f"the token's claim {claim} must be a text that is not empty")
        names[claim] = value
    issued_at = claims.get("iat")
    if not isinstance(issued_at, int) or isinstance(issued_at, bool) or issued_at < 0:
        raise TokenError("the token's claim iat must be a whole number of seconds")
    if names["role"] not in tuple(Role):
        raise TokenError(f"the token's claim role must be one of {', '.join(Role)}")
    return Identity(names["realm"], names["sub"], names["uid"], Role(names["role"]))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode("ascii")


def _object(text: str, part: str) -> dict[str, Any]:
    try:
        value = json.loads(_decode(text, part))
    except (ValueError, RecursionError) as error:
        raise TokenError(f"the token's {part} cannot be read") from error
    if not isinstance(value, dict):
        raise TokenError(f"the token's {part} must be a JSON object")
    return value


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str, what: str) -> bytes:
    """Decode unpadded base64url in its one canonical spelling."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise TokenError(f"the {what} is not base64url") from error
    if _encode(data) != text:
        raise TokenError(f"the {what} is not unpadded base64url in its canonical form")
    return data


def _key_bytes(text: str, what: str) -> bytes:
    data = _decode(text.strip(), what)
    if len(data) != _KEY_BYTES:
        raise TokenError(f"a {what} has {_KEY_BYTES} bytes, this one has {len(data)}")
    return data


def _key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]
