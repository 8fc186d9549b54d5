"""Pods that are going: no new calls for them, and in the end no way back."""

from agentos_engine.bus.connection import Peer

MAX_REMEMBERED = 10_000
"""Going pods; the oldest are forgotten first, which are long gone by then."""


class Draining:
    """Remembers pods by their worker's uid and their own: each can only name itself, so none can have another drained."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], bool] = {}
        """Going pods; True for those that are not let in again."""

    def go(self, peer: Peer) -> None:
        """A pod is going: a connection that it makes anew gets no calls either while there are others that can."""
        self._remember(peer, shut=False)

    def shut_out(self, peer: Peer) -> None:
        """A pod has ended its calls, or its time is over: it does not come back."""
        self._remember(peer, shut=True)

    def is_going(self, peer: Peer) -> bool:
        """Whether connections of this pod get no new calls while there are others."""
        return (peer.uid, peer.pod_uid) in self._pods

    def is_shut_out(self, peer: Peer) -> bool:
        """Whether this pod is not let in any more."""
        return self._pods.get((peer.uid, peer.pod_uid), False)

    def _remember(self, peer: Peer, *, shut: bool) -> None:
        if not peer.pod_uid:
            return
        key = peer.uid, peer.pod_uid
        self._pods[key] = self._pods.pop(key, False) or shut
        while len(self._pods) > MAX_REMEMBERED:
            del self._pods[next(iter(self._pods))]
