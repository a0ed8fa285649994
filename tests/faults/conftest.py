"""What the tests of this folder saw is collected here, and compared with docs/reliability.md."""

from __future__ import annotations

import os

import pytest

from ._page import FAULTS, PAGE, WHAT, Row, render

WRITE = bool(os.environ.get("SFF_WRITE"))
ROWS: list[Row] = []
WAYS: dict[str, str] = {}
LEFT_OUT = []

if not hasattr(os, "fork"):
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str | None:
    if not hasattr(os, "fork"):
        return "tests/faults: nothing is tested here, because this system cannot fork"
    return None


@pytest.fixture
def saw():
    """Note what was seen; it has to stand on the page word for word."""

    def note(fault: str, what: str, short: str, command: str, happens: str) -> None:
        assert fault in FAULTS and what in WHAT
        row = Row(fault, what, short, command, happens)
        ROWS.append(row)
        if not WRITE:
            page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
            assert row.line() in page, (
                f"{PAGE.name} lacks this; see `make reliability`: {row.line()}"
            )

    return note


@pytest.fixture
def way():
    """Note how a fault was made on this machine."""
    return WAYS.__setitem__


def pytest_deselected(items) -> None:
    LEFT_OUT.extend(items)


@pytest.fixture
def whole_page(request):
    """The page that all tests together make; skips the test if some were left out."""
    here = os.path.dirname(__file__)
    files = {item.path.name for item in request.session.items if str(item.path).startswith(here)}
    there = {name for name in os.listdir(here) if name.startswith("test_")}
    if os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.skip("the tests were shared out among processes, and none saw all of the faults")
    if LEFT_OUT or files != there or any("::" in argument for argument in request.config.args):
        pytest.skip("only some of the faults were made")
    return render(ROWS)


def pytest_terminal_summary(terminalreporter) -> None:
    for fault, how in WAYS.items():
        terminalreporter.write_line(f"{fault}: made by {how}.")
