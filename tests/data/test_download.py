"""Downloads from a server on this machine that breaks off, is silent, or serves a wrong file."""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sff_teach import load
from sff_teach.data import download
from sff_teach.data.download import DownloadError, Source, fetch, read_arrays
from sff_teach.util.checks import SFFError

ROOT = Path(__file__).resolve().parents[2]
RANDOM = np.random.RandomState(0)
PIXELS = {
    (part, name): RANDOM.randint(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    for part, n in (("train", 6), ("test", 2))
    for name in ("cat", "dog")
}


def image_archive(more: dict[str, bytes] | None = None) -> bytes:
    """An archive like fast.ai's."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:

        def add(name, content=b"", kind=tarfile.REGTYPE, link=""):
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, link
            archive.addfile(member, io.BytesIO(content))

        for (part, name), images in PIXELS.items():
            for i, pixels in enumerate(images):
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                add(f"set/{part}/{name}/{i}.png", png.getvalue())
        for name, content in (more or {}).items():
            add(name, content)
    return stream.getvalue()


GOOD = image_archive()
MD5 = hashlib.md5(GOOD).hexdigest()


class Server:
    """Serves GOOD in the way its mode says, and counts."""

    def __init__(self):
        self.mode, self.content, self.requests = "good", GOOD, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/set.tgz"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler) -> None:
        if self.mode == "missing":
            return handler.send_error(404)
        if self.mode == "silent":
            return threading.Event().wait(2)
        content = self.content
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if self.mode == "breaks off" and self.requests == 1:
            content = content[: len(content) // 2]
        if self.mode == "slow":
            threading.Event().wait(1)
        handler.wfile.write(content)
        handler.close_connection = True


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch, server):
    """An empty data folder and one set, "cifar10", on the local server."""
    monkeypatch.setenv("SFF_TEACH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    offer(monkeypatch, server.url)
    return tmp_path / "data"


def offer(monkeypatch, url):
    monkeypatch.setitem(download.SETS, "cifar10", Source({url: MD5}, download.images_in_tar))


def names(home):
    return sorted(p.name for p in home.iterdir() if not p.name.endswith(".lock"))


@pytest.mark.parametrize("mode", ["good", "breaks off"])
def test_a_set_is_fetched_once_and_checked(home, server, mode):
    server.mode = mode
    splits = load("cifar10", validation=0)
    assert splits.classes == ("cat", "dog")
    assert splits.train.x.shape == (12, 3, 8, 8) and splits.test.x.shape == (4, 3, 8, 8)
    pixels = (splits.train.pixels() * 255).round().byte().numpy().transpose(0, 2, 3, 1)
    for label, name in enumerate(splits.classes):
        found = {p.tobytes() for p in pixels[splits.train.y.numpy() == label]}
        assert found == {p.tobytes() for p in PIXELS["train", name]}
    assert names(home) == ["cifar10.npz"]  # no archive, no partial file
    before = server.requests
    load("cifar10")
    assert server.requests == before


@pytest.mark.parametrize(
    ("mode", "words"), [("missing", "404"), ("silent", "sent nothing"), ("wrong", "checksum")]
)
def test_a_server_that_fails(home, server, mode, words):
    server.mode, server.content = mode, GOOD if mode != "wrong" else b"<html>Log in</html>"
    with pytest.raises(DownloadError, match=words) as caught:
        load("cifar10")
    assert server.url in str(caught.value) and not (home / "cifar10.npz").exists()


def test_offline_then_by_hand(home, server, monkeypatch):
    offer(monkeypatch, "http://127.0.0.1:9/set.tgz")
    with pytest.raises(DownloadError, match="online"):
        load("cifar10")
    (home / "cifar10.download" / "set.tgz").write_bytes(GOOD)
    load("cifar10")
    assert names(home) == ["cifar10.npz"]


def test_what_a_killed_process_left_is_removed(home, server):
    (home / "cifar10.download").mkdir(parents=True)
    (home / "cifar10.download" / "tmpabc").write_bytes(GOOD[:100])
    load("cifar10")
    assert names(home) == ["cifar10.npz"]


FETCH = """
from pathlib import Path
from sff_teach.data import download
download.SETS["cifar10"] = download.Source({{{url!r}: {md5!r}}}, download.images_in_tar)
print(len(download.read_arrays(download.fetch("cifar10", Path({home!r})))["train_labels"]))
"""


def test_two_processes_at_once_share_one_download(home, server):
    server.mode = "slow"
    code = FETCH.format(url=server.url, md5=MD5, home=str(home))
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == [b"12", b"12"]
    assert server.requests == 1 and names(home) == ["cifar10.npz"]


def test_a_damaged_set(home):
    path = fetch("cifar10", home)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SFFError, match="damaged"):
        read_arrays(path)


def test_idx_and_medmnist_files(tmp_path):
    x, y = RANDOM.randint(0, 256, (5, 28, 28), dtype=np.uint8), np.arange(5, dtype=np.uint8)
    paths = [tmp_path / name for name in "abcd"]
    for path, header, content in zip(paths, (16, 8) * 2, (x, y) * 2, strict=True):
        path.write_bytes(gzip.compress(bytes(header) + content.tobytes()))
    arrays = download.mnist_files(paths, ["a"] * 5)
    assert (arrays["train_images"][:, 0] == x).all() and (arrays["test_labels"] == y).all()

    parts = {f"{p}_images": x for p in ("train", "val", "test")}
    parts |= {f"{p}_labels": y[:, None] for p in ("train", "val", "test")}
    np.savez(tmp_path / "med.npz", **parts)
    arrays = download.medmnist([tmp_path / "med.npz"], ["a"] * 5)
    assert arrays["valid_images"].shape == (5, 1, 28, 28)
    assert arrays["train_labels"].tolist() == [0, 1, 2, 3, 4]


def test_pictures_of_several_sizes_are_cropped(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i, (part, size) in enumerate((("train", (30, 20)), ("val", (20, 41)))):
            jpeg = io.BytesIO()
            Image.new("L" if i else "RGB", size, 200).save(jpeg, "JPEG")
            member = tarfile.TarInfo(f"x/{part}/n0{0}/{i}.JPEG")
            member.size = len(jpeg.getvalue())
            archive.addfile(member, io.BytesIO(jpeg.getvalue()))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    arrays = download.images_in_tar([tmp_path / "a.tar"], 16, {"n00": "tench"})
    assert arrays["test_images"].shape == arrays["train_images"].shape == (1, 3, 16, 16)
    assert arrays["classes"].tolist() == ["tench"]
    assert (arrays["test_images"] > 190).all()
