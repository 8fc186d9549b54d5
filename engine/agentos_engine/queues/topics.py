"""Durable topics: every function that subscribes to a topic gets each of its messages, through a queue of its own.

What differs from a plain queue is who is there. A message that comes before anybody has subscribed is kept, and goes
to those who are the first to do so. A subscriber whose worker has gone keeps getting messages into its queue, and
finds them when it is back: a restart loses none. Both within bounds of time and number.
"""

import logging
from collections.abc import Sequence

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.spans import Span
from agentos_engine.clock import Handle
from agentos_engine.queues import names
from agentos_engine.queues.consumer import NotNow
from agentos_engine.queues.runner import KEY_LIFETIME, Runner, check_key, new_receipt
from agentos_engine.queues.settings import QueueSettings, read_subscriber
from agentos_engine.queues.subscribers import Subscriber, Topic
from agentos_engine.storage.queues import Job, Key, Subscription, Waiting
from agentos_engine.storage.values import StorageError
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Binding

log = logging.getLogger(__name__)

MAX_TOPICS = 10_000
"""Topics that have subscribers or kept messages, and likewise subscriptions."""
MAX_TOPIC_LENGTH = 1024
"""Characters of a topic's name."""
MAX_RETAINED = 1000
"""Messages kept for a topic without subscribers; then the oldest makes room for the newest."""
RETAINED_FOR = 24 * 3600.0
"""Seconds for which they are kept."""
GATHERING = 1.0
"""Seconds from the first subscription to a topic until its kept messages are handed out: a worker that starts makes
its subscriptions one by one, and each is to get them."""
ABSENT_FOR = 7 * 86_400.0
"""Seconds for which messages are kept for a subscriber that has gone."""
MAX_ABSENT = 10_000
"""Messages kept for one; those that come then are not."""
BRIEF = 10.0
"""Seconds: who unsubscribes so soon, still connected, did not mean to stay."""
BRIEF_FOR = 60.0
"""Seconds for which messages are kept for it."""
EXPIRY_INTERVAL = 300.0
"""Seconds between two looks for what has been kept long enough."""
COPY_BATCH = 100
"""Kept messages that are handed out at a time."""


class Topics:
    """All topics of one engine."""

    def __init__(self, bus: Bus, runner: Runner) -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._runner = runner
        self._topics: dict[str, Topic] = {}
        self._subscribers = 0
        self._bound: dict[Binding, Subscriber] = {}
        self._timer: Handle | None = None
        self._closed = False

    async def open(self) -> None:
        """Go on with what is in the store. Raises StorageError."""
        expires_at = self._bus.clock.time() + ABSENT_FOR
        for record in await self._runner.store.subscriptions():
            try:
                settings = read_subscriber(record.settings)
            except BusError as error:  # written by an engine with other bounds; its worker brings them again
                log.warning("settings of a subscription of topic %r are not valid: %s", record.topic, error.message)
                settings = QueueSettings()
            if record.expires_at is None:
                record = msgspec.structs.replace(record, expires_at=expires_at)
            self._add(record, settings)
        for queue in list(self._runner.unused):
            if (name := names.topic_of(queue)) is not None:
                jobs = self._runner.unused.pop(queue)
                self._topic(name).retained.extend(jobs)
                self._runner.room.add(len(jobs), sum(job.size for job in jobs))
        for topic in self._topics.values():
            self._settle(topic)
        self._expire_later()

    def close(self) -> None:
        """Nothing is handed out or forgotten any more, and subscriptions stay whatever happens to their bindings."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def subscriber_counts(self) -> dict[str, int]:
        """Return the number of bindings of each topic."""
        return {
            name: sum(len(each.bindings) for each in topic.subscribers.values()) for name, topic in self._topics.items()
        }

    def retained_count(self, name: str) -> int:
        """Messages that are kept for a topic until somebody subscribes."""
        topic = self._topics.get(name)
        return len(topic.retained) if topic is not None else 0

    # Subscribing

    def subscribe(self, binding: Binding, name: str, queue_config: bytes) -> None:
        """Let the function of a binding have the messages of a topic; ``queue_config`` is raw JSON.

        Several bindings of one function share its queue, and the settings of the newest one hold. Raises BusError
        ``trigger_registration_failed`` or ``limit_exceeded``.
        """
        settings = read_subscriber(queue_config)
        record = Subscription(
            names.subscription(name, binding.function_id, binding.namespace),
            name,
            binding.function_id,
            binding.namespace,
            queue_config,
        )
        subscriber = self._topics[name].subscribers.get(record.queue) if name in self._topics else None
        if subscriber is None or subscriber.record != record:
            if subscriber is None:
                if self._subscribers >= MAX_TOPICS or (name not in self._topics and len(self._topics) >= MAX_TOPICS):
                    raise BusError(
                        "limit_exceeded", f"there are {MAX_TOPICS} topics or subscriptions, the most allowed"
                    )
                subscriber = self._add(record, settings)
            subscriber.record = record
            self._save(record)
        subscriber.bindings.append(binding)
        subscriber.full = False
        self._bound[binding] = subscriber
        topic = self._topics[name]
        self._settle(topic)
        subscriber.consumer.use(settings, active=not topic.retaining)

    def unsubscribe(self, binding: Binding) -> None:
        """Take back :meth:`subscribe`; the function keeps its queue for a while."""
        subscriber = self._bound.pop(binding, None)
        if subscriber is None:
            return
        subscriber.bindings.remove(binding)
        if subscriber.bindings:
            return
        subscriber.consumer.use(subscriber.consumer.settings, active=False)
        if not self._closed:
            clock = self._bus.clock
            stays_connected = binding.connection is None or not binding.connection.closed
            brief = stays_connected and clock.monotonic() - subscriber.since < BRIEF
            expires_at = clock.time() + (BRIEF_FOR if brief else ABSENT_FOR)
            subscriber.record = msgspec.structs.replace(subscriber.record, expires_at=expires_at)
            self._save(subscriber.record)

    def _topic(self, name: str) -> Topic:
        return self._topics.setdefault(name, Topic())

    def _add(self, record: Subscription, settings: QueueSettings) -> Subscriber:
        consumer = self._runner.open(record.queue, settings, lambda job: self._run(subscriber, job))
        subscriber = Subscriber(record, consumer, self._bus.clock.monotonic())
        self._topic(record.topic).subscribers[record.queue] = subscriber
        self._subscribers += 1
        return subscriber

    def _save(self, record: Subscription) -> None:
        # The store writes in the order of these calls, so this comes before whatever is published from now on.
        self._bus.spawn(self._runner.complete(self._runner.store.subscribe(record)))

    def _settle(self, topic: Topic) -> None:
        """Let a topic that has subscribers no longer keep messages, now or once the kept ones are handed out."""
        if not topic.subscribers or not topic.retaining or topic.gathering:
            return
        if topic.retained or topic.lock.locked():
            topic.gathering = True
            self._bus.clock.machine.call_later(GATHERING, self._start_handing_out, topic)
            return
        topic.retaining = False
        for each in topic.subscribers.values():
            each.consumer.use(each.consumer.settings, active=bool(each.bindings))

    # Publishing

    async def publish(
        self,
        name: str,
        data: bytes,
        *,
        traceparent: str | None = None,
        baggage: str | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Publish a message, which is raw JSON; return a receipt once it is durable in the queue of every subscriber.

        With a key that the topic has had within 24 hours nothing is published and the first receipt is returned.
        Raises BusError: ``topic_not_set``, ``limit_exceeded``, ``enqueue_error``, ``queue_full`` (then no subscriber
        gets it), or a StorageError.
        """
        if not name.strip():
            raise BusError("topic_not_set", "topic is empty: name the topic to publish to")
        if len(name) > MAX_TOPIC_LENGTH:
            raise BusError("limit_exceeded", f"the name of a topic has at most {MAX_TOPIC_LENGTH} characters")
        check_key(idempotency_key, "idempotency_key")
        now = self._bus.clock.time()
        message = Job(
            queue=names.retained(name),
            id=new_receipt(),
            function_id="",
            data=data,
            traceparent=traceparent,
            baggage=baggage,
            created_at=now,
            due_at=now,
            max_attempts=1,
            idempotency_key=idempotency_key,
        )
        keys = [Key(f"key {message.queue}", idempotency_key, now + KEY_LIFETIME)] if idempotency_key is not None else []
        return await self._runner.complete(self._publish(name, message, keys))

    async def _publish(self, name: str, message: Job, keys: Sequence[Key]) -> str:
        if name not in self._topics and len(self._topics) >= MAX_TOPICS:
            raise BusError("limit_exceeded", f"there are {MAX_TOPICS} topics already, the most allowed")
        topic = self._topic(name)
        if not topic.retaining and not topic.publishing:
            return await self._distribute(topic, message, keys)
        topic.publishing += 1
        try:
            async with topic.lock:
                if topic.retaining:
                    return await self._retain(topic, message, keys)
                return await self._distribute(topic, message, keys)
        finally:
            topic.publishing -= 1

    async def _distribute(self, topic: Topic, message: Job, keys: Sequence[Key]) -> str:
        return await self._runner.put(self._copies(topic, message), receipt=message.id, keys=keys)

    def _copies(self, topic: Topic, message: Job) -> list[Job]:
        """The jobs that a message makes, one for each subscriber."""
        copies = []
        for each in topic.subscribers.values():
            record, settings = each.record, each.consumer.settings
            if not each.bindings and each.consumer.depth >= MAX_ABSENT:
                if not each.full:
                    log.warning(
                        "messages are left out for an absent subscriber: %d wait for it already",
                        MAX_ABSENT,
                        extra={"topic": record.topic, "function_id": record.function_id},
                    )
                each.full = True
                continue
            copy = msgspec.structs.replace(
                message,
                queue=record.queue,
                id=new_receipt(),
                function_id=record.function_id,
                namespace=record.namespace,
                due_at=message.created_at + settings.delay,
                max_attempts=settings.attempts,
                worker_version=self._bus.version_of(record.function_id, record.namespace),
            )
            copies.append(copy)
        return copies

    async def _retain(self, topic: Topic, message: Job, keys: Sequence[Key]) -> str:
        room = self._runner.room
        room.take(message.size)
        kept: Sequence[Waiting] = ()
        try:
            oldest = [topic.retained[0]] if len(topic.retained) >= MAX_RETAINED else []
            added = await self._runner.store.add(
                [message],
                receipt=message.id,
                now=self._bus.clock.time(),
                keys=keys,
                remove=[each.seq for each in oldest],
            )
            kept = added.waiting
        finally:
            if not kept:
                room.give_back(message.size)
        if kept and oldest:
            room.give_back(topic.retained.popleft().size)
        topic.retained.extend(kept)
        return added.receipt

    # Handing out what was kept

    def _start_handing_out(self, topic: Topic) -> None:
        if not self._closed:
            self._bus.spawn(self._runner.complete(self._hand_out(topic)))

    async def _hand_out(self, topic: Topic) -> None:
        try:
            async with topic.lock:
                while topic.retained:
                    await self._hand_out_some(topic)
        except StorageError:
            log.exception("kept messages could not be handed out to their first subscribers; tried again")
        topic.gathering = False
        if not self._closed:
            self._settle(topic)

    async def _hand_out_some(self, topic: Topic) -> None:
        batch = [topic.retained[number] for number in range(min(COPY_BATCH, len(topic.retained)))]
        jobs: list[Job] = []
        for each in batch:
            message = await self._runner.store.get(each.seq)
            if message is not None:
                jobs += self._copies(topic, message)
        added = await self._runner.store.add(
            jobs, receipt="", now=self._bus.clock.time(), remove=[each.seq for each in batch]
        )
        for each in added.waiting:
            self._runner.take_over(each.queue, [each])
        for each in batch:
            self._runner.room.give_back(each.size)
            topic.retained.popleft()

    # Running

    async def _run(self, subscriber: Subscriber, job: Job) -> None:
        if not subscriber.bindings:
            raise NotNow  # gone since this job was started
        subscriber.turn += 1
        binding = subscriber.bindings[subscriber.turn % len(subscriber.bindings)]
        about = {"function_id": job.function_id, "job_id": job.id}
        name = f"queue {subscriber.record.topic}"
        with Span(self._bus, name, job.traceparent, "consumer", root=True, **about) as span:
            if not await self._firing.allows(binding, job.data, span.traceparent, job.baggage):
                return
            await self._bus.call(
                job.function_id,
                job.data,
                namespace=job.namespace,
                metadata=binding.metadata,
                traceparent=span.traceparent,
                baggage=job.baggage,
                timeout=subscriber.consumer.settings.timeout,
                source=name,
            )

    # Forgetting

    def _expire_later(self) -> None:
        self._timer = self._bus.clock.call_idly(EXPIRY_INTERVAL, lambda: self._bus.spawn(self._expire()))

    async def _expire(self) -> None:
        try:
            if not self._closed:
                await self._runner.complete(self._forget_expired())
        except StorageError:
            log.exception("what has expired could not be removed; tried again later")
        if not self._closed:
            self._expire_later()

    async def _forget_expired(self) -> None:
        now = self._bus.clock.time()
        await self._runner.store.expire_keys(now)
        for name, topic in list(self._topics.items()):
            for queue, subscriber in list(topic.subscribers.items()):
                expires_at = subscriber.record.expires_at
                if expires_at is not None and expires_at <= now and not subscriber.consumer.busy:
                    await self._forget(topic, queue)
            async with topic.lock:
                while topic.retained and topic.retained[0].created_at + RETAINED_FOR <= now:
                    await self._runner.store.done(topic.retained[0].seq)
                    self._runner.room.give_back(topic.retained.popleft().size)
            if not topic.subscribers:
                topic.retaining = True
                if not topic.retained and not topic.lock.locked():
                    del self._topics[name]

    async def _forget(self, topic: Topic, queue: str) -> None:
        record = topic.subscribers.pop(queue).record
        self._subscribers -= 1
        self._runner.drop(queue)
        lost = await self._runner.store.forget(queue)
        if lost:
            log.warning(
                "%d messages of a subscriber that has not come back are dropped",
                lost,
                extra={"topic": record.topic, "function_id": record.function_id},
            )
