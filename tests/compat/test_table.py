"""Every check of the list is proved, and the page that says so is up to date."""

import subprocess
import sys

import pytest

from tests import compat_table

SCRIPT = """
import json
from tests import compat_table
found = compat_table.proved(compat_table.collect())
print(json.dumps([compat_table.gaps(found), compat_table.document(found)]))
"""


@pytest.fixture(scope="module")
def collected() -> tuple[list[str], str]:
    """What is missing, and the page as it should be; collected in a process of its own."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=compat_table.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_every_check_is_proved_on_the_sdks_that_it_speaks_of(collected):
    assert collected[0] == []


def test_the_page_is_up_to_date(collected):
    assert compat_table.PAGE.read_text() == collected[1], "run python -m tests.compat_table"


def test_a_check_without_a_test_is_found():
    found = {number: (set(compat_table.COLUMNS), True) for number in compat_table.CHECKS}
    assert compat_table.gaps(found) == []
    found["70"] = ({"raw", "py-0.11.6"}, True)
    del found["4"]
    found["99"] = ({"raw"}, False)
    told = "\n".join(compat_table.gaps(found))
    assert "check 99 is not in the list" in told
    assert "check 4 (" in told
    assert "is not proved with py-0.25.0, node-0.11.6, node-0.22.1" in told
