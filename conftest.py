"""How tests are spread over processes, of which ``make test`` uses two: by file, and what shares a thing in one."""

import pytest

TOGETHER = {"test_new.py": "cargo", "test_author_loop.py": "cargo"}
"""Files whose tests build in one target folder, by their group."""
RANKS = {"cluster": 0, "cargo": 1}
"""What takes longest begins first."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test the group that runs in one process."""
    if not hasattr(config, "workerinput"):
        return
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: RANKS.get(groups[item], len(RANKS)))


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("cluster") is not None or item.path.parent.name == "cluster":
        return "cluster"
    return TOGETHER.get(item.path.name, str(item.path))
