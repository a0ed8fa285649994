"""A pytest plugin for `make notebooks-test`: how long each notebook took, and whether too long."""

from collections import defaultdict
from pathlib import Path

from tools.check_notebooks import MAX_SECONDS

seconds_of = defaultdict(float)


def pytest_runtest_logreport(report):
    seconds_of[Path(report.nodeid.split("::")[0]).name] += report.duration


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("seconds per notebook")
    for name, seconds in seconds_of.items():
        late = f"   more than {MAX_SECONDS}" if seconds > MAX_SECONDS else ""
        terminalreporter.write_line(f"{seconds:7.1f}  {name}{late}")
    terminalreporter.write_line(f"{sum(seconds_of.values()):7.1f}  all {len(seconds_of)}")
