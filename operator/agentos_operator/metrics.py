"""The operator's own metrics, served on the health port at /metrics."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .cache import Cache
from .kinds import REALM, WORKER, Kind, Object

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

RECONCILES = Counter("agentos_operator_reconciles_total", "Passes by kind of key and outcome.", ["kind", "outcome"])
RECONCILE_SECONDS = Histogram("agentos_operator_reconcile_seconds", "Time of one pass.", ["kind"], buckets=_FAST)
QUEUE_LENGTH = Gauge("agentos_operator_queue_length", "Keys that wait or are being worked on.")
OBJECTS_WRITTEN = Counter("agentos_operator_objects_written_total", "Children created or replaced.", ["kind"])
CLAIM_WRITES = Counter("agentos_operator_claim_writes_total", "FunctionClaims created, replaced or deleted.")
STATUS_WRITES = Counter("agentos_operator_status_writes_total", "Status patches.", ["kind"])
GATE_SECONDS = Histogram(
    "agentos_operator_gate_seconds", "From a registration seen on the bus to the pod's gate patched.", buckets=_FAST
)
OBJECTS_SECONDS = Histogram(
    "agentos_operator_objects_seconds", "From a new Worker seen to its last object written.", buckets=_FAST
)
LEADING = Gauge("agentos_operator_leading", "1 while this replica leads.")
LINKS_UP = Gauge("agentos_operator_links_up", "Engines to which the operator is connected.")
ADMISSIONS = Counter("agentos_operator_admissions_total", "Admission reviews by kind and verdict.", ["kind", "verdict"])


class Resources(Collector):
    """Workers and Realms by what their condition Ready says, counted in the cache at each scrape; on every replica."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metrics, without values."""
        return (
            GaugeMetricFamily(
                "agentos_operator_workers",
                "Workers by namespace, and by status and reason of their condition Ready.",
                labels=["namespace", "ready", "reason"],
            ),
            GaugeMetricFamily(
                "agentos_operator_realms",
                "Realms by status and reason of their condition Ready.",
                labels=["ready", "reason"],
            ),
        )

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The metrics as they are now."""
        workers, realms = self.describe()
        for labels, count in Tally(_labels(obj, WORKER) for obj in self._cache.all(WORKER)).items():
            workers.add_metric(labels, count)
        for labels, count in Tally(_labels(obj, REALM) for obj in self._cache.all(REALM)).items():
            realms.add_metric(labels, count)
        return workers, realms


def _labels(obj: Object, kind: Kind) -> tuple[str, ...]:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    ready = next((each for each in conditions if each.get("type") == "Ready"), {})
    verdict = str(ready.get("status", "Unknown")), str(ready.get("reason", ""))
    return verdict if kind is REALM else (obj["metadata"]["namespace"], *verdict)
