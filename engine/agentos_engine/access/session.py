"""What one connection may do: the answer of the auth function, and the input that it is asked with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import msgspec

from agentos_engine.access.globs import Glob, GlobError, Globs

MAX_ANSWER = 1 << 20
"""Bytes of an auth function's answer."""
MAX_ENTRIES = 10_000
"""Entries of one list of the answer."""
MAX_QUERY_FIELDS = 256
MAX_PREFIX_LENGTH = 256

EMPTY = b"{}"
NOTHING = Globs()


class SessionError(ValueError):
    """An answer of the auth function, or a request, that is not understood; the message says why."""


class _Answer(msgspec.Struct):
    namespaces: dict[str, list[str]] = {}
    allowed_functions: list[str] = []
    forbidden_functions: list[str] = []
    allowed_trigger_types: list[str] | None = None
    allow_trigger_type_registration: bool = False
    allow_function_registration: bool = True
    function_registration_prefix: str | None = None
    context: msgspec.Raw = msgspec.Raw(EMPTY)


@dataclass(frozen=True, slots=True)
class Session:
    """The rights of one connection. ``context`` is the raw JSON object that hooks and middleware are given.

    ``namespaces`` holds grants by iii namespace; when there are any, the connection may join no other. A
    ``allowed_trigger_types`` of None allows all.
    """

    allowed: Globs = NOTHING
    forbidden: Globs = NOTHING
    namespaces: Mapping[str, Globs] = field(default_factory=dict)
    allowed_trigger_types: Globs | None = None
    allow_trigger_type_registration: bool = False
    allow_function_registration: bool = True
    prefix: str = ""
    """Put before every id that the connection registers, with the ``::``; empty when there is none."""
    context: bytes = EMPTY

    @classmethod
    def parse(cls, answer: bytes | None) -> "Session":
        """Read the raw JSON that an auth function answered with. Unknown keys are ignored.

        Raises SessionError for all that is not exactly understood: a connection is never let in on a guess.
        """
        if answer is None:
            raise SessionError("it has no result; return an object, {} for no special rights")
        if len(answer) > MAX_ANSWER:
            raise SessionError(f"it has {len(answer)} bytes, more than {MAX_ANSWER}")
        try:
            fields = msgspec.json.decode(answer, type=_Answer)
        except (msgspec.DecodeError, RecursionError) as error:
            raise SessionError(str(error)) from error
        context = bytes(fields.context)
        if not context.startswith(b"{"):
            raise SessionError("context must be an object")
        types = fields.allowed_trigger_types
        return cls(
            allowed=_globs(fields.allowed_functions, "allowed_functions"),
            forbidden=_globs(fields.forbidden_functions, "forbidden_functions"),
            namespaces={name: _globs(ids, f"namespaces.{name[:100]}") for name, ids in fields.namespaces.items()},
            allowed_trigger_types=None if types is None else _globs(types, "allowed_trigger_types"),
            allow_trigger_type_registration=fields.allow_trigger_type_registration,
            allow_function_registration=fields.allow_function_registration,
            prefix=_prefix(fields.function_registration_prefix),
            context=context,
        )

    def outer_id(self, function_id: str) -> str:
        """Return the id under which everybody else knows a function that this connection calls ``function_id``."""
        return self.prefix + function_id

    def inner_id(self, function_id: str) -> str:
        """Return the id that this connection knows a function by: without the prefix, if it begins with it."""
        return function_id.removeprefix(self.prefix)

    def may_join(self, namespace: str) -> bool:
        """True when the connection may name this iii namespace as its own."""
        return not self.namespaces or namespace == "default" or namespace in self.namespaces


TRUSTED = Session(allow_trigger_type_registration=True)
"""The session of every connection on a listener without rules."""


def auth_input(headers: Iterable[tuple[str, str]], query: str, ip_address: str) -> bytes:
    """Return the JSON that an auth function is asked with.

    Header names are in lower case, repeated headers joined with a comma; ``query`` is the raw text after the ``?``, and
    each of its parameters becomes a list. Raises SessionError for a query that is too long.
    """
    joined: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    try:
        parameters = parse_qs(query, keep_blank_values=True, errors="replace", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as error:
        raise SessionError(f"the query has more than {MAX_QUERY_FIELDS} parameters") from error
    return msgspec.json.encode(
        {
            "headers": {_sound(name): _sound(value) for name, value in joined.items()},
            "query_params": parameters,
            "ip_address": ip_address,
        }
    )


def _sound(text: str) -> str:
    """Without lone surrogates, which JSON in UTF-8 does not know."""
    return text.encode("utf-8", "replace").decode()


def _globs(entries: list[str], what: str) -> Globs:
    if len(entries) > MAX_ENTRIES:
        raise SessionError(f"{what} has {len(entries)} entries, more than {MAX_ENTRIES}")
    try:
        return Globs(map(Glob.parse, entries))
    except GlobError as error:
        raise SessionError(f"{what}: an entry {error}") from error


def _prefix(prefix: str | None) -> str:
    if not prefix:
        return ""
    if len(prefix) > MAX_PREFIX_LENGTH:
        raise SessionError(f"function_registration_prefix has more than {MAX_PREFIX_LENGTH} characters")
    return f"{prefix}::"
