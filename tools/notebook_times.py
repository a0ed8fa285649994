"""A pytest plugin for `make test`: how long each notebook took, and whether too long.

Every notebook of the course promises at most MAX_SECONDS on two cores. One that takes half as much
again fails the run; between the two it is only marked, because machines differ. Where notebooks
run side by side, a late one is no failure yet: its path goes into build/late_notebooks, and the
Makefile runs it once more by itself.
"""

from collections import defaultdict
from pathlib import Path

from tools.check_form import MAX_SECONDS

FAILS_ABOVE = 1.5 * MAX_SECONDS
LATE = Path(__file__).resolve().parent.parent / "build" / "late_notebooks"
seconds_of = defaultdict(float)


def late() -> list[str]:
    """The notebooks that took too long."""
    return [path for path, seconds in seconds_of.items() if seconds > FAILS_ABOVE]


def pytest_runtest_logreport(report):
    path = report.nodeid.split("::")[0]
    if path.endswith(".ipynb"):
        seconds_of[path] += report.duration


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return  # a worker; the main process reports
    if session.config.getoption("dist", "no") != "no":
        LATE.parent.mkdir(exist_ok=True)
        LATE.write_text("\n".join(late()))
    elif late() and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if not seconds_of:
        return
    terminalreporter.section("seconds per notebook")
    for path, seconds in sorted(seconds_of.items()):
        mark = f"   more than {MAX_SECONDS}" if seconds > MAX_SECONDS else ""
        mark += ": too slow" if seconds > FAILS_ABOVE else ""
        terminalreporter.write_line(f"{seconds:7.1f}  {Path(path).name}{mark}")
    terminalreporter.write_line(f"{sum(seconds_of.values()):7.1f}  all {len(seconds_of)}")
