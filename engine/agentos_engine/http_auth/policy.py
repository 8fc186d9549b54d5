"""Which proof a request has to bring. Pure: decided by the same segments of the path that the router goes by."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentos_engine.triggers.routes import Path, PathError

NONE, API_KEY, JWT = "none", "apiKey", "jwt"
KINDS = (API_KEY, JWT, NONE)
MAX_RULES = 256


@dataclass(frozen=True, slots=True)
class JwtOptions:
    """Which tokens are taken. Exactly one of ``jwks_url`` and ``jwks_file`` says where the issuer's keys are."""

    issuer: str
    audience: str
    jwks_url: str | None = None
    jwks_file: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for a path, of all methods when ``methods`` is empty. See :class:`Policy` for the paths."""

    path: str
    auth: str
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpAuthOptions:
    """The block ``agentos.http`` as it was written; ``auth`` None: the engine's own choice."""

    auth: str | None = None
    api_keys_file: str | None = None
    jwt: JwtOptions | None = None
    routes: tuple[Rule, ...] = ()

    def uses(self, kind: str, default: str) -> bool:
        """Whether some request has to bring this kind of proof; ``default`` is the engine's own choice."""
        return kind == (self.auth or default) or any(each.auth == kind for each in self.routes)


@dataclass(slots=True)
class _Node:
    literals: "dict[str, _Node]" = field(default_factory=dict)
    parameter: "_Node | None" = None
    here: dict[str, str] = field(default_factory=dict)
    """By method, with an empty one for all others: what holds at exactly this path."""
    below: dict[str, str] = field(default_factory=dict)
    """The same for what is below it."""


class Policy:
    """The rules. A path is literal but for ``:name``, which stands for any one segment, and a ``/*`` at its end, for
    all that is below: ``/webhooks/*`` covers ``/webhooks/a/b`` and ``/webhooks/``, but not ``/webhooks``.

    The most specific rule that covers path and method decides, compared segment by segment from the left: a literal
    beats ``:name``, and that ``*``; at the same path one that names the method beats one that names none. Raises
    ValueError for a rule that says nothing clear.
    """

    def __init__(self, default: str, rules: Sequence[Rule] = ()) -> None:
        self._default = default
        self._root = _Node()
        self._has_rules = bool(rules)
        for rule in rules:
            self._add(rule)

    def kind_of(self, segments: Sequence[str], method: str) -> str:
        """Return what a request has to bring; ``segments`` as from ``request_segments``, ``method`` of the route."""
        if not self._has_rules:
            return self._default
        return _find(self._root, segments, 0, method) or self._default

    def _add(self, rule: Rule) -> None:
        path, star = check_path(rule.path)
        node = self._root
        for segment in path:
            if segment is None:
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        decided = node.below if star else node.here
        for method in rule.methods or ("",):
            if method in decided:
                raise ValueError(f"there are two rules for {method or 'all methods of'} {rule.path}")
            decided[method] = rule.auth


def check_path(text: str) -> tuple[tuple[str | None, ...], bool]:
    """Return the segments of a rule's path, None for a parameter, and whether all below is meant. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError(f"the path {text[:100]!r} does not begin with a slash")
    if "?" in text or "#" in text:
        raise ValueError(f"the path {text[:100]!r} holds more than a path")
    before, _, last = text.rpartition("/")
    star = last == "*"
    if "*" in (before if star else text):
        raise ValueError(f"the path {text[:100]!r} has a * elsewhere than as its last segment")
    if star and not before:
        return (), True
    try:
        return Path.parse(before if star else text).segments, star
    except PathError as error:
        raise ValueError(str(error)) from error


def _find(node: _Node, segments: Sequence[str], depth: int, method: str) -> str | None:
    if depth == len(segments):
        return node.here.get(method) or node.here.get("")
    segment = segments[depth]
    found = None
    literal = node.literals.get(segment)
    if literal is not None:
        found = _find(literal, segments, depth + 1, method)
    if found is None and node.parameter is not None and segment:
        found = _find(node.parameter, segments, depth + 1, method)
    return found or node.below.get(method) or node.below.get("")
