"""Version ranges in the syntax of Rust's ``semver`` crate, as ``iii.worker.yaml`` uses it for dependencies.

Versions are parsed and ordered by the ``semantic-version`` library; its own range classes follow other rules (``1.2``
means ``=1.2.*`` there and ``^1.2`` in Rust; commas are unknown to the npm one), so the comparators are evaluated here.
"""

import re
from dataclasses import dataclass
from typing import Self

from semantic_version import Version

from agentos_contracts.findings import shown

MAX_RANGE_LENGTH = 256
MAX_VERSION_LENGTH = 256

MAX_COMPARATORS = 32
"""Most parts of one range in Rust's crate."""
_LARGEST_NUMBER = 2**64 - 1

_NUMBER = r"0|[1-9][0-9]{0,19}"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_COMPARATOR = re.compile(
    r"(?P<operator>=|>=|<=|>|<|~|\^)? *"
    rf"(?P<major>{_NUMBER})(?:\.(?P<minor>{_NUMBER}|[*xX])(?:\.(?:(?P<wild>[*xX])|(?P<patch>{_NUMBER})"
    rf"(?P<pre>-{_IDENTIFIERS})?(?:\+{_IDENTIFIERS})?))?)?",
)


class RangeError(ValueError):
    """A text that is no version range; the message has an example of a good one."""


class VersionError(ValueError):
    """A text that is no version; the message has an example of a good one."""


def parse_version(text: str) -> Version:
    """Read a full semantic version such as ``1.2.3`` or ``1.2.3-rc.1+build``. Raises VersionError."""
    if isinstance(text, str) and len(text) <= MAX_VERSION_LENGTH:
        try:
            return Version(text)
        except ValueError:
            pass
    given = f"'{shown(text)}'" if isinstance(text, str) else type(text).__name__
    raise VersionError(f"{given} is not a semantic version; write three numbers such as '1.2.3'")


@dataclass(frozen=True, slots=True)
class _Comparator:
    """Bounds of one comparator. ``pre_of``: the release whose pre-releases it admits, if it names one."""

    lower: Version | None = None
    lower_included: bool = True
    upper: Version | None = None
    upper_included: bool = False
    pre_of: tuple[int, int, int] | None = None

    def contains(self, version: Version) -> bool:
        precedence = version.truncate("prerelease")
        if self.lower is not None and (
            precedence < self.lower or (precedence == self.lower and not self.lower_included)
        ):
            return False
        return self.upper is None or precedence < self.upper or (precedence == self.upper and self.upper_included)


@dataclass(frozen=True, slots=True)
class Range:
    """A version range, such as ``^1.2`` or ``>=1, <2``; every comparator has to agree."""

    text: str
    _comparators: tuple[_Comparator, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a range: ``1.2`` (the same as ``^1.2``), ``~1``, ``=1.2.3``, ``1.*``, ``*``, ``>=1, <2``.

        Raises RangeError.
        """
        if not isinstance(text, str):
            raise RangeError(f"a version range is a text such as '^1.2', got {type(text).__name__}")
        if len(text) > MAX_RANGE_LENGTH:
            raise RangeError(f"a version range has at most {MAX_RANGE_LENGTH} characters; write one such as '^1.2'")
        if text.strip(" ") in {"*", "x", "X"}:
            return cls(text, ())
        parts = text.split(",")
        if len(parts) > MAX_COMPARATORS:
            raise RangeError(f"a version range has at most {MAX_COMPARATORS} parts; write one such as '>=1, <2'")
        return cls(text, tuple(_comparator(part.strip(" "), text) for part in parts))

    def contains(self, version_text: str) -> bool:
        """True when the version is in the range.

        A pre-release is in it only when the range names a pre-release of the same release, as in Rust. Raises
        VersionError for a text that is no version.
        """
        version = parse_version(version_text)
        if not all(comparator.contains(version) for comparator in self._comparators):
            return False
        release = (version.major, version.minor, version.patch)
        return not version.prerelease or any(comparator.pre_of == release for comparator in self._comparators)

    @property
    def names_pre_release(self) -> bool:
        """True when a part of the range names a pre-release, such as ``^1.0.0-rc.1``."""
        return any(comparator.pre_of is not None for comparator in self._comparators)

    def __str__(self) -> str:
        return self.text


def _comparator(text: str, whole: str) -> _Comparator:
    matched = _COMPARATOR.fullmatch(text)
    if not matched:
        raise RangeError(_fault(text, whole))
    operator = matched["operator"] or "^"
    major = int(matched["major"])
    minor = _number(matched["minor"])
    patch = _number(matched["patch"])
    if max(major, minor or 0, patch or 0) > _LARGEST_NUMBER:
        raise RangeError(_fault(text, whole))
    if minor is None and patch is not None:
        raise RangeError(f"{whole!a} has a number after a wildcard; write a range such as '1.*'")
    wildcard = matched["wild"] is not None or (matched["minor"] is not None and minor is None)
    if matched["operator"] is None and wildcard:
        operator = "="
    named = f"{major}.{minor or 0}.{patch or 0}{matched['pre'] or ''}"
    try:
        lowest = Version(named)
    except ValueError as error:
        raise RangeError(_fault(text, whole)) from error
    full = minor is not None and patch is not None
    # The end of what a partial version covers; "-0" sorts before every pre-release of that release.
    after = Version(f"{major}.{minor + 1}.0-0" if minor is not None else f"{major + 1}.0.0-0")
    pre_of = (major, minor, patch) if matched["pre"] and minor is not None and patch is not None else None
    match operator:
        case "=" if full:
            return _Comparator(lower=lowest, upper=lowest, upper_included=True, pre_of=pre_of)
        case "=" | "~":
            return _Comparator(lower=lowest, upper=after, pre_of=pre_of)
        case ">" if full:
            return _Comparator(lower=lowest, lower_included=False, pre_of=pre_of)
        case ">":
            return _Comparator(lower=after)
        case ">=":
            return _Comparator(lower=lowest, pre_of=pre_of)
        case "<" if full:
            return _Comparator(upper=lowest, pre_of=pre_of)
        case "<":
            return _Comparator(upper=Version(f"{named}-0"))
        case "<=" if full:
            return _Comparator(upper=lowest, upper_included=True, pre_of=pre_of)
        case "<=":
            return _Comparator(upper=after)
        case _:
            return _Comparator(lower=lowest, upper=_caret_end(major, minor, patch), pre_of=pre_of)


def _caret_end(major: int, minor: int | None, patch: int | None) -> Version:
    """First version that is no longer compatible: the left-most number that is not 0 may not change."""
    if major > 0 or minor is None:
        return Version(f"{major + 1}.0.0-0")
    if minor > 0 or patch is None:
        return Version(f"0.{minor + 1}.0-0")
    return Version(f"0.0.{patch + 1}-0")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _fault(text: str, whole: str) -> str:
    if " " in text and re.search(r"\d\s+[<>=~^\d]", text):
        return f"{whole!a} is not a version range: separate the parts with commas, such as '>=1, <2'"
    if "||" in text:
        return f"{whole!a} is not a version range: '||' is not supported; write one range such as '^1.2'"
    return f"{whole!a} is not a version range; write one such as '^1.2', '~1.2.3', '>=1, <2' or '*'"
