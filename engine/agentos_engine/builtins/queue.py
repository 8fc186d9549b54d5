"""``iii::durable::*``, ``iii::queue::*``, ``engine::queue::*`` and the enqueue action: queues and durable topics."""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import MISSING, Context, decode
from agentos_engine.config import SettingsError
from agentos_engine.protocol.messages import is_null
from agentos_engine.queues import names, settings
from agentos_engine.queues.dead_letters import DeadLetters
from agentos_engine.queues.named import NamedQueues
from agentos_engine.queues.runner import Runner
from agentos_engine.queues.topics import Topics
from agentos_engine.storage.queues import Job, QueueStore
from agentos_engine.storage.values import StorageError
from agentos_engine.triggers.durable import TYPE, DurableTrigger

MAX_QUEUES = 1000
"""Queues in the config."""
DRAIN_TIMEOUT = 5.0
"""Seconds that running jobs have to end when the queues stop. What has not ended then runs again after the start."""
DEFAULT_QUEUE = "default"
"""A queue that is there whether it is configured or not."""
BROKER = "builtin"
"""What the listings call the kind of queue behind a topic."""


class Queues:
    """The module: queues with a name, and durable topics.

    ``queue_configs`` are the settings of the queues by name, as in config.yaml. Raises SettingsError for bad ones.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        store: QueueStore,
        queue_configs: Mapping[str, object] | None = None,
        drain_timeout: float = DRAIN_TIMEOUT,
    ) -> None:
        configs = {DEFAULT_QUEUE: None, **(queue_configs or {})}
        if len(configs) > MAX_QUEUES:
            raise SettingsError(f"queue_configs: {len(configs)} queues; at most {MAX_QUEUES}")
        self._bus = bus
        self._settings = {name: settings.read_named(name, values) for name, values in configs.items()}
        self._drain_timeout = drain_timeout
        self._runner = Runner(store, bus.clock, bus.bounds)
        self._named = NamedQueues(bus, self._runner, self._settings)
        self._topics = Topics(bus, self._runner)
        self._dead = DeadLetters(self._runner)
        self._running = False
        self._functions: dict[str, tuple[Callable[[Context, bytes], object], str]] = {
            "iii::durable::publish": (self._publish, "Publishes a message to a durable topic."),
            "iii::queue::redrive": (self._redrive, "Runs all dead letters of a queue or topic again."),
            "iii::queue::redrive_message": (self._redrive_message, "Runs one dead letter again."),
            "iii::queue::discard_message": (self._discard_message, "Deletes one dead letter."),
            "engine::queue::enqueue": (self._enqueue, "Puts a call into a named queue."),
            "engine::queue::list_topics": (self._list_topics, "Lists durable topics and named queues."),
            "engine::queue::topic_stats": (self._topic_stats, "Tells how many jobs wait in a topic or queue."),
            "engine::queue::dlq_topics": (self._dlq_topics, "Lists topics and queues that have dead letters."),
            "engine::queue::dlq_messages": (self._dlq_messages, "Lists the dead letters of a topic or queue."),
        }

    async def start(self) -> None:
        """Go on with what is in the store, and serve. Raises SettingsError when the store cannot be read."""
        try:
            await self._runner.load()
            await self._topics.open()
        except StorageError as error:
            raise SettingsError(f"the stored queues cannot be read: {error.message}") from error
        self._running = True
        self._named.open()
        for function_id, (handler, description) in self._functions.items():
            self._bus.functions.add(function_id, handler, description)
        self._bus.calls.enqueue = self._named.enqueue
        self._bus.triggers.serve(
            TYPE, DurableTrigger(self._topics), "Gets every message of a durable topic.", shared=False
        )

    @property
    def runner(self) -> Runner:
        """All queues that run."""
        return self._runner

    @property
    def moving(self) -> int:
        """How many jobs run, or are on their way into a queue or topic."""
        return self._runner.moving

    async def stop(self) -> None:
        """Serve no longer. Jobs that run have a moment to end; all that is not done waits for the next start."""
        if not self._running:
            return
        self._running = False
        self._topics.close()
        self._bus.triggers.unserve(TYPE)
        self._bus.calls.enqueue = None
        for function_id in self._functions:
            self._bus.functions.remove(function_id)
        await self._runner.stop(self._drain_timeout)

    # Functions

    async def _publish(self, context: Context, data: bytes) -> object:
        given = decode(context.function_id, data, _Publish)
        await self._topics.publish(
            given.topic,
            bytes(given.data),
            traceparent=context.traceparent,
            baggage=context.baggage,
            idempotency_key=given.idempotency_key,
        )
        return MISSING

    async def _enqueue(self, context: Context, data: bytes) -> object:
        given = decode(context.function_id, data, _Enqueue)
        caller = context.connection
        if caller is not None and caller.permissions is not None:
            try:
                caller.permissions.check_indirect(given.function_id)
            except BusError:
                self._bus.permissions_denied["call"] += 1
                raise
        if caller is not None and caller.guard is not None:
            caller.guard.check_indirect(caller, given.function_id, given.namespace or context.namespace)
        receipt = await self._named.enqueue(
            given.queue,
            given.function_id,
            bytes(given.data),
            namespace=given.namespace or context.namespace,
            metadata=context.metadata if is_null(given.metadata) else bytes(given.metadata),
            traceparent=given.traceparent or context.traceparent,
            baggage=given.baggage or context.baggage,
            idempotency_key=given.idempotency_key,
            receipt_id=given.message_receipt_id,
        )
        return {"messageReceiptId": receipt}

    async def _redrive(self, context: Context, data: bytes) -> object:
        name = _queue(decode(context.function_id, data, _Queue))
        with _Failing("redrive_failed"):
            return {"queue": name, "redriven": await self._runner.complete(self._dead.redrive(name))}

    async def _redrive_message(self, context: Context, data: bytes) -> object:
        name, message_id = _message(decode(context.function_id, data, _Queue))
        with _Failing("redrive_message_failed"):
            count = await self._runner.complete(self._dead.redrive(name, message_id))
        return {"queue": name, "message_id": message_id, "redriven": count}

    async def _discard_message(self, context: Context, data: bytes) -> object:
        name, message_id = _message(decode(context.function_id, data, _Queue))
        with _Failing("discard_message_failed"):
            count = await self._runner.complete(self._dead.discard(name, message_id))
        # Clients of the protocol read ``redriven`` here too; the other key says what it means.
        return {"queue": name, "message_id": message_id, "redriven": count, "discarded": count}

    def _list_topics(self, context: Context, data: bytes) -> object:
        counts = self._topics.subscriber_counts()
        for name in self._settings:
            counts[name] = counts.get(name, 0) + 1
        for queue in self._runner.unused:
            counts.setdefault(names.label(queue), 0)
        return [
            {"name": name, "broker_type": BROKER, "subscriber_count": count} for name, count in sorted(counts.items())
        ]

    async def _topic_stats(self, context: Context, data: bytes) -> object:
        name = _topic(decode(context.function_id, data, _Topic))
        own = self._settings.get(name)
        queues = {*self._runner.consumers, *self._runner.unused}
        depth = sum(self._runner.depth(queue) for queue in queues if names.answers_to(queue, name))
        with _Failing("topic_stats_failed"):
            dead = await self._dead.count(name)
        return {
            "depth": depth + self._topics.retained_count(name),
            "consumer_count": self._topics.subscriber_counts().get(name, 0) + (own is not None),
            "dlq_depth": dead,
            "config": None if own is None else settings.effective(own),
        }

    async def _dlq_topics(self, context: Context, data: bytes) -> object:
        with _Failing("dlq_topics_failed"):
            counts = await self._dead.counts()
        return [
            {"topic": name, "broker_type": BROKER, "message_count": count} for name, count in sorted(counts.items())
        ]

    async def _dlq_messages(self, context: Context, data: bytes) -> object:
        given = decode(context.function_id, data, _Page)
        name = _topic(given)
        with _Failing("dlq_messages_failed"):
            jobs = await self._dead.page(name, given.offset or 0, 50 if given.limit is None else given.limit)
        return [_dead_letter(job) for job in jobs]


class _Publish(msgspec.Struct):
    topic: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    idempotency_key: str | None = None


class _Enqueue(msgspec.Struct):
    queue: str
    function_id: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    message_receipt_id: str | None = msgspec.field(name="messageReceiptId", default=None)
    traceparent: str | None = None
    baggage: str | None = None
    namespace: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"null")
    idempotency_key: str | None = None


class _Queue(msgspec.Struct):
    queue: str | None = None
    topic: str | None = None
    message_id: str | None = None


class _Topic(msgspec.Struct):
    topic: str | None = None


class _Page(_Topic):
    offset: Annotated[int, msgspec.Meta(ge=0)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Failing:
    """Gives errors of the store the code of what was asked for."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StorageError):
            raise BusError(self._code, error.message) from error


def _queue(given: _Queue) -> str:
    name = given.queue or given.topic or ""
    if not name.strip():
        raise BusError("queue_not_set", "queue is empty: name the queue, or the topic, whose dead letters are meant")
    return name


def _message(given: _Queue) -> tuple[str, str]:
    name = _queue(given)
    if not given.message_id:
        raise BusError("message_id_not_set", "message_id is empty: engine::queue::dlq_messages lists the ids")
    return name, given.message_id


def _topic(given: _Topic) -> str:
    if given.topic is None or not given.topic.strip():
        raise BusError("topic_required", "topic is empty: name the topic or queue")
    return given.topic


def _dead_letter(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "payload": msgspec.Raw(job.data),
        "error": job.last_error,
        "failed_at": int(job.failed_at or 0),
        "retries": job.attempts_made,
        "size_bytes": len(job.data),
    }
