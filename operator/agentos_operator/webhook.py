"""The validating admission webhook: the same findings as everywhere else, all at once, before anything is stored.

It refuses what is wrong in itself. What only clashes with others is admitted with a warning: a refusal would block GitOps
tools, which apply the new Worker before they prune the old one.
"""

import asyncio
import base64
import json
import logging
import re
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kopf
from agentos_contracts.assign import patterns_of
from agentos_contracts.dependencies import declared, shown_way, way_back
from agentos_contracts.findings import MAX_DEPTH, Finding, error, errors, too_deep
from agentos_contracts.findings import warnings as warnings_in
from agentos_contracts.patterns import Pattern
from agentos_contracts.quota import Usage, excesses, limits_of
from agentos_contracts.quota import refusal as refusal_of_quota
from agentos_contracts.scaling import REPLICAS_UNUSED
from agentos_contracts.validation import validate
from aiohttp import web

from .api import Api, ApiError
from .cache import Cache
from .certificates import Certificate
from .keys import webhook_certificate
from .kinds import CLAIM, REALM, VALIDATING_WEBHOOK, WORKER, Object
from .metrics import ADMISSIONS
from .plan.claims import holders
from .plan.realm import own_namespace
from .quotas import Quotas, quota_of
from .settings import Settings

log = logging.getLogger(__name__)

MAX_REVIEW = 4 << 20
"""Bytes; etcd's limit for one object is 1.5 MiB, and a review of an update holds two."""
ROTATION_CHECK = 3600.0
RECORD_RETRY = 5.0
PATH = "/validate"


class Webhook:
    """Serves HTTPS in the way that kopf asks of an admission server, and keeps the configuration's ``caBundle`` right."""

    def __init__(
        self, settings: Settings, api: Api, cache: Cache, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings, self._api, self._cache, self._now = settings, api, cache, now
        self._host = f"{settings.webhook_service}.{settings.namespace}.svc"
        self.serving = False

    async def serve(self, review: Any) -> AsyncIterator[Any]:
        """kopf's protocol for admission servers: yields once the server runs, then never again."""
        certificate = await self._certificate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load(context, certificate)

        async def handle(request: web.Request) -> web.Response:
            text, body = await request.read(), None
            try:
                body = json.loads(text)
                deep = too_deep(body)
            except ValueError as error:
                raise web.HTTPBadRequest(text="the body must be an AdmissionReview as JSON\n") from error
            except RecursionError:
                deep = True
            # kopf walks the object by recursion, so this has to be refused before it.
            return web.json_response(_too_deep(text) if deep else await review(body))

        app = web.Application(client_max_size=MAX_REVIEW)
        app.router.add_post(PATH, handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=self._settings.webhook_port, ssl_context=context).start()
            self.serving = True
            await self._publish(certificate)
            yield {"url": f"https://{self._host}{PATH}"}
            while True:
                await asyncio.sleep(ROTATION_CHECK)
                try:
                    certificate = await self._certificate()
                except (ApiError, OSError, TimeoutError) as error:
                    log.warning("the webhook's certificate could not be checked", extra={"error": str(error)})
                    continue
                # First it is trusted, then it is served.
                await self._publish(certificate)
                _load(context, certificate)
        finally:
            self.serving = False
            await runner.cleanup()

    async def _certificate(self) -> Certificate:
        return await webhook_certificate(self._api, self._settings.namespace, self._host, self._now())

    async def _publish(self, certificate: Certificate) -> None:
        """Tells the API server which authorities to trust. Retried until it works: without it the webhook is ignored."""
        bundle = base64.b64encode(certificate.authorities.encode()).decode()
        name = self._settings.webhook_configuration
        while name:
            try:
                configuration = await self._api.get(VALIDATING_WEBHOOK, None, name)
                hooks = configuration.get("webhooks", [])
                if all(hook["clientConfig"].get("caBundle") == bundle for hook in hooks):
                    return
                changed = [hook | {"clientConfig": hook["clientConfig"] | {"caBundle": bundle}} for hook in hooks]
                version = {"resourceVersion": configuration["metadata"]["resourceVersion"]}
                await self._api.patch(VALIDATING_WEBHOOK, None, name, {"metadata": version, "webhooks": changed})
            except (ApiError, OSError, TimeoutError) as error:
                log.warning(
                    "the webhook's caBundle could not be set", extra={"configuration": name, "error": str(error)}
                )
                await asyncio.sleep(RECORD_RETRY)
            else:
                log.info("the webhook's caBundle is set", extra={"configuration": name})

    async def review(self, body: kopf.Body, warnings: list[str], old: Any = None, **_: Any) -> None:
        """One admission review; raises AdmissionError with all errors, one a line.

        What does not touch the spec is let through: a stored mistake must neither hold up a deletion (whose finalizers go
        by updates) nor a label.
        """
        resource: Any = dict(body)
        if resource.get("metadata", {}).get("deletionTimestamp") or (old and old.get("spec") == resource.get("spec")):
            return
        kind, spec = str(resource.get("kind", "")), resource.get("spec")
        namespace = spec.get("namespace") if kind == REALM.kind and isinstance(spec, dict) else None
        if namespace is not None and not self._settings.watches(namespace):
            # Another operator's, perhaps of another version: not this one's to judge.
            warnings.append(self._unwatched())
            return
        findings = validate(resource)
        if kind == REALM.kind:
            findings += own_namespace(resource, self._settings.namespace)
        if kind == WORKER.kind and not errors(findings):
            findings += self.over_quota(resource, old)
        found = errors(findings)
        if found:
            ADMISSIONS.labels(kind, "refused").inc()
            raise kopf.AdmissionError(refusal(found), code=422)
        warnings += [str(finding) for finding in warnings_in(findings)]
        if kind == WORKER.kind:
            warnings += self.clashes(resource)
            warnings += self.cycle(resource)
        ADMISSIONS.labels(kind, "admitted").inc()

    def _unwatched(self) -> str:
        watched = ", ".join(self._settings.watch_namespaces)
        return (
            f"spec.namespace: the operator in namespace {self._settings.namespace} watches only {watched} and does nothing for "
            "this Realm; it works if another operator watches its namespace"
        )

    async def review_scale(self, name: str, namespace: str | None, warnings: list[str], **_: Any) -> None:
        """One review of a Worker's scale, as kubectl scale and autoscalers write it: a number that is not used is warned of."""
        worker = self._cache.get(WORKER, namespace or "", name)
        if worker is not None and worker["spec"].get("autoscaling"):
            warnings.append(f"spec.replicas: {REPLICAS_UNUSED}")

    def over_quota(self, worker: Object, old: Any = None) -> list[Finding]:
        """An error when a new Worker, or what one grows by, has no room in the Realm's quota beside what all others want."""
        metadata = worker.get("metadata", {})
        namespace = metadata.get("namespace", "")
        realm = self._cache.realm_of(namespace)
        if realm is None or not quota_of(realm):
            return []
        quotas = Quotas(self._cache)
        others = [each.wanted for each in quotas.applicants(namespace) if each.uid != metadata.get("uid")]
        has = quotas.wanted(dict(old)) if old else Usage()
        found = excesses(limits_of(quota_of(realm)), sum(others, has), quotas.wanted(worker) - has)
        return [error("spec", "QuotaExceeded", refusal_of_quota(realm["metadata"]["name"], found))] if found else []

    def clashes(self, worker: Object) -> list[str]:
        """Warnings for the patterns that another Worker holds now."""
        metadata = worker["metadata"]
        told = []
        claims = {claim["spec"]["segment"]: claim for claim in self._cache.all(CLAIM, metadata.get("namespace", ""))}
        for index, pattern in enumerate(patterns_of(worker)):
            for holder in holders(claims[pattern.segment]) if pattern.segment in claims else ():
                if holder.worker != metadata.get("name") and pattern.clashes(Pattern.parse(holder.pattern)):
                    how = "is" if pattern.text == holder.pattern else f"overlaps {holder.pattern}, which is"
                    what = (
                        "this Worker takes over as soon as its pods answer"
                        if holder.worker == worker["spec"].get("replaces")
                        else "this Worker waits, without a pod, and takes over by itself when that one is deleted"
                    )
                    told.append(f"spec.owns[{index}]: {pattern} {how} held by Worker {holder.worker}; {what}")
        return told

    def cycle(self, worker: Object) -> list[str]:
        """A warning when what the Worker depends on depends on it in turn, by what the resources say."""
        metadata, (name, needed) = worker["metadata"], declared(worker)
        if not needed:
            return []
        needs: dict[str, set[str]] = {}
        for other in self._cache.all(WORKER, metadata.get("namespace", "")):
            if other["metadata"]["name"] != metadata.get("name"):
                other_name, others = declared(other)
                needs.setdefault(other_name, set()).update(others)
        way = way_back(name, needs | {name: needed})
        if not way:
            return []
        return [
            f"dependencies: {shown_way(way)} is a cycle: none of them can start before the others; remove one of these"
        ]


def refusal(found: list[Finding]) -> str:
    """All errors of a resource as one message for ``kubectl apply``."""
    lines = [str(finding) for finding in found]
    return lines[0] if len(lines) == 1 else f"{len(lines)} errors:\n" + "\n".join(f"- {line}" for line in lines)


def _too_deep(text: bytes) -> Object:
    """The answer to a review of something too deep to look into; its uid is near the beginning of the text."""
    uid = re.search(rb'"uid"\s*:\s*"([0-9a-f-]{1,64})"', text[:4096])
    status = {"code": 422, "message": f"spec: is nested more than {MAX_DEPTH} levels deep; flatten it"}
    answer = {"uid": uid[1].decode() if uid else "", "allowed": False, "status": status}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    # ssl reads certificates from files only; these are gone as soon as they are read.
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        chain.write_text(certificate.certificate)
        key.touch(mode=0o600)
        key.write_text(certificate.key)
        context.load_cert_chain(chain, key)
