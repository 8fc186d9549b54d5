"""Named configuration entries: ``configuration::*`` and the trigger type ``configuration``."""

from agentos_engine.configuration.module import Configuration

__all__ = ["Configuration"]
