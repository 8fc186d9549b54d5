"""A worker's configuration, read from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import scope
from .errors import SettingsError

M = TypeVar("M", bound=BaseModel)


class KitSettings(BaseModel):
    """What every worker can be told (prefix ``AGENTOS_``)."""

    model_config = ConfigDict(frozen=True)

    max_in_flight: int = Field(default=100, ge=1, description="calls answered at once; more get OVERLOADED")
    drain_seconds: float = Field(default=20, ge=0, description="how long a stopping worker waits for the calls it has")


def load_settings(model: type[M], prefix: str, environ: Mapping[str, str] | None = None) -> M:
    """Reads `prefix` + the field's name in upper case for each field of `model`; blank counts as absent.

    The variables are `environ`, else those of the worker that this code runs for, else the process's. Raises
    SettingsError naming each variable that does not fit. Values are not repeated: they may be secrets.
    """
    worker = scope.current.get()
    source = environ if environ is not None else worker.environ if worker else os.environ
    values = {name: value for name in model.model_fields if (value := source.get(_variable(prefix, name), "").strip())}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [f"{_variable(prefix, str(item['loc'][0]))}: {item['msg']}" for item in error.errors()]
        raise SettingsError("; ".join(problems)) from None


def _variable(prefix: str, field: str) -> str:
    return f"{prefix}{field}".upper()
