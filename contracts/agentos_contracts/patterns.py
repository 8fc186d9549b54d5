"""Function-id patterns: what a Worker may claim or says it calls, which ids a pattern covers, and the names of claim objects.

Standard library only: the engine imports this module on its way to a small process.

A function id is ``namespace::name`` (further ``::`` allowed). A pattern is an exact id, or an id prefix that ends in
``*`` after the first ``::``. The first part of both is called the *segment*: it is the function namespace, and there is
one FunctionClaim object per segment. An id without ``::``, as older workers have, is a segment of its own: ``math.add::*``
covers it.
"""

import re
from dataclasses import dataclass

from agentos_contracts import claimables
from agentos_contracts.findings import shown

MAX_PATTERN_LENGTH = claimables.MAX_LENGTH
"""Longest pattern, in characters; the cost limit of the FunctionClaim's CEL rule is computed from it."""

MAX_SEGMENT_LENGTH = claimables.MAX_SEGMENT_LENGTH
"""Longest first part, in characters: its encoded form has to fit into an object name of 253 characters."""

_CHARACTER = "[!-)+-9;-~]"  # printable ASCII without ':' and '*'
_EXACT = f"{_CHARACTER}{{1,{MAX_SEGMENT_LENGTH}}}(::{_CHARACTER}+(:{_CHARACTER}+)*)*"
_WILDCARD = f"{_CHARACTER}{{1,{MAX_SEGMENT_LENGTH}}}::({_CHARACTER}+::?)*{_CHARACTER}*[*]"

PATTERN_REGEX = f"^({_EXACT}|{_WILDCARD})$"
"""The form of a pattern as people write it; the same text serves Python's ``re`` and the RE2 of the CRDs."""

_PATTERN = re.compile(PATTERN_REGEX)
_SEGMENT = re.compile(f"{_CHARACTER}{{1,{MAX_SEGMENT_LENGTH}}}")
_ORDINARY_SEGMENT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

RESERVED_SEGMENTS = frozenset({"sandbox", "engine", "iii"})
"""Function namespaces that belong to the engine as a whole."""

BUILT_IN_IDS = frozenset(
    {"publish", "bridge.invoke", "bridge.invoke_async"}
    | {f"state::{name}" for name in ("set", "get", "delete", "update", "list", "list_groups")}
    | {f"stream::{name}" for name in ("set", "get", "delete", "list", "list_groups", "list_all", "send", "update")}
    | {f"configuration::{name}" for name in ("register", "ensure", "set", "get", "list", "schema")}
    | {
        f"worker::{name}"
        for name in (
            *("add", "remove", "update", "start", "stop", "list"),
            *("status", "clear", "logs", "schema", "validate"),
        )
    }
    | {f"compose::{name}" for name in ("up", "down", "list", "status", "stop", "validate", "add", "restart", "update")}
)
"""Exact function ids of the iii engine and its operations daemon outside the reserved segments."""


class PatternError(ValueError):
    """A text that is no pattern, segment or claim name; the message says what is wrong and what to write instead."""


@dataclass(frozen=True, slots=True, order=True)
class Pattern:
    """A normalised pattern of function ids; make it with :meth:`parse`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read a pattern as people write it; a bare ``wasm`` stands for ``wasm::*``.

        Raises PatternError with the fault and a way to mend it.
        """
        if not isinstance(text, str):
            raise PatternError(f"a pattern is a text such as my-worker::*, got {type(text).__name__}")
        if len(text) > MAX_PATTERN_LENGTH:
            raise PatternError(
                f"a pattern has at most {MAX_PATTERN_LENGTH} characters, this one has {len(text)}; "
                "use a shorter one such as my-worker::*"
            )
        if not _PATTERN.fullmatch(text):
            raise PatternError(_fault(text))
        normalised = text if "::" in text else f"{text}::*"
        return cls(normalised)

    @classmethod
    def recorded(cls, text: str) -> "Pattern":
        """Read what a FunctionClaim or a grant has: also an HTTP route or a trigger type. Raises PatternError."""
        return cls(text) if isinstance(text, str) and claimables.is_claimable(text) else cls.parse(text)

    @property
    def segment(self) -> str:
        """The part before the first ``::``: the function namespace. Routes and trigger types have segments of their own."""
        return claimables.segment_of(self.text) or self.text.partition("::")[0]

    @property
    def is_function(self) -> bool:
        """True for functions, False for an HTTP route or a trigger type."""
        return " " not in self.text

    @property
    def is_exact(self) -> bool:
        """True when the pattern is a single function id."""
        return not self.text.endswith("*")

    def matches(self, function_id: str) -> bool:
        """True when the pattern covers this function id."""
        if self.text.endswith("*"):
            return function_id.startswith(self.text[:-1]) or self.text == f"{function_id}::*"
        return function_id == self.text

    def clashes(self, other: "Pattern") -> bool:
        """True when some function id matches both patterns."""
        if other.is_exact:
            return self.matches(other.text)
        if self.is_exact:
            return other.matches(self.text)
        mine, theirs = self.text[:-1], other.text[:-1]
        return mine.startswith(theirs) or theirs.startswith(mine)

    def __str__(self) -> str:
        return self.text


def called_pattern(text: str) -> Pattern:
    """Read a pattern of functions that are called: as :meth:`Pattern.parse`, but a built-in id without ``::`` is itself.

    So ``publish`` stands for the engine's function of that name, not for ``publish::*``. Raises PatternError.
    """
    itself = isinstance(text, str) and "::" not in text and text in BUILT_IN_IDS
    return Pattern(text) if itself else Pattern.parse(text)


def reserved_by(pattern: Pattern) -> str | None:
    """Return the reserved segment, else the first built-in id in alphabetical order, that the pattern would take.

    None when the pattern takes nothing of the engine's.
    """
    if pattern.segment in RESERVED_SEGMENTS:
        return pattern.segment
    return min((built_in for built_in in BUILT_IN_IDS if pattern.matches(built_in)), default=None)


def claim_name(segment: str) -> str:
    """Return the name of the FunctionClaim object that holds a segment.

    An ordinary segment (a DNS label without ``--``) is its own name. Any other becomes its readable characters in lower
    case, ``--``, and the hexadecimal form of its bytes: reversible, and never equal to the name of another segment.
    Raises PatternError for a text that no pattern has as its segment.
    """
    if not _is_segment(segment):
        raise PatternError(f"{_quoted(segment)} is not the first part of a function id, such as my-worker")
    if _is_ordinary(segment):
        return segment
    readable = re.sub(r"[^a-z0-9]+", "-", segment.lower()).strip("-") or "x"
    return f"{readable}--{segment.encode().hex()}"


def claim_segment(name: str) -> str:
    """Return the segment that a FunctionClaim object's name stands for: the inverse of :func:`claim_name`.

    Raises PatternError for a name that :func:`claim_name` never gives.
    """
    _, separator, encoded = name.rpartition("--")
    try:
        segment = bytes.fromhex(encoded).decode("ascii") if separator else name
    except ValueError:
        segment = ""
    if _is_segment(segment) and claim_name(segment) == name:
        return segment
    raise PatternError(f"{_quoted(name)} is not the name of a FunctionClaim")


def _is_segment(text: str) -> bool:
    return _SEGMENT.fullmatch(text) is not None or claimables.is_segment(text)


def _is_ordinary(segment: str) -> bool:
    return "--" not in segment and _ORDINARY_SEGMENT.fullmatch(segment) is not None


def _quoted(text: str) -> str:
    return f"'{shown(text, MAX_PATTERN_LENGTH)}'"


def _fault(text: str) -> str:
    """Say why a text of acceptable length is no pattern, most telling fault first."""
    segment, separator, rest = text.partition("::")
    if not text:
        return "a pattern must not be empty; write a function namespace such as my-worker::*"
    if any(not "!" <= character <= "~" for character in text):
        return (
            f"{_quoted(text)} has a blank, a control character or a letter outside ASCII; "
            "a pattern has only visible ASCII characters, such as my-worker::*"
        )
    if "*" in text and not separator:
        name = text.replace("*", "").strip(":") or "my-worker"
        return f"{text}: a * may stand only after the first '::'; name the function namespace, such as {name}::*"
    if "*" in segment:
        name = segment.replace("*", "").strip(":") or "my-worker"
        return f"{text}: the part before the first '::' must have no *; write it out, such as {name}::*"
    if "*" in text[:-1]:
        return f"{text}: a * may stand only at the end, such as {text[: text.index('*')]}*"
    if ":" in segment:
        return f"{text}: the parts of a function id are separated by '::', such as {segment.replace(':', '::')}"
    if not segment:
        return f"{text}: the part before the first '::' is missing, such as my-worker{text}"
    if len(segment) > MAX_SEGMENT_LENGTH:
        return (
            f"{text}: the part before the first '::' has at most {MAX_SEGMENT_LENGTH} characters, "
            f"this one has {len(segment)}; use a shorter one such as my-worker::*"
        )
    if not rest:
        return f"{text}: nothing follows the '::'; write {segment}::* for all functions of {segment}"
    return (
        f"{text}: a name is missing between, or after, colons; parts are separated by exactly two, such as {segment}::*"
    )
