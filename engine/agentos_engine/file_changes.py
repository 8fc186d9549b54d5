"""Files that others replace while the engine runs: its config, certificates, keys; mounted Secrets and ConfigMaps."""

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from agentos_engine.clock import Clock

INTERVAL = 0.5
"""Seconds between two looks. A change counts when it is the same for two looks: a file may be half written."""

_Signature = tuple[int, ...] | None


class Followed:
    """Some files. Make it before they are read for the first time, so that no change in between is missed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._used = self._look()

    async def follow(self, clock: Clock, on_change: Callable[[], object]) -> None:
        """Call ``on_change``, and await what it returns if need be, after each change; runs until it is cancelled.

        Follows files through replacement and through symbolic links, as those of a mounted Secret.
        """
        seen = self._look()
        while True:
            await clock.machine.sleep(INTERVAL)
            before, seen = seen, self._look()
            if seen != self._used and seen == before:
                self._used = seen
                result = on_change()
                if isinstance(result, Awaitable):
                    await result

    def _look(self) -> list[_Signature]:
        return [_signature(each) for each in self._paths]


def _signature(path: Path) -> _Signature:
    """What tells one state of a file from another; None when there is none. The change time cannot be set back."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
