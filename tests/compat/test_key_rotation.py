"""The operator's link and the engine, through a rotation of the signing key."""

import asyncio
import json

import websockets
from agentos_contracts.grants import Grant
from agentos_contracts.tokens import Identity, Role, SigningKey, issue
from agentos_engine.app import Engine
from agentos_engine.config import read_settings
from agentos_operator.bus import Address, Link
from agentos_operator.grants import GrantTable

from tests.waiting import until

REALM, UID = "local", "w-uid"


def token(key: SigningKey, role: Role = Role.WORKER) -> str:
    return issue(key, Identity(REALM, "team/w", UID, role), issued_at=1)


async def test_nobody_is_cut_off_before_the_end_and_who_has_the_old_key_is_then():
    old, new = SigningKey.generate(), SigningKey.generate()
    ports = ("--port", "0", "--http-port", "0", "--stream-port", "0", "--admin-port", "0")
    engine = Engine(read_settings([*ports, "--realm", REALM, "--verify-keys", old.verify_key], {}))
    url = f"ws://127.0.0.1:{(await engine.start()).workers}/w"

    def address(*keys: SigningKey) -> Address:
        urls = tuple(f"{url}/{token(key, Role.OPERATOR)}/op" for key in keys)
        return Address(urls, tuple(key.verify_key for key in keys), tuple(key.key_id for key in keys))

    async def first_frame(key: SigningKey) -> str:
        async with websockets.connect(f"{url}/{token(key)}/pod") as socket:
            return json.loads(await asyncio.wait_for(socket.recv(), 10))["type"]

    grants = GrantTable()
    grants.want({UID: Grant(UID, "team/w")})
    link = Link(address(old), lambda _: None, grants)
    link.start()
    try:
        await until(lambda: link.up and link.key_ids == (old.key_id,))
        worker = await websockets.connect(f"{url}/{token(old)}/pod")
        await until(lambda: [each.key_id for each in link.of(UID)] == [old.key_id])
        assert await first_frame(new) == "error"
        link.use(address(new, old))
        await until(lambda: link.up and link.key_ids == (new.key_id, old.key_id))
        assert [await first_frame(key) for key in (old, new)] == ["workerregistered", "workerregistered"]
        await until(
            lambda: (
                {c.peer.key_id for c in engine.bus.connections.values() if c.peer.role == "operator"} == {new.key_id}
            )
        )
        await until(lambda: link.up and [each.key_id for each in link.of(UID)] == [old.key_id])
        link.use(address(new))
        await asyncio.wait_for(worker.wait_closed(), 10)
        await until(lambda: link.key_ids == (new.key_id,))
        assert [await first_frame(key) for key in (old, new)] == ["error", "workerregistered"]
    finally:
        await link.stop()
        await engine.stop()
