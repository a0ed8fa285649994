"""What docs/security.md says: nothing executes data, ports are local, uploads are only images."""

import ast
import base64
import io
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from sff_teach.core import SFF, GoodnessHead, LocalBlock
from sff_teach.training import pipeline
from tests._helpers import descendants

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
EXECUTED = sorted((ROOT / "executed").glob("*.ipynb"))
LINUX = Path("/proc/net/tcp").exists()


# ---------------------------------------------------------------- the page


def test_the_page_names_only_tests_that_exist():
    named = re.findall(r"`(tests/[\w/.]+)`", PAGE.read_text(encoding="utf-8"))
    assert named and not [file for file in named if not (ROOT / file).exists()]


# ---------------------------------------------------------------- what executes data

DANGEROUS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads",
    "shelve.open", "dill.load", "joblib.load", "pd.read_pickle", "eval", "exec", "compile",
    "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
    "torch.hub.load", "torch.jit.load", "runpy.run_path", "runpy.run_module",
    "code.interact", "torch.package.PackageImporter", "logging.config.fileConfig",
}  # fmt: skip
ALLOWED = {
    ("sff_teach/training/pipeline.py", "torch.load"),  # its own job, in a private folder
    ("tools/assignments.py", "exec"),  # the instructor's own cells
    ("tools/assignments.py", "compile"),
    ("sff_teach/cut/graph.py", "exec"),  # torch.fx's own code for a traced graph
    ("results/gpu.py", "torch.load"),  # its own file, in a temporary folder
    ("results/peers.py", "exec"),  # a checkout that the caller names; running it is the point
    ("results/peers.py", "compile"),
}


@lru_cache(maxsize=1)
def sources() -> dict[str, ast.Module]:
    """Every program of the project, tests apart: modules, tools, studies, notebooks' cells."""
    found = {}
    for folder in ("sff_teach", "tools", "data", "results"):
        for path in (ROOT / folder).rglob("*.py"):
            found[path.relative_to(ROOT).as_posix()] = ast.parse(path.read_text(encoding="utf-8"))
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        lines = [
            re.sub(r"^(\s*)[!%]", r"\1pass  #", line) for one in code for line in one.splitlines()
        ]
        found[path.relative_to(ROOT).as_posix()] = ast.parse("\n".join(lines))
    assert len(found) > 80
    return found


def calls(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    """Every call with its dotted name; a method of something computed has none."""
    return [
        (ast.unparse(node.func), node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    ]


def given(call: ast.Call, name: str) -> object:
    return next(
        (
            ast.literal_eval(k.value)
            for k in call.keywords
            if k.arg == name and isinstance(k.value, ast.Constant)
        ),
        None,
    )


def dangers(tree: ast.Module) -> set[str]:
    """The dangerous things that a program calls."""
    found = set()
    for name, call in calls(tree):
        unsafe_torch = name == "torch.load" and given(call, "weights_only") is not True
        array = name in ("np.load", "numpy.load")
        unsafe_array = array and given(call, "allow_pickle") is not False
        if name in DANGEROUS or unsafe_torch or unsafe_array:
            found.add(name)
        elif given(call, "shell") is True:
            found.add(f"{name}(shell=True)")
    aliases = {
        a.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.module in ("pickle", "marshal", "os")
        for a in n.names
    }
    return found | (aliases & {"load", "loads", "Unpickler", "system", "popen"})


def test_nothing_executes_what_it_reads():
    found = {(file, name) for file, tree in sources().items() for name in dangers(tree)}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load('x')", "torch.load('x', weights_only=False)", "np.load('x')",
        "np.load('x', allow_pickle=True)", "import pickle\npickle.load(file)",
        "from pickle import loads", "eval(text)", "subprocess.run(text, shell=True)",
        "yaml.load(text)", "def f():\n    return exec(text)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code):
    assert dangers(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "torch.load('x', weights_only=True)",
        "np.load('x', allow_pickle=False)",
        "model.eval()",
        "re.compile('x')",
    ],
)
def test_the_search_leaves_harmless_things_alone(code):
    assert not dangers(ast.parse(code))


NETWORK = {
    "urllib.request", "http.client", "requests", "httpx", "socket", "ftplib", "smtplib",
    "xmlrpc.client", "socketserver", "http.server", "asyncio",
}  # fmt: skip


def test_only_the_downloads_reach_the_network():
    """The pipeline only asks which network interfaces there are."""
    users = set()
    for file, tree in sources().items():
        modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        if file.startswith("sff_teach/") and modules & NETWORK:
            users.add(file)
    assert users <= {"sff_teach/data/download.py", "sff_teach/training/pipeline.py"}
    pipeline_calls = {name for name, _ in calls(sources()["sff_teach/training/pipeline.py"])}
    opened = {name for name in pipeline_calls if name.startswith("socket.")}
    assert opened <= {"socket.if_nameindex"}


def test_stored_outputs_hold_no_scripts():
    pages = 0
    for path in EXECUTED:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                markup = "".join(output.get("data", {}).get("text/html", []))
                pages += bool(markup)
                assert not re.search(
                    r"<\s*(script|iframe|object|embed|link|form)|\son\w+\s*=|javascript:",
                    markup,
                    re.I,
                ), path.name
                assert not {"application/javascript"} & set(output.get("data", {})), path.name
    assert pages > 50


# ---------------------------------------------------------------- ports


def listening(pids: set[int]) -> set[str]:
    """The local addresses, in /proc's hexadecimal, on which these processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path("/proc").glob(f"{pid}/fd/*"):  # none, if the process has gone
            try:
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
            except OSError:
                continue
            if match:
                inodes.add(match[1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


HERE = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1


def lab_command(*more: str) -> list[str]:
    """What `make lab` runs, from the Makefile itself."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    said = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (line,) = [one for one in said.replace("\\\n", " ").splitlines() if "jupyterlab" in one]
    words = shlex.split(line)
    start = words.index("-m")
    return [sys.executable, *words[start:], *more]


def test_lab_command_line():
    words = lab_command()
    assert "--ServerApp.ip=127.0.0.1" in words
    assert "--LabApp.news_url=None" in words
    assert "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate" in words
    risky = (
        "token",
        "password",
        "allow_origin",
        "allow_remote",
        "disable_check_xsrf",
        "0.0.0.0",
        "allow_unauthenticated",
    )
    assert not [word for word in words for one in risky if one in word]


def test_lab_wants_a_token_and_listens_here_only(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    environment = os.environ | {name: str(tmp_path / folder) for name, folder in own.items()}
    environment.pop("JUPYTER_TOKEN", None)
    process = subprocess.Popen(
        lab_command("--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/contents", timeout=5
                ).status
            except urllib.error.HTTPError as error:
                answer = error.code
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (
                    "the server didn't start"
                )
                time.sleep(0.1)
                continue
            break
        assert answer == 403  # without the token nobody reads a file
        (written,) = (tmp_path / "runtime").glob("jpserver-*.json")
        server = json.loads(written.read_text())
        assert len(server["token"]) >= 32 and server["hostname"] == "127.0.0.1"
        if hasattr(os, "getuid"):
            assert (
                stat.S_IMODE(written.stat().st_mode) & 0o077 == 0
            )  # and the token's file is private
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/contents",
            headers={"Authorization": f"token {server['token']}"},
        )
        assert urllib.request.urlopen(asked, timeout=5).status == 200
        if LINUX:
            addresses = listening({process.pid, *descendants(process.pid)})
            assert addresses and addresses <= HERE
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.mark.nightly
@pytest.mark.skipif(not LINUX, reason="looks into /proc")
def test_a_pipeline_listens_here_only(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    seen = []
    model = SFF([LocalBlock(torch.nn.Linear(4, 4), GoodnessHead(4, 2)) for _ in range(2)])
    data = torch.randn(8, 4), torch.arange(8) % 2
    pipeline.fit_pipeline(
        model, data, epochs=200, batch_size=4, progress=False,
        on_epoch=lambda history: seen.append(listening(descendants(os.getpid()))),
    )  # fmt: skip
    addresses = set().union(*seen)
    assert addresses and addresses <= HERE
    assert "GLOO_SOCKET_IFNAME" not in os.environ  # only the processes' own environment was changed


def test_the_folder_of_a_pipeline_is_private(monkeypatch):
    modes = []

    def noted(work, args, **options):
        modes.append(stat.S_IMODE(Path(args[0].folder).stat().st_mode))
        raise RuntimeError("enough.")

    monkeypatch.setattr(pipeline, "spawn", noted)
    model = SFF([LocalBlock(torch.nn.Linear(4, 4), GoodnessHead(4, 2))])
    with pytest.raises(RuntimeError, match="enough"):
        pipeline.fit_pipeline(
            model, (torch.randn(8, 4), torch.arange(8) % 2), processes=1, progress=False
        )
    assert modes == [0o700]


# ---------------------------------------------------------------- uploads


def test_an_upload_cannot_bring_markup():
    from sff_teach import from_arrays
    from sff_teach.widgets import inspector

    images = from_arrays(torch.rand(4, 1, 6, 6), torch.arange(4) % 2)
    model = SFF([LocalBlock(torch.nn.Conv2d(1, 2, 3), GoodnessHead(2, 2))])
    made = inspector({"a": model}, images)
    name = "<img src=x onerror=alert(1)>.png"
    file = io.BytesIO()
    Image.new("L", (6, 6)).save(file, "PNG")
    for content in (b"not an image", file.getvalue()):
        data = base64.b64encode(content).decode()
        made.controls["upload"].value = f"{name}\n{data}"
        made.wait()
        assert "&lt;img" in made.status.value and "<img" not in made.status.value
    assert isinstance(made.error, ValueError)
    made.keep.click()
    assert "&lt;img" in made.table.value and "<img src=x" not in made.table.value


# ---------------------------------------------------------------- dependencies


def test_audit_reads_the_lock():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^audit:.*\n((?:\t.*\n?)+)", makefile, re.M)[1]
    assert "pip-audit" in recipe and "requirements.lock" in recipe
    assert "audit" not in re.search(r"^test:(.*?)##", makefile, re.M)[1]  # it needs the internet
