"""An engine with its console, and the command for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from consoles import Command, Engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine with its console, for all tests of a module."""
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture
def agentos(engine: Engine, tmp_path: Path) -> Command:
    """The command, for that engine."""
    return Command(engine.console, tmp_path)
