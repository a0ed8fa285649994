"""Make .venv and install the locked packages and the course into it; once done, do nothing.

    python3 tools/install.py

    python3 tools/install.py uv …   runs .venv's uv, with pip's mirror and certificate

`make lab` and `make test` call it; on Windows without make it is the whole set-up. It needs only
Python's standard library and starts on any Python since 3.6, so that an old one gets a sentence,
not a traceback. The lock pins what is installed; its hash decides whether there is work to do.
"""

import hashlib
import json
import os
import subprocess
import sys
import time

OLDEST, TOO_NEW = (3, 10), (3, 15)  # as in pyproject.toml; a test keeps them in step
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "installed.json")
INPUTS = ("pyproject.toml", "requirements.lock", os.path.join("tools", "install.py"))

# No news pop-up and no update check: the course does not phone home. Lab reads this from the venv.
LAB_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}
}


def venv_program(name):
    """Return the path of a program of the venv, on any system."""
    folder, end = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
    return os.path.join(VENV, folder, name + end)


def check_python(version):
    """Stop in one sentence where this Python cannot run the course."""
    if not OLDEST <= tuple(version[:2]) < TOO_NEW:
        raise SystemExit(
            f"The course needs Python 3.{OLDEST[1]} to 3.{TOO_NEW[1] - 1}, and this is Python "
            f"{version[0]}.{version[1]}; name another one, for example: make lab PYTHON=python3.12"
        )


def fingerprint():
    """Return the SHA-256 of what decides the installation: the lock, pyproject.toml, this file."""
    digest = hashlib.sha256(ROOT.encode())  # a moved folder needs its programs' paths written anew
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def is_installed():
    """Tell whether .venv has the locked packages, by the stamp of the last complete run."""
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return False
    return stamp.get("fingerprint") == fingerprint() and venv_works()


def venv_works():
    """Tell whether .venv has a Python that starts and that the course can use."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        found = subprocess.check_output([venv_program("python"), "-c", code], cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return False
    return OLDEST <= tuple(int(part) for part in found.split()) < TOO_NEW


def run(*command, **options):
    """Run a command with its output shown; return whether it succeeded."""
    return subprocess.call(command, cwd=ROOT, **options) == 0


def make_venv():
    """Make .venv, or make it anew where its Python has gone."""
    check_python(sys.version_info)
    print(f"Making .venv with Python {sys.version.split()[0]}", flush=True)
    if not run(sys.executable, "-m", "venv", "--clear", VENV):
        raise SystemExit(
            "Python could not make .venv; on Debian and Ubuntu install the package python3-venv, "
            "then try again."
        )


def uv_environment(pip):
    """Return the environment for uv: as it is, plus pip's mirror and certificate where set.

    uv does not read pip's settings, and somebody behind a mirror has set it for pip.
    """
    environment = dict(os.environ)
    environment["UV_PYTHON_DOWNLOADS"] = "never"
    environment.setdefault("UV_HTTP_TIMEOUT", "300")  # seconds; torch is large
    wanted = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}
    if "UV_INDEX_URL" in environment:
        del wanted["index-url"]
    try:
        settings = subprocess.check_output([*pip, "config", "list"], cwd=ROOT).decode()
    except (OSError, subprocess.CalledProcessError):
        settings = ""
    for line in settings.splitlines():
        key, _, value = line.partition("=")
        name = wanted.get(key.rpartition(".")[2])
        if name and name not in environment:
            environment[name] = value.strip("'\"")
    return environment


def install():
    """Install the lock and then the course itself, with uv, or with pip where uv cannot be had."""
    python = venv_program("python")
    pip = [python, "-m", "pip"]
    lock = ["-r", "requirements.lock"]
    course = ["--no-deps", "-e", "."]
    if run(*pip, "install", "--quiet", "--disable-pip-version-check", "uv"):
        environment = uv_environment(pip)
        uv = [venv_program("uv"), "pip", "install", "--python", python]
        if run(*uv, *lock, env=environment) and run(*uv, "--quiet", *course, env=environment):
            return "uv"
    print("uv did not work here; installing with pip, which takes longer.", flush=True)
    if not (
        run(*pip, "install", "--quiet", "--upgrade", "pip")
        and run(*pip, "install", *lock)
        and run(*pip, "install", "--quiet", *course)
    ):
        raise SystemExit(
            "The packages could not be installed (the reason is above); check that this "
            "machine reaches a Python package index and has 8 GB of free disk, then try again."
        )
    return "pip"


def write_lab_settings():
    """Give JupyterLab in this venv the course's defaults; a reader's own settings still win."""
    folder = os.path.join(VENV, "share", "jupyter", "lab", "settings")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "overrides.json"), "w") as file:
        json.dump(LAB_SETTINGS, file, indent=2)


def main():
    if is_installed():
        print("Nothing to install: .venv holds what requirements.lock says.")
        return
    started = time.time()
    if not venv_works():
        make_venv()
    if os.path.exists(STAMP):
        os.remove(STAMP)  # until everything is in again
    tool = install()
    write_lab_settings()
    with open(STAMP, "w") as file:
        json.dump({"fingerprint": fingerprint(), "installed_with": tool}, file)
    print(f"Installed into .venv with {tool} in {time.time() - started:.0f} s.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["uv"]:
        settings = uv_environment([venv_program("python"), "-m", "pip"])
        sys.exit(not run(venv_program("uv"), *sys.argv[2:], env=settings))
    main()
