"""What all tests share: one thread, fixed seeds, random tests that repeat themselves, a browser.

Without Chromium or Playwright the tests that want the browser are skipped.
"""

import os
import random
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: fixed sums, no fighting

import hypothesis
import numpy as np
import pytest

SHOTS = Path(__file__).resolve().parents[1] / "artefacts" / "browser"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
WAIT = 60_000  # milliseconds
OWN = re.compile(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|about:|chrome:")

# The same examples every time, and no time limit: a busy machine is not a bug.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeds():
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def chromium():
    """The browser; Debian's, because a download of Playwright's own is not needed."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed; run make browser-test."
    )
    if CHROMIUM is None:
        pytest.skip("There is no Chromium here; install it (Debian: apt-get install chromium).")
    api.expect.set_options(timeout=WAIT)  # five seconds are too few where others work as well
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page that notes errors and every address it asks for; both must stay clean."""
    # High enough for a whole explorer: what lies outside is not in a screenshot.
    context = chromium.new_context(viewport={"width": 1280, "height": 1500})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    errors, foreign = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    for kind in ("request", "websocket"):
        page.on(kind, lambda r: None if OWN.match(r.url) else foreign.append(r.url))
    yield page
    context.close()
    assert not errors, f"errors in the page: {errors}"
    assert not foreign, f"requests that left the machine: {foreign}"


@pytest.fixture
def shot(page, request):
    """A function that keeps a screenshot of the page under artefacts/browser/."""
    SHOTS.mkdir(parents=True, exist_ok=True)

    def take(name: str, place=None) -> None:
        test = re.sub(r"\W+", "-", request.node.name).strip("-")
        (place or page).screenshot(path=str(SHOTS / f"{test}-{name}.png"))

    return take
