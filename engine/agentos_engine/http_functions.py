"""Functions that the engine invokes over HTTP: a worker registers them with a URL instead of a handler."""

import base64
import hashlib
import hmac
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registrations import RemoteFunctions
from agentos_engine.bus.registry import Remote
from agentos_engine.config_file import options
from agentos_engine.outbound.client import (
    DEFAULT_TIMEOUT,
    MAX_TIMEOUT,
    OutboundClient,
    Reply,
    RequestFailed,
    ResponseFailed,
)
from agentos_engine.outbound.rules import UrlRefused, UrlRules, check_headers

log = logging.getLogger(__name__)

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_EXCERPT = 300
"""Characters of a failed response's body that its error repeats."""
MAX_TEXT = 8192
"""Characters of each text of an error that a server made up."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_OWN_SETTINGS = ("AGENTOS_", "OTEL_")
"""Variables that hold the engine's own settings; no worker may have them sent anywhere."""


@dataclass(frozen=True, slots=True)
class _Secret:
    """How requests are authenticated. ``variable`` names an environment variable of the engine's process."""

    kind: str
    variable: str
    header: str = "authorization"

    @property
    def missing_code(self) -> str:
        return {"hmac": "secret_not_found", "bearer": "token_not_found", "api_key": "api_key_not_found"}[self.kind]


@dataclass(frozen=True, slots=True)
class _Definition:
    function_id: str
    url: str
    method: str = "POST"
    seconds: float = DEFAULT_TIMEOUT
    headers: Mapping[str, str] = field(default_factory=dict)
    secret: _Secret | None = None


class HttpFunctions(RemoteFunctions):
    """The module: while it runs, functions may be registered with a URL.

    ``environment`` is where secrets are looked up; ``client`` sends the requests, one within the rules of ``security``
    when None.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        security: options.HttpFunctions | None = None,
        environment: Mapping[str, str] = os.environ,
        client: OutboundClient | None = None,
    ) -> None:
        security = security or options.HttpFunctions()
        self._bus = bus
        self._environment = environment
        self._client = client or OutboundClient(
            UrlRules(
                security.url_allowlist,
                block_private_ips=security.block_private_ips,
                require_https=security.require_https,
            )
        )
        self._running = False

    async def start(self) -> None:
        """Take registrations."""
        self._running = True
        self._bus.registrations.remote_functions = self

    async def stop(self) -> None:
        """Refuse registrations and calls from now on."""
        self._running = False
        if self._bus.registrations.remote_functions is self:
            self._bus.registrations.remote_functions = RemoteFunctions()
        await self._client.close()

    def make(self, function_id: str, definition: bytes) -> Remote:
        """Return the function for the raw JSON of a registration's ``invocation``.

        Raises BusError ``url_validation_failed`` for a URL that the rules refuse, ``invalid_registration`` for all else.
        """
        read = _read(function_id, definition)
        try:
            self._client.rules.check_url(read.url)
            check_headers(read.headers)
        except UrlRefused as error:
            raise BusError("url_validation_failed", str(error)) from error

        async def call(
            data: bytes, invocation_id: str, *, traceparent: str | None = None, baggage: str | None = None
        ) -> bytes | None:
            return await self._call(read, data, invocation_id, {"traceparent": traceparent, "baggage": baggage})

        return call

    async def _call(
        self, definition: _Definition, data: bytes, invocation_id: str, trace: Mapping[str, str | None]
    ) -> bytes | None:
        if not self._running:
            raise BusError("http_functions_disabled", "functions that are invoked over HTTP were turned off")
        value = self._secret(definition)
        headers = {"content-type": "application/json", **definition.headers}
        headers |= {name: text for name, text in trace.items() if text is not None and _can_be_sent(name, text)}
        headers |= _own_headers(definition, data, invocation_id, str(int(self._bus.clock.time())), value)
        try:
            reply = await self._client.request(
                definition.method, definition.url, headers=headers, body=data, seconds=definition.seconds
            )
        except UrlRefused as error:
            raise BusError("url_validation_failed", _without(value, str(error))) from error
        except RequestFailed as error:
            raise BusError("http_request_failed", _without(value, str(error))) from error
        except ResponseFailed as error:
            raise BusError("http_response_failed", _without(value, str(error))) from error
        if 200 <= reply.status < 300:
            return _result(reply)
        raise _error(reply, value)

    def _secret(self, definition: _Definition) -> str:
        secret = definition.secret
        if secret is None:
            return ""
        value = self._environment.get(secret.variable, "")
        if not value:
            text = f"{definition.function_id}: the environment variable {secret.variable} is not set in the engine"
            raise BusError(secret.missing_code, text)
        return value


class _Invocation(msgspec.Struct):
    url: str
    method: str = "POST"
    timeout_ms: int | None = None
    headers: dict[str, str] | None = None
    auth: msgspec.Raw = msgspec.Raw(b"null")


class _Hmac(msgspec.Struct, tag="hmac", tag_field="type"):
    secret_key: str


class _Bearer(msgspec.Struct, tag="bearer", tag_field="type"):
    token_key: str


class _ApiKey(msgspec.Struct, tag="api_key", tag_field="type"):
    header: str
    value_key: str


def _read(function_id: str, definition: bytes) -> _Definition:
    try:
        fields = msgspec.json.decode(definition, type=_Invocation)
        auth = msgspec.json.decode(fields.auth, type=_Hmac | _Bearer | _ApiKey | None)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refused(str(error)) from error
    method = fields.method.upper()
    if method not in METHODS:
        raise _refused(f"method {fields.method[:20]!r} is none of {', '.join(METHODS)}")
    if fields.timeout_ms is not None and fields.timeout_ms <= 0:
        raise _refused("timeout_ms must be more than 0")
    headers = {name.lower(): value for name, value in (fields.headers or {}).items()}
    own = [name for name in headers if name.startswith("x-iii-")]
    if own:
        raise _refused(f"the header {own[0][:100]} is set by the engine; leave it out")
    secret = None
    if isinstance(auth, _Hmac):
        secret = _Secret("hmac", auth.secret_key)
    elif isinstance(auth, _Bearer):
        secret = _Secret("bearer", auth.token_key)
    elif isinstance(auth, _ApiKey):
        secret = _Secret("api_key", auth.value_key, auth.header.lower())
        if secret.header.startswith("x-iii-") or not _can_be_sent(secret.header, ""):
            raise _refused(f"auth.header {auth.header[:100]!r} cannot be used")
    if secret is not None:
        if not _VARIABLE.fullmatch(secret.variable):  # not repeated: it may well be the secret itself
            raise _refused("auth: the key must be the name of an environment variable of the engine, not the secret")
        if secret.variable.startswith(_OWN_SETTINGS):
            raise _refused(f"auth: variables that begin with {', '.join(_OWN_SETTINGS)} are the engine's own settings")
    seconds = DEFAULT_TIMEOUT if fields.timeout_ms is None else min(fields.timeout_ms / 1000, MAX_TIMEOUT)
    return _Definition(function_id, fields.url, method, seconds, headers, secret)


def _refused(reason: str) -> BusError:
    return BusError("invalid_registration", f"invocation: {reason}")


def _own_headers(
    definition: _Definition, data: bytes, invocation_id: str, timestamp: str, value: str
) -> dict[str, str]:
    headers = {
        "x-iii-function-path": _one_line(definition.function_id),
        "x-iii-invocation-id": _one_line(invocation_id),
        "x-iii-timestamp": timestamp,
    }
    secret = definition.secret
    if secret is None:
        return headers
    if secret.kind == "hmac":
        headers["x-iii-signature"] = signature(value, timestamp, data)
        return headers
    text = f"Bearer {value}" if secret.kind == "bearer" else value
    if not _can_be_sent(secret.header, text):
        raise BusError(secret.missing_code, f"the value of {secret.variable} cannot be sent in a header")
    headers[secret.header] = text
    return headers


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of ``x-iii-Signature``; ``timestamp`` is the text of ``x-iii-Timestamp``."""
    signed = timestamp.encode() + b":" + base64.b64encode(body)
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _result(reply: Reply) -> bytes | None:
    body = reply.body.strip()
    if not body or reply.status == 204:
        return None
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise BusError("invalid_response", f"HTTP {reply.status}, but the body is not JSON: {error}") from error
    return body


class _ErrorBody(msgspec.Struct):
    code: str
    message: str
    stacktrace: str | None = None


class _ErrorAnswer(msgspec.Struct):
    error: _ErrorBody


def _error(reply: Reply, secret: str) -> BusError:
    for form in (_ErrorAnswer, _ErrorBody):
        try:
            found = msgspec.json.decode(reply.body, type=form)
        except (msgspec.DecodeError, RecursionError):
            continue
        body = found.error if isinstance(found, _ErrorAnswer) else found
        code, message = (_without(secret, text)[:MAX_TEXT] for text in (body.code, body.message))
        trace = None if body.stacktrace is None else _without(secret, body.stacktrace)[:MAX_TEXT]
        return BusError(code or "http_error", message, trace)
    excerpt = _one_line(_without(secret, reply.body.decode("utf-8", "replace")))[:MAX_EXCERPT]
    return BusError("http_error", f"HTTP {reply.status}" + (f": {excerpt}" if excerpt else ""))


def _without(secret: str, text: str) -> str:
    """The text with every occurrence of the secret blanked out: servers like to repeat what they refuse."""
    return text.replace(secret, "***") if secret else text


def _one_line(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text).strip()


def _can_be_sent(name: str, value: str) -> bool:
    try:
        check_headers({name: value})
    except UrlRefused:
        return False
    return True
