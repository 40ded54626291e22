"""Public sets by name, from a server on this machine: fetched once, resumed, and held against their checksums."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nfk.data import named, read
from nfk.data.formats import NAMED
from nfk.data.image_set import DataError
from tests.data.conftest import idx_bytes


class Handler(BaseHTTPRequestHandler):
    """Serves `files`; of a path in `cut`, at most that many bytes an answer; `moved` says where paths went."""

    def __init__(self, log, files, cut, moved, ranges, *arguments):
        self.log, self.files, self.cut, self.moved, self.ranges = log, files, cut, moved, ranges
        super().__init__(*arguments)

    def do_GET(self):
        asked = self.headers.get("Range")
        self.log.append((self.path, asked))
        if self.path in self.moved:
            self.send_response(302)
            self.send_header("Location", self.moved[self.path])
            self.end_headers()
            return
        if self.path not in self.files:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start >= len(self.files[self.path]):
            self.send_error(416)
            return
        content = self.files[self.path][start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:self.cut.get(self.path, len(content))])

    def log_message(self, *_):
        pass


class Server:
    def __init__(self):
        self.log, self.files, self.cut, self.moved = [], {}, {}, {}

    def start(self, ranges=True):
        handler = partial(Handler, self.log, self.files, self.cut, self.moved, ranges)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def end(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of one small set named mnist, and an empty cache."""
    server = Server()
    rng = np.random.default_rng(5)
    images, labels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.arange(7, dtype=np.uint8) % 3
    for name, array in (("train-images-idx3", images[:5]), ("train-labels-idx1", labels[:5]),
                        ("t10k-images-idx3", images[5:]), ("t10k-labels-idx1", labels[5:])):
        server.files[f"/{name}-ubyte.gz"] = gzip.compress(idx_bytes(array))
    server.images = images
    server.start()
    sums = {server.url + path: hashlib.sha256(content).hexdigest() for path, content in server.files.items()}
    monkeypatch.setitem(named.SETS, "mnist", named.NamedSet(sums, tuple("abc")))
    monkeypatch.setenv("NFK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(named, "_AT_ONCE", 10)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.end()


IMAGES = "/train-images-idx3-ubyte.gz"


def kept(tmp_path):
    return sorted(file.name for file in (tmp_path / "cache/mnist").iterdir())


def test_a_set_is_fetched_once_with_its_class_names(tmp_path, server, capsys):
    for _ in range(2):
        found = read.read("mnist")
        np.testing.assert_array_equal(found.images[..., 0], server.images)
        assert found.class_names == ("a", "b", "c")
        assert found.source == "mnist: IDX files of mnist"
        assert found.test_from == 5
    assert len(server.log) == 4
    assert "fetch mnist: train-images-idx3-ubyte.gz: " in capsys.readouterr().err
    assert kept(tmp_path) == sorted(path[1:] for path in server.files)


def test_a_cut_download_is_resumed_from_where_it_was_cut(server):
    server.cut[IMAGES] = step = len(server.files[IMAGES]) // 30 * 10
    np.testing.assert_array_equal(read.read("mnist").images[..., 0], server.images)
    asked = [of for path, of in server.log if path == IMAGES]
    assert asked[:3] == [None, f"bytes={step}-", f"bytes={2 * step}-"]


def test_what_is_cut_too_often_goes_on_in_the_next_run(tmp_path, server):
    server.cut[IMAGES] = step = len(server.files[IMAGES]) // 80 * 10
    with pytest.raises(DataError, match=f"{IMAGES}: cut 5 times, the last after {5 * step:,} bytes; run again, it"):
        read.read("mnist")
    assert kept(tmp_path) == [".train-images-idx3-ubyte.gz.part"]
    server.log.clear()
    np.testing.assert_array_equal(read.read("mnist").images[..., 0], server.images)
    assert server.log[0] == (IMAGES, f"bytes={5 * step}-")


@pytest.mark.parametrize("beyond", [b"", b"of another file"])
def test_a_part_that_leaves_nothing_to_send_is_fetched_anew(tmp_path, server, beyond):
    content = server.files[IMAGES] + beyond
    (tmp_path / "cache/mnist").mkdir(parents=True)
    (tmp_path / "cache/mnist/.train-images-idx3-ubyte.gz.part").write_bytes(content)
    np.testing.assert_array_equal(read.read("mnist").images[..., 0], server.images)
    assert server.log[:2] == [(IMAGES, f"bytes={len(content)}-"), (IMAGES, None)]
    assert kept(tmp_path) == sorted(path[1:] for path in server.files)


def test_a_server_that_knows_no_ranges_sends_all_again(monkeypatch, server):
    server.cut[IMAGES] = 100
    with pytest.raises(DataError, match="cut 5 times"):
        read.read("mnist")
    server.end()
    server.start(ranges=False)
    sums = {server.url + path: hashlib.sha256(content).hexdigest() for path, content in server.files.items()}
    monkeypatch.setitem(named.SETS, "mnist", named.NamedSet(sums))
    server.cut.clear()
    np.testing.assert_array_equal(read.read("mnist").images[..., 0], server.images)


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(tmp_path, server):
    content = bytearray(server.files[IMAGES])
    server.files[IMAGES] = bytes(content[:-9] + b"\0" + content[-8:])
    with pytest.raises(DataError, match=f"^{server.url}{IMAGES}: what came has not the published checksum [0-9a-f]+; "):
        read.read("mnist")
    assert kept(tmp_path) == []
    server.files[IMAGES] = bytes(content)
    assert len(read.read("mnist")) == 7


def test_an_altered_file_in_the_cache_is_fetched_again(tmp_path, server):
    read.read("mnist")
    (tmp_path / "cache/mnist" / IMAGES[1:]).write_bytes(b"altered")
    np.testing.assert_array_equal(read.read("mnist").images[..., 0], server.images)
    assert len(server.log) == 5


@pytest.mark.parametrize(("place", "message"), [
    ("file:///etc/passwd", "redirected to file:///etc/passwd, which is not http; set data.source to a path"),
    ("ftp://127.0.0.1/x", "redirected to ftp://127.0.0.1/x, which is not http"),
    (IMAGES, "redirected more than 5 times"),
    ("/nowhere", "the server answers 404 Not Found; try later"),
    ("http://127.0.0.1:1/x", r"cannot be fetched \(.*\); check the network, or set data.source to a path"),
    ("/t10k-labels-idx1-ubyte.gz", "what came has not the published checksum"),
])
def test_bad_redirections_are_refused_and_nothing_is_kept(tmp_path, server, place, message):
    server.moved[IMAGES] = place
    with pytest.raises(DataError, match=f"^{server.url}{IMAGES}: {message}") as refusal:
        read.read("mnist")
    assert "\n" not in str(refusal.value)
    assert kept(tmp_path) == []


def test_a_good_redirection_is_followed(server):
    server.files["/elsewhere"] = server.files[IMAGES]
    server.moved[IMAGES] = "/elsewhere"
    np.testing.assert_array_equal(read.read("mnist").images[..., 0], server.images)


def test_the_names_and_checksums_are_those_published():
    assert set(named.SETS) == set(NAMED)
    for each in named.SETS.values():
        for url, checksum in each.files.items():
            assert url.startswith(("https://", "http://ufldl.stanford.edu/"))
            assert len(checksum.removeprefix("md5:")) == (32 if checksum.startswith("md5:") else 64)
