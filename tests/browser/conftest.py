"""A real JupyterLab and a real browser; without Chromium or Playwright the tests are skipped."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "artefacts" / "browser"
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
SETTINGS = {  # no news, no updates; every cell in the page, wherever it is scrolled to
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status < 500
    except OSError:
        return False


@pytest.fixture(scope="session")
def lab(chromium, tmp_path_factory):
    """(address, token, folder) of a JupyterLab on a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for name in ("sff_teach", "results", "data"):
        (folder / name).symlink_to(ROOT / name)
    for name, settings in SETTINGS.items():
        file = folder / ".settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    port, token = free_port(), secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser",
                "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}",
                f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True",
                "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while not answers(f"{address}/api?token={token}"):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"JupyterLab did not start:\n{(folder / 'lab.log').read_text()[-2000:]}")
        time.sleep(0.2)
    yield address, token, folder
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()


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
