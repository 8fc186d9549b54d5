"""Text of workers made fit for a terminal: what would steer it is shown, never obeyed."""

import json
import re

_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters, those that turn the direction of writing, and halves of characters, which cannot be written."""
_UNSAFE = re.compile(f"[{_STEERING}\t\n]")
_UNSAFE_IN_JSON = re.compile(f"[{_STEERING}]")


def has_unsafe(text: str) -> bool:
    """Return whether text would steer a terminal; line ends do not count."""
    return _UNSAFE_IN_JSON.search(text) is not None


def plain(text: str) -> str:
    """Return text in one line that a terminal shows as it is; other characters are written as ``\\x1b``."""
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def cell(value: object) -> str:
    """Return a value as it stands in a table: one line, runs of blanks made one; what is no text as JSON, None as nothing."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return plain(" ".join(text.split()))


def block(text: str, indent: str = "    ") -> str:
    """Return text of several lines; all but the first are indented, so that they cannot pass for lines of others."""
    return f"\n{indent}".join(plain(line) for line in text.expandtabs(4).splitlines())


def plain_json(text: str) -> str:
    """Return JSON with such characters as JSON's own escapes; the value stays the same."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(character: str) -> str:
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    code = ord(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
