"""Paths of the worker port, and who comes by them.

SDKs append ``/otel`` and ``/ws/channels/…`` to the whole engine URL, so the token is a path prefix:
``/w/<token>/<pod uid>``, below which everything is served. ``@<version>`` after the pod's uid tells the version of the
worker in that pod, percent-encoded where need be.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from agentos_contracts.tokens import Identity, Role, TokenError, Verifier

from agentos_engine.bus.connection import ANONYMOUS, Peer
from agentos_engine.permissions.rules import Socket
from agentos_engine.permissions.table import Grants

_PREFIXED = re.compile(r"/w/(?P<token>[^/]*)(?:/(?P<pod>(?!otel(?:/|$)|ws(?:/|$))[^/]*))?(?P<rest>/.*)?")
MAX_VERSION = 256
"""Characters of a worker's version."""
_POD_UID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OF_THIS_MACHINE = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
"""The origin of a page that is served from loopback."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request path asks for; without the prefix ``token`` is None, ``pod_uid`` and ``version`` are empty."""

    rest: str
    token: str | None = field(default=None, repr=False)
    pod_uid: str = ""
    version: str = ""

    @property
    def is_channel(self) -> bool:
        """One end of a data channel."""
        return self.rest.startswith("/ws/channels/")

    @property
    def is_telemetry(self) -> bool:
        """A connection that only brings telemetry."""
        return self.rest.rstrip("/") == "/otel"


def parse_path(raw: bytes) -> Target:
    """Read a request path (query ignored); every text is some target."""
    path = raw.decode("latin-1").partition("?")[0]
    match = _PREFIXED.fullmatch(path)
    if match is None:
        return Target(path)
    pod_uid, _, version = (match["pod"] or "").partition("@")
    return Target(match["rest"] or "/", match["token"], pod_uid, unquote(version)[:MAX_VERSION])


NO_GRANT = "this worker has no grant: its Worker resource is not there, is being deleted, or the operator has not told of it yet"


class AccessError(Exception):
    """A connection that is refused; the message says why and holds no part of the token."""


class Gate:
    """Decides who may connect: everybody without a verifier, else those whose token is right for this realm.

    With ``anonymous`` those without any token may, too. Web pages from elsewhere always need one: a browser lets every
    page that a person visits connect to this machine, and says only by ``Origin`` which one it is.
    """

    def __init__(
        self, realm: str, verifier: Verifier | None, anonymous: bool = False, grants: Grants | None = None
    ) -> None:
        self._grants = grants
        self._realm = realm
        self._verifier = verifier
        self._anonymous = anonymous

    def accept(self, verifier: Verifier) -> None:
        """From now on take the tokens that this one takes; who is connected stays."""
        self._verifier = verifier

    def identify(self, target: Target, origin: str | None = None) -> Identity | None:
        """Return whose token a path carries; None for somebody who needs none. Raises AccessError.

        ``origin``: the header, None when there is none, or when others decide who may connect from where. A worker
        that has no grant (yet, or any more) may not connect.
        """
        identity = self._identify(target, origin)
        if identity is not None and not self.is_granted(Peer(role=str(identity.role), uid=identity.uid)):
            raise AccessError(NO_GRANT)
        return identity

    def _identify(self, target: Target, origin: str | None) -> Identity | None:
        if self._verifier is None or (target.token is None and self._anonymous):
            if origin is not None and not _OF_THIS_MACHINE.fullmatch(origin.strip()):
                raise AccessError("a web page may connect without a token only when it is served from this machine")
            return None
        if target.token is None:
            raise AccessError("this engine demands a token: connect to ws://HOST:PORT/w/TOKEN/POD-UID")
        try:
            identity = self._verifier.verify(target.token)
        except TokenError as error:
            raise AccessError(f"the token is refused: {error}") from error
        if identity.realm != self._realm:
            raise AccessError(f"the token is for realm {identity.realm!r}; this engine serves {self._realm!r}")
        return identity

    def admit(self, target: Target, origin: str | None = None) -> Peer:
        """Return who comes to the worker port by a path; ``origin`` as for :meth:`identify`. Raises AccessError.

        Whether a worker has a grant is to be asked for with :meth:`wait_for_grant`.
        """
        identity = self._identify(target, origin)
        if identity is None:
            return ANONYMOUS
        if target.rest != "/" and not target.is_telemetry and not target.is_channel:
            raise AccessError("nothing is served at this path; connect to /w/TOKEN/POD-UID")
        if target.pod_uid and not _POD_UID.fullmatch(target.pod_uid):
            raise AccessError("the pod uid in the path is not one; connect to /w/TOKEN/POD-UID")
        if not target.pod_uid and identity.role == Role.WORKER:
            raise AccessError("the pod uid is missing in the path; connect to /w/TOKEN/POD-UID")
        return Peer(
            identity.realm,
            identity.subject,
            identity.uid,
            str(identity.role),
            target.pod_uid,
            target.version,
            identity.key_id,
        )

    def follow(self, peer: Peer | Identity, socket: Socket) -> None:
        """Cut a socket that is no connection of the bus when its worker may do nothing any more."""
        if self._grants is not None and peer.role == Role.WORKER:
            self._grants.follow(peer.uid, socket)

    def is_granted(self, peer: Peer) -> bool:
        """True when a peer that was admitted may do something now."""
        return self._grants is None or self._grants.admits(peer)

    async def wait_for_grant(self, peer: Peer) -> None:
        """Wait a moment for the grant of a worker. Raises AccessError when there is none, or the worker is leaving."""
        if self._grants is not None and not await self._grants.wait_for(peer):
            raise AccessError(NO_GRANT)
