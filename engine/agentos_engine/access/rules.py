"""The rules of one listener, made ready for decisions."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from agentos_engine.access.globs import Glob
from agentos_engine.config_file import options

MISSING = object()
"""No such key in a function's metadata."""


class Metadata:
    """The metadata of a function, from raw JSON; decoded only when a rule asks for it."""

    __slots__ = ("_fields", "_raw")

    def __init__(self, raw: bytes | None) -> None:
        self._raw = raw
        self._fields: Mapping[str, object] | None = None

    def get(self, key: str) -> object:
        """Return the value under a key, MISSING when there is none."""
        if self._fields is None:
            try:
                value = msgspec.json.decode(self._raw or b"{}")
            except (msgspec.DecodeError, RecursionError):
                value = {}
            self._fields = value if isinstance(value, dict) else {}
        return self._fields.get(key, MISSING)


@dataclass(frozen=True, slots=True)
class Exposure:
    """One item of ``expose_functions``: all that it names must fit.

    ``function_ids`` and ``namespace`` of None fit all. ``metadata`` maps keys of a function's metadata to a value, or
    to a pattern for a text.
    """

    function_ids: Glob | None = None
    namespace: str | None = None
    metadata: tuple[tuple[str, object], ...] = ()

    def covers(self, function_id: str, metadata: Metadata, namespace: str) -> bool:
        """True when the item exposes this function."""
        if self.namespace is not None and self.namespace != namespace:
            return False
        if self.function_ids is not None and not self.function_ids.matches(function_id):
            return False
        return all(_fits(rule, metadata.get(key)) for key, rule in self.metadata)


@dataclass(frozen=True, slots=True)
class Rbac:
    """What a listener's entry says. ``restricted`` is False when it has no ``rbac``: then everything may be called."""

    restricted: bool = False
    auth_function_id: str | None = None
    expose_functions: tuple[Exposure, ...] = ()
    on_function_registration_function_id: str | None = None
    on_trigger_registration_function_id: str | None = None
    on_trigger_type_registration_function_id: str | None = None
    middleware_function_id: str | None = None

    @classmethod
    def of(cls, listener: options.WorkerListener) -> "Rbac | None":
        """Return the rules of a listener; None when it has none, so that nothing needs to be checked."""
        rbac, middleware = listener.rbac, listener.middleware_function_id
        if rbac is None:
            return None if middleware is None else cls(middleware_function_id=middleware)
        return cls(
            restricted=True,
            auth_function_id=rbac.auth_function_id,
            expose_functions=tuple(map(_exposure, rbac.expose_functions)),
            on_function_registration_function_id=rbac.on_function_registration_function_id,
            on_trigger_registration_function_id=rbac.on_trigger_registration_function_id,
            on_trigger_type_registration_function_id=rbac.on_trigger_type_registration_function_id,
            middleware_function_id=middleware,
        )


def _exposure(item: options.Expose) -> Exposure:
    return Exposure(
        None if item.match is None else Glob(item.match.pattern),
        item.namespace,
        tuple((key, Glob(each.pattern) if isinstance(each, options.Glob) else each) for key, each in item.metadata),
    )


def _fits(rule: object, value: object) -> bool:
    if isinstance(rule, Glob):
        return isinstance(value, str) and rule.matches(value)
    if isinstance(rule, bool) or isinstance(value, bool):  # true is not 1
        return rule is value
    return rule == value
