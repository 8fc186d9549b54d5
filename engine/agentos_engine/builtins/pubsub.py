"""``publish``: messages to whoever subscribes to a topic at this moment."""

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import MISSING, Context, decode
from agentos_engine.triggers.subscribe import TYPE, SubscribeTrigger


class PubSub:
    """The module."""

    def __init__(self, *, bus: Bus) -> None:
        self._bus = bus
        self._trigger = SubscribeTrigger(bus)

    async def start(self) -> None:
        """Serve the function and the trigger type."""
        self._bus.functions.add("publish", self._publish, "Publishes a message to those who subscribe to its topic.")
        self._bus.triggers.serve(TYPE, self._trigger, "Gets the messages of a topic as they are published.")

    async def stop(self) -> None:
        """Serve them no longer; the registry keeps the bindings for the next start."""
        self._bus.triggers.unserve(TYPE)
        self._bus.functions.remove("publish")

    def _publish(self, context: Context, data: bytes) -> object:
        given = decode(context.function_id, data, _Publish)
        if not given.topic.strip():
            raise BusError("topic_not_set", "topic is empty: name the topic to publish to")
        self._trigger.publish(given.topic, bytes(given.data), context.traceparent, context.baggage)
        return MISSING


class _Publish(msgspec.Struct):
    topic: str
    data: msgspec.Raw = msgspec.Raw(b"null")
