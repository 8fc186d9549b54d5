"""Decisions about calls, trigger types and listings. Pure: rules and session in, a verdict out."""

from agentos_engine.access.globs import Glob, Globs
from agentos_engine.access.rules import Metadata, Rbac
from agentos_engine.access.session import Session

_INFRASTRUCTURE = Globs(
    map(Glob, ("engine::channels::create", "engine::workers::register", "engine::log::*", "engine::baggage::*"))
)


def is_infrastructure(function_id: str) -> bool:
    """True for what SDKs call by themselves: always allowed unless a session forbids it."""
    return _INFRASTRUCTURE.matches(function_id)


def decide(
    rbac: Rbac, session: Session, function_id: str, metadata: bytes | None = None, namespace: str = "default"
) -> str | None:
    """Return None when the session may call the function, else the reason for people.

    ``metadata`` is the raw JSON that the function was registered with, ``namespace`` the iii namespace that is called.
    The first rule that applies decides: what the session forbids, its grants for the namespace, what it allows (in
    the default namespace), infrastructure, no rules at all, what the listener exposes.
    """
    if session.forbidden.matches(function_id):
        return _denied(function_id)
    if (granted := session.namespaces.get(namespace)) is not None and granted.matches(function_id):
        return None
    if namespace == "default" and session.allowed.matches(function_id):
        return None
    if is_infrastructure(function_id) or not rbac.restricted:
        return None
    fields = Metadata(metadata)
    if any(each.covers(function_id, fields, namespace) for each in rbac.expose_functions):
        return None
    return _denied(function_id)


def decide_trigger(session: Session, trigger_type: str, function_id: str) -> str | None:
    """Return None when the session may bind a function (its outer id) to a trigger type, else the reason."""
    types = session.allowed_trigger_types
    if types is not None and not types.matches(trigger_type):
        return f"trigger type '{trigger_type}' not allowed (add to allowed_trigger_types of the auth function's answer)"
    if session.forbidden.matches(function_id):
        return _denied(function_id)
    return None


def decide_function_registration(session: Session) -> str | None:
    """Return None when the session may register functions, else the reason."""
    if session.allow_function_registration:
        return None
    return "this session may not register functions (allow_function_registration of the auth function's answer)"


def decide_trigger_type_registration(session: Session) -> str | None:
    """Return None when the session may register trigger types, else the reason."""
    if session.allow_trigger_type_registration:
        return None
    return "this session may not register trigger types (allow_trigger_type_registration of the auth function's answer)"


def trigger_type_visible(session: Session, trigger_type: str) -> bool:
    """True when listings show the trigger type to the session."""
    return session.allowed_trigger_types is None or session.allowed_trigger_types.matches(trigger_type)


def _denied(function_id: str) -> str:
    return f"function '{function_id}' not allowed (add to rbac.expose_functions | remove from rbac.forbidden_functions)"
