"""What a Worker owns beside functions: HTTP routes and trigger types, as texts that stand where patterns of functions do.

``http POST /orders/:`` is a route, ``trigger-type my-events`` a trigger type. Both have a blank, which no pattern of
function ids has, so neither is ever mistaken for a function. They are exact: nobody owns "all routes below /orders".

Standard library only: the engine imports this module on its way to a small process.
"""

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import quote

MAX_LENGTH = 128
"""Longest text, in characters: as for patterns, whose place these take in a FunctionClaim."""
MAX_SEGMENT_LENGTH = 63
"""Longest segment, in characters: as for function ids."""

_ROUTE, _TRIGGER_TYPE = "http ", "trigger-type "
_DIGEST_LENGTH = 32
_VISIBLE = "[!-)+-~]"  # printable ASCII without a blank and '*'
_TEXT = re.compile(f"(http [A-Z]{{1,16}} /{_VISIBLE}*|trigger-type {_VISIBLE}+)")
_SEGMENT = re.compile(f"(http /{_VISIBLE}*|trigger-type {_VISIBLE}+)")
_GENERAL = re.compile(r"api|v[0-9]+")
"""Parts of a path that say nothing about whose it is; APIs of all Workers begin with them."""


def route(method: str, segments: Iterable[str | None]) -> str:
    """Return the text of an HTTP route; ``segments`` of its path are decoded, and None for a parameter.

    What a parameter is called does not matter: ``/orders/:id`` and ``/orders/:number`` are the same route.
    """
    path = "/".join(":" if each is None else quote(each, safe="", errors="surrogatepass") for each in segments)
    return _cut(f"{_ROUTE}{method} /{path}")


def trigger_type(name: str) -> str:
    """Return the text of a trigger type."""
    return _cut(_TRIGGER_TYPE + quote(name, safe=":/@", errors="surrogatepass"))


def is_claimable(text: str) -> bool:
    """True for the text of a route or a trigger type."""
    return len(text) <= MAX_LENGTH and _TEXT.fullmatch(text) is not None


def segment_of(text: str) -> str:
    """Return the segment of a text, by which it finds its FunctionClaim; empty when it is no route or trigger type.

    Routes share one by the first part of their path that is not ``api`` or a version: ``http /api/v1/orders`` has all
    routes of ``/api/v1/orders``. Each trigger type has one of its own.
    """
    if text.startswith(_TRIGGER_TYPE):
        return text[:MAX_SEGMENT_LENGTH]
    if not text.startswith(_ROUTE):
        return ""
    parts = text.partition("/")[2].split("/")
    general = 0
    while general < len(parts) - 1 and _GENERAL.fullmatch(parts[general]):
        general += 1
    return f"{_ROUTE}/{'/'.join(parts[: general + 1])}"[:MAX_SEGMENT_LENGTH]


def is_segment(text: str) -> bool:
    """True for the segment of a route or a trigger type."""
    return len(text) <= MAX_SEGMENT_LENGTH and _SEGMENT.fullmatch(text) is not None


def _cut(text: str) -> str:
    """A text that is too long ends in ``#``, which is in no other one, and a digest of the whole."""
    if len(text) <= MAX_LENGTH:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{text[: MAX_LENGTH - _DIGEST_LENGTH - 1]}#{digest}"
