"""The gate of the REST port: lets a request through, or answers it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agentos_engine.clock import Clock
from agentos_engine.file_changes import Followed
from agentos_engine.http_auth.failures import Failures
from agentos_engine.http_auth.keys import ApiKeys, read_keys
from agentos_engine.http_auth.policy import API_KEY, JWT, NONE, HttpAuthOptions, JwtOptions, Policy
from agentos_engine.protocol.http import Request, Response
from agentos_engine.server import http_refusals

if TYPE_CHECKING:
    from agentos_engine.http_auth.tokens import Tokens

log = logging.getLogger(__name__)

LOG_INTERVAL = 10.0
"""Seconds between two log lines about refused requests."""

_NO_FILE = "the engine is told of none: set apiKeysFile, or auth: none, in agentos.http of its config or in --http-auth"


class KeysPending(Exception):
    """The request can be decided once :meth:`HttpAuth.settled` has returned."""


class _Source(Protocol):
    def start(self) -> None: ...

    def wanted(self) -> bool: ...

    async def settled(self) -> None: ...

    async def run(self, clock: Clock) -> None: ...


def http_auth(options: HttpAuthOptions | None, is_open: bool, clock: Clock) -> "HttpAuth | None":
    """Return the gate of an engine, or None when everybody may do everything.

    ``is_open``: whether workers need no token; the engine then asks for no proof unless the options say so.
    """
    options = options or HttpAuthOptions()
    default = NONE if is_open else API_KEY
    if (options.auth or default) == NONE and not options.routes and options.api_keys_file is None:
        return None
    return HttpAuth(options, default, clock)


class HttpAuth:
    """Decides about requests by the rules of whoever runs the engine. Make it in a running loop.

    ``default``: the kind of proof that is asked for when the options name none. A right key or token always passes;
    failures are counted by address, and what they are answered with changes when there are too many.
    """

    def __init__(self, options: HttpAuthOptions, default: str, clock: Clock) -> None:
        self._clock = clock.machine
        self._policy = Policy(options.auth or default, options.routes)
        self._keys_file = Path(options.api_keys_file) if options.api_keys_file else None
        self._keys = ApiKeys()
        self._no_keys = _NO_FILE if self._keys_file is None else ""
        """Why there are no API keys; empty when there are some."""
        self._tokens: Tokens | None = None
        self._source: _Source | None = None
        self._failures = Failures(self._clock.monotonic)
        self._refused = 0
        self._logged_at: float | None = None
        if self._keys_file is not None:
            self._key_changes = Followed([self._keys_file])
            self._read_keys()
        elif options.uses(API_KEY, default):
            log.warning("requests to the REST port want an API key, and %s", _NO_FILE)
        if options.jwt is not None and options.uses(JWT, default):
            self._tokens, self._source = _jwt(options.jwt, self._clock)
            self._source.start()

    def check(
        self,
        request: Request,
        segments: Sequence[str],
        method: str,
        address: Callable[[], str],
        may_wait: bool = False,
    ) -> Response | None:
        """Return None for a request that may pass, else the answer to it.

        ``segments`` and ``method`` are those by which the router goes, ``address`` tells whose request it is. Headers
        with an API key, or with the proof that was asked for, are taken out of the request: no worker sees them.
        Raises KeysPending, if the request ``may_wait``.
        """
        kind = self._policy.kind_of(segments, method)
        bearer: list[str] = []
        others: list[str] = []
        carriers: list[tuple[str, str]] = []
        authorizations = 0
        for header in request.headers:
            name, value = header
            if name == "authorization":
                authorizations += 1
                scheme, _, proof = value.partition(" ")
                if scheme.lower() == "bearer":
                    proof = proof.strip(" ")
                    bearer.append(proof)
                else:
                    continue
            elif name == "x-api-key":
                proof = value.strip(" ")
                others.append(proof)
            else:
                continue
            if self._keys.knows(proof) or (kind == JWT and name == "authorization"):
                carriers.append(header)
        why = ""
        if kind == API_KEY:
            why = self._api_key(bearer, others, authorizations, carriers)
        elif kind == JWT:
            why = self._jwt(bearer, authorizations, may_wait)
        if why:
            return self._refuse(kind, why, address())
        if carriers:
            request.headers = [each for each in request.headers if each not in carriers]
        return None

    async def settled(self) -> None:
        """Return when keys that had to be fetched are there, or cannot be had."""
        if self._source is not None:
            await self._source.settled()

    async def follow(self) -> None:
        """Read files again when they change and keep the issuer's keys fresh; runs until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._keys_file is not None:
                tasks.create_task(self._key_changes.follow(self._clock, self._read_keys))
            if self._source is not None:
                tasks.create_task(self._source.run(self._clock))

    def _api_key(
        self, bearer: list[str], others: list[str], authorizations: int, carriers: list[tuple[str, str]]
    ) -> str:
        """Return why there is no right API key; empty when there is one."""
        if authorizations > 1 or len(others) > 1:
            return "there are several headers of the same name with a key; send one"
        if carriers:
            return ""
        if self._no_keys:
            return f"an API key is wanted here, and {self._no_keys}"
        if bearer or others:
            return "the API key is not one of this engine's"
        return "an API key is wanted here: send it in the header x-api-key, or in Authorization behind the word Bearer"

    def _jwt(self, bearer: list[str], authorizations: int, may_wait: bool) -> str:
        """Return why there is no right token; empty when there is one. Raises KeysPending."""
        if authorizations > 1:
            return "there are several Authorization headers; send one"
        if self._tokens is None or self._source is None:
            return "a JWT is wanted here, and the engine is not told whose: set jwt in agentos.http of its config"
        if not bearer:
            return "a JWT is wanted here: send it in the header Authorization behind the word Bearer"
        from agentos_engine.http_auth.tokens import TokenRefused, UnknownKey

        try:
            self._tokens.check(bearer[0])
        except UnknownKey as error:
            if may_wait and self._source.wanted():
                raise KeysPending from None
            return str(error)
        except TokenRefused as error:
            return str(error)
        return ""

    def _refuse(self, kind: str, why: str, address: str) -> Response:
        self._refused += 1
        now = self._clock.monotonic()
        if self._logged_at is None or now - self._logged_at >= LOG_INTERVAL:
            extra = {"refused": self._refused, "reason": why, "ip_address": address}
            log.warning("requests to the REST port were refused", extra=extra)
            self._logged_at, self._refused = now, 0
        wait = self._failures.add(address)
        if wait:
            return http_refusals.too_many_failures(wait)
        return http_refusals.unauthorized(why, with_token=kind == JWT)

    def _read_keys(self) -> None:
        assert self._keys_file is not None
        self._keys, self._no_keys = read_keys(self._keys_file)
        if self._no_keys:
            log.error("apiKeysFile %s: %s; every request that needs a key is refused", self._keys_file, self._no_keys)
        else:
            log.info("API keys for the REST port read", extra={"keys": len(self._keys)})


def _jwt(options: JwtOptions, clock: Clock) -> "tuple[Tokens, _Source]":
    # Not imported without need: together they cost more memory than the whole engine's own code.
    from agentos_engine.http_auth.jwks import KeyFile, KeyUrl
    from agentos_engine.http_auth.tokens import Tokens

    tokens = Tokens(options, clock.time)
    if options.jwks_file is not None:
        return tokens, KeyFile(Path(options.jwks_file), tokens.load)
    return tokens, KeyUrl(options.jwks_url or "", tokens.load, clock.monotonic)
