"""The config file: iii's ``config.yaml``, with the keys of this engine under ``agentos``."""

from agentos_engine.config_file.findings import ConfigError, Finding
from agentos_engine.config_file.reader import (
    AgentosOptions,
    Changes,
    EngineConfig,
    Entry,
    default_config,
    diff,
    parse,
    read_config_file,
)
from agentos_engine.config_file.watching import watch

__all__ = [
    "AgentosOptions",
    "Changes",
    "ConfigError",
    "EngineConfig",
    "Entry",
    "Finding",
    "default_config",
    "diff",
    "parse",
    "read_config_file",
    "watch",
]
