"""Many workers in one process: each with its own connection, environment and end.

What they share is the process: the working directory, ``os.environ`` (a worker's own variables are in its settings, see
`load_settings`), the log level, the modules of installed packages. A worker's file is imported in a thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol

from .kit import SettingsError, log
from .kit import scope as scopes
from .kit.errors import WorkerRefused
from .kit.instance import Instance
from .kit.scope import Scope
from .loading import Loaded, LoadError, folder_of, load

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Told what happens to a worker, from any thread: one ``started`` at most, then one ``failed`` or ``stopped``."""

    def __call__(
        self, event: Literal["started", "failed", "stopped"], name: str, error: Exception | None = None
    ) -> None: ...


class _Life:
    """One worker here, from the command to start it until it is gone.

    `instance` is there once the code is loaded; whoever sets `ending` brings the end about, all others let it be.
    """

    def __init__(self, name: str, target: str, scope: Scope) -> None:
        self.name = name
        self.target = target
        self.scope = scope
        self.loaded: Loaded | None = None
        self.instance: Instance | None = None
        self.ending = False
        self.gone = threading.Event()


class Host:
    """The workers of this process, by name. A worker that fails does not touch the others.

    `telemetry` permits the SDK's, of which there is one for the process.
    """

    def __init__(self, listener: Listener, *, telemetry: bool = False) -> None:
        self._listener = listener
        self._telemetry = telemetry
        self._lives: dict[str, _Life] = {}
        self._clean = True
        self._lock = threading.Lock()

    def start(self, target: str, name: str, environ: Mapping[str, str]) -> None:
        """Loads and connects a worker, in a thread. It registers as ``III_WORKER_NAME``, else as its code says."""
        life = _Life(name, target, Scope(environ.get("III_WORKER_NAME", "").strip() or name, environ))
        log.redaction.add(life.scope.url, life.scope.token)
        with self._lock:
            if name in self._lives:
                # No event: it would be taken for one of the worker that has this name.
                _log.error("there is already a worker %r in this process", name)
                return
            self._lives[name] = life
        _in_thread(lambda: self._run(life), f"{name}-start")

    def stop(self, name: str) -> None:
        """Lets a worker finish its calls and go, in a thread."""
        with self._lock:
            life = self._lives.get(name)
        if life is not None:
            _in_thread(lambda: self._end(life), f"{name}-stop")

    def drain(self) -> bool:
        """Stops all workers at the same time and returns when they are gone.

        Returns False when one of them, or one that went earlier, left threads behind.
        """
        with self._lock:
            lives = list(self._lives.values())
        for life in lives:
            _in_thread(lambda life=life: self._end(life), f"{life.name}-stop")
        for life in lives:
            life.gone.wait()
        return self._clean

    def _run(self, life: _Life) -> None:
        try:
            with self._attributed(life):
                life.loaded = loaded = load(life.target)
            if not life.scope.environ.get("III_WORKER_NAME", "").strip():
                life.scope = Scope(loaded.worker.name, life.scope.environ)
            with self._attributed(life):
                self._connect(life, loaded)
        except (LoadError, SettingsError, WorkerRefused) as error:
            self._fail(life, error)
        except Exception as error:
            if not life.ending:
                with scopes.entered(life.scope):
                    _log.exception("%s cannot start", life.scope.name)
            self._fail(life, WorkerRefused(f"{type(error).__name__}: {error}"))

    @contextmanager
    def _attributed(self, life: _Life) -> Iterator[None]:
        log.attribution.add(life, folder_of(life.target), life.scope.name)
        with scopes.entered(life.scope):
            yield

    def _connect(self, life: _Life, loaded: Loaded) -> None:
        instance = Instance(
            loaded.worker,
            life.scope,
            telemetry=self._telemetry,
            failed=lambda message: self._fail(life, WorkerRefused(message)),
        )
        with self._lock:
            if life.ending:
                loaded.unload()
                return
            life.instance = instance
        if instance.start():
            _log.info("serving %s", ", ".join(loaded.worker.functions))
            with self._lock:
                # Told while nobody can begin to end it, so that this is never the last that is heard of it.
                if not life.ending:
                    self._listener("started", life.name)

    def _fail(self, life: _Life, error: Exception) -> None:
        # In a thread: who tells of a failure may be what has to be stopped.
        _in_thread(lambda: self._end(life, error), f"{life.name}-fail")

    def _end(self, life: _Life, error: Exception | None = None) -> None:
        with self._lock:
            if life.ending:
                return
            life.ending = True
        drained = False
        try:
            if life.instance is not None:
                drained = life.instance.stop()
        except Exception:
            with scopes.entered(life.scope):
                _log.exception("%s did not stop cleanly", life.scope.name)
        log.attribution.remove(life)
        if life.instance is not None and life.loaded is not None:
            life.loaded.unload()
        with self._lock:
            self._clean = self._clean and drained
            self._lives.pop(life.name, None)
        with scopes.entered(life.scope):
            self._listener("failed" if error else "stopped", life.name, error)
        life.gone.set()


def _in_thread(job: Callable[[], None], name: str) -> None:
    threading.Thread(target=job, name=name, daemon=True).start()
