"""kopf's part: the watch streams that feed the cache, and the admission server's handlers.

Only ``on.event`` handlers: kopf itself then writes nothing to the cluster. They put the object into the cache and tell the
controller; all decisions are made elsewhere.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import kopf

from .cache import CHILD_KINDS, CHILD_SELECTOR, Cache
from .controller import Controller
from .kinds import CLAIM, CONFIG_MAP, REALM, WORKER, Kind, key_of
from .webhook import Webhook

log = logging.getLogger(__name__)

WATCHED = (WORKER, REALM, CLAIM, *CHILD_KINDS, CONFIG_MAP)


class Backoffs:
    """Seconds between the tries of a request, without an end: rights in a namespace may come back with the namespace."""

    def __iter__(self) -> Iterator[float]:
        yield from (1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0)
        yield from itertools.repeat(30.0)


def registry(
    cache: Cache, controller: Controller, webhook: Webhook | None, namespaces: Sequence[str] = ()
) -> kopf.OperatorRegistry:
    """All handlers of the operator; ``namespaces``: the only ones that it has rights in."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=handlers)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.watching.server_timeout = 300
        settings.watching.client_timeout = 310
        settings.watching.chunk_size = 500
        for kind in CHILD_KINDS:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = CHILD_SELECTOR
        # One of these is in every namespace, and none is a manifest.
        settings.watching.field_selectors["", "v1", "configmaps"] = "metadata.name!=kube-root-ca.crt"
        if namespaces:
            # Neither namespaces nor CRDs are watched then: both would take rights in the whole cluster.
            settings.scanning.disabled = True
            settings.networking.error_backoffs = Backoffs()
        if webhook is not None:
            settings.admission.server = webhook.serve

    # Coroutines, here and in the webhook: kopf runs plain functions in threads, and the cache is the event loop's.
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        obj: Any = event["object"]
        if not cache.wants(obj):
            return
        if obj["kind"] == CONFIG_MAP.kind:
            # Only that it changed matters; its data is read when a Worker needs it.
            controller.changed(obj, None)
        elif event["type"] == "DELETED":
            cache.drop(key_of(obj), obj["metadata"]["uid"])
            controller.deleted(obj)
        else:
            controller.changed(obj, cache.put(obj))

    for kind in WATCHED:
        kopf.on.event(*_names(kind), id=f"watch-{kind.plural}", registry=handlers)(seen)
    if webhook is not None:
        for kind in (WORKER, REALM):
            kopf.on.validate(
                *_names(kind), id=f"validate-{kind.plural}", registry=handlers, operations=["CREATE", "UPDATE"]
            )(webhook.review)
        kopf.on.validate(
            *_names(WORKER), id="validate-scale", registry=handlers, operations=["UPDATE"], subresource="scale"
        )(webhook.review_scale)
    return handlers


def _names(kind: Kind) -> tuple[str, str, str]:
    return kind.group, kind.version, kind.plural
