"""The process that is fuzzed: ``python -m tests.fuzz.instrumented TARGET LIBFUZZER-FLAGS… FOLDERS…``."""

import logging
import sys

import atheris

with atheris.instrument_imports(include=["agentos_engine", "agentos_contracts", "tests.fuzz"]):
    from tests.fuzz.targets import TARGETS

logging.disable(logging.CRITICAL)  # a fuzzed bus warns thousands of times a second
target = TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, target)
atheris.Fuzz()
