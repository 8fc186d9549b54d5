"""The payload of a call, from what stands on the command line.

``a=1`` is what the function's JSON Schema says of ``a``, a text where it says nothing; ``a:=1`` is JSON; ``a.b=1`` goes
into an object under ``a``, and ``a\\.b=1`` is the key ``a.b``.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday.plain import plain

MAX_INPUT = 64 << 20
"""Bytes of JSON read from a file or stdin: more than a worker's SDK takes."""
MAX_HOPS = 50
"""References and combinations followed in a schema, which may go round in circles."""
_ARGUMENT = re.compile(r"(?P<key>.+?)(?P<raw>:?)=(?P<value>.*)", re.DOTALL)
_DOT = re.compile(r"(?<!\\)\.")


def read_json(text: str, where: str) -> Any:
    """Return the JSON that ``text`` is, or that stands in ``@file``, or on stdin for ``-``.

    Raises CommandError, which names ``where``.
    """
    if text == "-":
        content, where = _limited(sys.stdin.buffer.read(MAX_INPUT + 1), where), f"{where} (stdin)"
    elif text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                content = _limited(file.read(MAX_INPUT + 1), where)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CommandError(f"{where}: cannot read {plain(text[1:])}: {reason}", ExitCode.USAGE) from None
        where = plain(text[1:])
    else:
        content = text.encode(errors="surrogateescape")
    return _decoded(content, where)


def payload(arguments: Sequence[str], base: Any, schema: object) -> Any:
    """Return ``base`` with what KEY=VALUE arguments say; ``schema`` is that of the function's input, if it has one.

    Raises CommandError for an argument that is none, or does not fit.
    """
    if not arguments:
        return base
    if not isinstance(base, dict):
        raise CommandError("--json: KEY=VALUE goes with an object only", ExitCode.USAGE)
    for argument in arguments:
        found = _ARGUMENT.fullmatch(argument)
        if found is None:
            raise CommandError(
                f"{plain(argument)[:80]!r} is not KEY=VALUE; KEY:=JSON gives JSON, --json the whole payload",
                ExitCode.USAGE,
            )
        path = [part.replace("\\.", ".") for part in _DOT.split(found["key"])]
        key = plain(found["key"])
        if found["raw"]:
            value = _decoded(found["value"].encode(errors="surrogateescape"), f"{key}:=")
        else:
            value = _typed(found["value"], _types(schema, path), key)
        _put(base, path, value, key)
    return base


def needs_schema(arguments: Sequence[str]) -> bool:
    """Return whether the meaning of an argument depends on the function's schema."""
    return any((found := _ARGUMENT.fullmatch(each)) and not found["raw"] for each in arguments)


def alternatives(schema: object, root: object) -> Iterator[dict[str, Any]]:
    """Give the schemas that a value may have: the schema itself, what it refers to, and what it combines."""
    waiting = [schema]
    for _ in range(MAX_HOPS):
        if not waiting:
            return
        each = waiting.pop(0)
        if not isinstance(each, dict):
            continue
        yield each
        if isinstance(reference := each.get("$ref"), str):
            waiting.append(_resolved(reference, root))
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(parts := each.get(word), list):
                waiting += parts


def _resolved(reference: str, root: object) -> object:
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found if reference.startswith("#") else None


def _types(schema: object, path: list[str]) -> set[str]:
    """Return the names of the types that the schema allows at a path; none when it says nothing."""
    here = [schema]
    for part in path:
        found = []
        for each in here:
            for one in alternatives(each, schema):
                properties = one.get("properties")
                if isinstance(properties, dict) and part in properties:
                    found.append(properties[part])
        here = found[:MAX_HOPS]
    types: set[str] = set()
    for each in here:
        for one in alternatives(each, schema):
            kind = one.get("type")
            types.update(kind if isinstance(kind, list) else [kind] if isinstance(kind, str) else [])
            if isinstance(choices := one.get("enum"), list) and any(isinstance(choice, str) for choice in choices):
                types.add("string")
    return types


def _typed(text: str, types: set[str], key: str) -> Any:
    if not types or "string" in types:
        return text
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        value = ...
    kinds = {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
    }
    if any(kinds.get(kind) for kind in types):
        return value
    wanted = " or ".join(sorted(types))
    raise CommandError(
        f"{key}: {plain(text)[:80]!r} is not of type {wanted}, which the function asks for; {key}:=JSON gives any value",
        ExitCode.USAGE,
    )


def _put(target: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for part in path[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise CommandError(f"{key}: {plain(part)} has a value already that is no object", ExitCode.USAGE)
        target = inner
    target[path[-1]] = value


def _limited(content: bytes, where: str) -> bytes:
    if len(content) > MAX_INPUT:
        raise CommandError(f"{where}: more than {MAX_INPUT >> 20} MiB", ExitCode.USAGE)
    return content


def _decoded(content: bytes, where: str) -> Any:
    try:
        return json.loads(content, parse_constant=_no_constant)
    except RecursionError:
        raise CommandError(f"{where}: nested too deeply", ExitCode.USAGE) from None
    except UnicodeDecodeError:
        raise CommandError(f"{where}: not UTF-8", ExitCode.USAGE) from None
    except ValueError as error:
        raise CommandError(
            f"{where}: not JSON ({error}); a text is written with quotes, '\"like this\"'", ExitCode.USAGE
        ) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
