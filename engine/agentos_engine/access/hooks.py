"""What the hooks of a listener are asked and what their answers mean. Pure: raw JSON in and out.

A hook answers with the registration as it shall be: keys that it leaves out, or sets to null, stay as they were, so
``{}`` accepts all. Anything but an object refuses.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from agentos_engine.protocol.messages import kept

Answer = TypeVar("Answer", bound=msgspec.Struct)

MAX_ANSWER = 4 << 20
"""Bytes of a hook's answer."""


class Refused(Exception):
    """A registration that a hook does not accept; the message says why."""


@dataclass(frozen=True, slots=True)
class FunctionRegistration:
    """A function that a connection registers. ``description`` and ``metadata`` are raw JSON or None."""

    function_id: str
    description: bytes | None = None
    metadata: bytes | None = None

    def question(self, context: bytes, namespace: str) -> bytes:
        """Return the JSON that the hook is asked with; ``context`` is that of the session, raw."""
        fields = {
            "function_id": self.function_id,
            "description": _raw(self.description),
            "metadata": _raw(self.metadata),
        }
        return _question(fields, context, namespace)

    def answered(self, answer: bytes | None) -> "FunctionRegistration":
        """Return the registration as the hook wants it. Raises Refused."""
        fields = _read(answer, _FunctionAnswer)
        return FunctionRegistration(
            _id(fields.function_id, self.function_id, "function_id"),
            _text(fields.description, self.description),
            _object(kept(fields.metadata), self.metadata, "metadata"),
        )


@dataclass(frozen=True, slots=True)
class TriggerRegistration:
    """A binding that a connection registers. ``config`` and ``metadata`` are raw JSON or None."""

    trigger_id: str
    trigger_type: str
    function_id: str
    config: bytes | None = None
    metadata: bytes | None = None

    def question(self, context: bytes, namespace: str) -> bytes:
        """Return the JSON that the hook is asked with; ``context`` is that of the session, raw."""
        fields = {
            "trigger_id": self.trigger_id,
            "trigger_type": self.trigger_type,
            "function_id": self.function_id,
            "config": _raw(self.config),
            "metadata": _raw(self.metadata),
        }
        return _question(fields, context, namespace)

    def answered(self, answer: bytes | None) -> "TriggerRegistration":
        """Return the registration as the hook wants it. Raises Refused."""
        fields = _read(answer, _TriggerAnswer)
        return replace(
            self,
            trigger_id=_id(fields.trigger_id, self.trigger_id, "trigger_id"),
            trigger_type=_id(fields.trigger_type, self.trigger_type, "trigger_type"),
            function_id=_id(fields.function_id, self.function_id, "function_id"),
            config=kept(fields.config) or self.config,
        )


@dataclass(frozen=True, slots=True)
class TriggerTypeRegistration:
    """A trigger type that a connection registers. ``description`` is raw JSON or None."""

    trigger_type_id: str
    description: bytes | None = None

    def question(self, context: bytes) -> bytes:
        """Return the JSON that the hook is asked with; ``context`` is that of the session, raw."""
        fields = {"trigger_type_id": self.trigger_type_id, "description": _raw(self.description or b'""')}
        return _question(fields, context)

    def answered(self, answer: bytes | None) -> "TriggerTypeRegistration":
        """Return the registration as the hook wants it. Raises Refused."""
        fields = _read(answer, _TriggerTypeAnswer)
        return TriggerTypeRegistration(
            _id(fields.trigger_type_id, self.trigger_type_id, "trigger_type_id"),
            _text(fields.description, self.description),
        )


def middleware_input(
    function_id: str, payload: bytes | None, action: bytes | None, context: bytes, namespace: str | None
) -> bytes:
    """Return the JSON that a listener's middleware is called with instead of the function.

    ``payload`` and ``action`` are raw JSON of the caller's message, None for what it left out; ``namespace`` is left out
    when the caller named none.
    """
    fields: dict[str, object] = {"function_id": function_id, "payload": _raw(payload), "action": _raw(action)}
    return _question(fields, context, namespace)


class _FunctionAnswer(msgspec.Struct):
    function_id: str | None = None
    description: str | None = None
    metadata: msgspec.Raw = msgspec.Raw()


class _TriggerAnswer(msgspec.Struct):
    trigger_id: str | None = None
    trigger_type: str | None = None
    function_id: str | None = None
    config: msgspec.Raw = msgspec.Raw()


class _TriggerTypeAnswer(msgspec.Struct):
    trigger_type_id: str | None = None
    description: str | None = None


def _question(fields: dict[str, object], context: bytes, namespace: str | None = None) -> bytes:
    if namespace is not None:
        fields["namespace"] = namespace
    fields["context"] = msgspec.Raw(context)
    return msgspec.json.encode(fields)


def _read(answer: bytes | None, form: type[Answer]) -> Answer:
    if answer is None:
        raise Refused("the hook has no result; it returns an object to accept, {} for no change")
    if len(answer) > MAX_ANSWER:
        raise Refused(f"the hook's answer has {len(answer)} bytes, more than {MAX_ANSWER}")
    try:
        return msgspec.json.decode(answer, type=form)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused(f"the hook's answer is not understood: {error}") from error


def _id(changed: str | None, former: str, what: str) -> str:
    if changed == "":
        raise Refused(f"the hook's answer is not understood: {what} is empty")
    return former if changed is None else changed


def _text(changed: str | None, former: bytes | None) -> bytes | None:
    return former if changed is None else msgspec.json.encode(changed)


def _object(changed: bytes | None, former: bytes | None, what: str) -> bytes | None:
    if changed is not None and not changed.startswith(b"{"):
        raise Refused(f"the hook's answer is not understood: {what} is not an object")
    return former if changed is None else changed


def _raw(value: bytes | None) -> msgspec.Raw:
    return msgspec.Raw(value or b"null")
