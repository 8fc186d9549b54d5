"""Every metric of the engine, declared once: ``docs/metrics.md`` is made from this, ``scrape.py`` measures it."""

from agentos_engine.observability import process
from agentos_engine.observability.exposition import Metric

_PREFIX = "agentos_engine_"
_declared: list[Metric] = []


def _counter(name: str, text: str, *labels: str) -> Metric:
    return _declare(Metric(f"{_PREFIX}{name}_total", "counter", text, labels))


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return _declare(Metric(_PREFIX + name, "gauge", text, labels))


def _histogram(name: str, text: str, *labels: str) -> Metric:
    return _declare(Metric(_PREFIX + name, "histogram", text, labels))


def _declare(metric: Metric) -> Metric:
    _declared.append(metric)
    return metric


BUILD = _gauge("build_info", "Always 1; the labels say what runs.", "version", "realm")
READY = _gauge("ready", "1 while the engine takes work: from listening until it drains.")

CONNECTIONS = _gauge(
    "connections", "Connections of workers by the role of their token; anonymous: they needed none.", "role"
)
SILENT = _gauge("connections_silent", "Workers connected that say nothing at present and get no calls.")
WORKERS_CAME = _counter("connections_opened", "Workers that connected.")
WORKERS_WENT = _counter("connections_closed", "Connections of workers that ended.")
FUNCTIONS = _gauge("functions", "Functions that some worker serves.")
TRIGGERS = _gauge("triggers", "Functions bound to triggers by type; the first 100 types, all others as other.", "type")
ROUTES = _gauge("http_routes", "Functions bound to a route of the REST port.")

CALLS = _counter("calls", "Calls accepted, void ones included.")
CALL_ERRORS = _counter(
    "call_errors",
    "Calls refused, failed or stopped, by the code of the error and by who reported it, engine or worker; "
    "at most 100 codes each, then other.",
    "source",
    "code",
)
IN_FLIGHT = _gauge("calls_in_flight", "Calls that wait for an answer.")
CALL_SECONDS = _histogram(
    "call_duration_seconds",
    "From a call to its answer, errors included, by function; those beyond --metrics-functions are together as other.",
    "function",
)
FUNCTION_ERRORS = _counter("function_errors", "Calls answered with an error, or by nobody, by function.", "function")
DEFERRED = _counter(
    "function_deferred", "Calls put into a queue instead of being carried out at once, by function.", "function"
)
LIMITS = _counter("limits_hit", "What was refused because a bound was reached, by bound; see limits.md.", "bound")
DENIED = _counter("permission_denied", "What was refused because nothing grants it, by kind.", "kind")

RECEIVED = _counter("received_bytes", "Bytes of messages from workers.")
SENT = _counter("sent_bytes", "Bytes of messages to workers.")

HTTP_REQUESTS = _counter(
    "http_requests",
    "Requests of the REST port by the HTTP status of the answer; uncommon statuses as 2xx to 5xx; "
    "499: the client went before there was one.",
    "status",
)
HTTP_IN_FLIGHT = _gauge("http_requests_in_flight", "Requests of the REST port not yet answered.")
HTTP_SECONDS = _histogram("http_request_duration_seconds", "From a request, read, to the head of its answer.")
HTTP_CONNECTIONS = _gauge("http_connections", "Open connections of the REST port.")

STREAM_CLIENTS = _gauge("stream_clients", "Clients connected to the stream port.")

QUEUE_DEPTH = _gauge("queue_depth", "Jobs of a queue that are not done, running ones included.", "queue")
QUEUE_RUNNING = _gauge("queue_running", "Jobs of a queue that run.", "queue")
QUEUE_AGE = _gauge("queue_oldest_job_age_seconds", "Since the oldest job was put in that is not done.", "queue")
QUEUE_DONE = _counter("queue_done", "Jobs done.", "queue")
QUEUE_RETRIED = _counter("queue_retries", "Attempts that failed and are made again.", "queue")
QUEUE_FAILED = _counter("queue_failed", "Jobs that failed for the last time.", "queue")
QUEUE_DEAD = _gauge("queue_dead_letters", "Failed jobs that are kept, as they were at the previous scrape.", "queue")

STATE_DROPPED = _counter("state_trigger_dropped", "Events of state triggers not delivered: their function is too slow.")
STREAM_DROPPED = _counter(
    "stream_trigger_dropped", "Events of stream triggers not delivered: their function is too slow."
)
LOG_DROPPED = _counter(
    "log_trigger_dropped", "Firings of log and trace triggers left out: their function is called too often, or hangs."
)

TELEMETRY_FRAMES = _counter("telemetry_frames", "Frames of telemetry from workers.")
TELEMETRY_ENTRIES = _counter("telemetry_entries", "Spans, log records and metric points taken in.")
TELEMETRY_REFUSED = _counter(
    "telemetry_refused", "Frames that were no OTLP/JSON (malformed) or too large, entries that could not be read (dropped).",
    "reason",
)  # fmt: skip
EXPORTED = _counter("telemetry_exported", "Items that the collector took.")
EXPORT_DROPPED = _counter("telemetry_export_dropped", "Items that the collector did not take, and that were given up.")

STORAGE_GROUPS = _histogram("storage_commit_writes", "Writes in one transaction: one fsync for all of them.")
STORAGE_SECONDS = _histogram("storage_commit_duration_seconds", "Time of one transaction, the fsync included.")
STORAGE_FAILED = _counter("storage_write_errors", "Writes that failed because the disk, or the database, did.")
STORAGE_WAITING = _gauge("storage_unwritten_bytes", "Bytes that wait to be written.")
STORAGE_DATABASE = _gauge("storage_database_bytes", "Size of the database.")
STORAGE_LOG = _gauge("storage_log_bytes", "Size of the database's write-ahead log.")
STORAGE_FREE = _gauge("storage_free_bytes", "Free space on the disk of the database.")

LAG = _histogram("event_loop_lag_seconds", "How late the event loop does what is due, looked at every 250 ms.")
LAG_MAX = _gauge("event_loop_lag_max_seconds", "The longest of these delays in the last 30 to 60 seconds.")
SCRAPE = _gauge("scrape_duration_seconds", "How long the previous scrape kept the engine busy.")

METRICS = (*_declared, *process.METRICS)
