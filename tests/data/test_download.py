"""Downloads against a server that is slow, breaks off, lies about lengths, serves a wrong file."""

import errno
import gzip
import hashlib
import io
import socket
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sff_teach import load
from sff_teach.cli import main
from sff_teach.data import download
from sff_teach.data.download import Copy, DownloadError, File, fetch, read_arrays
from sff_teach.util import files as _files
from tests._helpers import on_a_full_disk

ROOT = Path(__file__).resolve().parents[2]
RANDOM = np.random.RandomState(0)
PIXELS = {
    (part, name): RANDOM.randint(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    for part, n in (("train", 6), ("test", 2))
    for name in ("cat", "dog")
}


def image_archive(evil: bool = False, more: dict[str, bytes] | None = None) -> bytes:
    """An archive like fast.ai's; ``evil`` adds paths that lead outside, a link and a device."""
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
        if evil:
            add("../../escaped.txt", b"out")
            add("/tmp/escaped.txt", b"out")
            add("set/train/cat/link.png", kind=tarfile.SYMTYPE, link="/etc/passwd")
            add("set/train/cat/device.png", kind=tarfile.CHRTYPE)
        for name, content in (more or {}).items():
            add(name, content)
    return stream.getvalue()


def binary_archive() -> bytes:
    """The same images as CIFAR's binary records, sizes aside."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        files = {"names.txt": b"cat\ndog\n\n"}
        for part in ("train", "test"):
            records = b""
            for label, name in enumerate(("cat", "dog")):
                for pixels in PIXELS[part, name]:
                    big = np.tile(pixels.transpose(2, 0, 1), (1, 4, 4))  # 3×32×32
                    records += bytes([label]) + big.tobytes()
            files[f"{part}.bin"] = records
        for name, content in files.items():
            member = tarfile.TarInfo(f"batches/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


GOOD = image_archive()
MD5 = hashlib.md5(GOOD).hexdigest()


class Server:
    """Serves GOOD in the way its mode says, and counts."""

    def __init__(self):
        self.mode, self.content, self.requests, self.ranges = "good", GOOD, 0, []
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
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content = self.content
        if self.mode == "missing":
            return handler.send_error(404)
        if self.mode == "silent":
            return threading.Event().wait(3)
        if self.mode == "busy" and self.requests == 1:
            return handler.send_error(503)
        if self.mode == "no ranges":
            start = 0
        if start >= len(content):
            return handler.send_error(416)
        rest = content[start:]
        handler.send_response(206 if start else 200)
        length = len(rest)
        if self.mode == "says more":
            length += 100
        if self.mode == "says less":
            length //= 2
        if self.mode == "says far more":
            length += 1 << 40
        if self.mode != "no length":
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        if self.mode in ("breaks off", "no ranges", "stalls") and self.requests == 1:
            rest = rest[: len(rest) // 2]
        for piece in range(0, len(rest), 200) if self.mode == "slow" else ():
            handler.wfile.write(rest[piece : piece + 200])  # longer than TIMEOUT altogether
            threading.Event().wait(2 * download.TIMEOUT * 200 / len(rest))
        if self.mode != "slow":
            handler.wfile.write(rest)
        if self.mode == "stalls" and self.requests == 1:
            threading.Event().wait(2)
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
    monkeypatch.setattr(download, "PAUSE", 0)
    offer(monkeypatch, server.url)
    return tmp_path / "data"


def offer(monkeypatch, *urls, md5=MD5, read=None):
    read = read or download._images_in_tar()
    copies = tuple(Copy((File(url.rsplit("/", 1)[1], url, (md5,)),), read) for url in urls)
    monkeypatch.setitem(download.SETS, "cifar10", copies)


def names(home):
    return sorted(p.name for p in home.iterdir() if not p.name.endswith(".lock"))


def sentence(home) -> str:
    with pytest.raises(DownloadError) as caught:
        load("cifar10")
    text = str(caught.value)
    assert ("\n" not in text and "SFF_TEACH_DATA" in text) or str(home) in text
    assert not (home / "cifar10.npz").exists()
    return text


@pytest.mark.parametrize(
    "mode",
    ["good", "no length", "breaks off", "no ranges", "says more", "slow", "stalls", "busy"],
)
def test_what_can_be_fetched_is_fetched_and_only_once(home, server, mode):
    server.mode = mode
    splits = load("cifar10", validation=0)
    assert splits.classes == ("cat", "dog")
    assert splits.train.x.shape == (12, 3, 8, 8) and splits.test.x.shape == (4, 3, 8, 8)
    pixels = (splits.train.pixels() * 255).round().byte().numpy().transpose(0, 2, 3, 1)
    for name, label in (("cat", 0), ("dog", 1)):
        found = {p.tobytes() for p in pixels[splits.train.y.numpy() == label]}
        assert found == {p.tobytes() for p in PIXELS["train", name]}
    assert names(home) == ["cifar10.npz"]  # no archive, no partial file
    before = server.requests
    assert before == (1 if mode in ("good", "no length", "slow") else 2)
    load("cifar10")
    assert server.requests == before


def test_a_broken_download_goes_on_where_it_stopped(home, server):
    server.mode = "breaks off"
    load("cifar10")
    assert server.ranges == [None, f"bytes={len(GOOD) // 2}-"]


def test_a_partial_file_of_an_earlier_session_is_used_or_thrown_away(home, server):
    home.mkdir()
    (home / "set.tgz.part").write_bytes(GOOD[:100])
    load("cifar10")
    assert server.ranges == ["bytes=100-"]
    for wrong in (b"something else", b"something else" * 5000):  # shorter, longer than the file
        (home / "cifar10.npz").unlink()
        (home / "set.tgz.part").write_bytes(wrong)
        load("cifar10")
        assert names(home) == ["cifar10.npz"]


def test_a_file_put_there_by_hand_needs_no_network(home, server):
    home.mkdir()
    (home / "set.tgz").write_bytes(GOOD)
    load("cifar10")
    assert server.requests == 0


def test_another_file_put_there_by_hand_is_named_and_left_alone(home, server):
    home.mkdir()
    (home / "set.tgz").write_bytes(b"the wrong version")
    server.mode = "missing"
    assert f"{home / 'set.tgz'} is another file" in sentence(home)
    assert (home / "set.tgz").read_bytes() == b"the wrong version"
    server.mode = "good"
    load("cifar10")
    assert names(home) == ["cifar10.npz"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("missing", "404"),
        ("silent", "no answer for 0.5 s"),
        ("says less", "wrong checksum"),
        ("says far more", "wants to send"),
    ],
)
def test_a_server_that_fails_is_one_sentence_with_the_manual_way(home, server, mode, words):
    server.mode = mode
    text = sentence(home)
    assert words in text and server.url in text and "by hand" in text


def test_a_wrong_file_is_never_kept(home, server):
    server.content = b"<html>Please log in</html>"
    assert "wrong checksum" in sentence(home)
    assert names(home) == []


def test_more_than_any_set_has_is_not_fetched_to_the_end(home, server, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", 3 * download.CHUNK)
    server.mode, server.content = "no length", bytes(20 * download.CHUNK)
    sizes, real = [], download._md5
    monkeypatch.setattr(download, "_md5", lambda p: sizes.append(p.stat().st_size) or real(p))
    assert "wrong checksum" in sentence(home)
    assert sizes and max(sizes) <= 4 * download.CHUNK


def test_nobody_there(home, server, monkeypatch):
    offer(monkeypatch, "http://127.0.0.1:9/set.tgz")
    assert "refused" in sentence(home)


def test_a_name_that_is_not_found_asks_whether_one_is_online(home, monkeypatch):
    def lookup(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    offer(monkeypatch, "http://example.invalid/set.tgz")
    assert "is this machine online?" in sentence(home)


def test_a_proxy_that_is_not_there_is_named(home, monkeypatch):
    offer(monkeypatch, "http://example.invalid/set.tgz")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "HTTPS_PROXY" in sentence(home)


def test_the_second_address_helps_out_and_gives_the_same_set(home, server, monkeypatch):
    first = load("cifar10")
    (home / "cifar10.npz").unlink()
    offer(monkeypatch, "http://127.0.0.1:9/other.tgz", server.url)
    second = load("cifar10")
    assert (first.train.x == second.train.x).all() and (first.train.y == second.train.y).all()


def test_a_full_disk_is_a_sentence_and_keeps_what_was_fetched(home, server, monkeypatch):
    real = download.shutil.disk_usage
    monkeypatch.setattr(download.shutil, "disk_usage", lambda p: real(p)._replace(free=10))
    assert "is full" in sentence(home)


def test_a_disk_that_fills_up_on_the_way_keeps_what_is_there(home, server, monkeypatch):
    """The first bytes are stored, then the disk is full; with space again it goes on from there."""

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, chunk):
            self.file.write(chunk[:150])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    real = open
    monkeypatch.setattr(download, "open", lambda *args: Full(real(*args)), raising=False)
    assert "is full" in sentence(home)
    assert server.requests == 1 and names(home) == ["set.tgz.part"]
    monkeypatch.delattr(download, "open")
    load("cifar10")
    assert server.ranges == [None, "bytes=150-"] and names(home) == ["cifar10.npz"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_disk_that_is_full_when_the_set_is_stored(home, server, monkeypatch):
    monkeypatch.setattr(_files.tempfile, "mkstemp", on_a_full_disk)
    assert "is full" in sentence(home) and names(home) == ["set.tgz"]
    monkeypatch.undo()
    offer(monkeypatch, server.url)
    fetch("cifar10", home)
    assert server.requests == 1 and names(home) == ["cifar10.npz"]


def test_a_folder_without_permission(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SFF_TEACH_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(OSError, match="SFF_TEACH_DATA"):
        load("cifar10")


def test_two_at_once_share_one_download(home, server):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch("cifar10", home), range(4)))
    assert len(set(paths)) == 1 and server.requests == 1


FETCHED = """
import sys
from pathlib import Path
from sff_teach.data import download
from sff_teach.data.download import Copy, File
copy = Copy((File("set.tgz", {url!r}, ({md5!r},)),), download._images_in_tar())
download.SETS["cifar10"] = (copy,)
print(len(download.read_arrays(download.fetch("cifar10", Path({home!r})))["train_labels"]))
"""


def test_two_processes_at_once_share_one_download(home, server):
    server.mode = "slow"
    code = FETCHED.format(url=server.url, md5=MD5, home=str(home))
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == [b"12", b"12"]
    assert server.requests == 1 and names(home) == ["cifar10.npz"]


def test_a_disk_without_locks_is_a_sentence(home, monkeypatch):
    class NoLock:
        def __init__(self, path):
            pass

        def __enter__(self):
            raise NotImplementedError

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(download, "FileLock", NoLock)
    assert "knows no locks" in sentence(home)


def test_an_archive_cannot_write_anywhere(home, server, monkeypatch, tmp_path):
    server.content = image_archive(evil=True)
    offer(monkeypatch, server.url, md5=hashlib.md5(server.content).hexdigest())
    before = set(tmp_path.rglob("*"))
    assert load("cifar10", validation=0).train.x.shape[0] == 12  # neither link nor device
    assert {p.name for p in set(tmp_path.rglob("*")) - before} <= {
        "data", "cifar10.npz", ".cifar10.lock",
    }  # fmt: skip


def serve(server, monkeypatch, content, read=None):
    server.content = content
    offer(monkeypatch, server.url, md5=hashlib.md5(content).hexdigest(), read=read)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"set/train/cat/bad.png": b"\x89PNG and no more"}, "bad.png cannot be read (damaged"),
        ({"set/train/cow/0.png": b""}, "cannot be read"),
        ({"set/train/cat/b.png": "large"}, "different sizes"),
        ({"set/train/cow/0.png": "small"}, "the same classes"),
    ],
)
def test_an_archive_with_other_things_in_it_than_expected(home, server, monkeypatch, more, words):
    for name, content in more.items():
        if isinstance(content, str):
            png, side = io.BytesIO(), {"small": 8, "large": 9}[content]
            Image.new("RGB", (side, side)).save(png, "PNG")
            more = {name: png.getvalue()}
    serve(server, monkeypatch, image_archive(more=more))
    text = sentence(home)
    assert words in text and "set.tgz cannot be read" in text
    assert names(home) == ["set.tgz"]  # as published: to fetch it again would not help


def test_the_next_copy_helps_out_when_one_cannot_be_read(home, server, monkeypatch):
    broken = Copy((File("broken.tgz", server.url, (MD5,)),), download._cifar_binary([], [], "x", 1))
    good = download.SETS["cifar10"][0]
    monkeypatch.setitem(download.SETS, "cifar10", (broken, good))
    assert load("cifar10", validation=0).train.x.shape[0] == 12


def test_bombs_are_refused_before_they_are_unpacked(home, server, monkeypatch, tmp_path):
    bomb = image_archive(more={"set/train/cat/z.png": bytes(3_000_000), "set/other": b""})
    serve(server, monkeypatch, bomb)
    assert len(bomb) < 30_000
    read, real = [], tarfile.ExFileObject.read
    monkeypatch.setattr(
        tarfile.ExFileObject, "read", lambda f, *a: read.append(f.name) or real(f, *a)
    )
    for limit, value in (
        ("MOST_IN_ONE", 2_000_000),
        ("MOST_BYTES", 2_000_000),
        ("MOST_MEMBERS", 10),
    ):
        (home / "set.tgz").unlink(missing_ok=True)
        read.clear()
        with monkeypatch.context() as patch:
            patch.setattr(download, limit, value)
            assert "far more than any set has" in sentence(home)
        assert not any("z.png" in name for name in read) and len(read) <= 16

    monkeypatch.setattr(download, "MOST_IN_ONE", 2_000_000)
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(bytes(3_000_000)))
    with pytest.raises(ValueError, match="far more"):
        download._idx("a")([path] * 4)
    monkeypatch.setattr(download, "MOST_BYTES", 2_000_000)
    np.savez_compressed(tmp_path / "bomb.npz", train_images=np.zeros(3_000_000, np.uint8))
    with pytest.raises(ValueError, match="far more"):
        download._medmnist("a")([tmp_path / "bomb.npz"])


def test_few_images_are_in_memory_before_they_are_decoded(monkeypatch):
    """However many there are: the workers' share and what waits for them."""
    taken, most = 0, 0

    def items():
        nonlocal taken
        for i in range(200):
            taken += 1
            yield i

    with ThreadPoolExecutor(2) as pool:
        for given, (item, result) in enumerate(
            download._side_by_side(pool, lambda i: i * i, items()), 1
        ):
            most = max(most, taken - given)
            assert (item, result) == (given - 1, (given - 1) ** 2)
    assert given == 200 and most <= 2 * download.WORKERS + 1


def test_a_shared_store_can_be_read_by_all(home, monkeypatch):
    path = fetch("cifar10", home)
    assert path.stat().st_mode & 0o777 == 0o644

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(ValueError, match="is not yours to read; ask its owner"):
        read_arrays(path)


def test_a_damaged_store_says_so(home):
    path = fetch("cifar10", home)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged; remove it"):
        load("cifar10")


def test_ctrl_c_leaves_a_part_to_go_on_from(home, server, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_md5", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load("cifar10")
    assert names(home) == ["set.tgz.part"]
    monkeypatch.undo()


def test_the_original_archive_without_pickles(tmp_path):
    path = tmp_path / "binary.tar.gz"
    path.write_bytes(binary_archive())
    read = download._cifar_binary(["train.bin"], ["test.bin"], "names.txt", 1)
    arrays = read([path])
    assert arrays["classes"].tolist() == ["cat", "dog"]
    assert arrays["train_images"].shape == (12, 3, 32, 32)
    dogs = {x[:, :8, :8].tobytes() for x in arrays["train_images"][arrays["train_labels"] == 1]}
    assert dogs == {p.transpose(2, 0, 1).tobytes() for p in PIXELS["train", "dog"]}


def test_idx_and_medmnist_files(tmp_path):
    x, y = RANDOM.randint(0, 256, (5, 28, 28), dtype=np.uint8), np.arange(5, dtype=np.uint8)
    paths = [tmp_path / name for name in "abcd"]
    for path, header, content in zip(paths, (16, 8) * 2, (x, y) * 2, strict=True):
        path.write_bytes(gzip.compress(bytes(header) + content.tobytes()))
    arrays = download._idx(["a"] * 5)(paths)
    assert (arrays["train_images"][:, 0] == x).all() and (arrays["test_labels"] == y).all()

    parts = {f"{p}_images": x for p in ("train", "val", "test")}
    parts |= {f"{p}_labels": y[:, None] for p in ("train", "val", "test")}
    np.savez(tmp_path / "med.npz", **parts)
    arrays = download._medmnist(["a"] * 5)([tmp_path / "med.npz"])
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
    arrays = download._images_in_tar(16, {"n00": "tench"})([tmp_path / "a.tar"])
    assert arrays["test_images"].shape == arrays["train_images"].shape == (1, 3, 16, 16)
    assert arrays["classes"].tolist() == ["tench"]
    assert (arrays["test_images"] > 190).all()


def test_every_set_has_addresses_and_checksums():
    for copies in download.SETS.values():
        for copy in copies:
            for file in copy.files:
                assert file.url.startswith("http") and all(len(m) == 32 for m in file.md5)


def test_from_the_command_line(home, capsys):
    assert main(["data", "cifar10"]) == 0
    assert "cifar10" in capsys.readouterr().out
    assert (home / "cifar10.npz").is_file()
    assert main(["data", "cifar11"]) == 2
    assert 'did you mean "cifar10"?' in capsys.readouterr().err
