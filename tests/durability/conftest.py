import pytest

from tests.durability.disk import build
from tests.durability.engine import Process


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The library that is put between a process and the disk."""
    return build(tmp_path_factory.mktemp("disk"))


@pytest.fixture
async def processes(library, tmp_path):
    """Makes engine processes in folders of their own; all are killed at the end."""
    made = []

    def make(name: str = "engine", **options) -> Process:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Process(folder, library, **options))
        return made[-1]

    yield make
    for each in made:
        await each.kill()


@pytest.fixture
async def engine(processes):
    """An engine that listens."""
    engine = processes()
    await engine.start()
    return engine
