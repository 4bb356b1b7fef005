"""Give each process whole modules of tests, the expensive ones first: what a module shares is made once.

xdist's marks for groups have no effect: they change the name of a test, which pytest no longer lets them do.
"""

from collections import Counter

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Each test of these modules may run in any process: they share nothing, and take long.
APART = frozenset(
    {
        "tests/local/test_drill.py",
        "tests/system/test_benchmarks.py",
        "tests/system/test_rehearsal.py",
    }
)
# All tests of these modules run in one process.
TOGETHER = {
    "tests/web/test_accessibility.py": "chromium",
    "tests/web/test_browser.py": "chromium",
    "tests/web/test_complete_page.py": "chromium",
    "tests/web/test_message_browser.py": "chromium",
}


class _ByModule(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Hand out modules in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return nodeid if module in APART else TOGETHER.get(module, module)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Replace the scheduler of `--dist loadscope`."""
    if config.getoption("dist") != "loadscope":
        return None
    config.option.loadscopereorder = False
    return _ByModule(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long; a process alone with a large module in the end would keep all others waiting."""
    sizes = Counter(_module(item) for item in items)

    def place(item: pytest.Item) -> tuple[bool, bool, int, str]:
        module = _module(item)
        return item.get_closest_marker("long") is None, module not in APART, -sizes[module], module

    items.sort(key=place)


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
