"""Leadership by a ``coordination.k8s.io`` Lease: a small loop of our own.

The client library's elector was measured to write on after its lease had ended (reference: operator notes of the project),
so: requests end after 3 s, a monotonic deadline is asked before every write, and losing the lease ends the process.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from .api import AlreadyExists, Api, ApiError, Conflict, NotFound
from .kinds import LEASE, Object

log = logging.getLogger(__name__)

DURATION = 15
"""Seconds for which a lease holds without renewal; another replica may take it after that."""
RENEW = 2.0
MARGIN = 5.0
"""Seconds before the end at which this process already stops writing: longer than one request (3 s)."""


class LeaseLost(Exception):
    """This process is not the leader any more and has to end."""


class Leader:
    """One candidate. ``is_leading`` is the fence for every write."""

    def __init__(self, api: Api, namespace: str, identity: str, name: str = "agentos-operator") -> None:
        self._api, self._namespace, self._identity, self._name = api, namespace, identity, name
        self._deadline = 0.0
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self.elected = asyncio.Event()

    @property
    def is_leading(self) -> bool:
        return time.monotonic() < self._deadline - MARGIN

    async def run(self) -> None:
        """Acquires, then renews for ever; raises LeaseLost when it cannot."""
        while True:
            started = time.monotonic()
            try:
                async with asyncio.timeout(2 * DURATION / 3):
                    held = await self._acquire_or_renew()
            except (TimeoutError, ApiError, OSError) as error:
                log.warning("the lease could not be renewed", extra={"error": str(error)})
                held = False
            if held:
                self._deadline = started + DURATION
                if not self.elected.is_set():
                    log.info("leading", extra={"identity": self._identity})
                    self.elected.set()
            elif self.elected.is_set() and not self.is_leading:
                raise LeaseLost(self._identity)
            await asyncio.sleep(RENEW)

    async def release(self) -> None:
        """Gives the lease up at a clean end, so that the next replica need not wait."""
        if not self.is_leading:
            return
        self._deadline = 0.0
        try:
            lease = await self._api.get(LEASE, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._write(self._api.replace, lease)
        except (TimeoutError, ApiError, OSError) as error:
            log.warning("the lease could not be given up", extra={"error": str(error)})

    async def _acquire_or_renew(self) -> bool:
        try:
            lease = await self._api.get(LEASE, self._namespace, self._name)
        except NotFound:
            return await self._write(
                self._api.create, self._claimed({"metadata": {"name": self._name, "namespace": self._namespace}}, 0)
            )
        spec = lease.get("spec", {})
        holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        if holder and holder != self._identity:
            # Whoever else is named there leads: this process must not write any more, whatever its clock says.
            self._deadline = 0.0
            # The holder's clock may be off, so what counts is how long *we* have seen the lease unchanged.
            if self._seen != (holder, renewed):
                self._seen, self._seen_at = (holder, renewed), time.monotonic()
            if time.monotonic() < self._seen_at + spec.get("leaseDurationSeconds", DURATION):
                return False
        transitions = spec.get("leaseTransitions", 0) + (holder != self._identity)
        return await self._write(self._api.replace, self._claimed(lease, transitions))

    def _claimed(self, lease: Object, transitions: int) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease.get("spec", {})
        acquired = before.get("acquireTime", now) if before.get("holderIdentity") == self._identity else now
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION,
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": lease["metadata"], "spec": spec}

    async def _write(self, write: Callable, lease: Object) -> bool:
        try:
            await write(LEASE, lease)
        except (Conflict, AlreadyExists):
            return False
        return True
