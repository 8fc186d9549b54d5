"""An engine with its console, and the command for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command
from consoles import Engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine with its console, for all tests of a module."""
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command in a folder of its own."""
    return Command(tmp_path)


@pytest.fixture
def agentos(engine: Engine, command: Command) -> Command:
    """The command, for the engine."""
    command.environment |= {"AGENTOS_CONSOLE_URL": engine.console, "COLUMNS": "200"}
    return command
