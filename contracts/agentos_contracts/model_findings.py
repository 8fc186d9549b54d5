"""What pydantic refuses, as findings with paths and words for people."""

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from agentos_contracts.findings import Finding, error, shown

_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "the boolean"),
    (str, "the text"),
    (int, "the whole number"),
    (float, "the number"),
    (list, "a list"),
    (dict, "a map"),
)


_SECRETIVE = frozenset({"args", "command", "env"})
"""Fields in which people write secrets now and then: a message does not repeat what stands there."""


def at(path: str, field: str) -> str:
    """Return the path of a field below a path; either may be empty."""
    return f"{path}.{field}" if path and field else path or field


def at_key(path: str, key: str) -> str:
    """Return the path of a key that its author chose, as Kubernetes writes it: ``spec.manifest.env[LOG_LEVEL]``."""
    return f"{path}[{shown(key, 128)}]"


def model_findings(problem: ValidationError, model: type[BaseModel], path: str) -> list[Finding]:
    """Return one finding per error of a ValidationError of ``model``, with paths below ``path``."""
    found: dict[str, Finding] = {}
    for fault in problem.errors(include_url=False):
        where, owner = _locate(fault["loc"], model, path)
        reason, message = _words(fault, owner)
        found.setdefault(where, error(where, reason, message))
    return list(found.values())


def _locate(loc: tuple[int | str, ...], model: type[BaseModel], path: str) -> tuple[str, type[BaseModel] | None]:
    """Return the path of a location and the model that holds its last part, where that is a model."""
    where = path
    owner: type[BaseModel] | None = None
    kind: Any = model
    for part in loc:
        if part == "[key]":
            break
        kind = _unwrapped(kind)
        owner = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if isinstance(part, int):
            where = f"{where}[{part}]"
            kind = _argument(kind, 0)
        elif owner is not None:
            where = at(where, shown(part, 128))
            kind = _field_type(owner, part)
        else:
            where = at_key(where, part)
            kind = _argument(kind, 1)
    return where, owner


def _field_type(model: type[BaseModel], wire_name: str) -> Any:
    for name, field in model.model_fields.items():
        if wire_name in (name, field.alias):
            return field.annotation
    return Any


def _unwrapped(kind: Any) -> Any:
    """Drop ``| None`` and ``Annotated``."""
    while True:
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif origin in (typing.Union, types.UnionType):
            kind = next((part for part in typing.get_args(kind) if part is not types.NoneType), Any)
        else:
            return kind


def _argument(kind: Any, position: int) -> Any:
    arguments = typing.get_args(kind)
    return arguments[position] if position < len(arguments) else Any


def _words(fault: Any, owner: type[BaseModel] | None) -> tuple[str, str]:
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    secret = not _SECRETIVE.isdisjoint(fault["loc"])
    match kind:
        case "missing":
            return "Required", "is required"
        case "extra_forbidden":
            return "UnknownField", unknown_field(str(fault["loc"][-1]), owner)
        case "string_type":
            hint = "; put it in quotes" if isinstance(value, bool | int | float) else ""
            return "WrongType", f"must be a text, got {described(value, secret=secret)}{hint}"
        case "int_type" | "int_from_float" | "int_parsing":
            return "WrongType", f"must be a whole number, got {described(value, secret=secret)}"
        case "bool_type":
            return "WrongType", f"must be true or false, got {described(value, secret=secret)}"
        case "list_type":
            return "WrongType", f"must be a list, got {described(value, secret=secret)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "WrongType", f"must be a map, got {described(value, secret=secret)}"
        case "string_too_long":
            return "TooLong", f"has {len(value)} characters, more than the {context['max_length']} that are allowed"
        case "string_too_short":
            return "Required", "must not be empty"
        case "too_long":
            return "TooLong", f"has {len(value)} entries, more than the {context['max_length']} that are allowed"
        case "too_short":
            return "Required", "must not be empty"
        case "greater_than_equal":
            return "OutOfRange", f"must be at least {context['ge']}, got {described(value, secret=secret)}"
        case "less_than_equal":
            return "OutOfRange", f"must be at most {context['le']}, got {described(value, secret=secret)}"
        case "literal_error":
            expected = context["expected"].replace("'", "")
            several = "one of " if " or " in expected else ""
            return "InvalidValue", f"must be {several}{expected}; got {described(value, secret=secret)}"
        case "value_error":
            return "InvalidValue", str(context["error"])
        case _:
            return (
                "InvalidValue",
                f"{fault['msg'][:1].lower()}{fault['msg'][1:]}; got {described(value, secret=secret)}",
            )


def unknown_field(name: str, owner: type[BaseModel] | None) -> str:
    """Return the words for a field that nobody knows, with the nearest one that is known."""
    known = sorted(field.alias or key for key, field in owner.model_fields.items()) if owner else []
    if near := nearest(name, known):
        return f"unknown field {shown(name)}; did you mean {near}?"
    return f"unknown field {shown(name)}; known are {', '.join(known)}" if known else f"unknown field {shown(name)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that a name was meant to be, as far as one can tell; else an empty text."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")


def described(value: object, *, secret: bool = False) -> str:
    """Return the kind of a value and, when it is short and no ``secret``, the value, for an error message."""
    if value is None:
        return "nothing (null)"
    kind = next((words for known, words in _KINDS if isinstance(value, known)), f"a {type(value).__name__}")
    if isinstance(value, list | dict):
        return kind
    if secret and not isinstance(value, bool):
        return kind.replace("the", "a")
    text = ascii(value) if isinstance(value, str) else _digits(value)
    return f"{kind} {text}" if len(text) <= 60 else f"{kind.replace('the', 'a')} too long to show"


def _digits(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return repr(value)
    except ValueError:  # a whole number of more than 4300 digits
        return "x" * 61
