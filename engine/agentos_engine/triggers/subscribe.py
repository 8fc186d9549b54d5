"""Trigger type ``subscribe``: functions that get the messages of a topic while they are there.

Config: ``topic``, ``condition_function_id?``. The function gets the message itself, and the metadata of its binding.
Fire and forget: nothing is kept, answered or tried again; ``durable:subscriber`` is for what must not be lost.
"""

from typing import TYPE_CHECKING

import msgspec

from agentos_engine.bus.errors import BusError
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Binding

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

TYPE = "subscribe"


class SubscribeConfig(msgspec.Struct):
    """Config of a binding."""

    topic: str


class SubscribeTrigger:
    """Serves the type. A message costs by the bindings of its topic, not by those there are."""

    def __init__(self, bus: "Bus") -> None:
        self._firing = Firing(bus)
        self._topics: dict[str, dict[Binding, None]] = {}
        self._bound: dict[Binding, str] = {}

    def bind(self, binding: Binding) -> None:
        """Subscribe a function. Raises BusError ``trigger_registration_failed`` when the config is refused."""
        try:
            config = msgspec.json.decode(binding.config or b"{}", type=SubscribeConfig)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError(
                "trigger_registration_failed", f"the config of a {TYPE} trigger needs a topic, a text: {error}"
            ) from error
        if not config.topic.strip():
            raise BusError("trigger_registration_failed", f"the config of a {TYPE} trigger needs a topic; it is empty")
        self.unbind(binding)
        self._bound[binding] = config.topic
        self._topics.setdefault(config.topic, {})[binding] = None

    def unbind(self, binding: Binding) -> None:
        """End the subscription of one binding; others of the topic stay."""
        topic = self._bound.pop(binding, None)
        if topic is None:
            return
        del self._topics[topic][binding]
        if not self._topics[topic]:
            del self._topics[topic]

    def publish(self, topic: str, message: bytes, traceparent: str | None, baggage: str | None) -> None:
        """Send a message, which is raw JSON, to all who subscribe to its topic now."""
        self._firing.start_all(self._topics.get(topic, ()), message, traceparent, baggage)
