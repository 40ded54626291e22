"""Public data sets by name: where each file is, and the SHA-256 that it must have.

A file is fetched once, into the cache folder (`NFK_CACHE`, or else the system's, under `nfk`), by pooch, which holds
it against its checksum before it is seen under its name. pooch itself starts again what was cut; the downloader here
keeps what came, as `.NAME.part`, and asks for the rest only (HTTP Range), in this run or a later one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import pooch
import requests

from nfk import durable
from nfk.data.image_set import DataError
from nfk.progress import Report, progress

_SECONDS, _TRIES, _REDIRECTS = 30, 5, 5
_AT_ONCE = 1 << 16  # bytes; what is short of it when a connection breaks is asked for again
MOVED = (301, 302, 303, 307, 308)


class NamedSet(NamedTuple):
    files: dict[str, str]
    """SHA-256 by URL."""

    class_names: tuple[str, ...] | None = None
    """None: as the files say."""


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"

SETS = {
    "mnist": NamedSet({
        _MNIST + "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        _MNIST + "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        _MNIST + "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        _MNIST + "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"}),
    "fashion-mnist": NamedSet({  # upstream publishes MD5 only
        _FASHION + "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        _FASHION + "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        _FASHION + "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        _FASHION + "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310"},
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")),
    "cifar10": NamedSet({
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz":
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}),
    "svhn": NamedSet({
        _SVHN + "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        _SVHN + "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"}),
}


def cache_folder() -> Path:
    return Path(os.environ.get("NFK_CACHE") or pooch.os_cache("nfk")).expanduser()


def fetched(name: str) -> Path:
    """The folder that holds the files of the set `name`, those missing or altered fetched first.

    DataError in one line when a file cannot be had, or is not the one published.
    """
    folder = cache_folder() / name
    durable.make_folders(folder)
    pooch.get_logger().setLevel("ERROR")
    with progress(f"fetch {name}", "bytes") as report:
        for url, checksum in SETS[name].files.items():
            file = folder / url.rpartition("/")[2]
            try:
                pooch.retrieve(url, checksum, file.name, folder, downloader=_Resuming(report))
            except ValueError as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{url}: what came has not the published checksum {checksum}; try later, or set "
                                "data.source to a path") from error
            except requests.RequestException as error:
                reason = " ".join(str(error).split())
                raise DataError(f"{url}: cannot be fetched ({reason}); check the network, or set data.source to a "
                                "path") from error
    return folder


class _Resuming:
    """A downloader for pooch that goes on where a former one was cut."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __call__(self, url: str, output_file: Any, _: Any) -> None:
        name = url.rpartition("/")[2]
        output = Path(output_file)
        part = output.with_name(f".{name}.part")
        fault: Exception | None = None
        for _attempt in range(_TRIES):
            try:
                if self._went_on(url, part, name):
                    durable.rename(part, output)
                    return
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                fault = error
        have = part.stat().st_size if part.exists() else 0
        if fault is not None and have == 0:
            raise fault
        raise DataError(f"{url}: cut {_TRIES} times, the last after {have:,} bytes; run again, it goes on from there")

    def _went_on(self, url: str, part: Path, name: str) -> bool:
        """Append what the server sends to `part`; whether that is all of it."""
        have = part.stat().st_size if part.exists() else 0
        with _answer(url, {"Range": f"bytes={have}-"} if have else {}) as answer:
            if answer.status_code == 416:  # nothing left to send, or not the file of before
                durable.remove(part)
                return False
            if answer.status_code not in (200, 206):
                raise DataError(f"{url}: the server answers {answer.status_code} {answer.reason}; try later, or set "
                                "data.source to a path")
            if answer.status_code == 200:
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length and length.isdigit() else None
            with durable.opened(part, keep=have > 0) as out:
                for content in answer.iter_content(_AT_ONCE):
                    have = out.write(content, have)
                    self._report(have, max(total or 0, have + (total is None)), name)
        return total is None or have == total


def _answer(url: str, headers: dict[str, str]) -> requests.Response:
    """The answer after redirections, none of which may leave HTTP or fall from https to http."""
    at = url
    for _ in range(_REDIRECTS + 1):
        answer = requests.get(at, headers={**headers, "Accept-Encoding": "identity"}, stream=True, timeout=_SECONDS,
                              allow_redirects=False)
        if answer.status_code not in MOVED:
            return answer
        answer.close()
        before, at = at, urljoin(at, answer.headers.get("Location", ""))
        scheme = urlsplit(at).scheme
        if scheme not in ("https", urlsplit(before).scheme):
            raise DataError(f"{url}: redirected to {at}, which is not {urlsplit(before).scheme}; set data.source to a "
                            "path")
    raise DataError(f"{url}: redirected more than {_REDIRECTS} times; try later, or set data.source to a path")
