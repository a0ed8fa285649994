"""A real JupyterLab for the browser of tests/conftest.py."""

import json
import os
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
SETTINGS = {  # no news, no updates; every cell in the page, wherever it is scrolled to
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


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
                "--FileContentsManager.pre_save_hook=tools.saving.without_version",  # as make lab
                "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
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
