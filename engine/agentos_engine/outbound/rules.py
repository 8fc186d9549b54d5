"""Which URLs and addresses the engine may send requests to. Pure: nothing is resolved or opened here.

A name is checked as text before it is resolved, and each address that it resolves to before it is connected to: the
connection goes to the very address that was checked, so that a name cannot change its mind in between.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from agentos_engine.access.globs import Glob

MAX_URL_LENGTH = 8192
MAX_HEADERS = 64
MAX_HEADER_BYTES = 32 << 10
"""All names and values of one request's headers together."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_VISIBLE = re.compile(r"[!-~]+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_NOT_SETTABLE = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer"),
        *("expect", "proxy-authorization", "proxy-connection", "accept-encoding"),
    }
)
_BLOCKED_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # an otherwise public address at which machines in Azure reach their metadata
        ),
    )
)
"""Everything that is special in IANA's registry. Python's own tables differ from one patch version to the next."""
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
_BLOCKED_IPV6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_EMBEDDING_IPV6 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Their last 32 bits are an IPv4 address: compatible, translated, NAT64. Mapped and 6to4 are known to Python."""


class UrlRefused(Exception):
    """A URL, address or header that the rules do not allow; the message names no more of the URL than its host."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. ``path`` includes the query and begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be shown, since path and query of a webhook are often its secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")


def parse_url(url: object) -> Target:
    """Take a URL apart. Raises UrlRefused for one that is not plainly an absolute http or https URL."""
    if not isinstance(url, str) or not url:
        raise UrlRefused("the URL is missing; write https://HOST/PATH")
    if len(url) > MAX_URL_LENGTH:
        raise UrlRefused(f"the URL has {len(url)} characters, more than {MAX_URL_LENGTH}")
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise UrlRefused("the URL has spaces, backslashes or characters beyond ASCII; percent-encode them")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UrlRefused(f"the URL is malformed: {error}") from error
    if parts.scheme not in _PORTS:
        raise UrlRefused("the URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise UrlRefused("the URL holds a user name or password; take it out and use auth or headers")
    if port == 0:
        raise UrlRefused("the URL's port is 0")
    literal = _literal(host)
    if "[" in parts.netloc and not isinstance(literal, ipaddress.IPv6Address):
        raise UrlRefused("the URL's host is no IPv6 address")
    if literal is None and not _HOST.fullmatch(host):
        raise UrlRefused("the URL's host is no host name or address")
    host = str(literal) if literal is not None else host.rstrip(".")
    if any(unquote(segment) in (".", "..") for segment in parts.path.split("/")):
        raise UrlRefused("the URL's path has . or .. in it, which servers resolve; write where it leads to")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


class UrlPattern:
    """An item of ``url_allowlist``: ``*``, a host such as ``*.example.com``, or a URL such as ``https://host/hooks/*``.

    Scheme, host, port and path are compared each for itself, so that a star in the host never reaches into the path;
    what the pattern leaves out is any.
    """

    def __init__(self, text: str) -> None:
        scheme, rest = text.split("://", 1) if "://" in text else ("*", text)
        authority, slash, path = rest.partition("/")
        host, port = authority, "*"
        if not authority.endswith("]"):
            before, colon, after = authority.rpartition(":")
            if colon and (after.isdecimal() or after == "*"):
                host, port = before, after
        self._scheme = Glob(scheme.lower())
        self._host = Glob(host.strip("[]").rstrip(".").lower())
        self._port = Glob(port)
        self._path = Glob(slash + path if slash else "*")

    def covers(self, target: Target) -> bool:
        """True when the pattern allows the target."""
        return (
            self._scheme.matches(target.scheme)
            and self._host.matches(target.host.lower())
            and self._port.matches(str(target.port))
            and self._path.matches(target.path)
        )


class UrlRules:
    """The rules of one kind of requests."""

    def __init__(
        self, url_allowlist: Iterable[str] = ("*",), *, block_private_ips: bool = True, require_https: bool = True
    ) -> None:
        self._allowed = tuple(map(UrlPattern, url_allowlist))
        self._block_private_ips = block_private_ips
        self._require_https = require_https

    def check_url(self, url: object) -> Target:
        """Return the target of an allowed URL. Raises UrlRefused."""
        target = parse_url(url)
        if self._require_https and target.scheme != "https":
            raise UrlRefused(f"{target.origin}: https is required (security.require_https)")
        if not any(each.covers(target) for each in self._allowed):
            raise UrlRefused(f"{target.origin}: the URL is not in security.url_allowlist")
        literal = _literal(target.host)
        if literal is not None:
            self.check_address(target.host, literal)
        return target

    def check_address(self, host: str, address: Address) -> None:
        """Raise UrlRefused unless a connection for ``host`` may go to this address."""
        if self._block_private_ips and not is_public(address):
            raise UrlRefused(f"{host} is at a private address, which security.block_private_ips forbids")


def is_public(address: Address) -> bool:
    """True for an address on the Internet: not private, shared, local, reserved, multicast or that of cloud metadata.

    IPv6 addresses that stand for an IPv4 address are judged by that one.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BLOCKED_IPV4)
    embedded = _embedded(address)
    if embedded is not None:
        return is_public(embedded)
    if address.scope_id or address not in _GLOBAL_IPV6:
        return False
    return not any(address in network for network in _BLOCKED_IPV6)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise UrlRefused for headers that cannot be sent, or that are the client's own affair."""
    if len(headers) > MAX_HEADERS:
        raise UrlRefused(f"{len(headers)} headers are more than {MAX_HEADERS}")
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADER_BYTES:
        raise UrlRefused(f"the headers have more than {MAX_HEADER_BYTES} bytes")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise UrlRefused(f"{name[:100]!r} is no header name")
        if name.lower() in _NOT_SETTABLE:
            raise UrlRefused(f"the header {name} is set by the engine; leave it out")
        if _BAD_VALUE.search(value) or value != value.strip():
            raise UrlRefused(
                f"the value of header {name} has line breaks, spaces at its ends or characters beyond Latin-1"
            )


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _EMBEDDING_IPV6):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
