"""Measure the processor time of each test, with all processes that it starts: `pytest --cpu 40`."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

_TICKS = os.sysconf("SC_CLK_TCK")
_MARK = f"HOLDFAST_CPU={uuid4().hex}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu", type=int, default=0, metavar="N", help="show the N tests that cost most processor time"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("cpu"):
        config.pluginmanager.register(_Meter(), "holdfast-cpu-meter")
        name, _, value = _MARK.partition("=")
        os.environ[name] = value


class _Meter:
    """Count from the end of the previous test, so that the fixtures of a session are included."""

    def __init__(self) -> None:
        self._before = _spent()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        if call.when == "teardown":
            now = _spent()
            item.user_properties.append(("cpu", now - self._before))
            self._before = now
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        most: int = terminalreporter.config.getoption("cpu")
        spent: dict[str, float] = {
            report.nodeid: float(str(seconds))
            for reports in terminalreporter.stats.values()
            for report in reports
            if isinstance(report, pytest.TestReport) and report.when == "teardown"
            for name, seconds in report.user_properties
            if name == "cpu"
        }
        modules: dict[str, float] = {}
        for name, seconds in spent.items():
            module = name.partition("::")[0]
            modules[module] = modules.get(module, 0) + seconds
        for title, figures in (("modules", modules), ("tests", spent)):
            terminalreporter.section(f"processor time of {title}, {sum(figures.values()):.0f} s in all")
            for name, seconds in sorted(figures.items(), key=lambda item: -item[1])[:most]:
                terminalreporter.write_line(f"{seconds:8.2f} s  {name}")


def _spent() -> float:
    """Return the processor seconds of this process and its descendants. Ended ones count where their parent waited for them."""
    times = os.times()
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(process.name) != os.getpid() and _MARK.encode() in (process / "environ").read_bytes():
                # proc(5): utime, stime, cutime and cstime are the 12th to the 15th field after the name.
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
    return sum(times[:4]) + ticks / _TICKS
