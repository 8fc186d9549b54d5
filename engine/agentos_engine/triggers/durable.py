"""Trigger type ``durable:subscriber``: functions that get every message of a topic, at least once.

Config: ``topic``, ``queue_config?`` (retries and order), ``condition_function_id?``. The function gets the message
itself. A message that the condition refuses counts as done.
"""

import msgspec

from agentos_engine.bus.errors import BusError
from agentos_engine.queues.topics import MAX_TOPIC_LENGTH, Topics
from agentos_engine.triggers.registry import Binding

TYPE = "durable:subscriber"


class DurableConfig(msgspec.Struct):
    """Config of a binding. ``queue`` is not a key of it, but often given where ``topic`` is meant."""

    topic: str | None = None
    queue: object = None
    queue_config: msgspec.Raw = msgspec.Raw(b"null")


class DurableTrigger:
    """Serves the type."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    def bind(self, binding: Binding) -> None:
        """Subscribe a function. Raises BusError ``trigger_registration_failed`` when the config is refused."""
        try:
            config = msgspec.json.decode(binding.config or b"{}", type=DurableConfig)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError("trigger_registration_failed", f"the config of a {TYPE} is not valid: {error}") from error
        if config.topic is None or not config.topic.strip():
            hint = "; it has queue, which is not a key of it" if config.queue is not None else ""
            raise BusError("trigger_registration_failed", f"the config of a {TYPE} needs a topic{hint}")
        if len(config.topic) > MAX_TOPIC_LENGTH:
            raise BusError("trigger_registration_failed", f"a topic has at most {MAX_TOPIC_LENGTH} characters")
        self._topics.subscribe(binding, config.topic, bytes(config.queue_config))

    def unbind(self, binding: Binding) -> None:
        """End a subscription of this binding."""
        self._topics.unsubscribe(binding)
