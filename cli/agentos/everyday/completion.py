"""What a shell offers when Tab is pressed: names from the engine on this machine, quickly or not at all."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from agentos.everyday.client import Console

TIME_LIMIT = 0.5
"""Seconds for each answer of the engine."""
_SAFE = re.compile(r"[\w.:/@-]+", re.ASCII)
"""Names that can be offered: the shells' completion scripts evaluate what they are given."""


def offered(url: str | None, ask: Callable[[Console], list[str]], typed: str) -> list[str]:
    """Return the names that begin with what is typed; none without a URL, or when the engine does not answer."""
    try:
        if url is None or not urlsplit(url).hostname:
            return []
        console = Console(url, "", timeout=TIME_LIMIT, margin=0.0)
        try:
            names = ask(console)
        finally:
            console.close()
    except Exception:  # a shell that waits for names must not see anything else
        return []
    return [name for name in names if name.startswith(typed) and _SAFE.fullmatch(name)]


def split_id(words: list[str], typed: str) -> tuple[str, int | None]:
    """Return the id that the words begin with and, while it is typed, how many characters of it the shell keeps.

    Bash takes a colon for the end of a word, so ``wasm::ex`` comes as ``wasm``, ``::`` and ``ex``. The number is None
    when the id is complete and something else is typed.
    """
    end = 1
    while words[end : end + 1] == ["::"]:
        end += 2
    function_id = "".join(words[:end])
    if len(words) >= end and typed != "::":
        return function_id, None
    return function_id + typed, len(function_id)
