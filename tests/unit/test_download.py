"""Downloads against a server that is slow, breaks off, lies about lengths, serves a wrong file."""

import gzip
import hashlib
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from sff_teach import download, load
from sff_teach.cli import main
from sff_teach.download import Copy, DownloadError, File, fetch, read_arrays

RANDOM = np.random.RandomState(0)
PIXELS = {
    (part, name): RANDOM.randint(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    for part, n in (("train", 6), ("test", 2))
    for name in ("cat", "dog")
}


def image_archive(evil: bool = False) -> bytes:
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
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content = self.content
        if self.mode == "missing":
            return handler.send_error(404)
        if self.mode == "silent":
            return threading.Event().wait(3)
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
        if self.mode != "no length":
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        if self.mode in ("breaks off", "no ranges") and self.requests == 1:
            rest = rest[: len(rest) // 2]
        handler.wfile.write(rest)
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


@pytest.mark.parametrize("mode", ["good", "no length", "breaks off", "no ranges", "says more"])
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
    (home / "cifar10.npz").unlink()
    (home / "set.tgz.part").write_bytes(b"something else" * 50)
    load("cifar10")
    assert names(home) == ["cifar10.npz"]


def test_a_file_put_there_by_hand_needs_no_network(home, server):
    home.mkdir()
    (home / "set.tgz").write_bytes(GOOD)
    load("cifar10")
    assert server.requests == 0


@pytest.mark.parametrize(
    ("mode", "words"),
    [("missing", "404"), ("silent", "no answer for 0.5 s"), ("says less", "wrong checksum")],
)
def test_a_server_that_fails_is_one_sentence_with_the_manual_way(home, server, mode, words):
    server.mode = mode
    text = sentence(home)
    assert words in text and server.url in text and "by hand" in text


def test_a_wrong_file_is_never_kept(home, server):
    server.content = b"<html>Please log in</html>"
    assert "wrong checksum" in sentence(home)
    assert names(home) == []


def test_nobody_there(home, server, monkeypatch):
    offer(monkeypatch, "http://127.0.0.1:9/set.tgz")
    assert "refused" in sentence(home)


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


def test_a_folder_without_permission(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SFF_TEACH_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(OSError, match="SFF_TEACH_DATA"):
        load("cifar10")


def test_two_at_once_share_one_download(home, server):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch("cifar10", home), range(4)))
    assert len(set(paths)) == 1 and server.requests == 1


def test_an_archive_cannot_write_anywhere(home, server, monkeypatch, tmp_path):
    server.content = image_archive(evil=True)
    offer(monkeypatch, server.url, md5=hashlib.md5(server.content).hexdigest())
    before = set(tmp_path.rglob("*"))
    assert load("cifar10", validation=0).train.x.shape[0] == 12  # neither link nor device
    assert {p.name for p in set(tmp_path.rglob("*")) - before} <= {
        "data", "cifar10.npz", ".cifar10.lock",
    }  # fmt: skip


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
    assert (read_arrays.__doc__ or "") and (arrays["test_images"] > 190).all()


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
