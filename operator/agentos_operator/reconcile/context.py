"""What all passes share."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentos_contracts.assign import Clash
from agentos_contracts.quota import Excess
from agentos_contracts.worker import ENGINE_NAME

from ..api import Api
from ..apply import Applier
from ..autoscaler import Autoscaler
from ..cache import Cache
from ..drains import Drains
from ..key_ring import KeyRing
from ..kinds import POD, WORKER, Key, Object
from ..links import Links
from ..plan.handover import Handover
from ..plan.pods import is_gone
from ..quotas import Quotas
from ..settings import NAME_LABEL, Settings
from ..status import StatusWriter
from ..work_queue import WorkQueue

CLAIMS = "Claims"
"""Kind of the keys that stand for all function claims of one namespace."""
REFUSED_RETRY = 30.0
"""Seconds after which objects are tried again that the cluster refused: nothing tells when a quota or the like changes."""


@dataclass(slots=True)
class Context:
    """The leader's state beside the cache; everything in it can be made anew from the cluster."""

    settings: Settings
    api: Api
    cache: Cache
    queue: WorkQueue[Key]
    ring: KeyRing
    links: Links
    applier: Applier
    status: StatusWriter
    autoscaler: Autoscaler
    drains: Drains
    quotas: Quotas
    waiting: dict[str, dict[str, tuple[Clash, ...]]] = field(default_factory=dict)
    """Namespace → Worker uid → the clashes for which it waits."""
    over_quota: dict[str, Mapping[str, tuple[Excess, ...]]] = field(default_factory=dict)
    """Namespace → Worker uid → where it goes beyond the quota, as of the last decision on claims."""
    refused: dict[str, dict[str, tuple[Clash, ...]]] = field(default_factory=dict)
    """Namespace → Worker uid → why it does not get what it registers without having declared it."""
    keeping: dict[str, frozenset[str]] = field(default_factory=dict)
    """Namespace → uids of Workers whose given-up patterns are freed when their pods stop serving them."""
    handovers: dict[str, Mapping[str, Handover]] = field(default_factory=dict)
    """Namespace → Worker uid → how far it is with taking over from the Worker that it replaces."""
    replaced: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Namespace → Worker uid → name of the Worker that has taken over from it."""
    dirty: defaultdict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))
    """Namespace → Workers to look at once its claims are decided."""
    ended: dict[str, str] = field(default_factory=dict)
    """Namespace → the Realm that it had and that is deleted, or being deleted."""
    starting: set[str] = field(default_factory=set)
    """Uids of Workers whose Deployment is being written: from outside they cannot be told from ones without."""

    def frees(self, namespace: str, uid: str) -> bool:
        """Whether what a Worker's going pods serve may be somebody else's next: it is deleted, or gives functions up."""
        key = self.cache.worker_with(uid)
        worker = self.cache.get(WORKER, key.namespace, key.name) if key is not None else None
        if worker is None or worker["metadata"].get("deletionTimestamp"):
            return True
        return uid in self.keeping.get(namespace, ())

    def still_using(self, realm: str, ring: KeyRing) -> list[str]:
        """Who in a realm needs the key before the newest; empty when there is none."""
        return self.links.users(realm, ring.previous, ring.current) if ring.previous is not None else []

    def engine_pods(self, namespace: str) -> list[Object]:
        """The pods of a realm's engine that have not ended."""
        pods = self.cache.all(POD, namespace)
        return [pod for pod in pods if pod["metadata"]["labels"].get(NAME_LABEL) == ENGINE_NAME and not is_gone(pod)]

    def worker_changed(self, key: Key) -> None:
        """A Worker changed or went: its namespace's claims first, then itself."""
        self.dirty[key.namespace].add(key)
        self.queue.add(Key(CLAIMS, key.namespace, ""))

    def workers_changed(self, namespace: str) -> None:
        """Something that all Workers of a namespace depend on changed."""
        for worker in self.cache.all(WORKER, namespace):
            self.worker_changed(worker_key(worker))


def worker_key(worker: Object) -> Key:
    metadata = worker["metadata"]
    return Key(WORKER.kind, metadata["namespace"], metadata["name"])
