"""Errors that callers get from the engine itself."""


class BusError(Exception):
    """A call or registration that the engine refuses: a code for programs and a message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def function_not_found(function_id: str) -> BusError:
    """No live worker has the function. Clients match the text, so it is that of the iii engine."""
    return BusError("function_not_found", f"Function {function_id} not found in namespace default.")


INVOCATION_STOPPED = BusError("invocation_stopped", "Invocation stopped: the worker that ran it has disconnected.")
"""What callers get when the connection of the callee ends before it answered."""
