"""The parts of iii-sdk that the kit uses, imported without its dead weight."""

import sys

# The SDK imports httpx, whose command line pulls in rich, pygments and click when these are installed: a third of all
# the CPU time that a start costs. httpx copes with the module being absent.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

from iii import (  # noqa: E402 (after the line above)
    InitOptions,
    InvocationError,
    RegistrationRejectedError,
    register_worker,
)

__all__ = ["InitOptions", "InvocationError", "RegistrationRejectedError", "register_worker"]
