"""The parts of iii-sdk that the kit uses, imported without its dead weight, and with its log lines redacted."""

import logging
import sys

from agentos_contracts.redaction import RedactingFilter

# The SDK imports httpx, whose command line pulls in rich, pygments and click when these are installed: a third of all
# the CPU time that a start costs. httpx copes with the module being absent.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

from iii import (  # noqa: E402 (after the line above)
    InitOptions,
    InvocationError,
    RegistrationRejectedError,
    register_worker,
)

# They print the engine's address ("Connected to …"), which holds the worker's token, and requests and frames with it.
_FILTER = RedactingFilter()
for _name in (
    *(
        "iii.iii",
        "iii.channels",
        "iii.logger",
        "iii.observe",
        "iii.reporter",
        "iii.telemetry",
        "iii.telemetry_exporters",
    ),
    *("websockets.client", "httpx", "httpcore.connection", "httpcore.http11"),
):
    logging.getLogger(_name).addFilter(_FILTER)

__all__ = ["InitOptions", "InvocationError", "RegistrationRejectedError", "register_worker"]
