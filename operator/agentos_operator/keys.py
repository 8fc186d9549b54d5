"""The two secrets of the operator's own: the key that signs identity tokens, and the webhook's certificate.

Both are made once, kept in the operator's namespace, and never leave it; engines get only the verifying half. Beside them,
what a new API key of a realm is.
"""

import base64
import secrets
from collections.abc import Callable
from datetime import datetime

from agentos_contracts.realm import API_KEY_FIELD
from agentos_contracts.tokens import SigningKey

from .api import AlreadyExists, Api, Conflict, NotFound
from .certificates import Certificate, due
from .kinds import SECRET, Object
from .settings import FIELD_MANAGER, MANAGED_BY_LABEL

IDENTITY_SECRET, WEBHOOK_SECRET = "agentos-identity", "agentos-webhook-certificate"


async def _load_or_make(api: Api, namespace: str, name: str, make: Callable[[], dict[str, str]]) -> Object:
    """The Secret; made when there is none. Two replicas that start together end with the same one."""
    try:
        return await api.get(SECRET, namespace, name)
    except NotFound:
        secret = _secret(namespace, name, make())
    try:
        return await api.create(SECRET, secret)
    except AlreadyExists:
        return await api.get(SECRET, namespace, name)


def _secret(namespace: str, name: str, data: dict[str, str]) -> Object:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": namespace, "labels": {MANAGED_BY_LABEL: FIELD_MANAGER}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}


def new_api_key() -> dict[str, str]:
    """Data of a new Secret with an API key: 32 random bytes as base64url."""
    return {API_KEY_FIELD: base64.b64encode(secrets.token_urlsafe(32).encode()).decode()}


def _text(secret: Object, key: str) -> str:
    """A text of a Secret; empty when it is not there, or is none."""
    try:
        return base64.b64decode(secret.get("data", {}).get(key, "")).decode()
    except UnicodeDecodeError:
        return ""


async def identity_secret(api: Api, namespace: str) -> Object:
    """The Secret with the signing key; made when there is none."""
    return await _load_or_make(api, namespace, IDENTITY_SECRET, lambda: {"key": SigningKey.generate().to_text()})


async def signing_key(api: Api, namespace: str) -> SigningKey:
    """The key by which the operator signs the tokens of Workers."""
    return SigningKey.from_text(_text(await identity_secret(api, namespace), "key"))


_FIELDS = {
    "ca.crt": "authorities",
    "tls.crt": "certificate",
    "tls.key": "key",
    "next.crt": "next_certificate",
    "next.key": "next_key",
}
"""Where the Secret of the webhook's certificate holds what of it."""


def _certificate(secret: Object) -> Certificate:
    return Certificate(**{field: _text(secret, key) for key, field in _FIELDS.items()})


async def webhook_certificate(api: Api, namespace: str, host: str, now: datetime) -> Certificate:
    """The webhook's certificate for ``host``, after the step of its renewal that is due now, if one is."""

    def data(certificate: Certificate) -> dict[str, str]:
        return {key: text for key, field in _FIELDS.items() if (text := getattr(certificate, field))}

    secret = await _load_or_make(api, namespace, WEBHOOK_SECRET, lambda: data(due(None, host, now)))
    held = _certificate(secret)
    wanted = due(held, host, now)
    if wanted == held:
        return held
    renewed = _secret(namespace, WEBHOOK_SECRET, data(wanted))
    renewed["metadata"]["resourceVersion"] = secret["metadata"]["resourceVersion"]
    try:
        return _certificate(await api.replace(SECRET, renewed))
    except Conflict:
        return _certificate(await api.get(SECRET, namespace, WEBHOOK_SECRET))
