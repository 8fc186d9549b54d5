"""How tests are spread over processes, of which ``make test`` uses two: by file, and what shares a thing in one."""

from typing import Any

import pytest

SECOND_CLUSTER = (
    "tests/e2e/test_ownership_races.py",
    "tests/e2e/test_worker_reach.py",
    "tests/e2e/test_network_policy.py",
    "tests/e2e/test_replaces.py",
    "tests/e2e/test_drain.py",
    "tests/e2e/test_scaling.py",
    "tests/e2e/test_template.py",
    "tests/e2e/test_status.py",
    "tests/e2e/test_new_worker.py",
)
"""End-to-end tests for a cluster of their own beside the other's, that of the other process; see tests/e2e/conftest.py."""
SHARING = {
    **dict.fromkeys(SECOND_CLUSTER, "second cluster"),
    "tests/cluster/": "cluster",
    "tests/e2e/": "cluster",
    "cli/tests/test_new.py": "cargo",
    "cli/tests/test_author_loop.py": "cargo",
}
"""What tests share that stands no company, the cluster or a target folder, by the beginning of their paths."""
FIRST = ("cluster", "second cluster", "cargo")
"""What takes longest begins first."""


def group_of(nodeid: str) -> str:
    """Return the name of what a test shares with others, else its file."""
    return next((name for path, name in SHARING.items() if nodeid.startswith(path)), nodeid.partition("::")[0])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the groups into the order in which they are handed out."""
    if hasattr(config, "workerinput"):
        order = {name: number for number, name in enumerate(FIRST)}
        items.sort(key=lambda item: order.get(group_of(item.nodeid), len(FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Hand out tests by group. The plugin's own groups do not work with the form of node ids that pytest has now."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
