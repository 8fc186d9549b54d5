"""Tells what may be a secret, so that it is not copied into a file. In doubt it is one."""

import re

_IN_NAMES = re.compile(r"passw(or)?d|passphrase|secret|credential|api_?key|private_?key|access_?key", re.IGNORECASE)
_PARTS_OF_NAMES = frozenset({"auth", "authorization", "cookie", "dsn", "jwt", "key", "pass", "pat", "pwd", "token"})
_OF_PATHS = frozenset({"dir", "file", "path"})
_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_IN_VALUES = re.compile(
    r"""://[^/\s:@]*:[^/\s@]+@                                       # an address with a password
    | \b(sk|pk|rk)[-_][A-Za-z0-9_-]{8,} | \bgh[a-z]_\w{20,} | github_pat_ | \bglpat- | \bxox[a-z]- | \bnpm_\w{20,}
    | \bhf_\w{10,} | \b(AKIA|ASIA)[A-Z0-9]{12,} | \bAIza | \beyJ[\w-]{10,} | PRIVATE[ ]KEY | \b(Bearer|Basic)\s+\S
    | [?&](api_?key|key|password|secret|sig|token)=""",
    re.VERBOSE,
)
_RANDOM = re.compile(r"(?=[^\d]*\d)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_+=-]{32,}")
"""Letters and digits, long, without a space, a dot or a slash: no sentence, address or path."""


def is_secret(name: str, value: str) -> bool:
    """Whether a variable or option may hold a secret: by its name, or by the form of its value."""
    return bool(value) and (name_is_secret(name) or value_is_secret(value))


def name_is_secret(name: str) -> bool:
    """Whether something of this name holds secrets, such as ``OPENAI_API_KEY`` or ``--token``."""
    parts = [part.lower() for part in _PARTS.findall(name)]
    if not parts or parts[-1] in _OF_PATHS:
        return False
    return bool(_IN_NAMES.search(name.replace("-", "_")) or _PARTS_OF_NAMES.intersection(parts))


def value_is_secret(value: str) -> bool:
    """Whether a value has the form of a secret, such as an address with a password in it."""
    return bool(_IN_VALUES.search(value) or _RANDOM.fullmatch(value.strip()))
