"""Asks the functions that a listener's rules name: who a connection is, and whether a registration is accepted."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from agentos_engine.access import policy
from agentos_engine.access.hooks import (
    FunctionRegistration,
    Refused,
    TriggerRegistration,
    TriggerTypeRegistration,
    middleware_input,
)
from agentos_engine.access.rules import Rbac
from agentos_engine.access.session import TRUSTED, Session, SessionError, auth_input
from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError

log = logging.getLogger(__name__)

AUTH_TIMEOUT = 10.0
"""Seconds for the auth function to answer."""
HOOK_TIMEOUT = 10.0
"""Seconds for a registration hook to answer."""
MAX_REASON = 500
"""Characters of an auth function's own message that are passed on to the peer."""

Answered = TypeVar("Answered")


class Caller(Protocol):
    """The bus, as far as it is needed here."""

    async def call(
        self,
        function_id: str,
        data: bytes = b"null",
        *,
        namespace: str = "default",
        metadata: bytes | None = None,
        traceparent: str | None = None,
        baggage: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  the bus ends the call at its deadline
        origin: Connection | None = None,
    ) -> bytes | None:
        """Call a function and return its raw JSON result, None when it has none. Raises BusError."""
        ...


class Gatekeeper:
    """The rules of one listener at work. Everything that fails or is not understood is a refusal."""

    def __init__(
        self, bus: Caller, rbac: Rbac, *, auth_timeout: float = AUTH_TIMEOUT, hook_timeout: float = HOOK_TIMEOUT
    ) -> None:
        self.rbac = rbac
        self._bus = bus
        self._auth_timeout = auth_timeout
        self._hook_timeout = hook_timeout

    async def authenticate(self, headers: Iterable[tuple[str, str]], query: str, ip_address: str) -> Session:
        """Return the session of a connection that was asked for with these headers and this raw query.

        Raises BusError AUTH_ERROR.
        """
        function_id = self.rbac.auth_function_id
        if function_id is None:
            return Session() if self.rbac.restricted else TRUSTED
        try:
            question = auth_input(headers, query, ip_address)
        except SessionError as error:
            raise BusError("AUTH_ERROR", str(error)) from error
        try:
            answer = await self._bus.call(function_id, question, timeout=self._auth_timeout)
        except BusError as error:
            raise BusError("AUTH_ERROR", error.message[:MAX_REASON]) from error
        except Exception as error:
            log.exception("the auth function could not be asked", extra={"function_id": function_id})
            raise BusError("AUTH_ERROR", "the auth function could not be asked; the engine's log says why") from error
        try:
            return Session.parse(answer)
        except SessionError as error:
            log.error("connection refused: the answer of auth function %s is not understood: %s", function_id, error)
            message = f"the answer of auth function {function_id} is not understood; the engine's log says why"
            raise BusError("AUTH_ERROR", message) from error

    def check_call(
        self, session: Session, function_id: str, metadata: bytes | None = None, namespace: str = "default"
    ) -> None:
        """Raise BusError FORBIDDEN unless the session may call the function.

        ``metadata`` is the raw JSON that the function was registered with.
        """
        reason = policy.decide(self.rbac, session, function_id, metadata, namespace)
        if reason is not None:
            if policy.is_infrastructure(function_id):
                log.warning("a session forbids %s, which SDKs need to work", function_id)
            raise BusError("FORBIDDEN", reason)

    def visible(
        self, session: Session, function_id: str, metadata: bytes | None = None, namespace: str = "default"
    ) -> bool:
        """True when listings show the function to the session: when it may call it."""
        return policy.decide(self.rbac, session, function_id, metadata, namespace) is None

    def check_namespace(self, session: Session, namespace: str) -> None:
        """Raise BusError FORBIDDEN unless the connection may name this iii namespace as its own."""
        if not session.may_join(namespace):
            text = f"namespace '{namespace}' not allowed (add to namespaces of the auth function's answer)"
            raise BusError("FORBIDDEN", text)

    async def admit_function(
        self, session: Session, registration: FunctionRegistration, namespace: str = "default"
    ) -> FunctionRegistration:
        """Return a function as it shall be registered: as the hook changed it, the session's prefix before its id.

        Raises BusError FORBIDDEN.
        """
        _check(policy.decide_function_registration(session))
        hook = self.rbac.on_function_registration_function_id
        if hook is not None:
            question = registration.question(session.context, namespace)
            registration = await self._ask(hook, question, registration.answered)
        return replace(registration, function_id=session.outer_id(registration.function_id))

    async def admit_trigger(
        self, session: Session, registration: TriggerRegistration, namespace: str = "default"
    ) -> TriggerRegistration:
        """Return a binding as it shall be registered; its function gets the session's prefix, as the functions do.

        ``namespace`` is that of the function. Raises BusError FORBIDDEN.
        """
        outer_id = session.outer_id(registration.function_id)
        _check(policy.decide_trigger(session, registration.trigger_type, outer_id))
        hook = self.rbac.on_trigger_registration_function_id
        if hook is not None:
            question = registration.question(session.context, namespace)
            registration = await self._ask(hook, question, registration.answered)
        return replace(registration, function_id=session.outer_id(registration.function_id))

    async def admit_trigger_type(
        self, session: Session, registration: TriggerTypeRegistration
    ) -> TriggerTypeRegistration:
        """Return a trigger type as it shall be registered. Raises BusError FORBIDDEN."""
        _check(policy.decide_trigger_type_registration(session))
        hook = self.rbac.on_trigger_type_registration_function_id
        if hook is not None:
            registration = await self._ask(hook, registration.question(session.context), registration.answered)
        return registration

    def uses_middleware(self, is_engine_function: bool) -> bool:
        """True when a call goes to the middleware instead of the function; the engine's own functions never do."""
        return self.rbac.middleware_function_id is not None and not is_engine_function

    async def call_middleware(
        self,
        session: Session,
        function_id: str,
        payload: bytes | None,
        action: bytes | None,
        namespace: str | None = None,
        *,
        metadata: bytes | None = None,
        traceparent: str | None = None,
        baggage: str | None = None,
        origin: Connection | None = None,
    ) -> bytes | None:
        """Call the middleware and return its raw JSON result, which is that of the call. Raises BusError.

        The call counts among those of ``origin``, and ends with it.

        ``payload``, ``action`` and ``metadata`` are raw JSON, ``namespace`` the one that the caller named, if it did.
        """
        assert self.rbac.middleware_function_id is not None
        question = middleware_input(function_id, payload, action, session.context, namespace)
        return await self._bus.call(
            self.rbac.middleware_function_id,
            question,
            metadata=metadata,
            traceparent=traceparent,
            baggage=baggage,
            origin=origin,
        )

    async def _ask(self, hook: str, question: bytes, read: Callable[[bytes | None], Answered]) -> Answered:
        try:
            return read(await self._bus.call(hook, question, timeout=self._hook_timeout))
        except BusError as error:
            raise BusError("FORBIDDEN", f"{hook} refused it: {error.message}") from error
        except Refused as error:
            raise BusError("FORBIDDEN", f"{hook}: {error}") from error
        except Exception as error:
            log.exception("a registration hook could not be asked", extra={"function_id": hook})
            raise BusError("FORBIDDEN", f"{hook} could not be asked; the engine's log says why") from error


def _check(reason: str | None) -> None:
    if reason is not None:
        raise BusError("FORBIDDEN", reason)
