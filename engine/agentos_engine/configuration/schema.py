"""Checks values against JSON Schema: the part of the vocabulary that says what a value is built of.

Checked: type, enum, const, properties, required, additionalProperties, items, prefixItems, the bounds on numbers,
lengths and counts, uniqueItems, allOf, anyOf, oneOf, not, and $ref within the schema. The rest is accepted and not
checked; pattern is among it, since a pattern from outside can keep a regular expression engine busy for ever.
"""

import math
from collections.abc import Iterator
from typing import Any

MAX_STEPS = 100_000
"""Pairs of a value and a schema that one check looks at."""
MAX_DEPTH = 64
MAX_PROBLEMS = 10

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
}
_LIMITS = (
    ("minimum", lambda value, limit: value >= limit, "is less than"),
    ("maximum", lambda value, limit: value <= limit, "is more than"),
    ("exclusiveMinimum", lambda value, limit: value > limit, "is not more than"),
    ("exclusiveMaximum", lambda value, limit: value < limit, "is not less than"),
)
_SIZES = {
    str: ("minLength", "maxLength", "characters"),
    list: ("minItems", "maxItems", "items"),
    dict: ("minProperties", "maxProperties", "properties"),
}


class SchemaError(Exception):
    """A schema that cannot be used; the message says where it is wrong."""


def problems(schema: Any, value: Any) -> list[str]:
    """Return what is wrong with a value, at most MAX_PROBLEMS things, each with its path. Raises SchemaError."""
    found = []
    for problem in _Check(schema).walk(schema, value, "$", 0):
        found.append(problem)
        if len(found) == MAX_PROBLEMS:
            break
    return found


class _Check:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def walk(self, schema: Any, value: Any, path: str, depth: int) -> Iterator[str]:
        self._steps += 1
        if depth > MAX_DEPTH or self._steps > MAX_STEPS:
            raise SchemaError("the schema refers to itself without end, or it is too large to check")
        if isinstance(schema, bool):
            if not schema:
                yield f"{path} is not allowed"
            return
        if not isinstance(schema, dict):
            raise SchemaError(f"the schema for {path} is neither an object nor true or false")
        if "$ref" in schema:
            yield from self.walk(self._resolve(schema["$ref"]), value, path, depth + 1)
        if "type" in schema:
            names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            if not any(_is(value, name) for name in names):
                yield f"{path} is not of type {' or '.join(map(str, names))}"
                return
        if isinstance(schema.get("enum"), list) and not any(_same(value, each) for each in schema["enum"]):
            yield f"{path} is not one of the values of its enum"
        if "const" in schema and not _same(value, schema["const"]):
            yield f"{path} is not the one value that it may have"
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from _number(schema, value, path)
        elif isinstance(value, str | list | dict):
            yield from _size(schema, value, path)
        if isinstance(value, dict):
            yield from self._object(schema, value, path, depth)
        elif isinstance(value, list):
            yield from self._array(schema, value, path, depth)
        yield from self._combined(schema, value, path, depth)

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise SchemaError(
                f"$ref {str(reference)[:100]!r} leads out of the schema; only those that begin with #/ do not"
            )
        target = self._root
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                raise SchemaError(f"$ref {reference[:100]!r} leads nowhere")
            target = target[name]
        return target

    def _object(self, schema: dict, value: dict, path: str, depth: int) -> Iterator[str]:
        properties = _mapping(schema, "properties")
        required = schema.get("required")
        for name in required if isinstance(required, list) else ():
            if isinstance(name, str) and name not in value:
                yield f"{path}.{name} is missing"
        for name, each in value.items():
            if name in properties:
                yield from self.walk(properties[name], each, f"{path}.{name[:50]}", depth + 1)
            elif "additionalProperties" in schema and "patternProperties" not in schema:
                yield from self.walk(schema["additionalProperties"], each, f"{path}.{name[:50]}", depth + 1)

    def _array(self, schema: dict, value: list, path: str, depth: int) -> Iterator[str]:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        for index, each in enumerate(value):
            if index < len(first):
                yield from self.walk(first[index], each, f"{path}[{index}]", depth + 1)
            elif isinstance(schema.get("items"), dict | bool):
                yield from self.walk(schema["items"], each, f"{path}[{index}]", depth + 1)
        if schema.get("uniqueItems") is True and len({_fingerprint(each) for each in value}) < len(value):
            yield f"{path} has an item twice"

    def _combined(self, schema: dict, value: Any, path: str, depth: int) -> Iterator[str]:
        for each in _schemas(schema, "allOf"):
            yield from self.walk(each, value, path, depth + 1)
        for key, wanted in (("anyOf", "at least one"), ("oneOf", "exactly one")):
            if key in schema:
                fits = [not any(self.walk(each, value, path, depth + 1)) for each in _schemas(schema, key)]
                if not any(fits) or (key == "oneOf" and sum(fits) > 1):
                    yield f"{path} does not fit {wanted} of its {key}"
        if "not" in schema and not any(self.walk(schema["not"], value, path, depth + 1)):
            yield f"{path} fits what it must not"


def _schemas(schema: dict, key: str) -> list:
    found = schema.get(key, [])
    if not isinstance(found, list):
        raise SchemaError(f"{key} of the schema is not a list")
    return found


def _mapping(schema: dict, key: str) -> dict:
    found = schema.get(key, {})
    if not isinstance(found, dict):
        raise SchemaError(f"{key} of the schema is not an object")
    return found


def _is(value: Any, name: Any) -> bool:
    if name == "integer":
        return not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
    if not isinstance(name, str) or name not in _TYPES:
        raise SchemaError(f"{str(name)[:50]!r} is no type of JSON Schema")
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _same(one: Any, other: Any) -> bool:
    return _fingerprint(one) == _fingerprint(other)


def _fingerprint(value: Any) -> Any:
    """Something hashable that is equal for values that JSON Schema holds equal: 1 and 1.0, but not 1 and true."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return ("object", frozenset((key, _fingerprint(each)) for key, each in value.items()))
    if isinstance(value, list):
        return ("array", tuple(_fingerprint(each) for each in value))
    return value


def _number(schema: dict, value: float, path: str) -> Iterator[str]:
    for key, holds, words in _LIMITS:
        limit = schema.get(key)
        if isinstance(limit, int | float) and not isinstance(limit, bool) and not holds(value, limit):
            yield f"{path} {words} {limit}"
    step = schema.get("multipleOf")
    if isinstance(step, int | float) and step > 0 and abs(value) < _EXACT:
        quotient = value / step
        if not math.isclose(quotient, round(quotient), rel_tol=1e-9, abs_tol=1e-9):
            yield f"{path} is not a multiple of {step}"


_EXACT = 2.0**53
"""Beyond it a float does not tell a number from its neighbour."""


def _size(schema: dict, value: str | list | dict, path: str) -> Iterator[str]:
    least, most, unit = _SIZES[type(value)]
    low, high = schema.get(least), schema.get(most)
    if isinstance(low, int) and len(value) < low:
        yield f"{path} has fewer than {low} {unit}"
    if isinstance(high, int) and len(value) > high:
        yield f"{path} has more than {high} {unit}"
