"""Whether a Worker that replaces another can take over from it: what ``spec.replaces`` waits for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from agentos_contracts.assign import Holder, declares_nothing, patterns_of
from agentos_contracts.scaling import fewest, wants_no_pods

from ..bus import Connection
from ..kinds import Object
from .bus import listed
from .pods import REGISTRATION_GRACE, is_leaving
from .presence import Presence


@dataclass(frozen=True, slots=True)
class Handover:
    """How far a Worker is with taking over. ``lacking``: what its pods on the bus have not registered and have to."""

    replaces: str
    pods: int
    """How many pods it needs."""
    answers: bool
    lacking: tuple[str, ...] = ()
    settles_in: float | None = None
    """Seconds after which what its pods have not registered until then is not waited for any more."""

    @property
    def message(self) -> str:
        """What it waits for, for people."""
        if not self.pods:
            return f"it takes over from Worker {self.replaces} once it runs; it is to have no pods now"
        pods = "its pod has" if self.pods == 1 else f"its {self.pods} pods have"
        told = f"it takes over from Worker {self.replaces} as soon as {pods} registered what that one serves"
        return f"{told}; not registered: {listed(self.lacking)}" if self.lacking else told


def handovers(workers: Sequence[Object], recorded: Sequence[Holder], presence: Presence) -> dict[str, Handover]:
    """Decide for all Workers of a realm with spec.replaces, by uid; ``recorded`` is what anybody holds. Pure."""
    found = {}
    for worker in workers:
        uid, replaced = worker["metadata"]["uid"], worker.get("spec", {}).get("replaces")
        if not replaced:
            continue
        # The one that is there, and those that are gone and still hold something.
        named = {each["metadata"]["uid"] for each in workers if each["metadata"]["name"] == replaced}
        named |= {holder.uid for holder in recorded if holder.worker == replaced}
        own = presence.of(uid)
        leaving = {pod["metadata"]["uid"] for pod in presence.pods.get(uid, ()) if is_leaving(pod)}
        quiet_for = {each.pod_uid: presence.quiet_for.get((uid, each.pod_uid), 0.0) for each in own}
        found[uid] = handover(worker, own, leaving, [each for other in named for each in presence.of(other)], quiet_for)
    return found


def handover(
    worker: Object,
    own: Sequence[Connection],
    leaving: Collection[str],
    replaced: Sequence[Connection],
    quiet_for: Mapping[str, float] = MappingProxyType({}),
) -> Handover:
    """Decide for a Worker with spec.replaces. Pure.

    ``own``: its connections; those of the pods whose uids are in ``leaving`` do not count. ``replaced``: the connections of
    the Worker that it replaces: of what they serve it has to register what it claims itself, and all if it declares
    nothing. HTTP routes and trigger types nobody declares, and it may leave some out: they are waited for until its pod's
    connections have not changed for a while; ``quiet_for`` says for how many seconds they have not.
    """
    spec = worker["spec"]
    wanted, declared = _wanted(spec), patterns_of(worker)
    served = {function_id for connection in replaced for function_id in connection.functions}
    if not declares_nothing(worker):
        served = {function_id for function_id in served if any(each.matches(function_id) for each in declared)}
    beside = {text for connection in replaced for text in connection.claims}
    registered: dict[str, set[str]] = {}
    for connection in own:
        if connection.pod_uid not in leaving:
            registered.setdefault(connection.pod_uid, set()).update(
                connection.functions, connection.claims, connection.waiting
            )
    settled = {pod for pod, seconds in quiet_for.items() if seconds >= REGISTRATION_GRACE}
    lacking = {
        pod: (served if pod in settled else served | beside) - ids
        | {each.text for each in declared if not any(map(each.matches, ids))}
        for pod, ids in registered.items()
    }
    ready = sum(not lacks for lacks in lacking.values())
    missing = tuple(sorted(set().union(*lacking.values())))
    settling = [REGISTRATION_GRACE - seconds for pod, seconds in quiet_for.items() if pod not in settled]
    return Handover(
        spec["replaces"], wanted, 0 < wanted <= ready, missing, min(settling) if missing and settling else None
    )


def _wanted(spec: Mapping[str, Any]) -> int:
    """How many pods have to answer; by calls in flight there are as few as may be, for nobody calls them yet."""
    if wants_no_pods(spec):
        return 0
    autoscaling = spec.get("autoscaling")
    return fewest(autoscaling) if autoscaling else spec.get("replicas", 1)
