"""API keys: as digests, compared in a time that tells nothing of them."""

import hmac
import logging
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

log = logging.getLogger(__name__)

MAX_FILE = 64 << 10
"""Bytes of a file with keys."""
MAX_KEYS = 64
MAX_KEY_LENGTH = 1024
SHORT_KEY = 20
"""Characters below which a key is called easy to guess."""


class ApiKeys:
    """The keys that are taken."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(sha256(each.encode()).digest() for each in keys)

    def __len__(self) -> int:
        return len(self._digests)

    def knows(self, text: str) -> bool:
        """Whether a text is one of the keys: every one of them is looked at, by a digest of fixed length."""
        if not self._digests or len(text) > MAX_KEY_LENGTH:
            return False
        digest = sha256(text.encode()).digest()
        found = False
        for each in self._digests:
            found |= hmac.compare_digest(each, digest)
        return found


def read_keys(path: Path) -> tuple[ApiKeys, str]:
    """Read a file with one key a line; empty lines and those that begin with ``#`` are left out.

    Returns the keys, and what is wrong when there are none, else an empty text. What is wrong with single lines is
    logged by their number; the others hold.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        return ApiKeys(), f"the file with the API keys cannot be read: {error.strerror or 'unknown reason'}"
    if len(data) > MAX_FILE:
        return ApiKeys(), f"the file with the API keys has more than {MAX_FILE >> 10} KiB"
    keys: list[str] = []
    for number, raw in enumerate(data.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        if len(line) > MAX_KEY_LENGTH or not all(0x21 <= each <= 0x7E for each in line):
            log.error(
                "%s: line %d is no API key and not used: write up to %d visible ASCII characters without spaces",
                path,
                number,
                MAX_KEY_LENGTH,
            )
        elif len(keys) == MAX_KEYS:
            log.error("%s: more than %d API keys; those from line %d on are not used", path, MAX_KEYS, number)
            break
        else:
            if len(line) < SHORT_KEY:
                log.warning("%s: the API key in line %d is short, and so easy to guess", path, number)
            keys.append(line.decode("ascii"))
    return ApiKeys(keys), "" if keys else "the file with the API keys holds none"
