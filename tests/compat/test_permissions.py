"""Workers under grants: what an unmodified SDK makes of being held, parked, refused and revoked."""

import pytest
import pytest_asyncio

from tests.compat.agents import Bench
from tests.compat.engine import CallError, wait_for
from tests.compat.raw import RawWorker
from tests.compat.sdks import NEW, SDKS

pytestmark = pytest.mark.asyncio(loop_scope="module")
IDENTITIES = ("tokens",)


class Operator:
    """Says what the worker ``default/NAME`` may do."""

    def __init__(self, raw: RawWorker) -> None:
        self.raw = raw

    async def grant(self, name: str, owns=(), calls=None, **more) -> None:
        """Grant functions, and the route by which it is seen that the worker answers."""
        uid, owned = f"uid-of-default/{name}", [*owns, f"http GET /{name}/keyless"]
        grant = {"uid": uid, "worker": f"default/{name}", "owns": owned, "calls": calls, "state_scopes": None}
        await self.raw.call("engine::grants::apply", {"grants": [grant | more]})

    async def revoke(self, name: str) -> None:
        await self.raw.call("engine::grants::apply", {"removed": [f"uid-of-default/{name}"]})


@pytest_asyncio.fixture(loop_scope="module")
async def operator(mesh) -> Operator:
    return Operator(await mesh.connect(role="operator", subject="operator"))


async def start(mesh: Bench, sdk: str, name: str):
    """Start a worker whose token is a worker's; those of the mesh have a host's, which may do everything."""
    url = mesh.engine.url(f"default/{name}", role="worker", pod=f"pod-{name}")
    return await mesh.start(sdk, name, environment={"III_URL": url})


def words(sdk: str) -> str:
    return sdk.replace("-", "").replace(".", "")


@pytest.mark.parametrize("sdk", SDKS)
async def test_a_worker_that_starts_before_its_grant_loses_nothing(mesh, operator, sdk, unique):
    name = unique(f"early{words(sdk)}")
    agent = await start(mesh, sdk, name)
    await operator.grant(name, owns=[name])
    await mesh.answering(name)
    assert await agent.call("state::set", {"scope": name, "key": "k", "value": 1}) is not None


@pytest.mark.parametrize("sdk", SDKS)
async def test_a_refused_function_leaves_the_others_and_a_refused_call_says_what_to_add(mesh, operator, sdk, unique):
    name = unique(f"limited{words(sdk)}")
    await operator.grant(name, owns=[name], calls=["state::*", "engine::functions::list"])
    agent = await start(mesh, sdk, name)
    await mesh.answering(name)
    another = f"other-{name}::one"
    await agent.do("function", id=another, do="record")
    await agent.function(f"{name}::more")
    probe = operator.raw
    assert await probe.call("engine::functions::info", {"function_id": f"{name}::more"})
    with pytest.raises(CallError, match="not"):
        await probe.call(another, {})
    with pytest.raises(CallError, match=r'FORBIDDEN.*spec\.calls:   - "nobody::has"'):
        await agent.call("nobody::has", {})
    await operator.grant(name, owns=[name, another])
    assert await probe.call("engine::functions::info", {"function_id": another})
    with pytest.raises(CallError, match="not found"):
        await agent.call("nobody::has", {})


@pytest.mark.parametrize("sdk", NEW)
async def test_what_was_not_declared_is_parked_until_it_is_granted(mesh, operator, sdk, unique):
    name = unique(f"parked{words(sdk)}")
    await operator.grant(name, discover=True)
    agent = await start(mesh, sdk, name)
    await agent.function(f"{name}::late")
    listed = await operator.raw.call("engine::functions::list", {"prefix": name})
    assert listed["functions"] == []
    await operator.grant(name, owns=[f"{name}::late"], discover=True)

    async def served() -> bool:
        return (await operator.raw.call("engine::functions::list", {"prefix": name}))["functions"] != []

    await wait_for(served, "it is served")
    await operator.raw.call(f"{name}::late", {"x": 1})
    assert [each["x"] for each in await agent.saw(f"{name}::late")] == [1]


@pytest.mark.parametrize("sdk", NEW)
async def test_a_revoked_worker_is_sent_away_and_comes_back_with_a_new_grant(mesh, operator, sdk, unique):
    name = unique(f"revoked{words(sdk)}")
    await operator.grant(name, owns=[name])
    await start(mesh, sdk, name)
    await mesh.answering(name)
    await operator.revoke(name)

    async def gone() -> bool:
        return (await mesh.engine.http("GET", f"/{name}/keyless")).status == 404

    await wait_for(gone, "its route is gone")
    await operator.grant(name, owns=[name])
    await mesh.answering(name)
