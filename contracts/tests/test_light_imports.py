import subprocess
import sys

import pytest

HEAVY = ("pydantic", "cryptography", "prometheus_client", "ruamel", "semantic_version")


@pytest.mark.parametrize(
    "module",
    [
        "agentos_contracts",
        "agentos_contracts.patterns",
        "agentos_contracts.tokens",
        "agentos_contracts.redaction",
        "agentos_contracts.reasons",
    ],
)
def test_the_engine_can_import_this_module_without_heavy_packages(module):
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"
