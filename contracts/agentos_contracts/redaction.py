"""Takes secrets out of text before somebody reads it: of logs, errors, traces and what commands print.

One rule book for engine, operator, workers and command line. Standard library only. A text is searched by its form, so
nothing has to be known of the secrets; :class:`Redaction` knows the values of some besides. In doubt too much goes. All of
it takes time in proportion to the text, and redacting twice gives what redacting once gives.
"""

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

MARK = "<redacted>"
"""What stands in the place of a secret."""
MIN_VALUE = 4
"""Characters below which a known value is not looked for: it would be found in ordinary words."""

_NAMES = (
    r"(?:authorization|cookie|passw(?:or)?d|passphrase|pwd|secret|token|jwt|credentials?"
    r"|(?:api|access|private|signing|secret|account)[-_]?key)"
)
_NAME_TRIGGERS = ("token", "secret", "pass", "pwd", "key", "jwt", "credential", "authorization", "cookie")
_NAME_BEFORE = r"(?<![\w.%-])[\w.%-]*"  # the lookbehind lets a word be tried once, from its beginning

_PASSES = 4
"""Times that a text is gone through, unless nothing is left to do before."""


class _Rule:
    """What one form of secret is replaced by. The pattern is compiled when a text first holds one of the triggers."""

    __slots__ = ("compiled", "pattern", "replacement", "triggers")

    def __init__(self, triggers: tuple[str, ...], pattern: str, replacement: str) -> None:
        self.triggers = triggers
        """In lower case; one of them is there when the pattern can match."""
        self.pattern, self.replacement = pattern, replacement
        self.compiled: re.Pattern[str] | None = None

    def apply(self, text: str) -> str:
        if self.compiled is None:
            self.compiled = re.compile(self.pattern, re.ASCII | re.IGNORECASE)
        return self.compiled.sub(self.replacement, text)


_RULES: tuple[_Rule, ...] = (
    _Rule(("key",), r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----)[^-]*+", rf"\1{MARK}"),
    # A worker's address: the token is the segment after /w/ with which a path begins, here as SDKs print it, in JSON with
    # escaped slashes, or percent-encoded.
    _Rule(
        ("/w/",),
        r"(://[^/\s\"'<>\\]*+/w/|(?<![\w/.~-])/w/)(?!redacted)[^/\s\"'\\?#]++",
        rf"\1{MARK}",
    ),
    _Rule((r"\/w\/",), r"(\\/w\\/)[^/\s\"'\\?#]++", rf"\1{MARK}"),
    _Rule(("%2fw%2f",), r"(%2Fw%2F)(?:[^\s\"'&/%<]|%(?!2F))++", rf"\1{MARK}"),
    # Tokens by their form, JWTs, alone or as the data of a Secret.
    _Rule(("eyj",), r"(?-i:eyJ)[\w-]{10,}+(?:(?:\.|%2E)[\w-]*+){0,4}", MARK),
    _Rule(("zxlk",), r"(?-i:ZXlK)[\w+/-]{24,}+={0,2}", MARK),
    # The data of a kubeconfig: a PEM that is no certificate.
    _Rule(("ls0tls1crudjti",), r"(?-i:LS0tLS1CRUdJTiB(?!DRVJU))[\w+/]{20,}+={0,2}", MARK),
    # Credentials in front of a host.
    _Rule(("://",), r"(://)[^/\s\"'@<>]++@", rf"\1{MARK}@"),
    # Headers: authorization: Bearer x, 'x-api-key': 'y', (b"cookie", b"z"), and in quotes that are escaped themselves.
    _Rule(
        ("authorization", "key", "cookie"),
        r"((?:authorization|(?:x-|x_)?api[-_]key|cookie)(?:\\*[\"']?\s*[:=]|[\"'],(?!\s*\"value\"))\s*+(?:b?\\*[\"'])?+)"
        r"(?!<redacted>)(?:(?:bearer|basic|digest|negotiate|token)\s++)?[^\s\"',;}\]\\<]++(?:;[^\"'\r\n}\]\\<]*+)?",
        rf"\1{MARK}",
    ),
    # A word that is no English one, or is longer than they are.
    _Rule(
        ("bearer ", "basic "),
        r"\b(bearer|basic)(\s++)(?!(?-i:[a-z]{0,15})(?![\w.~+/=-]))[\w.~+/-]++=*",
        rf"\1\2{MARK}",
    ),
    # "token": "x" in JSON and in what Python prints; the same in JSON that is a text in JSON.
    _Rule(
        _NAME_TRIGGERS,
        rf"(([\"'])[\w.%-]*{_NAMES}\2\s*:\s*b?)([\"'])(?!<redacted>)(?:(?!\3)[^\\]|\\.)++\3",
        rf"\1\3{MARK}\3",
    ),
    _Rule(
        _NAME_TRIGGERS,
        rf"(\\\"[\w.%-]*{_NAMES}\\\"\s*:\s*\\\")(?!<redacted>)[^\"\\]++",
        rf"\1{MARK}",
    ),
    # The same as an attribute of a trace: {"key": "http.request.header.x-api-key", "value": {"stringValue": "x"}}.
    _Rule(
        _NAME_TRIGGERS,
        rf"(\"key\"\s*:\s*\"[\w.%-]*{_NAMES}\"\s*,\s*\"value\"\s*:\s*"
        r"(?:\{\s*\"arrayValue\"\s*:\s*\{\s*\"values\"\s*:\s*\[\s*)?\{\s*\"stringValue\"\s*:\s*\")"
        r"(?!<redacted>)(?:[^\"\\]|\\.)++\"",
        rf'\1{MARK}"',
    ),
    # TOKEN=x, ?access_key=x, --password=x
    _Rule(
        _NAME_TRIGGERS,
        rf"({_NAME_BEFORE}{_NAMES}=)(?!<redacted>)[^\s\"'&;,<>]++",
        rf"\1{MARK}",
    ),
    _Rule(("key", "sig"), r"([?&](?:key|sig|signature)=)(?!<redacted>)[^&\s\"'#<>]++", rf"\1{MARK}"),
)


_TRIGGERS = frozenset(trigger for rule in _RULES for trigger in rule.triggers)


def redacted(text: str) -> str:
    """Return the text with everything replaced that has the form of a secret."""
    for _ in range(_PASSES):
        shown = _once(text)
        if shown == text:
            break
        # Where something was taken out, what is beside it may have come into another form.
        text = shown
    return text


def redacted_bytes(data: bytes) -> bytes:
    """Return UTF-8 text, such as JSON, without secrets; what is no UTF-8 in it stays as it is."""
    text = data.decode("utf-8", "surrogateescape")
    shown = redacted(text)
    return data if shown == text else shown.encode("utf-8", "surrogateescape")


def _once(text: str) -> str:
    lower = text.lower()
    there = {trigger for trigger in _TRIGGERS if trigger in lower}
    for rule in _RULES if there else ():
        if not there.isdisjoint(rule.triggers):
            text = rule.apply(text)
    return text


class Redaction:
    """Removes secrets whose values are known, in any spelling, and after them what :func:`redacted` finds."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: tuple[str, ...] = ()
        self.add_values(values)

    def add_values(self, values: Iterable[str]) -> None:
        """Make values known; those of less than four characters are not, they would be found in every text."""
        found = {form for value in values for form in (value, unquote(value), quote(value, safe="")) if form}
        known = {form for form in found if len(form) >= MIN_VALUE and form != MARK} | set(self._values)
        # Longer ones first: a shorter one may be a part of them.
        self._values = tuple(sorted(known, key=lambda value: (-len(value), value)))

    def add(self, url: str, token: str | None = None) -> None:
        """Make the secrets of an engine's address, and a token, known ones."""
        found = {token or ""}
        try:
            parts = urlsplit(url)
            found.add(parts.password or "")
            path = parts.path
        except ValueError:
            # Not an address; what it looks like still counts.
            path = url
        if match := re.search(r"/w/([^/?#]+)", path):
            found.add(match.group(1))
        self.add_values(found)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, MARK)
        return redacted(text)


class RedactingFilter(logging.Filter):
    """Redacts the records of loggers that are not ours, whoever prints them afterwards."""

    def __init__(self, redact: Callable[[str], str] = redacted) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        """Change what is printed of the record, message and traceback; it is always let through."""
        record.msg, record.args = self._redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            # Formatters take this text, if it is there, and do not make one of the exception.
            record.exc_text = self._redact(record.exc_text)
        return True


def log_uncaught(logger: logging.Logger) -> None:
    """Let exceptions that nobody handles end in the log, which is redacted, instead of on stderr as they are."""

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        logger.critical("uncaught exception", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook = uncaught, in_thread
