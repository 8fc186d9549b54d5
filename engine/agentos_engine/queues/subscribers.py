"""One topic and its subscribers, as they are in memory."""

import asyncio
from collections import deque

from agentos_engine.queues.consumer import Consumer
from agentos_engine.storage.queues import Subscription, Waiting
from agentos_engine.triggers.registry import Binding


class Subscriber:
    """One function of one topic."""

    def __init__(self, record: Subscription, consumer: Consumer, now: float) -> None:
        self.record = record
        self.consumer = consumer
        self.since = now
        """When it was first here; of the monotonic clock."""
        self.bindings: list[Binding] = []
        self.turn = 0
        """Picks the binding that gets the next job."""
        self.full = False
        """Messages are left out, and the log has said so."""


class Topic:
    """Its subscribers by queue, and the messages that are kept as long as there are none."""

    def __init__(self) -> None:
        self.subscribers: dict[str, Subscriber] = {}
        self.retaining = True
        """Messages are kept, not handed out: nobody has subscribed, or those kept are about to be handed out."""
        self.retained: deque[Waiting] = deque()
        self.lock = asyncio.Lock()
        """Held while messages are put among the kept ones, or are taken from them."""
        self.publishing = 0
        """Messages that wait for the lock or hold it; later ones must not overtake them."""
        self.gathering = False
