"""What waits for peers that do not read, over all ports of an engine, and who goes when that is too much."""

import logging
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

EASED = 0.9
"""Of the bound: peers are cut until less than this share of it waits, so that the next look is not due at once."""


class Peer(Protocol):
    """A socket on which more waits to be sent than it takes."""

    def unsent(self) -> int:
        """Bytes that wait."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...


class Backlog:
    """Counts the bytes that wait for all slow peers together; beyond ``limit`` the one for which most waits is cut.

    ``cut`` is called once for each peer that is.
    """

    def __init__(self, limit: int, cut: Callable[[], object]) -> None:
        self.total = 0
        """Bytes that wait, or a little more: what a peer has taken since is seen when somebody looks."""
        self.limit = limit
        self._cut = cut
        self._peers: dict[Peer, int] = {}

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def free(self) -> int:
        """Bytes that may yet wait. What waits for one peer should not be more: so there is room for others."""
        return max(0, self.limit - self.total)

    def note(self, peer: Peer) -> None:
        """Something more waits for a peer."""
        unsent = peer.unsent()
        self.total += unsent - self._peers.get(peer, 0)
        self._peers[peer] = unsent
        if self.total > self.limit:
            self._ease()

    def forget(self, peer: Peer) -> None:
        """A peer has caught up, or has gone."""
        self.total -= self._peers.pop(peer, 0)

    def keep(self, size: int) -> None:
        """So many bytes more, or less, wait somewhere else than in a socket, where no peer has to be cut for them."""
        self.total += size

    def _ease(self) -> None:
        for peer, noted in self._peers.items():
            unsent = peer.unsent()
            self._peers[peer] = unsent
            self.total += unsent - noted
        if self.total <= self.limit:
            return
        for peer in sorted(self._peers, key=self._peers.__getitem__, reverse=True):
            if self.total <= self.limit * EASED:
                break
            log.warning(
                "peer cut: it does not read, and all that waits for such peers is more than %d bytes",
                self.limit,
                extra={"waiting": self._peers[peer]},
            )
            self.forget(peer)
            self._cut()
            peer.abort()
