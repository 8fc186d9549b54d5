"""The ``agentos-operator`` command: ``run`` the operator, or print a ``token`` for the bus."""

import argparse
import asyncio
import logging
import sys
import time

import kopf
import uvloop
from agentos_contracts.redaction import log_uncaught, redacted
from agentos_contracts.tokens import Identity, Role, issue
from kopf._core.engines.peering import Identity as KopfIdentity
from prometheus_client import REGISTRY
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from . import health, key_ring, keys, watch
from .api import Api, FenceLost, until_reachable
from .cache import Cache
from .controller import Controller
from .lease import Leader, LeaseLost
from .metrics import LEADING, Resources
from .settings import Settings
from .webhook import Webhook

log = logging.getLogger("agentos_operator")


def main() -> None:
    """Entry point; exits with 1 when leadership is lost or a part of the operator ends unexpectedly."""
    parser = argparse.ArgumentParser(prog="agentos-operator", description="Reconciles AgentOS Workers and Realms.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the operator (settings come from the environment, see the chart)")
    token = commands.add_parser(
        "token", help="print a token with which a person's program may connect to a realm's engine"
    )
    token.add_argument("--realm", required=True)
    token.add_argument("--subject", default="host", help="who it is for; shown by engine::workers::list")
    arguments = parser.parse_args()
    try:
        settings = Settings.from_environment()
    except KeyError as error:
        parser.exit(2, f"agentos-operator: the environment variable {error.args[0]} is not set; the chart sets it\n")
    _log_json(settings.log_level)
    if arguments.command == "token":
        print(uvloop.run(_token(settings, arguments.realm, arguments.subject)))
        return
    try:
        uvloop.run(run(settings))
    except (LeaseLost, FenceLost) as error:
        log.error("not the leader any more; ending", extra={"error": str(error)})
        sys.exit(1)


class _Redacted(JsonFormatter):
    """As the library's, without secrets, wherever they stand: messages, fields and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _log_json(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Redacted(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            # kopf's records carry its settings, which are no text.
            reserved_attrs=[*RESERVED_ATTRS, "settings", "k8s_ref", "k8s_skip"],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kopf tells of every event at INFO; what matters is logged by the operator itself.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # At DEBUG these print requests and answers: paths with our token, and whole Secrets.
    for name in ("websockets", "kubernetes", "client", "aiohttp"):
        logging.getLogger(name).setLevel(logging.INFO)
    log_uncaught(log)


async def _token(settings: Settings, realm: str, subject: str) -> str:
    api = await Api.connect()
    try:
        key = await keys.signing_key(api, settings.namespace)
    finally:
        await api.close()
    return issue(key, Identity(realm, subject, subject, Role.HOST), int(time.time()))


async def run(settings: Settings) -> None:
    """The operator: watches, webhook and health on every replica, the controller on the leader. Ends on SIGTERM."""
    api, fenced = await Api.connect(), await Api.connect()
    leader = Leader(api, settings.namespace, settings.pod_name)
    fenced.fence = lambda: leader.is_leading
    namespaces = settings.watch_namespaces
    cache = Cache(namespaces)
    REGISTRY.register(Resources(cache))
    controller = Controller(
        settings, fenced, cache, await until_reachable(lambda: key_ring.read(api, settings.namespace))
    )
    webhook = Webhook(settings, api, cache) if settings.webhook_service else None

    def missing() -> str:
        if not cache.verified.is_set():
            return "waiting for the watches"
        return "" if webhook is None or webhook.serving else "waiting for the webhook"

    runner = await health.serve(settings.health_port, missing)
    handlers = watch.registry(cache, controller, webhook, namespaces)
    if namespaces:
        # kopf looks for the kinds once, when it starts.
        await until_reachable(api.served)

    async def lead() -> None:
        await leader.elected.wait()
        LEADING.set(1)
        await controller.run()

    # kopf ends by itself on SIGTERM, and cancels what was started after it; so it is what everything else hangs on.
    # It would ask the system for a user name otherwise, and a container's user has none.
    watching = asyncio.create_task(
        kopf.operator(
            registry=handlers,
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            identity=KopfIdentity(settings.pod_name),
        ),
        name="kopf",
    )
    parts = [
        asyncio.create_task(coroutine, name=name)
        for name, coroutine in (("lease", leader.run()), ("cache", cache.wait_verified(api)), ("controller", lead()))
    ]
    try:
        while not watching.done():
            done, _ = await asyncio.wait([watching, *parts], return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                if part is not watching and part.cancelled():
                    return
                part.result()
            parts = [part for part in parts if not part.done()]
    finally:
        for part in (*parts, watching):
            part.cancel()
        await asyncio.gather(*parts, watching, return_exceptions=True)
        await leader.release()
        await runner.cleanup()
        await api.close()
        await fenced.close()


if __name__ == "__main__":
    main()
