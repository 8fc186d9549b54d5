"""Compiled modules, kept within a number and a size; the least recently used ones go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    @property
    def compiled_bytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


class ModuleCache(Generic[T]):
    """A thread-safe map from module id to module, bounded by count and by total `compiled_bytes`."""

    def __init__(self, max_modules: int, max_bytes: int) -> None:
        self._max_modules = max_modules
        self._max_bytes = max_bytes
        self._modules: OrderedDict[str, T] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, module_id: str) -> T | None:
        """The module, which counts as used now; None when it is unknown."""
        with self._lock:
            module = self._modules.get(module_id)
            if module is not None:
                self._modules.move_to_end(module_id)
            return module

    def put(self, module_id: str, module: T) -> bool:
        """Keeps the module in place of an earlier one of that id; False, and nothing changed, when it is too big."""
        if module.compiled_bytes > self._max_bytes:
            return False
        with self._lock:
            earlier = self._modules.pop(module_id, None)
            if earlier is not None:
                self._bytes -= earlier.compiled_bytes
            self._modules[module_id] = module
            self._bytes += module.compiled_bytes
            while len(self._modules) > self._max_modules or self._bytes > self._max_bytes:
                _, dropped = self._modules.popitem(last=False)
                self._bytes -= dropped.compiled_bytes
            return True

    def ids(self) -> list[str]:
        """All ids, in alphabetical order."""
        with self._lock:
            return sorted(self._modules)
