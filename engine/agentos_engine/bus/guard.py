"""What the listener that a worker came by allows it to do."""

from typing import Protocol

from agentos_engine.bus.connection import Connection
from agentos_engine.bus.registry import Registration
from agentos_engine.protocol.messages import Message


class Guard(Protocol):
    """Stands between one connection and the bus; without one a worker may do everything."""

    def receive(self, connection: Connection, message: Message, frame: bytes) -> bool:
        """Take a message over; False when the bus is to carry it out as it stands."""
        ...

    def call(self, connection: Connection, message: Message, invocation_id: str | None, namespace: str) -> None:
        """Carry out a call of the connection, or refuse it. Raises BusError."""
        ...

    def check_indirect(self, connection: Connection, function_id: str, namespace: str) -> None:
        """Raise BusError unless the engine may call a function for the connection: by a queue, by a trigger."""
        ...

    def sees(self, registration: Registration) -> bool:
        """True when the function may stand in a listing for this connection."""
        ...

    def sees_id(self, function_id: str) -> bool:
        """The same for one of the engine's own."""
        ...

    def sees_trigger_type(self, trigger_type: str) -> bool:
        """The same for a trigger type."""
        ...
