"""Errors that callers get from the engine itself."""

from collections.abc import Iterable


class BusError(Exception):
    """A call or registration that fails: a code for programs and a message for people.

    ``stacktrace`` is that of a worker's handler, when it sent one.
    """

    def __init__(self, code: str, message: str, stacktrace: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.stacktrace = stacktrace


class WorkerUnresponsive(BusError):
    """The only worker that has the function says nothing at present: the call was not made."""

    def __init__(self, function_id: str, seconds: float) -> None:
        super().__init__(
            "worker_unresponsive",
            f"Function {function_id}: its worker has not been heard of for {seconds:g} s and gets no calls until it is; "
            "is its event loop blocked?",
        )


class WorkerAsleep(WorkerUnresponsive):
    """The worker that has the function has no pods, on purpose: the call was not made."""

    def __init__(self, function_id: str, worker: str) -> None:
        BusError.__init__(
            self, "worker_asleep", f"Function {function_id}: its Worker {worker} has no pods at present; scale it up"
        )


def function_not_found(function_id: str, namespace: str = "default", elsewhere: Iterable[str] = ()) -> BusError:
    """No live worker has the function in this iii namespace; ``elsewhere``: the namespaces that do have it.

    Clients match the text, so it begins as that of the iii engine.
    """
    text = f"Function {function_id} not found in namespace {namespace}."
    if others := sorted(elsewhere):
        text += f" It is registered in: {', '.join(others)}."
    return BusError("function_not_found", text)


INVOCATION_STOPPED = BusError("invocation_stopped", "Invocation stopped: the worker that ran it has disconnected.")
"""What callers get when the connection of the callee ends before it answered."""

ENGINE_STOPPING = BusError("invocation_stopped", "Invocation stopped: the engine is restarting.")
"""What callers get whose calls are still open when the engine ends."""
