"""A person's connection to a realm's engine."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import ClientConnection, connect


class Bus:
    """A connection to the realm's engine."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count()

    def call(self, function_id: str, payload: Any) -> dict[str, Any]:
        """The answer: a message with ``result`` or ``error``."""
        number = f"call-{next(self._numbers)}"
        message = {"type": "invokefunction", "invocation_id": number, "function_id": function_id, "data": payload}
        self._socket.send(json.dumps(message))
        while (answer := json.loads(self._socket.recv(timeout=15))).get("invocation_id") != number:
            pass
        return answer

    def via(self, function_id: str, to: str, **payload: Any) -> str:
        """What goes wrong when a worker's function calls another; empty when nothing does."""
        answer = self.call(function_id, {"to": to, "payload": payload})
        return json.dumps(answer["error"]) if "error" in answer else answer["result"].get("error", "")


@contextlib.contextmanager
def connected(url: str) -> Iterator[Bus]:
    """A connection at this URL."""
    with connect(url, open_timeout=10, compression=None) as socket:
        yield Bus(socket)
