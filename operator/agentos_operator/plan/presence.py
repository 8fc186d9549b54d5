"""Whether a realm's Workers run and what they serve, from their pods, Deployments and connections to the engine.

As long as the engine cannot be asked, whoever has pods is taken to serve all that it owns.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agentos_contracts.patterns import Pattern

from ..bus import Connection
from .pods import Pod, is_gone, is_leaving


@dataclass(frozen=True)
class Presence:
    """All Workers of one realm by uid, those that are gone too."""

    linked: bool
    """Whether the engine tells who is connected."""
    enforces: bool
    """Whether it keeps to the grants, so that what is registered without one waits and is not served."""
    connections: Mapping[str, Sequence[Connection]]
    """What the engine told last."""
    quiet_for: Mapping[tuple[str, str], float]
    """Seconds for which the connections of a Worker's pod have not changed, by the uids of both."""
    pods: Mapping[str, Sequence[Pod]]
    deployed: Collection[str]
    """Who has a Deployment, or will in a moment."""
    grace: float
    """Seconds after which a pod that came back has registered all that it serves."""

    def of(self, uid: str) -> Sequence[Connection]:
        """A Worker's connections, as far as is known now."""
        return self.connections.get(uid, ()) if self.linked else ()

    def started(self, uid: str) -> bool:
        """Whether a Worker may have pods."""
        return uid in self.deployed or bool(self.pods.get(uid))

    def lingers(self, uid: str) -> bool:
        """Whether a Worker that is gone may still serve calls."""
        if uid in self.deployed:
            return True
        pods = [pod for pod in self.pods.get(uid, ()) if not is_gone(pod)]
        if not pods:
            return False
        return not self.linked or bool(self.of(uid)) or not all(map(is_leaving, pods))

    def serving(self, uid: str) -> bool:
        """Whether a Worker serves anything, or may do so."""
        return any(each.functions for each in self.of(uid)) if self.linked else self.started(uid)

    def serves(self, uid: str, pattern: Pattern, *, declared: bool) -> bool:
        """Whether a Worker serves something of the pattern, or may do so; ``declared``: it tells its functions in its spec."""
        connections = self.of(uid)
        if any(pattern.matches(each) for one in connections for each in (*one.functions, *one.claims, *one.waiting)):
            return True
        if declared and pattern.is_function:
            return not self.linked and bool(self.pods.get(uid))
        # It comes back, and registers one by one: what it has discovered is given up only when it certainly lacks it.
        return not connections or self.settles_in(uid) is not None

    def settles_in(self, uid: str) -> float | None:
        """Seconds after which a Worker that is connected has certainly registered all; None: it has, or is not."""
        quiet = [self.quiet_for.get((uid, each.pod_uid), 0.0) for each in self.of(uid)]
        return self.grace - min(quiet) if quiet and min(quiet) < self.grace else None

    def registers(self, uid: str) -> set[str]:
        """What a Worker has registered and is not served for want of a grant; of an engine that knows none, everything."""
        return {text for each in self.of(uid) for text in (each.waiting if self.enforces else each.functions)}

    def has(self, uid: str) -> set[str]:
        """What a Worker certainly was granted, for it is served. An engine that does not enforce grants proves none."""
        return {text for each in self.of(uid) for text in (*each.functions, *each.claims)} if self.enforces else set()
