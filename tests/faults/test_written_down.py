"""The page says what the other tests of this folder saw, no more and no less. Runs last."""

from ._page import FAULTS, PAGE, WHAT
from .conftest import WRITE


def test_the_page_says_what_was_seen(whole_page, request):
    assert request.session.testsfailed == 0, "a test before this one failed"
    for fault in FAULTS:
        table = whole_page.partition(f"| {fault.lower()} |")[2].partition("\n")[0]
        assert len([cell for cell in table.split("|") if cell.strip() not in ("", "–")]) == len(
            WHAT
        )
    if WRITE:
        PAGE.write_text(whole_page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == whole_page, "run `make reliability`"
