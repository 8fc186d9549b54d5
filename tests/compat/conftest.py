"""Fixtures of the compatibility tests: real engines, and workers on unmodified SDKs. ``docs/compatibility.md`` is made from these tests.

A module may say which config file of ``configs`` its engine runs with (``CONFIG``), with which environment
(``ENVIRONMENT``), whether its shared workers have telemetry (``TELEMETRY``), whether one is on the Rust SDK (``WITH_RUST``),
whether it is run with identity, without it, or both (``IDENTITIES``), and whether with TLS (``TLS``).
``with_config`` gives one test another file.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio
from agentos_contracts.tokens import SigningKey

from tests.certificates import Authority
from tests.compat import sdks
from tests.compat.agents import Agent, Bench
from tests.compat.engine import Engine

BOTH = ("open", "tokens")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    identities = getattr(metafunc.module, "IDENTITIES", BOTH)
    chosen = {name for mark in metafunc.definition.iter_markers("parametrize") for name in mark.args[:1]}
    for name, scope in (("mesh", "module"), ("bench", "function")):
        if name in metafunc.fixturenames and name not in chosen:
            metafunc.parametrize(name, identities, indirect=True, scope=scope)


async def _bench(request: pytest.FixtureRequest, folder: Path) -> Bench:
    module = request.module
    identity, config = (
        request.param if isinstance(request.param, tuple) else (request.param, getattr(module, "CONFIG", None))
    )
    key = SigningKey.generate() if identity == "tokens" else None
    guarded = free_port()
    environment = {"GUARDED_PORT": str(guarded), "CONFIGURATION_DIRECTORY": str(folder / "configuration")}
    environment |= getattr(module, "ENVIRONMENT", {})
    made = Bench(Engine(folder, key, config, environment), folder, guarded)
    if getattr(module, "TLS", False):
        made.engine.secure(Authority(folder))
    await made.engine.start()
    return made


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest_asyncio.fixture(loop_scope="module")
async def bench(request, tmp_path):
    """A fresh engine."""
    made = await _bench(request, tmp_path)
    try:
        yield made
    finally:
        await made.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(request, tmp_path_factory):
    """An engine with one worker of each SDK, shared by the tests of a module."""
    made = await _bench(request, tmp_path_factory.mktemp("mesh"))
    wanted = [*sdks.SDKS, sdks.RUST] if getattr(request.module, "WITH_RUST", False) and sdks.has_cargo else sdks.SDKS
    environment = {"OTEL_ENABLED": "true" if getattr(request.module, "TELEMETRY", False) else "false"}
    try:
        await asyncio.gather(*(made.start(sdk, environment=environment) for sdk in wanted))
        await made.answering(*(sdks.PREFIXES[sdk] for sdk in wanted))
        yield made
    finally:
        await made.end()


@pytest.fixture
def agents(mesh) -> dict[str, Agent]:
    """The shared workers by SDK."""
    return {agent.sdk: agent for agent in mesh.agents[: len(sdks.PREFIXES)] if agent.prefix == sdks.PREFIXES[agent.sdk]}


_names = iter(range(1_000_000))


@pytest.fixture
def unique() -> Callable[[str], str]:
    """``unique("scope")``: a name that no other test uses."""
    return lambda name: f"{name}{next(_names)}"
