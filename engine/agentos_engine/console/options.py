"""What the console is told by whoever starts the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """``always``: record calls all the time, not only while somebody looks; ``payloads``: with what goes in and out.

    ``fleet`` returns the workers that are supervised, each as what stands in ``GET /api/fleet`` of it; None: nobody
    supervises any.
    """

    always: bool = False
    payloads: bool = False
    fleet: Callable[[], Sequence[Any]] | None = None
