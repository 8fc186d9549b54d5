"""kopf's part: the watch streams that feed the cache, and the admission server's handlers.

Only ``on.event`` handlers: kopf itself then writes nothing to the cluster. They put the object into the cache and tell the
controller; all decisions are made elsewhere.
"""

import logging
from typing import Any

import kopf

from .cache import CHILD_KINDS, CHILD_SELECTOR, Cache
from .controller import Controller
from .kinds import CLAIM, CONFIG_MAP, REALM, WORKER, Kind, key_of
from .webhook import Webhook

log = logging.getLogger(__name__)

WATCHED = (WORKER, REALM, CLAIM, *CHILD_KINDS, CONFIG_MAP)


def registry(cache: Cache, controller: Controller, webhook: Webhook | None) -> kopf.OperatorRegistry:
    """All handlers of the operator."""
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
        if webhook is not None:
            settings.admission.server = webhook.serve

    # Coroutines, here and in the webhook: kopf runs plain functions in threads, and the cache is the event loop's.
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        obj: Any = event["object"]
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
    return handlers


def _names(kind: Kind) -> tuple[str, str, str]:
    return kind.group, kind.version, kind.plural
