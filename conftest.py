"""How tests are spread over processes (``make test`` uses two or more): by file, and all that need the cluster in one."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test the group that runs in one process; those on the cluster, which take longest, begin at once."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group("cluster" if _needs_cluster(item) else str(item.path)))
    items.sort(key=lambda item: not _needs_cluster(item))


def _needs_cluster(item: pytest.Item) -> bool:
    return item.get_closest_marker("cluster") is not None
