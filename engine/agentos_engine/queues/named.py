"""Queues with a name, from the config: calls that wait there for their turn."""

from collections.abc import Mapping

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.spans import Span
from agentos_engine.queues import names
from agentos_engine.queues.runner import KEY_LIFETIME, Runner, check_key, new_receipt
from agentos_engine.queues.settings import QueueSettings
from agentos_engine.storage.queues import Job, Key

MAX_PAYLOAD = 16 << 20
"""Bytes of the data, and likewise of the metadata, of a job."""


class NamedQueues:
    """Serves ``enqueue``. A job runs by calling its function; the attempt has failed when the call has."""

    def __init__(self, bus: Bus, runner: Runner, settings: Mapping[str, QueueSettings]) -> None:
        self._bus = bus
        self._runner = runner
        self._settings = settings

    def open(self) -> None:
        """Begin to run the jobs that wait."""
        for name, settings in self._settings.items():
            self._runner.open(names.named(name), settings, self._run).use(settings, active=True)

    async def enqueue(
        self,
        queue: str,
        function_id: str,
        data: bytes,
        *,
        namespace: str = "default",
        metadata: bytes | None = None,
        traceparent: str | None = None,
        baggage: str | None = None,
        idempotency_key: str | None = None,
        receipt_id: str | None = None,
    ) -> str:
        """Put a call into a queue and return its receipt once it is durable; ``data``, ``metadata`` are raw JSON.

        With a key, or a receipt of the caller's own, that the queue has had within 24 hours, the job is not put in a
        second time and the first receipt is returned. Raises BusError: ``enqueue_error``, ``queue_full``, or a
        StorageError.
        """
        settings = self._settings.get(queue)
        if settings is None:
            raise BusError("enqueue_error", f"Queue '{queue[:200]}' not found: it is not in queue_configs of iii-queue")
        if not function_id:
            raise BusError("enqueue_error", "function_id is missing: the function that is to be called")
        if max(len(data), len(metadata or b"")) > MAX_PAYLOAD:
            raise BusError("enqueue_error", f"a job carries at most {MAX_PAYLOAD} bytes; store more elsewhere")
        check_key(idempotency_key, "the idempotency key")
        check_key(receipt_id, "messageReceiptId")
        group, priority = settings.place(data)
        now = self._bus.clock.time()
        receipt = receipt_id or new_receipt()
        job = Job(
            queue=names.named(queue),
            id=receipt,
            function_id=function_id,
            data=data,
            namespace=namespace,
            metadata=metadata,
            traceparent=traceparent,
            baggage=baggage,
            created_at=now,
            due_at=now + settings.delay,
            max_attempts=settings.attempts,
            group=group,
            priority=priority,
            idempotency_key=idempotency_key,
            worker_version=self._bus.version_of(function_id, namespace),
        )
        keys = [
            Key(f"{kind} {job.queue}", key, now + KEY_LIFETIME)
            for kind, key in (("key", idempotency_key), ("receipt", receipt_id))
            if key is not None
        ]
        return await self._runner.complete(self._runner.put([job], receipt=receipt, keys=keys))

    async def _run(self, job: Job) -> None:
        queue = names.label(job.queue)
        about = {"function_id": job.function_id, "job_id": job.id}
        with Span(self._bus, f"fn_queue {queue}", job.traceparent, "consumer", root=True, **about) as span:
            await self._bus.call(
                job.function_id,
                job.data,
                namespace=job.namespace,
                metadata=job.metadata,
                traceparent=span.traceparent,
                baggage=job.baggage,
                timeout=self._settings[queue].timeout,
                source=f"queue {queue}",
            )
