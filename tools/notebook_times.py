"""A pytest plugin for `make notebooks-test`: how long each notebook took, and whether too long.

Every notebook of the course promises at most MAX_SECONDS on two cores. One that takes half as much
again fails the run; between the two it is only marked, because machines differ.
"""

from collections import defaultdict
from pathlib import Path

from tools.check_notebooks import MAX_SECONDS

FAILS_ABOVE = 1.5 * MAX_SECONDS
seconds_of = defaultdict(float)


def pytest_runtest_logreport(report):
    seconds_of[Path(report.nodeid.split("::")[0]).name] += report.duration


def pytest_sessionfinish(session):
    if max(seconds_of.values(), default=0) > FAILS_ABOVE and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("seconds per notebook")
    for name, seconds in seconds_of.items():
        late = f"   more than {MAX_SECONDS}" if seconds > MAX_SECONDS else ""
        late += ": FAILED, too slow" if seconds > FAILS_ABOVE else ""
        terminalreporter.write_line(f"{seconds:7.1f}  {name}{late}")
    terminalreporter.write_line(f"{sum(seconds_of.values()):7.1f}  all {len(seconds_of)}")
