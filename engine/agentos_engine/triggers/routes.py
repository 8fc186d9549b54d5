"""The tree of HTTP routes. A path is a list of segments; ``:name`` stands for any one that is not empty."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from agentos_contracts import claimables

from agentos_engine import limits
from agentos_engine.bus.errors import BusError

Target = TypeVar("Target")

TYPE = "http"
"""The trigger type that binds functions to routes."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
MAX_MIDDLEWARE = 32
"""Functions that one route may ask first."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class PathError(ValueError):
    """A path of a route that cannot be served, or of a request that cannot be read."""


@dataclass(frozen=True, slots=True)
class Path:
    """A route's path: the text as given, its segments (None for a parameter), and the names of the parameters."""

    text: str
    segments: tuple[str | None, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Path":
        """Read a path such as ``wasm/:module/run``; a leading slash is optional. Raises PathError.

        Literal segments may be percent-encoded, as in a request: ``a%20b`` and ``a b`` are the same.
        """
        segments: list[str | None] = []
        names: list[str] = []
        for part in text.removeprefix("/").split("/"):
            if not part.startswith(":"):
                segments.append(_decoded(part.encode()))
                continue
            if not _NAME.fullmatch(part[1:]):
                raise PathError(f"{part!r} in path {text!r} is no parameter; write one such as :name")
            if part[1:] in names:
                raise PathError(f"path {text!r} has the parameter {part} twice; give each its own name")
            segments.append(None)
            names.append(part[1:])
        if len(segments) > limits.MAX_HTTP_PATH_SEGMENTS:
            raise PathError(f"the path has {len(segments)} segments, more than {limits.MAX_HTTP_PATH_SEGMENTS}")
        return cls(text, tuple(segments), tuple(names))


class _Config(msgspec.Struct):
    api_path: str
    http_method: str | None = None
    condition_function_id: str | None = None
    middleware_function_ids: list[str] | None = None


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """What the config of a binding to a route says."""

    path: Path
    method: str
    middleware: tuple[str, ...]

    @classmethod
    def read(cls, raw: bytes | None) -> "RouteConfig":
        """Read the raw JSON of a config. Raises BusError."""
        try:
            config = msgspec.json.decode(raw or b"null", type=_Config)
            path = Path.parse(config.api_path)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError(
                "trigger_registration_failed", f"the config of the http trigger is wrong: {error}"
            ) from error
        except PathError as error:
            raise BusError("trigger_registration_failed", str(error)) from error
        method = (config.http_method or "GET").upper()
        if method not in METHODS:
            raise BusError(
                "trigger_registration_failed", f"http_method {method[:20]!r} is not one of {', '.join(METHODS)}"
            )
        middleware = tuple(config.middleware_function_ids or ())
        if len(middleware) > MAX_MIDDLEWARE or not all(middleware):
            message = f"middleware_function_ids holds an empty id, or more than {MAX_MIDDLEWARE} of them"
            raise BusError("trigger_registration_failed", message)
        return cls(path, method, middleware)


def claim_of(trigger_type: str, config: bytes | None) -> str:
    """Return what has to be owned for a binding: its route. Empty for other types, and for a config that is refused."""
    if trigger_type != TYPE:
        return ""
    try:
        route = RouteConfig.read(config)
    except BusError:
        return ""
    return claimables.route(route.method, route.path.segments)


def request_segments(path: str) -> list[str]:
    """Split and percent-decode the path of a request.

    A slash that is percent-encoded stays inside its segment. Raises PathError for what no route can mean: text that is
    not UTF-8, NUL, dot segments (a client resolves them itself), far too many segments.
    """
    parts = path.removeprefix("/").split("/")
    if len(parts) > limits.MAX_HTTP_PATH_SEGMENTS:
        raise PathError(f"the path has more than {limits.MAX_HTTP_PATH_SEGMENTS} segments")
    if "%" not in path and "." not in path:
        return parts
    return [_decoded(part.encode()) for part in parts]


def _decoded(part: bytes) -> str:
    try:
        segment = (unquote_to_bytes(part) if b"%" in part else part).decode()
    except UnicodeDecodeError as error:
        raise PathError("the path is not UTF-8 once percent-decoded") from error
    if segment in (".", ".."):
        raise PathError("the path holds a segment '.' or '..'; write the path that is meant")
    if "\0" in segment:
        raise PathError("the path holds a NUL")
    return segment


@dataclass(slots=True)
class _Node(Generic[Target]):
    literals: "dict[str, _Node[Target]]" = field(default_factory=dict)
    parameter: "_Node[Target] | None" = None
    targets: dict[str, Target] = field(default_factory=dict)
    """By method."""


class RouteTree(Generic[Target]):
    """Targets by shape of path and method."""

    def __init__(self) -> None:
        self._root: _Node[Target] = _Node()

    def get(self, path: Path, method: str) -> Target | None:
        """Return the target at exactly this shape and method."""
        node: _Node[Target] | None = self._root
        for segment in path.segments:
            node = node.parameter if segment is None else node.literals.get(segment)
            if node is None:
                return None
        return node.targets.get(method)

    def put(self, path: Path, method: str, target: Target) -> None:
        """Set the target at this shape and method."""
        node = self._root
        for segment in path.segments:
            if segment is not None:
                node = node.literals.setdefault(segment, _Node())
            else:
                node.parameter = node.parameter or _Node()
                node = node.parameter
        node.targets[method] = target

    def remove(self, path: Path, method: str) -> None:
        """Remove the target at this shape and method, which must be there, and the branches that led only to it."""
        trail = [self._root]
        for segment in path.segments:
            child = trail[-1].parameter if segment is None else trail[-1].literals[segment]
            assert child is not None
            trail.append(child)
        del trail[-1].targets[method]
        for parent, segment in zip(reversed(trail[:-1]), reversed(path.segments), strict=True):
            child = trail.pop()
            if child.targets or child.literals or child.parameter:
                return
            if segment is None:
                parent.parameter = None
            else:
                del parent.literals[segment]

    def match(self, segments: list[str]) -> Iterator[tuple[dict[str, Target], list[str]]]:
        """Give, best match first (a literal beats a parameter), targets by method and the values of the parameters."""
        pending: list[tuple[_Node[Target], int, list[str]]] = []
        node, depth, values = self._root, 0, []
        while True:
            while depth < len(segments):
                segment = segments[depth]
                depth += 1
                literal = node.literals.get(segment)
                parameter = node.parameter if segment else None
                if literal is not None:
                    if parameter is not None:
                        pending.append((parameter, depth, [*values, segment]))
                    node = literal
                elif parameter is not None:
                    node, values = parameter, [*values, segment]
                else:
                    break
            else:
                if node.targets:
                    yield node.targets, values
            if not pending:
                return
            node, depth, values = pending.pop()
